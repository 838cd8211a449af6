"""Tables of preference pairs, the ranker's training data: read, written, split.

A table is CSV, JSON lines, a JSON list or Parquet with the columns of `COLUMNS`. Every row that
cannot be used is named with file and line, the others are kept, and what a rule leaves out
(BOTH_BAD votes, ...) is counted: nothing disappears in silence. Splits are files of pair ids in the
form that TuneJury publishes (specification, section 2.2).
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from training.loop import write_aside, write_json
from ttmpref.types import InvalidRequest, Preference, Vote, vote_target

# Column of a table of pairs: whether it must be there.
COLUMNS = {
    "clip_a": True,
    "clip_b": True,
    "vote": True,  # A, B, TIE or BOTH_BAD
    "id": False,  # default: file and line
    "prompt": False,  # default: none
    "source": False,  # default: name of the file
    "system_a": False,
    "system_b": False,
}
# The four answers and what public data sets call them, in small letters.
VOTE_WORDS: dict[str, Vote] = {
    "a": "A", "model_a": "A",
    "b": "B", "model_b": "B",
    "tie": "TIE", "draw": "TIE",
    "both_bad": "BOTH_BAD",
}  # fmt: skip
VOTE_OF_TARGET: dict[float, Vote] = {1.0: "A", 0.0: "B", 0.5: "TIE"}
FRACTIONS = (0.8, 0.1, 0.1)
SPLITS = ("train", "valid", "test")
BOTH_BAD_VOTES = "BOTH_BAD votes"


@dataclass(frozen=True)
class Row:
    """One row of a table; `fault` says why it could not be read, and is empty otherwise."""

    place: str
    values: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    def text(self, column: str, default: str | None = None) -> str:
        """A cell as text; an absent or empty one is `default`.

        Raises:
            InvalidRequest: the row could not be read, the cell is absent and has no default, or it
                is no text, number or date.
        """
        if self.fault:
            raise InvalidRequest(self.fault)
        value = self.values.get(column)
        if value is None or value == "":
            if default is None:
                raise InvalidRequest(f"column {column!r} is missing or empty")
            return default
        if not isinstance(value, (str, int, float, date)):
            raise InvalidRequest(f"{column} is {type(value).__name__}; it must be text")
        return str(value).strip()


@dataclass
class PairTable:
    """What was read.

    Attributes:
        pairs: the usable ones; their ids differ.
        faults: one line per row that is not, with file and line.
        left_out: rows that a rule leaves out, by reason.
    """

    pairs: list[Preference] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, rows: Iterable[Row], make: Callable[[Row], Preference | str]) -> PairTable:
        """Append the pair that `make` gives for every row, or count the reason that it gives."""
        seen = {pair.id for pair in self.pairs}
        for row in rows:
            try:
                made = make(row)
                if isinstance(made, Preference) and made.id in seen:
                    raise InvalidRequest(f"id {made.id!r} was given to an earlier pair")
            except InvalidRequest as error:
                self.faults.append(f"{row.place}: {error}")
                continue
            if isinstance(made, str):
                self.left_out[made] += 1
            else:
                self.pairs.append(made)
                seen.add(made.id)
        return self


def vote_of(word: str) -> Vote:
    """The answer behind a word of a public data set; unknown words are never taken for ties."""
    try:
        return VOTE_WORDS[word.lower()]
    except KeyError:
        accepted = ", ".join(VOTE_WORDS)
        raise InvalidRequest(f"vote is {word!r}; accepted: {accepted}") from None


def preference_of_vote(vote: Vote, **fields: str) -> Preference | str:
    """The pair that a vote makes, or why it makes none."""
    target = vote_target(vote)
    return BOTH_BAD_VOTES if target is None else Preference(target=target, **fields)


def read_preferences(paths: Iterable[Path]) -> PairTable:
    """All pairs of one or more tables in our own columns.

    Raises:
        InvalidRequest: a file cannot be read as a table at all.
    """
    table = PairTable()
    for path in paths:
        table.add(read_rows(path), lambda row, source=path.stem: _own_row(row, source))
    return table


def _own_row(row: Row, source: str) -> Preference | str:
    return preference_of_vote(
        vote_of(row.text("vote")),
        id=row.text("id", row.place),
        clip_a=row.text("clip_a"),
        clip_b=row.text("clip_b"),
        prompt=row.text("prompt", ""),
        source=row.text("source", source),
        system_a=row.text("system_a", ""),
        system_b=row.text("system_b", ""),
    )


def write_preferences(pairs: Iterable[Preference], path: Path) -> None:
    """A JSON-lines table that `read_preferences` reads."""
    names = [name for name in COLUMNS if name != "vote"]
    rows = (
        {"vote": VOTE_OF_TARGET[pair.target]} | {name: getattr(pair, name) for name in names}
        for pair in pairs
    )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_faults(faults: Sequence[str], path: Path) -> None:
    """One line per fault; without any, no file, not even that of an earlier run."""
    if faults:
        write_aside(path, lambda aside: aside.write_text("\n".join(faults) + "\n", "utf-8"))
    else:
        path.unlink(missing_ok=True)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV, JSON-lines, JSON or Parquet file, counted as its lines or rows are.

    Raises:
        InvalidRequest: no such file, unknown suffix, or not of the form its suffix claims.
    """
    readers = {".csv": _csv, ".jsonl": _json_lines, ".json": _json, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InvalidRequest(f"table {path} has suffix {path.suffix!r}; accepted: {[*readers]}")
    try:
        yield from reader(path)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InvalidRequest(f"table {path} cannot be read ({reason})") from None


def _csv(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for values in reader:
            place, width = f"{path}:{reader.line_num}", len(reader.fieldnames or ())
            if None in values or None in values.values():
                yield Row(place, fault=f"has not {width} cells as the first line has")
            else:
                yield Row(place, values)


def _json_lines(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _json_row(f"{path}:{number}", line)


def _json_row(place: str, line: str) -> Row:
    try:
        return _object_row(place, json.loads(line))
    except json.JSONDecodeError as error:
        return Row(place, fault=f"is not JSON ({error.msg} at character {error.pos})")


def _object_row(place: str, value: Any) -> Row:
    if not isinstance(value, dict):
        return Row(place, fault=f"is a JSON {type(value).__name__}, not an object")
    return Row(place, value)


def _json(path: Path) -> Iterator[Row]:
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, list):
        raise InvalidRequest(f"table {path} holds a {type(values).__name__}, not a list of objects")
    for number, value in enumerate(values, 1):
        yield _object_row(f"{path}:{number}", value)


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile

    number = 0
    # Rows may carry their audio: few at a time keep the memory flat.
    for batch in ParquetFile(path).iter_batches(batch_size=16):
        for values in batch.to_pylist():
            number += 1
            yield Row(f"{path}:{number}", values)


@dataclass(frozen=True)
class Split:
    """Ids of the pairs that are trained on, selected on and reported on; no id is in two."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        counts = Counter((*self.train, *self.valid, *self.test))
        twice = [pair_id for pair_id, count in counts.items() if count > 1]
        if twice:
            raise InvalidRequest(f"split: pair {twice[0]!r} occurs {counts[twice[0]]} times")

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(getattr(self, name)) for name in SPLITS}

    def keep(self, wanted: Callable[[str], bool]) -> Split:
        """The split without the ids that are not wanted."""
        return Split(*(tuple(filter(wanted, getattr(self, name))) for name in SPLITS))


def write_split(split: Split, metadata: Mapping[str, Any], path: Path) -> None:
    """`{"metadata": ..., "train": [ids], "valid": [ids], "test": [ids]}`."""
    write_json(path, {"metadata": dict(metadata)} | {n: list(getattr(split, n)) for n in SPLITS})


def read_splits(paths: Sequence[Path]) -> Split:
    """The union of split files.

    Raises:
        InvalidRequest: a file is not one, or a pair occurs twice.
    """
    merged: dict[str, list[str]] = {name: [] for name in SPLITS}
    for path in paths:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            for name in SPLITS:
                if not all(isinstance(pair_id, str) for pair_id in data[name]):
                    raise ValueError(f"{name} holds what is not text")
                merged[name] += data[name]
        except (OSError, ValueError, KeyError, TypeError) as error:
            said = f"{type(error).__name__}: {error}"
            raise InvalidRequest(f"split file {path} is not one ({said})") from None
    return Split(*(tuple(merged[name]) for name in SPLITS))


def random_split(
    ids: Sequence[str], seed: int, fractions: tuple[float, float, float] = FRACTIONS
) -> Split:
    """Pairs drawn at random: whole parts of train and valid, the rest is the test.

    Clips are shared between the parts wherever pairs share clips; see `shared_clips`.
    """
    order = np.random.default_rng(seed).permutation(len(ids))
    train, valid = _sizes(len(ids), fractions)
    shuffled = tuple(ids[i] for i in order)
    return Split(shuffled[:train], shuffled[train : train + valid], shuffled[train + valid :])


def _sizes(count: int, fractions: tuple[float, float, float]) -> tuple[int, int]:
    """Sizes of train and valid; the small term keeps 0.1 * 15,600 from becoming 1,559."""
    return int(fractions[0] * count + 1e-9), int(fractions[1] * count + 1e-9)


def clip_disjoint_split(
    pairs: Sequence[Preference], seed: int, fractions: tuple[float, float, float] = FRACTIONS
) -> tuple[Split, int]:
    """A split in which no clip is in two parts, and the number of pairs that it costs.

    Test and validation are clusters of clips grown along the pairs from random starts (snowball
    sampling), so that most pairs of a cluster stay inside it; pairs between parts are left out.
    Where every clip is compared with every other the cost is large: prefer `random_split` then.
    """
    clusters = _snowball(pairs, seed, fractions)
    parts: dict[str, list[str]] = {name: [] for name in SPLITS}
    for pair in pairs:
        if clusters[pair.clip_a] == clusters[pair.clip_b]:
            parts[clusters[pair.clip_a]].append(pair.id)
    split = Split(*(tuple(parts[name]) for name in SPLITS))
    return split, len(pairs) - sum(split.sizes.values())


def _snowball(
    pairs: Sequence[Preference], seed: int, fractions: tuple[float, float, float]
) -> dict[str, str]:
    """Part of every clip."""
    neighbours: dict[str, list[str]] = defaultdict(list)
    # In the order of their names: the same votes in another order are split alike.
    for first, second in sorted({tuple(sorted((pair.clip_a, pair.clip_b))) for pair in pairs}):
        neighbours[first].append(second)
        neighbours[second].append(first)
    clips = list(neighbours)
    train, valid = _sizes(len(clips), fractions)
    wanted = {"test": len(clips) - train - valid, "valid": valid}
    starts = iter([clips[i] for i in np.random.default_rng(seed).permutation(len(clips))])
    part_of: dict[str, str] = {}
    for part, size in wanted.items():
        queue: deque[str] = deque()
        while size > 0:
            clip = queue.popleft() if queue else next(starts)
            if clip not in part_of:
                part_of[clip] = part
                size -= 1
                queue.extend(neighbours[clip])
    return {clip: part_of.get(clip, "train") for clip in clips}


def shared_clips(train: Iterable[Preference], held_out: Iterable[Preference]) -> int:
    """Held-out pairs with a clip that is trained on: what such a test says of new clips is less."""
    known = {clip for pair in train for clip in (pair.clip_a, pair.clip_b)}
    return sum(pair.clip_a in known or pair.clip_b in known for pair in held_out)
