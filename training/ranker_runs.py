"""From pair tables to heads and reports: one training, the input ablations, leave one source out.

What a training read decides the name of its checkpoint folder, so a run goes on only where the very
same run was stopped. Layouts take their widths from the features at hand: the paper's encoders and
the demo's make different ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.pair_features import FeatureStore, PairFeatures, encode_pairs, pair_features
from training.preferences import (
    FRACTIONS,
    PairTable,
    Split,
    clip_disjoint_split,
    random_split,
    read_preferences,
    read_splits,
    shared_clips,
    write_faults,
)
from training.ranker import margins_of, train_head
from training.ranker_report import (
    Variant,
    by_source,
    evaluate,
    gain_over,
    report_of,
    write_comparison,
    write_report,
)
from training.recipe import RankerRecipe
from ttmpref import assets
from ttmpref.audio import read_clip
from ttmpref.config import Preset
from ttmpref.reward.features import RewardFeatures
from ttmpref.reward.ranker import (
    CLAP_AUDIO,
    CLAP_TEXT,
    MERT,
    FeatureLayout,
    RankerHead,
    clap_audio,
    clap_mert,
    muq_mulan,
    read_ranker,
    write_ranker,
)
from ttmpref.types import Clip, InvalidRequest, Listening, check_choice

log = logging.getLogger(__name__)

LAYOUTS = {
    "clap_mert": clap_mert().names,
    "clap_audio": clap_audio().names,
    "muq_mulan": muq_mulan().names,
}
ABLATIONS = {
    "A1": (CLAP_AUDIO,),
    "A2": (MERT,),
    "A3": (CLAP_TEXT,),
    "A4": (CLAP_AUDIO, MERT),
    "A5": (CLAP_AUDIO, CLAP_TEXT),
    "A6": (MERT, CLAP_TEXT),
    "A7": (CLAP_AUDIO, MERT, CLAP_TEXT),
}
SPLIT_WAYS = ("clips", "pairs")


@dataclass(frozen=True)
class Inputs:
    """What is read.

    Attributes:
        tables: files of pairs (`training.preferences`).
        splits: split files; none: the pairs are split here.
        features: feature store, read, or made from the clips where a preset is given.
        preset: whose encoders hear the clips; None: the store must be there.
        clips: folders that are searched for the clips, in order; needed with a preset.
        split_by: "clips", so that no clip is in two parts, or "pairs".
        held_out: share of them in the test, and as large a one in the validation part.
    """

    tables: tuple[Path, ...]
    features: Path
    splits: tuple[Path, ...] = ()
    preset: Preset | None = None
    clips: tuple[Path, ...] = ()
    split_by: str = "clips"
    held_out: float = FRACTIONS[-1]

    def __post_init__(self) -> None:
        check_choice("split_by", self.split_by, SPLIT_WAYS)

    @property
    def fractions(self) -> tuple[float, float, float]:
        return 1 - 2 * self.held_out, self.held_out, self.held_out


@dataclass(frozen=True, eq=False)
class Material:
    """Pairs with features in the three parts of a split.

    Attributes:
        faults: a line for every pair, clip or id that could not be used.
        notes: counts for the report.
    """

    train: PairFeatures
    valid: PairFeatures
    test: PairFeatures
    faults: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[PairFeatures, PairFeatures, PairFeatures]:
        return self.train, self.valid, self.test

    @property
    def sources(self) -> list[str]:
        return sorted({pair.source for pair in self.train.pairs})

    def reading(self, names: Sequence[str]) -> Material:
        """The same pairs with fewer blocks, removed, not zeroed."""
        layout = self.train.layout
        kept = layout.without([name for name in layout.names if name not in names])
        parts = (part.reading(kept) for part in self.parts)
        return Material(*parts, self.faults, self.notes)

    def training_without(self, source: str) -> Material:
        """The same test, with nothing of one source in training or selection."""
        train, valid = (
            part.where(lambda pair: pair.source != source) for part in (self.train, self.valid)
        )
        return Material(train, valid, self.test, self.faults, self.notes)


def read_material(inputs: Inputs, blocks: Sequence[str], recipe: RankerRecipe) -> Material:
    """Pairs, split and features of what `inputs` names.

    Raises:
        InvalidRequest: something is no table, split or store, a block is missing, or no test
            pair is left that is not a tie.
        MissingWeights: no feature store and no preset to make one, or encoders are missing.
    """
    table = read_preferences(inputs.tables)
    if inputs.preset is None:
        store = FeatureStore.read(inputs.features)
    else:
        store = _encoded(table, inputs, blocks)
    split = _split(table, inputs, recipe.seed)
    layout = FeatureLayout(tuple((name, _width(store, name)) for name in blocks))
    found, faults = pair_features(table.pairs, store, layout, recipe.zero_text_for)
    table.faults += faults
    return _divided(found, split, table)


def _encoded(table: PairTable, inputs: Inputs, blocks: Sequence[str]) -> FeatureStore:
    features, protocol = preset_features(inputs.preset, blocks)

    def hear(name: str) -> Clip:
        places = [folder / name for folder in inputs.clips]
        return read_clip(next((path for path in places if path.exists()), places[0]))

    store, faults = encode_pairs(table.pairs, features, hear, inputs.features, protocol)
    table.faults += faults
    return store


def _split(table: PairTable, inputs: Inputs, seed: int) -> Split:
    """The split of the files, or a new one."""
    if inputs.splits:
        split = read_splits(inputs.splits)
        known = {pair.id for pair in table.pairs}
        listed = (*split.train, *split.valid, *split.test)
        table.faults += [f"split: pair {i!r} is in no table" for i in listed if i not in known]
        table.left_out["in no part of the split"] = len(known - set(listed))
        return split
    if inputs.split_by == "pairs":
        return random_split([pair.id for pair in table.pairs], seed, inputs.fractions)
    split, cost = clip_disjoint_split(table.pairs, seed, inputs.fractions)
    table.left_out["between the parts of the split"] = cost
    return split


def _width(store: FeatureStore, name: str) -> int:
    if name not in store.blocks:
        found = ", ".join(store.blocks)
        raise InvalidRequest(f"the features lack block {name!r}; they hold {found}")
    return store.blocks[name].shape[1]


def _divided(found: PairFeatures, split: Split, table: PairTable) -> Material:
    ids = {"train": set(split.train), "valid": set(split.valid), "test": set(split.test)}
    parts = {
        name: found.where(lambda pair, chosen=chosen: pair.id in chosen)
        for name, chosen in ids.items()
    }
    if not any(not pair.is_tie for pair in parts["test"].pairs):
        raise InvalidRequest(
            f"{len(parts['test'])} test pairs and none is a decision; nothing could be reported"
        )
    notes = {
        "pairs": {name: len(part) for name, part in parts.items()},
        "test pairs with a clip that is trained on": shared_clips(
            parts["train"].pairs, parts["test"].pairs
        ),
        "left out": dict(table.left_out),
        "faults": len(table.faults),
    }
    return Material(**parts, faults=tuple(table.faults), notes=notes)


def preset_features(preset: Preset, blocks: Sequence[str]) -> tuple[RewardFeatures, str]:
    """What makes the blocks with a preset's encoders, and what they are, in words."""
    from ttmpref.encoders.clap import ClapEncoder
    from ttmpref.encoders.music import music_encoder

    folders = {"clap": preset.metric_clap.folder}
    if MERT in blocks:
        if preset.music_encoder is None:
            raise InvalidRequest(f"preset {preset.name!r} has no music encoder for block {MERT!r}")
        folders["music"] = preset.music_encoder.folder
    for folder in folders.values():
        assets.verify(folder)
    clap = ClapEncoder(preset.metric_clap, assets.locate(folders["clap"]))
    music = None
    if "music" in folders:
        music = music_encoder(preset.music_encoder, assets.locate(folders["music"]))
    listening = preset.ranker.listening if preset.ranker else Listening()
    said = {name: assets.digest(folder) for name, folder in folders.items()}
    said |= {"window": listening.window, "band": listening.band, "seed": listening.seed}
    return RewardFeatures(blocks, clap, music, listening), json.dumps(said, sort_keys=True)


def train_heads(
    recipe: RankerRecipe, material: Material, folder: Path, max_minutes: float | None = None
) -> list[RankerHead]:
    """The heads of an ensemble: alike but for their seeds.

    Args:
        folder: checkpoints land in folders below it, named after all that decides a run.
        max_minutes: of every head.
    """
    train, valid, name = material.train, material.valid, _run_name(recipe, material)
    return [
        train_head(recipe, seed, train, valid, folder / f"{name}-{seed}", max_minutes)
        for seed in range(recipe.seed, recipe.seed + recipe.heads)
    ]


def _run_name(recipe: RankerRecipe, material: Material) -> str:
    """Short hash of the recipe, the pairs and their features."""
    alike = recipe.model_dump(mode="json", exclude={"seed", "heads"})
    state = hashlib.sha256(json.dumps(alike, sort_keys=True).encode())
    for part in (material.train, material.valid):
        for which in (0, 1):
            for index in torch.arange(len(part)).split(4096):
                state.update(part.side(which, index).numpy())
        state.update(part.targets.numpy())
    state.update(str(material.train.layout).encode())
    return state.hexdigest()[:16]


def margins_matrix(heads: Sequence[RankerHead], pairs: PairFeatures) -> np.ndarray:
    """(heads, n)."""
    return np.stack([margins_of(head, pairs).numpy() for head in heads])


def train_and_report(
    recipe: RankerRecipe,
    material: Material,
    out: Path,
    max_minutes: float | None = None,
    old: str | None = None,
) -> list[RankerHead]:
    """Heads as `ranker.safetensors`, `ranker-1.safetensors`, ..., the report, and the faults.

    Args:
        old: URI of a head that is held against the same test pairs.

    Raises:
        MissingWeights, DamagedWeights: `old` is no head of the same layout.
    """
    rival = None if old is None else read_ranker(old, material.test.layout)
    heads = train_heads(recipe, material, out / "runs", max_minutes)
    for number, head in enumerate(heads):
        name = "ranker" if number == 0 else f"ranker-{number}"
        write_ranker(head, out / f"{name}.safetensors")
    test = material.test
    sources = [pair.source for pair in test.pairs]
    margins = margins_matrix(heads, test)
    provenance = {"layout": str(test.layout)} | _provenance(recipe, material)
    targets = test.targets.numpy()
    report = report_of(margins, targets, sources, provenance)
    if rival is not None:
        before = margins_of(rival, test).numpy()
        prompts = [pair.prompt or pair.id for pair in test.pairs]
        gain = gain_over(before, margins[0], targets, prompts)
        report = dataclasses.replace(report, old=evaluate(before, targets), gain=gain)
    write_report(report, out)
    write_faults(material.faults, out / "faults.txt")
    return heads


def _provenance(recipe: RankerRecipe, material: Material) -> dict[str, Any]:
    return {
        **material.notes,
        "recipe": recipe.model_dump(mode="json"),
        "torch": torch.__version__,
    }


def ablations(material: Material) -> dict[str, Material]:
    """A1 to A7: some blocks of the released layout each (specification, section 2.5).

    Raises:
        InvalidRequest: the pairs were read for another layout.
    """
    names = material.train.layout.names
    if names != LAYOUTS["clap_mert"]:
        raise InvalidRequest(f"ablations take blocks from layout clap_mert, not from {names}")
    return {f"{name} {', '.join(kept)}": material.reading(kept) for name, kept in ABLATIONS.items()}


def sources_left_out(material: Material) -> dict[str, Material]:
    """Everything, and for each source everything but it; always the same test.

    Raises:
        InvalidRequest: there is but one source.
    """
    if len(material.sources) < 2:
        raise InvalidRequest(f"the pairs have one source, {material.sources}; two are needed")
    rest = {f"without {name}": material.training_without(name) for name in material.sources}
    return {"all sources": material} | rest


def compare(
    name: str,
    variants: Mapping[str, Material],
    recipe: RankerRecipe,
    out: Path,
    max_minutes: float | None = None,
) -> list[Variant]:
    """Train the heads of every variant; writes `<name>.json` and `<name>.md`."""
    rows = []
    for title, material in variants.items():
        log.info("%s: %s", name, title)
        heads = train_heads(recipe, material, out / "runs", max_minutes)
        targets = material.test.targets.numpy()
        sources = [pair.source for pair in material.test.pairs]
        found = tuple(
            by_source(margins, targets, sources) for margins in margins_matrix(heads, material.test)
        )
        rows.append(Variant(title, str(heads[0].layout), len(material.train), found))
    material = next(iter(variants.values()))
    write_comparison(name, rows, _provenance(recipe, material), out)
    write_faults(material.faults, out / "faults.txt")
    return rows
