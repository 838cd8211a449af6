"""Where the clips of a study come from: folders, path patterns, tables, stages of a preset.

Specification of listening studies, section 3.6. Everything that is missing or ambiguous is found
before the first clip is rendered.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttmpref.study.definition import AUDIO_SUFFIXES, Prompt, StageSource, Study, System
from ttmpref.study.errors import BuildError


@dataclass(frozen=True)
class Source:
    """Where one clip comes from.

    Attributes:
        stage, seed: set where the clip is rendered rather than found.
    """

    system: str
    prompt: Prompt
    take: int
    path: Path
    stage: StageSource | None = None
    seed: int = 0

    @property
    def key(self) -> str:
        return f"{self.system}/{self.prompt.id}/{self.take}"


def sources_of(study: Study, folder: Path) -> list[Source]:
    """Every clip of a study, system by system, in the order of the prompts.

    Args:
        folder: build folder, where clips of stages are made.

    Raises:
        BuildError: a clip is missing or ambiguous; says which, and how many more.
    """
    sources, problems = [], []
    for system in study.definition.systems:
        table = _read_table(study.path(system.csv), ("prompt_id", "path")) if system.csv else None
        for index, prompt in enumerate(study.prompts):
            for take in range(system.takes):
                try:
                    sources.append(_source(study, system, prompt, index, take, table, folder))
                except BuildError as error:
                    problems.append(str(error))
    if problems:
        more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise BuildError(problems[0] + more)
    return sources


def _source(
    study: Study,
    system: System,
    prompt: Prompt,
    index: int,
    take: int,
    table: Mapping[tuple[str, int], Mapping[str, str]] | None,
    folder: Path,
) -> Source:
    if system.stage is not None:
        path = folder / "sources" / system.label / f"{prompt.id}-{take}.wav"
        seed = system.stage.seed + index * system.takes + take  # the same for every stage
        return Source(system.label, prompt, take, path, system.stage, seed)
    where = f"clip of system {system.label!r}, prompt {prompt.id!r}, take {take}"
    if table is not None:
        if (prompt.id, take) not in table:
            raise BuildError(f"{where}: {system.csv} has no such row")
        path = study.path(system.csv).parent / table[prompt.id, take]["path"]
    else:
        path = _matching_file(where, study, system.audio, prompt.id, take)
    if not path.is_file():
        raise BuildError(f"{where}: {path} is not a file")
    return Source(system.label, prompt, take, path)


def _matching_file(where: str, study: Study, audio: str, prompt_id: str, take: int) -> Path:
    """The file that a pattern names, or the one of any audio suffix inside a folder."""
    if "{" in audio:
        return study.path(audio.replace("{prompt_id}", prompt_id).replace("{take}", str(take)))
    folder = study.path(audio)
    found = [path for s in AUDIO_SUFFIXES if (path := folder / f"{prompt_id}{s}").is_file()]
    if len(found) > 1:
        raise BuildError(f"{where}: {found[0].name} and {found[1].name} both lie in {folder}")
    return found[0] if found else folder / f"{prompt_id}{AUDIO_SUFFIXES[0]}"


def _read_table(path: Path, columns: Sequence[str]) -> dict[tuple[str, int], dict[str, str]]:
    """Rows of a CSV file by (prompt id, take); the column `take` defaults to 0.

    Raises:
        BuildError: names file, line and column.
    """
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for line, row in csv_rows(path, columns):
        place = row["prompt_id"], take_of(f"{path}:{line}", row)
        if place in rows:
            raise BuildError(f"{path}:{line}: prompt {place[0]!r}, take {place[1]} occurs twice")
        rows[place] = row
    return rows


def take_of(where: str, row: Mapping[str, str]) -> int:
    text = row.get("take") or "0"
    if not text.isdecimal():
        raise BuildError(f"{where}: take is {text!r}; a whole number from 0 is accepted")
    return int(text)


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of a CSV file that has the given columns, none of them empty."""
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), strict=True)
        rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BuildError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    for name in columns:
        if name not in (reader.fieldnames or ()):
            raise BuildError(f"{path}: has no column {name!r}; needed: {', '.join(columns)}")
    for line, row in enumerate(rows, 2):
        empty = next((name for name in columns if not row[name]), None)
        if empty is not None:
            raise BuildError(f"{path}:{line}: {empty} is empty")
        yield line, row
