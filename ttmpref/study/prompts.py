"""Prompt lists: .jsonl, .json and .csv with ids and texts, or .txt with one prompt a line.

Both names in use for a field are understood: `id` or `prompt_id`, `text` or `prompt`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from ttmpref.config import FrozenConfig, validated
from ttmpref.types import ConfigError, InvalidRequest, check_text

PROMPT_SUFFIXES = (".jsonl", ".json", ".csv", ".txt")
PromptId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


@dataclass(frozen=True)
class Prompt:
    """One line of the prompt list; `source` and `licence` say where the words come from."""

    id: str
    text: str
    source: str = ""
    licence: str = ""
    tags: tuple[str, ...] = ()


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a .jsonl, .json, .csv or .txt file; ids and texts are all different.

    Raises:
        ConfigError: names file and line.
    """
    if path.suffix.lower() not in PROMPT_SUFFIXES:
        raise ConfigError(f"{path}: prompt lists are {', '.join(PROMPT_SUFFIXES)}")
    try:
        rows = list(_rows(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    prompts = tuple(_prompt(f"{path}:{line}", row) for line, row in rows)
    if not prompts:
        raise ConfigError(f"{path}: holds no prompts")
    for name in ("id", "text"):
        _all_differ(path, name, [getattr(prompt, name) for prompt in prompts])
    return prompts


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Line (or item) number and raw record of every prompt."""
    text = path.read_text(encoding="utf-8-sig")
    suffix = path.suffix.lower()
    if suffix == ".json":
        yield from enumerate(json.loads(text), 1)
    elif suffix == ".csv":
        yield from enumerate(csv.DictReader(text.splitlines()), 2)
    else:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if suffix == ".jsonl":
            yield from ((number, json.loads(line)) for number, line in lines)
        else:
            yield from ((line, {"id": str(i), "text": text}) for i, (line, text) in
                        enumerate(lines, 1))  # fmt: skip


class _PromptRow(FrozenConfig, extra="ignore", coerce_numbers_to_str=True):
    """A record of a prompt list, under the names such lists use."""

    id: PromptId
    text: str
    source: str = ""
    licence: str = ""
    tags: tuple[str, ...] = ()


def _prompt(where: str, row: Any) -> Prompt:
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: a record with id and text is needed, got {row!r}")
    renamed = {{"prompt_id": "id", "prompt": "text"}.get(key, key): row[key] for key in row}
    if isinstance(renamed.get("tags"), str):
        renamed["tags"] = tuple(renamed["tags"].split(";"))
    record = validated(_PromptRow, renamed, where)
    try:
        check_text("text", record.text, may_be_empty=False)
    except InvalidRequest as error:
        raise ConfigError(f"{where}: {error}") from None
    return Prompt(record.id, record.text.strip(), record.source, record.licence, record.tags)


def _all_differ(path: Path, name: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"{path}: {name} {value!r} occurs twice")
        seen.add(value)
