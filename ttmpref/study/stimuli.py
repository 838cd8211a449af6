"""Building a study: clips found or generated, one canonical file each, pairs, leak report.

Specification of listening studies, sections 2.2, 3.6 and 7.2. The result is a folder:

    sources/<system>/<prompt id>-<take>.wav   clips made by stages of a preset, with their sidecars
    clips/<sha256>.wav                        what listeners get, named by nothing but its content
    prompts/<prompt id>.json                  what was rendered for a prompt, and from what
    build.json                                everything the database needs when the study opens

Nothing is done twice: a prompt whose sources, settings and renderer are the same is kept, so an
interrupted build goes on where it stopped, and a finished one repeats byte for byte.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from ttmpref.assets import sha256
from ttmpref.audio import read_clip, write_files
from ttmpref.study.definition import (
    DEGRADED,
    OTHER_SCORES,
    REWARD,
    Definition,
    StageSource,
    Study,
    canonical_json,
    sha256_json,
)
from ttmpref.study.errors import BuildError
from ttmpref.study.leaks import file_facts, leak_report
from ttmpref.study.pairing import good_clips_of_checks, pairs_of
from ttmpref.study.records import (
    BUILD_FILE,
    Build,
    LeakRecord,
    PromptRecord,
    ScoreRecord,
    StimulusRecord,
    clip_path,
)
from ttmpref.study.rendering import MAX_DC, Rendered, degraded, render_prompt
from ttmpref.study.sources import Source, csv_rows, sources_of, take_of

RENDERER = 2  # rises when the same sources would give other bytes or other facts

logger = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]


class StageRenderer(Protocol):
    """Makes the clip of a stage, and the sidecar that can replay it."""

    def __call__(self, source: StageSource, prompt: str, seed: int, path: Path) -> None: ...


# By `REWARD` or one of `OTHER_SCORES`: hash of what scored, and its score of every clip.
ClipScores = Mapping[str, tuple[str, Sequence[float]]]


class RewardScorer(Protocol):
    """Scores clips by the ranker of a preset, and by what it is held against."""

    def __call__(
        self, preset: str, clips: Sequence[Path], prompts: Sequence[str]
    ) -> ClipScores: ...


def build_study(
    study: Study,
    folder: Path,
    render: StageRenderer | None = None,
    score: RewardScorer | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Build:
    """Render, measure and pair everything, and write the folder.

    Args:
        folder: see `records.build_folder`; made where it is missing.
        render: makes clips of stages; needed where a system names one.
        score: scores clips by a preset's ranker; needed where the definition names one.
        progress: called with (done, total, what) as the work goes on.

    Raises:
        BuildError: a clip is missing, silent or hardly there, or a score is missing.
        UnreadableAudio: a clip cannot be decoded.
    """
    sources = sources_of(study, folder)
    _generate(sources, render, progress)
    checks = good_clips_of_checks(study)
    rendered = []
    for done, prompt in enumerate(study.prompts):
        progress(done, len(study.prompts), "rendering")
        here = [source for source in sources if source.prompt.id == prompt.id]
        rendered.append(_prompt(study.definition, here, checks.get(prompt.id), folder))
    _say_offsets(rendered)
    stimuli = [StimulusRecord(**record) for one in rendered for record in one["stimuli"]]
    scores = list(_scores(study, stimuli, sources, score, progress))
    build = Build(
        definition_sha256=study.definition.sha256,
        prompts=tuple(PromptRecord(**asdict(prompt)) for prompt in study.prompts),
        stimuli=tuple(stimuli),
        pairs=tuple(pairs_of(study, stimuli, scores)),
        scores=tuple(scores),
        leaks=tuple(_leaks(study.definition, rendered)),
    )
    text = json.dumps(build.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    write_files({folder / BUILD_FILE: text.encode("utf-8")})
    return build


def _say_offsets(rendered: Sequence[dict[str, Any]]) -> None:
    """Warn of clips with a DC offset: listeners get them without, whoever made them should know."""
    supplied = itertools.chain.from_iterable(one["facts"]["supplied"].items() for one in rendered)
    offsets = {key: facts["dc"] for key, facts in supplied if abs(facts["dc"]) > MAX_DC}
    if offsets:
        worst = max(offsets, key=lambda key: abs(offsets[key]))
        logger.warning(
            "clips with a DC offset: %d; it is taken out of what listeners get; the largest: %s, "
            "%+.3f of full scale", len(offsets), worst, offsets[worst],
        )  # fmt: skip


def _generate(sources: Sequence[Source], render: StageRenderer | None, progress: Progress) -> None:
    """Make the clips of stages that are not there yet."""
    missing = [s for s in sources if s.stage is not None and not s.path.is_file()]
    if missing and render is None:
        raise BuildError(f"{missing[0].key}: is made by a stage; nothing that renders was given")
    for done, source in enumerate(missing):
        progress(done, len(missing), "generating")
        render(source.stage, source.prompt.text, source.seed, source.path)


def _prompt(
    definition: Definition, sources: Sequence[Source], good: str | None, folder: Path
) -> dict[str, Any]:
    """What `prompts/<id>.json` holds, rendered unless the same was rendered before.

    Args:
        sources: all clips of one prompt.
        good: system whose clip is also degraded, for a check; None for no check.

    Returns:
        `stimuli`, records in plain values, and `facts` about each source's file, supplied and
        delivered.
    """
    hashes = {source.key: sha256(source.path) for source in sources}
    asked = sha256_json(
        {
            "renderer": RENDERER,
            "audio": definition.audio.model_dump(mode="json"),
            "seed": definition.seed,
            "sources": hashes,
            "good": good,
        }
    )
    path = folder / "prompts" / f"{sources[0].prompt.id}.json"
    kept = _kept(path, asked, folder)
    if kept is not None:
        return kept
    rendered = _rendered(definition, sources, good)
    stimuli = [_record(key, hashes.get(key, ""), one) for key, one in rendered.items()]
    files = {
        key: clip_path(folder, record["delivered_sha256"])
        for key, record in zip(rendered, stimuli, strict=True)
    }
    write_files({file: rendered[key].data for key, file in files.items()})
    facts = {
        "supplied": {source.key: file_facts(source.path) for source in sources},
        "delivered": {source.key: file_facts(files[source.key]) for source in sources},
    }
    result = {"asked": asked, "stimuli": stimuli, "facts": facts}
    write_files({path: canonical_json(result).encode("utf-8")})
    return result


def _kept(path: Path, asked: str, folder: Path) -> dict[str, Any] | None:
    """The result of an earlier build of the same prompt, unless something differs or is gone."""
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    there = result["asked"] == asked and all(
        clip_path(folder, record["delivered_sha256"]).is_file() for record in result["stimuli"]
    )
    return result if there else None


def _rendered(
    definition: Definition, sources: Sequence[Source], good: str | None
) -> dict[str, Rendered]:
    """Every clip of a prompt by its key, the sources first, the degraded one last."""
    clips = {source.key: read_clip(source.path) for source in sources}
    if good is not None:
        source = next(source for source in sources if source.system == good)
        bad = degraded(clips[source.key], definition.seed)
        clips[f"{DEGRADED}/{source.prompt.id}/0"] = bad
    return render_prompt(clips, definition.audio)


def _record(key: str, source_sha256: str, rendered: Rendered) -> dict[str, Any]:
    """A `StimulusRecord` in plain values."""
    system, prompt_id, take = key.split("/")
    return {
        "system": system,
        "prompt_id": prompt_id,
        "take": int(take),
        "source_sha256": source_sha256,
        "delivered_sha256": hashlib.sha256(rendered.data).hexdigest(),
        "bytes": len(rendered.data),
        **asdict(rendered.measures),
        "faults": list(rendered.faults),
    }


def _scores(
    study: Study,
    stimuli: Sequence[StimulusRecord],
    sources: Sequence[Source],
    score: RewardScorer | None,
    progress: Progress,
) -> Iterator[ScoreRecord]:
    """Scores of all systems' clips, from the definition's table or by a preset."""
    ranker = study.definition.ranker
    if ranker is None:
        return
    if ranker.file is not None:
        found = _score_table(study.path(ranker.file), sources)
    elif score is None:
        raise BuildError(f"preset {ranker.preset!r} should score; nothing that scores was given")
    else:
        progress(0, len(sources), "scoring")
        texts = [source.prompt.text for source in sources]
        found = score(ranker.preset, [source.path for source in sources], texts)
    places = {record.key: i for i, record in enumerate(stimuli)}
    for kind, (digest, values) in found.items():
        for source, value in zip(sources, values, strict=True):
            yield ScoreRecord(
                stimulus=places[source.key],
                scorer=ranker.name if kind == REWARD else kind,
                scorer_sha256=digest,
                score=round(float(value), 6),
            )


def _score_table(path: Path, sources: Sequence[Source]) -> ClipScores:
    """Scores of all sources from a CSV file; see `definition.Ranker`."""
    table = {}
    for line, row in csv_rows(path, ("system", "prompt_id", "score")):
        where = f"{path}:{line}"
        columns = ["score", *(name for name in OTHER_SCORES if name in row)]
        key = f"{row['system']}/{row['prompt_id']}/{take_of(where, row)}"
        table[key] = [_number(where, row, column) for column in columns]
    missing = [source.key for source in sources if source.key not in table]
    if missing:
        raise BuildError(f"{path}: has no score of {missing[0]} ({len(missing)} missing)")
    kinds = [REWARD, *columns[1:]]
    by_kind = zip(*(table[source.key] for source in sources), strict=True)
    return {kind: (sha256(path), values) for kind, values in zip(kinds, by_kind, strict=True)}


def _number(where: str, row: dict[str, str], column: str) -> float:
    try:
        value = float(row[column] or math.nan)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BuildError(f"{where}: {column} is {row[column]!r}; a finite number is accepted")
    return value


def _leaks(definition: Definition, rendered: Sequence[dict[str, Any]]) -> Iterator[LeakRecord]:
    """What gives systems away: as supplied, to see what was avoided, and as delivered."""
    for form in ("supplied", "delivered"):
        facts = {}
        for key, values in itertools.chain.from_iterable(
            one["facts"][form].items() for one in rendered
        ):
            system, prompt_id, take = key.split("/")
            facts[system, prompt_id, int(take)] = values
        for leak in leak_report(facts, definition.pairs.main):
            yield LeakRecord(form=form, **asdict(leak), leaks=leak.leaks)
