"""Training of the demo's mel VAE and of its inverse-STFT vocoder.

The VAE minimises the L1 distance of standardised mels plus a small KL term; one over patches starts
at the best linear code. The vocoder reads mels
as the trained VAE decodes them, so it learns to undo their blur; it minimises spectral distances at
several resolutions, and later two-dimensional spectrogram discriminators join with hinge losses and
feature matching (as in Vocos and EnCodec).

Shapes: waveform (B, S), mel (B, M, frames), latents (B, C, N).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from training.data import Corpus
from training.loop import Average, draws, write_aside
from training.recipe import VAERecipe, VocoderRecipe
from ttmpref import assets, differences
from ttmpref.autoencoder import build_vae
from ttmpref.config import AutoencoderConfig
from ttmpref.metrics import LSD_SIZES
from ttmpref.models.istft_vocoder import Estimate, ISTFTVocoder
from ttmpref.models.mel import LogMel
from ttmpref.models.patch_vae import PatchVAE


def save_half(weights: dict[str, Tensor], path: Path, base: Path | None = None) -> None:
    """Half-precision safetensors, written aside and renamed; with a `base` in the same folder,
    differences from it (`ttmpref.differences`)."""
    kept, says = {name: tensor.detach().half() for name, tensor in weights.items()}, {}
    if base is not None:
        kept = differences.taken(weights, assets.read_tensors(str(base)))
        says = {differences.BASE: f"{assets.sha256(base)}  {base.name}"}
    write_aside(path, lambda aside: assets.write_tensors(aside, kept, says))


STATISTICS_WINDOWS, STATISTICS_SAMPLES = 1200, 88_200  # what a VAE starts from


class VAEJob:
    """Mel VAE on random crops."""

    name = "vae"

    def __init__(
        self, recipe: VAERecipe, config: AutoencoderConfig, corpora: tuple[Corpus, Corpus]
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.config = recipe, config
        self.train_corpus, self.held_out = corpora
        self.log_mel = LogMel(config.mel)
        self.vae = build_vae(config.vae)
        self._start()
        self.average = Average(self.vae, recipe.ema_decay)
        trained = [p for p in self.vae.parameters() if p.requires_grad]
        self.optimizer = AdamW(trained, betas=(0.9, 0.99), weight_decay=recipe.weight_decay)
        self.samples = recipe.frames * config.mel.hop_length

    @torch.no_grad()
    def _start(self) -> None:
        """Per-band statistics, and where the network has linear maps, the best linear code."""
        samples = min(STATISTICS_SAMPLES, self.train_corpus.waveforms.shape[1])
        audio = self.train_corpus.fixed_windows(STATISTICS_WINDOWS, samples)
        mels = torch.cat([self.log_mel(some) for some in audio.split(100)])
        self.vae.data_mean.copy_(mels.mean((0, 2))[None, :, None])
        self.vae.data_std.copy_(mels.std((0, 2))[None, :, None])
        if isinstance(self.vae, PatchVAE):
            patches = self.vae.patches(mels).transpose(1, 2).flatten(0, 1)
            self.vae.start_linear_(patches, draws(self.recipe.seed, "vae start", 0))

    def modules(self) -> dict[str, nn.Module]:
        return {"vae": self.vae, "average": self.average}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"all": self.optimizer}

    def _losses(self, waveform: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        with torch.no_grad():
            mel = self.log_mel(waveform)
        mean, std = self.vae.encode(mel)
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        error = (self.vae.decode(latents) - mel) / self.vae.data_std
        divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log())
        return {"mel": error.abs().mean(), "kl": divergence.mean()}

    def train_step(self, step: int) -> dict[str, float]:
        generator = draws(self.recipe.seed, "vae", step)
        waveform = self.train_corpus.windows(self.recipe.batch, self.samples, generator)
        losses = self._losses(waveform, generator)
        self.optimizer.zero_grad()
        (losses["mel"] + self.recipe.kl_weight * losses["kl"]).backward()
        nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.vae)
        return {name: loss.item() for name, loss in losses.items()}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        waveform = self.held_out.fixed_windows(32, self.samples)
        losses = self._losses(waveform, draws(self.recipe.seed, "vae validation", 0))
        return {name: loss.item() for name, loss in losses.items()}

    def export(self, path: Path) -> None:
        save_half(self.average.weights(), path)


class SpectrogramDiscriminator(nn.Module):
    """Judges patches of a log-magnitude spectrogram at one resolution."""

    def __init__(self, n_fft: int, width: int = 16) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        sizes = [(1, width), (width, width), (width, 2 * width), (2 * width, 2 * width)]
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(
                nn.Conv2d(a, b, (5, 3), stride=(2, 2 if i in (1, 2) else 1), padding=(2, 1))
            )
            for i, (a, b) in enumerate(sizes)
        )
        self.out = nn.utils.parametrizations.weight_norm(nn.Conv2d(sizes[-1][1], 1, 3, padding=1))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, S) to patch scores and the hidden features of every layer."""
        x = log_magnitude(waveform, self.n_fft, self.window)[:, None]  # (B, 1, F, frames)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.out(x), features


SILENCE = 1e-4  # magnitude, re a full-scale sine, under which differences stop counting


def floored_log(magnitude: Tensor) -> Tensor:
    """Natural log of magnitudes that bends to log(SILENCE)."""
    return 0.5 * (magnitude.square() + SILENCE**2).log()


def root_mean_square(difference: Tensor, dim: int) -> Tensor:
    """Over `dim`, then the mean over everything else."""
    return (difference.square().mean(dim) + 1e-6).sqrt().mean()


def log_magnitude(waveform: Tensor, n_fft: int, window: Tensor) -> Tensor:
    """(B, S) to (B, F, frames) natural log magnitude, 0 for a full-scale sine; hop is n_fft / 4."""
    spectrum = torch.stft(waveform, n_fft, n_fft // 4, window=window, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return 0.5 * (power / (window.sum() / 2).square() + SILENCE**2).log()


class SpectralLoss(nn.Module):
    """Log-spectral distance and spectral convergence over several resolutions.

    The first term is the metric of `ttmpref.metrics.log_spectral_distance` in natural units: root
    mean square over frequency, mean over frames.
    """

    def __init__(self, sizes: tuple[int, ...] = LSD_SIZES) -> None:
        super().__init__()
        self.sizes = sizes
        for size in sizes:
            self.register_buffer(f"window{size}", torch.hann_window(size), persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        total = made.new_zeros(())
        for size in self.sizes:
            window = getattr(self, f"window{size}")
            a, b = log_magnitude(made, size, window), log_magnitude(real, size, window)
            linear_a, linear_b = a.exp(), b.exp()
            convergence = (linear_a - linear_b).norm() / linear_b.norm()
            total = total + root_mean_square(a - b, dim=1) + 0.5 * convergence
        return total / len(self.sizes)


MARGIN = 4  # latents of context on each side, more than the decoder's convolutions can see across


@dataclass(frozen=True)
class Coded:
    """A split's audio with the latents of whole pieces (see `training.features`)."""

    corpus: Corpus
    latents: np.ndarray

    def draw(
        self, size: int, inner: int, margin: int, hop: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Posterior samples (B, inner + 2 margin, C), and the inner part's audio (B, S)."""
        pieces, _, length, _ = self.latents.shape
        rows = torch.randint(pieces, (size,), generator=generator).numpy()
        last = length - inner - margin
        starts = torch.randint(margin, last + 1, (size,), generator=generator).numpy()
        pairs = list(zip(rows, starts, strict=True))
        windows = np.stack([self.latents[r, :, s - margin : s + inner + margin] for r, s in pairs])
        mean, std = torch.from_numpy(windows.astype(np.float32)).unbind(1)
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        return latents, self.corpus.cut(rows, starts * hop, inner * hop)


class VocoderJob:
    """Magnitudes alone first, which cost a third of the rest; then audio; at last an adversary."""

    name = "vocoder"
    DISCRIMINATOR_SIZES = (512, 1024, 2048)

    def __init__(
        self,
        recipe: VocoderRecipe,
        config: AutoencoderConfig,
        splits: tuple[Coded, Coded],
        vae: nn.Module,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.config, self.vae = recipe, config, vae
        self.train_split, self.held_out = splits
        self.log_mel = LogMel(config.mel)
        self.vocoder = ISTFTVocoder(config.vocoder, config.mel)
        self.average = Average(self.vocoder, recipe.ema_decay)
        self.discriminators = nn.ModuleList(
            SpectrogramDiscriminator(size) for size in self.DISCRIMINATOR_SIZES
        )
        self.spectral = SpectralLoss()
        betas = (0.8, 0.99)
        self.optimizer = AdamW(
            self.vocoder.parameters(), betas=betas, weight_decay=recipe.weight_decay
        )
        self.adversary = AdamW(self.discriminators.parameters(), betas=betas, weight_decay=0.0)

    def restart(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights of the vocoder."""
        self.vocoder.load_state_dict({k: v.float() for k, v in weights.items()})
        self.average = Average(self.vocoder, self.recipe.ema_decay)

    def modules(self) -> dict[str, nn.Module]:
        names = ("vocoder", "average", "discriminators")
        return {name: getattr(self, name) for name in names}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"vocoder": self.optimizer, "adversary": self.adversary}

    @torch.no_grad()
    def _batch(self, split: Coded, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mels (B, M, frames) as the VAE decodes them, and the audio (B, S) behind them.

        Decoding sees a margin of latents on both sides, which is cut off again.
        """
        per_latent = self.config.vae.frames_per_latent
        inner = self.recipe.latents
        latents, audio = split.draw(size, inner, MARGIN, self.config.samples_per_latent, generator)
        mel = self.vae.decode(latents.transpose(1, 2))
        return mel[:, :, MARGIN * per_latent : (MARGIN + inner) * per_latent], audio

    def _magnitude_loss(self, estimate: Estimate, real: Tensor) -> Tensor:
        """Distance of the estimated magnitudes from the real ones, before any phase meets them."""
        wanted = self.log_mel.magnitude(real).transpose(1, 2)  # (B, frames, F)
        full_scale = self.vocoder.window.sum() / 2
        a, b = (floored_log(x / full_scale) for x in (estimate.log_magnitude.exp(), wanted))
        return root_mean_square(a - b, dim=2)

    def _audio_losses(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        mel = (self.log_mel(made) - self.log_mel(real)).abs().mean()
        return {"spectral": self.spectral(made, real), "mel": mel}

    def train_step(self, step: int) -> dict[str, float]:
        recipe = self.recipe
        generator = draws(recipe.seed, "vocoder", step)
        mel, real = self._batch(self.train_split, recipe.batch, generator)
        estimate = self.vocoder.estimate(mel)
        losses = {"magnitude": self._magnitude_loss(estimate, real)}
        total = recipe.magnitude_weight * losses["magnitude"]
        if step >= recipe.audio_from:
            made = self.vocoder.synthesise(estimate)
            losses |= self._audio_losses(made, real)
            total = total + recipe.spectral_weight * losses["spectral"]
            total = total + recipe.mel_weight * losses["mel"]
            if step >= recipe.adversarial_from:
                losses |= self._discriminator_step(made.detach(), real)
                fooling = self._generator_terms(made, real)
                total = total + recipe.adversarial_weight * fooling["adversarial"]
                total = total + recipe.feature_weight * fooling["feature"]
                losses |= fooling
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.vocoder.parameters(), 10.0)
        self.optimizer.step()
        self.average.update(self.vocoder)
        return {name: loss.item() for name, loss in losses.items()}

    def _discriminator_step(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        loss = made.new_zeros(())
        for judge in self.discriminators:
            loss = loss + F.relu(1 - judge(real)[0]).mean() + F.relu(1 + judge(made)[0]).mean()
        self.adversary.zero_grad()
        loss.backward()
        self.adversary.step()
        return {"discriminator": loss.detach() / len(self.discriminators)}

    def _generator_terms(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        adversarial, feature = made.new_zeros(()), made.new_zeros(())
        for judge in self.discriminators:
            with torch.no_grad():
                wanted = judge(real)[1]
            score, features = judge(made)
            adversarial = adversarial - score.mean()
            for a, b in zip(features, wanted, strict=True):
                feature = feature + (a - b).abs().mean() / (b.abs().mean() * len(wanted))
        count = len(self.discriminators)
        return {"adversarial": adversarial / count, "feature": feature / count}

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        mel, real = self._batch(self.held_out, 32, draws(self.recipe.seed, "vocoder validation", 0))
        estimate = self.vocoder.estimate(mel)
        losses = self._audio_losses(self.vocoder.synthesise(estimate), real)
        losses["magnitude"] = self._magnitude_loss(estimate, real)
        return {name: loss.item() for name, loss in losses.items()}

    def export(self, path: Path) -> None:
        save_half(self.average.weights(), path)


def load_vae(config: AutoencoderConfig, path: Path) -> nn.Module:
    """The trained VAE, folded and frozen."""
    vae = build_vae(config.vae)
    vae.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return vae.fold_().eval().requires_grad_(False)
