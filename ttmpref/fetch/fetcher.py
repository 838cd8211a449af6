"""Carrying a plan out: one fetch at a time, every part whole or absent, a record of what came.

Downloads gather in the cache under `downloads/`, where an interrupted fetch finds them again. A
part of the preset appears under its own path only once its files are whole, verified and converted;
then its downloads go, and `fetched.json` says where it came from and what its hashes are.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ttmpref import assets
from ttmpref.audio import write_files
from ttmpref.fetch.convert import converted
from ttmpref.fetch.download import download
from ttmpref.fetch.plan import Plan, RemoteFile, Source
from ttmpref.types import DamagedWeights, FetchError, InvalidRequest, OutputError

LOCK = "fetch.lock"
CONVERTED_COPIES = 2  # a download and what it becomes lie side by side for a while


@dataclass(frozen=True)
class FetchProgress:
    """One tick: bytes of a file that are here; `total` is None where the server does not say."""

    url: str
    done: int
    total: int | None


OnProgress = Callable[[FetchProgress], None]


def fetch(plan: Plan, given: Path | None, on_progress: OnProgress) -> None:
    """Get everything of a plan that is missing.

    Args:
        given: a folder with files that are already at hand, flat or as `<org>/<repo>/<path>`;
            they are verified and left as they are.

    Raises:
        InvalidRequest: `given` is not a folder.
        FetchError: another fetch is running, or a file cannot be had.
        DamagedWeights: a file has another hash than stated, or is no checkpoint of tensors alone.
        OutputError: the disk is full or not writable.
    """
    if given is not None and not given.is_dir():
        raise InvalidRequest(f"folder of files at hand is {str(given)!r}; it does not exist")
    with _alone():
        _check_room(plan)
        for source in plan.missing:
            _fetch_source(source, given, on_progress)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the cache's lock; the system lets go of it whatever becomes of this process."""
    import fcntl

    path = assets.cache_folder() / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(f"another fetch is running (lock {path}); wait for its end") from None
        yield


def _check_room(plan: Plan) -> None:
    """Refuse a plan that the disk has no room for before hours are spent on it."""
    largest = max((source.megabytes for source in plan.missing), default=0.0)
    needed = plan.megabytes + (CONVERTED_COPIES - 1) * largest
    free = shutil.disk_usage(assets.cache_folder()).free / 1e6
    if needed > free:
        raise OutputError(
            f"{assets.cache_folder()}: {free:.0f} MB are free and about {needed:.0f} MB are needed;"
            " make room, or set TTMPREF_CACHE to another disk"
        )


def _fetch_source(source: Source, given: Path | None, on_progress: OnProgress) -> None:
    """Download, verify, convert, place and record one part of a preset."""
    staging = assets.cache_folder() / "downloads" / hashlib.sha256(source.uri.encode()).hexdigest()
    files = {}
    for file in source.files:
        files[file.file_name] = _obtained(file, staging, given, on_progress)
    hashes = {
        file.file_name: _verified(file, files[file.file_name], staging) for file in source.files
    }
    target = assets.expected_path(source.uri)
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        converted(source.convert, files, aside, source.is_file)
        os.replace(aside, target)
    except OutputError:  # says it already
        raise
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from None
    finally:
        _removed(aside)
    _record(source, hashes)
    _removed(staging)


def _obtained(file: RemoteFile, staging: Path, given: Path | None, on_progress: OnProgress) -> Path:
    """The file at hand, or downloaded into `staging`."""
    local = None if given is None else _at_hand(file, given)
    if local is not None:
        return local
    target = staging / file.file_name
    if not target.exists():
        download(
            file.url,
            target,
            lambda done, total: on_progress(FetchProgress(file.url, done, total)),
        )
    return target


def _at_hand(file: RemoteFile, given: Path) -> Path | None:
    """The file in a folder of the user's: by its whole path first, by its name alone second."""
    whole = file.url.partition("://")[2]
    places = (given / whole, given / file.file_name)
    return next((place for place in places if place.is_file()), None)


def _verified(file: RemoteFile, path: Path, staging: Path) -> str:
    """SHA-256 of a file that is what its publisher says; a wrong download is removed."""
    found = assets.sha256(path)
    kind, wanted = ("SHA-256", file.sha256) if file.sha256 else ("MD5", file.md5)
    actual = found if file.sha256 or not file.md5 else _md5(path)
    if wanted is not None and actual != wanted:
        fate = "it was left as it is"
        if path.parent == staging:
            path.unlink()
            fate = "the download was removed"
        raise DamagedWeights(f"{file.url}: {path} has {kind} {actual}, expected {wanted}; {fate}")
    return found


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _removed(path: Path) -> None:
    """Take away a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _record(source: Source, hashes: dict[str, str]) -> None:
    """Note origin and hashes of what was placed under a source's URI."""
    entry = {
        "licence": source.licence,
        "downloaded": {file.url: hashes[file.file_name] for file in source.files},
        "placed": assets.hashes(source.uri),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    text = json.dumps({**assets.fetched(), source.uri: entry}, indent=1, sort_keys=True) + "\n"
    write_files({assets.cache_folder() / assets.FETCHED: text.encode("utf-8")})
