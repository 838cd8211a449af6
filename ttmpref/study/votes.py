"""The votes of a listening study as one typed table, the input of every statistic.

Specification of listening studies, section 3.2 (tables `vote`, `trial`, `pair`) reduced to what an
analysis reads: who heard which two clips under which prompt, which of them was clip A, and what the
answer was. `COLUMNS` is the contract with whoever exports votes; `Votes.from_frame` checks it.

Shapes: n votes in the order in which they arrived; labels are sorted, so that the same votes give
the same numbers whatever order they were stored in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ttmpref.study.definition import GRADES
from ttmpref.types import VOTES as ANSWERS
from ttmpref.types import TtmprefError

A, B, TIE, BOTH_BAD = range(4)
KINDS = ("main", "anchor", "attention", "repeat", "practice")
MAIN, ANCHOR, ATTENTION, REPEAT, PRACTICE = range(5)
COVARIATE_PREFIX = "delta_"

# Column, whether it must be there, and what it holds. Numeric columns named `delta_...` hold
# nuisance measurements, clip A minus clip B (delta_lufs, delta_bandwidth_hz, ...).
COLUMNS: Mapping[str, tuple[bool, str]] = {
    "vote_id": (True, "unique text"),
    "rater": (True, "pseudonym of the listener"),
    "prompt": (True, "id of the prompt"),
    "system_a": (True, "system that made clip A, the clip on the first side"),
    "system_b": (True, "system that made clip B"),
    "answer": (True, "A, B, TIE or BOTH_BAD; with `grade` it may be left empty"),
    "stimulus_a": (False, "id of clip A; default `system_a/prompt`"),
    "stimulus_b": (False, "id of clip B; default `system_b/prompt`"),
    "kind": (False, "main, anchor, attention, repeat or practice; default main"),
    "repeat_of": (False, "vote_id of the first answer to the same two clips; default empty"),
    "expected": (False, "right answer of an attention trial; default empty"),
    "position": (False, "place of the trial in the session, from 0; default the order of rows"),
    "block": (False, "number of the block in which sides were balanced; default -1, none"),
    "first_on_a": (False, "whether the pair's first clip was clip A; default by system names"),
    "side_probability": (False, "of this order of sides, given all before; default 0.5, a coin"),
    "seconds": (False, "from presentation to answer; default unknown"),
    "answered_at": (False, "UTC time stamp that sorts the votes; default the order of rows"),
    "excluded": (False, "whether an exclusion names this vote or its rater; default false"),
    "grade": (False, "-3 (A much better) to 3 (B much better); default unknown"),
}


class InvalidVotes(TtmprefError, ValueError):
    """A votes table breaks its contract; the message names column, value and what is accepted."""


class NoSuchSystem(TtmprefError, ValueError):
    """A system that no vote mentions was asked for."""


@dataclass(frozen=True, eq=False)
class Votes:
    """One study's votes, column by column. Numbers index the label tuples.

    Attributes:
        raters, prompts, systems, stimuli: sorted labels.
        vote_id: (n,) text.
        rater, prompt, system_a, system_b, stimulus_a, stimulus_b: (n,) int.
        answer: (n,) int, index into `ANSWERS`.
        kind: (n,) int, index into `KINDS`.
        repeat_of: (n,) int, row of the first answer, -1 for none.
        expected: (n,) int, index into `ANSWERS`, -1 for none.
        position, block: (n,) int.
        first_on_a: (n,) bool, the side that the assignment drew, blind to systems.
        side_probability: (n,) float in (0, 1], with which it drew it.
        seconds, grade: (n,) float, NaN where unknown.
        excluded: (n,) bool.
        covariates: (n,) float each, clip A minus clip B, by name without the prefix.
    """

    raters: tuple[str, ...]
    prompts: tuple[str, ...]
    systems: tuple[str, ...]
    stimuli: tuple[str, ...]
    vote_id: np.ndarray
    rater: np.ndarray
    prompt: np.ndarray
    system_a: np.ndarray
    system_b: np.ndarray
    stimulus_a: np.ndarray
    stimulus_b: np.ndarray
    answer: np.ndarray
    kind: np.ndarray
    repeat_of: np.ndarray
    expected: np.ndarray
    position: np.ndarray
    block: np.ndarray
    first_on_a: np.ndarray
    side_probability: np.ndarray
    seconds: np.ndarray
    grade: np.ndarray
    excluded: np.ndarray
    covariates: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.answer)

    @property
    def decisive(self) -> np.ndarray:
        """(n,) bool: the answer was A or B."""
        return self.answer <= B

    @property
    def analysed(self) -> Votes:
        """The votes that enter estimates: main and anchor trials, first answers, not excluded."""
        return self.where((self.kind <= ANCHOR) & (self.repeat_of < 0) & ~self.excluded)

    def where(self, mask: np.ndarray) -> Votes:
        """The rows of mask (n,) bool; labels stay. A repeat whose first answer goes is none."""
        row = np.where(mask, np.cumsum(mask) - 1, -1)
        row = np.append(row, -1)  # so that -1, no repeat, stays -1
        arrays = {
            field.name: getattr(self, field.name)[mask]
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        arrays["repeat_of"] = row[arrays["repeat_of"]]
        covariates = {name: values[mask] for name, values in self.covariates.items()}
        return dataclasses.replace(self, **arrays, covariates=covariates)

    def system(self, label: str) -> int:
        """Number of a system.

        Raises:
            NoSuchSystem: naming the systems that have votes.
        """
        if label not in self.systems:
            known = ", ".join(self.systems) or "none"
            raise NoSuchSystem(f"system {label!r} has no votes; systems with votes: {known}")
        return self.systems.index(label)

    def between(self, x: str, y: str) -> Votes:
        """The votes that compare system x with system y, whichever was clip A."""
        return self.where(self.compares(x, y))

    def compares(self, x: str, y: str) -> np.ndarray:
        """(n,) bool: the vote compares system x with system y."""
        first, second = self.system(x), self.system(y)
        if first == second:
            raise InvalidVotes(f"a contrast needs two systems, got {x!r} twice")
        forwards = (self.system_a == first) & (self.system_b == second)
        return forwards | ((self.system_a == second) & (self.system_b == first))

    def prefers(self, y: str) -> np.ndarray:
        """(n,) int: 1 where system y was preferred, -1 where its rival was, 0 without a winner.

        Votes that do not compare y with another system are 0.
        """
        side = np.where(self.system_a == self.system(y), 1, 0)
        side = side - np.where(self.system_b == self.system(y), 1, 0)
        return side * ((self.answer == A).astype(int) - (self.answer == B))

    def to_frame(self) -> pd.DataFrame:
        """A table that `from_frame` reads back as the same votes."""
        answers, kinds = np.array([*ANSWERS, ""], object), np.array(KINDS, object)
        ids = np.append(self.vote_id.astype(object), "")
        frame = pd.DataFrame(
            {
                "vote_id": self.vote_id.astype(object),
                "rater": _labels(self.raters, self.rater),
                "prompt": _labels(self.prompts, self.prompt),
                "system_a": _labels(self.systems, self.system_a),
                "system_b": _labels(self.systems, self.system_b),
                "answer": answers[self.answer],
                "stimulus_a": _labels(self.stimuli, self.stimulus_a),
                "stimulus_b": _labels(self.stimuli, self.stimulus_b),
                "kind": kinds[self.kind],
                "repeat_of": ids[self.repeat_of],
                "expected": answers[self.expected],
                "position": self.position,
                "block": self.block,
                "first_on_a": self.first_on_a,
                "side_probability": self.side_probability,
                "seconds": self.seconds,
                "excluded": self.excluded,
                "grade": self.grade,
            }
        )
        for name, values in self.covariates.items():
            frame[COVARIATE_PREFIX + name] = values
        return frame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Votes:
        """Votes of a table with the columns of `COLUMNS`, one row per vote; others are ignored.

        A vote that was delivered twice, the same in every column, counts once.

        Raises:
            InvalidVotes: one line naming column, value and what is accepted.
        """
        missing = [name for name, (must, _) in COLUMNS.items() if must and name not in frame]
        if missing:
            raise InvalidVotes(f"votes have no column {missing[0]!r}; needed: {_required()}")
        frame = frame.drop_duplicates(ignore_index=True)
        if "answered_at" in frame:
            stamps = _times(frame["answered_at"])
            frame = frame.iloc[np.argsort(stamps, kind="stable")].reset_index(drop=True)
        return _checked(_Reader(frame).votes(cls))


def _required() -> str:
    return ", ".join(name for name, (must, _) in COLUMNS.items() if must)


def _labels(labels: Sequence[str], codes: np.ndarray) -> np.ndarray:
    return np.array([*labels, ""], object)[codes]


def _times(column: pd.Series) -> np.ndarray:
    """(n,) time stamps as numbers."""
    # The parser alone would also read "today", and sort the votes by the day of the analysis.
    stamps = pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601")
    wrong = stamps.isna() | ~column.astype(str).str.match(r"\d{4}-\d\d-\d\d")
    if wrong.any():
        value = column[wrong].iloc[0]
        raise InvalidVotes(f"answered_at is {value!r}; ISO 8601 time stamps are accepted")
    return stamps.to_numpy().astype("datetime64[ns]").astype(np.int64)


@dataclass(frozen=True)
class _Reader:
    """Reads columns of a table whose rows stand in order of arrival."""

    frame: pd.DataFrame

    def votes(self, cls: type[Votes]) -> Votes:
        prompt = self.text("prompt")
        systems = {side: self.text(f"system_{side}") for side in "ab"}
        stimuli = {
            side: np.where(given == "", systems[side] + "/" + prompt, given)
            for side in "ab"
            for given in [self.text(f"stimulus_{side}")]
        }
        raters, rater = _codes(self.text("rater"))
        prompts, prompt_codes = _codes(prompt)
        system_labels, system_codes = _codes(np.concatenate([systems["a"], systems["b"]]))
        stimulus_labels, stimulus_codes = _codes(np.concatenate([stimuli["a"], stimuli["b"]]))
        n = len(self.frame)
        grade = self.number("grade")
        return cls(
            raters=raters,
            prompts=prompts,
            systems=system_labels,
            stimuli=stimulus_labels,
            vote_id=self.text("vote_id"),
            rater=rater,
            prompt=prompt_codes,
            system_a=system_codes[:n],
            system_b=system_codes[n:],
            stimulus_a=stimulus_codes[:n],
            stimulus_b=stimulus_codes[n:],
            answer=self.answers(grade),
            kind=self.kinds(),
            repeat_of=self.rows_of_repeats(),
            expected=self.choice("expected", ANSWERS, {"": -1}),
            position=self.positions(rater),
            block=self.number("block", -1).astype(int),
            first_on_a=self.flag("first_on_a", systems["a"] <= systems["b"]),
            side_probability=self.number("side_probability", 0.5),
            seconds=self.number("seconds"),
            grade=grade,
            excluded=self.flag("excluded", np.zeros(n, bool)),
            covariates={
                name.removeprefix(COVARIATE_PREFIX): self.number(name)
                for name in sorted(map(str, self.frame.columns))
                if name.startswith(COVARIATE_PREFIX)
            },
        )

    def text(self, name: str) -> np.ndarray:
        """(n,) text, empty where the column or the value is missing."""
        if name not in self.frame:
            return np.full(len(self.frame), "", object)
        column = self.frame[name].astype(object)
        return column.where(column.notna(), "").map(str).to_numpy(object)

    def number(self, name: str, default: float = np.nan) -> np.ndarray:
        """(n,) float."""
        if name not in self.frame:
            return np.full(len(self.frame), float(default))
        given = self.frame[name]
        values = pd.to_numeric(given, errors="coerce").to_numpy(float, na_value=np.nan)
        wrong = np.isinf(values) | (np.isnan(values) & (given.notna() & (given != "")).to_numpy())
        if wrong.any():
            raise InvalidVotes(f"{name} is {given[wrong].iloc[0]!r}; finite numbers are accepted")
        return np.where(np.isnan(values), default, values)

    def flag(self, name: str, default: np.ndarray) -> np.ndarray:
        """(n,) bool."""
        words = {"": -1, "false": 0, "0": 0, "true": 1, "1": 1}
        given = self.choice(name, (), words, fold=True)
        return np.where(given < 0, default, given > 0)

    def choice(
        self, name: str, words: Sequence[str], more: Mapping[str, Any], fold: bool = False
    ) -> np.ndarray:
        """(n,) int: index of each value in `words`, or its number in `more`."""
        numbers = {**{word: i for i, word in enumerate(words)}, **more}
        given = self.text(name)
        codes = [numbers.get(value.lower() if fold else value) for value in given]
        if None in codes:
            accepted = ", ".join(word for word in numbers if word)
            raise InvalidVotes(f"{name} is {given[codes.index(None)]!r}; accepted: {accepted}")
        return np.array(codes, int)

    def answers(self, grade: np.ndarray) -> np.ndarray:
        """(n,) answers; the sign of a grade says the answer where none is given."""
        wrong = ~np.isnan(grade) & ((grade < GRADES[0]) | (grade > GRADES[1]))
        if wrong.any():
            low, high = GRADES
            raise InvalidVotes(f"grade is {grade[wrong][0]:g}; accepted: {low} to {high}")
        of_grade = np.select([grade < 0, grade > 0, grade == 0], [A, B, TIE], -1)
        answer = self.choice("answer", ANSWERS, {"": -1})
        answer = np.where(answer < 0, of_grade, answer)
        if (answer < 0).any():
            raise InvalidVotes(f"answer is ''; accepted: {', '.join(ANSWERS)}")
        return answer

    def kinds(self) -> np.ndarray:
        """(n,) kinds; a row that repeats another is a repeat whatever it says."""
        kind = self.choice("kind", KINDS, {"": MAIN})
        return np.where(self.text("repeat_of") != "", REPEAT, kind)

    def rows_of_repeats(self) -> np.ndarray:
        """(n,) row of the first answer, -1 for none."""
        rows = {vote: row for row, vote in enumerate(self.text("vote_id"))}
        given = self.text("repeat_of")
        unknown = [vote for vote in given if vote and vote not in rows]
        if unknown:
            raise InvalidVotes(f"repeat_of is {unknown[0]!r}; the vote_id of a row is accepted")
        return np.array([rows.get(vote, -1) for vote in given], int)

    def positions(self, rater: np.ndarray) -> np.ndarray:
        """(n,) place in the session, the order of the rater's rows by default."""
        count = pd.Series(rater).groupby(rater).cumcount().to_numpy(float)
        given = self.number("position")
        return np.where(np.isnan(given), count, given).astype(int)


def _codes(values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Sorted labels of text values, and each value's number."""
    labels, codes = np.unique(values.astype(str), return_inverse=True)
    return tuple(map(str, labels)), codes.reshape(-1)


def _checked(votes: Votes) -> Votes:
    """`votes`, or the error that says what is wrong with them."""
    for name in ("raters", "prompts", "systems"):
        if "" in getattr(votes, name):
            raise InvalidVotes(f"a {name[:-1]} is empty; every vote must name one")
    ids, counts = np.unique(votes.vote_id.astype(str), return_counts=True)
    if (counts > 1).any():
        raise InvalidVotes(
            f"vote_id {str(ids[counts > 1][0])!r} occurs in rows that differ; each must be unique"
        )
    chances = votes.side_probability
    if ((chances <= 0.0) | (chances > 1.0)).any():
        wrong = chances[(chances <= 0.0) | (chances > 1.0)][0]
        raise InvalidVotes(f"side_probability is {wrong:g}; above 0 and at most 1 is accepted")
    same = votes.stimulus_a == votes.stimulus_b
    same &= votes.kind != ATTENTION  # identical clips are a fair check of attention
    if same.any():
        vote = votes.vote_id[same][0]
        raise InvalidVotes(f"vote {vote!r} compares a clip with itself; two clips are needed")
    return votes
