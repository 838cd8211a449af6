"""What the demo's separator is worth on mixes it has not learned from.

Stereo mixes of held-out pieces and held-out voices, as long as a generated clip and drawn as in
training, go through one pass of the preset's separator. The gain is in SI-SDR of the music, which a
voice lowers; where nobody sings, the SI-SDR of what comes back says how well music is left alone.
The same passes are timed.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from benchmarks.common import Figure, Report, Setting, run
from training.data import CORPUS_RATE
from training.loop import numpy_draws
from training.recipe import SeparatorRecipe, load_recipe
from training.separator import Sounds, draw_mixes, sounds_of
from ttmpref.metrics import bootstrap_interval, si_sdr
from ttmpref.protocols import Separator
from ttmpref.separation import load_separator
from ttmpref.types import Clip, MissingWeights

RECIPE, SEED = "demo", 20_260_801
GAIN_TARGET_DB, PASS_TARGET_SECONDS = 6.0, 1.0


def measure(setting: Setting) -> Report:
    config, recipe = setting.studio.preset.separator, load_recipe(RECIPE).separator
    if config is None or recipe is None:
        raise MissingWeights(f"preset {setting.preset!r} or recipe {RECIPE!r} has no separator")
    separator = load_separator(config.model_copy(update={"passes": 1}))
    sounds, seconds = sounds_of(recipe, setting.evaluation), setting.studio.preset.output.seconds
    return Report(
        title="The demo's separator",
        question="How much nearer to the music alone is a held-out mix after one pass?",
        figures=figures_of(separator, recipe, sounds, setting.clips, seconds),
        recipe={"mixes": setting.clips, "seed": SEED, "seconds": seconds},
        parts=("separator",),
    )


def figures_of(
    separator: Separator, recipe: SeparatorRecipe, sounds: Sounds, count: int, seconds: float
) -> tuple[Figure, ...]:
    """Gains over `count` mixes, what music alone suffers, and the time of a pass."""
    gains, alone, taken = [], [], []
    for number in range(count):
        rng = numpy_draws(SEED, "separator benchmark", number)
        music, voice = (x[0].numpy() for x in draw_mixes(recipe, sounds, 1, seconds, rng))
        started = time.perf_counter()
        found = separator.instrumental(Clip(music + voice, CORPUS_RATE)).waveform
        taken.append(time.perf_counter() - started)
        if voice.any():
            gains.append(si_sdr(found, music) - si_sdr(music + voice, music))
        else:
            alone.append(si_sdr(found, music))
    return (
        _mean("SI-SDR gain of the music", gains, GAIN_TARGET_DB, "mixes with a voice"),
        _mean("SI-SDR of music alone", alone, None, "no voice to remove"),
        Figure("one pass", statistics.median(taken), "s", at_most=PASS_TARGET_SECONDS,
               note=f"{seconds:g} s of stereo, median"),
    )  # fmt: skip


def _mean(name: str, values: list[float], target: float | None, note: str) -> Figure:
    """A mean in dB with its interval over mixes."""
    rows = np.array(values)
    interval = bootstrap_interval(lambda chosen: float(rows[chosen].mean()), len(rows))
    words = f"{len(rows)} {note}"
    return Figure(name, float(rows.mean()), "dB", at_least=target, interval=interval, note=words)


if __name__ == "__main__":
    run("separator", measure, __doc__)
