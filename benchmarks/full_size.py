"""The paper's own size on two processor cores: time from prompt to waveform, and memory.

The paper preset with random weights (`benchmarks.random_weights`), which cost what trained ones
cost, against the reference's own procedure written down plainly (`benchmarks.plain_way`): the same
weights, prompts and noise, separation and loudness left out. The ways take turns, so that a busy
machine is busy for all, and the ratio is taken within each round. How far the waveforms are apart
is measured too. Memory is the largest resident size of a fresh process that makes a clip,
takes voices out once and scores it.

Options of its own: --rounds, --steps, --seconds (of a clip), --no-memory. On a GPU:
`python -m benchmarks.full_size_gpu`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import (
    REPOSITORY,
    Figure,
    Report,
    Setting,
    cores,
    parse_setting,
    print_table,
    status_of,
    write_result,
)
from benchmarks.plain_way import PlainFlow, PlainVAEDecoder, PlainVocoder, plain_solve
from benchmarks.random_weights import cache_at, write_random_weights
from ttmpref import assets
from ttmpref.autoencoder import MelAutoencoder
from ttmpref.config import Preset, load_preset
from ttmpref.encoders.clap import ClapEncoder
from ttmpref.encoders.t5 import T5TextEncoder
from ttmpref.flow import draw_noise, solve
from ttmpref.generator import Generator, GeneratorParts, TextFeatures
from ttmpref.models.fluxaudio import FluxAudio, load_backbone_state
from ttmpref.models.over_time import has_bf16
from ttmpref.types import GenerationRequest, Precision, RewardScore

PRESET = "paper"
CORES = 2
SPEED_UP = 2.5
AGREEMENTS = {"fp32": 1e-3, "bf16": 1e-2}
MEMORY = {"whole": 8.0, "low": 4.0}
GB = 2**30
PROMPTS = ("a calm piano piece", "loud drums and bass", "a bright synthesizer", "slow jazz guitar")


@dataclass(frozen=True)
class Scale:
    """How much is measured; figures quoted anywhere use the defaults."""

    rounds: int
    steps: int
    seconds: float
    memory: bool


def measure(folder: Path, scale: Scale) -> Report:
    """Speed first, then memory, on weights that are written into `folder` once."""
    preset = scaled(load_preset(PRESET), scale.seconds)
    with cache_at(folder), torch.no_grad():
        write_random_weights(preset, generating=not scale.memory)
        figures = speed(preset, scale)
        if scale.memory:
            figures += memory(scale)
    return Report(
        title="The paper's size",
        question=f"How much sooner and in how much memory is a clip made on {cores()} cores?",
        figures=tuple(figures),
        recipe={
            "rounds": scale.rounds, "num_steps": scale.steps, "seconds": scale.seconds,
            "weights": "random, seed 0",
        },
        parts=(),
    )  # fmt: skip


def scaled(preset: Preset, seconds: float) -> Preset:
    """The preset for clips of another length."""
    frames = round(preset.backbone.latent_frames * seconds / preset.output.seconds)
    backbone = preset.backbone.model_copy(update={"latent_frames": max(frames, 1)})
    return preset.model_copy(update={"backbone": backbone})


def rounded(preset: Preset, precision: Precision) -> Preset:
    """The preset with backbone and vocoder in a precision."""
    vocoder = preset.autoencoder.vocoder.model_copy(update={"precision": precision})
    update = {
        "backbone": preset.backbone.model_copy(update={"precision": precision}),
        "autoencoder": preset.autoencoder.model_copy(update={"vocoder": vocoder}),
    }
    return preset.model_copy(update=update)


def used_precision(preset: Preset) -> Precision:
    """What the preset's backbone is computed in on this processor."""
    wanted = preset.backbone.precision
    return wanted if wanted == "fp32" or has_bf16("cpu") else "fp32"


class Encoders:
    """Both text encoders, for all ways."""

    def __init__(self, preset: Preset) -> None:
        clap, text = preset.conditioning_clap, preset.text_encoder
        self.text = T5TextEncoder(text, assets.locate(text.folder))
        self.clap = ClapEncoder(clap, assets.locate(clap.folder))

    def __call__(self, text: str) -> tuple[Tensor, Tensor]:
        return self.text.encode([text]), self.clap.encode_text([text])


class Ours:
    """The package's way in a precision."""

    def __init__(self, preset: Preset, encoders: Encoders) -> None:
        stage = preset.stage(preset.sampling.stage)
        backbone = FluxAudio(preset.backbone, stage.head)
        load_backbone_state(backbone, assets.load_tensors(stage.weights))
        if preset.backbone.precision == "bf16":
            backbone.halve_()
        autoencoder = MelAutoencoder.load(preset.autoencoder, assets.load_tensors)
        features = TextFeatures(encoders.text, encoders.clap)
        parts = GeneratorParts(features, autoencoder, backbone.requires_grad_(False))
        self.generator = Generator(preset, parts)

    def __call__(self, request: GenerationRequest) -> Tensor:
        """(1, S)."""
        generator = self.generator
        *_, z = solve(generator.velocity(request), generator.noise([request]), request.num_steps)
        return generator.decode(z)


class Plain:
    """The reference's procedure on the same weights."""

    def __init__(self, preset: Preset, encoders: Encoders) -> None:
        stage, autoencoder = preset.stage(preset.sampling.stage), preset.autoencoder
        self.preset, self.encoders = preset, encoders
        self.state = assets.load_tensors(stage.weights)
        self.flow = PlainFlow(preset.backbone, self.state)
        self.decoder = PlainVAEDecoder(
            autoencoder.vae, assets.load_tensors(autoencoder.vae_weights)
        )
        weights = assets.load_tensors(autoencoder.vocoder.weights)
        self.vocoder = PlainVocoder(autoencoder.vocoder, weights)

    def __call__(self, request: GenerationRequest) -> Tensor:
        prompt = self.encoders(self.preset.sampling.prompt_prefix + request.prompt)
        negative = self.encoders(request.negative_prompt)

        def velocity(z: Tensor, t: float, conditional: bool) -> Tensor:
            if conditional:
                return self.flow(z, t, *prompt, request.score)
            return self.flow(z, t, *negative, 0.0)

        config = self.preset.backbone
        noise = draw_noise([request.seed], config.latent_frames, config.latent_channels)
        z = plain_solve(velocity, noise, request.num_steps, request.guidance)
        z = z * self.state["latent_std"] + self.state["latent_mean"]
        return self.vocoder(self.decoder(z.transpose(1, 2)))


def speed(preset: Preset, scale: Scale) -> list[Figure]:
    """Seconds of every way, ratios and differences."""
    encoders = Encoders(preset)
    plain = Plain(preset, encoders)
    used = used_precision(preset)
    names = [name for name in AGREEMENTS if name in ("fp32", used)]
    ours = {name: Ours(rounded(preset, name), encoders) for name in names}
    taken: dict[str, list[float]] = {name: [] for name in ("plain", *ours)}
    apart: dict[str, list[float]] = {name: [] for name in ours}
    for i in range(scale.rounds):
        request = _request(preset, PROMPTS[i % len(PROMPTS)], i, scale.steps)
        expected = _timed(lambda r=request: plain(r), taken["plain"])
        for name, way in ours.items():
            found = _timed(lambda r=request, w=way: w(r), taken[name])
            apart[name].append(float((found - expected).norm() / expected.norm()))
    figures = [Figure("prompt to waveform, the plain way", statistics.median(taken["plain"]), "s")]
    for name in ours:
        ratios = [a / b for a, b in zip(taken["plain"], taken[name], strict=True)]
        # What a preset runs in here has to be fast enough; fp32 is shown beside it.
        target = SPEED_UP if name == used else None
        figures += [
            Figure(f"prompt to waveform here, {name}", statistics.median(taken[name]), "s"),
            Figure(
                f"plain way / here, {name}", statistics.median(ratios), "x", at_least=target,
                note=f"{len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f}",
            ),
            Figure(
                f"relative difference of the waveforms, {name}", max(apart[name]),
                at_most=AGREEMENTS[name],
            ),
        ]  # fmt: skip
    return figures


def _request(preset: Preset, prompt: str, seed: int, steps: int) -> GenerationRequest:
    settings = preset.settings
    return GenerationRequest(
        prompt=prompt, seed=seed, stage=settings.stage, score=settings.score,
        guidance=settings.guidance, num_steps=steps, negative_prompt=settings.negative_prompt,
    )  # fmt: skip


def _timed(work: Callable[[], Tensor], taken: list[float]) -> Tensor:
    started = time.perf_counter()
    found = work()
    taken.append(time.perf_counter() - started)
    return found


def memory(scale: Scale) -> list[Figure]:
    """Peak of a process that uses every part of the preset, with and without letting go."""
    return [
        Figure(
            f"peak memory, {name}", _peak(name, scale.seconds), "GB", at_most=most,
            note="parts released when idle" if name == "low" else "all parts kept",
        )
        for name, most in MEMORY.items()
    ]  # fmt: skip


def _peak(name: str, seconds: float) -> float:
    command = [sys.executable, "-m", "benchmarks.full_size", "--peak-of", name]
    command += ["--seconds", str(seconds)]
    # Its errors go to the terminal, not into the exception.
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])["peak_bytes"] / GB


def use_every_part(preset: Preset, low_memory: bool) -> RewardScore:
    """Make and score one clip in two steps and with one pass of separation."""
    from ttmpref.studio import Studio

    separator = preset.separator.model_copy(update={"passes": 1})
    update = {"separator": separator, "low_memory": low_memory}
    studio = Studio(preset.model_copy(update=update), "cpu")
    (made,) = studio.generate(_request(preset, PROMPTS[0], 0, 2))
    (score,) = studio.score([made.clip], [made.request.prompt])
    return score


def peak_bytes() -> int:
    """Largest resident size of this process so far (Linux).

    `getrusage` would count what the process that started this one held at that moment.
    """
    return status_of("self", "VmHWM") * 1024


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak-of", choices=tuple(MEMORY))
    own, others = parser.parse_known_args()
    torch.set_num_threads(min(CORES, cores()))
    if own.peak_of is not None:  # the process whose memory is measured
        use_every_part(scaled(load_preset(PRESET), own.seconds), own.peak_of == "low")
        print(json.dumps({"peak_bytes": peak_bytes()}))
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    setting: Setting = parse_setting(__doc__, [*others, "--preset", PRESET])
    scale = Scale(own.rounds, own.steps, own.seconds, not own.no_memory)
    started = time.perf_counter()
    report = measure(setting.data / "full_size", scale)
    taken = time.perf_counter() - started
    options = f"--rounds {scale.rounds} --steps {scale.steps} --seconds {scale.seconds:g}"
    write_result(
        setting, "full_size", report, taken, options + " --no-memory" * own.no_memory
    )
    print(f"\n{report.title}\n{report.question}\n")
    print_table(report.figures)
    print(f"\n{taken:.0f} s; written to {setting.out}/full_size.json")


if __name__ == "__main__":
    main()
