"""How many votes a study needs: exact tables for independent votes, simulation for real designs.

Specification of listening studies, section 2.5. The tables say what n decisive, independent votes
can show. Real votes share raters and prompts, so the calculator draws the actual design again and
again (who hears which prompt, spread of raters and prompts, ties, side bias, careless and excluded
raters) and answers how often the planned test will succeed and how wide the interval will be.

It uses the variance that the crossed bootstrap of `bootstrap` converges to, in closed form, so that
thousands of studies are one array: with residuals e of the n decisive votes,

    V = (sum_raters (sum e)^2 + sum_prompts (sum e)^2 - sum e^2) / n^2, at least sum e^2 / n^2,

times G / (G - 1), tested with t of G - 1 degrees of freedom; G is the smaller number of clusters.

Shapes: S simulated studies, n trials of the contrast, R raters, P prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, bdtrc, bdtrik, ndtri, stdtr, stdtrit

from ttmpref.metrics import wilson_interval
from ttmpref.study.simulation import Design, Population, Schedule, schedule
from ttmpref.study.votes import ANSWERS, MAIN, A, B
from ttmpref.types import InvalidRequest, check_range

CHUNK_ANSWERS = 400_000  # simulated answers held at once
STEADY = 3  # exact power is a saw-tooth: so many n in a row must reach the target
MOST_VOTES = 10_000  # sought by the tables, so many at a time:
TABLE_STEP = 500


@dataclass(frozen=True)
class Rate:
    """A share of simulated studies with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Power:
    """What a planned study can show.

    Attributes:
        studies: simulated studies.
        preference: the true P(prefers y | decisive) behind them.
        decisive: decisive votes on the contrast, mean.
        significant: share of studies whose clustered test rejects one half.
        equivalent: share whose two one-sided tests accept equality; None without a margin.
        covered: share whose interval holds the true preference.
        width: median width of the interval of level 1 - alpha.
        design_effect: mean variance over that of as many independent votes.
    """

    studies: int
    preference: float
    decisive: float
    significant: Rate
    equivalent: Rate | None
    covered: Rate
    width: float
    design_effect: float


def binomial_power(n: np.ndarray, preference: float, alpha: float = 0.05) -> np.ndarray:
    """Power of the exact two-sided binomial test of one half with n (...) independent votes."""
    n = np.asarray(n, float)
    limit = np.floor(bdtrik(alpha / 2.0, n, 0.5) + 1e-9)  # reject at so few votes, or so many
    limit = np.where(bdtr(limit, n, 0.5) > alpha / 2.0, limit - 1.0, limit)
    tails = bdtr(limit, n, preference) + bdtrc(n - limit - 1.0, n, preference)
    return np.where(limit >= 0.0, tails, 0.0)


def votes_for_power(preference: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Decisive votes with which the exact binomial test finds a preference.

    The smallest n that reaches the power together with the two that follow.

    Raises:
        InvalidRequest: a preference of one half, or one that 10,000 votes cannot show.
    """
    check_range("preference", preference, 0.0, 1.0)
    check_range("power", power, 0.0, 1.0)
    for start in range(1, MOST_VOTES, TABLE_STEP):
        votes = np.arange(start, start + TABLE_STEP + STEADY - 1)
        enough = binomial_power(votes, preference, alpha) >= power
        steady = np.lib.stride_tricks.sliding_window_view(enough, STEADY).all(1)
        if steady.any():
            return start + int(steady.argmax())
    raise InvalidRequest(
        f"preference is {preference:g}; {MOST_VOTES} votes do not show it with power {power:g}"
    )


def votes_for_equivalence(margin: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Decisive, independent votes with which two one-sided tests accept P = 1/2 as within margin.

    Normal approximation n = (z_(1 - alpha) + z_((1 + power) / 2))^2 / (4 margin^2): each of the two
    tests may fail half as often as both together.
    """
    check_range("margin", margin, 0.001, 0.499)
    return math.ceil((ndtri(1.0 - alpha) + ndtri((1.0 + power) / 2.0)) ** 2 / (2.0 * margin) ** 2)


def half_width(share: float, n: int) -> float:
    """Half the width of Wilson's 95 % interval of a share of n independent votes."""
    low, high = wilson_interval(round(share * n), n)
    return (high - low) / 2.0


def power(
    design: Design,
    population: Population,
    contrast: tuple[str, str],
    studies: int = 2000,
    alpha: float = 0.05,
    margin: float | None = None,
    excluded: float = 0.0,
    seed: int = 0,
) -> Power:
    """Simulate a design and count what it shows.

    Args:
        contrast: (x, y), one of the design's; power is that of "y is preferred, or x is".
        margin: of equivalence, as in `statistics.equivalence`.
        excluded: share of raters whose votes will be excluded, at random.
    """
    check_range("studies", studies, 10, 1_000_000, whole=True)
    check_range("excluded", excluded, 0.0, 0.9)
    if contrast not in design.contrasts:
        raise InvalidRequest(f"contrast {contrast} is not in the design: {design.contrasts}")
    trials = _Trials.of(schedule(design, seed), contrast)
    rng = np.random.default_rng([seed, 6])
    chunk = max(1, CHUNK_ANSWERS // max(1, trials.count))
    found = [
        trials.study(min(chunk, studies - start), population, contrast, excluded, rng)
        for start in range(0, studies, chunk)
    ]
    return _summary(population.preference(*contrast), np.concatenate(found, 1), alpha, margin)


@dataclass(frozen=True, eq=False)
class _Trials:
    """The main trials of one contrast: who, on which prompt, with y on which side.

    Attributes:
        rater: (n, R) one-hot.
        prompt: (n, P) one-hot.
        y_on_a: (n,) 1 where y is clip A, else -1.
    """

    rater: np.ndarray
    prompt: np.ndarray
    y_on_a: np.ndarray

    @property
    def count(self) -> int:
        return len(self.y_on_a)

    @classmethod
    def of(cls, trials: Schedule, contrast: tuple[str, str]) -> _Trials:
        x, y = (trials.systems.index(system) for system in contrast)
        forwards = (trials.a == y) & (trials.b == x)
        rows = (trials.kind == MAIN) & (forwards | ((trials.a == x) & (trials.b == y)))
        raters, prompts = trials.rater.max() + 1, trials.prompt.max() + 1
        return cls(
            np.eye(raters)[trials.rater[rows]],
            np.eye(prompts)[trials.prompt[rows]],
            np.where(forwards[rows], 1.0, -1.0),
        )

    def study(
        self,
        studies: int,
        people: Population,
        contrast: tuple[str, str],
        excluded: float,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """(4, S): share, standard error, clusters and decisive votes of simulated studies."""
        (raters, prompts), x, y = (self.rater.shape[1], self.prompt.shape[1]), *contrast
        taste = people.rater_sd * rng.standard_normal((studies, raters)) @ self.rater.T
        taste += people.prompt_sd * rng.standard_normal((studies, prompts)) @ self.prompt.T
        taste += people.effects.get(y, 0.0) - people.effects.get(x, 0.0)
        side = people.side_bias + people.side_bias_sd * rng.standard_normal((studies, raters))
        answers = _pick(people.chances(self.y_on_a * taste + side @ self.rater.T), rng)
        kind = rng.random((studies, raters)) @ self.rater.T
        random = (kind < people.lazy) | (rng.random(answers.shape) < people.lapse)
        answers = np.where(random, rng.integers(len(ANSWERS), size=answers.shape), answers)
        answers = np.where(kind >= 1.0 - people.one_sided, A, answers)
        kept = (rng.random((studies, raters)) >= excluded) @ self.rater.T
        decided = np.where(answers <= B, kept, 0.0)
        wins = decided * (answers == np.where(self.y_on_a > 0, A, B))
        return self._share(wins, decided)

    def _share(self, wins: np.ndarray, decided: np.ndarray) -> np.ndarray:
        """(4, S) as `study`, of wins among decided answers, (S, n) each."""
        n = decided.sum(1)
        share = wins.sum(1) / np.maximum(n, 1)
        residual = wins - share[:, None] * decided
        alone = np.square(residual).sum(1)
        clustered = np.square(residual @ self.rater).sum(1)
        clustered += np.square(residual @ self.prompt).sum(1) - alone
        raters, prompts = (((decided @ who) > 0).sum(1) for who in (self.rater, self.prompt))
        clusters = np.minimum(raters, prompts)
        widening = clusters / np.maximum(clusters - 1, 1)
        error = np.sqrt(np.maximum(clustered, alone) * widening) / np.maximum(n, 1)
        return np.stack([share, error, clusters, n])


def _pick(chances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(...) answers drawn with chances (..., 4)."""
    limits = chances.cumsum(-1)[..., :-1]
    return (rng.random(limits.shape[:-1])[..., None] > limits).sum(-1)


def _summary(truth: float, found: np.ndarray, alpha: float, margin: float | None) -> Power:
    """What (4, S) shares, standard errors, clusters and decisive votes show."""
    shares, errors, clusters, decisive = found
    freedom = np.maximum(clusters - 1, 1)
    usable = (clusters > 1) & (errors > 0)
    errors = np.where(usable, errors, np.inf)  # nothing can be shown where nothing varies
    reach = stdtrit(freedom, 1.0 - alpha / 2.0) * errors
    equivalent = None
    if margin is not None:
        nearest = np.minimum(shares - 0.5 + margin, 0.5 + margin - shares)
        equivalent = _rate(stdtr(freedom, nearest / errors) >= 1.0 - alpha)
    independent = shares * (1.0 - shares) / np.maximum(decisive, 1)
    effect = np.square(errors[usable]) / independent[usable]
    return Power(
        len(shares),
        truth,
        float(decisive.mean()),
        significant=_rate(np.abs(shares - 0.5) > reach),
        equivalent=equivalent,
        covered=_rate(np.abs(shares - truth) <= reach),
        width=float(np.median(2.0 * reach)),
        design_effect=float(effect.mean()) if len(effect) else math.nan,
    )


def _rate(hits: np.ndarray) -> Rate:
    return Rate(float(hits.mean()), *wilson_interval(int(hits.sum()), len(hits)))
