"""A tiny preset with a whole chain under random weights, its captions and its reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.scoring import noise
from ttmpref.config import load_preset
from ttmpref.evaluation.reference import Reference, blocks_of, clap_of, encoders_of
from ttmpref.studio import Studio

CAPTIONS = [
    "calm piano music", "loud drums and bass", "a bright synthesizer", "slow jazz guitar",
    "fast rock", "a waltz", "soft pads", "a funk bass line", "strings", "a lone flute",
]  # fmt: skip
STAGES = (  # name, head, parent, which weights
    ("baseline", "none", None, "baseline"),
    ("sft", "global_adaln", "baseline", "first"),
    ("expert", "global_adaln", "sft", "second"),
    ("crossload", "input_add", "expert", "second"),
    ("crpo", "input_add", "crossload", "third"),
    ("sft_input_add", "input_add", "baseline", "fourth"),
    ("expert_input_add", "input_add", "sft_input_add", "fifth"),
    ("sft_audio_prepend", "audio_prepend", "baseline", "first"),
    ("sft_text_prepend", "text_prepend", "baseline", "first"),
    ("sft_full_mix", "global_adaln", "baseline", "second"),
)


def build_chain(root: Path, scoring_preset: Path, without: Sequence[str] = ()) -> Path:
    """Write `chain.yaml`, its weights, captions.jsonl and reference.safetensors into `root`.

    Args:
        without: stages that the preset does not list.
    """
    data = yaml.safe_load(scoring_preset.read_text())
    scored = next(one["weights"] for one in data["stages"] if one["name"] == "scored")
    baseline = next(one["weights"] for one in data["stages"] if one["name"] == "baseline")
    for number, name in enumerate(("first", "second", "third", "fourth", "fifth")):
        save_file(_moved(load_file(scored), number), root / f"{name}.safetensors")
    files = {"baseline": baseline}
    data["stages"] = [
        {
            "name": name,
            "title": name,
            "head": head,
            "parent": parent if parent not in without else None,
            "weights": files.get(weights, str(root / f"{weights}.safetensors")),
        }
        for name, head, parent, weights in STAGES
        if name not in without
    ]
    data["name"] = "chain"
    path = root / "chain.yaml"
    path.write_text(yaml.safe_dump(data))
    write_captions(root / "captions.jsonl", CAPTIONS)
    write_reference(root / "reference.safetensors", path)
    return path


def _moved(state: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Weights a little away, but for what is not learnt."""
    draws = torch.Generator().manual_seed(seed)
    fixed = ("latent_mean", "latent_std", "frequencies")
    return {
        name: tensor if name.endswith(fixed)
        else tensor + 0.05 * torch.randn(tensor.shape, generator=draws)
        for name, tensor in state.items()
    }  # fmt: skip


def write_captions(path: Path, texts: list[str]) -> None:
    lines = [json.dumps({"id": f"c{i}", "text": text}) + "\n" for i, text in enumerate(texts)]
    path.write_text("".join(lines))


def write_reference(path: Path, preset_path: Path) -> None:
    """Twelve noises as the reference, ten more as the captions' own clips."""
    preset = load_preset(str(preset_path))
    features = Studio.open(str(preset_path), "cpu").hearing()
    said = {
        "encoders": encoders_of(preset),
        "captions": [f"c{i}" for i in range(len(CAPTIONS))],
    }
    clips = [noise(seed=seed, rate=8_000) for seed in range(22)]
    found = Reference(clap_of(clips[:12], features), said, blocks_of(clips[12:], features))
    path.write_bytes(found.pack())


def same(first, second) -> bool:
    """Whether two `Heard` hold the same bits."""
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("clap", "clap_scores", "rewards")
    )
