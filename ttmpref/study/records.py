"""What a built study consists of, as written to `build.json` and read when the study opens.

Specification of listening studies, section 3.2 (tables prompt, stimulus, pair, ranker_score).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from ttmpref.assets import sha256
from ttmpref.config import FrozenConfig, validated
from ttmpref.study.definition import Definition, Ranker, sha256_json
from ttmpref.study.errors import BuildError

BUILD_FORMAT = 1
BUILD_FILE = "build.json"

PairKind = Literal["main", "attention", "practice"]


class StimulusRecord(FrozenConfig):
    """One delivered clip. Levels and times as in `rendering.Measures`.

    Attributes:
        faults: what is wrong with it; a study with faults does not open unless they are waived.
    """

    system: str
    prompt_id: str
    take: int
    source_sha256: str
    delivered_sha256: str
    bytes: int
    lufs_in: float
    lufs_out: float
    target_lufs: float
    gain_db: float
    true_peak_dbtp: float
    crest_db: float
    dc: float
    lead_ms: float
    tail_ms: float
    music_ms: float
    bandwidth_hz: float
    faults: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.system}/{self.prompt_id}/{self.take}"


class PairRecord(FrozenConfig):
    """Two clips of one prompt; `lo` and `hi` are positions in the list of stimuli, lo < hi.

    Attributes:
        expected: which one attentive people prefer, where that is known.
        target: votes wanted.
    """

    prompt_id: str
    lo: int
    hi: int
    kind: PairKind
    expected: Literal["lo", "hi"] | None = None
    target: int


class ScoreRecord(FrozenConfig):
    """Score of a stimulus (its position in the list) by the study's ranker, or one of
    `definition.OTHER_SCORES`, which is then the name of the scorer.
    """

    stimulus: int
    scorer: str
    scorer_sha256: str
    score: float


def rewards_of(ranker: Ranker, scores: Iterable[ScoreRecord]) -> dict[int, float]:
    """What the ranker says of each stimulus."""
    return {score.stimulus: score.score for score in scores if score.scorer == ranker.name}


class LeakRecord(FrozenConfig):
    """`leaks.Leak` of one pair of systems, as supplied or as delivered."""

    form: Literal["supplied", "delivered"]
    first: str
    second: str
    n: int
    outer_auc: float
    outer_null: float
    inner_auc: float
    inner_null: float
    features: dict[str, float]
    leaks: bool


class PromptRecord(FrozenConfig):
    """A prompt as it was when the study was built."""

    id: str
    text: str
    source: str
    licence: str
    tags: tuple[str, ...]


class Build(FrozenConfig):
    """All that an opened study is made of, apart from its definition."""

    format: Literal[1] = BUILD_FORMAT
    definition_sha256: str
    prompts: tuple[PromptRecord, ...]
    stimuli: tuple[StimulusRecord, ...]
    pairs: tuple[PairRecord, ...]
    scores: tuple[ScoreRecord, ...]
    leaks: tuple[LeakRecord, ...]

    @property
    def sha256(self) -> str:
        return sha256_json(self.model_dump(mode="json"))

    @property
    def faults(self) -> list[str]:
        """Everything that stands against opening the study, in words."""
        found = [f"{s.key}: {fault}" for s in self.stimuli for fault in s.faults]
        found += [
            f"{leak.first} and {leak.second} can be told apart without listening "
            f"(AUC {leak.outer_auc:.2f})"
            for leak in self.leaks
            if leak.form == "delivered" and leak.leaks
        ]
        return found


def build_folder(data_dir: Path, definition: Definition) -> Path:
    """Where the build of a definition lies."""
    return data_dir / "studies" / definition.name


def read_build(folder: Path) -> Build:
    """The build in a folder, its clips checked against their hashes.

    Raises:
        BuildError: there is none, or a clip is missing or altered.
    """
    path = folder / BUILD_FILE
    if not path.is_file():
        raise BuildError(f"{path}: no such file; run `python -m ttmpref study build` first")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BuildError(f"{path}: not JSON ({error})") from None
    build = validated(Build, data, str(path))
    for record in build.stimuli:
        clip = clip_path(folder, record.delivered_sha256)
        if not clip.is_file() or sha256(clip) != record.delivered_sha256:
            raise BuildError(f"{clip}: missing or altered since it was built; build again")
    return build


def clip_path(folder: Path, delivered_sha256: str) -> Path:
    """File of a delivered clip inside a build folder."""
    return folder / "clips" / f"{delivered_sha256}.wav"
