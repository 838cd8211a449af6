"""FluxAudio: the flow-matching transformer that predicts the velocity (paper, section III-A).

Text tokens and latent tokens attend to each other in the joint blocks (MMDiT); the fused blocks go
on with the latents alone. The latent stream uses convolutions over time where a plain transformer
has linear layers. A condition vector c = time embedding + pooled text modulates every block by
AdaLN. Names and shapes of the tensors are those of the released files (`assets/manifests`), which
is why some attributes have short names and some lists hold a layer without parameters.

Where a preset has a *pulse*, the mean course g of the latents that follows from the text is told
beforehand (`ttmpref.models.pulse`): the network sees z - (1 - t) g, and g, and models what g
leaves, so that its velocity is that of z plus g.

Shapes: B batch, N latent frames, C latent channels, T text tokens, D width, H heads. Everything is
channel-last. The time convention is in `ttmpref.flow`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttmpref.config import FluxAudioConfig, HeadKind
from ttmpref.models.over_time import ConvOverTime, Linear, halve_
from ttmpref.models.pulse import Pulse
from ttmpref.models.score_heads import SCORE_HEADS, ScoreEmbedding, match_score_tensors
from ttmpref.types import DamagedWeights

logger = logging.getLogger(__name__)

TIME_FEATURES = 256
LARGEST_PERIOD = 10_000.0
# What RMS normalisation uses when no epsilon is given: the machine epsilon of float32.
RMS_EPSILON = torch.finfo(torch.float32).eps
# The course enters among activations some twenty times as large: with this gain, weights of the
# size of all others make themselves heard.
COURSE_GAIN = 5.0


def time_windows(x: Tensor, kernel: int) -> Tensor:
    """(B, N, D) to (B, N, D * kernel): what a zero-padded convolution sees at each position.

    The order (channel, tap) is that of a convolution's weight, so the weight needs no copy.
    """
    padded = F.pad(x, (0, 0, kernel // 2, kernel // 2))
    taps = [padded[:, i : i + x.shape[1]] for i in range(kernel)]
    return torch.stack(taps, dim=-1).flatten(2)


class WindowedConv(ConvOverTime):
    """The same as one matrix product over windows, which two layers of one input can share."""

    def forward(self, x: Tensor) -> Tensor:
        return self.on_windows(time_windows(x, self.kernel_size[0]))

    def on_windows(self, windows: Tensor) -> Tensor:
        """(B, N, inputs * kernel) to (B, N, outputs)."""
        return F.linear(windows.to(self.weight.dtype), self.weight.flatten(1), self.bias)


class GatedLinear(nn.Module):
    """w2(silu(w1 x) * w3 x), (B, ..., D) to the same shape; no biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = Linear(width, hidden, bias=False)
        self.w2 = Linear(hidden, width, bias=False)
        self.w3 = Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class GatedConv(nn.Module):
    """`GatedLinear` with convolutions over time, (B, N, D) to (B, N, D)."""

    def __init__(self, width: int, hidden: int, kernel: int, conv: type[ConvOverTime]) -> None:
        super().__init__()
        self.w1 = conv(width, hidden, kernel, bias=False)
        self.w2 = conv(hidden, width, kernel, bias=False)
        self.w3 = conv(width, hidden, kernel, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.w1, WindowedConv):
            return self.w2(F.silu(self.w1(x)) * self.w3(x))
        windows = time_windows(x, self.w1.kernel_size[0])
        return self.w2(F.silu(self.w1.on_windows(windows)) * self.w3.on_windows(windows))


class TimeEmbedding(nn.Module):
    """Sinusoids of t (used raw, in [0, 1]) through a small MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = TIME_FEATURES // 2
        freqs = LARGEST_PERIOD ** (-torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("freqs", freqs, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        """(B,) to (B, D)."""
        angles = t[:, None] * self.freqs  # (B, 128)
        return self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1))


def adaln(width: int, vectors: int) -> nn.Sequential:
    """The modulation c -> `vectors` vectors of size D."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, vectors * width))


def parts_of(vectors: Tensor, count: int) -> tuple[Tensor, ...]:
    """(B, count * D) to `count` x (B, 1, D); six are shift, scale, gate of attention and FFN."""
    return vectors[:, None].chunk(count, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without own parameters, then scale and shift: (B, N, D), (B, 1, D) twice."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


@lru_cache(maxsize=64)
def rotary_table(
    first: int, length: int, head_size: int, theta: float, device: torch.device
) -> Tensor:
    """(length, 1, 1, head_size / 2) complex rotations of positions first, first + 1, ...

    Cached per length; made outside inference mode so that training may use the same table.
    """
    with torch.inference_mode(False):
        positions = torch.arange(first, first + length, dtype=torch.float32, device=device)
        rates = torch.arange(0, head_size, 2, dtype=torch.float32, device=device) / head_size
        angles = torch.outer(positions, 1.0 / theta**rates)
        return torch.polar(torch.ones_like(angles), angles)[:, None, None]


class Attention(nn.Module):
    """Queries, keys and values of one stream: projection, RMS norm per head, rotary positions."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // num_heads, eps=RMS_EPSILON)
        self.k_norm = nn.RMSNorm(width // num_heads, eps=RMS_EPSILON)

    def forward(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) and a table of N rotations to q, k, v, each (B, H, N, D / H)."""
        batch, length, width = x.shape
        head_size = width // self.num_heads
        # Stored rows are ordered (head, channel, q|k|v); sorting the small weight beats gathering
        # every third element of the activations.
        order = (self.num_heads, head_size, 3)
        weight = self.qkv.weight.view(*order, width).permute(2, 0, 1, 3).reshape(3 * width, width)
        bias = self.qkv.bias.view(order).permute(2, 0, 1).reshape(-1)
        qkv = F.linear(x.to(weight.dtype), weight, bias).view(
            batch, length, 3, self.num_heads, head_size
        )
        q, k = self._rotated(qkv[:, :, :2], rotary).unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), qkv[:, :, 2].transpose(1, 2)

    def _rotated(self, qk: Tensor, rotary: Tensor) -> Tensor:
        """(B, N, 2, H, D / H) normalised, and turned by position in float32."""
        weight = torch.stack((self.q_norm.weight, self.k_norm.weight))[:, None]  # (2, 1, D / H)
        normal = F.rms_norm(qk.float(), qk.shape[-1:], eps=RMS_EPSILON) * weight
        pairs = torch.view_as_complex(normal.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * rotary).flatten(-2).to(qk.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, H, N, D / H) thrice to (B, N, D)."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """One stream's part of a block: attention inputs, then the two gated residual updates."""

    def __init__(
        self, width: int, num_heads: int, output: nn.Module, feed_forward: nn.Module
    ) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads)
        self.linear1 = output
        self.ffn = feed_forward
        self.adaLN_modulation = adaln(width, 6)

    def update(self, x: Tensor, attended: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        """Both residual updates of x (B, N, D) from the attention's result (B, N, D)."""
        _, _, gate_a, shift_m, scale_m, gate_m = modulation
        x = torch.addcmul(x, gate_a, self.linear1(attended))
        return torch.addcmul(x, gate_m, self.ffn(modulate(x, shift_m, scale_m)))

    def forward(self, x: Tensor, vectors: Tensor, rotary: Tensor) -> Tensor:
        """Self-attention within the stream: a fused block; vectors (B, 6 D) modulate it."""
        modulation = parts_of(vectors, 6)
        qkv = self.attn(modulate(x, *modulation[:2]), rotary)
        return self.update(x, attend(*qkv), modulation)


class TextContext(nn.Module):
    """The text side of the last joint block: it gives keys and values, and ends there."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads)
        self.adaLN_modulation = adaln(width, 2)


def conv_class(config: FluxAudioConfig) -> type[ConvOverTime]:
    """How the network convolves."""
    return ConvOverTime if config.channels_last else WindowedConv


def latent_block(config: FluxAudioConfig) -> Block:
    """A block with convolutions over time."""
    width, kernel, conv = config.width, config.block_kernel, conv_class(config)
    return Block(
        width,
        config.num_heads,
        conv(width, width, kernel),
        GatedConv(width, config.mlp_hidden, kernel, conv),
    )


def text_block(config: FluxAudioConfig) -> Block:
    """A block with linear layers."""
    width = config.width
    return Block(
        width, config.num_heads, Linear(width, width), GatedLinear(width, config.mlp_hidden)
    )


@dataclass(frozen=True, eq=False)
class Step:
    """What time, prompt and score do to the network: everything but the latents and the text.

    Attributes:
        embedding: e_s (B, D); None for a network without score.
        latent, text: (B, 6 D) for each joint block; the last text vectors are (B, 2 D).
        fused: (B, 6 D) for each fused block.
        final: (B, 2 D).
        music: (B,), 1 - t: the music's share of the state.
    """

    embedding: Tensor | None
    latent: tuple[Tensor, ...]
    text: tuple[Tensor, ...]
    fused: tuple[Tensor, ...]
    final: Tensor
    music: Tensor

    def split(self, batch: int) -> list[Step]:
        """Steps of `batch` rows each, of a step that holds the rows of many."""

        def cut(rows: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
            return zip(*(tensor.split(batch) for tensor in rows), strict=True)

        finals = self.final.split(batch)
        nothing, music = [()] * len(finals), self.music.split(batch)
        embeddings = [None] * len(finals) if self.embedding is None else self.embedding.split(batch)
        fused = cut(self.fused) if self.fused else nothing
        return [
            Step(*parts)
            for parts in zip(
                embeddings, cut(self.latent), cut(self.text), fused, finals, music, strict=True
            )
        ]


class JointBlock(nn.Module):
    """Both streams attend to the latents and the text together."""

    def __init__(self, config: FluxAudioConfig, last: bool) -> None:
        super().__init__()
        self.last = last
        self.latent_block = latent_block(config)
        self.text_block = (
            TextContext(config.width, config.num_heads) if last else text_block(config)
        )

    def forward(
        self, x: Tensor, y: Tensor, vectors: tuple[Tensor, Tensor], rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Latents (B, N, D) and text (B, T, D) to the same shapes.

        Args:
            vectors, rotary: modulation and rotations of the latents, then of the text.
        """
        ours, theirs = parts_of(vectors[0], 6), parts_of(vectors[1], 2 if self.last else 6)
        q, k, v = self.latent_block.attn(modulate(x, *ours[:2]), rotary[0])
        text_q, text_k, text_v = self.text_block.attn(modulate(y, *theirs[:2]), rotary[1])
        k, v = torch.cat((k, text_k), dim=2), torch.cat((v, text_v), dim=2)
        if self.last:  # nothing reads the text's own queries
            return self.latent_block.update(x, attend(q, k, v), ours), y
        attended = attend(torch.cat((q, text_q), dim=2), k, v)  # (B, N + T, D)
        for_latents, for_text = attended.split((x.shape[1], y.shape[1]), dim=1)
        x = self.latent_block.update(x, for_latents, ours)
        return x, self.text_block.update(y, for_text, theirs)


class FinalLayer(nn.Module):
    """Modulated norm and the convolution to C channels."""

    def __init__(self, config: FluxAudioConfig) -> None:
        super().__init__()
        self.adaLN_modulation = adaln(config.width, 2)
        conv = conv_class(config)
        self.conv = conv(config.width, config.latent_channels, config.input_kernel)

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        """(B, N, D) and vectors (B, 2 D) to (B, N, C)."""
        return self.conv(modulate(x, *parts_of(vectors, 2)))


@dataclass(frozen=True, eq=False)
class Projected:
    """Prompts as the network uses them, computed once per prompt.

    Attributes:
        text_tokens: (B, T, D).
        pooled: (B, D).
        course: (B, N, C) of the latents; None for a network without a pulse.
    """

    text_tokens: Tensor
    pooled: Tensor
    course: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.pooled.shape[0]

    def expand(self, batch: int) -> Projected:
        """One prompt for a whole batch; shares memory."""
        course = None if self.course is None else self.course.expand(batch, -1, -1)
        return Projected(
            self.text_tokens.expand(batch, -1, -1), self.pooled.expand(batch, -1), course
        )

    def following(self, other: Projected) -> Projected:
        """The same prompts with the course of others, from which guidance leads away: it must not
        lead away from the course, too."""
        return replace(self, course=other.course)

    @staticmethod
    def concatenate(*parts: Projected) -> Projected:
        """Batches one after the other, as for the doubled batch of guidance."""
        courses = [part.course for part in parts if part.course is not None]
        return Projected(
            torch.cat([part.text_tokens for part in parts]),
            torch.cat([part.pooled for part in parts]),
            torch.cat(courses) if courses else None,
        )


def frozen(*shape: int, fill: float = 0.0) -> nn.Parameter:
    """A stored constant: part of the state dict, never trained."""
    return nn.Parameter(torch.full(shape, fill), requires_grad=False)


class FluxAudio(nn.Module):
    """Velocity field over normalised latents, given text and, with a head, a preference score.

    Args:
        config: sizes.
        head: where the score enters; "none" for a network without score.
    """

    def __init__(self, config: FluxAudioConfig, head: HeadKind = "none") -> None:
        super().__init__()
        if head not in SCORE_HEADS:
            raise ValueError(f"head is {head!r}; accepted: {', '.join(SCORE_HEADS)}")
        self.config, self.head = config, head
        width, hidden, kernel = config.width, config.mlp_hidden, config.input_kernel
        conv = conv_class(config)
        self.latent_mean = frozen(1, 1, config.latent_channels)
        self.latent_std = frozen(1, 1, config.latent_channels, fill=1.0)
        self.empty_string_feat = frozen(config.text_tokens, config.text_dim)
        self.empty_string_feat_c = frozen(config.pooled_dim)
        self.audio_input_proj = nn.Sequential(
            conv(config.latent_channels, width, kernel),
            nn.SELU(),
            GatedConv(width, hidden, kernel, conv),
        )
        self.text_input_proj = nn.Sequential(
            nn.Linear(config.text_dim, width), GatedLinear(width, hidden)
        )
        self.text_cond_proj = nn.Sequential(
            nn.Linear(config.pooled_dim, width), GatedLinear(width, hidden)
        )
        self.t_embed = TimeEmbedding(width)
        self.joint_blocks = nn.ModuleList(
            JointBlock(config, last=i == config.num_joint_blocks - 1)
            for i in range(config.num_joint_blocks)
        )
        self.fused_blocks = nn.ModuleList(
            latent_block(config) for _ in range(config.num_fused_blocks)
        )
        self.final_layer = FinalLayer(config)
        self.score_embed = None if head == "none" else ScoreEmbedding(config.score_embedding, width)
        self.pulse, self.course_input = None, None
        if config.pulse is not None:
            sizes = config.latent_frames, config.latent_channels, config.text_dim, config.pooled_dim
            # Trained before the network and by itself (`training.pulse`).
            self.pulse = Pulse(config.pulse, *sizes).requires_grad_(False).eval()
            self.course_input = nn.Linear(config.latent_channels, width, bias=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Xavier for linear layers; zeros where a block or the output must start as nothing."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for index in (0, 2):
            nn.init.normal_(self.t_embed.mlp[index].weight, std=0.02)
        zeroed = [m[1] for n, m in self.named_modules() if n.endswith("adaLN_modulation")]
        zeroed.append(self.final_layer.conv)
        if self.score_embed is not None:
            zeroed.append(self.score_embed.mlp[2])
        if self.pulse is not None:
            zeroed += [self.pulse.output, self.course_input]
        for layer in zeroed:
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def normalise(self, latents: Tensor) -> Tensor:
        """Autoencoder latents (B, N, C) to the space of the flow."""
        return (latents - self.latent_mean) / self.latent_std

    def unnormalise(self, latents: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return latents * self.latent_std + self.latent_mean

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store the mean and standard deviation of the latents, C values each."""
        channels = self.config.latent_channels
        for name, value in (("mean", mean), ("std", std)):
            if value.numel() != channels or not value.isfinite().all():
                raise ValueError(
                    f"latent {name} must be {channels} finite values, got {tuple(value.shape)}"
                )
        if (std <= 0).any():
            raise ValueError(f"latent std must be positive, got a minimum of {std.min().item()}")
        self.latent_mean.copy_(mean.reshape(1, 1, -1))
        self.latent_std.copy_(std.reshape(1, 1, -1))

    @torch.no_grad()
    def set_empty_text(self, tokens: Tensor, pooled: Tensor) -> None:
        """Store the text features of the empty prompt: (T, text_dim) and (pooled_dim,)."""
        self._check("tokens", tokens, self.empty_string_feat.shape)
        self._check("pooled", pooled, self.empty_string_feat_c.shape)
        self.empty_string_feat.copy_(tokens)
        self.empty_string_feat_c.copy_(pooled)

    def project(self, text: Tensor, pooled: Tensor, course: Tensor | None = None) -> Projected:
        """The part that depends on the prompt alone.

        Args:
            text: (B, T, text_dim) text encoder states.
            pooled: (B, pooled_dim) CLAP vector.
            course: (B, N, C) of the latents, where another than this prompt's is meant.
        """
        batch = pooled.shape[0]
        self._check("text", text, (batch, *self.empty_string_feat.shape))
        self._check("pooled", pooled, (batch, *self.empty_string_feat_c.shape))
        if course is None:
            course = self.course(text, pooled)
        return Projected(self.text_input_proj(text), self.text_cond_proj(pooled), course)

    def course(self, text: Tensor, pooled: Tensor, metre: Tensor | None = None) -> Tensor | None:
        """(B, N, C) that a prompt foretells, or None for a network without a pulse.

        Args:
            metre: (B,), where known (`ttmpref.models.pulse.metre_of`).
        """
        return None if self.pulse is None else self.pulse(text, pooled, metre)

    def project_empty(self, batch: int) -> Projected:
        """`project` of the stored empty prompt."""
        one = self.project(self.empty_string_feat[None], self.empty_string_feat_c[None])
        return one.expand(batch)

    def velocity(
        self, latents: Tensor, t: Tensor, projected: Projected, score: Tensor | None = None
    ) -> Tensor:
        """dz/dt at each sample of the batch.

        Args:
            latents: (B, N, C) normalised; any N.
            t: (B,) in [0, 1].
            projected: prompts, B of them.
            score: (B,); None means the null score 0. Refused by a network without a score head.

        Returns:
            (B, N, C).
        """
        self._check_prompts(latents, projected)
        return self.velocity_at(self._step(t, projected.pooled, score), latents, projected)

    def steps(
        self, times: Sequence[float], projected: Projected, score: Tensor | None = None
    ) -> list[Step]:
        """What `velocity_at` needs for each time, by one pass through the modulation layers.

        Args:
            times: in [0, 1], K of them.
            projected, score: as in `velocity`; the same for all times.
        """
        pooled = projected.pooled
        t = torch.tensor(times, device=pooled.device).repeat_interleave(projected.batch)  # (K B,)
        scores = None if score is None else score.repeat(len(times))
        return self._step(t, pooled.repeat(len(times), 1), scores).split(projected.batch)

    def velocity_at(self, step: Step, latents: Tensor, projected: Projected) -> Tensor:
        """`velocity` at a time of `steps`."""
        batch, frames, _ = latents.shape
        self._check("latents", latents, (batch, frames, self.config.latent_channels))
        self._check("step.final", step.final, (batch, 2 * self.config.width))
        self._check_prompts(latents, projected)
        head, course = SCORE_HEADS[self.head], projected.course
        if course is not None:
            self._check("projected.course", course, latents.shape)
            latents = latents - step.music[:, None, None] * course
        x, y = self.audio_input_proj(latents), projected.text_tokens  # (B, N, D), (B, T, D)
        if course is not None:
            x = x + self.course_input(COURSE_GAIN * course)
        if step.embedding is not None:
            x, y = head.into_latents(x, step.embedding), head.into_text(y, step.embedding)
        # A prepended token takes position -1, so that latents and text keep the positions (both
        # from 0) that weights trained without it know.
        rotary = self._rotary(-head.latent_tokens, x), self._rotary(-head.text_tokens, y)
        for block, *vectors in zip(self.joint_blocks, step.latent, step.text, strict=True):
            x, y = block(x, y, vectors, rotary)
        for block, vectors in zip(self.fused_blocks, step.fused, strict=True):
            x = block(x, vectors, rotary[0])
        velocity = self.final_layer(x[:, head.latent_tokens :], step.final)
        if self.config.flow == "data_at_one":
            velocity = -velocity
        return velocity if course is None else velocity - course

    def forward(
        self, latents: Tensor, t: Tensor, text: Tensor, pooled: Tensor,
        score: Tensor | None = None, course: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """`project` and `velocity` in one."""
        return self.velocity(latents, t, self.project(text, pooled, course), score)

    def _embedded(self, score: Tensor | None, batch: int) -> Tensor | None:
        """e_s (B, D), or None for a network without score."""
        if self.score_embed is None:
            if score is not None:
                raise ValueError("a score was given to a network whose head is 'none'")
            return None
        if score is None:
            score = self.latent_mean.new_zeros(batch)
        self._check("score", score, (batch,))
        return self.score_embed(score)

    def _step(self, t: Tensor, pooled: Tensor, score: Tensor | None) -> Step:
        """The modulation of every block at times (B,), for prompts (B, D) and scores (B,)."""
        self._check("t", t, pooled.shape[:1])
        music = 1 - t
        if self.config.flow != "noise_at_one":
            t = 1 - t
        embedding = self._embedded(score, len(t))
        latent = text = self.t_embed(t) + pooled  # (B, D)
        if embedding is not None:
            latent, text = SCORE_HEADS[self.head].into_conditions(latent, embedding)
        joint = self.joint_blocks
        return Step(
            embedding,
            tuple(block.latent_block.adaLN_modulation(latent) for block in joint),
            tuple(block.text_block.adaLN_modulation(text) for block in joint),
            tuple(block.adaLN_modulation(latent) for block in self.fused_blocks),
            self.final_layer.adaLN_modulation(latent),
            music,
        )

    def _rotary(self, first: int, tokens: Tensor) -> Tensor:
        head_size = self.config.width // self.config.num_heads
        return rotary_table(
            first, tokens.shape[1], head_size, self.config.rope_theta, tokens.device
        )

    def halve_(self) -> FluxAudio:
        """Round the weights of the blocks and of the input to bf16, for inference; returns self.

        Time, score, modulation, norms, rotations and the state stay in float32.
        """
        halve_((self.audio_input_proj, self.joint_blocks, self.fused_blocks))
        return self

    @staticmethod
    def _check_prompts(latents: Tensor, projected: Projected) -> None:
        if projected.batch != len(latents):
            raise ValueError(
                f"projected holds {projected.batch} prompts for a batch of {len(latents)}"
            )

    @staticmethod
    def _check(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
        if tensor.shape != tuple(expected):
            raise ValueError(f"{name} must have shape {tuple(expected)}, got {tuple(tensor.shape)}")


EMA_PREFIX = "ema_model."
SCORE_PREFIX = "score_embed."
# Tables that old files carry and the network makes itself.
IGNORED_SUFFIXES = ("_extra_state", "t_embed.freqs", "latent_rot", "text_rot")


@dataclass(frozen=True)
class LoadReport:
    """What a weight file held.

    Attributes:
        loaded: number of tensors taken over.
        ignored: names left aside.
        averaged: whether the file was a snapshot of averaged (EMA) weights.
        matched: the score embedding's tensors and what the file calls them, where that differs.
    """

    loaded: int
    ignored: tuple[str, ...]
    averaged: bool
    matched: Mapping[str, str]


def load_backbone_state(model: FluxAudio, state: Mapping[str, Tensor]) -> LoadReport:
    """Load weights in any of the released layouts.

    Where the file has other names for the score embedding's five tensors, they are told by shape
    (`match_score_tensors`) and the match is logged.

    Raises:
        DamagedWeights: tensors are missing, unknown, of another shape, or the latent statistics
            are not finite; the model is left as it was.
    """
    averaged = any(name.startswith(EMA_PREFIX) for name in state)
    tensors, ignored = {}, []
    for name, tensor in state.items():
        plain = name.removeprefix(EMA_PREFIX)
        # An averaged snapshot also holds the averager's own counters, without the prefix.
        if plain.endswith(IGNORED_SUFFIXES) or averaged and plain == name:
            ignored.append(name)
            continue
        tensors[plain] = tensor
    for name in ("empty_string_feat", "empty_string_feat_c"):
        if name in tensors and tensors[name].ndim == getattr(model, name).ndim + 1:
            tensors[name] = tensors[name].squeeze(0)
    matched = _name_score_tensors(model, tensors)
    _check_tensors(model.state_dict(), tensors)
    model.load_state_dict(tensors)
    return LoadReport(len(tensors), tuple(ignored), averaged, matched)


def _name_score_tensors(model: FluxAudio, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Give a file's score tensors our names, in place; ours and the file's, where they differ."""
    expected = model.state_dict()
    strangers = {name: tensor for name, tensor in tensors.items() if name not in expected}
    ours = [name for name in expected if name.startswith(SCORE_PREFIX)]
    if model.score_embed is None or not strangers or any(name in tensors for name in ours):
        return {}
    matched = match_score_tensors(strangers, model.config.width)
    for name, theirs in matched.items():
        tensors[SCORE_PREFIX + name] = tensors.pop(theirs)
    frequencies = SCORE_PREFIX + "frequencies"
    tensors[frequencies] = tensors[frequencies].flatten()
    matched = {SCORE_PREFIX + name: theirs for name, theirs in matched.items()}
    for name, theirs in matched.items():
        logger.info("%s is read as %s, by its shape", theirs, name)
    return matched


def _check_tensors(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raise `DamagedWeights` naming every tensor that does not fit."""
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is unknown" for name in tensors if name not in expected]
    problems += [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems += [
        f"{name} is not finite"
        for name in ("latent_mean", "latent_std")
        if name in tensors and not tensors[name].isfinite().all()
    ]
    if problems:
        shown = "; ".join(problems[:8])
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise DamagedWeights(f"the weights do not fit the network: {shown}{more}")
