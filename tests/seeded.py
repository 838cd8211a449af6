"""Seeded weights: every tensor is a function of its name alone.

The recipe of the reference outputs that some tests compare with, also handy for any network whose
fresh initialisation would be trivial (zeros).
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

SALT = "shared-1"


def generator_of(name: str) -> np.random.Generator:
    """The random source that belongs to a tensor's name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{SALT}:{name}".encode())))


def seeded_tensor(name: str, shape: Iterable[int]) -> Tensor:
    """The weight called `name`, float32."""
    g, shape = generator_of(name), tuple(shape)
    if name.endswith(("weight_g", "learnable_gain")):
        values = g.uniform(0.3, 0.6, shape)
    elif len(shape) > 1 and not name.endswith(("alpha", "beta")):
        values = g.standard_normal(shape) * 0.7 / math.sqrt(math.prod(shape[1:]))
    elif "norm" in name:
        values = g.uniform(0.5, 1.5, shape)
    else:
        values = g.standard_normal(shape) * 0.1
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def seeded_state(shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """A state dict of seeded weights for the given names and shapes."""
    return {name: seeded_tensor(name, shape) for name, shape in shapes.items()}


def seeded_input(name: str, shape: Iterable[int], scale: float = 1.0) -> Tensor:
    """The input called `name`, float32."""
    values = generator_of(f"input:{name}").standard_normal(tuple(shape)) * scale
    return torch.from_numpy(values.astype(np.float32))


def shared_file(name: str) -> Path:
    """A file of the reference data beside the repository; skips the test where it is absent."""
    root = Path(__file__).resolve().parents[1]
    path = Path(os.environ.get("TTMPREF_SHARED", root.parent / "shared")) / name
    if not path.exists():
        pytest.skip(f"reference data are not at hand: {path} (set TTMPREF_SHARED)")
    return path


def reference_output(name: str) -> Tensor:
    """One tensor of the reference outputs; skips the test where they are not at hand."""
    path = shared_file("golden/reference_outputs.safetensors")
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """norm(ours - reference) / norm(reference)."""
    return ((ours - reference).norm() / reference.norm()).item()
