"""Simulated listeners: studies that can be run, analysed and broken before anybody is paid.

Specification of listening studies, sections 2.2, 2.3 and 7.4. A `Design` says who hears what, a
`Population` how people answer, a `Crowd` is one draw of such people. The margin m of a trial is the
log odds that clip A beats clip B given that one of them does:

    m = utility(A) - utility(B) + side bias,
    utility(system s, rater r, prompt p) = effect_s + N(0, rater_sd^2 / 2) + N(0, prompt_sd^2 / 2),

so rater_sd and prompt_sd are the spread of the *difference* of two systems. Answers then follow
Davidson (1970): A, B and TIE as exp(m / 2), exp(-m / 2) and nu.

Shapes: n trials in the order of presentation, rater by rater; raters, prompts and systems are
numbers in 0 ... count - 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ttmpref.study.votes import (
    ANSWERS,
    ATTENTION,
    KINDS,
    MAIN,
    REPEAT,
    A,
    B,
    Votes,
)
from ttmpref.types import InvalidRequest, Vote, check_range

ATTENTION_SYSTEMS = ("attention_bad", "attention_good")
ATTENTION_MARGIN = 8.0  # an attentive listener takes the wrong clip once in 3,000 trials
SECONDS_SPREAD = 0.35  # standard deviation of log response times
HERMITE_NODES = 40


@dataclass(frozen=True)
class Design:
    """Who hears what.

    Attributes:
        contrasts: pairs of system names (x, y) that are compared.
        prompts, raters: how many.
        trials: main trials of each rater, all different.
        attention: trials of each rater with a known right answer.
        repeats: main trials of each rater that come again at the end with sides swapped.
        side_block: sides are balanced in shuffled blocks of so many trials of a rater; 0 flips a
            coin for every trial.
    """

    contrasts: tuple[tuple[str, str], ...]
    prompts: int
    raters: int
    trials: int
    attention: int = 0
    repeats: int = 0
    side_block: int = 4

    def __post_init__(self) -> None:
        for name in ("prompts", "raters", "trials"):
            check_range(name, getattr(self, name), 1, 1_000_000, whole=True)
        check_range("attention", self.attention, 0, 1000, whole=True)
        check_range("repeats", self.repeats, 0, self.trials, whole=True)
        if not self.contrasts or any(x == y for x, y in self.contrasts):
            raise InvalidRequest(f"contrasts are {self.contrasts}; pairs of two systems are needed")
        if self.side_block % 2:
            raise InvalidRequest(f"side_block is {self.side_block}; an even number is accepted")
        units = len(self.contrasts) * self.prompts
        if self.trials > units:
            raise InvalidRequest(
                f"trials is {self.trials}; {units} pairs of contrast and prompt are there"
            )

    @property
    def systems(self) -> tuple[str, ...]:
        """Sorted names of the compared systems."""
        return tuple(sorted({system for pair in self.contrasts for system in pair}))


@dataclass(frozen=True)
class Population:
    """How people answer.

    Attributes:
        effects: log strength of each system; systems that are not named have 0.
        rater_sd, prompt_sd: spread over raters and prompts of the log odds between two systems.
        side_bias, side_bias_sd: mean and spread over raters of the log odds towards clip A.
        ties: share of ties between clips of equal strength, 0 to below 1.
        both_bad: share of trials answered BOTH_BAD whatever the clips are.
        lazy: share of raters who click any answer, and fast.
        one_sided: share of raters who always answer A.
        lapse: share of an attentive rater's answers that are random.
        seconds, lazy_seconds: median response time of attentive raters and of the others.
    """

    effects: Mapping[str, float] = field(default_factory=dict)
    rater_sd: float = 0.0
    prompt_sd: float = 0.0
    side_bias: float = 0.0
    side_bias_sd: float = 0.0
    ties: float = 0.0
    both_bad: float = 0.0
    lazy: float = 0.0
    one_sided: float = 0.0
    lapse: float = 0.0
    seconds: float = 16.0
    lazy_seconds: float = 2.0

    def __post_init__(self) -> None:
        for name in ("rater_sd", "prompt_sd", "side_bias_sd"):
            check_range(name, getattr(self, name), 0.0, 100.0)
        for name in ("ties", "both_bad", "lazy", "one_sided", "lapse"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        if self.ties == 1.0 or self.lazy + self.one_sided > 1.0:
            raise InvalidRequest(
                f"ties {self.ties} must lie below 1, lazy {self.lazy} + one_sided "
                f"{self.one_sided} at most at 1"
            )

    def preference(self, x: str, y: str) -> float:
        """P(y preferred to x | decisive) over new raters and prompts, by quadrature.

        Sides are taken as balanced. This is the number that a study estimates.
        """
        nodes, weights = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
        spread = math.hypot(self.rater_sd, self.prompt_sd, self.side_bias_sd)
        margin = self.effects.get(y, 0.0) - self.effects.get(x, 0.0) + spread * nodes
        chances = np.zeros(len(ANSWERS))
        for bias in (self.side_bias, -self.side_bias):
            chances += weights @ self.chances(margin + bias) / weights.sum() / 2
        chances = (1.0 - self.lapse) * chances + self.lapse / len(ANSWERS)
        chances = (1.0 - self.lazy - self.one_sided) * chances + self.lazy / len(ANSWERS)
        chances[[A, B]] += self.one_sided / 2
        return float(chances[A] / (chances[A] + chances[B]))

    def chances(self, margin: np.ndarray) -> np.ndarray:
        """(..., 4) probabilities of `ANSWERS` of an attentive rater at margins (...)."""
        return answer_chances(margin, self.ties, self.both_bad)


def answer_chances(margin: np.ndarray, ties: float, both_bad: float) -> np.ndarray:
    """(..., 4) probabilities of A, B, TIE and BOTH_BAD at margins (...) in log odds.

    Args:
        ties: share of ties at margin 0.
        both_bad: share of BOTH_BAD at any margin.
    """
    half = np.clip(np.asarray(margin, float) / 2.0, -300.0, 300.0)
    weights = np.stack(
        [np.exp(half), np.exp(-half), np.full(half.shape, 2.0 * ties / (1.0 - ties))], -1
    )
    weights *= (1.0 - both_bad) / weights.sum(-1, keepdims=True)
    return np.concatenate([weights, np.full((*half.shape, 1), both_bad)], -1)


# The five designs of the specification (2.3), at a preference of 0.58 to 0.60.
_PAIR = (("x", "y"),)
COVERAGE_DESIGNS: Mapping[str, tuple[Design, Population]] = {
    "no clustering": (Design(_PAIR, 100, 30, 20), Population({"y": 0.40})),
    "rater SD 0.7": (Design(_PAIR, 100, 30, 20), Population({"y": 0.40}, rater_sd=0.7)),
    "rater SD 0.5, prompt SD 0.8, 40 prompts": (
        Design(_PAIR, 40, 30, 20),
        Population({"y": 0.40}, rater_sd=0.5, prompt_sd=0.8),
    ),
    "rater SD 0.5, prompt SD 1.0, 20 prompts": (
        Design(_PAIR, 20, 30, 20),
        Population({"y": 0.40}, rater_sd=0.5, prompt_sd=1.0),
    ),
    "100 raters, rater SD 0.5, prompt SD 1.0, 40 prompts": (
        Design(_PAIR, 40, 100, 20),
        Population({"y": 0.40}, rater_sd=0.5, prompt_sd=1.0),
    ),
}


@dataclass(frozen=True, eq=False)
class Schedule:
    """Trials of all raters in order.

    Attributes:
        systems: names that `a` and `b` index.
        rater, prompt, a, b, kind, position, block: (n,) int.
        first_on_a: (n,) bool, whether the contrast's first system is clip A.
        side_probability: (n,) of that, given the sides before.
        expected: (n,) right answer of attention trials, else -1.
        repeat_of: (n,) row of the first presentation, else -1.
    """

    systems: tuple[str, ...]
    rater: np.ndarray
    prompt: np.ndarray
    a: np.ndarray
    b: np.ndarray
    kind: np.ndarray
    position: np.ndarray
    block: np.ndarray
    first_on_a: np.ndarray
    side_probability: np.ndarray
    expected: np.ndarray
    repeat_of: np.ndarray

    def __len__(self) -> int:
        return len(self.rater)


def schedule(design: Design, seed: int) -> Schedule:
    """Trials that cover contrasts and prompts evenly: each rater gets what was heard least."""
    rng = np.random.default_rng([seed, 1])
    systems = (*design.systems, *ATTENTION_SYSTEMS)
    pairs = np.array([[systems.index(s) for s in pair] for pair in design.contrasts])
    heard = np.zeros(len(pairs) * design.prompts)
    rows, start = [], 0
    for rater in range(design.raters):
        units = np.argsort(heard + rng.random(len(heard)), kind="stable")[: design.trials]
        heard[units] += 1
        rows.append(_session(design, systems, pairs, rater, rng.permutation(units), start, rng))
        start += len(rows[-1]["rater"])
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return Schedule(systems, **columns)


def _session(
    design: Design,
    systems: tuple[str, ...],
    pairs: np.ndarray,
    rater: int,
    units: np.ndarray,
    start: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """One rater's trials: main and attention trials mixed, then the repeats."""
    main = np.arange(design.trials + design.attention) < design.trials
    rng.shuffle(main)
    n = len(main) + design.repeats
    low_high = np.empty((n, 2), int)
    prompt = rng.integers(design.prompts, size=n)
    first = np.flatnonzero(main)
    low_high[first], prompt[first] = pairs[units // design.prompts], units % design.prompts
    low_high[np.flatnonzero(~main)] = [systems.index(s) for s in ATTENTION_SYSTEMS]
    repeated = rng.choice(first, design.repeats, replace=False)
    low_high[len(main) :], prompt[len(main) :] = low_high[repeated], prompt[repeated]
    sides, chance, block = _sides(n, design.side_block, rng)
    sides[len(main) :], chance[len(main) :], block[len(main) :] = ~sides[repeated], 1.0, -1
    kind = np.full(n, REPEAT)
    kind[: len(main)] = np.where(main, MAIN, ATTENTION)
    repeat_of = np.full(n, -1)
    repeat_of[len(main) :] = start + repeated
    return {
        "rater": np.full(n, rater),
        "prompt": prompt,
        "a": np.where(sides, low_high[:, 0], low_high[:, 1]),
        "b": np.where(sides, low_high[:, 1], low_high[:, 0]),
        "kind": kind,
        "position": np.arange(n),
        "block": block,
        "first_on_a": sides,
        "side_probability": chance,
        "expected": np.where(kind == ATTENTION, np.where(sides, B, A), -1),
        "repeat_of": repeat_of,
    }


def _sides(
    n: int, block: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether the first system is clip A, the chance that it was so, and the block; each (n,)."""
    if block == 0:
        return rng.random(n) < 0.5, np.full(n, 0.5), np.full(n, -1)
    blocks = np.tile(np.arange(block) < block // 2, (-(-n // block), 1))
    sides = rng.permuted(blocks, axis=1)
    left_over = block // 2 - (np.cumsum(sides, 1) - sides)  # of first-on-A, before each trial
    chance = left_over / (block - np.arange(block))
    chance = np.where(sides, chance, 1.0 - chance)
    return sides.ravel()[:n], chance.ravel()[:n], np.arange(n) // block


@dataclass(frozen=True, eq=False)
class Crowd:
    """People drawn from a population, and their taste.

    Attributes:
        population: what they were drawn from.
        rater_utility: (raters, systems).
        prompt_utility: (prompts, systems), what all raters share.
        side_bias: (raters,) log odds towards clip A.
        lazy, one_sided: (raters,) bool.
    """

    population: Population
    rater_utility: np.ndarray
    prompt_utility: np.ndarray
    side_bias: np.ndarray
    lazy: np.ndarray
    one_sided: np.ndarray

    @classmethod
    def draw(
        cls, population: Population, systems: tuple[str, ...], raters: int, prompts: int, seed: int
    ) -> Crowd:
        rng = np.random.default_rng([seed, 2])
        effects = np.array([population.effects.get(system, 0.0) for system in systems])
        spread = np.array([population.rater_sd, population.prompt_sd]) / math.sqrt(2.0)
        bias = population.side_bias + population.side_bias_sd * rng.standard_normal(raters)
        kind = rng.permutation(raters) / raters  # so that shares come out as asked
        return cls(
            population,
            rater_utility=spread[0] * rng.standard_normal((raters, len(systems))),
            prompt_utility=effects + spread[1] * rng.standard_normal((prompts, len(systems))),
            side_bias=bias,
            lazy=kind < population.lazy,
            one_sided=kind >= 1.0 - population.one_sided,
        )

    def margin(
        self,
        rater: np.ndarray,
        prompt: np.ndarray,
        a: np.ndarray,
        b: np.ndarray,
        expected: np.ndarray,
    ) -> np.ndarray:
        """(n,) log odds that clip A beats clip B; far from 0 where an answer is expected."""
        difference = self.rater_utility[rater, a] - self.rater_utility[rater, b]
        difference += self.prompt_utility[prompt, a] - self.prompt_utility[prompt, b]
        difference += self.side_bias[rater]
        right = np.where(expected == A, ATTENTION_MARGIN, -ATTENTION_MARGIN)
        return np.where(expected < 0, difference, right)

    def answer(
        self, rater: np.ndarray, margin: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Answers (n,) and response times (n,) of raters (n,) at margins (n,)."""
        people = self.population
        careless = self.lazy[rater] | self.one_sided[rater]
        uniform = rng.random((2, len(rater)))
        chances = people.chances(margin).cumsum(-1)
        answers = (uniform[0][:, None] > chances[:, :-1]).sum(-1)
        random = self.lazy[rater] | (uniform[1] < people.lapse)
        answers = np.where(random, rng.integers(len(ANSWERS), size=len(rater)), answers)
        answers = np.where(self.one_sided[rater], A, answers)
        median = np.where(careless, people.lazy_seconds, people.seconds)
        seconds = median * np.exp(SECONDS_SPREAD * rng.standard_normal(len(rater)))
        return answers, seconds

    def vote(
        self,
        rater: int,
        prompt: int,
        a: int,
        b: int,
        rng: np.random.Generator,
        expected: Vote | None = None,
    ) -> tuple[Vote, float]:
        """One answer and its response time, for robots that click through a real server."""
        right = -1 if expected is None else ANSWERS.index(expected)
        trial = (np.array([number]) for number in (rater, prompt, a, b, right))
        answers, seconds = self.answer(np.array([rater]), self.margin(*trial), rng)
        return ANSWERS[answers[0]], float(seconds[0])


def simulate(
    design: Design,
    population: Population,
    seed: int = 0,
    utility: np.ndarray | None = None,
) -> Votes:
    """A whole study: schedule, people, answers.

    Args:
        utility: (prompts, systems) log strength of every clip in the order of `design.systems`,
            in the place of the population's effects and its spread over prompts; a ranker whose
            reward this is, is perfectly calibrated where rater_sd and side_bias are 0.
    """
    return next(simulations(design, population, 1, seed, utility))


def simulations(
    design: Design,
    population: Population,
    studies: int,
    seed: int = 0,
    utility: np.ndarray | None = None,
) -> Iterator[Votes]:
    """Several studies as `simulate` makes them: one schedule, new people each time."""
    trials = schedule(design, seed)
    if utility is not None:
        utility = np.pad(np.asarray(utility, float), ((0, 0), (0, len(ATTENTION_SYSTEMS))))
    # As from raters who work at the same time, votes arrive by their place in the session.
    order = np.argsort(trials.position, kind="stable")
    votes = Votes.from_frame(_unanswered(trials).iloc[order])
    for study in range(seed, seed + studies):
        crowd = Crowd.draw(population, trials.systems, design.raters, design.prompts, study)
        if utility is not None:
            crowd = dataclasses.replace(crowd, prompt_utility=utility)
        margin = crowd.margin(trials.rater, trials.prompt, trials.a, trials.b, trials.expected)
        answers, seconds = crowd.answer(trials.rater, margin, np.random.default_rng([study, 3]))
        yield dataclasses.replace(votes, answer=answers[order], seconds=seconds[order])


def _unanswered(trials: Schedule) -> pd.DataFrame:
    """The votes table of trials that are all answered A; raters and prompts are r0000, p0000 ..."""
    vote_id = np.array([f"v{row:06d}" for row in range(len(trials))], object)
    systems = np.array(trials.systems, object)
    return pd.DataFrame(
        {
            "vote_id": vote_id,
            "rater": [f"r{rater:04d}" for rater in trials.rater],
            "prompt": [f"p{prompt:04d}" for prompt in trials.prompt],
            "system_a": systems[trials.a],
            "system_b": systems[trials.b],
            "answer": ANSWERS[A],
            "kind": np.array(KINDS, object)[trials.kind],
            "repeat_of": np.append(vote_id, "")[trials.repeat_of],
            "expected": np.array([*ANSWERS, ""], object)[trials.expected],
            "position": trials.position,
            "block": trials.block,
            "first_on_a": trials.first_on_a,
            "side_probability": trials.side_probability,
        }
    )


def with_duplicates(frame: pd.DataFrame, share: float, seed: int = 0) -> pd.DataFrame:
    """A table in which some votes were delivered twice, in another order."""
    rng = np.random.default_rng([seed, 4])
    again = frame[rng.random(len(frame)) < share]
    return pd.concat([frame, again]).sample(frac=1.0, random_state=seed).reset_index(drop=True)
