"""From an export to its analysis: the one way, whether the files lie on disk or in memory.

Specification of listening studies, sections 3.5 and 7.1 (check 9): a report from an export equals
the report from the database, because the database's report is made from the same files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ttmpref.study.analysis import Analysis, Plan, analyse
from ttmpref.study.definition import REWARD, parse_definition
from ttmpref.study.errors import NotFound, Unprocessable
from ttmpref.study.export import DEFINITION, MANIFEST
from ttmpref.study.validity import BASELINES, Scores
from ttmpref.study.votes import Votes

NEEDED = (DEFINITION, "votes.parquet", "stimuli.parquet", MANIFEST)


def read_export(folder: Path) -> dict[str, bytes]:
    """The files of an export that its analysis needs.

    Raises:
        NotFound: one is missing.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise NotFound(f"{folder}: is no export of a study ({missing[0]} is missing)")
    return {name: (folder / name).read_bytes() for name in NEEDED}


def analyse_export(files: Mapping[str, bytes]) -> Analysis:
    """The planned analysis of an export; of a blinded one, every contrast under its codes.

    Raises:
        Unprocessable: there are no votes yet.
    """
    frame = pd.read_parquet(io.BytesIO(files["votes.parquet"]))
    if frame.empty:
        raise Unprocessable("there are no votes to analyse yet")
    votes = Votes.from_frame(frame)
    blind = json.loads(files[MANIFEST])["blind"]
    definition = parse_definition(files[DEFINITION].decode("utf-8"), DEFINITION)
    plan = Plan.default(votes) if blind else Plan.of(definition)
    return analyse(votes, plan, _scores(files, votes))


def _scores(files: Mapping[str, bytes], votes: Votes) -> Scores | None:
    """What is known of the clips, where the study knows their rewards."""
    frame = pd.read_parquet(io.BytesIO(files["stimuli.parquet"]))
    if frame[REWARD].isna().all():
        return None
    columns = {"lufs_in": "lufs"}  # as supplied: as delivered all are equally loud
    kept = frame.rename(columns=columns).reindex(columns=["stimulus", REWARD, *BASELINES])
    return Scores.from_frame(kept.dropna(axis=1, how="all"), votes)
