"""Audio to latents and back: log-mel, VAE of the mel, vocoder (specification 2).

The one `Autoencoder` of the package; the presets differ in the VAE and the vocoder they name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ttmpref.config import (
    AutoencoderConfig,
    BigVGANConfig,
    ISTFTVocoderConfig,
    MelConfig,
    MelVAEConfig,
    PatchVAEConfig,
)
from ttmpref.models.bigvgan import BigVGAN, load_bigvgan_state
from ttmpref.models.istft_vocoder import ISTFTVocoder
from ttmpref.models.mel import LogMel
from ttmpref.models.mel_vae import MelVAE
from ttmpref.models.over_time import has_bf16
from ttmpref.models.patch_vae import PatchVAE
from ttmpref.types import DamagedWeights

if TYPE_CHECKING:
    from ttmpref.config import VAEConfig, VocoderConfig

LoadTensors = Callable[[str], dict[str, Tensor]]


def build_vae(config: VAEConfig) -> MelVAE | PatchVAE:
    """The VAE that `config` names, freshly initialised."""
    match config:
        case PatchVAEConfig():
            return PatchVAE(config)
        case MelVAEConfig():
            return MelVAE(config)


def build_vocoder(config: VocoderConfig, mel: MelConfig) -> nn.Module:
    """The vocoder network that `config` names, freshly initialised, for mels of `mel`."""
    match config:
        case ISTFTVocoderConfig():
            return ISTFTVocoder(config, mel)
        case BigVGANConfig():
            return BigVGAN(config)


def load_state(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Strict load; raises `DamagedWeights` naming the first tensor that does not fit."""
    expected = module.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        want = tuple(expected[name].shape) if name in expected else "nothing"
        have = tuple(tensors[name].shape) if name in tensors else "nothing"
        if want != have:
            raise DamagedWeights(f"{source}: tensor {name!r} is {have}, expected {want}")
    module.load_state_dict(tensors)


class MelAutoencoder(nn.Module):
    """See `ttmpref.protocols.Autoencoder`."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate = config.mel.sample_rate
        self.latent_channels = config.vae.latent_channels
        self.samples_per_latent = config.samples_per_latent
        self.log_mel = LogMel(config.mel)
        self.vae = build_vae(config.vae)
        self.vocoder = build_vocoder(config.vocoder, config.mel)

    @classmethod
    def load(
        cls, config: AutoencoderConfig, load_tensors: LoadTensors, device: str = "cpu"
    ) -> MelAutoencoder:
        """Build with the weights that `config` names, folded and rounded for inference.

        Args:
            load_tensors: URI to named tensors (see `ttmpref.assets`).

        Raises:
            MissingWeights, DamagedWeights: a file is absent or does not fit the network.
        """
        autoencoder = cls(config)
        load_state(autoencoder.vae, load_tensors(config.vae_weights), config.vae_weights)
        weights = load_tensors(config.vocoder.weights)
        if isinstance(autoencoder.vocoder, BigVGAN):
            load_bigvgan_state(autoencoder.vocoder, weights)
            if config.vocoder.precision == "bf16" and has_bf16(device):
                autoencoder.vocoder.halve_()
        else:
            load_state(autoencoder.vocoder, weights, config.vocoder.weights)
        autoencoder.vae.fold_()
        return autoencoder.to(device).eval().requires_grad_(False)

    def encode(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.vae.encode(self.log_mel(waveform))
        return mean.transpose(1, 2), std.transpose(1, 2)  # (B, N, C)

    def decode(self, latents: Tensor) -> Tensor:
        return self.vocoder(self.vae.decode(latents.transpose(1, 2)))

    @torch.no_grad()
    def round_trip(self, waveform: Tensor) -> Tensor:
        """(B, S) through the posterior mean and back, cut to the whole latents it holds."""
        return self.decode(self.encode(waveform)[0])
