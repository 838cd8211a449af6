"""BigVGAN v2: log-mel to waveform (Lee et al., 2023; paper, section III-A).

Transposed convolutions raise the frame rate to the sample rate; after each, the mean of three
residual stacks refines the signal. The periodic "snake" activation runs at twice the rate between
two 12-tap low-pass filters, so that the harmonics it makes do not alias. Names of the tensors are
those of the released file after weight normalisation has been folded in (`load_bigvgan_state`); the
filters are constants and are computed instead of stored.

Inside, everything is channel-last: the convolutions are fastest so (`ttmpref.models.over_time`),
and the filters of the activation become sums of whole rows.

Shapes: B batch, M mel bands, K channels of a layer, L length at a layer, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ttmpref.config import BigVGANConfig
from ttmpref.models.over_time import ConvOverTime, UpsampleOverTime, halve_
from ttmpref.types import DamagedWeights

TAPS = 12
# Number of values of which a processor keeps the temporaries of an activation in its caches.
SLAB_VALUES = 131_072
REACH = 3  # neighbours on either side from which a filter's phase makes a value
RELEASED_FILTER_TOLERANCE = 1e-4


def low_pass_filter() -> Tensor:
    """(12,) Kaiser-windowed sinc that cuts at a quarter of the doubled sample rate; sums to 1."""
    half_width = 0.3
    attenuation = 2.285 * (TAPS / 2 - 1) * math.pi * 4 * half_width + 7.95
    beta = 0.1102 * (attenuation - 8.7)
    window = torch.kaiser_window(TAPS, periodic=False, beta=beta, dtype=torch.float64)
    positions = torch.arange(TAPS, dtype=torch.float64) - (TAPS - 1) / 2
    taps = window * torch.sinc(positions / 2)
    return (taps / taps.sum()).float()


def polyphase_taps() -> tuple[list[list[float]], list[list[float]]]:
    """The filter seen from even and odd samples of the doubled rate, as 7 taps each.

    Doubling the rate makes u[2m] and u[2m + 1] from x[m - 3 ... m + 3]; halving it makes y[m] from
    u[2(m - 3)] ... u[2(m + 3)] and their odd neighbours.

    Returns:
        Taps for doubling (with the factor 2 that keeps the level) and for halving; each holds one
        list for the even and one for the odd phase.
    """
    taps = low_pass_filter().tolist()
    doubling, halving = [[0.0] * 7, [0.0] * 7], [[0.0] * 7, [0.0] * 7]
    for k, tap in enumerate(taps):
        if k % 2:
            doubling[0][3 + (5 - k) // 2] = 2 * tap
            halving[0][3 + (k - 5) // 2] = tap
        else:
            doubling[1][3 + (6 - k) // 2] = 2 * tap
            halving[1][3 + (k - 6) // 2] = tap
    return doubling, halving


DOUBLING, HALVING = polyphase_taps()


def weighted_sum(parts: list[Tensor], weights: list[float]) -> Tensor:
    """Sum of weight * part, skipping zero weights."""
    pairs = [(part, weight) for part, weight in zip(parts, weights, strict=True) if weight]
    total = pairs[0][0] * pairs[0][1]
    for part, weight in pairs[1:]:
        total = total.add_(part, alpha=weight)
    return total


def shifted(rows: Tensor) -> list[Tensor]:
    """Rows m - 3 ... m + 3 of (B, L + 6, K), for m = 3 ... L + 2: seven views (B, L, K)."""
    length = rows.shape[1] - 2 * REACH
    return [rows[:, i : i + length] for i in range(2 * REACH + 1)]


def extended(rows: Tensor, before: Tensor, after: Tensor, counts: tuple[int, int]) -> Tensor:
    """(B, L, K) with one row (B, 1, K) repeated before it and one behind it."""
    if counts == (0, 0):
        return rows
    return torch.cat((before.expand(-1, counts[0], -1), rows, after.expand(-1, counts[1], -1)), 1)


def snake(x: Tensor, frequency: Tensor, inverse_magnitude: Tensor) -> Tensor:
    """x + sin(frequency x)^2 * inverse_magnitude, all (B, L, K) or broadcast to it."""
    return torch.addcmul(x, (x * frequency).sin_().square_(), inverse_magnitude)


def antialiased_snake(
    x: Tensor, frequency: Tensor, inverse_magnitude: Tensor, rows: range | None = None
) -> Tensor:
    """`snake` at twice the rate between low-pass filters.

    The doubled signal is kept as its even and odd samples and never interleaved; beyond its ends
    its first and last values go on.

    Args:
        x: (B, L, K).
        frequency, inverse_magnitude: (1, 1, K), or (1, R, K) with R at least 6 more than `rows`.
        rows: those to make; default: all.

    Returns:
        (B, len(rows), K).
    """
    length, rows = x.shape[1], rows or range(x.shape[1])
    first, last = max(0, rows.start - REACH), min(length, rows.stop + REACH)  # of the doubled
    low, high = max(0, first - REACH), min(length, last + REACH)  # of x
    counts = low - (first - REACH), (last + REACH) - high
    around = shifted(extended(x[:, low:high], x[:, :1], x[:, -1:], counts))
    parameters = (values[:, : last - first] for values in (frequency, inverse_magnitude))
    frequency, inverse_magnitude = parameters
    even, odd = (
        snake(weighted_sum(around, taps), frequency, inverse_magnitude) for taps in DOUBLING
    )
    counts = first - (rows.start - REACH), (rows.stop + REACH) - last
    before, after = even[:, :1], odd[:, -1:]
    even, odd = (extended(phase, before, after, counts) for phase in (even, odd))
    return weighted_sum(shifted(even) + shifted(odd), HALVING[0] + HALVING[1])


class SnakeParameters(nn.Module):
    """Logarithms of the frequency and the magnitude of each channel's sine, (K,) each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))


class AntialiasedSnake(nn.Module):
    """The activation in float32, (B, L, K) to the same shape, some rows at a time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeParameters(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        batch, length, channels = x.shape
        count = length if x.is_cuda else min(length, max(1, SLAB_VALUES // (batch * channels)))
        # Parameters laid out like the rows make one long loop of every operation.
        shape = (1, count + 2 * REACH, channels)
        frequency = self.act.alpha.exp().expand(shape).contiguous()
        inverse_magnitude = (1 / (self.act.beta.exp() + 1e-9)).expand(shape).contiguous()
        starts = range(0, length, count)
        slabs = (range(start, min(start + count, length)) for start in starts)
        return torch.cat(
            [antialiased_snake(x, frequency, inverse_magnitude, rows) for rows in slabs], dim=1
        )


class ResidualStack(nn.Module):
    """Residual pairs of convolutions of one kernel size, the first of each pair dilated."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            ConvOverTime(channels, channels, kernel, dilation=d) for d in dilations
        )
        self.convs2 = nn.ModuleList(ConvOverTime(channels, channels, kernel) for _ in dilations)
        self.activations = nn.ModuleList(
            AntialiasedSnake(channels) for _ in range(2 * len(dilations))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, K) to the same shape."""
        for n, (first, second) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            y = first(self.activations[2 * n](x))
            x = x + second(self.activations[2 * n + 1](y))
        return x


class BigVGAN(nn.Module):
    """The generator. Call it with log-mel frames to get audio."""

    def __init__(self, config: BigVGANConfig) -> None:
        super().__init__()
        self.config = config
        self.hop_length = math.prod(config.upsample_rates)
        width = config.initial_channels
        self.conv_pre = ConvOverTime(config.num_mels, width, 7)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            up = UpsampleOverTime(width, width // 2, kernel, rate)
            # A list of one, because the released names count the layers inside each stage.
            self.ups.append(nn.ModuleList([up]))
            width //= 2
            self.resblocks.extend(
                ResidualStack(width, size, config.resblock_dilations)
                for size in config.resblock_kernel_sizes
            )
        self.activation_post = AntialiasedSnake(width)
        self.conv_post = ConvOverTime(width, 1, 7, bias=config.final_bias)

    def forward(self, mel: Tensor) -> Tensor:
        """Natural log-mel (B, M, frames) to audio (B, frames * hop_length) in [-1, 1]."""
        if mel.ndim != 3 or mel.shape[1] != self.config.num_mels:
            raise ValueError(
                f"mel must have shape (B, {self.config.num_mels}, frames), got {tuple(mel.shape)}"
            )
        x = self.conv_pre(mel.transpose(1, 2))  # (B, L, K)
        stacks = len(self.config.resblock_kernel_sizes)
        for i, (up,) in enumerate(self.ups):
            x = up(x).float()  # (B, L * rate, K / 2)
            x = sum(stack(x) for stack in self.resblocks[i * stacks : (i + 1) * stacks]) / stacks
        x = self.conv_post(self.activation_post(x))  # (B, S, 1)
        x = x.squeeze(2)
        return x.tanh() if self.config.final_tanh else x.clamp(-1.0, 1.0)

    def halve_(self) -> BigVGAN:
        """Round the convolutions but the last to bf16, for inference; returns self."""
        halve_((self.conv_pre, self.ups, self.resblocks))
        return self


# Endings of the names in which a weight is stored as (length, direction).
NORMALISED_FORMS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)


def load_bigvgan_state(model: BigVGAN, state: Mapping[str, Tensor]) -> None:
    """Load released weights, with weight normalisation in either form or already folded in.

    Args:
        state: the file's mapping, or its "generator" entry.

    Raises:
        DamagedWeights: a tensor is missing, unknown, of another shape or not finite, or the file
            was made with another low-pass filter.
    """
    state = dict(state.get("generator", state))
    for name in [name for name in state if name.endswith(".filter")]:
        stored = state.pop(name).flatten()
        if stored.shape != (TAPS,) or not torch.allclose(
            stored.float().cpu(), low_pass_filter(), atol=RELEASED_FILTER_TOLERANCE
        ):
            raise DamagedWeights(f"vocoder weights: {name} is not the filter this network uses")
    folded = fold_weight_norm(state)
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in folded]
    problems += [f"{name} is unknown" for name in folded if name not in expected]
    for name in expected.keys() & folded.keys():
        if folded[name].shape != expected[name].shape:
            problems.append(
                f"{name} is {tuple(folded[name].shape)} instead of {tuple(expected[name].shape)}"
            )
        elif not folded[name].isfinite().all():
            problems.append(f"{name} is not finite")
    if problems:
        shown = "; ".join(sorted(problems)[:8])
        raise DamagedWeights(f"vocoder weights do not fit ({len(problems)} problems): {shown}")
    model.load_state_dict(folded)


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace every (length, direction) pair by its weight, length * direction / |direction|.

    The norm runs over all dimensions but the first, also for transposed convolutions.
    """
    folded = dict(state)
    for length_name, direction_name in NORMALISED_FORMS:
        for name in [name for name in folded if name.endswith(direction_name)]:
            base = name.removesuffix(direction_name)
            if base + length_name not in folded:
                raise DamagedWeights(f"vocoder weights: {base}{length_name} is missing")
            direction, length = folded.pop(name).float(), folded.pop(base + length_name).float()
            norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.ndim - 1))
            folded[base + "weight"] = length * direction / norm
    return folded
