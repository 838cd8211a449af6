"""Where weights are, and whether they are what they should be.

The only file that knows URIs and cache folders. Four kinds of URI:

- `asset://demo/x`: bundled, `<repository>/assets/demo/x` (TTMPREF_ASSETS replaces `assets`),
  checked against `assets/demo/manifest.json`;
- `hf://org/repo/file` and `https://host/path`: a copy in the cache folder (TTMPREF_CACHE, else
  `~/.cache/ttmpref`), under `hf/org/repo/file` and `https/host/path`, checked against the record
  `fetched.json` of what `ttmpref.fetch` placed there;
- anything else: a path as it stands.

Nothing downloads by itself and nothing is unpickled: tensors are safetensors only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttmpref.differences import BASE, added
from ttmpref.types import ConfigError, DamagedWeights, MissingWeights, OutputError

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
FETCHED = "fetched.json"


def assets_folder() -> Path:
    """Folder behind `asset://`."""
    return Path(os.environ.get("TTMPREF_ASSETS") or Path(__file__).parent.parent / "assets")


def cache_folder() -> Path:
    """Folder behind `hf://` and `https://`."""
    return Path(os.environ.get("TTMPREF_CACHE") or Path.home() / ".cache" / "ttmpref")


def expected_path(uri: str) -> Path:
    """Where the file or folder of `uri` belongs, whether or not it is there.

    Raises:
        ConfigError: unknown scheme, or a path that climbs out of its folder.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Path(uri).expanduser()
    roots = {
        "asset": assets_folder(),
        "hf": cache_folder() / "hf",
        "https": cache_folder() / "https",
    }
    if scheme not in roots:
        accepted = "asset://, hf://, https:// or a path"
        raise ConfigError(f"weights {uri!r}: scheme {scheme!r} is unknown; accepted: {accepted}")
    parts = rest.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise ConfigError(f"weights {uri!r}: the path must not hold empty parts, '.' or '..'")
    return roots[scheme].joinpath(*parts)


def locate(uri: str) -> Path:
    """The existing file or folder of `uri`.

    Raises:
        MissingWeights: it is not there; says which file, where expected, and what to do.
    """
    path = expected_path(uri)
    if path.exists():
        return path
    if uri.startswith("asset://"):
        remedy = "run `python -m training chain --recipe demo` or restore it from git"
    elif "://" in uri:
        remedy = "nothing is downloaded by itself: `python -m ttmpref fetch` does it when asked"
    else:
        remedy = "correct the path in the preset"
    raise MissingWeights(f"{uri} is missing: expected at {path}; {remedy}")


def files_of(uri: str) -> dict[str, Path]:
    """The files behind a URI, by their own URIs: itself, or all files of a folder."""
    path = locate(uri)
    if path.is_file():
        return {uri: path}
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    return {f"{uri.rstrip('/')}/{file.relative_to(path).as_posix()}": file for file in inside}


def hashes(uri: str) -> dict[str, str]:
    """SHA-256 of every file behind a URI, by the file's own URI."""
    return {name: sha256(path) for name, path in files_of(uri).items()}


def digest(uri: str) -> str:
    """SHA-256 of a file, or of the names and hashes of a folder's files, one per line."""
    path = locate(uri)
    if path.is_file():
        return sha256(path)
    lines = [
        f"{name.removeprefix(uri.rstrip('/'))[1:]} {value}\n" for name, value in hashes(uri).items()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256; remembered until the file's time or size changes."""
    status = path.stat()
    return _sha256(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, modified_ns: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(uri: str) -> None:
    """Compare a file, or every file of a folder, with its set's manifest or the record of fetching.

    What was placed by hand has no checksums and passes when it exists.

    Raises:
        MissingWeights: the file, or one the manifest lists inside the folder, is absent.
        DamagedWeights: a file differs; names it with expected and actual size or SHA-256.
    """
    path = locate(uri)
    if not uri.startswith("asset://"):
        return _compare_fetched(uri)
    set_name, _, inside = uri.removeprefix("asset://").partition("/")
    listed = manifest(set_name)
    names = [name for name in listed if name == inside or name.startswith(f"{inside}/")]
    if not names:
        raise DamagedWeights(f"{uri} is not listed in {_manifest_path(set_name)}")
    for name in names:
        file = path if name == inside else path / name.removeprefix(f"{inside}/")
        _compare(f"asset://{set_name}/{name}", file, listed[name])


def _compare_fetched(uri: str) -> None:
    """Raise unless a fetched URI's files have the hashes of when they were placed."""
    placed = fetched().get(uri, {}).get("placed")
    if placed is None:
        return
    now = hashes(uri)
    changed = sorted(name for name in {**placed, **now} if placed.get(name) != now.get(name))
    if changed:
        raise DamagedWeights(
            f"{changed[0]} is damaged: it is not what was fetched; remove {locate(uri)} and fetch"
            " it again"
        )


def fetched() -> dict[str, dict[str, Any]]:
    """What the record of fetching says of every URI; empty where nothing was fetched.

    Raises:
        DamagedWeights: the record is not JSON.
    """
    path = cache_folder() / FETCHED
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedWeights(f"{path}: not JSON ({error}); remove it to start anew") from None


def _compare(uri: str, file: Path, entry: dict[str, Any]) -> None:
    """Raise unless `file` has the size and hash of its manifest entry."""
    if not file.is_file():
        locate(uri)
        raise DamagedWeights(f"{uri} is damaged: {file} is not a file")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise DamagedWeights(f"{uri} is damaged: {file} has {size} bytes, not {entry['bytes']}")
    digest = sha256(file)
    if digest != entry["sha256"]:
        raise DamagedWeights(
            f"{uri} is damaged: {file} has SHA-256 {digest}, expected {entry['sha256']}"
        )


def _manifest_path(set_name: str) -> Path:
    return assets_folder() / set_name / MANIFEST


def manifest(set_name: str) -> dict[str, dict[str, Any]]:
    """Relative path -> {"bytes": int, "sha256": str} of a bundled set of weights.

    Raises:
        MissingWeights: the set has no manifest.
        DamagedWeights: the manifest is not JSON of a known format.
    """
    path = locate(f"asset://{set_name}/{MANIFEST}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != MANIFEST_FORMAT:
            raise DamagedWeights(
                f"{path}: manifest format {data['format']!r}; {MANIFEST_FORMAT} is accepted"
            )
        return {
            name: {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
            for name, entry in data["files"].items()
        }
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DamagedWeights):
            raise
        raise DamagedWeights(f"{path}: not a manifest ({type(error).__name__}: {error})") from None


def load_tensors(uri: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file on the CPU; half precision on disk is returned as float32.

    Raises:
        MissingWeights: the file, or one beside it that it holds differences from, is absent.
        DamagedWeights: it differs from its manifest, is truncated, is not safetensors, or the file
            that it holds differences from is another than when it was written.
    """
    verify(uri)
    return read_tensors(uri)


def read_tensors(uri: str) -> dict[str, Tensor]:
    """As `load_tensors`, of a file that no manifest needs to know, such as one just written."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, said = locate(uri), metadata(uri)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DamagedWeights(f"{uri} is damaged: {path}: {reason}") from None
    if BASE in said:
        tensors = added(tensors, _base(path, said[BASE]))
    halves = (torch.float16, torch.bfloat16)
    return {
        name: tensor.float() if tensor.dtype in halves else tensor
        for name, tensor in tensors.items()
    }


def _base(path: Path, said: str) -> dict[str, Tensor]:
    """Tensors of the file beside `path` that it holds differences from."""
    digest, _, name = said.partition("  ")
    base = path.with_name(Path(name).name)
    if sha256(locate(str(base))) != digest:
        raise DamagedWeights(f"{path} holds differences from another {base.name}")
    return read_tensors(str(base))


def metadata(uri: str) -> dict[str, str]:
    """What a safetensors file says about itself; empty where it says nothing.

    Raises:
        MissingWeights: the file is absent.
        DamagedWeights: it is not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    path = locate(uri)
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DamagedWeights(f"{uri} is damaged: {path}: {reason}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], says: Mapping[str, str]) -> None:
    """A safetensors file with `says` as its metadata, for what is too large for `pack_tensors`.

    Tensors that share memory are written apart.

    Raises:
        OutputError: the disk is full or not writable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    apart = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(apart, path, metadata=dict(says))
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise OutputError(f"{path}: cannot be written ({reason})") from None


def pack_tensors(tensors: Mapping[str, Tensor], says: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file with `says` as its metadata."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(contiguous, metadata=dict(says))
