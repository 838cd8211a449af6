"""LAION's own CLAP network on a folder that transformers reads too (`ttmpref.encoders.clap`).

The package is kept from what it does beside computing: at import it asks the hub for three
tokenizers that nobody needs here, builds its text branch from a download that the checkpoint then
overwrites, and leaves its own folder on the module path, where `training` is another package's
name. Its random crop is never reached, because it is given windows of full length.

Shapes: as in `ttmpref.encoders.clap`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ttmpref import assets
from ttmpref.encoders.laion import UNUSED, restored
from ttmpref.encoders.pretrained import CONFIG_FILE, WEIGHTS_FILE, load_settings, replaced
from ttmpref.types import DamagedWeights

if TYPE_CHECKING:
    from transformers import ClapConfig, RobertaConfig

# LAION's names of its audio networks, by the width of their patches.
AUDIO_NETWORKS = {96: "tiny", 128: "base", 256: "large"}
ROBERTA_SETTINGS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "hidden_act", "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id",
)  # fmt: skip
# Constants that LAION's network makes itself.
MADE = (*UNUSED, "relative_position_index")


class LaionClap:
    """Text and audio branch with their projections."""

    def __init__(
        self, folder: Path, filled: Callable[[Sequence[Tensor]], Tensor], device: str
    ) -> None:
        """Build the network and read the folder's weights.

        Args:
            filled: W windows (S,) to (W, samples), as the front end repeats and pads them.

        Raises:
            MissingWeights, DamagedWeights: a file is absent, or does not fit LAION's network.
        """
        from transformers import ClapConfig

        settings = load_settings(ClapConfig, folder, CONFIG_FILE)
        self.dim: int = settings.projection_dim
        self._filled, self._device = filled, device
        network = _built(settings, folder)
        state = restored(network.state_dict(), assets.load_tensors(str(folder / WEIGHTS_FILE)))
        try:
            missing, _ = network.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise DamagedWeights(f"{folder}: {' '.join(str(error).split())[:200]}") from None
        missing = [name for name in missing if not any(part in name for part in MADE)]
        if missing:
            raise DamagedWeights(f"{folder}: {WEIGHTS_FILE} lacks LAION's {missing[0]}")
        self._network = network.to(device).eval().requires_grad_(False)

    def text(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, T) token numbers and attention mask to (B, dim)."""
        given = {"input_ids": tokens, "attention_mask": mask}
        return self._network.encode_text(given, self._device)

    def audio(self, windows: Sequence[Tensor]) -> Tensor:
        """W windows (S,) to (W, dim)."""
        heard = self._network.encode_audio({"waveform": self._filled(windows)}, self._device)
        return self._network.audio_projection(heard["embedding"])


def _built(settings: ClapConfig, folder: Path) -> nn.Module:
    """LAION's network for a folder's sizes, untrained."""
    width = settings.audio_config.patch_embeds_hidden_size
    if width not in AUDIO_NETWORKS:
        known = ", ".join(map(str, AUDIO_NETWORKS))
        raise DamagedWeights(f"{folder}: patch width {width} is not LAION's; accepted: {known}")
    sizes = {
        "embed_dim": settings.audio_config.hidden_size,
        "audio_cfg": {
            "model_type": "HTSAT",
            "model_name": AUDIO_NETWORKS[width],
            "window_size": 1024,
            "hop_size": 480,
        },
        "text_cfg": {
            "model_type": "roberta", "context_length": 77, "vocab_size": 0, "width": 0,
            "heads": 0, "layers": 0,
        },
        "joint_embed_shape": settings.projection_dim,
    }  # fmt: skip
    with _nothing_asked_of_the_hub(_roberta(settings)):
        from laion_clap.clap_module.model import CLAP

        return CLAP(**sizes)


def _roberta(settings: ClapConfig) -> RobertaConfig:
    from transformers import RobertaConfig

    text = settings.text_config.to_dict()
    return RobertaConfig(**{name: text[name] for name in ROBERTA_SETTINGS})


@contextmanager
def _nothing_asked_of_the_hub(text: RobertaConfig) -> Iterator[None]:
    """While LAION's package is imported and builds: no downloads, and its module path undone.

    Its modules keep their own names below `laion_clap`; of the top-level ones that its path made
    reachable none stays, so that `training` is never taken for another.
    """
    import transformers

    path, before = list(sys.path), set(sys.modules)
    tokenizers = {transformers.BertTokenizer, transformers.RobertaTokenizer}
    tokenizers.add(transformers.BartTokenizer)  # the same class as RoBERTa's in transformers 5
    kept = [(owner, "from_pretrained", _none) for owner in tokenizers]
    kept.append((transformers.RobertaModel, "from_pretrained", lambda _: _untrained(text)))
    try:
        with ExitStack() as stack:
            for one in kept:
                stack.enter_context(replaced(*one))
            yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("training", "clap_module", "evaluate"):
                del sys.modules[name]


def _none(*_: Any, **__: Any) -> None:
    """In place of a tokenizer that is made at import and never used."""


def _untrained(text: RobertaConfig) -> nn.Module:
    from transformers import RobertaModel

    return RobertaModel(text)
