"""Low memory: parts take turns, and clips are the same."""

import gc

import pytest
import torch

from ttmpref.config import load_preset
from ttmpref.idle import Guest, Room
from ttmpref.studio import Studio


class Part:
    alive = 0

    def __init__(self, name: str) -> None:
        self.name = name
        Part.alive += 1

    def __del__(self) -> None:
        Part.alive -= 1


@pytest.fixture(autouse=True)
def nothing_of_another_test_is_alive() -> None:
    gc.collect()
    assert Part.alive == 0


def test_one_part_is_in_memory_and_it_is_built_when_it_is_asked() -> None:
    room, built = Room(), []

    def guest(name: str) -> Guest:
        return Guest(room, lambda: built.append(name) or Part(name))

    first, second = guest("first"), guest("second")
    assert Part.alive == 0
    assert (first.name, first.name, second.name, first.name) == (
        "first",
        "first",
        "second",
        "first",
    )
    assert Part.alive == 1 and built == ["first", "second", "first"]


def test_a_part_that_cannot_be_built_leaves_the_room_empty() -> None:
    room = Room()
    good = Guest(room, lambda: Part("good"))
    bad = Guest(room, lambda: 1 / 0)
    assert good.name == "good"
    with pytest.raises(ZeroDivisionError):
        _ = bad.name
    assert Part.alive == 0 and good.name == "good"


def test_clips_and_rewards_of_low_memory_are_the_same(scoring_preset) -> None:
    preset = load_preset(str(scoring_preset))
    made = []
    for low_memory in (False, True):
        studio = Studio(preset.model_copy(update={"low_memory": low_memory}), "cpu")
        request = studio.request("calm piano", seed=1, stage="scored", negative_prompt="noise")
        (generation,) = studio.generate(request)
        (reward,) = studio.score([generation.clip], "calm piano")
        made.append((torch.from_numpy(generation.clip.waveform), generation.scores, reward))
    assert torch.equal(made[0][0], made[1][0])
    assert made[0][1:] == made[1][1:]
