"""Several clips in a row: what they share, what fails, and weights under other heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from ttmpref.series import TABLE, Made, Task, make_series, table_rows
from ttmpref.studio import Studio
from ttmpref.types import (
    Clip,
    Generation,
    GenerationRequest,
    InvalidRequest,
    Progress,
    RewardScore,
    ScoreCard,
    TtmprefError,
)

STAGES = ("baseline", "scored")


@pytest.fixture(scope="module")
def studio(scoring_preset: Path) -> Studio:
    return Studio.open(str(scoring_preset), "cpu")


def made_of(studio: Studio, tasks: Sequence[Task]) -> list[Made]:
    return [item for item in studio.series(tasks) if isinstance(item, Made)]


def a_stream(request: GenerationRequest, head: str | None) -> Iterator[Progress | Generation]:
    """Two ticks and a second of silence; fails for one prompt."""
    yield Progress(0, request.num_steps, "reading the prompt")
    if request.prompt == "impossible":
        raise TtmprefError("it cannot be made")
    yield Progress(request.num_steps, request.num_steps, "sampling")
    clip = Clip(np.zeros((1, 8_000), np.float32), 8_000)
    yield Generation(request, clip, ScoreCard(None, None, 1.0), {"head": "none"}, 0.1)


def a_request(prompt: str = "calm piano", **changes: object) -> GenerationRequest:
    return dataclasses.replace(GenerationRequest(prompt, 7, "s", 2.0, 3.0, 4, ""), **changes)


def test_progress_never_falls_and_ends_at_the_sum_of_all_steps() -> None:
    tasks = [Task(a_request(num_steps=steps)) for steps in (4, 2, 3)]
    ticks = [item for item in make_series(a_stream, None, tasks) if isinstance(item, Progress)]
    assert [tick.step for tick in ticks] == sorted(tick.step for tick in ticks)
    assert {tick.num_steps for tick in ticks} == {9} and ticks[-1].step == 9
    assert ticks[0].activity == "clip 1 of 3: reading the prompt"


def test_what_fails_is_said_in_its_place_and_the_rest_is_made() -> None:
    prompts = ("calm piano", "impossible", "loud drums")
    made = [
        item
        for item in make_series(a_stream, None, [Task(a_request(prompt)) for prompt in prompts])
        if isinstance(item, Made)
    ]
    assert [one.number for one in made] == [0, 1, 2]
    assert [one.error for one in made] == ["", "it cannot be made", ""]
    assert made[1].generation is None
    assert [one.generation.request.prompt for one in made[::2]] == ["calm piano", "loud drums"]


def test_a_clip_of_a_series_is_made_alone() -> None:
    with pytest.raises(InvalidRequest, match="^variations is 2"):
        Task(a_request(variations=2))


def test_every_clip_comes_with_the_reward_that_scoring_it_alone_gives(studio: Studio) -> None:
    tasks = [Task(studio.request("calm piano", seed=7, stage=name)) for name in STAGES]
    made = made_of(studio, tasks)
    assert [one.task.request.stage for one in made] == list(STAGES)
    for one in made:
        (alone,) = studio.score([one.generation.clip], "calm piano", timeline=False)
        assert isinstance(one.reward, RewardScore) and one.reward.reward == alone.reward
        assert one.generation.scores.reward == alone.reward


def test_a_clip_of_a_series_is_the_clip_that_generate_makes(studio: Studio) -> None:
    request = studio.request("calm piano", seed=7, stage="scored")
    (made,) = made_of(studio, [Task(request)])
    (alone,) = studio.generate(request)
    assert np.array_equal(made.generation.clip.waveform, alone.clip.waveform)


def test_without_a_ranker_clips_come_without_rewards(tiny_preset: Path) -> None:
    plain = Studio.open(str(tiny_preset), "cpu")
    (made,) = made_of(plain, [Task(plain.request("calm piano", seed=7))])
    assert made.reward is None and made.generation.scores.reward is None


def test_the_same_weights_sound_different_under_another_head(studio: Studio) -> None:
    request = studio.request("calm piano", seed=7, stage="scored")
    tasks = [Task(request), Task(request, "global_adaln"), Task(request, "input_add")]
    own, named, other = (one.generation for one in made_of(studio, tasks))
    assert np.array_equal(own.clip.waveform, named.clip.waveform)
    assert not np.array_equal(own.clip.waveform, other.clip.waveform)
    assert own.provenance["head"] == "global_adaln" and other.provenance["head"] == "input_add"
    assert own.provenance["weights"] == other.provenance["weights"]


def test_a_sidecar_of_another_head_is_replayed_under_that_head(
    studio: Studio, tmp_path: Path
) -> None:
    request = studio.request("calm piano", seed=7, stage="scored")
    (made,) = studio.generate(request, head="input_add")
    path = studio.save(made, tmp_path / "clip.wav")
    (again,) = studio.replay(path.with_suffix(".json"))
    assert np.array_equal(made.clip.waveform, again.clip.waveform)


@pytest.mark.parametrize(
    ("stage", "head"), [("baseline", "input_add"), ("scored", "none"), ("scored", "v9")]
)
def test_heads_that_do_not_fit_are_refused_with_those_that_do(
    studio: Studio, stage: str, head: str
) -> None:
    request = studio.request("calm piano", seed=7, stage=stage)
    with pytest.raises(InvalidRequest, match=f"^head is '{head}'; accepted: "):
        studio.generate(request, head=head)


def test_a_row_of_the_table_holds_request_measurements_and_failures(studio: Studio) -> None:
    made = made_of(
        studio, [Task(studio.request("calm piano", seed=7, stage="scored"), "input_add")]
    )
    failed = Made(1, Task(a_request()), None, error="it cannot be made")
    first, second = table_rows([("1.wav", made[0]), ("", failed)])
    assert tuple(first) == tuple(second) == TABLE
    assert first["head"] == "input_add" and first["reward"] == made[0].reward.reward
    assert (first["reward_low"], first["reward_high"]) == made[0].reward.interval
    assert second["error"] == "it cannot be made" and second["reward"] is None
