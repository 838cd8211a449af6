"""Clips made together are the clips made alone."""

from __future__ import annotations

import numpy as np
import pytest

from ttmpref.studio import Studio
from ttmpref.types import InvalidRequest

PROMPTS = ("calm piano", "loud drums and bass", "a bright synthesizer")


@pytest.fixture(scope="module")
def studio(tiny_preset):
    return Studio.open(str(tiny_preset), "cpu")


@pytest.mark.parametrize(
    ("stage", "head"), [("baseline", None), ("scored", None), ("scored", "input_add")]
)
def test_clips_of_a_batch_are_those_made_alone(studio, stage, head):
    requests = [studio.request(p, seed=5 + i, stage=stage) for i, p in enumerate(PROMPTS)]
    together = studio.batch(requests, head)
    for request, clip in zip(requests, together, strict=True):
        (alone,) = studio.generate(request, head=head)
        assert clip.sample_rate == alone.clip.sample_rate
        np.testing.assert_allclose(clip.waveform, alone.clip.waveform, atol=1e-3)


@pytest.mark.parametrize("change", [{"score": 1.0}, {"guidance": 1.5}, {"variations": 2}])
def test_a_batch_of_requests_that_differ_in_more_is_refused(studio, change):
    first = studio.request("calm piano", seed=1)
    with pytest.raises(InvalidRequest, match="prompt and seed alone"):
        studio.batch([first, studio.request("slow jazz", seed=2, **change)])


def test_without_a_ranker_clap_alone_is_heard(studio):
    assert studio.hearing().blocks == ("clap_audio", "clap_text")


def test_with_a_ranker_what_it_reads_is_heard(scoring_preset):
    found = Studio.open(str(scoring_preset), "cpu")
    assert found.hearing() is found.scorer().parts.features
