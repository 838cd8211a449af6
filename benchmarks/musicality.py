"""Is it music? Generated clips against held-out audio: descriptors and a Frechet distance.

Four sets of equal size, all brought to the loudness of a finished clip: the *reference* (held-out
pieces that lend no prompt), *real* (the pieces that do), *generated* (from their captions), and
*noise* with the reference's mean spectrum. The Frechet distance of CLAP embeddings (FAD) from the
reference to real audio is its floor, to noise its ceiling, and what counts is the share of that
range which generated clips close: (ceiling - FAD) / (ceiling - floor). FAD is biased at small n,
which is why all three are measured at the same n. Descriptors (`benchmarks.descriptors`) are
compared by the Kolmogorov-Smirnov distance of their distributions, 0 the same and 1 disjoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import ks_2samp

from benchmarks.common import ALL_PARTS, Figure, Report, Setting, run
from benchmarks.descriptors import UNITS, describe
from benchmarks.generate import BASE_SEED, generated
from benchmarks.held_out import SPLIT_SEED, WINDOW_SEED, other_rows, windows
from ttmpref.audio import resample, write_files
from ttmpref.loudness import normalise
from ttmpref.metrics import bootstrap_interval, frechet_distance
from ttmpref.types import Clip

NOISE_SEED = 73
CLOSED_TARGET = 0.85
FAD_RESAMPLES = 300
SETS = ("reference", "real", "generated", "noise")
NOISE_FFT = 4096


def measure(setting: Setting) -> Report:
    asked, clips = generated(setting)
    corpus, count = setting.evaluation, len(asked)
    seconds = setting.studio.preset.output.seconds
    reference_rows = other_rows(corpus, setting.clips, count)
    reference = list(_finished(setting, windows(corpus, reference_rows, seconds)))
    real = list(
        _finished(setting, windows(corpus, [prompt.row for prompt in asked], seconds))
    )
    noise = list(_finished(setting, _noise(reference, count)))
    sets = dict(zip(SETS, (reference, real, clips, noise), strict=True))
    embeddings = {name: setting.embed(some) for name, some in sets.items()}
    described = {name: _table([describe(clip) for clip in some]) for name, some in sets.items()}
    setting.out.mkdir(parents=True, exist_ok=True)
    write_files({setting.out / "musicality.png": plot(described)})
    return Report(
        title="Musicality",
        question=f"{count} generated clips of {seconds:g} s against {count} held-out ones.",
        figures=(*_fad_figures(embeddings), *_descriptor_figures(described)),
        recipe={
            "n": count,
            "seeds": {
                "generated": f"{BASE_SEED} + index",
                "division": SPLIT_SEED,
                "windows": WINDOW_SEED,
                "noise": NOISE_SEED,
            },
            "loudness_lufs": setting.studio.preset.output.target_lufs,
            "bootstrap_resamples": FAD_RESAMPLES,
        },
        parts=ALL_PARTS,
        details={"quartiles": _quartiles(described)},
    )


def _finished(setting: Setting, clips: Iterator[Clip]) -> Iterator[Clip]:
    """Clips at the rate, loudness and true-peak ceiling of generated ones."""
    output = setting.studio.preset.output
    for clip in clips:
        resampled = resample(clip, setting.sample_rate)
        targets = output.target_lufs, output.true_peak_ceiling_db, output.loudness
        yield normalise(resampled, *targets)[0]


def _noise(reference: Sequence[Clip], count: int) -> Iterator[Clip]:
    """Stationary Gaussian noise with the mean power spectrum of the reference."""
    spectra = [
        np.square(np.abs(np.fft.rfft(_frames(clip.mono)))).mean(0) for clip in reference
    ]
    amplitude = np.sqrt(np.mean(spectra, axis=0))  # (NOISE_FFT // 2 + 1,)
    rng = np.random.default_rng(NOISE_SEED)
    samples, rate = reference[0].samples, reference[0].sample_rate
    places = np.linspace(0, 1, samples // 2 + 1)
    shape = np.interp(places, np.linspace(0, 1, len(amplitude)), amplitude)
    for _ in range(count):
        white = np.fft.rfft(rng.standard_normal(samples))
        waveform = np.fft.irfft(white * shape, samples)
        waveform *= 0.1 / np.sqrt(np.square(waveform).mean())
        yield Clip(waveform.astype(np.float32)[None], rate)


def _frames(mono: np.ndarray) -> np.ndarray:
    """(frames, NOISE_FFT) windowed frames."""
    padded = np.pad(mono, (0, max(0, NOISE_FFT - len(mono))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, NOISE_FFT)[:: NOISE_FFT // 2]
    return frames * np.hanning(NOISE_FFT).astype(np.float32)


def _fad_figures(embeddings: dict[str, np.ndarray]) -> tuple[Figure, ...]:
    """FAD of the three sets to the reference, and the share of the range that is closed."""
    count = len(embeddings["reference"])

    def fad(name: str, rows: np.ndarray) -> float:
        return frechet_distance(embeddings["reference"][rows], embeddings[name][rows])

    def closed(rows: np.ndarray) -> float:
        floor, ceiling = fad("real", rows), fad("noise", rows)
        return (ceiling - fad("generated", rows)) / (ceiling - floor)

    everything = np.arange(count)
    note = f"n = {count} against {count}"
    return (
        Figure("FAD, generated", fad("generated", everything), note=note),
        Figure("FAD floor, real audio", fad("real", everything), note=note),
        Figure("FAD ceiling, noise", fad("noise", everything), note=note),
        Figure(
            "share of the FAD range closed", closed(everything), "%", at_least=CLOSED_TARGET,
            interval=bootstrap_interval(closed, count, FAD_RESAMPLES), note=note,
        ),
    )  # fmt: skip


def _table(rows: Sequence[dict[str, float]]) -> dict[str, np.ndarray]:
    """Descriptor -> (n,) values; what silence left undefined is dropped."""
    columns = {name: np.array([row[name] for row in rows]) for name in UNITS}
    return {name: values[np.isfinite(values)] for name, values in columns.items()}


def _descriptor_figures(described: dict[str, dict[str, np.ndarray]]) -> Iterator[Figure]:
    """Median of every set, and how far generated and real clips are from the reference."""
    for name, unit in UNITS.items():
        columns = {key: table[name] for key, table in described.items()}
        medians = ", ".join(f"{key} {np.median(column):.2f}" for key, column in columns.items())
        real = ks_2samp(columns["reference"], columns["real"]).statistic
        yield Figure(
            f"{name}, KS distance of generated clips",
            float(ks_2samp(columns["reference"], columns["generated"]).statistic),
            note=f"real audio {real:.2f}; medians{f' in {unit}' if unit else ''}: {medians}",
        )


def _quartiles(
    described: dict[str, dict[str, np.ndarray]],
) -> dict[str, dict[str, list[float]]]:
    """Descriptor -> set -> lower quartile, median, upper quartile."""
    return {
        name: {
            key: [round(float(q), 4) for q in np.percentile(table[name], [25, 50, 75])]
            for key, table in described.items()
        }
        for name in UNITS
    }


def plot(described: dict[str, dict[str, np.ndarray]]) -> bytes:
    """A PNG with one box plot per descriptor."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(9, 5), layout="constrained")
    for panel, (name, unit) in zip(panels.flat, UNITS.items(), strict=True):
        columns = [described[key][name] for key in SETS]
        panel.boxplot(columns, tick_labels=SETS, showfliers=False, widths=0.6)
        panel.set_title(f"{name} ({unit})" if unit else name, fontsize=10)
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()


if __name__ == "__main__":
    run("musicality", measure, __doc__)
