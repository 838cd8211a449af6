"""From files as they are published to files as this package reads them; nothing is unpickled.

Checkpoints are read with torch's restricted reader, which builds tensors and plain containers and
refuses everything else; what it refuses is not converted. Three forms beside the plain copy:

- `checkpoint`: one file of tensors to one safetensors file;
- `folder`: a transformers folder whose `pytorch_model.bin` becomes `model.safetensors`;
- `clap`: LAION's checkpoint and a RoBERTa tokenizer to a transformers CLAP folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttmpref import assets
from ttmpref.encoders.laion import CONFIG, FRONT_END, TOKENIZER_FILES, renamed
from ttmpref.types import DamagedWeights

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
PICKLED = (".pt", ".pth", ".bin", ".ckpt")
NESTS = ("state_dict", "generator", "model")  # keys under which the tensors may lie
SOURCE_MD5_KEY = "source_md5"  # by it the released percentiles know their head

Files = Mapping[str, Path]


def converted(kind: str, files: Files, aside: Path, is_file: bool) -> None:
    """Write what the preset wants, from downloaded files by name, to a new path in a folder.

    Raises:
        DamagedWeights: a checkpoint is not tensors alone, or not of the expected kind.
    """
    if kind != "none":
        CONVERSIONS[kind](files, aside)
    elif is_file:
        shutil.copyfile(next(iter(files.values())), aside)
    else:
        _copied(files, aside)


def _copied(files: Files, folder: Path) -> None:
    folder.mkdir()
    for name, path in files.items():
        shutil.copyfile(path, folder / name)


def _checkpoint(files: Files, target: Path) -> None:
    (path,) = files.values()
    assets.write_tensors(target, read_checkpoint(path), _origin(path))


def _folder(files: Files, folder: Path) -> None:
    _copied({name: path for name, path in files.items() if not name.endswith(PICKLED)}, folder)
    for name, path in files.items():
        if name.endswith(PICKLED):
            says = {"format": "pt", **_origin(path)}
            assets.write_tensors(folder / WEIGHTS_FILE, read_checkpoint(path), says)


def _clap(files: Files, folder: Path) -> None:
    _copied({name: files[name] for name in TOKENIZER_FILES}, folder)
    (path,) = (path for name, path in files.items() if name.endswith(PICKLED))
    tensors = renamed(read_checkpoint(path))
    assets.write_tensors(folder / WEIGHTS_FILE, tensors, {"format": "pt", **_origin(path)})
    for name, values in (("config.json", CONFIG), ("preprocessor_config.json", FRONT_END)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


CONVERSIONS: dict[str, Callable[[Files, Path], None]] = {
    "checkpoint": _checkpoint,
    "folder": _folder,
    "clap": _clap,
}


def _origin(path: Path) -> dict[str, str]:
    with open(path, "rb") as file:
        return {SOURCE_MD5_KEY: hashlib.file_digest(file, "md5").hexdigest()}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint, whose `module.` prefixes are taken off.

    Raises:
        DamagedWeights: the file is truncated, or holds more than tensors and plain containers.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises many kinds; all mean an unusable file
        reason = " ".join(str(error).split())[:200]
        raise DamagedWeights(f"{path}: not a checkpoint of tensors alone ({reason})") from None
    tensors = _nested(state)
    strangers = [
        str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor)
    ]
    if strangers or not tensors:
        found = ", ".join(strangers[:3]) or type(state).__name__
        raise DamagedWeights(f"{path}: not a checkpoint of tensors alone (found {found})")
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _nested(state: Any) -> dict[str, Any]:
    """The innermost mapping under one of the usual keys."""
    if not isinstance(state, Mapping):
        return {}
    inner = next((state[key] for key in NESTS if isinstance(state.get(key), Mapping)), None)
    return dict(state) if inner is None else _nested(inner)
