"""What the autoencoder and vocoder lose, against Griffin-Lim on the same decoded mel.

Held-out 10 s windows go through the posterior mean and back to a mel; the vocoder and Griffin-Lim
(`benchmarks.griffin_lim`) each turn that same mel into sound. Measured against the original: the
multi-resolution log-spectral distance (`ttmpref.metrics.log_spectral_distance`) and the Frechet
distance of CLAP embeddings between all originals and all reconstructions, at equal n.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.common import Figure, Report, Setting, run
from benchmarks.griffin_lim import (
    LEAST_SQUARES_STEPS,
    MOMENTUM,
    ROUNDS,
    waveform_from_log_mel,
)
from benchmarks.held_out import windows
from ttmpref.audio import resample
from ttmpref.metrics import (
    LSD_FLOOR_DB,
    LSD_SIZES,
    bootstrap_interval,
    frechet_distance,
    log_spectral_distance,
)
from ttmpref.types import Clip

MAX_CLIPS = 40  # Griffin-Lim with a proper mel inversion takes many seconds a clip
LSD_TARGET = 0.75
FAD_TARGET = 0.5
FAD_RESAMPLES = 200
REPORT_EVERY = 20
WAYS = ("original", "vocoder", "Griffin-Lim")


@torch.inference_mode()
def measure(setting: Setting) -> Report:
    corpus, autoencoder = setting.evaluation, setting.autoencoder
    count = min(MAX_CLIPS, setting.clips)
    rows = np.linspace(0, len(corpus.pieces) - 1, count).round().astype(int)
    seconds = setting.studio.preset.output.seconds
    distances = np.zeros((count, 2))
    embeddings: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    started = time.perf_counter()
    for i, clip in enumerate(windows(corpus, rows, seconds)):
        audio = torch.from_numpy(resample(clip, autoencoder.sample_rate).waveform)  # (1, S)
        mean, _ = autoencoder.encode(audio)
        mel = autoencoder.vae.decode(mean.transpose(1, 2))  # (1, M, frames)
        made = [autoencoder.vocoder(mel), waveform_from_log_mel(mel, autoencoder.config.mel, i)]
        samples = min(audio.shape[1], *(waveform.shape[1] for waveform in made))
        same = [waveform[:, :samples].numpy() for waveform in (audio, *made)]
        distances[i] = [log_spectral_distance(same[0][0], other[0]) for other in same[1:]]
        for way, waveform in zip(WAYS, same, strict=True):
            piece = Clip(waveform.astype(np.float32), autoencoder.sample_rate)
            embeddings[way].append(setting.embed([piece]))
        if (i + 1) % REPORT_EVERY == 0:
            print(f"{i + 1} of {count} clips, {time.perf_counter() - started:.0f} s", flush=True)
    return Report(
        title="Autoencoder and vocoder round trip",
        question=f"{count} held-out windows of {seconds:g} s, against Griffin-Lim on the same mel.",
        figures=_figures(distances, {way: np.concatenate(e) for way, e in embeddings.items()}),
        recipe={
            "n": count,
            "split": "evaluation",
            "log_spectral_distance": {"sizes": LSD_SIZES, "floor_db": LSD_FLOOR_DB},
            "griffin_lim": {
                "rounds": ROUNDS,
                "momentum": MOMENTUM,
                "mel_inversion": f"non-negative least squares, {LEAST_SQUARES_STEPS} steps",
                "seeds": "index of the clip",
            },
            "bootstrap_resamples_of_fad": FAD_RESAMPLES,
        },
        parts=("autoencoder", "clap"),
    )


def _figures(
    distances: np.ndarray, embeddings: dict[str, np.ndarray]
) -> tuple[Figure, ...]:
    """Both distances of both ways and their ratios.

    Args:
        distances: (n, 2) dB, vocoder and Griffin-Lim.
    """
    original, ours, theirs = (embeddings[way] for way in WAYS)
    count = len(distances)

    def distance_ratio(rows: np.ndarray) -> float:
        return float(distances[rows, 0].mean() / distances[rows, 1].mean())

    def fad_ratio(rows: np.ndarray) -> float:
        return frechet_distance(original[rows], ours[rows]) / frechet_distance(
            original[rows], theirs[rows]
        )

    everything = np.arange(count)
    return (
        Figure("log-spectral distance, vocoder", float(distances[:, 0].mean()), "dB"),
        Figure("log-spectral distance, Griffin-Lim", float(distances[:, 1].mean()), "dB"),
        Figure(
            "log-spectral distance, vocoder / Griffin-Lim", distance_ratio(everything), "x",
            at_most=LSD_TARGET, interval=bootstrap_interval(distance_ratio, count),
        ),
        Figure("FAD, vocoder", frechet_distance(original, ours)),
        Figure("FAD, Griffin-Lim", frechet_distance(original, theirs)),
        Figure(
            "FAD, vocoder / Griffin-Lim", fad_ratio(everything), "x",
            at_most=FAD_TARGET, interval=bootstrap_interval(fad_ratio, count, FAD_RESAMPLES),
        ),
    )  # fmt: skip


if __name__ == "__main__":
    run("round_trip", measure, __doc__)
