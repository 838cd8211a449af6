"""The demo's MERT-class music encoder: a small HuBERT that learns to hear what is played and how.

Windows of the corpus, most of them degraded, go through the encoder; from the mean over time of its
last layer, which is what the reward reads, linear heads name the piece's tags and say how strong
each degradation is. So the features hold both sides of a preference, music and production, without
ever seeing one. Nothing but the encoder is kept.

Shapes: waveforms (B, S), hidden (B, T, D).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from training.corpus.degradations import KINDS, Degradation, degrade
from training.data import CORPUS_RATE, Corpus
from training.loop import Average, numpy_draws
from training.recipe import MusicEncoderRecipe
from training.text import TARGETS
from ttmpref.audio import resample
from ttmpref.config import MusicEncoderConfig
from ttmpref.types import Clip

VALIDATION_WINDOWS = 64


def build_encoder(recipe: MusicEncoderRecipe, config: MusicEncoderConfig) -> HubertModel:
    """A HubertModel of the recipe's size, freshly initialised, without dropout or masking."""
    convolutions = recipe.convolutions
    return HubertModel(
        HubertConfig(
            hidden_size=config.dim,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            intermediate_size=recipe.hidden,
            conv_dim=[width for width, _, _ in convolutions],
            conv_kernel=[kernel for _, kernel, _ in convolutions],
            conv_stride=[stride for _, _, stride in convolutions],
            conv_bias=True,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=recipe.heads,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            final_dropout=0.0,
            layerdrop=0.0,
            apply_spec_augment=False,
            mask_time_prob=0.0,
            mask_feature_prob=0.0,
        )
    )


class MusicEncoderJob:
    """Tags and degradations of degraded windows."""

    name = "music_encoder"

    def __init__(
        self,
        recipe: MusicEncoderRecipe,
        config: MusicEncoderConfig,
        corpora: tuple[Corpus, Corpus],
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.config = recipe, config
        self.train_corpus, self.held_out = corpora
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

    def _batch(
        self, corpus: Corpus, size: int, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Waveforms (B, S) at the encoder's rate, class numbers (B,) by tag, strengths (B, K)."""
        samples = round(self.recipe.seconds * CORPUS_RATE)
        total, length = corpus.waveforms.shape
        rows = rng.integers(total, size=size)
        windows = corpus.cut(rows, rng.integers(length - samples + 1, size=size), samples)
        strengths = np.zeros((size, len(KINDS)), np.float32)
        heard = []
        for i, window in enumerate(windows.numpy()):
            clip = Clip(window[None], CORPUS_RATE)
            for kind in self._drawn_kinds(rng):
                strengths[i, KINDS.index(kind)] = strength = rng.uniform()
                clip = degrade(clip, Degradation(kind, strength, int(rng.integers(2**31))))
            heard.append(torch.from_numpy(resample(clip, self.config.sample_rate).mono))
        tags = [corpus.pieces[row].tags for row in rows]
        labels = {
            name: torch.tensor([values.index(tag[name]) for tag in tags])
            for name, values in TARGETS.items()
        }
        return torch.stack(heard), labels, torch.from_numpy(strengths)

    def _drawn_kinds(self, rng: np.random.Generator) -> list[str]:
        """None, one or two of the degradations."""
        count = rng.choice(3, p=self.recipe.degradation_counts)
        return rng.choice(KINDS, size=count, replace=False).tolist()

    def _losses(self, corpus: Corpus, size: int, rng: np.random.Generator) -> dict[str, Tensor]:
        waveforms, labels, strengths = self._batch(corpus, size, rng)
        pooled = self.encoder(input_values=waveforms).last_hidden_state.mean(1)  # (B, D)
        losses = {
            name: F.cross_entropy(head(pooled), labels[name]) for name, head in self.heads.items()
        }
        guessed = self.strengths(pooled)
        losses["degradations"] = F.binary_cross_entropy_with_logits(guessed, strengths) * len(KINDS)
        return losses

    def train_step(self, step: int) -> dict[str, float]:
        rng = numpy_draws(self.recipe.seed, "music_encoder", step)
        losses = self._losses(self.train_corpus, self.recipe.batch, rng)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.average.update(self.encoder)
        return {name: loss.item() for name, loss in losses.items()}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        rng = numpy_draws(self.recipe.seed, "music_encoder validation", 0)
        losses = self._losses(self.held_out, VALIDATION_WINDOWS, rng)
        return {name: loss.item() for name, loss in losses.items()}

    def export(self, folder: Path) -> None:
        """Averaged encoder and front end as a transformers folder, half precision."""
        self.encoder.load_state_dict(self.average.weights())
        self.encoder.half().save_pretrained(folder)
        extractor = Wav2Vec2FeatureExtractor(
            sampling_rate=self.config.sample_rate, do_normalize=False, return_attention_mask=False
        )
        extractor.save_pretrained(folder)
