"""Clips of a stage in training: sampled in batches across prompts, decoded and judged.

The clips are the app's own (`ttmpref.generator`); what is kept of them is their latents, which are
what the next stage learns from, and what the preset's reward and CLAP say of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.engine import products
from training.ranker_runs import LAYOUTS, preset_features
from ttmpref.config import Preset
from ttmpref.generator import Generator
from ttmpref.reward.features import CLAP_AUDIO, CLAP_TEXT
from ttmpref.reward.ranker import read_ranker
from ttmpref.types import Clip, GenerationRequest

log = logging.getLogger(__name__)
BATCH = 16  # clips sampled and judged at once
REPORT_EVERY = 8  # batches


class Judge:
    """The preset's own reward and CLAP score."""

    def __init__(self, preset: Preset) -> None:
        self.features, _ = preset_features(preset, LAYOUTS[preset.ranker.layout])
        self.head = read_ranker(preset.ranker.weights)

    @torch.no_grad()
    def __call__(self, clips: Sequence[Clip], prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(n,) rewards with the prompt and (n,) CLAP scores."""
        blocks = self.features.of_clips(clips, prompts)
        rewards = self.head(self.head.layout.join(blocks))
        return rewards, (blocks[CLAP_AUDIO] * blocks[CLAP_TEXT]).sum(1)


@dataclass(frozen=True)
class Judged:
    """Sampled clips and what the judge says.

    Attributes:
        latents: (n, N, C), normalised.
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
    generator: Generator, judge: Judge, requests: Sequence[GenerationRequest], precision: str
) -> Judged:
    """The clips of requests that differ in prompt and seed, in order.

    Args:
        precision: "bf16" samples with the network's products in half precision.
    """
    parts: list[Judged] = []
    for start in range(0, len(requests), BATCH):
        group = requests[start : start + BATCH]
        with products(precision, generator.parts.backbone.latent_mean.device):
            latents = generator.latents(group)
        rewards, clap = judge(generator.clips(latents), [request.prompt for request in group])
        kept = latents.cpu().numpy().astype(np.float16)
        parts.append(Judged(kept, rewards.numpy(), clap.numpy()))
        if start // BATCH % REPORT_EVERY == 0:
            log.info("sampled and judged %d of %d clips", start + len(group), len(requests))
    columns = zip(*(part.__dict__.values() for part in parts), strict=True)
    return Judged(*map(np.concatenate, columns))
