"""Preference optimisation on pairs of a stage's own clips: CRPO, and the negative-aware fine-tune.

A pair is a prompt with a better and a worse clip, ranked by CLAP under the prompt (paper, section
III-D). CRPO is direct preference optimisation in the manner of flow matching: winner and loser
share noise and time, the squared error of the velocity stands for the negative log-likelihood, and
the winner's own error is added. The negative-aware fine-tune regresses towards the winner and away
from the loser through a mixture of the old and the new velocity.

Shapes: latents (P, N, C) normalised, B pairs of a batch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.engine import Share
from training.flow_matching import WHOLE, BackboneJob, as_float
from training.recipe import CRPORecipe, NFTRecipe
from ttmpref import flow
from ttmpref.models.fluxaudio import FluxAudio


@dataclass(frozen=True)
class Pairs:
    """Better and worse clips of prompts.

    Attributes:
        better, worse: (P, N, C).
        text, pooled: (P, T, D) and (P, E), the prompts.
        score: s that the clips were made with.
    """

    better: np.ndarray
    worse: np.ndarray
    text: Tensor
    pooled: Tensor
    score: float

    def part(self, rows: slice) -> Pairs:
        """Some of the pairs."""
        return Pairs(
            self.better[rows], self.worse[rows], self.text[rows], self.pooled[rows], self.score
        )

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Winner, loser, text, pooled and score of `size` pairs."""
        rows = torch.randint(len(self.better), (size,), generator=generator)
        clips = (as_float(clips[rows.numpy()]) for clips in (self.better, self.worse))
        return *clips, self.text[rows], self.pooled[rows], torch.full((size,), self.score)


def best_and_worst(ranking: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(prompts, clips) of values to the flat rows of each prompt's highest and lowest."""
    first = np.arange(len(ranking)) * ranking.shape[1]
    return first + ranking.argmax(1), first + ranking.argmin(1)


class _PairJob(BackboneJob):
    """What both have in common: pairs, and the network as it was at the start."""

    def __init__(
        self,
        name: str,
        recipe: CRPORecipe | NFTRecipe,
        backbone: FluxAudio,
        pairs: tuple[Pairs, Pairs],
    ) -> None:
        super().__init__(name, recipe, backbone)
        self.pairs = pairs
        self.reference = copy.deepcopy(backbone).requires_grad_(False)

    def _velocities(
        self, held_out: bool, generator: torch.Generator, time_mean: float, share: Share
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of both clips of a share's B pairs, winners first: policy, reference and target, each
        (2 B, N, C)."""
        size = self.recipe.batch
        better, worse, text, pooled, score = self.pairs[held_out].batch(size, generator)
        t = flow.sample_times(size, generator, time_mean)
        noise = torch.randn(better.shape, generator=generator)
        data, t, noise, text, pooled, score = (
            torch.cat([share(of_winners), share(of_losers)])
            for of_winners, of_losers in (
                (better, worse), *((x, x) for x in (t, noise, text, pooled, score)),
            )
        )  # fmt: skip
        seen = flow.interpolate(data, noise, t)
        given = None if self.backbone.head == "none" else score
        with self.autocast():
            policy = self.backbone(seen, t, text, pooled, given)
            with torch.no_grad():
                reference = self.reference(seen, t, text, pooled, given)
        return policy.float(), reference.float(), flow.velocity_target(data, noise)


class CRPOJob(_PairJob):
    """-log sigmoid(-beta / 2 (d_policy - d_reference)) + lambda mse_winner."""

    recipe: CRPORecipe

    def preference_and_error(
        self,
        held_out: bool,
        generator: torch.Generator,
        time_mean: float = 0.0,
        share: Share = WHOLE,
    ) -> tuple[Tensor, Tensor]:
        """(B,) preference terms, log 2 each at the start, and (B,) winners' squared errors."""
        policy, reference, target = self._velocities(held_out, generator, time_mean, share)
        won, lost = (policy - target).square().mean((1, 2)).chunk(2)
        won_before, lost_before = (reference - target).square().mean((1, 2)).chunk(2)
        change = (won - lost) - (won_before - lost_before)
        return -F.logsigmoid(-0.5 * self.recipe.beta * change), won

    def loss(
        self, held_out: bool, generator: torch.Generator, time_mean: float, share: Share = WHOLE
    ) -> Tensor:
        preference, error = self.preference_and_error(held_out, generator, time_mean, share)
        return preference.mean() + self.recipe.flow_weight * error.mean()


class NFTJob(_PairJob):
    """Winners pull the mixture of old and new velocity, losers its mirror image."""

    recipe: NFTRecipe

    def loss(
        self, held_out: bool, generator: torch.Generator, time_mean: float, share: Share = WHOLE
    ) -> Tensor:
        policy, reference, target = self._velocities(held_out, generator, time_mean, share)
        step = self.recipe.nft_beta * (policy - reference)
        towards, away = (reference + step).chunk(2)[0], (reference - step).chunk(2)[1]
        won, lost = target.chunk(2)
        return 0.5 * ((towards - won).square().mean() + (away - lost).square().mean())
