"""What a person heard of two clips, worked out from the player's events.

Specification of listening studies, sections 3.3 and 7.1 (check 6). Nothing the client totals is
believed: listening is added up from events in their own order, so a batch that arrives twice, late
or shuffled changes nothing, and all of it together never exceeds the time that passed on the
server's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

GRACE_MS = 2_000  # the server learns of a trial's end later than of its start
EventKind = Literal[
    "loaded", "load_error", "play", "pause", "switch", "seek", "loop", "ended", "hidden",
    "visible", "volume",
]  # fmt: skip
Side = Literal["A", "B", "none"]


@dataclass(frozen=True)
class Event:
    """One thing the player did.

    Attributes:
        client: one page load; its events are numbered by `seq` from 0.
        side: the clip concerned; for play and switch the one heard from now on.
        media_ms: place within the clip.
        mono_ms: the client's monotonic clock.
    """

    client: str
    seq: int
    side: Side
    kind: EventKind
    media_ms: float
    mono_ms: float


@dataclass(frozen=True)
class Listening:
    """What was heard of clips A and B.

    Attributes:
        heard_a_ms, heard_b_ms: playing time.
        cover_a, cover_b: share of the clip that was played at least once, 0 to 1.
        switches: changes between the clips.
        hidden_ms: time with the page out of sight; it counts as not heard.
        loaded: whether both clips were ready to play.
    """

    heard_a_ms: int
    heard_b_ms: int
    cover_a: float
    cover_b: float
    switches: int
    hidden_ms: int
    loaded: bool


@dataclass
class _Player:
    """Replays the events of one page load."""

    duration_ms: float
    heard: dict[str, float] = field(default_factory=lambda: {"A": 0.0, "B": 0.0})
    spans: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {"A": [], "B": []}
    )
    switches: int = 0
    hidden_ms: float = 0.0
    playing: bool = False
    visible: bool = True
    side: str = "none"
    media_ms: float = 0.0
    mono_ms: float | None = None

    def take(self, event: Event) -> None:
        """Credit the time since the last event, then do what this one says."""
        passed = 0.0 if self.mono_ms is None else max(0.0, event.mono_ms - self.mono_ms)
        if not self.visible:
            self.hidden_ms += passed
        elif self.playing and self.side in self.heard:
            self._credit(passed)
        self.mono_ms = event.mono_ms
        if event.kind in ("play", "switch", "seek", "loop", "visible"):
            self.media_ms = min(max(0.0, event.media_ms), self.duration_ms)
        if event.kind in ("play", "switch") and event.side in self.heard:
            self.switches += self.side in self.heard and self.side != event.side
            self.side = event.side
        if event.kind in ("play", "pause", "ended"):
            self.playing = event.kind == "play"
        if event.kind in ("hidden", "visible"):
            self.visible = event.kind == "visible"

    def _credit(self, passed: float) -> None:
        """`passed` ms were played from `media_ms` on; clips loop."""
        self.heard[self.side] += passed
        spans, stop = self.spans[self.side], self.media_ms + passed
        if passed >= self.duration_ms:
            spans.append((0.0, self.duration_ms))
        else:
            spans.append((self.media_ms, min(stop, self.duration_ms)))
            spans.append((0.0, max(0.0, stop - self.duration_ms)))
        self.media_ms = stop % self.duration_ms


def listening(events: Sequence[Event], duration_ms: float, elapsed_ms: float) -> Listening:
    """What the events of one trial amount to.

    Args:
        events: in any order, without repeats.
        duration_ms: length of either clip.
        elapsed_ms: time since the trial was given out, on the server's clock.
    """
    players = _replayed(events, duration_ms)
    heard = {side: sum(player.heard[side] for player in players) for side in "AB"}
    possible = max(0.0, elapsed_ms) + GRACE_MS
    scale = min(1.0, possible / max(1e-9, sum(heard.values())))
    covered = {
        side: sum(stop - start for start, stop in spans)
        for side, spans in _covered(players).items()
    }
    cover = {side: min(covered[side], heard[side] * scale) / duration_ms for side in "AB"}
    return Listening(
        heard_a_ms=round(heard["A"] * scale),
        heard_b_ms=round(heard["B"] * scale),
        cover_a=round(min(1.0, cover["A"]), 4),
        cover_b=round(min(1.0, cover["B"]), 4),
        switches=sum(player.switches for player in players),
        hidden_ms=round(sum(player.hidden_ms for player in players)),
        loaded=both_loaded(events),
    )


def covered_spans(
    events: Sequence[Event], duration_ms: float
) -> dict[str, list[tuple[float, float]]]:
    """Stretches of either clip that were played, in ms, by side; what a page that was loaded again
    goes on from.

    Args:
        events: as for `listening`.
    """
    return _covered(_replayed(events, duration_ms))


def _replayed(events: Iterable[Event], duration_ms: float) -> list[_Player]:
    """One player for each page load."""
    ordered = sorted(events, key=lambda event: (event.client, event.seq))
    players = []
    for _, group in groupby(ordered, key=lambda event: event.client):
        player = _Player(duration_ms)
        for event in group:
            player.take(event)
        players.append(player)
    return players


def _covered(players: Sequence[_Player]) -> dict[str, list[tuple[float, float]]]:
    return {
        side: _merged(span for player in players for span in player.spans[side]) for side in "AB"
    }


def both_loaded(events: Iterable[Event]) -> bool:
    """Whether some page load had both clips ready to play."""
    ready = {(event.client, event.side) for event in events if event.kind == "loaded"}
    return any((client, "B") in ready for client, side in ready if side == "A")


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Possibly overlapping spans as ordered ones that do not even touch; empty ones are dropped."""
    merged: list[tuple[float, float]] = []
    for start, stop in sorted(span for span in spans if span[1] > span[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], stop)
        else:
            merged.append((start, stop))
    return merged
