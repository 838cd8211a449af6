"""Flow matching of the text-conditioned backbone (paper, sections III-A and III-D).

Per update (specification 4.1): draw a posterior sample of every latent window, normalise it, draw
logit-normal times and noise, replace both text features of a tenth of the samples by the empty
text's, and regress the velocity. The weights that ship are a moving average.

Shapes: latents (B, N, C), text (B, T, D), pooled (B, E).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from training.autoencoder import save_half
from training.loop import Average, draws
from training.recipe import BackboneRecipe
from ttmpref import flow
from ttmpref.config import FluxAudioConfig
from ttmpref.models.fluxaudio import FluxAudio


@dataclass(frozen=True)
class LatentSplit:
    """Cached features of one split (see `training.features`).

    Windows begin on bar lines: where every clip starts with a beat, a small network learns to keep
    one.

    Attributes:
        first_window, first_caption: (pieces + 1,), where each piece's rows begin.
    """

    latents: np.ndarray
    first_window: np.ndarray
    text: np.ndarray
    pooled: np.ndarray
    first_caption: np.ndarray

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Posterior mean and deviation (B, N, C), text and pooled of one of the captions."""
        pieces = len(self.first_window) - 1
        rows = torch.randint(pieces, (size,), generator=generator).numpy()
        windows = _one_of_each(self.first_window, rows, generator)
        captions = _one_of_each(self.first_caption, rows, generator)
        latents = torch.from_numpy(self.latents[windows].astype(np.float32))
        mean, std = latents.unbind(1)
        text = torch.from_numpy(self.text[captions].astype(np.float32))
        return mean, std, text, torch.from_numpy(self.pooled[captions].astype(np.float32))


def _one_of_each(first: np.ndarray, rows: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """One random entry of each row's own, where row r owns first[r] .. first[r + 1] - 1."""
    picks = torch.rand(len(rows), generator=generator).numpy()
    return first[rows] + (picks * (first[rows + 1] - first[rows])).astype(int)


def latent_statistics(latents: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, each (1, 1, C), of posterior samples."""
    some = torch.from_numpy(latents[:: max(1, len(latents) // 400)].astype(np.float32))
    mean, std = some.unbind(1)
    variance = mean.flatten(0, 1).var(0) + std.square().flatten(0, 1).mean(0)
    return mean.mean((0, 1))[None, None], variance.sqrt()[None, None]


class BaselineJob:
    """The text-conditioned backbone, no score head."""

    name = "baseline"

    def __init__(
        self,
        recipe: BackboneRecipe,
        config: FluxAudioConfig,
        splits: tuple[LatentSplit, LatentSplit],
        empty_text: tuple[Tensor, Tensor],
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.config = recipe, config
        self.train_split, self.held_out = splits
        self.backbone = FluxAudio(config)
        self.backbone.set_statistics(*latent_statistics(self.train_split.latents))
        self.backbone.set_empty_text(*empty_text)
        self.average = Average(self.backbone, recipe.ema_decay)
        self.trained = [p for p in self.backbone.parameters() if p.requires_grad]
        self.optimizer = AdamW(
            self.trained, betas=(0.9, 0.95), eps=1e-8, weight_decay=recipe.weight_decay
        )

    def restart(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights of the backbone."""
        self.backbone.load_state_dict({k: v.float() for k, v in weights.items()})
        self.average = Average(self.backbone, self.recipe.ema_decay)

    def modules(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone, "average": self.average}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"all": self.optimizer}

    def _loss(
        self, split: LatentSplit, generator: torch.Generator, time_mean: float = 0.0
    ) -> Tensor:
        size = self.recipe.batch
        mean, std, text, pooled = split.batch(size, generator)
        sampled = mean + std * torch.randn(mean.shape, generator=generator)
        data = self.backbone.normalise(sampled)
        t = flow.sample_times(size, generator, time_mean)
        noise = torch.randn(data.shape, generator=generator)
        drop = torch.rand(size, generator=generator) < self.recipe.null_text
        text = torch.where(drop[:, None, None], self.backbone.empty_string_feat, text)
        pooled = torch.where(drop[:, None], self.backbone.empty_string_feat_c, pooled)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            velocity = self.backbone(flow.interpolate(data, noise, t), t, text, pooled)
        return (velocity.float() - flow.velocity_target(data, noise)).square().mean()

    def train_step(self, step: int) -> dict[str, float]:
        generator = draws(self.recipe.seed, "baseline", step)
        time_mean = self.recipe.time_mean if step >= self.recipe.time_mean_from else 0.0
        loss = self._loss(self.train_split, generator, time_mean)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, self.recipe.grad_clip)
        self.optimizer.step()
        self.average.update(self.backbone)
        return {"loss": loss.item(), "grad_norm": norm.item()}

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
        losses = [
            self._loss(self.held_out, draws(self.recipe.seed, "baseline validation", index))
            for index in range(4)
        ]
        return torch.stack(losses).mean().item()

    def export(self, path: Path) -> None:
        save_half(self.average.weights(), path)
