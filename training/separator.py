"""The demo's separator: a small HDemucs that hears voices, learned on mixes made on the spot.

Windows of the corpus, which is instrumental, and synthetic voices (`training.voices`) are added at
random levels and places between the channels. Only the estimate of the voice is used, so what it
does not recognise stays in the music (`ttmpref.separation`, mode "residual"), and it hears a lower
rate than a clip has, where voices have nearly all of their power. A share of the windows has no
voice at all, so that it learns to leave music alone.

Shapes: mixes (B, 2, S), waveforms of the corpus and of voices (rows, samples) int16.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from demucs.hdemucs import HDemucs
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from training.data import CORPUS_RATE, INT16, Corpus
from training.engine import products
from training.loop import Average, numpy_draws
from training.recipe import SeparatorRecipe
from training.voices import voices
from ttmpref.audio import resample_samples
from ttmpref.metrics import si_sdr
from ttmpref.separation import write_bag

BAG = "voice"
# A network that is asked for the voice alone stays silent for hundreds of updates; copying the rest
# shows it the way out.
SOURCES = ["other", "vocals"]
VALIDATION_WINDOWS = 24
QUIET = 1e-4  # root mean square below which a window is silent


def build_network(recipe: SeparatorRecipe) -> HDemucs:
    """A HDemucs of the recipe's size without LSTM or attention, freshly initialised."""
    return HDemucs(
        sources=SOURCES,
        channels=recipe.channels,
        depth=recipe.depth,
        nfft=recipe.n_fft,
        dconv_lstm=recipe.depth,  # layers count from 0, so from here on means in none
        dconv_attn=recipe.depth,
        samplerate=recipe.sample_rate,
        segment=recipe.segment,
    )


def relative_l1(estimates: Tensor, sources: Tensor, mix: Tensor) -> Tensor:
    """Mean absolute error in units of the mix's level, so that loud mixes count as quiet ones.

    Args:
        estimates, sources: (B, K, 2, S).
        mix: (B, 2, S).
    """
    level = mix.square().mean((1, 2)).sqrt() + QUIET
    return ((estimates - sources).abs().mean((1, 2, 3)) / level).mean()


def _rms(windows: Tensor) -> Tensor:
    """(B, S) to (B, 1)."""
    return windows.square().mean(-1, keepdim=True).sqrt()


@dataclass(frozen=True, eq=False)
class Sounds:
    """What mixes of one split are made of.

    Attributes:
        music: windows of its pieces.
        voices: (rows, samples) int16.
    """

    music: Corpus
    voices: np.ndarray


def sounds_of(recipe: SeparatorRecipe, corpus: Corpus) -> Sounds:
    """A split of the corpus and its voices, which are rendered into its cache on first use."""
    texts = [text for captions in corpus.captions for text in captions]
    made = voices(recipe.voices, corpus.split, texts, corpus.folder / "cache")
    return Sounds(corpus, made)


def draw_mixes(
    recipe: SeparatorRecipe, sounds: Sounds, size: int, seconds: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Music and voices to be added, each (size, 2, S) at CORPUS_RATE; some voices are silent."""
    samples = round(seconds * CORPUS_RATE)
    rows, starts = _places(sounds.music.waveforms.shape, size, samples, rng)
    music = sounds.music.cut(rows, starts, samples)  # (B, S)
    rows, starts = _places(sounds.voices.shape, size, samples, rng)
    pairs = zip(rows, starts, strict=True)
    cut = np.stack([sounds.voices[row, start : start + samples] for row, start in pairs])
    voice = torch.from_numpy(cut.astype(np.float32) / INT16)
    level = torch.from_numpy(10 ** (rng.uniform(*recipe.level_db, (size, 1)) / 20))
    present = torch.from_numpy(rng.uniform(size=(size, 1)) >= recipe.voiceless)
    present = present & (_rms(voice) > QUIET)
    gain = present * level * _rms(music) / _rms(voice).clamp(min=QUIET)
    return _placed(music, recipe, rng), _placed(gain.float() * voice, recipe, rng)


def _placed(windows: Tensor, recipe: SeparatorRecipe, rng: np.random.Generator) -> Tensor:
    """(B, S) to (B, 2, S): in the middle, or somewhere between the channels."""
    gains = rng.uniform(0.4, 1.0, (len(windows), 2, 1))
    gains[rng.uniform(size=len(windows)) < recipe.mono] = 1.0
    return windows[:, None] * torch.from_numpy(gains).float()


def _places(
    shape: tuple[int, int], size: int, samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and first samples of random windows of an array (rows, samples)."""
    rows, length = shape
    return rng.integers(rows, size=size), rng.integers(length - samples + 1, size=size)


class SeparatorJob:
    """Voices out of mixes of a training and a validation split."""

    name = "separator"

    def __init__(self, recipe: SeparatorRecipe, splits: tuple[Sounds, Sounds]) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.train_split, self.held_out = splits
        self.network = build_network(recipe)
        self.average = Average(self.network, recipe.ema_decay)
        self.optimizer = AdamW(
            self.network.parameters(), betas=(0.9, 0.98), weight_decay=recipe.weight_decay
        )

    def modules(self) -> dict[str, nn.Module]:
        return {"network": self.network, "average": self.average}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"all": self.optimizer}

    def _mixes(self, sounds: Sounds, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Music and voices to be added, each (size, 2, S), as the network hears them."""
        parts = draw_mixes(self.recipe, sounds, size, self.recipe.seconds, rng)
        rate = self.recipe.sample_rate
        heard = [resample_samples(part.numpy(), CORPUS_RATE, rate) for part in parts]
        return torch.from_numpy(heard[0]), torch.from_numpy(heard[1])

    def _estimates(self, mix: Tensor) -> Tensor:
        """(B, 2, S) to the sources in it (B, K, 2, S)."""
        with products(self.recipe.precision, mix.device):
            return self.network(mix).float()

    def train_step(self, step: int) -> dict[str, float]:
        rng = numpy_draws(self.recipe.seed, "separator", step)
        music, voice = self._mixes(self.train_split, self.recipe.batch, rng)
        mix = music + voice
        loss = relative_l1(self._estimates(mix), torch.stack([music, voice], 1), mix)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.network)
        return {"loss": loss.item()}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Mean gain of the music's SI-SDR by one pass, and its SI-SDR where nobody sings.

        Both at the network's rate; `benchmarks/separator.py` measures finished clips.
        """
        rng = numpy_draws(self.recipe.seed, "separator validation", 0)
        gains, untouched = [], []
        for _ in range(VALIDATION_WINDOWS):
            music, voice = self._mixes(self.held_out, 1, rng)
            mix = music + voice
            found = (mix - self._estimates(mix)[:, 1]).numpy()
            if not music.any():
                continue
            if voice.any():
                before = si_sdr(mix.numpy(), music.numpy())
                gains.append(si_sdr(found, music.numpy()) - before)
            else:
                untouched.append(si_sdr(found, music.numpy()))
        means = {"si_sdr_gain": gains, "si_sdr_voiceless": untouched}
        return {name: float(np.mean(values)) for name, values in means.items() if values}

    def export(self, folder: Path) -> None:
        """The averaged network as a Demucs bag."""
        self.network.load_state_dict(self.average.weights())
        write_bag(folder, BAG, {BAG: self.network})
