"""A tiny flow-matching run as a program, for tests that start several processes or kill one.

    python -m tests.shared_training <folder> [--steps 6]

Checkpoint and log land in `folder`; every update is told on stderr.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch

from training.flow_matching import Captions, FlowMatchingJob, LatentSplit, fresh_backbone
from training.loop import Pace, Schedule, run
from training.recipe import BackboneRecipe
from ttmpref.config import FluxAudioConfig

CONFIG = FluxAudioConfig(
    latent_channels=4, latent_frames=31, text_tokens=12, text_dim=16, pooled_dim=8, width=16,
    num_heads=2, num_joint_blocks=1, num_fused_blocks=1, mlp_ratio=1.0, mlp_round_to=8,
)  # fmt: skip
RECIPE = BackboneRecipe(steps=6, batch=8, learning_rate=1e-2, warm_up=1)
PACE = Pace(log_every=1, checkpoint_every=2, validate_every=4)


def shared_job(recipe: BackboneRecipe = RECIPE) -> FlowMatchingJob:
    """The same job every time: random windows, random captions, a fresh network."""
    rng = np.random.default_rng(0)
    split = LatentSplit(
        latents=rng.random((20, 2, CONFIG.latent_frames, 4)).astype(np.float16),
        first_window=np.arange(0, 21, 2),
        captions=Captions(
            text=rng.random((10, 12, 16)).astype(np.float16),
            pooled=rng.random((10, 8)).astype(np.float16),
            first=np.arange(11),
        ),
    )
    empty = (torch.zeros(12, 16), torch.zeros(8))
    backbone = fresh_backbone(0, CONFIG, split.latents, empty)
    return FlowMatchingJob("shared", recipe, backbone, (split, split))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(
        shared_job(),
        Schedule(given.steps, RECIPE.learning_rate, RECIPE.warm_up),
        given.folder,
        PACE,
    )


if __name__ == "__main__":
    main()
