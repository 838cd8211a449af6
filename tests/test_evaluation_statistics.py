"""Closed forms behind the tables: distances, their extrapolation, paired tests, correlations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ttmpref.evaluation.comparison import (
    Measure,
    change,
    correlation,
    mean_of,
    rank_correlation,
)
from ttmpref.evaluation.tables import score_r
from ttmpref.metrics import (
    Gaussian,
    frechet_distance,
    frechet_draws,
    frechet_infinity,
    kernel_distance,
    line_at_zero,
    spread_interval,
)


def rows(n, width=6, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width))


def test_a_gaussian_made_once_gives_the_same_distance():
    first, second = rows(20), 2.0 + rows(30, seed=1)
    assert Gaussian.of(first).distance(Gaussian.of(second)) == frechet_distance(first, second)


def test_draws_of_systems_that_differ_by_a_shift_of_the_reference_are_paired():
    """Both are resampled alike, so a shift moves every draw by what its own mean says."""
    first, shift = rows(25), np.array([3.0, 0, 0, 0, 0, 0])
    reference = Gaussian.of(rows(200, seed=2))
    draws = frechet_draws(first, reference, 40)
    moved = frechet_draws(first + shift, reference, 40)
    picks = np.random.default_rng(0)
    means = np.array([first[picks.integers(25, size=25)].mean(0) for _ in range(40)])
    expected = ((means + shift - reference.mean) ** 2 - (means - reference.mean) ** 2).sum(1)
    assert moved - draws == pytest.approx(expected)


def test_an_interval_of_draws_is_centred_on_the_value():
    draws = np.linspace(4.0, 6.0, 2001)  # of a statistic that resampling moved from 3 to 5
    assert spread_interval(3.0, draws) == pytest.approx((2.05, 3.95))


def test_a_line_over_one_over_n_is_extrapolated_exactly():
    sizes = np.array([5, 10, 20, 40])
    assert line_at_zero(1 / sizes, 0.25 + 7.0 / sizes) == pytest.approx(0.25)


def test_extrapolation_takes_most_of_the_bias_away():
    """Both sets are of one distribution, whose distance from itself is zero."""
    reference = Gaussian.of(rows(20_000, seed=3))
    plain = [Gaussian.of(rows(60, seed=s)).distance(reference) for s in range(4, 9)]
    far = [frechet_infinity(rows(60, seed=s), reference) for s in range(4, 9)]
    assert abs(np.mean(far)) < 0.25 * np.mean(plain)


def test_there_is_no_extrapolation_of_a_handful_of_clips():
    assert frechet_infinity(rows(7), Gaussian.of(rows(50))) is None


def test_kernel_distance_of_pairs_is_the_formula():
    first, second = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    width = 2.0  # the only distance within the reference

    def kernel(distance):
        return np.exp(-(distance**2) / (2 * width**2))

    across = np.mean([kernel(0), kernel(2), kernel(1), kernel(1)])
    expected = kernel(1) + kernel(2) - 2 * across
    assert kernel_distance(first, second) == pytest.approx(expected)


def test_kernel_distance_of_equal_distributions_is_zero_on_average_at_any_n():
    found = [kernel_distance(rows(12, seed=s), rows(40, seed=100 + s)) for s in range(60)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error
    assert kernel_distance(rows(12) + 2.0, rows(40, seed=1)) > 5 * np.std(found)


def test_a_reference_without_spread_is_refused():
    with pytest.raises(ValueError, match="all alike"):
        kernel_distance(rows(5), np.ones((5, 6)))


def test_paired_tests_are_those_of_the_differences():
    before, after = rows(30, 1)[:, 0], rows(30, 1, seed=1)[:, 0] + 0.4
    found = change(before, after)
    difference = after - before
    half = stats.t.ppf(0.975, 29) * difference.std(ddof=1) / np.sqrt(30)
    assert found.n == 30
    assert found.mean.value == pytest.approx(difference.mean())
    assert found.mean.high - found.mean.value == pytest.approx(half)
    t = difference.mean() / (difference.std(ddof=1) / np.sqrt(30))
    assert found.p_t == pytest.approx(stats.t.sf(t, 29))
    assert found.p_different == pytest.approx(2 * stats.t.sf(abs(t), 29))


def test_signed_ranks_of_five_gains_have_the_exact_p_value():
    before = np.zeros(5)
    assert change(before, np.array([0.1, 0.3, 0.2, 0.5, 0.4])).p_wilcoxon == pytest.approx(1 / 32)


def test_one_sided_tests_of_the_two_directions_add_up():
    before, after = rows(20, 1)[:, 0], rows(20, 1, seed=1)[:, 0]
    assert change(before, after).p_t + change(after, before).p_t == pytest.approx(1.0)


@pytest.mark.parametrize(("gain", "p", "p_different"), [(0.0, 1, 1), (0.5, 0, 0), (-0.5, 1, 0)])
def test_differences_without_chance_have_p_values_without_doubt(gain, p, p_different):
    found = change(np.arange(4.0), np.arange(4.0) + gain)
    assert (found.p_t, found.p_wilcoxon, found.p_different) == (p, p, p_different)


def test_rows_of_other_lengths_cannot_be_compared():
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        change(np.zeros(3), np.zeros(4))


def test_a_single_value_has_no_interval():
    assert mean_of(np.array([2.0])) == Measure(2.0)
    assert not Measure(2.0).excludes_zero
    assert Measure(1.0, 0.5, 1.5).excludes_zero
    assert not Measure(1.0, -0.5, 2.5).excludes_zero


def test_correlations_know_lines_orders_and_constants():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert correlation(x, 3 - 2 * x) == pytest.approx(-1.0)
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1.0)
    assert rank_correlation(x, np.array([1.0, 1.0, 2.0, 2.0])) == pytest.approx(2 / np.sqrt(5))
    assert correlation(x, np.ones(4)) is None


def test_score_r_is_the_correlation_over_all_clips():
    rewards = np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])  # (scores, captions)
    expected = np.corrcoef([0, 0, 0, 1, 1, 1], rewards.ravel())[0, 1]
    found = score_r((0.0, 1.0), rewards)
    assert found.value == pytest.approx(expected)
    assert found.low <= found.value <= found.high
