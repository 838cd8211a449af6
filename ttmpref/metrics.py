"""Numbers that compare sets of clips: Frechet and kernel distance, CLAP score, spectra, ranks,
intervals, calibration of preferences.

Pure NumPy in double precision: embeddings come in as arrays, so nothing here knows which network
made them, and every function has a closed form that its test states.

Shapes: embeddings (n, d), one row per clip; waveforms (S,) mono; similarities (queries,
candidates); margins (n,), reward of A less reward of B of each pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LSD_SIZES = (512, 1024, 2048)
LSD_FLOOR_DB = -80.0


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and spread of a set of embeddings, ready for Frechet distances.

    Attributes:
        mean: (d,).
        factor: (min(n, d), d) with factor^T factor the sample covariance.
    """

    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Gaussian:
        """The Gaussian of (n, d) rows, n >= 2; raises ValueError for fewer or not finite ones."""
        rows = np.asarray(rows, np.float64)
        if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all():
            raise ValueError(f"embeddings must be finite, (2 or more, d); got shape {rows.shape}")
        mean = rows.mean(0)
        centred = (rows - mean) / math.sqrt(len(rows) - 1)
        wide = len(rows) <= rows.shape[1]
        return cls(mean, centred if wide else np.linalg.qr(centred, mode="r"))

    def distance(self, other: Gaussian) -> float:
        """Squared Frechet distance; see `frechet_distance`."""
        if self.mean.shape != other.mean.shape:
            widths = f"{len(self.mean)} and {len(other.mean)}"
            raise ValueError(f"embeddings differ in width: {widths}")
        shift = np.square(self.mean - other.mean).sum()
        overlap = np.linalg.svd(self.factor @ other.factor.T, compute_uv=False).sum()
        spread = np.square(self.factor).sum() + np.square(other.factor).sum()
        return max(0.0, float(shift + spread - 2.0 * overlap))


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of embeddings (FAD).

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). With A the centred rows over sqrt(n - 1),
    S = A^T A, and the last trace is the sum of the singular values of A B^T. So no covariance and
    no complex square root is formed, and fewer clips than dimensions are no special case. The
    estimate is biased upwards by about 1/n: compare only values of equal n.

    Args:
        first: (n, d), n >= 2.
        second: (m, d), m >= 2.

    Returns:
        A number >= 0.

    Raises:
        ValueError: fewer than two rows, different widths, or values that are not finite.
    """
    return Gaussian.of(first).distance(Gaussian.of(second))


def frechet_draws(
    rows: np.ndarray, reference: Gaussian, resamples: int, seed: int = 0
) -> np.ndarray:
    """(resamples,) Frechet distances of rows drawn with replacement.

    Sets of equal n are drawn alike, so that draws of two systems on the same prompts are paired.
    Repeated rows make every draw larger than the distance itself: only spread and differences mean
    something (`spread_interval`).
    """
    rng = np.random.default_rng(seed)
    n = len(rows)
    picks = (rng.integers(n, size=n) for _ in range(resamples))
    return np.array([Gaussian.of(rows[pick]).distance(reference) for pick in picks])


def spread_interval(value: float, draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of draws about their own mean, moved to `value`.

    For statistics that resampling shifts, such as the Frechet distance; their bias at this n stays
    in value and interval alike.
    """
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(draws, [tail, 100 - tail]) - draws.mean()
    return value + float(low), value + float(high)


def frechet_infinity(
    rows: np.ndarray, reference: Gaussian, sizes: int = 12, draws: int = 4, seed: int = 0
) -> float | None:
    """Frechet distance extrapolated to infinitely many rows (Chong and Forsyth 2020, Gui et al.
    2024): the line through distances of random subsets over 1 / size, at zero.

    Closer to the truth than the distance itself where n exceeds the width; it may be negative.

    Args:
        rows: (n, d).
        sizes: subset sizes, evenly spread from n / 4 to n.
        draws: subsets of each size, without replacement.

    Returns:
        None for fewer than eight rows.
    """
    n = len(rows)
    if n < 8:
        return None
    rng = np.random.default_rng(seed)
    counts = np.unique(np.linspace(n / 4, n, sizes).round().astype(int))
    means = [
        np.mean(
            [
                Gaussian.of(rows[rng.permutation(n)[:count]]).distance(reference)
                for _ in range(draws)
            ]
        )
        for count in counts
    ]
    return line_at_zero(1.0 / counts, np.array(means))


def line_at_zero(x: np.ndarray, y: np.ndarray) -> float:
    """Where the least-squares line through (x, y) meets x = 0."""
    return float(np.polynomial.polynomial.polyfit(x, y, 1)[0])


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Kernel audio distance (Chung et al. 2025), here without a scale factor: the unbiased squared
    maximum mean discrepancy, zero on average for equal distributions at any n.

    The kernel is exp(-|x - y|^2 / (2 h^2)), h the median distance between rows of `second`.

    Args:
        first: (n, d), n >= 2.
        second: (m, d) of the reference, m >= 2.

    Raises:
        ValueError: the reference has no spread.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    within = _squared_distances(second, second)
    width = float(np.median(np.sqrt(within[np.triu_indices(len(second), 1)]))) ** 2
    if width == 0.0:
        raise ValueError("the rows of the reference are all alike; KAD needs some that differ")

    def kernel(squares: np.ndarray) -> np.ndarray:
        return np.exp(-squares / (2.0 * width))

    def mean_of_pairs(squares: np.ndarray) -> float:
        n = len(squares)
        return (kernel(squares).sum() - n) / (n * (n - 1))

    across = kernel(_squared_distances(first, second)).mean()
    own = mean_of_pairs(_squared_distances(first, first))
    return float(own + mean_of_pairs(within) - 2.0 * across)


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, m) squared distances of rows; a row is at zero from itself."""
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2.0 * (x @ y.T)
    if x is y:
        np.fill_diagonal(squares, 0.0)
    return squares.clip(min=0.0)


def clap_score(text: np.ndarray, audio: np.ndarray) -> float:
    """Mean cosine of matching rows, text (n, d) against audio (n, d); -1 to 1."""
    if text.shape != audio.shape:
        raise ValueError(f"text {text.shape} and audio {audio.shape} must have the same shape")
    lengths = np.linalg.norm(text, axis=1) * np.linalg.norm(audio, axis=1)
    return float(((text * audio).sum(1) / lengths).mean())


def spectrum_db(waveform: np.ndarray, size: int, floor_db: float = LSD_FLOOR_DB) -> np.ndarray:
    """(frames, size // 2 + 1) magnitudes in dB; a full-scale sine peaks at 0 dB.

    Args:
        waveform: (S,), zero-padded to one frame where shorter.
        size: samples of a frame; Hann window, frames size / 4 apart.
        floor_db: smaller magnitudes are raised to it.
    """
    padded = np.pad(waveform, (0, max(0, size - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 4]
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    magnitude = np.abs(np.fft.rfft(frames * window)) / (window.sum() / 2)
    return 20.0 * np.log10(np.maximum(magnitude, 10.0 ** (floor_db / 20)))


def log_spectral_distance(reference: np.ndarray, other: np.ndarray) -> float:
    """Multi-resolution log-spectral distance in dB.

    Difference of `spectrum_db` (floor -80 dB re full scale): root mean square over frequency, mean
    over frames, mean over frame sizes 512, 1024 and 2048. Phase plays no part.

    Args:
        reference, other: (S,) in [-1, 1], of equal length.
    """
    if reference.shape != other.shape or reference.ndim != 1:
        raise ValueError(f"waveforms must be equally long, got {reference.shape}, {other.shape}")
    per_size = []
    for size in LSD_SIZES:
        difference = spectrum_db(reference, size) - spectrum_db(other, size)
        per_size.append(np.sqrt(np.square(difference).mean(1)).mean())
    return float(np.mean(per_size))


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019).

    10 log10(|a r|^2 / |e - a r|^2), a the projection of the estimate e on the reference r; infinite
    where nothing but scale differs. No mean is removed.

    Args:
        estimate, reference: equal shapes, all values taken together; the reference is not silent.
    """
    if estimate.shape != reference.shape:
        raise ValueError(f"shapes must be equal, got {estimate.shape} and {reference.shape}")
    e, r = estimate.ravel().astype(np.float64), reference.ravel().astype(np.float64)
    power = float(r @ r)
    if power == 0.0:
        raise ValueError("SI-SDR is not defined for a silent reference")
    target = (float(e @ r) / power) * r
    with np.errstate(divide="ignore"):
        return float(10 * np.log10((target @ target) / np.square(e - target).sum()))


def retrieval_ranks(similarities: np.ndarray) -> np.ndarray:
    """Rank (1 is best) of candidate i for query i; ties count against it.

    Args:
        similarities: (n, n), rows are queries, the right answers on the diagonal.
    """
    right = similarities.diagonal()[:, None]
    return (similarities >= right).sum(1)


def recall_at(ranks: np.ndarray, k: int) -> float:
    """Share of queries whose right answer is among the first k."""
    return float((ranks <= k).mean())


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    n: int,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic under resampling of its n rows.

    Args:
        statistic: called with (n,) row numbers drawn with replacement; rows that belong together
            (the same prompt, the same piece) therefore stay together.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(n, size=n)) for _ in range(resamples)]
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def wilson_interval(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Score interval of a rate of `hits` out of n (95 % with the default z)."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"hits {hits} of {n} is not a rate")
    rate = hits / n
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs of about equal |margin|: what the model claims of them and what is so.

    Attributes:
        margin_low, margin_high: smallest and largest |margin|.
        n: pairs.
        confidence: mean of sigma(|margin|), the claimed rate of right choices.
        accuracy: rate of right choices.
    """

    margin_low: float
    margin_high: float
    n: int
    confidence: float
    accuracy: float


def chosen_rightly(margins: np.ndarray, wins: np.ndarray) -> np.ndarray:
    """(n,) bool: whether a model that chooses A where the margin is positive chose as people did.

    A margin of zero counts as a choice of B.

    Args:
        margins: (n,).
        wins: (n,) bool, whether people preferred A; ties are left out beforehand.
    """
    if margins.shape != wins.shape or margins.ndim != 1:
        raise ValueError(f"margins {margins.shape} and wins {wins.shape} must be one row each")
    return (margins > 0) == wins


def reliability(margins: np.ndarray, wins: np.ndarray, bins: int = 10) -> list[ReliabilityBin]:
    """Confidence against accuracy in bins of floor(n / bins) pairs by |margin|.

    The last bin takes what is left over; fewer pairs than bins give one bin each.

    Args:
        margins, wins: as for `chosen_rightly`, n >= 1.
    """
    order, starts = _bins(margins, bins)
    hits = chosen_rightly(margins, wins)[order]
    sizes = np.abs(margins[order])
    counts = np.diff([*starts, len(order)])
    claims, rights = _bin_sums(_sigmoid(sizes), starts), _bin_sums(hits, starts)
    return [
        ReliabilityBin(
            float(sizes[start]),
            float(sizes[start + count - 1]),
            int(count),
            float(claim / count),
            float(right / count),
        )
        for start, count, claim, right in zip(starts, counts, claims, rights, strict=True)
    ]


def calibration_error(bins: list[ReliabilityBin]) -> float:
    """Expected calibration error: mean over pairs of |confidence - accuracy| of their bin."""
    n = sum(one.n for one in bins)
    return sum(one.n * abs(one.confidence - one.accuracy) for one in bins) / n


def calibration_null(
    margins: np.ndarray, bins: int = 10, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and 95th percentile of the calibration error of a model that is perfectly calibrated.

    Simulated: choices are right with probability sigma(|margin|), everything else as measured. An
    error below the percentile is no evidence against calibration.

    Args:
        margins: (n,), n >= 1.
    """
    order, starts = _bins(margins, bins)
    claims = _sigmoid(np.abs(margins[order]))
    rng = np.random.default_rng(seed)
    errors = [
        np.abs(_bin_sums(claims - (rng.random(len(claims)) < claims), starts)).sum() / len(claims)
        for _ in range(draws)
    ]
    return float(np.mean(errors)), float(np.percentile(errors, 95))


def _bins(margins: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Order by |margin|, and where in it each bin starts."""
    if len(margins) == 0:
        raise ValueError("no pairs: calibration needs at least one that is not a tie")
    bins = min(bins, len(margins))
    return np.argsort(np.abs(margins), kind="stable"), np.arange(bins) * (len(margins) // bins)


def _bin_sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values.astype(np.float64), starts)


def chance_preferred(reward: float, other: float) -> float:
    """Probability that people who decide prefer a clip of one reward to one of another.

    1 / (1 + exp(other - reward)), the model under which rewards are trained; as good as the
    ranker's calibration.
    """
    return float(_sigmoid(np.float64(reward - other)))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-values.astype(np.float64)))
