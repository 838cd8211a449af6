"""Magnitude-preserving 1-D VAE over mel frames (MMAudio's autoencoder, specification 2.2).

Every layer keeps the magnitude of its input near one: weights are used through their row norms,
activations and sums are rescaled. The released 44.1 kHz tensors fit by name and shape
(`assets/manifests/vae_44k_state_dict.json`); the demo uses the same class at a small size.

Weights are normalised on each training forward; `fold_()` does it once for inference and multiplies
the learnable output gains in, so that no normalisation is left in the forward pass.

Shapes: mel (B, M, frames), latents (B, C, N), frames = N * frames_per_latent.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttmpref.config import MelVAEConfig

CLAMP = 256.0  # activations beyond this never occur in a healthy network


def activation(x: Tensor) -> Tensor:
    """SiLU scaled so that a unit normal input keeps unit magnitude."""
    return F.silu(x) / 0.596


def magnitude_sum(skip: Tensor, branch: Tensor, mix: float = 0.3) -> Tensor:
    """Weighted sum of two unit-magnitude signals that is again of unit magnitude."""
    return (skip * (1 - mix) + branch * mix) / math.sqrt((1 - mix) ** 2 + mix**2)


def pixel_norm(x: Tensor, dim: int = 1) -> Tensor:
    """`x` divided by its root mean square over `dim`."""
    return x / (1e-4 + x.square().mean(dim, keepdim=True).sqrt())


class MPConv(nn.Module):
    """Bias-free 1-D convolution whose effective filters have unit norm.

    The stored weight is raw, (out, in, kernel); the effective filter is
    w / (||w|| + 1e-4 * sqrt(fan_in)).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel))
        self.padding = kernel // 2
        self.folded = False

    def effective_weight(self) -> Tensor:
        if self.folded:
            return self.weight
        fan_in = self.weight[0].numel()
        norm = self.weight.flatten(1).norm(dim=1)[:, None, None]
        return self.weight / (norm + 1e-4 * math.sqrt(fan_in))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.effective_weight(), padding=self.padding)

    @torch.no_grad()
    def fold_(self, gain: float = 1.0) -> None:
        """Replace the stored weight by the effective one times `gain`, once."""
        if self.folded:
            raise ValueError("weights are folded already; folding twice would change them")
        self.weight.copy_(self.effective_weight() * gain)
        self.folded = True


class ResBlock(nn.Module):
    """Pixel norm, two convolutions, magnitude-preserving skip: (B, in, L) to (B, out, L)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = MPConv(in_channels, out_channels, 3)
        self.conv2 = MPConv(out_channels, out_channels, 3)
        if in_channels != out_channels:
            self.nin_shortcut = MPConv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = pixel_norm(x)
        branch = self.conv2(activation(self.conv1(activation(x))))
        skip = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return magnitude_sum(skip, branch)


class AttentionBlock(nn.Module):
    """Single-head self-attention over time, (B, C, L) to (B, C, L)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = MPConv(channels, 3 * channels, 1)
        self.proj_out = MPConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Stored channel order is (channel, q|k|v), so the three parts are strided views.
        qkv = self.qkv(x).unflatten(1, (-1, 3))  # (B, C, 3, L)
        q, k, v = (pixel_norm(part).transpose(1, 2) for part in qkv.unbind(2))  # (B, L, C)
        attended = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return magnitude_sum(x, self.proj_out(attended.transpose(1, 2)))


class Downsample(nn.Module):
    """Halves time: 1x1 convolution, average of two frames, 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = MPConv(channels, channels, 1)
        self.conv2 = MPConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.avg_pool1d(self.conv1(x), 2))


class Upsample(nn.Module):
    """Doubles time by repetition, then smooths."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = MPConv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest-exact"))


class Mid(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.attn_1 = AttentionBlock(channels)
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block_2(self.attn_1(self.block_1(x)))
        return x.clamp(-CLAMP, CLAMP)


def _level(in_channels: int, out_channels: int, num_blocks: int) -> nn.Module:
    level = nn.Module()
    widths = [in_channels] + [out_channels] * num_blocks
    level.block = nn.ModuleList(ResBlock(a, b) for a, b in zip(widths, widths[1:], strict=False))
    return level


def _run_level(level: nn.Module, x: Tensor) -> Tensor:
    for block in level.block:
        x = block(x).clamp(-CLAMP, CLAMP)
    return x


class Encoder(nn.Module):
    """Mel (B, M, frames) to mean and log-variance stacked, (B, 2C, N)."""

    def __init__(self, config: MelVAEConfig) -> None:
        super().__init__()
        widths = [config.base_width * m for m in config.multipliers]
        self.conv_in = MPConv(config.data_channels, widths[0], 3)
        self.down = nn.ModuleList()
        for index, (before, after) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            level = _level(before, after, config.blocks_per_level)
            if index in config.downsample_levels:
                level.downsample = Downsample(after)
            self.down.append(level)
        self.mid = Mid(widths[-1])
        self.conv_out = MPConv(widths[-1], 2 * config.latent_channels, 3)
        self.learnable_gain = nn.Parameter(torch.zeros(()))

    def forward(self, mel: Tensor) -> Tensor:
        x = self.conv_in(mel)
        for level in self.down:
            x = _run_level(level, x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)
        x = self.conv_out(activation(self.mid(x)))
        return x if self.conv_out.folded else x * (1 + self.learnable_gain)


class Decoder(nn.Module):
    """Latents (B, C, N) to standardised mel (B, M, frames)."""

    def __init__(self, config: MelVAEConfig) -> None:
        super().__init__()
        widths = [config.base_width * m for m in config.multipliers]
        self.conv_in = MPConv(config.latent_channels, widths[-1], 3)
        self.mid = Mid(widths[-1])
        levels, before = [], widths[-1]
        for index in reversed(range(len(widths))):
            level = _level(before, widths[index], config.blocks_per_level + 1)
            # A level that was reached by a downsampling is left by an upsampling.
            if index - 1 in config.downsample_levels:
                level.upsample = Upsample(widths[index])
            levels.insert(0, level)
            before = widths[index]
        self.up = nn.ModuleList(levels)  # index 0 is the full resolution, as in the stored names
        self.conv_out = MPConv(widths[0], config.data_channels, 3)
        self.learnable_gain = nn.Parameter(torch.zeros(()))

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            x = _run_level(level, x)
            if hasattr(level, "upsample"):
                x = level.upsample(x)
        x = self.conv_out(activation(x))
        return x if self.conv_out.folded else x * (1 + self.learnable_gain)


class MelVAE(nn.Module):
    """Encoder, decoder and the per-band statistics of the mel."""

    def __init__(self, config: MelVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("data_mean", torch.zeros(1, config.data_channels, 1))
        self.register_buffer("data_std", torch.ones(1, config.data_channels, 1))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, frames) to posterior mean and standard deviation, each (B, C, N).

        N is frames // frames_per_latent; left-over frames at the end are dropped.
        """
        if mel.dim() != 3 or mel.shape[1] != self.config.data_channels:
            raise ValueError(
                f"mel must be (batch, {self.config.data_channels}, frames), got {tuple(mel.shape)}"
            )
        hidden = self.encoder((mel - self.data_mean) / self.data_std)
        mean, log_variance = hidden.chunk(2, dim=1)
        return mean, (log_variance.clamp(-30.0, 20.0) / 2).exp()

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, N) to (B, M, N * frames_per_latent) log-mel."""
        if latents.dim() != 3 or latents.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"latents must be (batch, {self.config.latent_channels}, frames), "
                f"got {tuple(latents.shape)}"
            )
        return self.decoder(latents) * self.data_std + self.data_mean

    @torch.no_grad()
    def fold_(self) -> MelVAE:
        """Fold weight norms and output gains into the weights, for inference; returns self."""
        gains = {
            self.encoder.conv_out: 1 + self.encoder.learnable_gain.item(),
            self.decoder.conv_out: 1 + self.decoder.learnable_gain.item(),
        }
        for module in self.modules():
            if isinstance(module, MPConv):
                module.fold_(gains.get(module, 1.0))
        return self
