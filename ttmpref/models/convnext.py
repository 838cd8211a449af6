"""The ConvNeXt block of the demo's small networks, over one axis of time.

Shapes: (B, W, L) in and out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNeXtBlock(nn.Module):
    """Depthwise kernel-7 convolution, layer norm, pointwise pair, scaled residual."""

    def __init__(self, width: int, hidden: int, initial_scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), initial_scale))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).transpose(1, 2))  # (B, frames, W)
        h = self.scale * self.contract(F.gelu(self.expand(h)))
        return x + h.transpose(1, 2)
