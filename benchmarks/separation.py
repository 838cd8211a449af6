"""Three passes of separation against three bare calls of Demucs, in the same run.

Networks of the size of `mdx_extra` (four HDemucs of Demucs' default size, 44 s segments) on random
weights, which cost what trained ones cost, take the vocals out of ten seconds of stereo noise. The
plain way is what the authors' script does: `apply_model` as it comes, three times. Both ways take
turns, so that a busy machine is busy for both, and the ratio is taken within each round. That both
do the same is measured too, against `apply_model` without its random shift.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import get_args

import numpy as np
import torch
from demucs.apply import BagOfModels, apply_model
from demucs.hdemucs import HDemucs
from torch import Tensor

from benchmarks.common import Figure, Report, Setting, run
from ttmpref.config import SeparatorConfig
from ttmpref.separation import Bag, DemucsSeparator
from ttmpref.types import Clip, Precision

SOURCES = ["drums", "bass", "other", "vocals"]
MODELS, SEGMENT_SECONDS = 4, 44.0
SECONDS, RATE, PASSES, ROUNDS = 10.0, 44_100, 3, 3
RATIOS = {"fp32": None, "bf16": 1.5}  # half-width products are where the time is won
AGREEMENTS = {"fp32": 1e-4, "bf16": 1e-2}


def measure(setting: Setting) -> Report:
    torch.manual_seed(0)
    models = [HDemucs(SOURCES, hybrid_old=True) for _ in range(MODELS)]
    rng = np.random.default_rng(0)
    clip = Clip(rng.normal(0, 0.1, (2, round(SECONDS * RATE))).astype(np.float32), RATE)
    return Report(
        title="Separation",
        question="How much sooner are three passes done than three bare calls of Demucs?",
        figures=compare(models, SEGMENT_SECONDS, clip, ROUNDS),
        recipe={"models": MODELS, "passes": PASSES, "rounds": ROUNDS, "seconds": SECONDS},
        parts=(),
    )


def compare(models: list[HDemucs], segment: float, clip: Clip, rounds: int) -> tuple[Figure, ...]:
    """Seconds of the plain way and of ours in both precisions, ratios, and how far apart."""
    separators = {
        precision: DemucsSeparator(
            SeparatorConfig(folder="-", bag="random", passes=PASSES, precision=precision),
            Bag.of(models, segment=segment),
        )
        for precision in get_args(Precision)
    }
    theirs = BagOfModels(models, segment=segment)
    mix = torch.from_numpy(clip.waveform)[None]
    taken: dict[str, list[float]] = {name: [] for name in ("plain", *separators)}
    for _ in range(rounds):
        taken["plain"].append(_seconds(lambda: _plain(theirs, mix)))
        for name, separator in separators.items():
            taken[name].append(_seconds(lambda s=separator: s.instrumental(clip)))
    expected = _plain(theirs, mix, shifts=0)[0].numpy()
    figures = [Figure("three bare calls", statistics.median(taken["plain"]), "s")]
    for name, separator in separators.items():
        ratios = [a / b for a, b in zip(taken["plain"], taken[name], strict=True)]
        found = separator.instrumental(clip).waveform
        apart = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        figures += [
            Figure(f"three passes here, {name}", statistics.median(taken[name]), "s"),
            Figure(
                f"bare calls / passes, {name}", statistics.median(ratios), "x",
                at_least=RATIOS[name],
                note=f"{len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f}",
            ),
            Figure(f"relative difference without shifts, {name}", apart, at_most=AGREEMENTS[name]),
        ]  # fmt: skip
    return tuple(figures)


def _plain(bag: BagOfModels, mix: Tensor, **options: int) -> Tensor:
    """(1, 2, S) without the last source, three times."""
    for _ in range(PASSES):
        mix = apply_model(bag, mix, **options)[:, :-1].sum(1)
    return mix


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    run("separation", measure, __doc__)
