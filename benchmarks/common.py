"""What all benchmarks share: arguments, the parts they measure, and result files.

A benchmark is a function `Setting -> Report`. A `Report` holds *figures*: a number, its unit, the
target it should reach (or none) and its interval. `run` writes them to
`benchmarks/results/<name>.json` with everything needed to repeat them: recipe, hashes of the
weights, package versions, machine, date and command. Nothing but these files is ever quoted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is local; never wait for a network

from training.data import Corpus  # noqa: E402
from training.recipe import load_recipe, recipe_hash  # noqa: E402
from ttmpref import assets  # noqa: E402
from ttmpref.audio import write_files  # noqa: E402
from ttmpref.config import Preset  # noqa: E402
from ttmpref.studio import Studio  # noqa: E402

if TYPE_CHECKING:
    import numpy as np

    from ttmpref.autoencoder import MelAutoencoder
    from ttmpref.encoders.clap import ClapEncoder
    from ttmpref.types import Clip

REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
DATA = REPOSITORY / "data"
PACKAGES = ("torch", "numpy", "scipy", "transformers", "gradio", "pyloudnorm", "soundfile")
FORMAT = 1
DEFAULT_CLIPS = 200


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: what it is, in words.
        value: the measurement.
        unit: "s", "dB", "x", "%" or empty.
        at_most, at_least: the target, one of them or neither.
        interval: 95 % interval, where one is known.
        note: what a reader must know to read the number rightly.
    """

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    interval: tuple[float, float] | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "met": self.met}


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
        title: a heading.
        question: one sentence that says what is measured.
        figures: in reading order.
        recipe: numbers that decide the measurement: n, seeds, sizes.
        parts: parts of the preset that were measured (see `weights_of`).
        details: further data kept in the file, not in the table.
    """

    title: str
    question: str
    figures: tuple[Figure, ...]
    recipe: dict[str, Any]
    parts: tuple[str, ...]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What the command line chose.

    Attributes:
        preset: name or path of a preset.
        corpus_folder: where `python -m training corpus` wrote.
        out: folder of result files.
        data: folder of things that can be made again (generated clips).
        clips: clips per set; figures quoted anywhere use the default.
    """

    preset: str
    corpus_folder: Path
    out: Path
    data: Path
    clips: int

    @cached_property
    def studio(self) -> Studio:
        return Studio.open(self.preset, "cpu")

    @cached_property
    def evaluation(self) -> Corpus:
        """The split that no training and no selection has seen."""
        return Corpus(self.corpus_folder, "evaluation")

    @property
    def sample_rate(self) -> int:
        return self.studio.preset.autoencoder.mel.sample_rate

    @property
    def clip_samples(self) -> int:
        return round(self.studio.preset.output.seconds * self.sample_rate)

    @cached_property
    def clap(self) -> ClapEncoder:
        from ttmpref.encoders.clap import ClapEncoder

        config = self.studio.preset.metric_clap
        assets.verify(config.folder)
        return ClapEncoder(config, assets.locate(config.folder))

    @cached_property
    def autoencoder(self) -> MelAutoencoder:
        from ttmpref.autoencoder import MelAutoencoder

        return MelAutoencoder.load(self.studio.preset.autoencoder, assets.load_tensors)

    def embed(self, clips: Iterable[Clip]) -> np.ndarray:
        """(n, d) CLAP embeddings of clips, taken one at a time to bound the memory."""
        import numpy as np

        return np.concatenate([self.clap.encode_audio([clip]).numpy() for clip in clips])


def weights_of(preset: Preset, parts: Iterable[str]) -> dict[str, str]:
    """SHA-256 of every file of the named parts, by URI.

    Args:
        parts: of "text_encoder", "clap", "autoencoder", "backbone", "ranker", "separator".
    """
    stage = preset.stage(preset.sampling.stage)
    uris = {
        "text_encoder": (preset.text_encoder.folder,),
        "clap": (preset.conditioning_clap.folder, preset.metric_clap.folder),
        "autoencoder": (preset.autoencoder.vae_weights, preset.autoencoder.vocoder.weights),
        "backbone": (stage.weights,),
        "ranker": (*preset.reward_encoders, *preset.reward_heads),
        "separator": () if preset.separator is None else (preset.separator.folder,),
    }
    hashes: dict[str, str] = {}
    for part in parts:
        for uri in uris[part]:
            hashes.update(assets.hashes(uri))
    return dict(sorted(hashes.items()))


ALL_PARTS = ("text_encoder", "clap", "autoencoder", "backbone")


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def status_of(process: int | str, name: str) -> int:
    """A number that Linux keeps about a process ("self": this one), memory in KiB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def machine() -> dict[str, Any]:
    """The computer, as far as it decides how fast things are."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return {"processor": model, "cores": cores(), "system": platform.system()}


def default_corpus(data: Path) -> Path:
    """Folder of the demo recipe's corpus."""
    return data / f"corpus-{recipe_hash(load_recipe('demo').corpus)}"


def parse_setting(doc: str | None, arguments: list[str] | None = None) -> Setting:
    """The options that all benchmarks take."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="demo", help="name of a preset or path of its .yaml")
    parser.add_argument("--corpus", type=Path, help="corpus folder (default: the demo recipe's)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of result files")
    parser.add_argument("--data", type=Path, default=DATA, help="corpus and caches")
    parser.add_argument("--clips", type=int, default=DEFAULT_CLIPS, help="clips per set")
    given = parser.parse_args(arguments)
    corpus = given.corpus or default_corpus(given.data)
    return Setting(given.preset, corpus, given.out, given.data, given.clips)


def run(name: str, measure: Callable[[Setting], Report], doc: str | None) -> None:
    """Measure, print the table, write the result file."""
    import torch

    setting = parse_setting(doc)
    torch.set_num_threads(cores())
    started = time.perf_counter()
    report = measure(setting)
    taken = time.perf_counter() - started
    write_result(setting, name, report, taken)
    print(f"\n{report.title}\n{report.question}\n")
    print_table(report.figures)
    print(f"\n{taken:.0f} s; written to {setting.out / name}.json")


def write_result(
    setting: Setting, name: str, report: Report, seconds: float, options: str | None = None
) -> None:
    """Write `<out>/<name>.json`, whole or not at all.

    Args:
        options: with which the command measures the same again (default: the number of clips).
    """
    record = {
        "format": FORMAT,
        "name": name,
        "title": report.title,
        "question": report.question,
        "figures": [figure.to_dict() for figure in report.figures],
        "recipe": report.recipe,
        "preset": setting.studio.preset.name,
        "weights": weights_of(setting.studio.preset, report.parts),
        "versions": {package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": f"python -m benchmarks.{name} {options or f'--clips {setting.clips}'}",
        "seconds": round(seconds),
        "details": report.details,
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_files({setting.out / f"{name}.json": text.encode("utf-8")})


def number(value: float, unit: str) -> str:
    """A figure as people read it: three significant digits, percents with one decimal."""
    if unit == "%":
        return f"{100 * value:.1f} %"
    digits = f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"
    return f"{digits.rstrip('.')} {unit}".strip()


def target_words(figure: dict[str, Any]) -> str:
    """The target of a figure record, empty without one."""
    for key, sign in (("at_most", "≤"), ("at_least", "≥")):
        if figure[key] is not None:
            return f"{sign} {number(figure[key], figure['unit'])}"
    return ""


def figure_row(figure: dict[str, Any]) -> tuple[str, str, str, str]:
    """Name, target, measured value with its interval, and whether the target is met."""
    measured = number(figure["value"], figure["unit"])
    if figure["interval"] is not None:
        low, high = (number(bound, figure["unit"]) for bound in figure["interval"])
        measured += f" ({low} to {high})"
    met = {True: "yes", False: "no", None: ""}[figure["met"]]
    return figure["name"], target_words(figure), measured, met


def print_table(figures: Iterable[Figure]) -> None:
    """Columns as wide as their longest cell."""
    rows = [("figure", "target", "measured", "met")]
    rows += [figure_row(figure.to_dict()) for figure in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
