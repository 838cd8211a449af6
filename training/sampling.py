"""Clips of a stage in training: sampled in batches across prompts, decoded and judged.

The app makes one prompt's clips at a time (`ttmpref.generator`); expert iteration and CRPO need
hundreds of different ones, so prompts share a batch here. Noise, solver, guidance and loudness are
the app's own.

Shapes: n clips, latents (n, N, C) normalised.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.ranker_runs import LAYOUTS, preset_features
from ttmpref import assets
from ttmpref.audio import cut_or_pad
from ttmpref.autoencoder import MelAutoencoder
from ttmpref.config import Preset
from ttmpref.flow import draw_noise, guided_velocity, solve
from ttmpref.loudness import normalise
from ttmpref.models.fluxaudio import FluxAudio, Projected
from ttmpref.reward.features import CLAP_AUDIO, CLAP_TEXT
from ttmpref.reward.ranker import RankerHead, read_ranker
from ttmpref.types import Clip

log = logging.getLogger(__name__)
BATCH = 16  # clips sampled and judged at once
REPORT_EVERY = 8  # batches


@dataclass(frozen=True)
class Sampling:
    """How clips are made.

    Attributes:
        score: s of the conditional branch; the unconditional one has the null score.
        precision: "bf16" makes the network's products in half precision.
    """

    score: float
    guidance: float
    num_steps: int = 25
    precision: str = "bf16"


@torch.no_grad()
def sample_latents(
    backbone: FluxAudio, text: Tensor, pooled: Tensor, seeds: Sequence[int], how: Sampling
) -> Tensor:
    """One clip per row of encoded prompts, text (n, T, D) and pooled (n, E), each of its seed."""
    config, count = backbone.config, len(seeds)
    noise = draw_noise(seeds, config.latent_frames, config.latent_channels)
    scores = None
    if backbone.head != "none":
        scores = torch.cat([torch.full((count,), how.score), torch.zeros(count)])
    with torch.autocast("cpu", torch.bfloat16, enabled=how.precision == "bf16"):
        both = Projected.concatenate(backbone.project(text, pooled), backbone.project_empty(count))

        def velocity(z: Tensor, t: float) -> Tensor:
            times = z.new_full((2 * count,), t)
            halves = backbone.velocity(torch.cat([z, z]), times, both, scores).float().chunk(2)
            return guided_velocity(*halves, how.guidance)

        *_, latents = solve(velocity, noise, how.num_steps)
    return latents


class Judge:
    """The preset's own reward and CLAP score of latents, through its autoencoder."""

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.features, _ = preset_features(preset, LAYOUTS[preset.ranker.layout])
        self.head: RankerHead = read_ranker(preset.ranker.weights)
        self.autoencoder = MelAutoencoder.load(preset.autoencoder, assets.load_tensors)

    @torch.no_grad()
    def clips(self, backbone: FluxAudio, latents: Tensor) -> list[Clip]:
        """Finished clips, as the app makes them."""
        output, rate = self.preset.output, self.autoencoder.sample_rate
        waveforms = self.autoencoder.decode(backbone.unnormalise(latents)).numpy()
        whole = (cut_or_pad(Clip(w[None], rate), round(output.seconds * rate)) for w in waveforms)
        return [
            normalise(clip, output.target_lufs, output.true_peak_ceiling_db)[0] for clip in whole
        ]

    def scores(self, clips: Sequence[Clip], prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(n,) rewards with the prompt and (n,) CLAP scores."""
        blocks = self.features.of_clips(clips, prompts)
        with torch.no_grad():
            rewards = self.head(self.head.layout.join(blocks))
        return rewards, (blocks[CLAP_AUDIO] * blocks[CLAP_TEXT]).sum(1)


@dataclass(frozen=True)
class Judged:
    """Sampled clips and what the judge says.

    Attributes:
        latents: (n, N, C) as the backbone's normalised latents.
        rewards, clap: (n,).
    """

    latents: np.ndarray
    rewards: np.ndarray
    clap: np.ndarray

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **self.__dict__)

    @classmethod
    def load(cls, path: Path) -> Judged:
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


def sample_and_judge(
    backbone: FluxAudio,
    judge: Judge,
    prompts: Sequence[str],
    encoded: tuple[Tensor, Tensor],
    first_seed: int,
    how: Sampling,
) -> Judged:
    """A clip per prompt; clip i has seed `first_seed` + i."""
    backbone.eval()
    parts: list[Judged] = []
    for start in range(0, len(prompts), BATCH):
        rows = slice(start, start + BATCH)
        text, pooled = (features[rows] for features in encoded)
        seeds = range(first_seed + start, first_seed + start + len(text))
        latents = sample_latents(backbone, text, pooled, seeds, how)
        rewards, clap = judge.scores(judge.clips(backbone, latents), prompts[rows])
        parts.append(Judged(latents.numpy().astype(np.float16), rewards.numpy(), clap.numpy()))
        if start // BATCH % REPORT_EVERY == 0:
            log.info("sampled and judged %d of %d clips", start + len(text), len(prompts))
    columns = zip(*(part.__dict__.values() for part in parts), strict=True)
    return Judged(*map(np.concatenate, columns))
