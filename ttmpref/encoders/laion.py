"""LAION-CLAP's tensor names and settings in the words of transformers.

The two implementations are equal to rounding on the same weights (specification of the ecosystem,
section 1): text and audio branch differ in names alone, but LAION keeps query, key and value of
the audio attention in one tensor. What transformers does not have (the spectrogram's own filters,
the classifier) plays no part in an embedding. `renamed` goes one way, `restored` the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ttmpref.types import DamagedWeights

if TYPE_CHECKING:
    from torch import Tensor

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
# HTSAT-base and RoBERTa-base; all else are the defaults of transformers' own classes.
CONFIG = {
    "architectures": ["ClapModel"],
    "model_type": "clap",
    "projection_dim": 512,
    "projection_hidden_act": "relu",
    "audio_config": {
        "model_type": "clap_audio_model",
        "patch_embeds_hidden_size": 128,
        "hidden_size": 1024,
        "depths": [2, 2, 12, 2],
        "num_attention_heads": [4, 8, 16, 32],
        "projection_dim": 512,
    },
    "text_config": {
        "model_type": "clap_text_model",
        "layer_norm_eps": 1e-5,
        "projection_dim": 512,
    },
}
# The music checkpoints were trained on Slaney mels from 50 Hz.
FRONT_END = {
    "feature_extractor_type": "ClapFeatureExtractor",
    "sampling_rate": 48_000,
    "max_length_s": 10,
    "fft_window_size": 1024,
    "hop_length": 480,
    "feature_size": 64,
    "frequency_min": 50,
    "frequency_max": 14_000,
    "truncation": "rand_trunc",
    "padding": "repeatpad",
}
UNUSED = (
    "spectrogram_extractor", "logmel_extractor", "tscam_conv", "audio_branch.head",
    "text_transform", "audio_transform", "attn_mask", "position_ids",
)  # fmt: skip
NAMES = (
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"\.bn0\.", ".batch_norm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.(relative_)", r".attention.self.\1"),
    (r"^((?:text|audio)_projection)\.0\.", r"\1.linear1."),
    (r"^((?:text|audio)_projection)\.2\.", r"\1.linear2."),
)
QKV = re.compile(r"\.attn\.qkv\.")
PARTS = ("query", "key", "value")


def counterparts(name: str) -> tuple[str, ...]:
    """What transformers calls a tensor of LAION's: none, one or, for query, key, value, three."""
    if any(part in name for part in UNUSED):
        return ()
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    if QKV.search(name):
        return tuple(QKV.sub(f".attention.self.{part}.", name) for part in PARTS)
    return (name,)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A LAION checkpoint's tensors by the names of `transformers.ClapModel`.

    Raises:
        DamagedWeights: it is not such a checkpoint.
    """
    if not any(name.startswith("audio_branch.") for name in state):
        raise DamagedWeights("not a LAION-CLAP checkpoint: it has no tensor of an audio_branch")
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match counterparts(name):
            case ():
                continue
            case (one,):
                found[one] = tensor
            case names:
                found.update(zip(names, tensor.chunk(len(names)), strict=True))
    return found


def restored(names: Iterable[str], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a transformers folder by the names that LAION's network gives them.

    Args:
        names: of LAION's network; those that a folder does not keep are left out.
    """
    import torch

    found = {}
    for name in names:
        theirs = counterparts(name)
        if theirs and all(part in state for part in theirs):
            parts = [state[part] for part in theirs]
            found[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return found
