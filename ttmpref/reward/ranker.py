"""The score head of TuneJury and the layout of what goes into it (specification, section 1).

A head is a small MLP over joined feature blocks. Which blocks, how wide and in which order is data,
a `FeatureLayout`, kept in the weight file's metadata: blocks joined in another order still run and
silently cost eleven points of accuracy (specification 1.3).

Shapes: B clips, D width of all blocks joined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttmpref import assets
from ttmpref.audio import write_files
from ttmpref.autoencoder import load_state
from ttmpref.types import DamagedWeights

CLAP_AUDIO, MERT, CLAP_TEXT = "clap_audio", "mert", "clap_text"
MUQ_AUDIO, MUQ_TEXT = "muq_audio", "muq_text"
LAYOUT_KEY = "feature_layout"  # of a safetensors file's metadata
HIDDEN = (1024, 512, 256, 128)
DROPOUT = 0.5
PREFIXES = ("net.", "score.")  # of released files
MODULES_PER_LAYER = 4  # linear, normalisation, ReLU, dropout


@dataclass(frozen=True)
class FeatureLayout:
    """Which feature blocks a head reads, in which order.

    Attributes:
        blocks: (name, width) of each block; names differ, widths are positive.
    """

    blocks: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if not self.blocks or len(set(self.names)) != len(self.blocks):
            raise ValueError(f"a layout needs blocks of different names, got {self.names}")
        if any(width <= 0 for _, width in self.blocks):
            raise ValueError(f"block widths must be positive, got {self}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.blocks)

    @property
    def dim(self) -> int:
        """D."""
        return sum(width for _, width in self.blocks)

    def __str__(self) -> str:
        return "[" + " | ".join(f"{name} {width}" for name, width in self.blocks) + "]"

    def without(self, names: Collection[str]) -> FeatureLayout:
        """The layout with these blocks removed, not zeroed: D shrinks.

        Raises:
            ValueError: a name is not a block of this layout, or nothing would be left.
        """
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise ValueError(f"block {unknown[0]!r} is unknown; accepted: {', '.join(self.names)}")
        return FeatureLayout(tuple(block for block in self.blocks if block[0] not in names))

    def join(self, features: Mapping[str, Tensor]) -> Tensor:
        """(B, D) from (B, width) of every block; blocks of other layouts may be among them.

        Raises:
            ValueError: a block is missing or of another shape.
        """
        missing = [name for name in self.names if name not in features]
        if missing:
            raise ValueError(f"features lack block {missing[0]!r} of {self}")
        count = len(features[self.names[0]])
        for name, width in self.blocks:
            if tuple(features[name].shape) != (count, width):
                shape = tuple(features[name].shape)
                raise ValueError(f"block {name!r} is {shape}, expected {(count, width)}")
        return torch.cat([features[name] for name in self.names], dim=-1)

    def to_json(self) -> str:
        """`[["clap_audio", 512], ...]`."""
        return json.dumps(self.blocks)

    @classmethod
    def from_json(cls, text: str) -> FeatureLayout:
        """The inverse of `to_json`; raises ValueError for anything else."""
        try:
            blocks = tuple((str(name), int(width)) for name, width in json.loads(text))
            return cls(blocks)
        except (ValueError, TypeError) as error:
            raise ValueError(f"feature layout {text[:80]!r} is not one ({error})") from None


def clap_mert(clap_dim: int = 512, mert_dim: int = 1024) -> FeatureLayout:
    """The layout of the released head; prose often lists it in another order."""
    return FeatureLayout(((CLAP_AUDIO, clap_dim), (MERT, mert_dim), (CLAP_TEXT, clap_dim)))


def clap_audio(clap_dim: int = 512) -> FeatureLayout:
    """A1: the sound alone, through CLAP alone."""
    return FeatureLayout(((CLAP_AUDIO, clap_dim),))


def muq_mulan(dim: int = 512) -> FeatureLayout:
    """MuQ-MuLan, both sides L2-normalised."""
    return FeatureLayout(((MUQ_AUDIO, dim), (MUQ_TEXT, dim)))


class RankerHead(nn.Module):
    """s(x): per hidden width Linear, BatchNorm, ReLU, Dropout; then Linear to one number.

    Attributes:
        layout: what the columns of its input are.
        hidden: widths of the hidden layers; none makes a linear head.
    """

    def __init__(
        self, layout: FeatureLayout, hidden: Sequence[int] = HIDDEN, dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.layout = layout
        self.hidden = tuple(hidden)
        widths = (layout.dim, *self.hidden)
        layers: list[nn.Module] = []
        for inside, outside in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(inside, outside), nn.BatchNorm1d(outside), nn.ReLU()]
            layers.append(nn.Dropout(dropout))
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        self._initialise()

    def _initialise(self) -> None:
        """Kaiming fan-out with ReLU gain on every layer: the last one's deviation is sqrt(2)."""
        for module in self.net:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) joined features to (B,) rewards."""
        if features.dim() != 2 or features.shape[1] != self.layout.dim:
            expected = f"(batch, {self.layout.dim}) for {self.layout}"
            raise ValueError(f"features are {tuple(features.shape)}, expected {expected}")
        return self.net(features)[:, 0]


def load_ranker(
    tensors: Mapping[str, Any], layout: FeatureLayout | None = None, source: str = "ranker"
) -> RankerHead:
    """A head in evaluation mode from its tensors; widths come from the shapes of the weights.

    Args:
        tensors: a state dict with keys `net.N...` or `score.N...`, or `{"state_dict": one}`.
        layout: what the columns of the input are. Without it they form one block "features".
        source: named in errors.

    Raises:
        DamagedWeights: tensors are missing, unknown or of another shape, or `layout` is not as
            wide as the head.
    """
    plain = _without_prefix(_unwrapped(tensors, source), source)
    widths = _widths(plain, source)
    layout = layout or FeatureLayout((("features", widths[0]),))
    if layout.dim != widths[0]:
        raise DamagedWeights(
            f"{source}: the head reads {widths[0]} features, the layout {layout} has {layout.dim}"
        )
    head = RankerHead(layout, widths[1:])
    load_state(head.net, plain, source)
    return head.eval()


def _unwrapped(tensors: Mapping[str, Any], source: str) -> Mapping[str, Tensor]:
    """The state dict itself; what lies beside a wrapped one would be lost, so it is refused."""
    if "state_dict" not in tensors:
        return tensors
    beside = sorted(set(tensors) - {"state_dict"})
    if beside:
        raise DamagedWeights(f"{source}: {beside[0]!r} beside 'state_dict' is unknown")
    return tensors["state_dict"]


def _without_prefix(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors by the names they have inside `RankerHead.net`."""
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in tensors):
            # A name that lacks the prefix keeps its own and is refused as unknown below.
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    accepted = " or ".join(PREFIXES)
    found = next(iter(tensors), "nothing")
    raise DamagedWeights(f"{source}: tensor names start with {accepted}, found {found!r}")


def _widths(tensors: Mapping[str, Tensor], source: str) -> list[int]:
    """D and the hidden widths: input widths of the linear layers, in order."""
    pattern = re.compile(r"(\d+)\.weight")
    found = {
        int(match[1]): tensor
        for name, tensor in tensors.items()
        if (match := pattern.fullmatch(name)) and tensor.dim() == 2
    }
    if not found or sorted(found) != list(range(0, max(found) + 1, MODULES_PER_LAYER)):
        raise DamagedWeights(f"{source}: linear layers at {sorted(found)}, expected 0, 4, 8, ...")
    return [found[index].shape[1] for index in sorted(found)]


def read_ranker(uri: str, layout: FeatureLayout | None = None) -> RankerHead:
    """A head from a safetensors file.

    Args:
        uri: see `ttmpref.assets`.
        layout: what the file must be for; default: what it says itself.

    Raises:
        MissingWeights: the file is absent.
        DamagedWeights: it is damaged, does not fit, says no layout where none is given, or says
            another one.
    """
    tensors, said = assets.load_tensors(uri), assets.metadata(uri).get(LAYOUT_KEY)
    if said is None and layout is None:
        raise DamagedWeights(f"{uri}: the file does not say its feature layout; name it")
    try:
        stored = layout if said is None else FeatureLayout.from_json(said)
    except ValueError as error:
        raise DamagedWeights(f"{uri}: {error}") from None
    if layout is not None and stored != layout:
        raise DamagedWeights(f"{uri}: the head was trained on {stored}, not on {layout}")
    return load_ranker(tensors, stored, uri)


def write_ranker(head: RankerHead, path: Path) -> None:
    """A safetensors file with the head's layout in its metadata; whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    packed = assets.pack_tensors(head.state_dict(), {LAYOUT_KEY: head.layout.to_json()})
    write_files({path: packed})
