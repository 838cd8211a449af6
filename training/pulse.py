"""The pulse of a backbone (`ttmpref.models.pulse`): metres read from captions, courses from metres.

Two regressions: the cross-entropy of the metre given a caption, on captions made up by the corpus
grammar, as those of a few thousand pieces would be learnt by heart; and the squared error of the
latents given caption and metre, on windows that begin on bar lines.

Shapes: latents (B, N, C), text (B, T, D), pooled (B, E), metre (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from training.autoencoder import save_half
from training.flow_matching import Batch, Windows
from training.loop import Average, draws, numpy_draws
from training.recipe import PulseRecipe
from ttmpref.models.fluxaudio import FluxAudio
from ttmpref.models.pulse import Pulse, summary
from ttmpref.types import MissingWeights

HELD_OUT = 512  # windows and captions of a validation
CHUNK = 128  # captions encoded at once
# How many and draws to text, pooled and metre of as many captions.
MakeUp = Callable[[int, np.random.Generator], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Captioned:
    """Captions with metres.

    Attributes:
        summaries: (n, D + E), see `ttmpref.models.pulse.summary`.
        metres: (n,).
    """

    summaries: Tensor
    metres: Tensor

    @classmethod
    def made_up(cls, make: MakeUp, count: int, seed: int, purpose: str) -> Captioned:
        """`count` of them, in whole chunks."""
        summaries, metres = [], []
        for first in range(0, count, CHUNK):
            text, pooled, metre = make(CHUNK, numpy_draws(seed, purpose, first))
            summaries.append(summary(text, pooled))
            metres.append(metre)
        return cls(torch.cat(summaries), torch.cat(metres))


class PulseJob:
    """Trains the pulse of a backbone that knows its latents' statistics.

    Args:
        splits: training and held-out windows with metres.
        make: makes captions up.
    """

    name = "pulse"

    def __init__(
        self,
        recipe: PulseRecipe,
        backbone: FluxAudio,
        splits: tuple[Windows, Windows],
        make: MakeUp,
    ) -> None:
        self.recipe, self.backbone, self.splits = recipe, backbone, splits
        self.captions = Captioned.made_up(make, recipe.captions, recipe.seed, "pulse captions")
        self.held_out = Captioned.made_up(make, HELD_OUT, recipe.seed, "pulse held-out captions")
        self.pulse: Pulse = backbone.pulse.requires_grad_(True).train()
        self.average = Average(self.pulse, recipe.ema_decay)
        self.optimizer = AdamW(
            self.pulse.parameters(), betas=(0.9, 0.99), weight_decay=recipe.weight_decay
        )

    def modules(self) -> dict[str, nn.Module]:
        return {"pulse": self.pulse, "average": self.average}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"all": self.optimizer}

    def train_step(self, step: int) -> dict[str, float]:
        generator, size = draws(self.recipe.seed, self.name, step), self.recipe.batch
        course = self._course(self.splits[0].batch(size, generator))
        rows = torch.randint(len(self.captions.metres), (size,), generator=generator)
        logits = self.pulse.metre(self.captions.summaries[rows])
        metre = F.cross_entropy(logits, self.captions.metres[rows])
        self.optimizer.zero_grad()
        (course + self.recipe.metre_weight * metre).backward()
        self.optimizer.step()
        self.average.update(self.pulse)
        return {"course": course.item(), "metre": metre.item()}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Of the averaged weights: both losses, and how often the metre is read rightly."""
        live = {name: tensor.clone() for name, tensor in self.pulse.state_dict().items()}
        self.pulse.load_state_dict(self.average.weights())
        self.pulse.eval()
        generator = draws(self.recipe.seed, f"{self.name} validation", 0)
        course = self._course(self.splits[1].batch(HELD_OUT, generator))
        logits, metres = self.pulse.metre(self.held_out.summaries), self.held_out.metres
        metre, read = F.cross_entropy(logits, metres), (logits.argmax(1) == metres).float().mean()
        self.pulse.load_state_dict(live)
        self.pulse.train()
        return {"course": course.item(), "metre": metre.item(), "metre_read": read.item()}

    def _course(self, batch: Batch) -> Tensor:
        """Squared error; 1 without a course."""
        course = self.pulse(batch.text, batch.pooled, batch.metre)
        return (course - self.backbone.normalise(batch.mean)).square().mean()

    def export(self, path: Path) -> None:
        save_half(self.average.weights(), path)


def load_pulse(backbone: FluxAudio, path: Path) -> None:
    """The pulse that a step left behind, into a fresh backbone.

    Raises:
        MissingWeights: the step has not run.
    """
    if not path.exists():
        raise MissingWeights(f"{path} is missing; run first: python -m training steps pulse")
    backbone.pulse.load_state_dict({k: v.float() for k, v in load_file(path).items()})
