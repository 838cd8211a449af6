"""The nouns check themselves, and say in one line what was wrong and what is accepted."""

import json
import math

import numpy as np
import pytest

from ttmpref.types import (
    Clip,
    Generation,
    GenerationRequest,
    InvalidRequest,
    ScoreCard,
    StageInfo,
    TtmprefError,
)

GOOD = {
    "prompt": "calm piano",
    "seed": 1,
    "stage": "baseline",
    "score": 2.0,
    "guidance": 4.0,
    "num_steps": 25,
    "negative_prompt": "",
}


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("prompt", "", "empty"),
        ("prompt", " \n\t ", "empty"),
        ("prompt", "x" * 10_000, "10000"),
        ("prompt", "a\x00b", r"\x00"),
        ("prompt", "a\x1b[31m", r"\x1b"),
        ("prompt", "a\x7f", r"\x7f"),
        ("prompt", "\ud83c", "surrogate"),
        ("prompt", None, "NoneType"),
        ("negative_prompt", "x" * 2_001, "2001"),
        ("seed", -1, "-1"),
        ("seed", 2**63, str(2**63)),
        ("seed", 1.5, "1.5"),
        ("seed", True, "True"),
        ("score", math.nan, "nan"),
        ("score", math.inf, "inf"),
        ("score", 10.1, "10.1"),
        ("score", "5", "'5'"),
        ("guidance", -0.1, "-0.1"),
        ("guidance", math.nan, "nan"),
        ("guidance", 16, "16"),
        ("num_steps", 0, "0"),
        ("num_steps", 201, "201"),
        ("num_steps", 2.0, "2.0"),
        ("variations", 0, "0"),
        ("variations", 9, "9"),
        ("solver", "rk4", "'rk4'"),
        ("guidance_schedule", "cosine", "'cosine'"),
        ("separation_passes", -1, "-1"),
        ("separation_passes", 1.5, "1.5"),
        ("normalise_loudness", "yes", "'yes'"),
        ("target_lufs", 1.0, "1.0"),
        ("target_lufs", math.nan, "nan"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(field, value, named):
    with pytest.raises(InvalidRequest) as caught:
        GenerationRequest(**{**GOOD, field: value})
    message = str(caught.value)
    assert named in message
    assert field.split("_")[0] in message
    assert "\n" not in message and len(message) < 200


@pytest.mark.parametrize("prompt", ["🎹🎶 funk", "古琴", "tab\tand\nline", "é" * 2_000])
def test_any_printable_text_is_a_prompt(prompt):
    assert GenerationRequest(**{**GOOD, "prompt": prompt}).prompt == prompt


def test_the_ends_of_every_range_are_accepted():
    for field, value in [("seed", 2**63 - 1), ("score", -2), ("guidance", 0), ("num_steps", 200)]:
        GenerationRequest(**{**GOOD, field: value})


def test_every_error_meant_for_people_is_one_family():
    assert issubclass(InvalidRequest, TtmprefError) and issubclass(InvalidRequest, ValueError)


@pytest.mark.parametrize(
    ("waveform", "rate"),
    [
        (np.zeros(10, np.float32), 44_100),
        (np.zeros((9, 10), np.float32), 44_100),
        (np.zeros((0, 10), np.float32), 44_100),
        (np.zeros((1, 10), np.float64), 44_100),
        (np.zeros((1, 10), np.float32), 0),
    ],
)
def test_a_clip_checks_its_shape_type_and_rate(waveform, rate):
    with pytest.raises(ValueError, match="Clip"):
        Clip(waveform, rate)


def test_a_clip_knows_its_length_and_mono_mix():
    clip = Clip(np.stack([np.ones(100, np.float32), np.zeros(100, np.float32)]), 50)
    assert (clip.channels, clip.samples, clip.seconds) == (2, 100, 2.0)
    assert np.array_equal(clip.mono, np.full(100, 0.5, np.float32))


def test_a_sidecar_is_json_and_holds_the_whole_request():
    request = GenerationRequest(**GOOD)
    clip = Clip(np.zeros((1, 10), np.float32), 10)
    generation = Generation(request, clip, ScoreCard(None, None, 1.0), {"preset": "demo"}, 0.1234)
    sidecar = json.loads(json.dumps(generation.sidecar(), allow_nan=False))
    assert GenerationRequest(**sidecar["request"]) == request
    assert sidecar["provenance"] == {"preset": "demo"}


def test_a_stage_takes_a_score_only_with_a_head_and_is_available_only_without_a_reason():
    assert not StageInfo("a", "A", "none", None, None).takes_score
    assert StageInfo("a", "A", "input_add", None, None).takes_score
    assert not StageInfo("a", "A", "none", None, "not trained").available
