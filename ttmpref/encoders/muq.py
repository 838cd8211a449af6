"""MuQ-MuLan: text and music in one space, by the package `muq`, which is an extra.

The package builds its two networks from three downloads and asks for remote code on the way. Here
everything comes from one folder: the settings of MuQ-MuLan (`config.json`), of MuQ (`muq.json`) and
of XLM-RoBERTa (`text.json`), its tokenizer, and one file of all weights. Nothing is unpickled, and
no code of a model's repository is run.

Shapes: W windows, S samples of one, B texts or clips.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttmpref import assets
from ttmpref.autoencoder import load_state
from ttmpref.config import MuqMulanConfig
from ttmpref.encoders.pretrained import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_tokenizer,
    replaced,
    require,
)
from ttmpref.encoders.windows import embed_clips
from ttmpref.types import Clip, ConfigError, DamagedWeights

MUQ_FILE, TEXT_FILE = "muq.json", "text.json"
REMEDY = "MuQ-MuLan needs the package muq: pip install -r requirements-muq.txt"
# Of settings, the names by which the package tells what it can build without remote code.
BUILT_IN = {"audio_model": "muq", "text_model": "xlm-roberta"}


def missing_package() -> str | None:
    """What to install, or None where the package is there; imports nothing."""
    return None if find_spec("muq") else REMEDY


class MuqMulanEncoder:
    """See `ttmpref.protocols.AudioTextEncoder`."""

    def __init__(self, config: MuqMulanConfig, folder: Path, device: str = "cpu") -> None:
        """Load settings, tokenizer and weights.

        Raises:
            ConfigError: the package is not installed.
            MissingWeights, DamagedWeights: the folder lacks a file, or one does not fit.
        """
        self.dim = config.dim
        self.sample_rate = config.sample_rate
        self.window_samples = round(config.window_seconds * config.sample_rate)
        self._device = device
        model = _built(folder)
        mulan = model.config.mulan
        for name, found, expected in (
            ("width", mulan.dim_latent, self.dim),
            ("sampling rate", mulan.sr, self.sample_rate),
            ("window", mulan.sr * mulan.clip_secs, self.window_samples),
        ):
            if found != expected:
                raise DamagedWeights(f"{folder}: encoder {name} is {found}, expected {expected}")
        tokenizer = load_tokenizer(folder, config.vocabulary)
        model.mulan.text._tokenizer = partial(
            tokenizer, truncation=True, max_length=config.max_tokens
        )
        self._model = model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(B, dim), L2-normalised; one at a time, because the package's mean counts the pads."""
        if not texts:
            return torch.zeros(0, self.dim, device=self._device)
        return torch.cat([self._model(texts=[text]) for text in texts])

    def encode_audio(self, clips: Sequence[Clip]) -> Tensor:
        """(B, dim), L2-normalised; the mean over the windows of each clip."""
        return embed_clips(self, clips)

    def embed_audio(self, windows: Sequence[Tensor]) -> Tensor:
        """(W, dim), L2-normalised, of mono windows (S,) at `sample_rate`; differentiable.

        A window shorter than `window_samples` is continued from its start, once, as the package
        does.
        """
        for window in windows:
            if not 1 <= len(window) <= self.window_samples:
                raise ValueError(
                    f"window has {len(window)} samples; 1 to {self.window_samples} are accepted"
                )
        found = [self._model(wavs=window.to(self._device)[None]) for window in windows]
        return F.normalize(torch.cat(found), dim=-1)


def _built(folder: Path) -> nn.Module:
    """The package's network with the folder's weights.

    Raises:
        ConfigError, MissingWeights, DamagedWeights: see `MuqMulanEncoder`.
    """
    try:
        from muq import MuQ, MuQMuLan
    except ImportError as error:
        raise ConfigError(f"{REMEDY} ({error})") from None
    from transformers import XLMRobertaConfig, XLMRobertaModel

    said, inner, text = (_settings(folder, name) for name in (CONFIG_FILE, MUQ_FILE, TEXT_FILE))
    for part, kind in BUILT_IN.items():
        name = str(said.get(part, {}).get("name"))
        if kind not in name.lower():
            raise DamagedWeights(f"{folder}: {part} is {name!r}; only {kind} is supported")
    require(folder, WEIGHTS_FILE)
    with ExitStack() as stack:
        for owner, build in (
            (MuQ, lambda *_, **__: MuQ(_for_transformers_5(inner))),
            (XLMRobertaModel, lambda *_, **__: XLMRobertaModel(XLMRobertaConfig(**text))),
        ):
            stack.enter_context(replaced(owner, "from_pretrained", build))
        try:
            model = MuQMuLan(said)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DamagedWeights(f"{folder}: not settings of MuQ-MuLan ({reason})") from None
    tensors = assets.load_tensors(str(folder / WEIGHTS_FILE))
    # Older versions of transformers stored what is a constant.
    kept = {name: value for name, value in tensors.items() if not name.endswith("position_ids")}
    load_state(model, kept, str(folder / WEIGHTS_FILE))
    _open_up(model.mulan.audio.model.model)
    return model


def _settings(folder: Path, name: str) -> dict[str, Any]:
    """The mapping in one of the folder's JSON files."""
    require(folder, name)
    try:
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DamagedWeights(f"{folder / name}: not settings of an encoder ({error})") from None


def _for_transformers_5(settings: dict[str, Any]) -> dict[str, Any]:
    """MuQ's settings with what transformers 5 asks of a network's, in plain attention."""
    network = {
        name: value
        for name, value in settings.get("w2v2_config", {}).items()
        if name not in ("id2label", "label2id")
    }
    return {
        **settings,
        "w2v2_config": {**network, "_attn_implementation": "eager"},
        "is_flash": False,
    }


def _open_up(network: nn.Module) -> None:
    """Give MuQ's network what it no longer has: states of all layers, and gradients of its input.

    Transformers 5 tells the states of a model, not of an encoder alone, which is what MuQ has; and
    MuQ's spectrogram is marked as needing no gradient.
    """
    encoder = network.conformer
    network.conformer.forward = partial(_with_states, encoder, encoder.forward)
    for name in ("preprocessing", "normalize"):
        with_gradient = getattr(type(network), name).__wrapped__
        setattr(network, name, MethodType(with_gradient, network))


def _with_states(encoder: nn.Module, forward: Any, hidden: Tensor, **_: Any) -> dict[str, Any]:
    """What every layer is given, then the normalised output, as transformers 4 told them."""
    states: list[Tensor] = []
    with ExitStack() as stack:
        for layer in encoder.layers:
            hook = layer.register_forward_pre_hook(lambda _, given: states.append(given[0]))
            stack.callback(hook.remove)
        last = forward(hidden).last_hidden_state
    return {"last_hidden_state": last, "hidden_states": (*states, last)}
