"""Intervals over raters and prompts: the crossed bootstrap, and numbers that carry their n.

Specification of listening studies, section 2.3. Votes of one rater, and votes on one prompt, are
alike; intervals that treat votes as independent cover 50 to 70 % where 95 % is claimed. So raters
and prompts are drawn with replacement, independently of each other, and a vote weighs (times its
rater was drawn) x (times its prompt was drawn).

These weights see the noise of a single vote three times, once through its rater, once through its
prompt and once through both (Owen, Annals of Applied Statistics 2007): without clustering, the
plain percentile interval is sqrt(3) too wide and covers 99.9 %. The default interval therefore
shrinks the resampled deviations to the variance V_crossed - 2 V_independent, the two-way clustered
variance of Cameron, Gelbach and Miller (2011), never below V_independent; and widens them by
sqrt(G / (G - 1)) t_(G-1) / z with G the smaller of the numbers of raters and prompts, since few
clusters show less spread than there is. `benchmarks.study_statistics` measures it.

Shapes: n votes, K columns of sums, M statistics, R resamples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import betaincinv, ndtri, stdtr, stdtrit

from ttmpref.study.votes import Votes

CHUNK_WEIGHTS = 1_000_000  # vote weights held at once; bounds the memory, not the result
UNIT = (0.0, 1.0)
UNBOUNDED = (-math.inf, math.inf)

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Bootstrap:
    """How to resample.

    Attributes:
        resamples: draws of raters and prompts.
        level: of intervals, in (0, 1).
        seed: of the draws; the same seed gives the same intervals.
    """

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Estimate:
    """A number with its n and interval. What cannot be estimated is None, and `note` says why.

    Attributes:
        value: the estimate.
        low, high: ends of the interval.
        se: standard error.
        n: votes behind it.
        raters, prompts: how many of each gave those votes.
        level: of the interval.
        note: empty, or what a reader must know.
    """

    value: float | None
    low: float | None
    high: float | None
    se: float | None
    n: int
    raters: int
    prompts: int
    level: float
    note: str = ""

    @property
    def clusters(self) -> int:
        """G: the smaller of the numbers of raters and prompts."""
        return min(self.raters, self.prompts)

    @property
    def estimable(self) -> bool:
        return self.value is not None and self.se is not None

    def p_value(self, null: float) -> float | None:
        """Two-sided, of the hypothesis that the estimated quantity is `null` (t, G - 1)."""
        if not self.estimable:
            return None
        return float(2.0 * stdtr(self.clusters - 1, -abs(self.t(null))))

    def t(self, null: float) -> float:
        """(value - null) / se; infinite where the error is zero."""
        distance = self.value - null
        return distance / self.se if self.se else math.copysign(math.inf, distance)

    def interval(self, level: float) -> tuple[float, float] | None:
        """The symmetric t interval of another level, value -+ t se."""
        if not self.estimable:
            return None
        half = float(stdtrit(self.clusters - 1, 0.5 + level / 2)) * self.se
        return self.value - half, self.value + half


@dataclass(frozen=True, eq=False)
class Resampled:
    """Statistics and what they become under resampling.

    Attributes:
        value: (M,) of the votes as they are.
        crossed: (R, M) raters and prompts redrawn.
        independent: (R, M) single votes redrawn.
        n: (M,) votes behind each statistic.
        raters, prompts: (M,) how many of each gave those votes.
        level: of intervals.
    """

    value: np.ndarray
    crossed: np.ndarray
    independent: np.ndarray
    n: np.ndarray
    raters: np.ndarray
    prompts: np.ndarray
    level: float

    @cached_property
    def plain_variance(self) -> np.ndarray:
        """(M,) variances under redrawn raters and prompts."""
        return _variance(self.crossed)

    @cached_property
    def variance(self) -> np.ndarray:
        """(M,) two-way clustered variances, before the allowance for few clusters."""
        independent = _variance(self.independent)
        return np.maximum(self.plain_variance - 2.0 * independent, independent)

    def map(self, change: Statistic) -> Resampled:
        """Statistics computed from these, (..., M) to (..., M'); n is that of all votes."""
        value = change(self.value)
        width = (len(value),)
        return dataclasses.replace(
            self,
            value=value,
            crossed=change(self.crossed),
            independent=change(self.independent),
            n=np.broadcast_to(self.n.max(initial=0), width),
            raters=np.broadcast_to(self.raters.max(initial=0), width),
            prompts=np.broadcast_to(self.prompts.max(initial=0), width),
        )

    def estimate(self, index: int = 0, bounds: tuple[float, float] = UNBOUNDED) -> Estimate:
        """Statistic `index` with its interval, kept inside `bounds`."""
        value, draws = float(self.value[index]), self.crossed[:, index]
        n, raters, prompts = (int(a[index]) for a in (self.n, self.raters, self.prompts))
        bare = Estimate(None, None, None, None, n, raters, prompts, self.level)
        if n == 0 or not math.isfinite(value):
            return dataclasses.replace(bare, note="not estimable: no votes that tell")
        if bare.clusters < 2:
            one = "rater" if raters < 2 else "prompt"
            return dataclasses.replace(bare, value=value, note=f"no interval: one {one}")
        deviations = draws[np.isfinite(draws)] - value
        spread = math.sqrt(self.plain_variance[index])
        if spread == 0.0:
            return dataclasses.replace(bare, value=value, note="no interval: votes do not vary")
        se = math.sqrt(self.variance[index] * bare.clusters / (bare.clusters - 1))
        tail = (1.0 - self.level) / 2.0
        heavier = float(stdtrit(bare.clusters - 1, tail) / ndtri(tail))
        ends = value + np.quantile(deviations, [tail, 1.0 - tail]) * (se / spread * heavier)
        low, high = np.clip(ends, *bounds)
        return dataclasses.replace(bare, value=value, low=float(low), high=float(high), se=se)


def _variance(draws: np.ndarray) -> np.ndarray:
    """(M,) variance over the finite draws of (R, M); 0 where fewer than two are finite."""
    finite = np.isfinite(draws)
    count = finite.sum(0)
    draws = np.where(finite, draws, 0.0)
    mean = draws.sum(0) / np.maximum(count, 1)
    squares = np.where(finite, np.square(draws - mean), 0.0).sum(0)
    return squares / np.maximum(count - 1, 1)


def _draws(labels: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(resamples, labels) how often each label comes up in as many draws as there are labels."""
    drawn = rng.integers(max(labels, 1), size=(resamples, labels))
    flat = (drawn + labels * np.arange(resamples)[:, None]).ravel()
    return np.bincount(flat, minlength=resamples * labels).reshape(resamples, labels).astype(float)


def crossed_weights(
    rater: np.ndarray, prompt: np.ndarray, bootstrap: Bootstrap
) -> Iterator[np.ndarray]:
    """(r, n) weights of votes under redrawn raters and prompts, all resamples in chunks.

    Args:
        rater, prompt: (n,) int labels; only those that occur are drawn.
    """
    labels, rater = np.unique(rater, return_inverse=True)
    texts, prompt = np.unique(prompt, return_inverse=True)
    rng = np.random.default_rng([bootstrap.seed, 1])
    raters = _draws(len(labels), bootstrap.resamples, rng)
    prompts = _draws(len(texts), bootstrap.resamples, rng)
    for rows in _chunks(bootstrap.resamples, len(rater)):
        yield raters[rows][:, rater] * prompts[rows][:, prompt]


def independent_weights(n: int, bootstrap: Bootstrap) -> Iterator[np.ndarray]:
    """(r, n) weights of votes redrawn one by one, all resamples in chunks."""
    rng = np.random.default_rng([bootstrap.seed, 2])
    for rows in _chunks(bootstrap.resamples, n):
        yield _draws(n, rows.stop - rows.start, rng)


def _chunks(resamples: int, n: int) -> Iterator[slice]:
    step = max(1, CHUNK_WEIGHTS // max(n, 1))
    for start in range(0, resamples, step):
        yield slice(start, min(start + step, resamples))


def resample(
    columns: np.ndarray,
    statistic: Statistic,
    votes: Votes,
    bootstrap: Bootstrap,
    behind: np.ndarray | None = None,
) -> Resampled:
    """Statistics of weighted sums of columns, and their values under resampling.

    Args:
        columns: (n, K) what is summed over votes.
        statistic: sums (r, K) to (r, M), each row on its own.
        votes: the n votes.
        behind: (n, M) bool, which votes each statistic rests on; default all.
    """
    columns = np.asarray(columns, float)
    return resample_weighted(lambda w: statistic(w @ columns), votes, bootstrap, behind)


def resample_weighted(
    statistic: Statistic, votes: Votes, bootstrap: Bootstrap, behind: np.ndarray | None = None
) -> Resampled:
    """As `resample`, for statistics of weighted votes that are no functions of sums.

    Args:
        statistic: weights (r, n) to (r, M), each row on its own.
    """
    n = len(votes)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = statistic(np.ones((1, n)))[0]
        crossed, independent = (
            np.concatenate([statistic(weights) for weights in chunks])
            for chunks in (
                crossed_weights(votes.rater, votes.prompt, bootstrap),
                independent_weights(n, bootstrap),
            )
        )
    if behind is None:
        behind = np.ones((n, len(value)), bool)
    return Resampled(value, crossed, independent, *support(behind, votes), bootstrap.level)


def support(behind: np.ndarray, votes: Votes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(M,) votes, raters and prompts among the rows that each column of behind (n, M) names."""
    raters = [len(np.unique(votes.rater[column])) for column in behind.T]
    prompts = [len(np.unique(votes.prompt[column])) for column in behind.T]
    return behind.sum(0), np.array(raters, int), np.array(prompts, int)


def ratios(sums: np.ndarray) -> np.ndarray:
    """(..., 2 M) numerators, then denominators, to (..., M) quotients; NaN where 0 / 0."""
    numerators, denominators = np.split(sums, 2, axis=-1)
    return np.where(denominators > 0, numerators / denominators, np.nan)


def means(
    values: np.ndarray, among: np.ndarray, votes: Votes, bootstrap: Bootstrap
) -> Resampled:
    """Means of several values over several subsets of votes, resampled together.

    Args:
        values: (n, M); only those of the subset count.
        among: (n, M) bool, the subsets.
        votes: the n votes.
    """
    among = np.asarray(among, bool)
    columns = np.hstack([np.where(among, values, 0.0), among])
    return resample(columns, ratios, votes, bootstrap, among)


def shares(
    hits: np.ndarray, among: np.ndarray, votes: Votes, bootstrap: Bootstrap
) -> list[Estimate]:
    """Shares of votes with crossed intervals.

    Args:
        hits: (n, M) what is counted, 0 to 1 per vote (1/2 for a vote that counts half).
        among: (n, M) bool, out of which votes.
        votes: the n votes.
    """
    drawn = means(hits, among, votes, bootstrap)
    return [share_of(drawn, index) for index in range(hits.shape[1])]


def share(hits: np.ndarray, among: np.ndarray, votes: Votes, bootstrap: Bootstrap) -> Estimate:
    """One share of votes: hits (n,) out of among (n,), see `shares`."""
    return shares(hits[:, None], among[:, None], votes, bootstrap)[0]


def share_of(drawn: Resampled, index: int) -> Estimate:
    """Mean `index` of values in [0, 1] with an interval that stays there.

    A share of exactly 0 or 1 shows no spread to a bootstrap; there the interval is the exact
    binomial one with as many independent observations as there are raters or prompts, whichever
    are fewer.
    """
    estimate = drawn.estimate(index, UNIT)
    if estimate.value not in UNIT or estimate.clusters < 2:
        return estimate
    low, high = exact_interval(
        round(estimate.value * estimate.clusters), estimate.clusters, estimate.level
    )
    reach = high - low  # all of it on the one side that is open
    se = reach / float(stdtrit(estimate.clusters - 1, 0.5 + estimate.level / 2))
    note = "no spread: exact interval over raters or prompts"
    return dataclasses.replace(estimate, low=low, high=high, se=se, note=note)


def over_prompts(
    columns: np.ndarray,
    prompt: np.ndarray,
    statistic: Statistic,
    n: int,
    raters: int,
    bootstrap: Bootstrap,
) -> list[Estimate]:
    """Statistics of sums over pairs of clips, with intervals over prompts alone.

    For what cannot be computed with a rater drawn twice, such as agreement between raters.

    Args:
        columns: (U, K), a row per pair of clips.
        prompt: (U,) int, the pairs' prompts.
        statistic: sums (r, K) to (r, M).
        n, raters: votes behind it, and who gave them.
    """
    labels, prompt = np.unique(prompt, return_inverse=True)
    sums = np.zeros((len(labels), columns.shape[1]))
    np.add.at(sums, prompt, columns)
    weights = _draws(len(labels), bootstrap.resamples, np.random.default_rng([bootstrap.seed, 3]))
    with np.errstate(invalid="ignore", divide="ignore"):
        values, draws = statistic(sums.sum(0)[None])[0], statistic(weights @ sums)
    bare = Estimate(None, None, None, None, n, raters, len(labels), bootstrap.level)
    return [_over_prompts(bare, *pair) for pair in zip(values.tolist(), draws.T, strict=True)]


def _over_prompts(bare: Estimate, value: float, draws: np.ndarray) -> Estimate:
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value) or len(draws) == 0:
        return dataclasses.replace(bare, note="not estimable: too few answers, or all the same")
    if bare.prompts < 2:
        return dataclasses.replace(bare, value=value, note="no interval: one prompt")
    tail = (1.0 - bare.level) / 2.0
    low, high = (float(end) for end in np.quantile(draws, [tail, 1.0 - tail]))
    return dataclasses.replace(bare, value=value, low=low, high=high, note="interval over prompts")


def exact_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a rate of `hits` out of n independent trials."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"hits {hits} of {n} is not a rate")
    tail = (1.0 - level) / 2.0
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1.0 - tail))
    return low, high
