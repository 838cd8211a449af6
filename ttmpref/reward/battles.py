"""Battles with rewards: two clips of labelled systems, what people answered, what the reward says.

The table behind anchor calibration (`ttmpref.reward.anchors`): CSV with a header, in our own column
names or in those of the released `ma_postcut_scored.csv`. Every row that cannot be used is named
with its line, the others are kept, and votes that prefer nothing are counted.

Shapes: n battles.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttmpref.metrics import calibration_error, chosen_rightly, reliability
from ttmpref.types import InvalidRequest, vote_target

# Column of a table: names it may have, ours first.
NAMES = {
    "system": ("system",),
    "reward": ("reward", "reward_score"),
    "id": ("id", "battle_id"),
    "vote": ("vote", "preference"),
    "system_a": ("system_a",),
    "system_b": ("system_b",),
    "reward_a": ("reward_a", "tj_a"),
    "reward_b": ("reward_b", "tj_b"),
}
BATTLE_COLUMNS = ("id", "vote", "system_a", "system_b", "reward_a", "reward_b")
PUBLISHED_IDS_KEY = "new_uuids"  # of MusicArena_v2_increment.json


@dataclass(frozen=True, eq=False)
class Battles:
    """Battles that say something: a side was preferred, or it was a tie.

    Attributes:
        ids: (n,) text, all different.
        system_a, system_b: (n,) text, labels of what made the clips.
        reward_a, reward_b: (n,) rewards of the clips.
        target: (n,) 1 where A was preferred, 0 where B was, 0.5 for a tie.
    """

    ids: np.ndarray
    system_a: np.ndarray
    system_b: np.ndarray
    reward_a: np.ndarray
    reward_b: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def margins(self) -> np.ndarray:
        """(n,) reward of A less reward of B."""
        return self.reward_a - self.reward_b

    @property
    def decisive(self) -> np.ndarray:
        """(n,) bool: not a tie."""
        return self.target != 0.5

    @property
    def wins(self) -> np.ndarray:
        """(n,) bool: A was preferred."""
        return self.target == 1.0

    @property
    def systems(self) -> tuple[str, ...]:
        """Labels that occur, sorted."""
        return tuple(np.union1d(self.system_a, self.system_b).tolist())

    def rows(self, index: np.ndarray | Sequence[int]) -> Battles:
        """The battles of some row numbers or of a mask, in their order."""
        index = np.asarray(index) if len(index) else np.empty(0, int)
        return Battles(*(getattr(self, name)[index] for name in Battles.__dataclass_fields__))

    def in_order_of(self, ids: Sequence[str]) -> Battles:
        """Those named in a list of ids, in the list's order; others, and unknown ids, drop out."""
        place = {battle: row for row, battle in enumerate(self.ids.tolist())}
        return self.rows([place[battle] for battle in ids if battle in place])


@dataclass(frozen=True, eq=False)
class BattleTable:
    """What was read.

    Attributes:
        battles: the usable rows.
        faults: one line per row that is not, with file and line.
        both_bad: votes left out because they prefer nothing and tie nothing.
    """

    battles: Battles
    faults: tuple[str, ...]
    both_bad: int


def read_battles(path: Path) -> BattleTable:
    """The battles of a CSV file.

    Raises:
        InvalidRequest: not a CSV file, or one of the columns is missing.
    """
    header, rows = read_csv(path)
    names = {column: column_name(path, header, column) for column in BATTLE_COLUMNS}
    kept: dict[str, tuple[str, str, str, float, float, float]] = {}
    faults, both_bad = [], 0
    for line, row in rows:
        try:
            cells = {column: cell(row, name) for column, name in names.items()}
            if cells["id"] in kept:
                raise InvalidRequest(f"id {cells['id']!r} was given to an earlier battle")
            target = vote_target(cells["vote"])
            rewards = [number(column, cells[column]) for column in ("reward_a", "reward_b")]
        except InvalidRequest as error:
            faults.append(f"{path}:{line}: {error}")
            continue
        if target is None:
            both_bad += 1
            continue
        labels = (cells["id"], cells["system_a"], cells["system_b"])
        kept[cells["id"]] = (*labels, *rewards, target)
    columns = list(zip(*kept.values(), strict=True)) or [()] * len(BATTLE_COLUMNS)
    texts = [np.array(column, dtype=str) for column in columns[:3]]
    numbers = [np.array(column, dtype=float) for column in columns[3:]]
    return BattleTable(Battles(*texts, *numbers), tuple(faults), both_bad)


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header, and line number and cells of every row.

    Raises:
        InvalidRequest: the file cannot be read as CSV with a header.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InvalidRequest(f"table {path} cannot be read ({reason})") from None
    if not header:
        raise InvalidRequest(f"table {path} is empty; a first line with column names is needed")
    return header, rows


def column_name(path: Path, header: Sequence[str], column: str) -> str:
    """The name that a column has in a table.

    Raises:
        InvalidRequest: it has none.
    """
    for name in NAMES[column]:
        if name in header:
            return name
    accepted = " or ".join(repr(name) for name in NAMES[column])
    raise InvalidRequest(f"table {path} has no column {accepted}; its columns: {', '.join(header)}")


def cell(row: dict[str, str], name: str) -> str:
    """A cell that must hold text."""
    text = (row.get(name) or "").strip()
    if not text:
        raise InvalidRequest(f"column {name!r} is missing or empty")
    return text


def number(name: str, text: str) -> float:
    """The finite number that a text says."""
    try:
        value = float(text)
    except ValueError:
        raise InvalidRequest(f"{name} is {text!r}; it must be a number") from None
    if not math.isfinite(value):
        raise InvalidRequest(f"{name} is {text!r}; it must be finite")
    return value


def read_ids(path: Path) -> tuple[str, ...]:
    """Ids in order: a text file with one a line, or the published JSON of an increment.

    Raises:
        InvalidRequest: the file cannot be read, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        listed = json.loads(text)[PUBLISHED_IDS_KEY] if path.suffix == ".json" else text.split()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"ids {path}: neither one id a line nor JSON with {PUBLISHED_IDS_KEY!r} ({error})"
        ) from None
    return tuple(str(one) for one in listed)


@dataclass(frozen=True)
class Evaluation:
    """How well margins foretell the decisive battles.

    Attributes:
        n: decisive battles.
        accuracy: share foretold rightly; a margin of exactly zero is half right.
        nll: mean of -log P(answer), nats; 0.6931 says nothing. None where no odds are claimed.
        ece: expected calibration error over ten bins; None likewise.
    """

    n: int
    accuracy: float
    nll: float | None
    ece: float | None


def evaluate(margins: np.ndarray, battles: Battles) -> Evaluation:
    """Log odds that A wins (n,) against what people answered; ties are left out.

    A margin of zero counts half, unlike in `metrics.chosen_rightly`: a model that does not know two
    systems has such margins, and must not profit from B winning more often.

    Raises:
        InvalidRequest: no decisive battle.
    """
    if not battles.decisive.any():
        raise InvalidRequest("none of the battles is decisive; at least one is needed")
    margins, wins = margins[battles.decisive], battles.wins[battles.decisive]
    right = np.where(margins == 0.0, 0.5, chosen_rightly(margins, wins))
    nll = np.logaddexp(0.0, np.where(wins, -margins, margins)).mean()
    return Evaluation(
        len(wins), float(right.mean()), float(nll), calibration_error(reliability(margins, wins))
    )


def always_b(battles: Battles) -> Evaluation:
    """What the answer B, whatever is heard, is worth; it claims no odds."""
    wins = battles.wins[battles.decisive]
    return Evaluation(len(wins), float((~wins).mean()), None, None)
