"""What is said about two systems on the same captions: paired tests and their adjustment.

Tests are one-sided, "after is greater than before", as in the paper's tables (section IV-A): the t
test of the mean difference, and Wilcoxon's of signed ranks, which outliers move less.

Shapes: n captions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Measure:
    """A number with its 95 % interval, None where it has none."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and not self.low <= 0.0 <= self.high


@dataclass(frozen=True)
class Change:
    """after - before over n captions.

    Attributes:
        mean: with Student's interval.
        p_t, p_wilcoxon: one-sided, of "after is not greater".
        p_different: two-sided t test, of "the means are equal".
    """

    n: int
    mean: Measure
    p_t: float
    p_wilcoxon: float
    p_different: float


def mean_of(values: np.ndarray) -> Measure:
    """Mean of (n,) with Student's interval; none for a single value."""
    mean = float(values.mean())
    if len(values) < 2:
        return Measure(mean)
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return Measure(mean, mean - half, mean + half)


def change(before: np.ndarray, after: np.ndarray) -> Change:
    """Tests of (n,) against (n,), n >= 2, captions in the same order.

    Where all differences are equal there is no chance in them: p is 0 or 1.

    Raises:
        ValueError: lengths differ, or fewer than two captions.
    """
    if before.shape != after.shape or before.ndim != 1 or len(before) < 2:
        raise ValueError(f"two or more pairs are needed, got {before.shape} and {after.shape}")
    differences = after.astype(np.float64) - before
    mean = mean_of(differences)
    if np.ptp(differences) == 0.0:
        p_greater = 0.0 if mean.value > 0.0 else 1.0
        return Change(len(before), mean, p_greater, p_greater, float(mean.value == 0.0))
    greater = stats.ttest_1samp(differences, 0.0, alternative="greater").pvalue
    ranks = stats.wilcoxon(differences, alternative="greater").pvalue
    different = stats.ttest_1samp(differences, 0.0).pvalue
    return Change(len(before), mean, float(greater), float(ranks), float(different))


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's r of (n,) and (n,); None where one does not vary."""
    if np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's rho, ties averaged; None where one does not vary."""
    return correlation(stats.rankdata(x), stats.rankdata(y))
