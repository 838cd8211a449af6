"""Where the app keeps finished clips and, until they are scored, uploads: one private folder,
emptied as clips age and on exit.

Each clip has a folder of its own under an unguessable name, because the address of a file is all
that a browser needs to fetch it. Old clips go when a new one is written, so a page left running
for weeks holds a bounded number of files.
"""

from __future__ import annotations

import atexit
import re
import secrets
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from gradio import route_utils

from ttmpref.types import Generation

CLIPS = "clips"  # folder of the clips
FORMATS = ("wav", "flac", "mp3")
MAX_CLIPS = 200
MAX_AGE_SECONDS = 6 * 3600.0


class Saver(Protocol):
    """The part of the Studio that is needed here."""

    def save(self, generation: Generation, path: Path) -> Path: ...


@dataclass(frozen=True)
class StoredClip:
    """A clip on disk.

    Attributes:
        token: unguessable name of the clip's folder.
        files: path by format, "wav", "flac", "mp3" and "json".
    """

    token: str
    files: dict[str, Path]


class ClipFolder:
    """A folder only this user can read, removed when the process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ttmpref-app-")).resolve()
        atexit.register(shutil.rmtree, self.path, ignore_errors=True)

    def keep(self, studio: Saver, generation: Generation) -> StoredClip:
        """Write the clip in every format with its settings, and let old clips go."""
        self.forget_old()
        token = secrets.token_urlsafe(12)
        folder = self.path / CLIPS / token
        name = file_name(generation)
        files = {kind: studio.save(generation, folder / f"{name}.{kind}") for kind in FORMATS}
        return StoredClip(token, files | {"json": files["wav"].with_suffix(".json")})

    def bundle(self, name: str, files: Mapping[str, Path | bytes]) -> Path:
        """One ZIP archive of clips and what belongs to them, kept as long as a clip.

        Args:
            name: of the archive, with its suffix.
            files: names inside the archive, and files on disk or contents.
        """
        self.forget_old()
        folder = self.path / CLIPS / secrets.token_urlsafe(12)
        folder.mkdir(parents=True)
        unfinished = folder / f"{name}.part"
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:  # noise does not pack
            for inside, content in files.items():
                data = content if isinstance(content, bytes) else content.read_bytes()
                archive.writestr(inside, data)
        return unfinished.rename(folder / name)

    def forget(self, uploads: Iterable[Path]) -> None:
        """Remove uploads, each with the folder that Gradio made for it."""
        for path in uploads:
            if path.parent.parent == self.path:
                shutil.rmtree(path.parent, ignore_errors=True)

    def forget_old(self) -> None:
        """Remove clips beyond the newest `MAX_CLIPS` and what is older than `MAX_AGE_SECONDS`."""
        oldest_kept = time.time() - MAX_AGE_SECONDS
        for path in self.path.iterdir():
            if path.name != CLIPS and path.stat().st_mtime < oldest_kept:
                # An upload that nobody scored, or what Gradio leaves of one: an empty file.
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        found = [(path.stat().st_mtime, path) for path in self.path.glob(f"{CLIPS}/*")]
        newest_first = sorted(found, reverse=True)
        for rank, (written, path) in enumerate(newest_first, start=1):
            if rank >= MAX_CLIPS or written < oldest_kept:
                shutil.rmtree(path, ignore_errors=True)


class LoneUpload(route_utils.GradioUploadFile):
    """An upload in a folder of its own, under a name that a file can have.

    Gradio names the folder by a hash of the content, so that two visitors with the same file would
    share it, and whoever is done first would take it away from the other. What is called `..` it
    refuses, and leaves the content behind.
    """

    def __init__(self, file: BinaryIO, *, filename: str | None = None, **options: Any) -> None:
        usable = re.search(r"\w", Path(filename or "").name)
        super().__init__(file, filename=filename if usable else None, **options)
        self.sha.update(secrets.token_bytes(16))


def keep_uploads_apart() -> None:
    """Have Gradio receive uploads as `LoneUpload`; it offers no other way to name their folders."""
    route_utils.GradioUploadFile = LoneUpload


def file_name(generation: Generation) -> str:
    """A readable name without suffix: the first words of the prompt and the seed."""
    words = re.findall(r"[a-z0-9]+", generation.request.prompt.lower())
    start = "-".join(words)[:40].rstrip("-") or "clip"
    return f"{start}_seed-{generation.request.seed}"
