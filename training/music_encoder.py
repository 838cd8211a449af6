"""The demo's MERT-class music encoder: a small Wav2Vec2-BERT that learns what is played and how.

Windows of the corpus, most of them degraded, go through the encoder; from the mean over time of its
last layer, which is what the reward reads, linear heads name the piece's tags and say how strong
each degradation is. So the features hold both sides of a preference, music and production, without
ever seeing one. Nothing but the encoder is kept.

It hears log-mels and not samples as MERT does: a HuBERT of this size, which has to learn its own
filters first, knew less of the degradations after three times as many windows.

Making a degraded window costs more than learning from it. So windows are made in batches, some of
the newest of which are kept, and an update learns from windows drawn out of those: each serves
`repeats` updates on average, never in the same company.

Shapes: waveforms (B, S), tokens (B, N, W), hidden (B, N, D).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from training.corpus.degradations import KINDS, Degradation, degrade
from training.data import CORPUS_RATE, Corpus
from training.engine import products
from training.loop import Average, numpy_draws
from training.recipe import MusicEncoderRecipe
from training.text import TARGETS
from ttmpref.audio import resample
from ttmpref.config import MusicEncoderConfig
from ttmpref.encoders.mel_bert import mel_tokens, token_width
from ttmpref.models.mel import LogMel
from ttmpref.types import Clip

VALIDATION_WINDOWS = 64
AHEAD = 4  # batches made before they are asked for


def build_encoder(recipe: MusicEncoderRecipe, config: MusicEncoderConfig) -> Wav2Vec2BertModel:
    """A Wav2Vec2BertModel of the recipe's size, freshly initialised, without dropout or masking.

    It knows no positions but by its convolutions: it hears windows of any length.
    """
    return Wav2Vec2BertModel(
        Wav2Vec2BertConfig(
            hidden_size=config.dim,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            intermediate_size=recipe.hidden,
            feature_projection_input_dim=token_width(config),
            conv_depthwise_kernel_size=recipe.kernel,
            position_embeddings_type=None,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            conformer_conv_dropout=0.0,
            final_dropout=0.0,
            layerdrop=0.0,
            apply_spec_augment=False,
            mask_time_prob=0.0,
            mask_feature_prob=0.0,
        )
    )


@dataclass(frozen=True)
class HeardWindows:
    """What the encoder learns from.

    Attributes:
        tokens: (B, N, W) float16.
        rows: (B,) of the pieces in their split.
        strengths: (B, K) of the degradations, 0 for those that are not there.
    """

    tokens: np.ndarray
    rows: np.ndarray
    strengths: np.ndarray

    @classmethod
    def drawn(
        cls, made: Sequence[HeardWindows], size: int, rng: np.random.Generator
    ) -> HeardWindows:
        """Some of those in all batches, none twice."""
        places = [(one, place) for one in made for place in range(len(one.rows))]
        picked = [places[i] for i in rng.choice(len(places), size, replace=False)]
        return cls(*(
            np.stack([getattr(one, field.name)[place] for one, place in picked])
            for field in dataclasses.fields(cls)
        ))  # fmt: skip


@lru_cache(maxsize=1)
def _front_end(config: MusicEncoderConfig) -> LogMel:
    """Of this process."""
    return LogMel(config.mel)


@dataclass(frozen=True)
class DegradedWindows:
    """Batches of degraded windows, each a function of its number alone; picklable.

    Attributes:
        purpose: sets the draws of one use apart from those of another.
    """

    recipe: MusicEncoderRecipe
    config: MusicEncoderConfig
    corpus: Corpus
    purpose: str

    def batch(self, number: int, size: int) -> HeardWindows:
        """The windows of a number."""
        rng = numpy_draws(self.recipe.seed, self.purpose, number)
        samples = round(self.recipe.seconds * CORPUS_RATE)
        total, length = self.corpus.waveforms.shape
        rows = rng.integers(total, size=size)
        windows = self.corpus.cut(rows, rng.integers(length - samples + 1, size=size), samples)
        strengths = np.zeros((size, len(KINDS)), np.float32)
        heard = []
        for i, window in enumerate(windows.numpy()):
            clip = Clip(window[None], CORPUS_RATE)
            for kind in self._drawn_kinds(rng):
                strengths[i, KINDS.index(kind)] = strength = rng.uniform()
                clip = degrade(clip, Degradation(kind, strength, int(rng.integers(2**31))))
            heard.append(resample(clip, self.config.sample_rate).mono)
        log_mel = _front_end(self.config)(torch.from_numpy(np.stack(heard)))
        tokens = mel_tokens(log_mel, self.config.frames_per_token)
        return HeardWindows(tokens.numpy().astype(np.float16), rows, strengths)

    def _drawn_kinds(self, rng: np.random.Generator) -> list[str]:
        """None, one or two of the degradations."""
        count = rng.choice(3, p=self.recipe.degradation_counts)
        return rng.choice(KINDS, size=count, replace=False).tolist()


class MusicEncoderJob:
    """Tags and degradations of degraded windows."""

    name = "music_encoder"

    def __init__(
        self,
        recipe: MusicEncoderRecipe,
        config: MusicEncoderConfig,
        corpora: tuple[Corpus, Corpus],
        workers: int,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.config, self.workers = recipe, config, workers
        self.windows, self.held_out = (
            DegradedWindows(recipe, config, corpus, purpose)
            for corpus, purpose in zip(
                corpora, ("music_encoder", "music_encoder validation"), strict=True
            )
        )
        self.made: dict[int, Callable[[], HeardWindows]] = {}
        self.encoder = build_encoder(recipe, config)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(config.dim, len(values)) for name, values in TARGETS.items()}
        )
        self.strengths = nn.Linear(config.dim, len(KINDS))
        self.average = Average(self.encoder, recipe.ema_decay)
        trained = [self.encoder, self.heads, self.strengths]
        self.trained = [p for module in trained for p in module.parameters()]
        self.optimizer = AdamW(self.trained, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)

    def modules(self) -> dict[str, nn.Module]:
        names = ("encoder", "heads", "strengths", "average")
        return {name: getattr(self, name) for name in names}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"all": self.optimizer}

    @cached_property
    def _pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"))

    @cached_property
    def _held_out_windows(self) -> HeardWindows:
        return self.held_out.batch(0, VALIDATION_WINDOWS)

    def _batch(self, step: int) -> HeardWindows:
        """What update `step` learns from, while batches after it are being made."""
        recipe = self.recipe
        newest = step // recipe.repeats
        kept = range(max(0, newest - recipe.kept_batches + 1), newest + 1)
        for number in range(kept.start, kept.stop + AHEAD):
            if number not in self.made:
                self.made[number] = self._make(number)
        for old in [number for number in self.made if number < kept.start]:
            del self.made[old]
        rng = numpy_draws(recipe.seed, "music_encoder drawn", step)
        return HeardWindows.drawn([self.made[number]() for number in kept], recipe.batch, rng)

    def _make(self, number: int) -> Callable[[], HeardWindows]:
        """A batch that is being made where there are workers for it, else when it is asked for."""
        if self.workers < 2:
            return cache(partial(self.windows.batch, number, self.recipe.batch))
        return self._pool.submit(self.windows.batch, number, self.recipe.batch).result

    def restart(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights of the encoder; its heads, which are not kept, begin anew."""
        self.encoder.load_state_dict({k: v.float() for k, v in weights.items()})
        self.average = Average(self.encoder, self.recipe.ema_decay)

    def _losses(self, corpus: Corpus, windows: HeardWindows) -> dict[str, Tensor]:
        tags = [corpus.pieces[row].tags for row in windows.rows]
        tokens = torch.from_numpy(windows.tokens).float()
        with products(self.recipe.precision, tokens.device):
            hidden = self.encoder(input_features=tokens).last_hidden_state
        pooled = hidden.float().mean(1)  # (B, D)
        losses = {
            name: F.cross_entropy(
                head(pooled), torch.tensor([TARGETS[name].index(tag[name]) for tag in tags])
            )
            for name, head in self.heads.items()
        }
        guessed = self.strengths(pooled)
        losses["degradations"] = F.binary_cross_entropy_with_logits(
            guessed, torch.from_numpy(windows.strengths)
        ) * len(KINDS)
        return losses

    def train_step(self, step: int) -> dict[str, float]:
        losses = self._losses(self.windows.corpus, self._batch(step))
        self.optimizer.zero_grad()
        weights = {"degradations": 1.0}
        sum(weights.get(n, self.recipe.tag_weight) * loss for n, loss in losses.items()).backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.average.update(self.encoder)
        return {name: loss.item() for name, loss in losses.items()}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        losses = self._losses(self.held_out.corpus, self._held_out_windows)
        return {name: loss.item() for name, loss in losses.items()}

    def export(self, folder: Path) -> None:
        """Averaged encoder as a transformers folder, half precision."""
        self.encoder.load_state_dict(self.average.weights())
        self.encoder.half().save_pretrained(folder)
