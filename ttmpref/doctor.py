"""What is installed, what fails to load, and whether a preset's weights are whole.

A torchaudio or torchvision of another build breaks transformers itself, with a message that names
neither; importing each package by itself finds the culprit.
"""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from ttmpref import assets
from ttmpref.studio import Studio
from ttmpref.types import MissingWeights, TtmprefError

# Module and distribution; the torch trio first, because the rest is built on it.
PACKAGES = (
    ("torch", "torch"),
    ("torchaudio", "torchaudio"),
    ("torchvision", "torchvision"),
    ("numpy", "numpy"),
    ("scipy", "scipy"),
    ("tokenizers", "tokenizers"),
    ("safetensors", "safetensors"),
    ("demucs", "demucs"),
    ("pyloudnorm", "pyloudnorm"),
    ("soundfile", "soundfile"),
    ("gradio", "gradio"),
    ("plotly", "plotly"),
    ("pandas", "pandas"),
    ("pyarrow", "pyarrow"),
    ("sqlalchemy", "sqlalchemy"),
    ("alembic", "alembic"),
    ("accelerate", "accelerate"),
    ("pydantic", "pydantic"),
    ("yaml", "pyyaml"),
    ("typer", "typer"),
)
# Classes that transformers resolves lazily; its own import proves nothing.
MODELS = ("T5EncoderModel", "ClapModel", "ClapFeatureExtractor", "HubertModel")
ALONE_SECONDS = 300


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        ok: whether it works.
        what: package, device or weight file.
        detail: version and time to import, or what went wrong.
    """

    ok: bool
    what: str
    detail: str


def examine(preset: str, device: str) -> list[Finding]:
    """Everything this package needs on this machine, in the order it is built up.

    Sets HF_HUB_OFFLINE=1 for this process: laion_clap asks the hub while it is imported and
    retries for eleven minutes where there is no network.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    findings = [Finding(True, "python", f"{platform.python_version()} on {platform.platform()}")]
    findings += [_imported(module, package) for module, package in PACKAGES]
    findings.append(_transformers())
    findings.append(_laion_clap())
    findings += _preset(preset, device)
    return findings


def _imported(module: str, package: str) -> Finding:
    """Import a package here; whatever it raises is the finding."""
    started = time.perf_counter()
    try:
        importlib.import_module(module)
        return Finding(True, package, f"{version(package)} ({_since(started)})")
    except Exception as error:
        return Finding(False, package, _reason(error))


def _transformers() -> Finding:
    """The classes this package uses, not the lazy shell around them."""
    started = time.perf_counter()
    try:
        transformers = importlib.import_module("transformers")
        for name in MODELS:
            getattr(transformers, name)
        detail = f"{version('transformers')}, {', '.join(MODELS)} ({_since(started)})"
        return Finding(True, "transformers", detail)
    except Exception as error:
        return Finding(False, "transformers", _reason(error))


def _laion_clap() -> Finding:
    """Imported in a process of its own.

    It puts its folder on the module path and then imports a top-level `training`, which must not
    be ours, nor replace ours in this process.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [sys.executable, "-P", "-c", "import laion_clap"],
            cwd=elsewhere, capture_output=True, text=True, timeout=ALONE_SECONDS, check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Finding(False, "laion_clap", lines[-1])
    try:
        found = version("laion_clap")
    except PackageNotFoundError:
        found = "unknown version"
    return Finding(True, "laion_clap", f"{found}, HF_HUB_OFFLINE=1 set ({_since(started)})")


def _preset(preset: str, device: str) -> Iterator[Finding]:
    """Preset file, device, and each weight file or folder once."""
    try:
        studio = Studio.open(preset, device)
        yield Finding(True, f"preset {studio.preset.name}", studio.preset.title)
        yield Finding(True, "device", studio.device)
    except Exception as error:
        yield Finding(False, f"preset {preset}", _reason(error))
        return
    needed: dict[str, None] = {}
    for stage in studio.preset.stages:
        if stage.unavailable is not None:  # no fault
            yield Finding(True, f"stage {stage.name}", f"unavailable: {stage.unavailable}")
        else:
            needed.update(dict.fromkeys(studio.weights_of(stage)))
    yield _hearing(studio)
    rewards = (*studio.preset.reward_encoders, *studio.preset.reward_heads)
    needed.update(dict.fromkeys(rewards))
    yield from map(_weights, needed)


def _hearing(studio: Studio) -> Finding:
    """Whether the metric CLAP, where it is there, keeps different sounds apart."""
    from ttmpref.encoders.clap import COLLAPSED

    what = "hearing of the metric CLAP"
    try:
        found = studio.similarity_of_sounds()
    except MissingWeights:
        return Finding(True, what, "not tried: its weights are not here")
    except TtmprefError as error:
        return Finding(False, what, str(error))
    detail = f"mean cosine of four unlike sounds is {found:.2f}, at most {COLLAPSED} is healthy"
    return Finding(found <= COLLAPSED, what, detail)


def _weights(uri: str) -> Finding:
    try:
        assets.verify(uri)
        megabytes = sum(path.stat().st_size for path in assets.files_of(uri).values()) / 1e6
        known = uri.startswith("asset://") or uri in assets.fetched()
        checked = "checksums agree" if known else "present, no checksum known"
        return Finding(True, uri, f"{megabytes:.1f} MB, {checked}")
    except TtmprefError as error:
        return Finding(False, uri, str(error))


def _since(started: float) -> str:
    return f"{time.perf_counter() - started:.1f} s"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
