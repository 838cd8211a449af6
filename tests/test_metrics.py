"""Closed forms of the metrics."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.griffin_lim import griffin_lim, magnitude_from_mel
from tests.seeded import shared_file
from ttmpref.metrics import (
    ReliabilityBin,
    bootstrap_interval,
    calibration_error,
    calibration_null,
    chosen_rightly,
    clap_score,
    frechet_distance,
    log_spectral_distance,
    recall_at,
    reliability,
    retrieval_ranks,
    si_sdr,
    spectrum_db,
    wilson_interval,
)


def _rows(n: int, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width))


def _by_eigenvalues(first: np.ndarray, second: np.ndarray) -> float:
    """The definition with covariances and a symmetric square root."""
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(0)).sum()
    shift = np.square(first.mean(0) - second.mean(0)).sum()
    return float(shift + np.trace(s1) + np.trace(s2) - 2 * cross)


@pytest.mark.parametrize("n", [4, 50])  # fewer and more rows than dimensions
def test_frechet_distance_of_a_shifted_set_is_the_squared_shift(n: int) -> None:
    shift = np.array([3.0, 0.0, 4.0, 0.0, 0.0, 0.0])
    assert frechet_distance(_rows(n), _rows(n) + shift) == pytest.approx(25.0)


def test_frechet_distance_of_a_scaled_set_is_known() -> None:
    rows = _rows(40)
    spread = np.trace(np.cov(rows, rowvar=False))
    centred = rows - rows.mean(0)
    assert frechet_distance(centred, 3.0 * centred) == pytest.approx(4.0 * spread)


@pytest.mark.parametrize(("n", "m"), [(5, 4), (5, 60), (80, 60)])
def test_frechet_distance_equals_the_form_with_covariances(n: int, m: int) -> None:
    first, second = _rows(n, 20, 1), 1.5 * _rows(m, 20, 2) + 0.3
    assert frechet_distance(first, second) == pytest.approx(_by_eigenvalues(first, second))


def test_frechet_distance_is_zero_for_the_same_set_and_symmetric() -> None:
    first, second = _rows(9), _rows(12, seed=3)
    assert frechet_distance(first, first[::-1]) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))


@pytest.mark.parametrize(
    "rows", [np.zeros((1, 6)), np.zeros(6), np.full((3, 6), np.nan), np.zeros((3, 5))]
)
def test_frechet_distance_refuses_what_has_no_gaussian(rows: np.ndarray) -> None:
    with pytest.raises(ValueError):
        frechet_distance(rows, _rows(9))


def test_clap_score_is_the_mean_cosine() -> None:
    text = np.array([[2.0, 0.0], [0.0, 1.0]])
    audio = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert clap_score(text, audio) == pytest.approx(0.5)


def _tone(amplitude: float = 1.0) -> np.ndarray:
    # 64 samples a period: a whole bin of every frame size.
    return (amplitude * np.sin(2 * np.pi * np.arange(8192) / 64)).astype(np.float32)


def test_a_full_scale_sine_peaks_at_0_db() -> None:
    assert spectrum_db(_tone(), 1024).max(1) == pytest.approx(0.0, abs=1e-3)
    assert spectrum_db(np.zeros(100, np.float32), 512).tolist() == [[-80.0] * 257]


def test_log_spectral_distance_of_a_gain_is_the_gain() -> None:
    noise = np.random.default_rng(0).standard_normal(16384).astype(np.float32) * 0.3
    assert log_spectral_distance(noise, noise) == 0.0
    assert log_spectral_distance(noise, 0.5 * noise) == pytest.approx(6.0206, abs=0.01)
    assert log_spectral_distance(noise, -noise) == pytest.approx(0.0, abs=1e-6)


def test_log_spectral_distance_ignores_what_lies_under_the_floor() -> None:
    quiet = 1e-6 * _tone()
    assert log_spectral_distance(quiet, 0.1 * quiet) == 0.0


def test_log_spectral_distance_refuses_other_lengths() -> None:
    with pytest.raises(ValueError, match="equally long"):
        log_spectral_distance(_tone(), _tone()[:-1])


def test_ranks_count_better_and_equal_candidates() -> None:
    similarities = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.3, 0.2, 0.1]])
    ranks = retrieval_ranks(similarities)
    assert ranks.tolist() == [1, 2, 3]
    assert recall_at(ranks, 2) == pytest.approx(2 / 3)


def test_bootstrap_interval_holds_the_mean_and_is_repeatable() -> None:
    values = _rows(400, 1)[:, 0] + 5.0
    interval = bootstrap_interval(lambda rows: float(values[rows].mean()), 400)
    low, high = interval
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert interval == bootstrap_interval(lambda rows: float(values[rows].mean()), 400)


def test_wilson_interval_matches_its_closed_form_at_the_ends() -> None:
    assert wilson_interval(0, 10) == pytest.approx((0.0, 1.96**2 / (10 + 1.96**2)))
    assert wilson_interval(10, 10) == pytest.approx((10 / (10 + 1.96**2), 1.0))
    with pytest.raises(ValueError):
        wilson_interval(3, 2)


def test_a_margin_of_zero_chooses_b() -> None:
    margins, wins = np.array([0.5, 0.0, 0.0, -1.0]), np.array([True, True, False, True])
    assert chosen_rightly(margins, wins).tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match="one row each"):
        chosen_rightly(margins, wins[:2])


def test_bins_are_equal_and_the_last_takes_the_rest() -> None:
    margins = np.linspace(-2.0, 2.3, 27)
    bins = reliability(margins, margins > 0, bins=4)
    assert [one.n for one in bins] == [6, 6, 6, 9]
    assert bins[0].margin_low == np.abs(margins).min() and bins[-1].margin_high == 2.3
    assert all(one.accuracy == 1.0 for one in bins)


def test_the_calibration_error_of_one_claim_is_its_distance_from_the_truth() -> None:
    margins = np.full(40, np.log(4.0))  # claims 80 %
    wins = np.arange(40) % 4 > 0  # 75 % are so
    bins = reliability(margins, wins, bins=1)
    assert bins == [ReliabilityBin(np.log(4.0), np.log(4.0), 40, pytest.approx(0.8), 0.75)]
    assert calibration_error(bins) == pytest.approx(0.05)
    assert len(reliability(margins[:3], wins[:3])) == 3
    with pytest.raises(ValueError, match="no pairs"):
        reliability(margins[:0], wins[:0])


def test_the_null_band_of_one_bin_is_that_of_a_fair_coin() -> None:
    mean, high = calibration_null(np.zeros(400), bins=1, draws=4000)
    deviation = 0.5 / 20  # of the rate of heads in 400 throws
    assert mean == pytest.approx(deviation * np.sqrt(2 / np.pi), rel=0.05)
    assert high == pytest.approx(1.96 * deviation, rel=0.05)


def test_calibrated_margins_lie_inside_their_null_band_and_doubled_ones_do_not() -> None:
    rng = np.random.default_rng(1)
    margins = rng.normal(0, 1.5, 3000)
    wins = rng.random(3000) < 1 / (1 + np.exp(-margins))
    for scale, inside in ((1.0, True), (2.0, False)):
        error = calibration_error(reliability(scale * margins, wins))
        assert (error <= calibration_null(scale * margins, draws=200)[1]) == inside


def test_the_released_calibration_bins_give_their_published_error_and_its_null_band() -> None:
    text = shared_file("data/tunejury/calibration_bins.json").read_text()
    overall = json.loads(text)["overall"]
    bins = [
        ReliabilityBin(
            one["margin_lo"], one["margin_hi"], one["n"], one["mean_confidence"],
            one["empirical_winrate"],
        )
        for one in overall["bins"]
    ]  # fmt: skip
    assert calibration_error(bins) == pytest.approx(overall["expected_calibration_error"])
    logits = [np.log(one.confidence / (1 - one.confidence)) for one in bins]
    margins = np.repeat(logits, [one.n for one in bins])
    mean, high = calibration_null(margins)
    assert mean == pytest.approx(0.0236, abs=5e-4) and high == pytest.approx(0.0336, abs=1e-3)


def _inconsistency(waveform: torch.Tensor, magnitude: torch.Tensor) -> float:
    spectrum = torch.stft(
        waveform, 256, 64, window=torch.hann_window(256), return_complex=True
    ).abs()
    return ((spectrum - magnitude).norm() / magnitude.norm()).item()


def test_griffin_lim_comes_closer_to_the_magnitudes_with_every_round() -> None:
    time = torch.arange(4096) / 8000
    waveform = (torch.sin(2 * torch.pi * (300 + 400 * time) * time) * (1 - time))[None]
    window = torch.hann_window(256)
    magnitude = torch.stft(waveform, 256, 64, window=window, return_complex=True).abs()
    errors = [
        _inconsistency(griffin_lim(magnitude, 256, 64, rounds), magnitude) for rounds in (0, 4, 32)
    ]
    assert errors[2] < 0.5 * errors[0]
    assert errors[2] < errors[1] < errors[0]


def test_mel_inversion_is_non_negative_and_explains_the_mel() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.rand(8, 33, generator=generator) * (torch.rand(8, 33, generator=generator) > 0.7)
    mel = basis @ torch.rand(2, 33, 5, generator=generator)
    magnitude = magnitude_from_mel(mel, basis)
    assert magnitude.min() >= 0
    assert ((basis @ magnitude - mel).norm() / mel.norm()).item() < 0.02


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_powers_at_any_level() -> None:
    time = np.arange(1_000) / 1_000
    tone, noise = np.sin(2 * np.pi * 10 * time), np.cos(2 * np.pi * 70 * time)
    heard = np.stack([tone + 0.1 * noise, tone])  # two channels, an error in one of them
    assert si_sdr(heard, np.stack([tone, tone])) == pytest.approx(20 + 10 * np.log10(2), abs=0.02)
    assert si_sdr(-3 * heard, np.stack([tone, tone])) == pytest.approx(
        si_sdr(heard, np.stack([tone, tone]))
    )


def test_si_sdr_of_the_reference_itself_is_infinite_and_of_silence_undefined() -> None:
    row = np.ones(8)
    assert si_sdr(2 * row, row) == np.inf
    with pytest.raises(ValueError, match="silent reference"):
        si_sdr(row, 0 * row)
    with pytest.raises(ValueError, match=r"\(8,\) and \(7,\)"):
        si_sdr(row, row[:7])
