"""What a study says about pairs of systems: shares, ties, sides, tests of difference and equality.

Specification of listening studies, section 2.3. The estimand is P(listener prefers y to x | the
answer is decisive) over raters *and* prompts; intervals come from `bootstrap`. Two different nulls
are tested, and named apart: "half of the answers prefer y", by the clustered interval, and the
sharp "nobody can tell x from y", under which the sides that we drew make every answer a fair coin,
whatever the raters' side bias and however the votes cluster.

Shapes: n votes, L levels or contrasts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, ndtri, stdtr

from ttmpref.metrics import wilson_interval
from ttmpref.study.bootstrap import Bootstrap, Estimate, means, resample, share, shares
from ttmpref.study.votes import BOTH_BAD, TIE, A, Votes

SHUFFLES = 1999  # of the randomisation test; the smallest p-value is 1 / 2000
SHUFFLE_CHUNK = 500
TRIALS_PER_SLOPE = 10  # slopes over the session are stated per so many trials
NAIVE_NOTE = "treats votes as independent"


@dataclass(frozen=True)
class Contrast:
    """All that is said about one pair of systems.

    Attributes:
        x, y: the systems; the question is whether y is preferred to x.
        votes, wins_x, wins_y, ties, both_bad: counts.
        preference: P(prefers y | decisive), the primary estimand.
        with_half_ties: the same with ties and both-bad counting one half for each.
        tie_rate, both_bad_rate: shares of all votes.
        naive: Wilson's interval of the preference, labelled as treating votes as independent.
        p: two-sided, of "half of the decisive answers prefer y", clustered.
        p_sharp: two-sided, of "nobody can tell x from y", from the randomised sides.
        grade: mean grade towards y, -3 to 3; None where nothing was graded.
    """

    x: str
    y: str
    votes: int
    wins_x: int
    wins_y: int
    ties: int
    both_bad: int
    preference: Estimate
    with_half_ties: Estimate
    tie_rate: Estimate
    both_bad_rate: Estimate
    naive: Estimate
    p: float | None
    p_sharp: float | None
    grade: Estimate | None


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests of |P - 1/2| >= margin.

    Attributes:
        margin: chosen before the study.
        p: the larger of the two one-sided p-values; None where nothing can be estimated.
        interval: of level 1 - 2 alpha; within 1/2 -+ margin exactly where p <= alpha.
        equivalent: whether p <= alpha; None where nothing can be estimated.
    """

    margin: float
    p: float | None
    interval: tuple[float, float] | None
    equivalent: bool | None


def contrast(votes: Votes, x: str, y: str, bootstrap: Bootstrap) -> Contrast:
    """Summary of the votes between systems x and y.

    Args:
        votes: those to analyse (`Votes.analysed`); others than x against y are left out.
    """
    p_sharp = sharp_null(votes, x, y, bootstrap.seed)
    votes = votes.between(x, y)
    preferred = votes.prefers(y)
    decided, wins = preferred != 0, preferred > 0
    tie, bad = votes.answer == TIE, votes.answer == BOTH_BAD
    everything = np.ones(len(votes), bool)
    preference, half, tie_rate, bad_rate = shares(
        np.column_stack([wins, (1 + preferred) / 2, tie, bad]),
        np.column_stack([decided, everything, everything, everything]),
        votes,
        bootstrap,
    )
    return Contrast(
        x,
        y,
        votes=len(votes),
        wins_x=int((preferred < 0).sum()),
        wins_y=int(wins.sum()),
        ties=int(tie.sum()),
        both_bad=int(bad.sum()),
        preference=preference,
        with_half_ties=half,
        tie_rate=tie_rate,
        both_bad_rate=bad_rate,
        naive=naive_share(int(wins.sum()), preference),
        p=preference.p_value(0.5),
        p_sharp=p_sharp,
        grade=_grade(votes, y, bootstrap),
    )


def naive_share(hits: int, clustered: Estimate) -> Estimate:
    """Wilson's interval beside a clustered share of the same votes."""
    z = float(ndtri(0.5 + clustered.level / 2.0))
    low, high = wilson_interval(hits, clustered.n, z) if clustered.n else (None, None)
    return dataclasses.replace(clustered, low=low, high=high, se=None, note=NAIVE_NOTE)


def _grade(votes: Votes, y: str, bootstrap: Bootstrap) -> Estimate | None:
    """Mean grade towards y over the graded votes."""
    graded = votes.where(~np.isnan(votes.grade))
    if len(graded) == 0:
        return None
    towards = np.where(graded.system_b == graded.system(y), graded.grade, -graded.grade)
    return means(towards[:, None], np.ones((len(graded), 1)), graded, bootstrap).estimate()


def side_effect(votes: Votes, bootstrap: Bootstrap) -> Estimate:
    """P(answers A | decisive): 1/2 where the order of the clips does not matter."""
    return share((votes.answer == A).astype(float), votes.decisive, votes, bootstrap)


def both_bad_rates(votes: Votes, bootstrap: Bootstrap) -> dict[str, Estimate]:
    """Per system, the share of its trials that were answered BOTH_BAD: its absolute failures."""
    labels = [votes.systems[code] for code in np.union1d(votes.system_a, votes.system_b)]
    if not labels:
        return {}
    codes = [votes.system(label) for label in labels]
    present = np.column_stack([(votes.system_a == c) | (votes.system_b == c) for c in codes])
    bad = present & (votes.answer == BOTH_BAD)[:, None]
    return dict(zip(labels, shares(bad, present, votes, bootstrap), strict=True))


def slope(values: np.ndarray, votes: Votes, bootstrap: Bootstrap) -> Estimate:
    """Least-squares slope of values (n,) over the place in the session, per ten trials.

    Learning and fatigue: with values 1 for A and 0 for B a drift towards a side, with log seconds
    a change of pace.
    """
    place = votes.position / TRIALS_PER_SLOPE
    columns = np.column_stack(
        [np.ones(len(values)), place, values, place * place, place * values]
    )
    return resample(columns, _slope, votes, bootstrap).estimate()


def _slope(sums: np.ndarray) -> np.ndarray:
    """(..., 5) sums of 1, x, y, x x, x y to (..., 1) slopes."""
    n, x, y, xx, xy = np.moveaxis(sums, -1, 0)
    spread = n * xx - x * x
    return np.where(spread > 1e-9 * n * xx, (n * xy - x * y) / spread, np.nan)[..., None]


def equivalence(estimate: Estimate, margin: float, alpha: float = 0.05) -> Equivalence:
    """Whether P lies within 1/2 -+ margin, by two one-sided t-tests.

    Args:
        estimate: of P, with its clustered standard error.
        margin: in (0, 1/2), fixed before the votes were seen.
    """
    if not 0.0 < margin < 0.5:
        raise ValueError(f"margin is {margin}; above 0 and below 0.5 is accepted")
    interval = estimate.interval(1.0 - 2.0 * alpha)
    if interval is None:
        return Equivalence(margin, None, None, None)
    low, high = (estimate.t(0.5 - margin), estimate.t(0.5 + margin))
    p = float(stdtr(estimate.clusters - 1, max(-low, high)))
    return Equivalence(margin, p, interval, p <= alpha)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values; None stays None and does not count as a test."""
    tested = [(p, index) for index, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(sorted(tested)):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = running
    return adjusted


def binomial_p(hits: int, n: int) -> float:
    """Exact two-sided p-value of `hits` of n fair coins."""
    return min(1.0, 2.0 * float(bdtr(min(hits, n - hits), n, 0.5)))


def sharp_null(votes: Votes, x: str, y: str, seed: int = 0) -> float | None:
    """Two-sided p-value of "nobody can tell x from y", from the randomised sides.

    Under that null an answer does not depend on which clip was which, so the sides could have been
    drawn otherwise without changing it. Independent flips make this the exact binomial test; sides
    that were balanced in blocks of a session are shuffled within each block.

    Args:
        votes: all that were analysed; those of other contrasts share blocks with these.
    """
    pair = votes.between(x, y)
    preferred = pair.prefers(y)
    n, wins = int((preferred != 0).sum()), int((preferred > 0).sum())
    if n == 0:
        return None
    if (pair.block < 0).all():
        return binomial_p(wins, n)
    return _shuffled(votes, x, y, np.random.default_rng([seed, 5]))


def _shuffled(votes: Votes, x: str, y: str, rng: np.random.Generator) -> float:
    """Share of side shuffles in which either system wins by as much as it did."""
    coins = np.where(votes.block < 0, np.arange(len(votes)), -1)  # a block each: they stay
    labels = np.stack([votes.rater, votes.block, coins])
    block = np.unique(labels, axis=1, return_inverse=True)[1].reshape(-1)
    order = np.argsort(block, kind="stable")
    block, side = block[order], np.where(votes.first_on_a, 1.0, -1.0)[order]
    # What each trial would add to the surplus of y if its first clip were clip A.
    gain = votes.prefers(y)[order] * side * votes.compares(x, y)[order]
    observed, extreme = abs(gain @ side), 1
    for start in range(0, SHUFFLES, SHUFFLE_CHUNK):
        rows = min(SHUFFLE_CHUNK, SHUFFLES - start)
        # Sorting by block plus a fraction shuffles within blocks and nowhere else.
        shuffled = np.argsort(block + rng.random((rows, len(block))), axis=1)
        extreme += int((np.abs(side[shuffled] @ gain) >= observed).sum())
    return extreme / (SHUFFLES + 1)
