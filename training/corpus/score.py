"""The written music: notes, tracks, pieces and the tags that say what is in them.

Composition fills these records and rendering reads them, so a piece can be changed in between
(detuned, loosened, given to another lead). Times are beats from the start of the piece, a beat
being one quarter note; `Piece.seconds_at` turns them into seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["lead", "counter", "chords", "pad", "colour", "bass", "drums"]


@dataclass(frozen=True)
class Tags:
    """What is true of a piece, every 10 s of it.

    Attributes:
        genre: key of `vocabulary.GENRES`.
        lead: key of `vocabulary.LEADS`.
        mood: key of `vocabulary.MOODS`.
        tempo_bpm: beats per minute.
        tempo_class: "slow" (< 85), "medium" (85..120) or "fast" (> 120).
        key: tonic, one of `vocabulary.TONICS`.
        mode: key of `vocabulary.SCALES`.
        density: "sparse", "moderate" or "dense", of the lead.
        beats_per_bar: 3 or 4.
        instruments: accompaniment, keys of `vocabulary.ACCOMPANIMENT`.
    """

    genre: str
    lead: str
    mood: str
    tempo_bpm: float
    tempo_class: str
    key: str
    mode: str
    density: str
    beats_per_bar: int
    instruments: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the tags as plain JSON types."""
        return {**self.__dict__, "instruments": list(self.instruments)}


@dataclass(frozen=True)
class Note:
    """One note: start and duration in beats, MIDI pitch 0..127, velocity 1..127."""

    start: float
    duration: float
    pitch: int
    velocity: int

    @property
    def end(self) -> float:
        """End of the note in beats."""
        return self.start + self.duration


@dataclass(frozen=True)
class Track:
    """One instrument's part.

    Attributes:
        name: lead or accompaniment name in `vocabulary`.
        role: what the part does.
        program: General MIDI program, or kit number when `is_drum`.
        is_drum: pitches are General MIDI percussion keys.
        notes: in order of start.
        level_db: loudness in the mix relative to a plain lead, decibels.
        pan: -1 left .. 1 right.
        vibrato: 0..1 depth on held notes.
        echo: 0..1 level of a tempo-synchronous echo.
        pump: 0..1 depth of ducking on every beat.
    """

    name: str
    role: Role
    program: int
    notes: tuple[Note, ...]
    is_drum: bool = False
    level_db: float = 0.0
    pan: float = 0.0
    vibrato: float = 0.0
    echo: float = 0.0
    pump: float = 0.0


@dataclass(frozen=True)
class Room:
    """The space and the master: reverb time (seconds), wet level 0..1, roll-off, loudness.

    Attributes:
        lowpass_hz: gentle roll-off of the mix above this frequency, None for none.
        rms_db: root-mean-square level of the finished mix, dB full scale.
    """

    reverb_s: float
    wet: float
    lowpass_hz: float | None
    rms_db: float


@dataclass(frozen=True)
class Piece:
    """A composed piece of exactly `seconds` seconds."""

    tags: Tags
    seconds: float
    tracks: tuple[Track, ...]
    room: Room = field(default_factory=lambda: Room(1.0, 0.1, None, -17.0))

    @property
    def beats(self) -> float:
        """Length in beats."""
        return self.seconds * self.tags.tempo_bpm / 60.0

    def seconds_at(self, beat: float) -> float:
        """Turns a time in beats into seconds."""
        return beat * 60.0 / self.tags.tempo_bpm

    @property
    def lead(self) -> Track:
        """The lead track."""
        return next(track for track in self.tracks if track.role == "lead")


def lead_coverage(piece: Piece, start_s: float, seconds: float, bridge_s: float = 0.3) -> float:
    """Fraction of a window in which the lead sounds.

    Args:
        piece: the piece.
        start_s: window start, seconds.
        seconds: window length, seconds.
        bridge_s: gaps between notes up to this long count as sounding (release, staccato).

    Returns:
        A fraction 0..1.
    """
    spans: list[list[float]] = []
    for note in piece.lead.notes:
        begin, end = piece.seconds_at(note.start), piece.seconds_at(note.end)
        if spans and begin - spans[-1][1] <= bridge_s:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([begin, end])
    stop = start_s + seconds
    return sum(max(0.0, min(e, stop) - max(b, start_s)) for b, e in spans) / seconds
