"""Small VAE over patches of mel frames, the demo's: linear codes and learned corrections.

A patch of consecutive frames is one vector. Its code is a linear map of it, made of the principal
axes of the training patches, plus what a ConvNeXt stack adds; decoding mirrors that. All work is
done at the latents' rate on wide vectors, which a CPU does best, and training starts from what the
best linear code reaches instead of from nothing; only the corrections are trained. The full-size
system has MMAudio's magnitude-preserving VAE (`ttmpref.models.mel_vae`) behind the same seam.

Shapes: mel (B, M, frames), patches (B, M * K, N), latents (B, C, N), frames = N * K.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ttmpref.config import PatchVAEConfig
from ttmpref.models.convnext import ConvNeXtBlock

INITIAL_LOG_VARIANCE = -5.0  # of the posterior, before training


class Correction(nn.Module):
    """ConvNeXt stack whose output starts at zero: (B, inputs, N) to (B, outputs, N)."""

    def __init__(self, inputs: int, outputs: int, config: PatchVAEConfig, blocks: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(inputs, config.width, 1)
        self.norm_in = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.width, config.hidden, 1.0 / blocks) for _ in range(blocks)
        )
        self.norm_out = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_in(self.embed(x).transpose(1, 2)).transpose(1, 2)  # (B, W, N)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm_out(x.transpose(1, 2))).transpose(1, 2)


class PatchVAE(nn.Module):
    """Encoder, decoder and the per-band statistics of the mel."""

    def __init__(self, config: PatchVAEConfig) -> None:
        super().__init__()
        self.config = config
        size, channels = config.data_channels * config.frames_per_latent, config.latent_channels
        self.register_buffer("data_mean", torch.zeros(1, config.data_channels, 1))
        self.register_buffer("data_std", torch.ones(1, config.data_channels, 1))
        # Found, not trained: their inputs are so many and so alike that steps which suit the
        # corrections would throw these maps off the optimum they start from.
        self.analysis = nn.Conv1d(size, channels, 1).requires_grad_(False)
        self.synthesis = nn.Conv1d(channels, size, 1).requires_grad_(False)
        self.log_variance = nn.Parameter(torch.full((1, channels, 1), INITIAL_LOG_VARIANCE))
        self.encoder = Correction(size, 2 * channels, config, config.encoder_blocks)
        self.decoder = Correction(channels, size, config, config.decoder_blocks)

    def patches(self, mel: Tensor) -> Tensor:
        """(B, M, frames) log-mel to standardised patches (B, M * K, N); left-over frames drop."""
        if mel.dim() != 3 or mel.shape[1] != self.config.data_channels:
            raise ValueError(
                f"mel must be (batch, {self.config.data_channels}, frames), got {tuple(mel.shape)}"
            )
        per_latent = self.config.frames_per_latent
        whole = mel.shape[2] // per_latent * per_latent
        standard = (mel[:, :, :whole] - self.data_mean) / self.data_std
        return standard.unflatten(2, (-1, per_latent)).transpose(2, 3).flatten(1, 2)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, frames) to posterior mean and standard deviation, each (B, C, N).

        N is frames // frames_per_latent; left-over frames at the end are dropped.
        """
        patches = self.patches(mel)
        mean, log_variance = self.encoder(patches).chunk(2, dim=1)
        log_variance = (self.log_variance + log_variance).clamp(-30.0, 20.0)
        return self.analysis(patches) + mean, (log_variance / 2).exp()

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, N) to (B, M, N * frames_per_latent) log-mel."""
        if latents.dim() != 3 or latents.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"latents must be (batch, {self.config.latent_channels}, frames), "
                f"got {tuple(latents.shape)}"
            )
        patches = self.synthesis(latents) + self.decoder(latents)  # (B, M * K, N)
        bands, per_latent = self.config.data_channels, self.config.frames_per_latent
        standard = patches.unflatten(1, (bands, per_latent)).transpose(2, 3).flatten(2)
        return standard * self.data_std + self.data_mean

    @torch.no_grad()
    def start_linear_(self, patches: Tensor, generator: torch.Generator) -> PatchVAE:
        """Set both linear maps to the principal axes of (examples, M * K) standardised patches.

        Codes get unit variance on average, spread between axes by the square root of their standard
        deviations: white codes would make a flow spend itself on the faintest axes, codes as they
        are would leave those to its last steps. A random rotation then makes all channels alike,
        so that normalising them one by one changes nothing of this. Returns self.
        """
        channels = self.config.latent_channels
        mean = patches.mean(0)
        values, axes = torch.linalg.eigh(torch.cov(patches.T))  # ascending
        deviation, axes = values[-channels:].clamp(min=1e-8).sqrt(), axes[:, -channels:]
        scale = (deviation * deviation.mean()).rsqrt()  # code = axis value * scale
        rotation = torch.linalg.qr(torch.randn(channels, channels, generator=generator))[0]
        down = rotation @ (axes * scale).T  # (C, M * K)
        up = (axes / scale) @ rotation.T  # (M * K, C)
        self.analysis.weight.copy_(down[:, :, None])
        self.analysis.bias.copy_(-down @ mean)
        self.synthesis.weight.copy_(up[:, :, None])
        self.synthesis.bias.copy_(mean)
        return self

    def fold_(self) -> PatchVAE:
        """Nothing to fold; part of the seam. Returns self."""
        return self
