"""Loading a local transformers folder without its silent fallbacks.

transformers 5 has three that would pass unnoticed: a tokenizer without its vocabulary comes up
almost empty and gives every prompt the same ids; weights missing from the file are drawn at random
with a log line; and a model can be looked up on the hub. Each is an error here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttmpref.types import DamagedWeights, MissingWeights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
EXTRACTOR_FILE = "preprocessor_config.json"


def load_tokenizer(folder: Path, vocabulary: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, checked to be a real one.

    Args:
        vocabulary: number of tokens it must have.

    Raises:
        MissingWeights: no tokenizer in the folder.
        DamagedWeights: wrong size, or two different prompts give the same ids.
    """
    from transformers import AutoTokenizer

    require(folder, "tokenizer.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for damaged JSON
        raise DamagedWeights(f"{folder}: tokenizer cannot be read ({_line(error)})") from None
    if len(tokenizer) != vocabulary:
        raise DamagedWeights(f"{folder}: tokenizer has {len(tokenizer)} tokens, not {vocabulary}")
    if tokenizer("calm piano").input_ids == tokenizer("loud drums").input_ids:
        raise DamagedWeights(f"{folder}: tokenizer gives different prompts the same tokens")
    return tokenizer


def load_settings(settings_class: type[Any], folder: Path, file: str = EXTRACTOR_FILE) -> Any:
    """A folder's settings, of its front end or in another file.

    Raises:
        MissingWeights: no settings in the folder.
        DamagedWeights: they cannot be read.
    """
    require(folder, file)
    try:
        return settings_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds; all mean an unusable folder
        raise DamagedWeights(f"{folder}: {file}: {_line(error)}") from None


def load_model(
    model_class: type[Any], folder: Path, device: str, config: PretrainedConfig | None = None
) -> PreTrainedModel:
    """A float32 model in evaluation mode with every tensor read from the folder.

    Args:
        config: replaces the folder's own; the file must then hold nothing else either.

    Raises:
        MissingWeights: no configuration or weights in the folder.
        DamagedWeights: the file is truncated, or tensors are missing or of another shape.
    """
    import torch

    require(folder, CONFIG_FILE)
    require(folder, WEIGHTS_FILE)
    own = {} if config is None else {"config": config}
    with _quiet_transformers():
        try:
            model, report = model_class.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32,
                output_loading_info=True, ignore_mismatched_sizes=True, **own,
            )  # fmt: skip
        except Exception as error:  # transformers raises many kinds; all mean an unusable folder
            raise DamagedWeights(f"{folder}: {WEIGHTS_FILE}: {_line(error)}") from None
    for kind in ("missing_keys", "mismatched_keys", *(("unexpected_keys",) if own else ())):
        if report[kind]:
            first = sorted(str(key) for key in report[kind])[0]
            raise DamagedWeights(f"{folder}: {WEIGHTS_FILE} has {kind.replace('_', ' ')}: {first}")
    return model.to(device).eval().requires_grad_(False)


def require(folder: Path, name: str) -> None:
    """Raise `MissingWeights` unless a folder has a file."""
    if not (folder / name).is_file():
        raise MissingWeights(f"{name} is missing: expected at {folder / name}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def replaced(owner: type, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Another function in the place of a class method, for a while."""
    own = owner.__dict__.get(name)
    setattr(owner, name, staticmethod(value))
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' load report and progress bar off the terminal; errors are raised here."""
    from transformers.utils import logging as transformers_logging

    logger, bars = logging.getLogger("transformers"), transformers_logging.is_progress_bar_enabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
