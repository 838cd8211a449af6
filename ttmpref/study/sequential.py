"""Stopping that is valid at any look: e-values against "nobody can tell", confidence sequences.

Specification of listening studies, section 2.3. Sides are drawn by us, so under the sharp null a
decisive answer prefers y with the probability q with which y was put on the side that was chosen:
1/2 for a coin, whatever the raters' side bias and however votes cluster. Tilting the odds
q / (1 - q) by exp(theta) gives a fair bet against the null for every theta; the e-value is the mean
of the bets over theta and a martingale that starts at 1. By Ville's inequality it reaches 1 / alpha
with probability at most alpha, however often one looks. For coins the mixture is Beta(1/2, 1/2) on
P = sigma(theta) and

    E = B(k + 1/2, n - k + 1/2) / B(1/2, 1/2) * 2^n    for k of n answers.

Where sides were balanced in blocks, the late sides of a block can be foreseen; q then comes from
the stored probability of each side, and a side that was certain bets nothing.

Shapes: n decisive votes in order of arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln

from ttmpref.study.votes import Votes

PRIOR = 0.5  # Beta(1/2, 1/2), which loses least in the worst case (Krichevsky and Trofimov 1981)
MIXTURE = 256  # quantiles of it that stand for it where probabilities are not 1/2
BISECTIONS = 50


@dataclass(frozen=True)
class Evidence:
    """Where a study stands against its stopping rule.

    Attributes:
        n, wins: decisive answers so far, and those for y.
        e_value: evidence against "nobody can tell x from y"; 1 at the start.
        largest: largest e-value at any look so far; what counts for stopping.
        alpha: reject, and stop, at 1 / alpha.
        stopped_at: number of decisive answers at the first crossing, None before.
        interval: confidence sequence for P(prefers y) at level 1 - alpha. Valid at any look, but it
            treats votes as independent; the crossed bootstrap at the end is the estimate.
    """

    n: int
    wins: int
    e_value: float
    largest: float
    alpha: float
    stopped_at: int | None
    interval: tuple[float, float]

    @property
    def stop(self) -> bool:
        return self.stopped_at is not None


def evidence(votes: Votes, x: str, y: str, alpha: float = 0.05) -> Evidence:
    """The evidence of the votes between x and y, in order of arrival."""
    votes = votes.between(x, y)
    preferred = votes.prefers(y)
    decided = preferred != 0
    wins = preferred[decided] > 0
    # Sides as they were have the stored probability. y won on the chosen side: so it was there.
    stored = votes.side_probability[decided]
    logs = log_e_values(wins, np.where(wins, stored, 1.0 - stored))
    crossed = np.flatnonzero(logs >= -math.log(alpha))
    n, k = len(wins), int(wins.sum())
    return Evidence(
        n,
        k,
        e_value=_exp(logs[-1]) if n else 1.0,
        largest=_exp(max(0.0, logs.max(initial=0.0))),
        alpha=alpha,
        stopped_at=int(crossed[0]) + 1 if len(crossed) else None,
        interval=confidence_sequence(k, n, alpha),
    )


def log_e_values(wins: np.ndarray, chances: np.ndarray | None = None) -> np.ndarray:
    """(..., n) log e-value after each vote.

    Args:
        wins: (..., n) bool, whether y was preferred.
        chances: (..., n) probability of that under the null, given all before; default 1/2.
    """
    wins = np.asarray(wins, bool)
    if chances is None or np.all(chances == 0.5):
        n = np.arange(1, wins.shape[-1] + 1)
        k = wins.cumsum(-1)
        prior = betaln(PRIOR, PRIOR)
        return betaln(k + PRIOR, n - k + PRIOR) - prior + n * math.log(2.0)
    return _mixture(wins, np.asarray(chances, float))


def _mixture(wins: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """(..., n) log of the mean over tilts of the likelihood ratios."""
    total = np.full(wins.shape, -np.inf)
    for theta in _tilts():
        tilted = chances * math.exp(theta)
        tilted = tilted / (1.0 - chances + tilted)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(wins, tilted / chances, (1.0 - tilted) / (1.0 - chances))
        ratio = np.where((chances <= 0.0) | (chances >= 1.0), 1.0, ratio)
        total = np.logaddexp(total, np.log(ratio).cumsum(-1))
    return total - math.log(MIXTURE)


def _tilts() -> np.ndarray:
    """(MIXTURE,) log odds of the middles of equal shares of Beta(1/2, 1/2), the arcsine law."""
    share = (np.arange(MIXTURE) + 0.5) / MIXTURE
    return 2.0 * np.log(np.tan(share * math.pi / 2.0))


def confidence_sequence(wins: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """The values of P that `wins` of n have not refuted at level alpha, at any look.

    Those p with B(k + 1/2, n - k + 1/2) / B(1/2, 1/2) < p^k (1 - p)^(n - k) / alpha.
    """
    if n == 0:
        return 0.0, 1.0
    limit = betaln(wins + PRIOR, n - wins + PRIOR) - betaln(PRIOR, PRIOR) + math.log(alpha)

    def kept(p: float) -> bool:
        return _log_power(p, wins) + _log_power(1.0 - p, n - wins) > limit

    best = wins / n
    return _edge(kept, best, 0.0), _edge(kept, best, 1.0)


def _log_power(base: float, exponent: int) -> float:
    if exponent == 0:
        return 0.0
    return exponent * math.log(base) if base > 0.0 else -math.inf


def _edge(kept: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where `kept` ends between a value that is kept and the end of the range."""
    if kept(outside):
        return outside
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2.0
        inside, outside = (middle, outside) if kept(middle) else (inside, middle)
    return outside


def _exp(log_value: float) -> float:
    """exp that stays finite, so that JSON can hold it."""
    return math.exp(min(float(log_value), 700.0))
