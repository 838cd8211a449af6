"""Prepared data as training reads them: batches of any clips, over memory maps.

    data = PreparedData(Path("runs/prepared"))
    batch = data.batch(data.draw(64, generator))
    job = FlowMatchingJob("sft", recipe, backbone, (data.windows(), held_out.windows()))

or, with several processes (workers open the maps themselves; nothing is copied to them):

    sampler = BatchSampler(RandomSampler(data), 64, drop_last=True)
    loader = DataLoader(data, sampler=sampler, batch_size=None, num_workers=4)

Shapes: B clips of a batch, n clips of the split; see the legend in `ttmpref.types`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.flow_matching import Batch
from training.prepare.catalogue import SPLITS, Catalogue
from training.prepare.store import (
    CATALOGUE,
    INSTRUMENTAL,
    REWARDS,
    Index,
    Tensors,
    opened,
    verify,
)
from ttmpref.types import DamagedWeights, InvalidRequest, check_choice


class PreparedBatch(NamedTuple):
    """Features of B clips, float32.

    Attributes:
        mean, std: (B, N, C) of the latent posterior.
        text: (B, T, D) of the captions.
        pooled: (B, E) of the captions.
        rewards: (B, 3), the columns of `training.prepare.store.REWARDS`; NaN without a ranker.
    """

    mean: Tensor
    std: Tensor
    text: Tensor
    pooled: Tensor
    rewards: Tensor


class PreparedData:
    """The clips of one split, by row 0 to n - 1.

    Attributes:
        folder: that `python -m training prepare` made.
        split: "train", "validation" or "test".
        protocol: everything that decided the numbers.
    """

    def __init__(self, folder: Path, split: str = "train") -> None:
        """
        Raises:
            InvalidRequest: no data set, no clip in this split, or an unknown one.
            DamagedWeights: a file is absent or not what was written.
        """
        check_choice("split", split, SPLITS)
        self.folder, self.split = Path(folder), split
        self._index = Index.read(self.folder)
        self.protocol = self._index.protocol
        self.catalogue = Catalogue.read(self.folder / CATALOGUE)
        files = (self._index.shards, self._index.text)
        self._shards, self._text = ([self._open(t[n]) for n in sorted(t)] for t in files)
        rows = sum(len(tensors["text"]) for tensors in self._text)
        if rows < len(self.catalogue.captions):
            raise InvalidRequest(f"{folder}: captions are not encoded yet; prepare again")
        if not len(self):
            raise InvalidRequest(f"{folder} holds no clip of split {split!r}")

    def _open(self, shard) -> Tensors:
        path = self.folder / shard.file
        if not path.exists() or path.stat().st_size != shard.bytes:
            raise DamagedWeights(f"{path} is not what was written; remove it and prepare again")
        return opened(path)

    def __reduce__(self) -> tuple[type[PreparedData], tuple[Path, str]]:
        """Other processes open the files themselves: a memory map would travel as its content."""
        return PreparedData, (self.folder, self.split)

    def verify(self) -> None:
        """Compare every file with its checksum; raises `DamagedWeights` for one that differs."""
        verify(self.folder, self._index)

    @cached_property
    def _places(self) -> Tensor:
        """(n, 2): shard, and row in it, of each clip of the split."""
        wanted = torch.tensor([track.split == self.split for track in self.catalogue.tracks])
        places = [torch.empty(0, 2, dtype=torch.long)]
        for number, tensors in enumerate(self._shards):
            rows = wanted[tensors["track"].long()].nonzero()[:, 0]
            places.append(torch.stack([torch.full_like(rows, number), rows], dim=1))
        return torch.cat(places)

    def _column(self, name: str) -> Tensor:
        """(n, ...) of a small tensor, in memory."""
        joined = [tensors[name] for tensors in self._shards]
        firsts = torch.tensor([0, *(len(tensor) for tensor in joined)]).cumsum(0)
        return torch.cat(joined)[firsts[self._places[:, 0]] + self._places[:, 1]]

    def __len__(self) -> int:
        """n."""
        return len(self._places)

    @cached_property
    def tracks(self) -> Tensor:
        """(n,) row in the catalogue of each clip's track."""
        return self._column("track").long()

    @cached_property
    def starts(self) -> Tensor:
        """(n,) seconds into the track at which each clip begins."""
        return self._column("start")

    @cached_property
    def rewards(self) -> Tensor:
        """(n, 3) reward columns; NaN without a ranker."""
        if "rewards" not in self._shards[0]:
            return torch.full((len(self), len(REWARDS)), torch.nan)
        return self._column("rewards")

    def reward(self, name: str) -> Tensor:
        """(n,) one of the columns in `REWARDS`."""
        check_choice("reward column", name, REWARDS)
        return self.rewards[:, REWARDS.index(name)]

    def features(self, block: str) -> Tensor:
        """(n, width) what a ranker's encoder heard in every clip ("clap_audio", "mert"), float32.

        Raises:
            InvalidRequest: the preset's ranker does not read this block.
        """
        kept = set(self._shards[0]) - {"latents", "track", "start", "rewards"}
        check_choice("feature block", block, tuple(sorted(kept)))
        return self._column(block).float()

    def caption(self, row: int) -> str:
        """The text of a clip."""
        return self.catalogue.tracks[int(self.tracks[row])].caption

    @property
    def empty_text(self) -> tuple[Tensor, Tensor]:
        """(T, D) and (E,) features of the empty text."""
        return self._captions([0], "text")[0], self._captions([0], "pooled")[0]

    def _captions(self, rows: Sequence[int], name: str) -> Tensor:
        """(B, ...) features of captions by row."""
        size = len(self._text[0]["text"])  # all text files but the last are of one size
        return torch.stack([self._text[row // size][name][row % size] for row in rows]).float()

    def some_latents(self, count: int) -> np.ndarray:
        """(at most count, 2, N, C) fp16 posteriors of evenly spread clips."""
        rows = torch.linspace(0, len(self) - 1, min(count, len(self))).long()
        places = self._places[rows].tolist()
        return torch.stack([self._shards[s]["latents"][r] for s, r in places]).numpy()

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """(size,) random rows, with replacement."""
        return torch.randint(len(self), (size,), generator=generator)

    def batch(self, rows: Sequence[int] | Tensor) -> PreparedBatch:
        """The clips of these rows, in their order; rows may repeat."""
        rows = torch.as_tensor(rows)
        places = self._places[rows].tolist()
        latents = torch.stack([self._shards[s]["latents"][r] for s, r in places]).float()
        mean, std = latents.unbind(1)
        captions = [self.catalogue.caption_rows[track] for track in self.tracks[rows].tolist()]
        text, pooled = (self._captions(captions, name) for name in ("text", "pooled"))
        return PreparedBatch(mean, std, text, pooled, self.rewards[rows])

    __getitem__ = batch

    def windows(self, column: str | None = REWARDS[INSTRUMENTAL]) -> ScoredClips:
        """The clips as flow matching takes them, scored by one of the reward columns.

        Args:
            column: the paper's choice, or another of `REWARDS`, or None for no score.

        Raises:
            InvalidRequest: an unknown column, or the data set has no rewards.
        """
        if column is not None and self.reward(column).isnan().any():
            raise InvalidRequest(f"{self.folder} was prepared without a ranker: it has no {column}")
        return ScoredClips(self, column)


@dataclass(frozen=True, eq=False)
class ScoredClips:
    """See `training.flow_matching.Windows`; any clip of the split is as likely as another."""

    data: PreparedData
    column: str | None

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        rows = self.data.draw(size, generator)
        found = self.data.batch(rows)
        score = None if self.column is None else self.data.reward(self.column)[rows]
        return Batch(found.mean, found.std, found.text, found.pooled, score)
