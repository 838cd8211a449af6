"""Weights that are kept as differences from those beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.autoencoder import save_half
from ttmpref import assets
from ttmpref.differences import SCALE, added, taken
from ttmpref.types import DamagedWeights, MissingWeights


@pytest.fixture
def base() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"matrix": (6, 8), "kernel": (4, 3, 5), "bias": (6,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def tuned(base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    moved = {k: v + 0.01 * torch.randn(v.shape, generator=generator) for k, v in base.items()}
    return moved | {"head": torch.randn(3, 3, generator=generator)}


def test_a_difference_is_off_by_half_a_step_at_most(base, tuned) -> None:
    kept = taken(tuned, base)
    whole = added(kept, base)
    assert whole.keys() == tuned.keys()
    for name in ("matrix", "kernel"):
        step = kept[name + SCALE]
        assert kept[name].dtype == torch.int8
        assert ((whole[name] - tuned[name]).abs() <= 0.501 * step).all()
        assert (step > 0).all()
    for name in ("bias", "head"):
        assert torch.equal(whole[name], tuned[name].half())


def test_rows_that_did_not_move_stay_the_same(base) -> None:
    whole = added(taken(base, base), base)
    assert torch.equal(whole["matrix"], base["matrix"])


def test_a_file_of_differences_is_half_as_large_and_loads_whole(tmp_path: Path) -> None:
    base = {"matrix": torch.randn(300, 400)}
    tuned = {"matrix": base["matrix"] + 0.01 * torch.randn(300, 400)}
    root, whole, path = (tmp_path / name for name in ("root.safetensors", "whole", "differences"))
    save_half(base, root)
    save_half(tuned, whole)
    save_half(tuned, path, root)
    assert path.stat().st_size < 0.52 * whole.stat().st_size
    again = tmp_path / "again"
    save_half(tuned, again, root)
    assert again.read_bytes() == path.read_bytes()
    loaded = assets.load_tensors(str(path))
    assert (loaded["matrix"] - tuned["matrix"]).abs().max() < 0.01 * 5 / 127


def test_differences_from_other_weights_than_those_beside_them_are_refused(
    base, tuned, tmp_path: Path
) -> None:
    root, path = tmp_path / "root.safetensors", tmp_path / "tuned.safetensors"
    save_half(base, root)
    save_half(tuned, path, root)
    save_half(tuned, root)
    with pytest.raises(DamagedWeights, match="differences from another root.safetensors"):
        assets.load_tensors(str(path))
    root.unlink()
    with pytest.raises(MissingWeights, match=r"root\.safetensors"):
        assets.load_tensors(str(path))


def test_a_difference_without_its_scale_or_base_is_damaged(base, tuned) -> None:
    kept = taken(tuned, base)
    for wrong, beside in (
        ({k: v for k, v in kept.items() if k != "matrix" + SCALE}, base),
        (kept, {k: v for k, v in base.items() if k != "matrix"}),
    ):
        with pytest.raises(DamagedWeights, match="'matrix'"):
            added(wrong, beside)
