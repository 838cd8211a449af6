"""The files of a prepared data set: whole or absent, checksummed, safe to be stopped at any time.

    dataset.json          format, version, how it was made, and every shard with size and SHA-256
    tracks.jsonl          the catalogue; rows of tracks and captions count from it
    shards/<n>-<hash>     clips of tracks n * tracks_per_shard and following (safetensors)
    text/<n>-<hash>       features of captions n * captions_per_shard and following (safetensors)
    parts/<row>           the clips of one track, until its shard is whole
    report.json, faults.txt

Tensors of a shard, a row per clip, read through the operating system's memory map:

    latents   (clips, 2, N, C) fp16      posterior mean and standard deviation
    track     (clips,) int32             row of the track
    start     (clips,) float32           seconds into the track
    rewards   (clips, 3) float32         the columns of `REWARDS`; absent without a ranker
    <block>   (clips, width) fp16        what the ranker's encoders hear in it (clap_audio, mert)

and of a text file, a row per caption: text (captions, T, D) and pooled (captions, E), both bf16.

A worker writes one part per track; when no track of a shard is missing any more, its parts become
the shard. A shard is named after its content and replaced only by a new name in `dataset.json`, so
whatever is killed, the data set is the one before or the one after.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.loop import write_aside, write_json
from ttmpref import assets
from ttmpref.types import DamagedWeights, InvalidRequest

FORMAT, VERSION = "ttmpref prepared data", 1
INDEX, CATALOGUE = "dataset.json", "tracks.jsonl"
REWARDS = ("reward_score", "instrumental_reward_score", "track_reward_score")
FULL_MIX, INSTRUMENTAL, TRACK_MEAN = range(3)  # columns of `rewards`
FAULTS = "faults"  # key in the metadata of parts and shards

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class ShardFile:
    """One line of the index.

    Attributes:
        file: inside the data set.
        number: of the shard.
        rows: clips or captions.
        sha256, bytes: of the file.
    """

    file: str
    number: int
    rows: int
    bytes: int
    sha256: str


@dataclass
class Index:
    """What `dataset.json` says.

    Attributes:
        protocol: everything that decides the numbers.
        shards, text: files by number.
    """

    protocol: Mapping[str, Any]
    shards: dict[int, ShardFile] = field(default_factory=dict)
    text: dict[int, ShardFile] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        files = {
            name: [vars(table[number]) for number in sorted(table)]
            for name, table in (("shards", self.shards), ("text", self.text))
        }
        said = {"format": FORMAT, "version": VERSION, "protocol": dict(self.protocol)}
        write_json(folder / INDEX, said | files)

    @classmethod
    def read(cls, folder: Path) -> Index:
        """
        Raises:
            InvalidRequest: there is no data set, or one of another version.
            DamagedWeights: its index cannot be read.
        """
        path = folder / INDEX
        if not path.exists():
            raise InvalidRequest(f"{folder} holds no prepared data; python -m training prepare")
        try:
            said = json.loads(path.read_text("utf-8"))
            if (said["format"], said["version"]) != (FORMAT, VERSION):
                found = f"{said['format']} {said['version']}"
                raise InvalidRequest(f"{path} is {found!r}; {FORMAT} {VERSION} is accepted")
            tables = ({f["number"]: ShardFile(**f) for f in said[k]} for k in ("shards", "text"))
            return cls(said["protocol"], *tables)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidRequest):
                raise
            raise DamagedWeights(f"{path}: not an index ({type(error).__name__})") from None


def opened(path: Path) -> Tensors:
    """Tensors of a safetensors file over the operating system's memory map.

    Raises:
        DamagedWeights: the file is absent, cut or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedWeights(f"{path} is damaged ({' '.join(str(error).split())})") from None


def part_path(folder: Path, row: int) -> Path:
    """Where a worker leaves the clips of a track."""
    return folder / "parts" / f"{row:07d}.safetensors"


def write_part(folder: Path, row: int, tensors: Tensors, faults: Sequence[str]) -> None:
    _write(part_path(folder, row), tensors, faults)


def _write(path: Path, tensors: Tensors, faults: Sequence[str] = ()) -> None:
    says = {FAULTS: json.dumps(faults)}
    write_aside(path, lambda aside: assets.write_tensors(aside, tensors, says))


def write_text(folder: Path, number: int, tensors: Tensors) -> ShardFile:
    """A whole text file; the index does not know it yet."""
    return _write_named(folder, "text", number, tensors)


def _write_named(
    folder: Path, kind: str, number: int, tensors: Tensors, faults: Sequence[str] = ()
) -> ShardFile:
    """A file named after number and content."""
    aside = folder / kind / f"{number:05d}.new"
    _write(aside, tensors, faults)
    digest = assets.sha256(aside)
    path = aside.with_name(f"{number:05d}-{digest[:12]}.safetensors")
    aside.replace(path)
    rows = len(next(iter(tensors.values())))
    name = path.relative_to(folder).as_posix()
    return ShardFile(name, number, rows, path.stat().st_size, digest)


class Store:
    """A data set that is being made; one process at a time holds it (`held`).

    Attributes:
        folder: of the data set.
        index: as on the disk.
        tracks_per_shard: the recipe's.
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any], tracks_per_shard: int) -> None:
        """
        Raises:
            InvalidRequest: the folder was begun with another protocol.
        """
        self.folder, self.tracks_per_shard = folder, tracks_per_shard
        self.index = Index(protocol)
        if (folder / INDEX).exists():
            self.index = Index.read(folder)
            _check_same(folder, self.index.protocol, protocol)
        else:
            self.index.write(folder)
        self._clean()

    def _clean(self) -> None:
        """Forget shards whose file is gone; remove what a killed run left and nothing names."""
        index = self.index
        for table in (index.shards, index.text):
            gone = [n for n, shard in table.items() if not (self.folder / shard.file).exists()]
            for number in gone:
                del table[number]
        named = {f.file for table in (index.shards, index.text) for f in table.values()}
        waiting = self.parts() - self.packed_tracks()
        named |= {part_path(Path(), row).as_posix() for row in waiting}
        for kind in ("shards", "text", "parts"):
            for path in (self.folder / kind).glob("*"):
                if path.relative_to(self.folder).as_posix() not in named:
                    path.unlink()

    def packed_tracks(self) -> set[int]:
        """Rows of the tracks that lie in shards."""
        files = (opened(self.folder / shard.file) for shard in self.index.shards.values())
        return {int(row) for tensors in files for row in tensors["track"].unique()}

    def parts(self) -> set[int]:
        """Rows of the tracks that lie in parts."""
        return {int(path.stem) for path in (self.folder / "parts").glob("*.safetensors")}

    def slice_of(self, number: int) -> range:
        """Rows of the tracks of a shard."""
        first = number * self.tracks_per_shard
        return range(first, first + self.tracks_per_shard)

    def pack(self, number: int) -> None:
        """Parts, and what the shard holds already, to a shard in order of the tracks."""
        paths = [part_path(self.folder, row) for row in self.slice_of(number)]
        paths = [path for path in paths if path.exists()]
        if not paths:
            return
        old = self.index.shards.get(number)
        sources = [*paths] if old is None else [self.folder / old.file, *paths]
        pieces = [opened(path) for path in sources]
        faults = [line for path in sources for line in _faults_of(path)]
        joined = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        order = joined["track"].argsort(stable=True)
        tensors = {name: tensor[order] for name, tensor in joined.items()}
        self.index.shards[number] = _write_named(self.folder, "shards", number, tensors, faults)
        self.index.write(self.folder)
        if old is not None and old != self.index.shards[number]:
            (self.folder / old.file).unlink()
        for path in paths:
            path.unlink()

    def add_text(self, made: ShardFile) -> None:
        """Enter a text file into the index, in place of an earlier one of its number."""
        old = self.index.text.get(made.number)
        self.index.text[made.number] = made
        self.index.write(self.folder)
        if old is not None and old.file != made.file:
            (self.folder / old.file).unlink()

    def faults(self) -> list[str]:
        """What was left out of tracks that are in, by shard."""
        shards = [self.index.shards[number] for number in sorted(self.index.shards)]
        return [line for shard in shards for line in _faults_of(self.folder / shard.file)]


def _faults_of(path: Path) -> list[str]:
    return json.loads(assets.metadata(str(path))[FAULTS])


def _check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in dict.fromkeys([*now, *before]):  # from what says most to what says least
        if before.get(key) != now.get(key):
            raise InvalidRequest(
                f"{folder} was begun with {key} {before.get(key)!r}, not {now.get(key)!r}; "
                "name another folder"
            )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the system lets go of it when the process ends.

    Raises:
        InvalidRequest: another run is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidRequest(f"another run is at work in {folder}") from None
        yield


def verify(folder: Path, index: Index) -> None:
    """Compare every shard with its checksum.

    Raises:
        DamagedWeights: one differs; it is named with what makes it again.
    """
    for shard in (*index.shards.values(), *index.text.values()):
        path = folder / shard.file
        if not path.exists() or assets.sha256(path) != shard.sha256:
            raise DamagedWeights(f"{path} is not what was written; remove it and prepare again")
