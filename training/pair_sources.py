"""The four public sources of TuneJury's training pairs (specification, section 2.1).

Each builder reads what its project publishes and gives pairs and a split, by the rules under which
the released head was trained; what a rule leaves out is counted. Music Arena's columns are those of
its public schema. MusicPrefs and AIME are read by the names of TuneJury's own pair records and
SongEval by those of its metadata; releases with other names need `Order.columns`, not code.

- Music Arena: live votes, months 2025-07 to 2026-01; the battles of CMI-RewardBench are removed, so
  that this benchmark stays a test. The split is drawn before the removal: the published sizes 571,
  54 and 74 are then plausible (559, 70, 70 expected); splitting the 699 that remain would give
  exactly 559, 69 and 71.
- MusicPrefs: A, B or tie by listeners who never saw the prompt; pairs split at random.
- AIME: survey answers without ties; pairs split at random, so that clips are shared.
- SongEval: no pairs but ratings. A song's score is the mean over five axes of the mean over its
  annotators; random pairs of songs whose scores differ by at least 0.5 are made, the better song
  wins, and the split shares no song. There is no prompt.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.loop import write_aside
from training.preferences import (
    PairTable,
    Row,
    Split,
    clip_disjoint_split,
    preference_of_vote,
    random_split,
    vote_of,
    write_faults,
    write_preferences,
    write_split,
)
from ttmpref.types import InvalidRequest, Preference, Vote, check_range

SEED = 42
FIRST_DAY, LAST_DAY = "2025-07-01", "2026-01-31"
AXES = ("Coherence", "Musicality", "Memorability", "Clarity", "Naturalness")
RATINGS = (1.0, 5.0)
SMALLEST_GAP = 0.5
SONG_PAIRS = 3760

PAIR_RECORD = {
    "clip_a": "a_audio",
    "clip_b": "b_audio",
    "vote": "winner",
    "prompt": "prompt",
    "system_a": "model_a",
    "system_b": "model_b",
}


@dataclass(frozen=True)
class Source:
    """What distinguishes one source.

    Attributes:
        name: as it stands in pair records.
        columns: our names -> published ones.
        votes: answers that its listeners could give.
        number: form of the ids of pairs that have none of their own, counted from 0.
        excludes: whether the pairs of a benchmark must be named and removed.
    """

    name: str
    columns: Mapping[str, str]
    votes: tuple[Vote, ...] = ("A", "B", "TIE")
    number: str = ""
    excludes: bool = False


SOURCES = {
    "music_arena": Source(
        "MusicArena",
        {
            "id": "battle_uuid",
            "date": "date",
            "clip_a": "audio_a",
            "clip_b": "audio_b",
            "vote": "preference",
            "prompt": "prompt",
            "system_a": "system_a",
            "system_b": "system_b",
        },
        votes=("A", "B", "TIE", "BOTH_BAD"),
        excludes=True,
    ),
    "musicprefs": Source("MusicPrefs", PAIR_RECORD, number="prefs_{:06d}"),
    "aime": Source("AIME", PAIR_RECORD, votes=("A", "B"), number="aime_{:06d}"),
    "songeval": Source(
        "SongEval", {"clip": "file_name", "ratings": "annotation"}, number="songeval_{:06d}"
    ),
}


@dataclass(frozen=True)
class Built:
    """Pairs of a source with their split.

    Attributes:
        metadata: how the split was made, kept in its file.
    """

    table: PairTable
    split: Split
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Order:
    """What to build.

    Attributes:
        source: key of `SOURCES`.
        columns: our names -> names in these files, where they are not the published ones.
        excluded: ids of benchmark pairs, for a source that shares some with one.
        audio: folder for clips that lie inside the rows; their names are relative to its parent.
    """

    source: str
    columns: Mapping[str, str]
    excluded: Collection[str] | None = None
    audio: Path = Path("audio")

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise InvalidRequest(f"source is {self.source!r}; accepted: {', '.join(SOURCES)}")
        unknown = set(self.columns) - set(self.what.columns)
        if unknown:
            accepted = ", ".join(self.what.columns)
            raise InvalidRequest(f"column {min(unknown)!r} is unknown; accepted: {accepted}")
        if self.what.excludes and self.excluded is None:
            raise InvalidRequest(
                f"{self.source} shares pairs with CMI-RewardBench; name the ids to exclude"
            )

    @property
    def what(self) -> Source:
        return SOURCES[self.source]

    def ours(self, number: int, row: Row) -> Row:
        """Row `number` under our names; rows without an id get one from their number."""
        names = {**self.what.columns, **self.columns}
        values = {ours: row.values.get(theirs) for ours, theirs in names.items()}
        if self.what.number:
            values["id"] = self.what.number.format(number)
        return Row(row.place, values, row.fault)


def build(order: Order, rows: Iterable[Row]) -> Built:
    """The pairs and the split of a source from its published rows."""
    renamed = (order.ours(number, row) for number, row in enumerate(rows))
    return _rated(order, renamed) if order.source == "songeval" else _voted(order, renamed)


def _voted(order: Order, rows: Iterable[Row]) -> Built:
    """Pairs that people voted on, split at random before those of a benchmark are removed."""
    table = PairTable().add(rows, lambda row: _vote(order, row))
    split = random_split([pair.id for pair in table.pairs], SEED)
    excluded = set(order.excluded or ())
    kept = [pair for pair in table.pairs if pair.id not in excluded]
    if order.what.excludes:
        table.left_out[f"of the {len(excluded)} excluded"] = len(table.pairs) - len(kept)
    table.pairs = kept
    metadata = {"source": order.what.name, "seed": SEED, "by": "pairs"}
    return Built(table, split.keep(lambda pair_id: pair_id not in excluded), metadata)


def _vote(order: Order, row: Row) -> Preference | str:
    source, pair_id = order.what, row.text("id")
    if "date" in source.columns and not FIRST_DAY <= row.text("date")[:10] <= LAST_DAY:
        return f"outside {FIRST_DAY} to {LAST_DAY}"
    vote = vote_of(row.text("vote"))
    if vote not in source.votes:
        accepted = ", ".join(source.votes)
        raise InvalidRequest(f"vote is {vote!r}; {source.name} has {accepted}")
    return preference_of_vote(
        vote,
        id=pair_id,
        clip_a=_clip(order, row, "clip_a", pair_id),
        clip_b=_clip(order, row, "clip_b", pair_id),
        prompt=row.text("prompt", ""),
        source=source.name,
        system_a=row.text("system_a", ""),
        system_b=row.text("system_b", ""),
    )


def _clip(order: Order, row: Row, column: str, pair_id: str) -> str:
    """Name of a clip; audio that lies in the row (`{"bytes": ..., "path": ...}`) gets a file."""
    cell = row.values.get(column)
    if not isinstance(cell, dict):
        return row.text(column)
    data, name = cell.get("bytes"), str(cell.get("path") or "")
    if not data:
        return Row(row.place, {column: name}).text(column)
    # Published names and ids are not ours: neither may choose a folder.
    stem = re.sub(r"[^\w-]", "_", f"{pair_id}_{column[-1]}")
    path = order.audio / f"{stem}{Path(name).suffix}"
    if not path.suffix:
        raise InvalidRequest(f"{column} has no file suffix in {name!r}")
    if not path.exists():
        write_aside(path, lambda aside: aside.write_bytes(data))
    return path.relative_to(order.audio.parent).as_posix()


def _rated(order: Order, rows: Iterable[Row]) -> Built:
    """Pairs made from the ratings of single songs; the split shares no song."""
    table, scores = PairTable(), dict[str, float]()
    for row in rows:
        try:
            clip = row.text("clip")
            if clip in scores:
                raise InvalidRequest(f"song {clip!r} was already rated")
            scores[clip] = song_score(row.values.get("ratings"))
        except InvalidRequest as error:
            table.faults.append(f"{row.place}: {error}")
    table.pairs = song_pairs(scores, order.what)
    split, cost = clip_disjoint_split(table.pairs, SEED)
    table.left_out["between the parts of the split"] = cost
    metadata = {"source": order.what.name, "seed": SEED, "by": "songs", "gap": SMALLEST_GAP}
    return Built(table, split, metadata)


def song_score(ratings: Any) -> float:
    """Mean over the axes of the mean over annotators.

    Args:
        ratings: one mapping of axis to a number from 1 to 5 per annotator.

    Raises:
        InvalidRequest: anything else.
    """
    if not isinstance(ratings, list) or not ratings:
        raise InvalidRequest("annotation must be a list of one record per annotator")
    means = []
    for axis in AXES:
        values = [one.get(axis) if isinstance(one, dict) else None for one in ratings]
        for value in values:
            check_range(axis, value, *RATINGS)
        means.append(sum(values) / len(values))
    return sum(means) / len(means)


def song_pairs(scores: Mapping[str, float], source: Source) -> list[Preference]:
    """Distinct unordered pairs drawn at random until `SONG_PAIRS` differ by the gap or more.

    Few songs have fewer such pairs; then all of them are given.
    """
    rng, songs, seen = random.Random(SEED), list(scores), set[frozenset[str]]()
    pairs: list[Preference] = []
    while len(pairs) < SONG_PAIRS and len(seen) < len(songs) * (len(songs) - 1) // 2:
        a, b = rng.sample(songs, 2)
        if (both := frozenset((a, b))) in seen:
            continue
        seen.add(both)
        # The scores are means of fractions: a gap of 0.5 must not be lost to their rounding.
        if abs(scores[a] - scores[b]) > SMALLEST_GAP - 1e-9:
            target = float(scores[a] > scores[b])
            number = source.number.format(len(pairs))
            pairs.append(Preference(number, a, b, "", target, source.name))
    return pairs


def write_built(built: Built, name: str, folder: Path) -> None:
    """`<name>.jsonl` and `<name>-split.json`, and `<name>-faults.txt` where there are any."""
    write_preferences(built.table.pairs, folder / f"{name}.jsonl")
    counts = {"pairs": len(built.table.pairs), "left_out": dict(built.table.left_out)}
    metadata = built.metadata | counts | {"faults": len(built.table.faults)}
    write_split(built.split, metadata, folder / f"{name}-split.json")
    write_faults(built.table.faults, folder / f"{name}-faults.txt")
