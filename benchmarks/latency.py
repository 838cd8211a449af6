"""How long a person waits, and how much memory it takes, on two processor cores.

Warm: one Studio in one process makes clips from prompts it has not seen, medians. Cold: the command
line from process start to a finished file, and the app from process start to a usable page, each
in a fresh process (files are in the system's cache after the first). The app's peak memory is its
largest resident size after a generation asked for through the page's own protocol.

The same run also times the plain way to the same samples: both texts encoded anew for every call,
projected anew in every pass, and two sequential passes per solver step instead of one doubled
batch. The latents of both ways must agree to 1e-4.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.app_driver import free_port, running_app
from benchmarks.common import ALL_PARTS, REPOSITORY, Figure, Report, Setting, cores, run
from ttmpref import assets
from ttmpref.audio import cut_or_pad
from ttmpref.autoencoder import MelAutoencoder
from ttmpref.encoders.t5 import T5TextEncoder
from ttmpref.flow import draw_noise, guided_velocity, time_grid
from ttmpref.generator import Generator, GeneratorParts, TextFeatures
from ttmpref.loudness import normalise
from ttmpref.models.fluxaudio import FluxAudio, load_backbone_state
from ttmpref.types import Clip, GenerationRequest

CORES = 2
WARM_CLIPS = 15
COLD_STARTS = 3
PLAIN_CLIPS = 7
BASE_SEED = 500
NEGATIVE_PROMPT = "noisy, low quality"  # gives the plain way a second text to encode
CLIP_TARGET, CLI_TARGET, APP_TARGET, MEMORY_TARGET = 1.0, 12.0, 10.0, 1.5
AGREEMENT = 1e-4
GB = 1e9


def measure(setting: Setting) -> Report:
    _use_few_cores()
    figures = [
        *_warm(setting),
        *_cold_command_line(setting),
        *_app(setting),
        *_against_the_plain_way(setting),
    ]
    return Report(
        title="Waiting time and memory",
        question=f"{setting.studio.preset.output.seconds:g} s clips on {cores()} cores, medians.",
        figures=tuple(figures),
        recipe={
            "warm_clips": WARM_CLIPS,
            "cold_starts": COLD_STARTS,
            "plain_clips": PLAIN_CLIPS,
            "seeds": f"{BASE_SEED} + index",
            "num_steps": setting.studio.settings.num_steps,
            "guidance": setting.studio.settings.guidance,
        },
        parts=ALL_PARTS,
    )


def _use_few_cores() -> None:
    """Keep this process and those it starts to two cores, whatever the machine has."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:CORES])
    torch.set_num_threads(min(CORES, len(allowed)))


def _prompt(setting: Setting, i: int) -> str:
    """A prompt not used before, so that no text is in a cache."""
    examples = setting.studio.settings.examples
    return f"{examples[i % len(examples)]}, take {i + 1}"


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _spread(times: list[float]) -> str:
    return f"{len(times)} runs, {min(times):.2f} to {max(times):.2f} s"


def _warm(setting: Setting) -> list[Figure]:
    studio = setting.studio
    studio.warm_up()
    studio.generate(studio.request(_prompt(setting, 0), seed=BASE_SEED))
    times = [
        _seconds(
            lambda i=i: studio.generate(studio.request(_prompt(setting, i), seed=BASE_SEED + i))
        )
        for i in range(1, WARM_CLIPS + 1)
    ]
    return [
        Figure(
            "prompt to finished clip, warm", statistics.median(times), "s", at_most=CLIP_TARGET,
            note=_spread(times),
        )
    ]  # fmt: skip


def _cold_command_line(setting: Setting) -> list[Figure]:
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(COLD_STARTS):
            path = Path(folder) / f"{i}.wav"
            command = [
                sys.executable, "-m", "ttmpref", "generate", _prompt(setting, i),
                "--preset", setting.preset, "--out", str(path), "--seed", str(i), "--quiet",
            ]  # fmt: skip
            times.append(_seconds(lambda c=command: _run_quietly(c)))
            if not path.is_file():
                raise RuntimeError(f"{' '.join(command)} wrote no clip")
    return [
        Figure(
            "process start to first finished clip, command line", statistics.median(times), "s",
            at_most=CLI_TARGET, note=_spread(times),
        )
    ]  # fmt: skip


def _run_quietly(command: list[str]) -> None:
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def _app(setting: Setting) -> list[Figure]:
    starts, waits, peaks = [], [], []
    for _ in range(COLD_STARTS):
        with running_app(setting.preset, free_port(), REPOSITORY) as app:
            starts.append(app.usable_after)
            waits.append(app.generate(_prompt(setting, 0)))
            app.generate(_prompt(setting, 1))
            peaks.append(app.peak_memory() / GB)
    return [
        Figure(
            "app start to usable page", statistics.median(starts), "s", at_most=APP_TARGET,
            note=_spread(starts),
        ),
        Figure(
            "first clip asked for as soon as the page is usable", statistics.median(waits), "s",
            note=f"{_spread(waits)}; includes the rest of loading",
        ),
        Figure(
            "peak memory of the app while generating", max(peaks), "GB", at_most=MEMORY_TARGET,
            note="largest of the runs",
        ),
    ]  # fmt: skip


def _against_the_plain_way(setting: Setting) -> list[Figure]:
    """Both ways in turns on the same parts, so that a busy moment of the machine hits both."""
    studio, plain = setting.studio, PlainGenerator(setting)
    parts = GeneratorParts(
        TextFeatures(plain.text_encoder, plain.clap), plain.autoencoder, plain.backbone, plain.clap
    )
    generator, seen = Generator(studio.preset, parts), plain.autoencoder
    ours, theirs, latents, samples = [], [], [], []
    for i in range(PLAIN_CLIPS + 1):
        request = studio.request(
            _prompt(setting, 100 + i), seed=BASE_SEED + i, negative_prompt=NEGATIVE_PROMPT
        )
        started = time.perf_counter()
        *_, finished = generator.stream(request)
        between, expected = time.perf_counter(), seen.latents
        other = plain(request)
        ended = time.perf_counter()
        latents.append(float((seen.latents - expected).abs().max() / expected.std()))
        samples.append(float(abs(finished.clip.waveform - other.waveform).max()))
        if i > 0:  # the first round warms both up
            ours.append(between - started)
            theirs.append(ended - between)
    return [
        Figure(
            "the plain way, warm", statistics.median(theirs), "s",
            note=f"{_spread(theirs)}; same requests here {statistics.median(ours):.2f} s",
        ),
        Figure("the plain way / ours", statistics.median(theirs) / statistics.median(ours), "x"),
        Figure(
            "largest difference between the two ways' latents", max(latents), at_most=AGREEMENT,
            note="in standard deviations; this is where the ways end",
        ),
        Figure(
            "largest difference between the two ways' samples", max(samples),
            note="of a full scale of 1; the vocoder's phases magnify rounding",
        ),
    ]  # fmt: skip


class RecordingAutoencoder:
    """An autoencoder that remembers the latents it decoded last."""

    def __init__(self, autoencoder: MelAutoencoder) -> None:
        self._autoencoder = autoencoder
        self.sample_rate = autoencoder.sample_rate
        self.latents = torch.empty(0)

    def decode(self, latents: Tensor) -> Tensor:
        self.latents = latents
        return self._autoencoder.decode(latents)


class PlainGenerator:
    """Text to clip as it is written down in a paper: no cache, one pass after the other."""

    def __init__(self, setting: Setting) -> None:
        preset = setting.studio.preset
        stage = preset.stage(preset.sampling.stage)
        self.preset, self.clap = preset, setting.clap
        self.autoencoder = RecordingAutoencoder(setting.autoencoder)
        folder = assets.locate(preset.text_encoder.folder)
        self.text_encoder = T5TextEncoder(preset.text_encoder, folder)
        self.backbone = FluxAudio(preset.backbone, stage.head)
        load_backbone_state(self.backbone, assets.load_tensors(stage.weights))
        self.backbone.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, request: GenerationRequest) -> Clip:
        prompt = self._features(self.preset.sampling.prompt_prefix + request.prompt)
        negative = self._features(request.negative_prompt)
        config, course = self.preset.backbone, self.backbone.course(*prompt)
        z = draw_noise([request.seed], config.latent_frames, config.latent_channels)
        times = time_grid(request.num_steps)
        scored = self.backbone.head != "none"
        for t, t_next in zip(times, times[1:], strict=False):
            now = z.new_full((1,), t)
            asked = z.new_full((1,), request.score) if scored else None
            null = z.new_zeros(1) if scored else None
            with_prompt = self.backbone(z, now, *prompt, asked, course)
            without = self.backbone(z, now, *negative, null, course)
            z = z + (t_next - t) * guided_velocity(with_prompt, without, request.guidance)
        return self._finish(request, z)

    def _features(self, text: str) -> tuple[Tensor, Tensor]:
        return self.text_encoder.encode([text]), self.clap.encode_text([text])

    def _finish(self, request: GenerationRequest, latents: Tensor) -> Clip:
        """Decoding, loudness and measurement, the same work as the Studio's."""
        waveform = self.autoencoder.decode(self.backbone.unnormalise(latents))
        output, rate = self.preset.output, self.autoencoder.sample_rate
        clip = cut_or_pad(Clip(waveform.numpy(), rate), round(output.seconds * rate))
        clip, _ = normalise(clip, output.target_lufs, output.true_peak_ceiling_db, output.loudness)
        self.clap.encode_text([request.prompt]), self.clap.encode_audio([clip])
        return clip


if __name__ == "__main__":
    run("latency", measure, __doc__)
