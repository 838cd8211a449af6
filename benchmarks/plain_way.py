"""The reference's own procedure at full size, written down plainly; what `full_size` compares with.

Text and negative text encoded anew for every clip, two passes per solver step, AdaLN in each block,
convolutions in channel-first order between transpositions, the VAE's gain multiplied in on every
call, and the vocoder's activation as a chain of padded filters (specification 1, 2, 3.2, 3.3, 7.2).
It reads the same tensors as the package and shares no code with its networks.

Shapes: as in `ttmpref.models`; heads H, their size c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ttmpref.config import BigVGANConfig, FluxAudioConfig, MelVAEConfig
from ttmpref.flow import time_grid
from ttmpref.models.bigvgan import low_pass_filter

State = Mapping[str, Tensor]


def plain_solve(
    velocity: Callable[[Tensor, float, bool], Tensor], noise: Tensor, steps: int, guidance: float
) -> Tensor:
    """Euler from noise to data, two calls (state, time, with the prompt) per step."""
    z, times = noise, time_grid(steps)
    for t, t_next in zip(times, times[1:], strict=False):
        slope = guidance * velocity(z, t, True) + (1 - guidance) * velocity(z, t, False)
        z = z + (t_next - t) * slope
    return z


class PlainFlow:
    """FluxAudio with the score added to the latents (v2)."""

    def __init__(self, config: FluxAudioConfig, state: State) -> None:
        self.config, self.state = config, state

    def __call__(self, z: Tensor, t: float, text: Tensor, pooled: Tensor, score: float) -> Tensor:
        """z (1, N, C), text (1, T, text_dim), pooled (1, pooled_dim) to (1, N, C)."""
        y = self.gated("text_input_proj.1", self.linear("text_input_proj.0", text), self.linear)
        g = self.linear("text_cond_proj.0", pooled)
        c = self.time(t) + self.gated("text_cond_proj.1", g, self.linear)  # (1, D)
        x = F.selu(self.conv("audio_input_proj.0", z))
        x = self.gated("audio_input_proj.2", x, self.conv) + self.score(score)
        for i in range(self.config.num_joint_blocks):
            x, y = self.joint(f"joint_blocks.{i}", x, y, c, i == self.config.num_joint_blocks - 1)
        for i in range(self.config.num_fused_blocks):
            name = f"fused_blocks.{i}"
            vectors = self.vectors(name, c, 6)
            q, k, v = self.heads(name, self.modulated(x, *vectors[:2]))
            x = self.updated(name, x, self.attended(q, k, v), vectors, self.conv)
        shift, scale = self.vectors("final_layer", c, 2)
        return self.conv("final_layer.conv", self.modulated(x, shift, scale))

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight = self.state[f"{name}.weight"]
        bias, padding = self.state.get(f"{name}.bias"), weight.shape[-1] // 2
        return F.conv1d(x.transpose(1, 2), weight, bias, padding=padding).transpose(1, 2)

    def gated(self, name: str, x: Tensor, layer: Callable[[str, Tensor], Tensor]) -> Tensor:
        return layer(f"{name}.w2", F.silu(layer(f"{name}.w1", x)) * layer(f"{name}.w3", x))

    def time(self, t: float) -> Tensor:
        angles = t * 10_000.0 ** (-torch.arange(128) / 128)
        waves = torch.cat((angles.cos(), angles.sin()))[None]
        return self.linear("t_embed.mlp.2", F.silu(self.linear("t_embed.mlp.0", waves)))

    def score(self, score: float) -> Tensor:
        config = self.config.score_embedding
        angles = score * self.state["score_embed.frequencies"]
        if config.two_pi:
            angles = angles * (2 * math.pi)
        waves = [angles.cos(), angles.sin()]
        waves = torch.cat(waves if config.cos_first else waves[::-1])[None]
        return self.linear("score_embed.mlp.2", F.silu(self.linear("score_embed.mlp.0", waves)))

    def vectors(self, name: str, c: Tensor, count: int) -> tuple[Tensor, ...]:
        return self.linear(f"{name}.adaLN_modulation.1", F.silu(c))[:, None].chunk(count, dim=-1)

    def modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift

    def heads(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, N, D) to q, k, v (1, H, N, c), taken with a stride of three."""
        split = self.linear(f"{name}.attn.qkv", x)
        split = split.view(1, x.shape[1], self.config.num_heads, -1, 3)
        q, k, v = (part.transpose(1, 2) for part in split.unbind(-1))
        q = F.rms_norm(q, q.shape[-1:], self.state[f"{name}.attn.q_norm.weight"])
        k = F.rms_norm(k, k.shape[-1:], self.state[f"{name}.attn.k_norm.weight"])
        return self.rotated(q), self.rotated(k), v.contiguous()

    def rotated(self, x: Tensor) -> Tensor:
        size = x.shape[-1]
        rates = self.config.rope_theta ** (-torch.arange(0, size, 2) / size)
        angles = torch.arange(x.shape[-2])[:, None] * rates
        cos, sin, even, odd = angles.cos(), angles.sin(), x[..., ::2], x[..., 1::2]
        return torch.stack((cos * even - sin * odd, sin * even + cos * odd), dim=-1).flatten(-2)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def updated(
        self, name: str, x: Tensor, attended: Tensor, vectors: tuple[Tensor, ...],
        layer: Callable[[str, Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        x = x + vectors[2] * layer(f"{name}.linear1", attended)
        return x + vectors[5] * self.gated(f"{name}.ffn", self.modulated(x, *vectors[3:5]), layer)

    def joint(
        self, name: str, x: Tensor, y: Tensor, c: Tensor, last: bool
    ) -> tuple[Tensor, Tensor]:
        ours, theirs = f"{name}.latent_block", f"{name}.text_block"
        for_x, for_y = self.vectors(ours, c, 6), self.vectors(theirs, c, 2 if last else 6)
        latents = self.heads(ours, self.modulated(x, *for_x[:2]))
        texts = self.heads(theirs, self.modulated(y, *for_y[:2]))
        pairs = zip(latents, texts, strict=True)
        both = self.attended(*(torch.cat(pair, dim=2) for pair in pairs))
        x = self.updated(ours, x, both[:, : x.shape[1]], for_x, self.conv)
        if not last:
            y = self.updated(theirs, y, both[:, -y.shape[1] :], for_y, self.linear)
        return x, y


class PlainVAEDecoder:
    """Latents (1, C, N) to log-mel; weights are normalised once, the gain is applied per call."""

    def __init__(self, config: MelVAEConfig, state: State) -> None:
        self.config, self.state, self.weights = config, state, {}
        for name, weight in state.items():
            if name.startswith("decoder.") and name.endswith(".weight"):
                norm = weight.flatten(1).norm(dim=1)[:, None, None]
                small = 1e-4 * math.sqrt(weight[0].numel())
                self.weights[name.removesuffix(".weight")] = weight / (norm + small)

    def __call__(self, z: Tensor) -> Tensor:
        x = self.conv("decoder.conv_in", z)
        x = self.block("decoder.mid.block_1", x)
        x = self.attention("decoder.mid.attn_1", x)
        x = self.block("decoder.mid.block_2", x).clamp(-256, 256)
        for level in reversed(range(len(self.config.multipliers))):
            for i in range(self.config.blocks_per_level + 1):
                x = self.block(f"decoder.up.{level}.block.{i}", x).clamp(-256, 256)
            if level - 1 in self.config.downsample_levels:
                x = F.interpolate(x, scale_factor=2, mode="nearest-exact")
                x = self.conv(f"decoder.up.{level}.upsample.conv", x)
        gain = 1 + self.state["decoder.learnable_gain"]
        x = self.conv("decoder.conv_out", F.silu(x) / 0.596, gain)
        return x * self.state["data_std"] + self.state["data_mean"]

    def conv(self, name: str, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        weight = self.weights[name] * gain
        return F.conv1d(x, weight, padding=weight.shape[-1] // 2)

    def norm(self, x: Tensor) -> Tensor:
        return x / (1e-4 + x.square().mean(1, keepdim=True).sqrt())

    def mixed(self, a: Tensor, b: Tensor) -> Tensor:
        return (0.7 * a + 0.3 * b) / math.sqrt(0.58)

    def block(self, name: str, x: Tensor) -> Tensor:
        x = self.norm(x)
        h = self.conv(f"{name}.conv1", F.silu(x) / 0.596)
        h = self.conv(f"{name}.conv2", F.silu(h) / 0.596)
        short = f"{name}.nin_shortcut"
        return self.mixed(self.conv(short, x) if short in self.weights else x, h)

    def attention(self, name: str, x: Tensor) -> Tensor:
        parts = self.conv(f"{name}.qkv", x).unflatten(1, (-1, 3)).unbind(2)
        q, k, v = (self.norm(part).transpose(1, 2)[:, None] for part in parts)
        found = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return self.mixed(x, self.conv(f"{name}.proj_out", found))


class PlainVocoder:
    """BigVGAN v2 after weight normalisation has been removed: log-mel (1, M, F) to (1, S)."""

    def __init__(self, config: BigVGANConfig, state: State) -> None:
        self.config, self.state, self.filter = config, state, low_pass_filter()

    def __call__(self, mel: Tensor) -> Tensor:
        config = self.config
        x = self.conv("conv_pre", mel)
        sizes = zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)
        count = len(config.resblock_kernel_sizes)
        for i, (rate, kernel) in enumerate(sizes):
            weight, bias = self.state[f"ups.{i}.0.weight"], self.state[f"ups.{i}.0.bias"]
            padding = (kernel - rate) // 2
            x = F.conv_transpose1d(x, weight, bias, stride=rate, padding=padding)
            x = sum(self.stack(f"resblocks.{count * i + j}", x) for j in range(count)) / count
        x = self.conv("conv_post", self.activation("activation_post", x))
        return x.clamp(-1, 1)[:, 0]

    def conv(self, name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        bias = self.state.get(f"{name}.bias")
        return F.conv1d(x, weight, bias, padding=padding, dilation=dilation)

    def stack(self, name: str, x: Tensor) -> Tensor:
        for n, dilation in enumerate(self.config.resblock_dilations):
            y = self.activation(f"{name}.activations.{2 * n}", x)
            y = self.conv(f"{name}.convs1.{n}", y, dilation)
            y = self.activation(f"{name}.activations.{2 * n + 1}", y)
            x = x + self.conv(f"{name}.convs2.{n}", y)
        return x

    def activation(self, name: str, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.filter.expand(channels, 1, -1)
        alpha = self.state[f"{name}.act.alpha"].exp()[:, None]
        beta = self.state[f"{name}.act.beta"].exp()[:, None]
        x = F.pad(x, (5, 5), mode="replicate")
        x = 2 * F.conv_transpose1d(x, kernel, stride=2, groups=channels)
        x = x[..., 15:-15]
        x = x + (1 / (beta + 1e-9)) * torch.sin(x * alpha).pow(2)
        x = F.pad(x, (5, 6), mode="replicate")
        return F.conv1d(x, kernel, stride=2, groups=channels)
