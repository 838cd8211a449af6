"""Windows with a score each: what the stages of the preference chain learn from.

The demo's are the takes that the simulated listeners heard (`training.listeners`): clean music and
music with faults, so that the score is about something that differs within the data, as the quality
of a large collection of recordings does. A take's caption is that of the piece that is played.

Scores are rewards on the scale of the paper's training scores, so that a value of s means the same
in both presets: s = 0.62 + 0.59 z, z the normal score of the reward's rank among the training
windows'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from training.data import INT16
from training.features import Encode, cached
from training.flow_matching import Batch, Captions, Windows, as_float, rows_of
from training.listeners import Take
from training.loop import write_json
from training.takes import Takes

PAPER_MEAN, PAPER_STD = 0.62, 0.59  # of the paper's training scores (specification 1.12)
KNOTS = 200  # of the map from rewards to scores: the outermost lie 2.8 deviations from the middle


@dataclass(frozen=True)
class ScoreScale:
    """From rewards to the scores s of the chain.

    Attributes:
        rewards, scores: (K,) rising knots of a piecewise linear map, level beyond the outermost;
            None leaves rewards as they are: the paper's own scale.
    """

    rewards: np.ndarray | None = None
    scores: np.ndarray | None = None

    @classmethod
    def normal(cls, rewards: np.ndarray) -> ScoreScale:
        """Gives these rewards, by their ranks, a normal distribution of the paper's moments.

        Rewards of a small collection are skewed: a straight line to the paper's moments would put
        no training window above s = 1.5, and what the paper asks for would be extrapolation.
        """
        levels = (np.arange(KNOTS) + 0.5) / KNOTS
        return cls(np.quantile(rewards, levels), PAPER_MEAN + PAPER_STD * stats.norm.ppf(levels))

    def write(self, path: Path) -> None:
        knots = {k: v if v is None else v.round(5).tolist() for k, v in self.__dict__.items()}
        write_json(path, knots)

    def score(self, rewards: np.ndarray) -> np.ndarray:
        if self.rewards is None:
            return rewards.astype(np.float32)
        return np.interp(rewards, self.rewards, self.scores).astype(np.float32)


@dataclass(frozen=True)
class ScoredSplit:
    """Windows with scores.

    Attributes:
        latents: (W, 2, N, C) posterior mean and deviation.
        pieces: (W,), whose captions describe the window.
        scores: (W,), or None for a network that has no use for them.
        metres: (W,), as the backbone's pulse numbers them; None takes them from the captions.
    """

    latents: np.ndarray
    pieces: np.ndarray
    scores: np.ndarray | None
    captions: Captions
    metres: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(self), (size,), generator=generator).numpy()
        text, pooled = self.captions.of(self.pieces[rows], generator)
        mean, std = as_float(self.latents[rows]).unbind(1)
        return Batch(
            mean, std, text, pooled, rows_of(self.scores, rows), rows_of(self.metres, rows)
        )


@dataclass(frozen=True)
class Mixture:
    """Several sources of windows; a sample comes from source k with probability ~ weights[k]."""

    parts: Sequence[Windows]
    weights: Sequence[float]

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        shares = torch.tensor(self.weights, dtype=torch.float64)
        owners = torch.multinomial(shares, size, replacement=True, generator=generator)
        counts = [int((owners == k).sum()) for k in range(len(self.parts))]
        drawn = [
            part.batch(count, generator)
            for part, count in zip(self.parts, counts, strict=True)
            if count
        ]
        joined = {name: [getattr(one, name) for one in drawn] for name in Batch.__annotations__}
        return Batch(**{name: _joined(values) for name, values in joined.items()})


def _joined(values: Sequence[Tensor | None]) -> Tensor | None:
    """What all parts know, of all."""
    return None if any(value is None for value in values) else torch.cat(values)


@torch.inference_mode()
def take_latents(takes: Takes, encode: Encode, samples: int, path: Path) -> np.ndarray:
    """(takes, 2, N, C): posteriors of the first `samples` of takes, kept in `path`."""

    def make(start: int, stop: int) -> Tensor:
        clips = takes.waveforms[start:stop, :samples].astype(np.float32) / INT16
        return torch.stack(encode(torch.from_numpy(clips)), dim=1).transpose(2, 3)

    return cached(path, len(takes.names), 12, make)


def played(names: Sequence[str]) -> np.ndarray:
    """(takes,), rows of the pieces that takes play."""
    return np.array([Take.of_name(name).row for name in names])
