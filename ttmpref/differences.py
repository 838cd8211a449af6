"""Weights kept as rounded differences from those that they grew out of.

A fine-tune moves every weight a little way from its parent's. That way, in a byte per weight and
one scale per row, takes half the room of the weights in half precision and is at most 1/254 of the
row's longest way off. Vectors, and what the parent does not have, stay in half precision.

Shapes: matrices and kernels (R, ...), scales (R, 1, ...).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ttmpref.types import DamagedWeights

if TYPE_CHECKING:
    from torch import Tensor

# In a file's metadata: hash and name of the parent beside it, as `sha256sum` writes them. One
# entry, because safetensors writes several in any order: the same weights must be the same bytes.
BASE = "differences_from"
SCALE = ".scale"
STEPS = 127


def taken(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `added` makes the tensors of again, with the base: int8 steps with float32 scales, and
    what has no counterpart of its shape in the base, in half precision."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parent = base.get(name)
        if parent is None or parent.shape != tensor.shape or tensor.dim() < 2:
            kept[name] = tensor.detach().half()
            continue
        difference = tensor.detach().float() - parent.float()
        rows = tuple(range(1, difference.dim()))
        scale = difference.abs().amax(rows, keepdim=True) / STEPS
        kept[name] = (difference / scale.clamp(min=1e-30)).round().char()
        kept[name + SCALE] = scale
    return kept


def added(kept: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors: the inverse of `taken`, but for rounding.

    Raises:
        DamagedWeights: a difference has no scale or no counterpart in the base.
    """
    whole: dict[str, Tensor] = {}
    for name, tensor in kept.items():
        if name.removesuffix(SCALE) in kept and name.endswith(SCALE):
            continue
        if tensor.is_floating_point():
            whole[name] = tensor
            continue
        scale, parent = kept.get(name + SCALE), base.get(name)
        if scale is None or parent is None or parent.shape != tensor.shape:
            raise DamagedWeights(f"difference {name!r} fits no tensor of the weights it belongs to")
        whole[name] = parent + tensor.float() * scale
    return whole
