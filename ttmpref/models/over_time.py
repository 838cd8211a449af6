"""Layers over (B, N, D) tensors that compute in the precision of their weights.

Channel-last tensors are what processors' and GPUs' convolution kernels like best: seen as an image
of height one, (B, N, D) lies in memory as they want it, so nothing is transposed or copied. On the
CPU that is about twice as fast as a matrix product over windows, and a network whose weights are
rounded to bf16 (`halve_`) is twice as fast again where the processor multiplies bf16 itself
(`has_bf16`). Inputs are rounded to the weights' precision, results stay in it.

Shapes: B batch, N positions in time, D channels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` for inputs of any precision."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


def as_image(x: Tensor) -> Tensor:
    """(B, N, D) as (B, D, 1, N) in channels-last memory order; a view."""
    return x.transpose(1, 2).unsqueeze(2)


def from_image(image: Tensor) -> Tensor:
    """(B, D, 1, N) as (B, N, D); a view."""
    return image.squeeze(2).transpose(1, 2)


class ConvOverTime(nn.Conv1d):
    """Convolution over time that keeps the length: (B, N, inputs) to (B, N, outputs)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, bias: bool = True, dilation: int = 1
    ) -> None:
        super().__init__(
            inputs, outputs, kernel, dilation=dilation, padding=dilation * (kernel // 2), bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        (dilation,), (padding,) = self.dilation, self.padding
        image = F.conv2d(
            as_image(x.to(self.weight.dtype)), self.weight.unsqueeze(2), self.bias,
            padding=(0, padding), dilation=(1, dilation),
        )  # fmt: skip
        return from_image(image)


class UpsampleOverTime(nn.ConvTranspose1d):
    """Transposed convolution over time: (B, N, inputs) to (B, N * rate, outputs)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, rate: int) -> None:
        super().__init__(inputs, outputs, kernel, stride=rate, padding=(kernel - rate) // 2)

    def forward(self, x: Tensor) -> Tensor:
        (rate,), (padding,) = self.stride, self.padding
        image = F.conv_transpose2d(
            as_image(x.to(self.weight.dtype)), self.weight.unsqueeze(2), self.bias,
            stride=(1, rate), padding=(0, padding),
        )  # fmt: skip
        return from_image(image)


def has_bf16(device: str) -> bool:
    """Whether a device multiplies bf16 numbers itself; where it does not, bf16 is slower."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def halve_(parts: Iterable[nn.Module]) -> None:
    """Round the weights of this file's layers below `parts` to bf16, for inference."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, (Linear, ConvOverTime, UpsampleOverTime)):
                module.bfloat16()
