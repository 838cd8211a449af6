"""Several requests one after another: each clip is delivered, with its reward, when it is finished.

Comparing stages, sweeping the score and working through a list of prompts are all this. What a
series shares, encoded texts and networks, is shared by the maker; noise follows from the seed
alone, so requests that differ in their stage or score start from the same noise. What fails is
said in its place, and the rest is made all the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ttmpref.config import HeadKind
from ttmpref.types import (
    Clip,
    Generation,
    GenerationRequest,
    InvalidRequest,
    Progress,
    RewardScore,
    TtmprefError,
)


@dataclass(frozen=True)
class Task:
    """One clip of a series.

    Attributes:
        request: of a single clip.
        head: another score head over the stage's weights, as an ablation; None for its own.
    """

    request: GenerationRequest
    head: HeadKind | None = None

    def __post_init__(self) -> None:
        if self.request.variations != 1:
            raise InvalidRequest(
                f"variations is {self.request.variations}; a clip of a series is made alone"
            )


@dataclass(frozen=True, eq=False)
class Made:
    """What became of one task.

    Attributes:
        number: place of the task in the series, from 0.
        generation: the clip, its reward in its score card where one could be said; None if it
            failed.
        reward: of the clip; None where the preset cannot score.
        error: why there is no clip; empty where there is one.
    """

    number: int
    task: Task
    generation: Generation | None
    reward: RewardScore | None = None
    error: str = ""


class Stream(Protocol):
    """As `Studio.stream`."""

    def __call__(
        self, request: GenerationRequest, head: HeadKind | None
    ) -> Iterator[Progress | Generation]: ...


class Score(Protocol):
    """As `Studio.score`, for one prompt per clip."""

    def __call__(self, clips: Sequence[Clip], prompts: Sequence[str]) -> list[RewardScore]: ...


def make_series(
    stream: Stream, score: Score | None, tasks: Sequence[Task]
) -> Iterator[Progress | Made]:
    """Progress over all tasks, and each task's clip as soon as it is there.

    Closing the iterator stops the work within one step.

    Args:
        score: gives the rewards; None leaves them out.
    """
    total = sum(task.request.num_steps for task in tasks)
    done = 0
    for number, task in enumerate(tasks):
        name = f"clip {number + 1} of {len(tasks)}"
        try:
            for item in _one(stream, score, number, task):
                if isinstance(item, Progress):
                    yield Progress(done + item.step, total, f"{name}: {item.activity}")
                else:
                    yield item
        except TtmprefError as error:
            yield Made(number, task, None, error=str(error))
        done += task.request.num_steps


def _one(stream: Stream, score: Score | None, number: int, task: Task) -> Iterator[Progress | Made]:
    """Progress of one task, then what was made."""
    for item in stream(task.request, task.head):
        if isinstance(item, Progress):
            yield item
            continue
        if score is None:
            yield Made(number, task, item)
            continue
        steps = task.request.num_steps
        yield Progress(steps, steps, "scoring")
        (reward,) = score([item.clip], [task.request.prompt])
        card = dataclasses.replace(item.scores, reward=reward.reward)
        yield Made(number, task, dataclasses.replace(item, scores=card), reward)


TABLE = (
    "file", "prompt", "seed", "stage", "head", "score", "guidance", "num_steps", "reward",
    "reward_low", "reward_high", "clap_score", "lufs", "error",
)  # fmt: skip


def table_rows(made: Iterable[tuple[str, Made]]) -> list[dict[str, Any]]:
    """A row under `TABLE` per clip, for (name of its file, what was made); None where unknown."""
    return [_row(name, one) for name, one in made]


def _row(name: str, one: Made) -> dict[str, Any]:
    request, generation = one.task.request, one.generation
    scores = None if generation is None else generation.scores
    interval = None if one.reward is None else one.reward.interval
    low, high = interval or (None, None)
    values = {
        "file": name,
        "head": one.task.head or (generation.provenance["head"] if generation else None),
        "reward": scores and scores.reward,
        "reward_low": low,
        "reward_high": high,
        "clap_score": scores and scores.clap_score,
        "lufs": scores and scores.lufs,
        "error": one.error,
    }
    return {key: values[key] if key in values else getattr(request, key) for key in TABLE}
