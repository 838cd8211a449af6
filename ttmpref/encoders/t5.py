"""T5-class text encoder through transformers (paper: flan-t5-large, 77 tokens).

All T positions are returned, pads included: the backbone attends to them un-masked, so their
values are part of the conditioning (specification, section 5). The folder is a local transformers
folder with weights, configuration and tokenizer; nothing is fetched.

Shapes: B texts, T = max_tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ttmpref.config import TextEncoderConfig
from ttmpref.encoders.pretrained import load_model, load_tokenizer
from ttmpref.types import DamagedWeights


class T5TextEncoder:
    """See `ttmpref.protocols.TextEncoder`."""

    def __init__(self, config: TextEncoderConfig, folder: Path, device: str = "cpu") -> None:
        """Load tokenizer and weights.

        Raises:
            MissingWeights, DamagedWeights: the folder lacks a file, or one does not fit.
        """
        from transformers import T5EncoderModel

        self.dim = config.dim
        self.max_tokens = config.max_tokens
        self._device = device
        self._tokenizer = load_tokenizer(folder, config.vocabulary)
        self._model = load_model(T5EncoderModel, folder, device)
        if self._model.config.d_model != self.dim:
            raise DamagedWeights(
                f"{folder}: encoder width {self._model.config.d_model}, expected {self.dim}"
            )

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """(B, T, dim) last hidden states."""
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self._device)  # fmt: skip
        output = self._model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return output.last_hidden_state  # (B, T, dim)
