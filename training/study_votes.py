"""The votes of a listening study as training pairs: from a study's name or export to its clips.

The table of an export names clips below the folder of the study's build, which lies among the data
of this machine. A study that is named instead of its export is exported first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ttmpref import assets
from ttmpref.config import RankerConfig
from ttmpref.study.definition import parse_definition
from ttmpref.study.export import DEFINITION, MANIFEST, TRAINING_PAIRS, export_study
from ttmpref.study.records import build_folder
from ttmpref.study.settings import DEFAULT_RESULTS, StudySettings
from ttmpref.study.store import Store
from ttmpref.types import InvalidRequest


@dataclass(frozen=True)
class VotesTable:
    """A table of pairs and where its clips lie.

    Attributes:
        name: for folders of results: `<slug>-v<version>` of a study, else that of the file.
        path: the table.
        clips: folder that the table's names of clips start from.
        of_study: whether listeners of a study gave the votes.
    """

    name: str
    path: Path
    clips: Path
    of_study: bool


def votes_table(given: str) -> VotesTable:
    """What somebody means who names a table, an export, its table of pairs, or a study.

    Args:
        given: path of a table or of an export's folder, or the slug of a study of this machine
            (or `<slug>-v<version>`), which is exported below `listening_results`.

    Raises:
        InvalidRequest: neither a file, nor an export, nor the name of a study.
        NotFound: no study is called so.
    """
    path = Path(given)
    if path.is_dir():
        return _of_export(path)
    if path.name == TRAINING_PAIRS and (path.parent / MANIFEST).is_file():
        return _of_export(path.parent)
    if path.suffix or path.is_file() or path.name != given:
        return VotesTable(path.stem, path, path.parent, of_study=False)
    return _of_export(_exported(given))


def _exported(slug: str) -> Path:
    """A new export of a study; systems keep their codes, which training does not read."""
    store = Store(StudySettings.from_environment())
    try:
        return export_study(store.reading.dump(slug), DEFAULT_RESULTS)
    finally:
        store.close()


def _of_export(folder: Path) -> VotesTable:
    table, definition_file = folder / TRAINING_PAIRS, folder / DEFINITION
    if not (table.is_file() and definition_file.is_file()):
        raise InvalidRequest(
            f"{folder} is no export of a study: {TRAINING_PAIRS} or {DEFINITION} is missing; "
            "name a folder that `python -m ttmpref study export` has printed"
        )
    text = definition_file.read_text(encoding="utf-8")
    definition = parse_definition(text, str(definition_file))
    clips = build_folder(StudySettings.from_environment().data_dir, definition)
    return VotesTable(definition.name, table, clips, of_study=True)


def clip_folders(tables: Sequence[VotesTable], audio: Path | None = None) -> tuple[Path, ...]:
    """Where the clips of all tables are found.

    Args:
        audio: the one folder of all clips, where somebody says so.

    Raises:
        InvalidRequest: nobody says so, and tables lie in several folders, where names of clips may
            repeat (those of studies do not), or the clips of a study are not on this machine.
    """
    if audio is not None:
        return (audio,)
    plain = {table.clips for table in tables if not table.of_study}
    if len(plain) > 1:
        raise InvalidRequest(f"tables lie in {len(plain)} folders; name that of the clips: --audio")
    for table in tables:
        if table.of_study and not table.clips.is_dir():
            raise InvalidRequest(
                f"the clips of {table.name} are not in {table.clips}; build the study again, or "
                "name the folder of its build: --audio"
            )
    return tuple(dict.fromkeys(table.clips for table in tables))


def old_ranker(rewarded: RankerConfig | None, layout: str) -> str | None:
    """URI of the head that a preset's reward comes from; None where a head of this layout cannot
    be held against it, or its weights are not there.
    """
    if rewarded is None or rewarded.layout != layout:
        return None
    return rewarded.weights if assets.expected_path(rewarded.weights).exists() else None
