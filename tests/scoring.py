"""A tiny preset that can score: the shared one with a small HuBERT and seeded heads beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from tests.seeded import seeded_state
from ttmpref import assets
from ttmpref.reward.percentiles import write_collections
from ttmpref.reward.ranker import RankerHead, clap_mert, write_ranker
from ttmpref.types import Clip

LAYOUT = clap_mert(8, 16)  # the widths of the tiny CLAP and of the music encoder below
RATE = 8_000
SECTIONS = """
music_encoder: {{folder: "{root}/music_encoder", sample_rate: 8000, dim: 16, segment_seconds: 3.0}}
ranker: {{weights: "{root}/head.safetensors", ensemble: ["{root}/seed1.safetensors",
         "{root}/seed2.safetensors"], collections: "{root}/collections.json"}}
"""


def build_scoring_preset(root: Path, tiny_preset: Path) -> Path:
    """Write encoder, three heads, collections and `scoring.yaml` into `root`."""
    save_music_encoder(root / "music_encoder")
    for name in ("head", "seed1", "seed2"):
        write_ranker(seeded_head(name), root / f"{name}.safetensors")
    digest = assets.sha256(root / "head.safetensors")
    rewards = {"corpus": np.linspace(-1.0, 1.0, 500), "noise": np.linspace(-2.0, 0.0, 500)}
    write_collections(root / "collections.json", digest, "tests", rewards)
    path = root / "scoring.yaml"
    path.write_text(tiny_preset.read_text() + SECTIONS.format(root=root))
    return path


def seeded_head(name: str, layout=LAYOUT) -> RankerHead:
    """A head whose tensors are functions of its name."""
    head = RankerHead(layout, (6, 5)).eval()
    shapes = {f"{name}.{key}": tensor.shape for key, tensor in head.state_dict().items()}
    state = seeded_state(shapes)
    for key, tensor in head.state_dict().items():
        value = state[f"{name}.{key}"]
        tensor.copy_(value.abs() + 0.5 if key.endswith("running_var") else 3 * value)
    return head


def save_music_encoder(folder: Path, **settings: object) -> None:
    """A HuBERT of a few thousand parameters that listens at 8 kHz, 200 frames a second."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    config = HubertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_stride=(10, 4), conv_kernel=(20, 4), num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2, feat_extract_norm="layer", do_stable_layer_norm=True,
        **settings,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True).save_pretrained(folder)
    # As MERT's own folder says it.
    path = folder / "config.json"
    said = json.loads(path.read_text()) | {"model_type": "mert_model", "deepnorm": False}
    path.write_text(json.dumps(said | {"auto_map": {"AutoModel": "modeling_MERT.MERTModel"}}))


def noise(seconds: float = 1.0, rate: int = RATE, channels: int = 1, seed: int = 0) -> Clip:
    """White noise at -20 dBFS."""
    rng = np.random.default_rng(seed)
    samples = 0.1 * rng.standard_normal((channels, round(seconds * rate)))
    return Clip(samples.astype(np.float32), rate)
