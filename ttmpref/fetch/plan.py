"""What a preset needs from elsewhere, where it is published, and under which terms.

`sources.yaml` beside this file lists the public homes; a preset says only where it wants its
weights (`hf://...`, `https://...`), and a plan is the match of the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ttmpref import assets
from ttmpref.config import FrozenConfig, Preset, read_yaml, validated

SOURCES_FILE = Path(__file__).parent / "sources.yaml"
REMOTE = ("hf://", "https://")

Conversion = Literal["none", "checkpoint", "folder", "clap"]


class RemoteFile(FrozenConfig):
    """One file to download.

    Attributes:
        url: `hf://org/repo/path` or `https://host/path`.
        name: what it is called here; default: as in the URL.
        megabytes: size, about; a plan adds them up and asks for as much room.
        sha256, md5: where its publisher or the paper's authors state one.
    """

    url: str = Field(pattern=r"^(hf|https)://[^/]+/.+")
    name: str = Field("", pattern=r"^[^/\\]*$")
    megabytes: float = Field(gt=0)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    md5: str | None = Field(None, pattern=r"^[0-9a-f]{32}$")

    @property
    def file_name(self) -> str:
        return self.name or self.url.rpartition("/")[2]


class Source(FrozenConfig):
    """Public home of what a preset calls `uri`.

    Attributes:
        licence, terms: as published; terms are what a user must know beyond the licence's name.
        convert: see `ttmpref.fetch.convert`.
    """

    uri: str
    licence: str
    terms: str = ""
    convert: Conversion = "none"
    files: tuple[RemoteFile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Source:
        names = [file.file_name for file in self.files]
        if len(set(names)) != len(names):
            raise ValueError(f"files of {self.uri} must have different names, got {names}")
        return self

    @property
    def megabytes(self) -> float:
        return sum(file.megabytes for file in self.files)

    @property
    def is_file(self) -> bool:
        """Whether the preset wants one file, not a folder."""
        last = self.uri.rpartition("/")[2]
        return self.convert == "checkpoint" or [f.file_name for f in self.files] == [last]


class SourceList(FrozenConfig):
    """All of `sources.yaml`."""

    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Plan:
    """What fetching a preset means.

    Attributes:
        present: URIs that are here already.
        missing: homes of what is not.
        homeless: URIs that nothing is known about.
    """

    present: tuple[str, ...]
    missing: tuple[Source, ...]
    homeless: tuple[str, ...]

    @property
    def megabytes(self) -> float:
        return sum(source.megabytes for source in self.missing)


def plan_for(preset: Preset, sources: Path = SOURCES_FILE) -> Plan:
    """The plan of a preset; looks at files without reading them.

    Raises:
        ConfigError: the list of sources is wrong.
    """
    homes = validated(SourceList, read_yaml(sources), str(sources)).sources
    known = {source.uri: source for source in homes}
    wanted = remote_uris(preset)
    present = tuple(uri for uri in wanted if assets.expected_path(uri).exists())
    absent = [uri for uri in wanted if uri not in present]
    return Plan(
        present,
        tuple(known[uri] for uri in absent if uri in known),
        tuple(uri for uri in absent if uri not in known),
    )


def remote_uris(preset: Preset) -> tuple[str, ...]:
    """Every `hf://` and `https://` that a preset names, in its order, once."""
    found = (text for text in _strings(preset.model_dump()) if text.startswith(REMOTE))
    return tuple(dict.fromkeys(found))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)
