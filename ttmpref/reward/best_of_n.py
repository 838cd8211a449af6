"""Best-of-N: make clips of one prompt from N seeds, keep those that the reward likes most.

TuneJury specification, section 4, mode 1. What the best of n clips would score, for every n up to
N, is estimated without bias from all N candidates: of their order statistics x_(1) <= ... <= x_(N),
x_(i) is the largest of n drawn without replacement with probability C(i - 1, n - 1) / C(N, n).
Silence can have a fair reward, so silent candidates are kept only where there is nothing else; the
curve is of the reward as it is.

A run over many prompts is a folder: `plan.json`, then for every prompt its kept clips with their
sidecars and, written last, its record. What has a record is not made again.

Shapes: P prompts, N candidates of each.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field, model_validator

from ttmpref.audio import write_files
from ttmpref.config import FrozenConfig, read_record, record_bytes, validated
from ttmpref.metrics import bootstrap_interval
from ttmpref.reward.files import ScoreClips
from ttmpref.study.prompts import Prompt
from ttmpref.types import (
    MAX_SEED,
    MAX_VARIATIONS,
    Generation,
    GenerationRequest,
    InvalidRequest,
    Progress,
    TtmprefError,
)

MAX_CANDIDATES = 1024
SILENT = ("silent", "mostly_silent")  # flags of `ttmpref.reward.guards`
PLAN_FILE, CURVE_FILE, TABLE_FILE = "plan.json", "curve.json", "candidates.csv"
RECORD_SUFFIX = ".record.json"
CLIP_SUFFIX = ".wav"


class Maker(Protocol):
    """What makes and keeps clips: the Studio."""

    def stream(self, request: GenerationRequest) -> Iterator[Progress | Generation]: ...

    def save(self, generation: Generation, path: Path) -> Path: ...


class Candidate(FrozenConfig):
    """One clip that was made; most are not kept, but their seed makes them again.

    Attributes:
        silent: silent for most of its length.
    """

    seed: int
    reward: float
    clap_score: float | None
    silent: bool


@dataclass(frozen=True, eq=False)
class Choice:
    """What was made of one prompt.

    Attributes:
        candidates: all, by seed.
        kept: the best of them, best first, with the reward in their score cards.
        made_by: what the clips and the rewards were made with.
    """

    candidates: tuple[Candidate, ...]
    kept: tuple[Generation, ...]
    made_by: dict[str, Any]

    @property
    def expected(self) -> list[float]:
        """Reward to be expected of the best of n of the candidates, for n = 1 ... N."""
        rewards = np.array([candidate.reward for candidate in self.candidates])
        return expected_maximum(rewards).tolist()


class Plan(FrozenConfig):
    """What is done with every prompt.

    Attributes:
        n: N.
        keep: clips that are kept.
        prompted: the reward is told the prompt as asked, without the preset's prefix.
        request: fields of `GenerationRequest` but the prompt; its seed is the first of N.
    """

    n: int = Field(ge=1, le=MAX_CANDIDATES)
    keep: int = Field(ge=1)
    prompted: bool = True
    request: dict[str, Any]

    @model_validator(mode="after")
    def _possible(self) -> Plan:
        if self.keep > self.n:
            raise ValueError(f"keep is {self.keep}; at most n = {self.n} are made")
        if self.request["seed"] + self.n - 1 > MAX_SEED:
            raise ValueError(f"seed {self.request['seed']} + {self.n} is beyond {MAX_SEED}")
        return self

    @classmethod
    def of(cls, request: GenerationRequest, n: int, keep: int = 1, prompted: bool = True) -> Plan:
        """The plan to make N clips as `request` says, whatever its prompt and variations.

        Raises:
            ConfigError: n, keep and seed do not fit.
        """
        given = request.to_dict()
        fields = {name: given[name] for name in given if name not in ("prompt", "variations")}
        data = {"n": n, "keep": keep, "prompted": prompted, "request": fields}
        return validated(cls, data, "best-of-n")

    def batches(self, prompt: str) -> list[GenerationRequest]:
        """Requests of a few variations each that make all N clips."""
        first = self.request["seed"]
        return [
            GenerationRequest(
                **{**self.request, "seed": first + done},
                prompt=prompt,
                variations=min(MAX_VARIATIONS, self.n - done),
            )
            for done in range(0, self.n, MAX_VARIATIONS)
        ]


def choose(maker: Maker, score: ScoreClips, prompt: str, plan: Plan) -> Iterator[Progress | Choice]:
    """Progress over all N clips, and at last the choice; closing the iterator stops the work.

    Clips are made and scored a batch at a time; only the best so far stay in memory.
    """
    candidates: list[Candidate] = []
    best: list[tuple[Candidate, Generation]] = []
    made_by: dict[str, Any] = {}
    for batch in plan.batches(prompt):
        made = []
        for item in maker.stream(batch):
            if isinstance(item, Generation):
                made.append(item)
            else:
                yield _overall(item, len(candidates), batch.variations, plan.n)
        told = prompt if plan.prompted else ""
        scores = score([one.clip for one in made], [told] * len(made))
        for generation, scored in zip(made, scores, strict=True):
            reward = scored.reward
            if not math.isfinite(reward):
                raise TtmprefError(f"the reward of seed {generation.request.seed} is {reward}")
            cards = dataclasses.replace(generation.scores, reward=reward)
            silent = any(flag.code in SILENT for flag in scored.flags)
            candidate = Candidate(
                seed=generation.request.seed, reward=reward, clap_score=cards.clap_score,
                silent=silent,
            )  # fmt: skip
            candidates.append(candidate)
            best.append((candidate, dataclasses.replace(generation, scores=cards)))
            made_by = {"clips": _maker_of(generation), "rewards": scored.protocol}
        best = sorted(best, key=lambda pair: _rank(pair[0]))[: plan.keep]
    yield Choice(tuple(candidates), tuple(generation for _, generation in best), made_by)


def _maker_of(generation: Generation) -> dict[str, Any]:
    """The provenance of a clip but its place in a batch."""
    return {key: said for key, said in generation.provenance.items() if key != "batch"}


def _overall(item: Progress, done: int, variations: int, n: int) -> Progress:
    """A tick of one batch as a tick of all N clips; a step counts for every clip of the batch."""
    step = done * item.num_steps + item.step * variations
    return Progress(step, n * item.num_steps, f"clips {done + 1} to {done + variations} of {n}")


def _rank(candidate: Candidate) -> tuple[bool, float, int]:
    """Smaller is better: sound before silence, then by reward, then by seed."""
    return candidate.silent, -candidate.reward, candidate.seed


def expected_maximum(rewards: np.ndarray) -> np.ndarray:
    """Unbiased expected largest of n rewards drawn without replacement, for n = 1 ... N.

    Args:
        rewards: (..., N), finite.

    Returns:
        (..., N), never falling; the first is the mean and the last the maximum.
    """
    if not np.isfinite(rewards).all():
        raise ValueError("rewards must be finite numbers")
    return np.sort(rewards, axis=-1) @ _chances_to_be_largest(rewards.shape[-1]).T


def _chances_to_be_largest(count: int) -> np.ndarray:
    """(N, N): row n - 1 holds C(i - 1, n - 1) / C(N, n) for i = 1 ... N.

    From the right, where it is n / N, each is the one after it times (i - n + 1) / i.
    """
    n = np.arange(1, count + 1)
    chances = np.zeros((count, count))
    chances[:, -1] = n / count
    for i in range(count - 1, 0, -1):
        chances[:, i - 1] = chances[:, i] * np.maximum(i - n + 1, 0) / i
    return chances


@dataclass(frozen=True)
class CurvePoint:
    """What the best of n clips is worth, mean over prompts.

    Attributes:
        expected: reward.
        low, high: its 95 % bootstrap interval over prompts; None for a single prompt.
        gain: how much more than one clip.
        gain_low, gain_high: its interval, narrower because prompts are paired.
    """

    n: int
    expected: float
    low: float | None
    high: float | None
    gain: float
    gain_low: float | None
    gain_high: float | None


def curve(rewards: np.ndarray, resamples: int = 1000) -> list[CurvePoint]:
    """The points n = 1 ... N of (P, N) rewards."""
    expected = expected_maximum(rewards)
    gains = expected - expected[:, :1]
    columns = zip(expected.T, gains.T, strict=True)
    return [
        CurvePoint(n, *_with_interval(best, resamples), *_with_interval(gain, resamples))
        for n, (best, gain) in enumerate(columns, 1)
    ]


def _with_interval(values: np.ndarray, resamples: int) -> tuple[float, float | None, float | None]:
    """Mean over prompts (P,) and its interval."""
    ends = (None, None)
    if len(values) > 1:
        ends = bootstrap_interval(lambda rows: float(values[rows].mean()), len(values), resamples)
    return float(values.mean()), *ends


class Record(FrozenConfig):
    """What is written of a prompt when it is done.

    Attributes:
        kept: names of the clips, best first, beside the record.
        made_by: what the clips and the rewards were made with.
    """

    id: str
    prompt: str
    candidates: tuple[Candidate, ...]
    kept: tuple[str, ...]
    made_by: dict[str, Any]

    @property
    def rewards(self) -> list[float]:
        return [candidate.reward for candidate in self.candidates]


def run(
    maker: Maker, score: ScoreClips, prompts: Sequence[Prompt], plan: Plan, folder: Path
) -> Iterator[tuple[int, Progress | Record]]:
    """Every prompt's record in order, made or found in the folder, with progress in between.

    Yields:
        The number of the prompt, from 0, and what happened.

    Raises:
        InvalidRequest: the folder holds results of another plan, prompt or weights.
    """
    _begin(folder, plan)
    made_by: list[dict[str, Any]] = []
    for number, prompt in enumerate(prompts):
        record = _known(folder, prompt)
        if record is None:
            for item in choose(maker, score, prompt.text, plan):
                if isinstance(item, Choice):
                    record = _keep(maker, folder, prompt, item)
                else:
                    yield number, item
        made_by.append(record.model_dump(mode="json")["made_by"])
        if made_by[-1] != made_by[0]:
            raise InvalidRequest(
                f"{folder}: prompt {prompt.id!r} was made with other weights or versions than "
                f"{prompts[0].id!r}; use a new folder"
            )
        yield number, record


def _begin(folder: Path, plan: Plan) -> None:
    """Write the plan, or make sure that the folder's is the same."""
    path = folder / PLAN_FILE
    if not path.exists():
        write_files({path: record_bytes(plan)})
        return
    then, now = read_record(Plan, path).model_dump(), plan.model_dump()
    for then_part, now_part in ((then, now), (then["request"], now["request"])):
        for name in now_part:
            if name != "request" and then_part.get(name) != now_part[name]:
                raise InvalidRequest(
                    f"{folder} was begun with {name} {then_part.get(name)!r}, not "
                    f"{now_part[name]!r}; use a new folder"
                )


def _known(folder: Path, prompt: Prompt) -> Record | None:
    """The record of a prompt that is done."""
    path = folder / f"{prompt.id}{RECORD_SUFFIX}"
    if not path.exists():
        return None
    record = read_record(Record, path)
    if record.prompt != prompt.text:
        raise InvalidRequest(f"{path} is of prompt {record.prompt!r}, not {prompt.text!r}")
    return record


def _keep(maker: Maker, folder: Path, prompt: Prompt, choice: Choice) -> Record:
    """Save the kept clips, then the record."""
    kept = []
    for rank, generation in enumerate(choice.kept, 1):
        name = f"{prompt.id}-{rank}{CLIP_SUFFIX}"
        maker.save(generation, folder / name)
        kept.append(name)
    record = Record(
        id=prompt.id, prompt=prompt.text, candidates=choice.candidates, kept=tuple(kept),
        made_by=choice.made_by,
    )  # fmt: skip
    write_files({folder / f"{prompt.id}{RECORD_SUFFIX}": record_bytes(record)})
    return record


def write_summary(records: Sequence[Record], folder: Path) -> list[CurvePoint]:
    """Write the curve and a table of all candidates beside the records; returns the curve.

    Raises:
        OutputError: a file cannot be written.
    """
    points = curve(np.array([record.rewards for record in records]))
    silent = sum(candidate.silent for record in records for candidate in record.candidates)
    said = {
        "prompts": len(records),
        "silent_candidates": silent,
        "made_by": records[0].made_by,
        "curve": [dataclasses.asdict(point) for point in points],
    }
    text = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
    table = _table(records)
    write_files({folder / CURVE_FILE: text.encode("utf-8"), folder / TABLE_FILE: table.encode()})
    return points


def _table(records: Sequence[Record]) -> str:
    """CSV with a row per candidate."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["id", "prompt", *Candidate.model_fields])
    for record in records:
        for candidate in record.candidates:
            writer.writerow([record.id, record.prompt, *candidate.model_dump().values()])
    return buffer.getvalue()
