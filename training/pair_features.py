"""Features of the clips and prompts of preference pairs, encoded once and held in memory.

The reference keeps one file per pair and reads them all again in every epoch; here every clip and
every prompt is one row of a few matrices (all of TuneJury's training pairs: 250 MB), in one
safetensors file, and a pair is three row numbers.

Shapes: C clips, P prompts, n pairs, D width of a layout.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ttmpref import assets
from ttmpref.audio import write_files
from ttmpref.reward.features import RewardFeatures
from ttmpref.reward.files import one_ahead
from ttmpref.reward.ranker import CLAP_TEXT, MUQ_TEXT, FeatureLayout
from ttmpref.reward.scorer import in_groups
from ttmpref.types import Clip, DamagedWeights, InvalidRequest, Preference, UnreadableAudio

log = logging.getLogger(__name__)
Hear = Callable[[str], Clip]
NamedRows = dict[str, dict[str, Tensor]]  # name of a clip or prompt -> block -> (width,)

TEXT_BLOCKS = frozenset((CLAP_TEXT, MUQ_TEXT))  # a row per prompt; the others have one per clip
CLIPS_PER_WRITE = 256


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """Feature blocks of clips and prompts.

    Attributes:
        clips: C names as pairs have them; rows of the audio blocks.
        prompts: P texts; rows of the text blocks. The empty one is among them.
        blocks: (C, width) or (P, width) by name.
        protocol: how the features were made; features made otherwise do not belong here.
    """

    clips: tuple[str, ...]
    prompts: tuple[str, ...]
    blocks: Mapping[str, Tensor]
    protocol: str = ""

    def __post_init__(self) -> None:
        for names in (self.clips, self.prompts):
            if len(set(names)) < len(names):
                raise ValueError(f"{len(names) - len(set(names))} names occur twice")
        for name, block in self.blocks.items():
            rows = len(self.prompts if name in TEXT_BLOCKS else self.clips)
            if block.dim() != 2 or len(block) != rows:
                raise ValueError(
                    f"block {name!r} is {tuple(block.shape)}, expected ({rows}, width)"
                )
            if not block.isfinite().all():
                raise ValueError(f"block {name!r} holds values that are not finite")

    def write(self, path: Path) -> None:
        """One safetensors file, whole or not at all."""
        names = {"clips": json.dumps(self.clips), "prompts": json.dumps(self.prompts)}
        packed = assets.pack_tensors(self.blocks, names | {"protocol": self.protocol})
        write_files({path: packed})

    @classmethod
    def read(cls, path: Path) -> FeatureStore:
        """
        Raises:
            MissingWeights: no such file.
            DamagedWeights: it is not a feature store.
        """
        blocks, said = assets.load_tensors(str(path)), assets.metadata(str(path))
        try:
            clips, prompts = (tuple(json.loads(said[key])) for key in ("clips", "prompts"))
            return cls(clips, prompts, blocks, said["protocol"])
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DamagedWeights(f"{path} is not a feature store ({reason})") from None

    @classmethod
    def of_rows(cls, clips: NamedRows, prompts: NamedRows, protocol: str) -> FeatureStore:
        """A store of single rows, by name and then by block; at least one of each."""
        blocks = {
            name: torch.stack([row[name] for row in rows.values()])
            for rows in (clips, prompts)
            for name in next(iter(rows.values()))
        }
        return cls(tuple(clips), tuple(prompts), blocks, protocol)

    def rows(self) -> tuple[NamedRows, NamedRows]:
        """The inverse of `of_rows`."""
        clips: NamedRows = {name: {} for name in self.clips}
        prompts: NamedRows = {name: {} for name in self.prompts}
        for name, block in self.blocks.items():
            rows = prompts if name in TEXT_BLOCKS else clips
            for row, values in zip(rows.values(), block, strict=True):
                row[name] = values
        return clips, prompts


def encode_pairs(
    pairs: Sequence[Preference], features: RewardFeatures, hear: Hear, path: Path, protocol: str
) -> tuple[FeatureStore, list[str]]:
    """The store of all clips and prompts of the pairs, and a line per clip that cannot be read.

    What the file holds already is not encoded again; it is written every few hundred clips, so an
    interrupted run loses little.

    Args:
        hear: name of a clip to the clip; what it cannot read is a fault.
        path: file of the store.
        protocol: hashes of the encoders and what else decides the features.

    Raises:
        InvalidRequest: the file was made under another protocol, or no clip can be read.
    """
    clips, prompts = _known(path, protocol)
    told = ["", *(pair.prompt for pair in pairs)]
    new = [prompt for prompt in dict.fromkeys(told) if prompt not in prompts]
    prompts |= _by_name(new, features.of_prompts(new)) if new else {}
    heard = dict.fromkeys(clip for pair in pairs for clip in (pair.clip_a, pair.clip_b))
    missing = [clip for clip in heard if clip not in clips]
    faults: list[str] = []
    for start in range(0, len(missing), CLIPS_PER_WRITE):
        clips |= _encoded(missing[start : start + CLIPS_PER_WRITE], features, hear, faults)
        log.info("features of %d of %d clips", len(clips), len(heard))
        if clips:
            FeatureStore.of_rows(clips, prompts, protocol).write(path)
    if not clips:
        raise InvalidRequest(f"none of {len(missing)} clips can be read; the first: {faults[0]}")
    store = FeatureStore.of_rows(clips, prompts, protocol)
    if new and not missing:
        store.write(path)
    return store, faults


def _known(path: Path, protocol: str) -> tuple[NamedRows, NamedRows]:
    """Rows of the file, none where it is not there yet."""
    if not path.exists():
        return {}, {}
    store = FeatureStore.read(path)
    if store.protocol != protocol:
        raise InvalidRequest(f"{path} was made by {store.protocol}; name another file")
    return store.rows()


def _encoded(
    names: Sequence[str], features: RewardFeatures, hear: Hear, faults: list[str]
) -> NamedRows:
    """Rows of the clips that can be read; the others become faults."""
    rows: NamedRows = {}
    groups = in_groups(_heard(names, hear, faults), lambda item: item[1].seconds)
    for group in one_ahead(groups):  # clips are read, or made, while the encoders run
        waveforms = [torch.from_numpy(clip.mono) for _, clip in group]
        rates = [clip.sample_rate for _, clip in group]
        with torch.no_grad():
            blocks = features.of_sound(waveforms, rates)
        rows |= _by_name([name for name, _ in group], blocks)
    return rows


def _heard(names: Sequence[str], hear: Hear, faults: list[str]) -> Iterator[tuple[str, Clip]]:
    for name in names:
        try:
            yield name, hear(name)
        except UnreadableAudio as error:
            faults.append(str(error))


def _by_name(names: Sequence[str], blocks: Mapping[str, Tensor]) -> NamedRows:
    return {
        name: {block: values[i].cpu() for block, values in blocks.items()}
        for i, name in enumerate(names)
    }


@dataclass(frozen=True, eq=False)
class PairFeatures:
    """Pairs whose features lie in memory.

    Attributes:
        pairs: n of them.
        layout: what `side` gives.
        blocks: matrices shared by all selections of a store.
        clip_rows: (n, 2) rows of clips A and B.
        prompt_rows: (n,) rows of prompts.
        targets: (n,) float32.
    """

    pairs: tuple[Preference, ...]
    layout: FeatureLayout
    blocks: Mapping[str, Tensor]
    clip_rows: Tensor
    prompt_rows: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.pairs)

    def side(self, which: int, index: Tensor) -> Tensor:
        """(B, D) features of clips A (0) or B (1) of the pairs `index` (B,)."""
        rows = {True: self.prompt_rows[index], False: self.clip_rows[index, which]}
        return self.layout.join(
            {name: self.blocks[name][rows[name in TEXT_BLOCKS]] for name in self.layout.names}
        )

    def where(self, wanted: Callable[[Preference], bool]) -> PairFeatures:
        """The pairs that are wanted, over the same matrices."""
        chosen = [i for i, pair in enumerate(self.pairs) if wanted(pair)]
        return dataclasses.replace(
            self,
            pairs=tuple(self.pairs[i] for i in chosen),
            clip_rows=self.clip_rows[chosen],
            prompt_rows=self.prompt_rows[chosen],
            targets=self.targets[chosen],
        )

    def merged(self) -> PairFeatures:
        """Each pair of clips under a prompt once, with the mean of all votes on it as its target:
        the same mean gradient in fewer passes, and less noise in each."""
        keys = torch.cat([self.clip_rows, self.prompt_rows[:, None]], dim=1)
        _, group = keys.unique(dim=0, return_inverse=True)
        first = torch.from_numpy(np.unique(group.numpy(), return_index=True)[1])
        sums = torch.zeros(len(first)).index_add(0, group, self.targets)
        return dataclasses.replace(
            self,
            pairs=tuple(self.pairs[i] for i in first.tolist()),
            clip_rows=self.clip_rows[first],
            prompt_rows=self.prompt_rows[first],
            targets=sums / group.bincount(),
        )

    def reading(self, layout: FeatureLayout) -> PairFeatures:
        """The same pairs under another layout of the same store."""
        return dataclasses.replace(self, layout=layout)


def pair_features(
    pairs: Iterable[Preference],
    store: FeatureStore,
    layout: FeatureLayout,
    zero_text_for: Collection[str] = (),
) -> tuple[PairFeatures, list[str]]:
    """The pairs whose features the store holds, and a line for each of the others.

    Args:
        zero_text_for: sources whose prompts are treated as empty.

    Raises:
        InvalidRequest: the store lacks a block of the layout, or holds it in another width.
    """
    for name, width in layout.blocks:
        held = store.blocks[name].shape[1] if name in store.blocks else "absent"
        if held != width:
            raise InvalidRequest(f"feature block {name!r} is {held}; {layout} needs {width}")
    clip_row = {name: row for row, name in enumerate(store.clips)}
    prompt_row = {name: row for row, name in enumerate(store.prompts)}
    kept: list[Preference] = []
    rows: list[tuple[int, int, int]] = []
    faults: list[str] = []
    for pair in pairs:
        prompt = "" if pair.source in zero_text_for else pair.prompt
        lacking = [clip for clip in (pair.clip_a, pair.clip_b) if clip not in clip_row]
        if lacking or prompt not in prompt_row:
            what = f"clip {lacking[0]!r}" if lacking else f"prompt {prompt!r}"
            faults.append(f"pair {pair.id!r}: {what} has no features")
            continue
        kept.append(pair)
        rows.append((clip_row[pair.clip_a], clip_row[pair.clip_b], prompt_row[prompt]))
    table = torch.tensor(rows, dtype=torch.long).reshape(-1, 3)
    targets = torch.tensor([pair.target for pair in kept], dtype=torch.float32)
    return PairFeatures(
        tuple(kept), layout, store.blocks, table[:, :2], table[:, 2], targets
    ), faults
