"""Where the app keeps finished clips: one private folder, emptied as clips age and on exit.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ttmpref.types import Generation

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
        folder = self.path / "clips" / token
        name = file_name(generation)
        files = {kind: studio.save(generation, folder / f"{name}.{kind}") for kind in FORMATS}
        return StoredClip(token, files | {"json": files["wav"].with_suffix(".json")})

    def forget_old(self) -> None:
        """Remove clips beyond the newest `MAX_CLIPS` and those older than `MAX_AGE_SECONDS`."""
        found = [(path.stat().st_mtime, path) for path in self.path.glob("clips/*")]
        newest_first = sorted(found, reverse=True)
        oldest_kept = time.time() - MAX_AGE_SECONDS
        for rank, (written, path) in enumerate(newest_first, start=1):
            if rank >= MAX_CLIPS or written < oldest_kept:
                shutil.rmtree(path, ignore_errors=True)


def file_name(generation: Generation) -> str:
    """A readable name without suffix: the first words of the prompt and the seed."""
    words = re.findall(r"[a-z0-9]+", generation.request.prompt.lower())
    start = "-".join(words)[:40].rstrip("-") or "clip"
    return f"{start}_seed-{generation.request.seed}"
