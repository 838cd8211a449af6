"""Flow matching of the backbone, with or without a preference score (paper, section III-A to D).

Per update (specification 4.1): draw a posterior sample of every latent window, normalise it, draw
logit-normal times and noise, replace both text features of a tenth of the samples by the empty
text's and, independently, a tenth of the scores by the null score, and regress the velocity. The
weights that ship are a moving average. A network with a pulse is told the course of every sample,
also where it is not told the text: guidance must not lead away from it.

Shapes: latents (B, N, C), text (B, T, D), pooled (B, E), score (B,), metre (B,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from training.autoencoder import save_half
from training.ema import PostHocAverage
from training.engine import Share, accelerator, products, update
from training.loop import Average, draws
from training.recipe import BackboneRecipe
from ttmpref import flow
from ttmpref.config import FluxAudioConfig
from ttmpref.models.fluxaudio import FluxAudio

WHOLE = Share()
# Trained numbers from which AdamW runs as one kernel: large networks are updated several times
# faster, small ones keep the last bits that their runs began with.
FUSED_FROM = 20_000_000
MEASURED = 400  # windows whose latents give the statistics
NULL_SCORE = 0.0  # the paper's, of the unconditional branch, too


@dataclass(frozen=True)
class Batch:
    """Windows to learn from; `score` and `metre` are None where none are known."""

    mean: Tensor
    std: Tensor
    text: Tensor
    pooled: Tensor
    score: Tensor | None = None
    metre: Tensor | None = None


class Windows(Protocol):
    """Where batches come from."""

    def batch(self, size: int, generator: torch.Generator) -> Batch: ...


@dataclass(frozen=True)
class Captions:
    """Encoded captions of pieces (`training.features.caption_features`).

    Attributes:
        text, pooled: (captions, T, D) and (captions, E).
        first: (pieces + 1,), where each piece's rows begin.
    """

    text: np.ndarray
    pooled: np.ndarray
    first: np.ndarray

    def of(self, pieces: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Text and pooled features of one of the captions of each piece."""
        rows = one_of_each(self.first, pieces, generator)
        return as_float(self.text[rows]), as_float(self.pooled[rows])


@dataclass(frozen=True)
class LatentSplit:
    """Cached features of one split (see `training.features`).

    Windows begin on bar lines: where every clip starts with a beat, a small network learns to keep
    one.

    Attributes:
        latents: (windows, 2, N, C) posterior mean and deviation.
        first_window: (pieces + 1,), where each piece's windows begin.
        metres: (pieces,), as the backbone's pulse numbers them; None without one.
    """

    latents: np.ndarray
    first_window: np.ndarray
    captions: Captions
    metres: np.ndarray | None = None

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        pieces = torch.randint(len(self.first_window) - 1, (size,), generator=generator).numpy()
        windows = one_of_each(self.first_window, pieces, generator)
        text, pooled = self.captions.of(pieces, generator)
        mean, std = as_float(self.latents[windows]).unbind(1)
        return Batch(mean, std, text, pooled, metre=rows_of(self.metres, pieces))


def rows_of(values: np.ndarray | None, rows: np.ndarray) -> Tensor | None:
    """Some rows of what may not be known."""
    return None if values is None else torch.from_numpy(values[rows])


def as_float(rows: np.ndarray) -> Tensor:
    """Half-precision rows in single precision."""
    return torch.from_numpy(rows.astype(np.float32))


def one_of_each(first: np.ndarray, rows: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """One random entry of each row's own, where row r owns first[r] .. first[r + 1] - 1."""
    picks = torch.rand(len(rows), generator=generator).numpy()
    return first[rows] + (picks * (first[rows + 1] - first[rows])).astype(int)


def latent_statistics(latents: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, each (1, 1, C), of posterior samples."""
    some = as_float(latents[:: max(1, len(latents) // MEASURED)])
    mean, std = some.unbind(1)
    variance = mean.flatten(0, 1).var(0) + std.square().flatten(0, 1).mean(0)
    return mean.mean((0, 1))[None, None], variance.sqrt()[None, None]


def fresh_backbone(
    seed: int, config: FluxAudioConfig, latents: np.ndarray, empty_text: tuple[Tensor, Tensor]
) -> FluxAudio:
    """A network to train from the start, which knows its latents' statistics and the empty text."""
    torch.manual_seed(seed)
    backbone = FluxAudio(config)
    backbone.set_statistics(*latent_statistics(latents))
    backbone.set_empty_text(*empty_text)
    return backbone


def average_of(
    network: nn.Module, ema_decay: float | tuple[float, ...]
) -> Average | PostHocAverage:
    """What a recipe's `ema_decay` asks for."""
    if isinstance(ema_decay, tuple):
        return PostHocAverage(network, ema_decay)
    return Average(network, ema_decay)


class BackboneJob(ABC):
    """Training of a backbone; what it minimises is `loss`."""

    def __init__(self, name: str, recipe: BackboneRecipe, backbone: FluxAudio) -> None:
        self.name, self.recipe = name, recipe
        self.backbone = backbone.to(accelerator().device)
        self.average = average_of(backbone, recipe.ema_decay)
        self.trained = [p for p in backbone.parameters() if p.requires_grad]
        self.optimizer = AdamW(
            self.trained, betas=(0.9, 0.95), eps=1e-8, weight_decay=recipe.weight_decay,
            fused=sum(p.numel() for p in self.trained) >= FUSED_FROM or None,  # None: by device
        )  # fmt: skip

    @abstractmethod
    def loss(
        self, held_out: bool, generator: torch.Generator, time_mean: float, share: Share = WHOLE
    ) -> Tensor:
        """Mean loss of one share of a batch that follows from the generator alone."""

    def restart(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights of the backbone."""
        self.backbone.load_state_dict({k: v.float() for k, v in weights.items()})
        self.average = average_of(self.backbone, self.recipe.ema_decay)

    def modules(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone, "average": self.average}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"all": self.optimizer}

    def autocast(self) -> torch.autocast:
        """Products in the precision of the recipe."""
        return products(self.recipe.precision, self.backbone.latent_mean.device)

    def train_step(self, step: int) -> dict[str, float]:
        time_mean = self.recipe.time_mean if step >= self.recipe.time_mean_from else 0.0

        def loss_of(share: Share) -> Tensor:
            return self.loss(False, draws(self.recipe.seed, self.name, step), time_mean, share)

        values = update(loss_of, self.optimizer, self.recipe.grad_clip)
        self.average.update(self.backbone)
        return values

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Loss of the live and of the averaged weights on the same held-out draws."""
        live = {k: v.clone() for k, v in self.backbone.state_dict().items()}
        out = {"loss": self._held_out_loss()}
        self.backbone.load_state_dict(self.average.weights())
        out["average_loss"] = self._held_out_loss()
        self.backbone.load_state_dict(live)
        return out

    def _held_out_loss(self) -> float:
        purpose, whole = f"{self.name} validation", Share(device=self.backbone.latent_mean.device)
        losses = [
            self.loss(True, draws(self.recipe.seed, purpose, i), 0.0, whole) for i in range(4)
        ]
        return torch.stack(losses).mean().item()

    def export(self, path: Path, base: Path | None = None) -> None:
        """
        Args:
            base: weights beside `path` that differences are kept from.
        """
        save_half(self.average.weights(), path, base)


class FlowMatchingJob(BackboneJob):
    """Regression of the velocity: the baseline, the score-conditioned fine-tune and what follows.

    Args:
        splits: training and held-out windows; with scores where the backbone has a head.
    """

    def __init__(
        self,
        name: str,
        recipe: BackboneRecipe,
        backbone: FluxAudio,
        splits: tuple[Windows, Windows],
    ) -> None:
        super().__init__(name, recipe, backbone)
        self.splits = splits

    def loss(
        self, held_out: bool, generator: torch.Generator, time_mean: float, share: Share = WHOLE
    ) -> Tensor:
        size, backbone = self.recipe.batch, self.backbone
        batch = self.splits[held_out].batch(size, generator)
        sampled = batch.mean + batch.std * torch.randn(batch.mean.shape, generator=generator)
        t = share(flow.sample_times(size, generator, time_mean))
        noise = share(torch.randn(sampled.shape, generator=generator))
        drop = share(torch.rand(size, generator=generator) < self.recipe.null_text)
        score = batch.score
        if score is not None:
            null = torch.rand(size, generator=generator) < self.recipe.null_score
            score = share(score.masked_fill(null, NULL_SCORE))
        data, text, pooled = (share(x) for x in (sampled, batch.text, batch.pooled))
        data = backbone.normalise(data)
        metre = None if batch.metre is None else share(batch.metre)
        course = backbone.course(text, pooled, metre)
        text = torch.where(drop[:, None, None], backbone.empty_string_feat, text)
        pooled = torch.where(drop[:, None], backbone.empty_string_feat_c, pooled)
        with self.autocast():
            velocity = backbone(flow.interpolate(data, noise, t), t, text, pooled, score, course)
        return (velocity.float() - flow.velocity_target(data, noise)).square().mean()
