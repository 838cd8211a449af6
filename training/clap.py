"""Contrastive text-audio training of the demo's CLAP (the classes of transformers, small).

Symmetric cross-entropy over the cosine similarities of a batch (Wu et al. 2023). The audio side is
trained on log-mels made exactly as `ClapFeatureExtractor` makes them, so that what the shipped
folder computes at inference is what was learned; they are cached once per 10 s window.

Shapes: features (B, 1, frames, M), tokens (B, T), embeddings (B, E).
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from torch import Tensor
from torch.optim import AdamW, Optimizer
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    PreTrainedTokenizerFast,
)

from training.data import Corpus
from training.loop import Average, draws, write_aside
from training.recipe import ClapRecipe
from training.text import tokenize
from ttmpref import config as presets

NUM_MELS = 64
GRID = 128  # HTSAT folds (frames, mels) into a GRID x GRID picture


def feature_extractor(recipe: ClapRecipe, config: presets.ClapConfig) -> ClapFeatureExtractor:
    """Slaney mels of one explicit window; LAION's checkpoints use the same two choices."""
    return ClapFeatureExtractor(
        feature_size=NUM_MELS,
        sampling_rate=config.sample_rate,
        hop_length=recipe.hop_length,
        max_length_s=int(config.window_seconds),
        fft_window_size=recipe.n_fft,
        frequency_min=50,
        frequency_max=16_000,
        truncation="rand_trunc",
        padding="repeatpad",
    )


def build_clap(recipe: ClapRecipe, config: presets.ClapConfig, pad_token: int) -> ClapModel:
    """A ClapModel of the recipe's size, freshly initialised."""
    heads = [max(1, recipe.patch_width * 2**level // 32) for level in range(len(recipe.depths))]
    audio = ClapAudioConfig(
        num_mel_bins=NUM_MELS,
        spec_size=GRID,
        patch_embeds_hidden_size=recipe.patch_width,
        patch_embed_input_channels=1,
        hidden_size=recipe.patch_width * 2 ** (len(recipe.depths) - 1),
        depths=list(recipe.depths),
        num_attention_heads=heads,
        window_size=4,
        hidden_dropout_prob=0.0,
        drop_path_rate=0.0,
        projection_dim=config.dim,
    )
    text = ClapTextConfig(
        vocab_size=config.vocabulary,
        hidden_size=recipe.text_width,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=recipe.text_width // 32,
        intermediate_size=2 * recipe.text_width,
        max_position_embeddings=config.max_tokens + pad_token + 1,
        pad_token_id=pad_token,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-5,
        projection_dim=config.dim,
    )
    return ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=config.dim))


def _features_of_rows(
    rows: list[int], corpus: Corpus, extractor: ClapFeatureExtractor, starts: list[int]
) -> np.ndarray:
    """(rows, windows, frames, M) float16."""
    length = int(extractor.max_length_s * extractor.sampling_rate)
    out = []
    for row in rows:
        waves = corpus.cut(np.full(len(starts), row), np.array(starts), length).numpy()
        batch = extractor(list(waves), sampling_rate=extractor.sampling_rate, return_tensors="np")
        out.append(batch["input_features"][:, 0].astype(np.float16))
    return np.stack(out)


def clap_features(
    corpus: Corpus, extractor: ClapFeatureExtractor, windows: int, workers: int
) -> np.ndarray:
    """(pieces, windows, frames, M) float16, memory-mapped: evenly spread 10 s windows, cached."""
    path = corpus.folder / "cache" / f"clap_features.{corpus.split}.{windows}.npy"
    if not path.exists():
        total, samples = corpus.waveforms.shape
        length = int(extractor.max_length_s * extractor.sampling_rate)
        starts = np.linspace(0, samples - length, windows).astype(int).tolist()
        chunks = [list(range(i, min(i + 16, total))) for i in range(0, total, 16)]
        work = partial(_features_of_rows, corpus=corpus, extractor=extractor, starts=starts)

        def save(aside: Path) -> None:
            array = None
            with ProcessPoolExecutor(workers) as pool:
                for rows, block in zip(chunks, pool.map(work, chunks), strict=True):
                    if array is None:
                        shape = (total, *block.shape[1:])
                        array = open_memmap(aside, mode="w+", dtype=np.float16, shape=shape)
                    array[rows] = block
            array.flush()

        write_aside(path, save)
    return np.load(path, mmap_mode="r")


class ClapJob:
    """Contrastive loss between windows and one of their captions."""

    name = "clap"

    def __init__(
        self,
        recipe: ClapRecipe,
        config: presets.ClapConfig,
        tokenizer: PreTrainedTokenizerFast,
        corpora: tuple[Corpus, Corpus],
        workers: int,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.config, self.tokenizer = recipe, config, tokenizer
        self.corpora = corpora
        self.extractor = feature_extractor(recipe, config)
        self.features = [clap_features(c, self.extractor, 5, workers) for c in corpora]
        self.model = build_clap(recipe, config, tokenizer.pad_token_id)
        # A trainable temperature starting at 1/0.07 is slow to move at this length of training.
        with torch.no_grad():
            self.model.logit_scale_a.fill_(np.log(20.0))
        self.average = Average(self.model, recipe.ema_decay)
        self.optimizer = AdamW(
            self.model.parameters(), betas=(0.9, 0.98), weight_decay=recipe.weight_decay
        )

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model, "average": self.average}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"all": self.optimizer}

    def _batch(self, which: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Features of windows of distinct pieces and one caption of each."""
        features, captions = self.features[which], self.corpora[which].captions
        rows = torch.randperm(len(features), generator=generator)[: self.recipe.batch].tolist()
        picks = torch.randint(2**31, (2, len(rows)), generator=generator).tolist()
        windows = [features[r, p % features.shape[1]] for r, p in zip(rows, picks[0], strict=True)]
        texts = [captions[r][p % len(captions[r])] for r, p in zip(rows, picks[1], strict=True)]
        audio = torch.from_numpy(np.stack(windows).astype(np.float32))[:, None]
        return audio, tokenize(self.tokenizer, texts, self.config.max_tokens)

    def _similarities(self, audio: Tensor, text: dict[str, Tensor]) -> Tensor:
        """(B, B) cosines of audio rows and text columns."""
        a = self.model.get_audio_features(input_features=audio).pooler_output
        t = self.model.get_text_features(**text).pooler_output
        return F.normalize(a, dim=-1) @ F.normalize(t, dim=-1).T

    def _loss(self, similarities: Tensor) -> Tensor:
        logits = similarities * self.model.logit_scale_a.exp().clamp(max=100.0)
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def train_step(self, step: int) -> dict[str, float]:
        self.model.train()
        audio, text = self._batch(0, draws(self.recipe.seed, "clap", step))
        similarities = self._similarities(audio, text)
        loss = self._loss(similarities)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.model)
        hits = (similarities.argmax(0) == torch.arange(len(similarities))).float().mean()
        return {"loss": loss.item(), "top1": hits.item()}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        self.model.eval()
        audio, text = self._batch(1, draws(self.recipe.seed, "clap validation", 0))
        similarities = self._similarities(audio, text)
        ranks = (similarities > similarities.diag()[None]).sum(0)
        return {
            "loss": self._loss(similarities).item(),
            "recall1": (ranks < 1).float().mean().item(),
            "recall5": (ranks < 5).float().mean().item(),
        }

    def export(self, folder: Path) -> None:
        """Averaged model, tokenizer and feature extractor as a transformers folder, fp16."""
        self.model.load_state_dict(self.average.weights())
        self.model.half().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.extractor.save_pretrained(folder)
