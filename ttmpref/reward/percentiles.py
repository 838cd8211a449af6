"""Where a reward stands among known collections, bound to the head whose rewards they are.

A reward has no absolute meaning, and rewards of two heads do not compare. A collections file says
which head it belongs to, by the SHA-256 of the head's weight file, and is refused for any other.
The released figures (a bare mapping of names to 101 quantiles, computed from TuneJury's
`release_scores`, CC BY-NC 4.0, seven public collections) belong to the released head alone, which
is known by the MD5 of its original file, kept in the metadata when it was converted.

Their collections differ in length and provenance, not in quality alone: those of 10 to 30 s sit
low, long excerpts and full tracks high (specification, section 6).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttmpref.audio import write_files
from ttmpref.types import DamagedWeights

FORMAT = 1
POINTS = 101  # quantiles 0 %, 1 %, ... 100 %
RELEASED_HEAD_MD5 = "0524e60900e5ee3c4046e599f613b466"  # of tunejury.pt
RELEASED_SOURCE = "TuneJury release scores (arXiv 2606.17006), CC BY-NC 4.0"
SOURCE_MD5_KEY = "source_md5"  # of a converted head's metadata


@dataclass(frozen=True, eq=False)
class Collections:
    """Distribution of one head's rewards over known collections.

    Attributes:
        head: SHA-256 of the head's file, or the MD5 of the file it was converted from.
        source: who measured them, to be shown beside any percentile.
        grids: (101,) non-decreasing quantiles of each collection, by its name.
    """

    head: str
    source: str
    grids: dict[str, np.ndarray]

    def percentiles(self, reward: float) -> dict[str, float]:
        """Share of each collection with a lower reward, 0 to 100 %, between quantiles linear."""
        scale = np.linspace(0.0, 100.0, POINTS)
        return {name: float(np.interp(reward, grid, scale)) for name, grid in self.grids.items()}


def read_collections(path: Path, head: Collection[str]) -> Collections:
    """The collections of a file, made sure to be this head's.

    Args:
        head: what the head is known by: SHA-256 of its file, MD5 of its original.

    Raises:
        DamagedWeights: not a collections file, or one of another head.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = _parsed(data)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedWeights(f"{path}: not a collections file ({error})") from None
    if found.head not in head:
        raise DamagedWeights(
            f"{path}: the percentiles are of head {found.head[:12]}, not of {sorted(head)[0][:12]}"
        )
    return found


def _parsed(data: Mapping[str, Any]) -> Collections:
    """Either form of the file: ours, which says its head, or the released bare mapping."""
    if "format" not in data:
        return Collections(RELEASED_HEAD_MD5, RELEASED_SOURCE, _grids(data))
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']!r}; {FORMAT} is accepted")
    return Collections(str(data["head"]), str(data["source"]), _grids(data["collections"]))


def _grids(quantiles: Mapping[str, Any]) -> dict[str, np.ndarray]:
    grids = {str(name): np.asarray(grid, np.float64) for name, grid in quantiles.items()}
    for name, grid in grids.items():
        if grid.shape != (POINTS,) or not np.isfinite(grid).all() or (np.diff(grid) < 0).any():
            raise ValueError(f"collection {name!r} is not {POINTS} rising finite numbers")
    if not grids:
        raise ValueError("no collections")
    return grids


def write_collections(
    path: Path, head: str, source: str, rewards: Mapping[str, np.ndarray]
) -> Collections:
    """Write the collections file of a head.

    Args:
        head: SHA-256 of the head's file.
        rewards: rewards of every clip of each collection, by its name.

    Raises:
        OutputError: the file cannot be written.
    """
    scale = np.linspace(0.0, 100.0, POINTS)
    grids = {name: np.percentile(values, scale) for name, values in rewards.items()}
    rounded = {name: [round(float(q), 5) for q in grid] for name, grid in grids.items()}
    data = {"format": FORMAT, "head": head, "source": source, "collections": rounded}
    write_files({path: (json.dumps(data) + "\n").encode("utf-8")})
    return _parsed(data)
