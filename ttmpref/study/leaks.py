"""Can a system be told from what is not music? A cross-validated classifier on everything else.

Specification of listening studies, section 7.2 (check 15). For each pair of systems, logistic
regression on the *differences* within a prompt, which is what a listener could compare, validated
on prompts it has not seen. `OUTER` features (size, header, rate, length, loudness, silence, DC)
must be at chance; `INNER` features (peak, crest, bandwidth) belong to the sound and are reported.
A difference below a feature's step is none: nobody hears a hundredth of a LU, and a classifier
must not live off rounding.

Shapes: n prompts (times takes) with both systems, F features.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttmpref.audio import read_clip
from ttmpref.loudness import integrated_loudness, true_peak_db
from ttmpref.study.rendering import audible_span, bandwidth_hz

# Feature and the step below which two values count as equal.
OUTER = {
    "bytes": 1.0, "header_bytes": 1.0, "sample_rate": 1.0, "channels": 1.0, "bits": 1.0,
    "duration_ms": 1.0, "lufs": 0.2, "dc": 1e-3, "lead_ms": 50.0, "tail_ms": 50.0,
}  # fmt: skip
INNER = {"true_peak_db": 0.2, "crest_db": 0.2, "bandwidth_hz": 100.0}
MAX_AUC = 0.55
FOLDS = 10
FLIPS = 100  # relabelled data sets behind the null band
RIDGE = 1.0
NEWTON_STEPS = 8
QUIETEST_DB = -120.0  # stands for the loudness and the peak of silence

Facts = Mapping[str, float]
ClipKey = tuple[str, str, int]  # system, prompt id, take


@dataclass(frozen=True)
class Leak:
    """How well two systems can be told apart without listening.

    Attributes:
        n: compared prompts (times takes).
        outer_auc, inner_auc: cross-validated; 0.5 is chance.
        outer_null, inner_null: 95th percentile of the AUC when systems are swapped at random
            within prompts; an AUC below it is no evidence.
        features: AUC of each single feature, either way round (0.5 to 1).
    """

    first: str
    second: str
    n: int
    outer_auc: float
    outer_null: float
    inner_auc: float
    inner_null: float
    features: dict[str, float]

    @property
    def leaks(self) -> bool:
        """Whether something that is not music gives the system away."""
        return self.outer_auc > MAX_AUC


def file_facts(path: Path) -> dict[str, float]:
    """Everything about an audio file that is not music.

    Raises:
        UnreadableAudio: it cannot be decoded.
    """
    clip = read_clip(path)
    span = audible_span(clip.waveform, clip.sample_rate) or (0, 0)
    header_bytes, bits = _wav_header(path)
    peak = true_peak_db(clip)
    peak = QUIETEST_DB if peak is None else peak
    lufs = integrated_loudness(clip) or QUIETEST_DB
    level = 10 * np.log10(max(1e-12, float(np.square(clip.waveform.astype(np.float64)).mean())))
    milliseconds = 1000 / clip.sample_rate
    return {
        "bytes": path.stat().st_size,
        "header_bytes": header_bytes,
        "sample_rate": clip.sample_rate,
        "channels": clip.channels,
        "bits": bits,
        "duration_ms": clip.samples * milliseconds,
        "lufs": lufs,
        "dc": float(clip.waveform.mean(dtype=np.float64)),
        "lead_ms": span[0] * milliseconds,
        "tail_ms": (clip.samples - span[1]) * milliseconds,
        "true_peak_db": peak,
        "crest_db": peak - level,
        "bandwidth_hz": bandwidth_hz(clip),
    }


def _wav_header(path: Path) -> tuple[int, int]:
    """Bytes before the samples and bits per sample of a WAV file; (0, 0) for other formats."""
    with open(path, "rb") as file:
        riff = file.read(12)
        if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
            return 0, 0
        bits = 0
        while len(chunk := file.read(8)) == 8:
            name, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if name == b"data":
                return file.tell(), bits
            body = file.read(size + size % 2)
            if name == b"fmt " and size >= 16:
                bits = struct.unpack("<H", body[14:16])[0]
    return 0, 0


def leak_report(facts: Mapping[ClipKey, Facts], contrasts: Iterable[tuple[str, str]]) -> list[Leak]:
    """One `Leak` for every pair of systems that share prompts."""
    return [
        leak
        for first, second in contrasts
        if (leak := _leak(facts, first, second)) is not None
    ]


def _leak(facts: Mapping[ClipKey, Facts], first: str, second: str) -> Leak | None:
    places = sorted((prompt, take) for system, prompt, take in facts if system == first)
    places = [(prompt, take) for prompt, take in places if (second, prompt, take) in facts]
    if not places:
        return None
    folds = _folds([prompt for prompt, _ in places])
    differences = {
        name: _differences(facts, first, second, places, name, step)
        for name, step in {**OUTER, **INNER}.items()
    }
    aucs = {name: _auc(values) for name, values in differences.items()}
    outer = _cross_validated(np.stack([differences[name] for name in OUTER], 1), folds)
    inner = _cross_validated(np.stack([differences[name] for name in INNER], 1), folds)
    single = {name: round(max(auc, 1 - auc), 4) for name, auc in aucs.items()}
    return Leak(first, second, len(places), *outer, *inner, single)


def _folds(prompts: Sequence[str]) -> np.ndarray:
    """(n,) fold of each row; takes of a prompt stay together."""
    order = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    return np.array([order[prompt] % FOLDS for prompt in prompts])


def _differences(
    facts: Mapping[ClipKey, Facts],
    first: str,
    second: str,
    places: Sequence[tuple[str, int]],
    name: str,
    step: float,
) -> np.ndarray:
    """(n,) second less first, in steps; less than a step is 0."""
    values = [
        facts[second, prompt, take][name] - facts[first, prompt, take][name]
        for prompt, take in places
    ]
    return np.trunc(np.round(np.array(values) / step, 9))


def _auc(differences: np.ndarray) -> np.ndarray:
    """Area under the curve of scores d / 2 for one system against -d / 2 for the other.

    Args:
        differences: (..., n); leading axes are data sets of their own.
    """
    sums = differences[..., :, None] + differences[..., None, :]
    return (0.5 + 0.5 * np.sign(sums)).mean((-2, -1))


def _cross_validated(differences: np.ndarray, folds: np.ndarray) -> tuple[float, float]:
    """AUC on unseen prompts, and the 95th percentile of the same under random swaps.

    Args:
        differences: (n, F) second less first system.
        folds: (n,) fold of each row.
    """
    rows = differences[:, differences.any(0)]
    if rows.shape[1] == 0:
        return 0.5, 0.5
    rows = rows / np.sqrt(np.square(rows).mean(0))
    rng = np.random.default_rng(0)
    flips = rng.choice([-1.0, 1.0], (FLIPS, len(rows)))
    signs = np.concatenate([np.ones((1, len(rows))), flips])  # the data as they are come first
    data = signs[:, :, None] * rows  # (1 + FLIPS, n, F)
    scores = np.zeros(data.shape[:2])
    for fold in np.unique(folds):
        held_out = folds == fold
        weights = _fit(data[:, ~held_out])
        scores[:, held_out] = (data[:, held_out] @ weights[..., None])[..., 0]
    aucs = _auc(np.round(scores, 9))
    return round(float(aucs[0]), 4), round(float(np.percentile(aucs[1:], 95)), 4)


def _fit(differences: np.ndarray) -> np.ndarray:
    """(P, F) weights of P ridge logistic regressions without intercept, by Newton's method.

    Args:
        differences: (P, n, F), each row second less first system.
    """
    sets, _, features = differences.shape
    weights = np.zeros((sets, features))
    for _ in range(NEWTON_STEPS):
        doubt = 1 / (1 + np.exp(differences @ weights[..., None]))  # (P, n, 1)
        gradient = (differences * doubt).sum(1) - RIDGE * weights
        curvature = (differences * (doubt * (1 - doubt))).transpose(0, 2, 1) @ differences
        curvature += RIDGE * np.eye(features)
        weights = weights + np.linalg.solve(curvature, gradient[..., None])[..., 0]
    return weights
