"""A preset for tests of stages: the scoring one with a chain of two scored stages more."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

STAGES = """\
  - {{name: expert, title: Expert iteration, weights: "{root}/expert.safetensors",
     head: global_adaln, parent: scored, notes: The best tenth came back.}}
  - {{name: crossload, title: "Cross-loaded (v1 weights, v2 head)",
     weights: "{root}/expert.safetensors", head: input_add, parent: expert}}
"""
BEFORE = "  - {name: lost"


def build_stage_preset(root: Path, scoring_preset: Path) -> Path:
    """Write weights near those of the stage `scored` and `stages.yaml` into `root`."""
    text = scoring_preset.read_text()
    (source,) = (line.split('"')[1] for line in text.splitlines() if "name: scored" in line)
    generator = torch.Generator().manual_seed(2)
    weights = {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1
        else tensor
        for name, tensor in load_file(source).items()
    }
    save_file(weights, root / "expert.safetensors")
    path = root / "stages.yaml"
    path.write_text(text.replace(BEFORE, STAGES.format(root=root) + BEFORE))
    return path
