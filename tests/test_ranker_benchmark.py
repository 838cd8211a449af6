"""The benchmark of the demo's reward: known rewards give known figures, and it runs whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.common import Setting
from benchmarks.ranker import (
    ORDER,
    STRENGTHS,
    fault_figures,
    fault_rewards,
    measured,
    order_figures,
    rank_correlations,
    vote_figures,
)
from training.corpus.degradations import KINDS
from training.corpus.vocabulary import GENRES, LEADS
from training.data import Corpus
from training.listeners import TAKES_PER_PROMPT, Heard, Listeners
from training.recipe import ListenersRecipe
from ttmpref.types import Preference

PIECES, SECONDS, RATE = 6, 1.2, 44_100


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Tones in noise that claim to be music of a few tags."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "cache").mkdir()
    rng, times = np.random.default_rng(0), np.arange(int(SECONDS * RATE)) / RATE
    tones = np.sin(2 * np.pi * np.geomspace(110, 1760, PIECES)[:, None] * times)
    waves = 6000 * tones + 1500 * rng.standard_normal(tones.shape)
    np.save(folder / "cache" / "waveforms.evaluation.npy", waves.astype(np.int16))
    leads, genres = list(LEADS), list(GENRES)
    rows = [
        {
            "id": i, "split": "evaluation", "file": f"{i}.flac", "seconds": SECONDS,
            "captions": [f"piece {i}"],
            "tags": {"lead": leads[i % 3], "genre": genres[i % 2], "tempo_class": "slow",
                     "tempo_bpm": 6000.0, "beats_per_bar": 4},
        }
        for i in range(PIECES)
    ]  # fmt: skip
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Corpus(folder, "evaluation")


def heard(advantages, targets) -> list[Heard]:
    return [
        Heard(Preference(str(i), "a", "b", "", target, "tests"), advantage)
        for i, (advantage, target) in enumerate(zip(advantages, targets, strict=True))
    ]


def values(figures) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures}


def test_the_share_of_the_way_is_that_of_accuracies_over_chance() -> None:
    truth = np.array([1.0, -1, 1, -1, 1, 1, 1, 1])
    targets = [1.0, 0, 1, 0, 1, 0.5, 1, 0]  # seven decisions; the truth foretells six
    margins = np.array([1.0, -1, 1, -1, -1, 1, 1, 1])  # five
    found = values(vote_figures(heard(truth, targets), margins))
    assert found["votes foretold"] == pytest.approx(5 / 7)
    assert found["votes foretold by the true utility"] == pytest.approx(6 / 7)
    way = found["share of the way from chance to the true utility"]
    assert way == pytest.approx((5 / 7 - 0.5) / (6 / 7 - 0.5))


def test_who_knows_the_utility_goes_the_whole_way_and_who_guesses_none(corpus) -> None:
    votes = []
    for seed in range(40):
        votes += Listeners(ListenersRecipe(seconds=0.5, seed=seed), corpus).votes(range(PIECES))
    assert len(votes) == 40 * PIECES * TAKES_PER_PROMPT
    truth = np.array([one.advantage for one in votes])
    name = "share of the way from chance to the true utility"
    (whole,) = (f for f in vote_figures(votes, truth) if f.name == name)
    assert whole.value == 1.0 and whole.interval == (1.0, 1.0) and whole.met
    guesses = np.random.default_rng(0).standard_normal(len(votes))
    (none,) = (f for f in vote_figures(votes, guesses) if f.name == name)
    assert none.interval[0] < 0.0 < none.interval[1] and not none.met


def test_rank_correlations_are_spearmans() -> None:
    rewards = np.random.default_rng(1).standard_normal((3, 4, len(STRENGTHS))).round(1)
    found = rank_correlations(rewards)
    for place in np.ndindex(3, 4):
        assert found[place] == pytest.approx(spearmanr(STRENGTHS, rewards[place]).statistic)
    assert rank_correlations(np.zeros((1, 1, len(STRENGTHS))))[0, 0] == 0.0


def test_every_fault_is_heard_beside_its_own_clean_piece(corpus) -> None:
    told = []

    def rate(clips, prompts):
        told.append((clips, prompts))
        return list(range(len(clips)))

    rewards = fault_rewards(corpus, RATE // 2, 2, rate)
    assert rewards.shape == (2, len(KINDS), len(STRENGTHS)) and not rewards[..., 0].any()
    faulty = np.arange(1, 1 + len(KINDS) * (len(STRENGTHS) - 1)).reshape(len(KINDS), -1)
    assert np.array_equal(rewards[1, :, 1:], faulty)
    clips, prompts = told[1]
    assert set(prompts) == {f"piece {PIECES - 1}"}
    assert all(not np.array_equal(clips[0].waveform, clip.waveform) for clip in clips[1:])


def test_rewards_that_fall_with_every_step_are_monotone_and_one_that_rises_is_not() -> None:
    falling = np.tile(-np.array(STRENGTHS), (3, len(KINDS), 1))
    figures = fault_figures(falling)
    found = values(figures)
    assert all(value == 1.0 for name, value in found.items() if "rank" in name)
    assert found["kinds of faults whose mean reward falls at every step"] == len(KINDS)
    falling[:, 0, 3] = 1.0
    spoiled = values(fault_figures(falling))
    assert spoiled["kinds of faults whose mean reward falls at every step"] == len(KINDS) - 1


def test_the_order_is_counted_and_measured_in_pairs() -> None:
    rewards = np.array([[3.0, 2.0, 1.0], [3.0, 4.0, 1.0], [5.0, 2.0, 2.0], [1.0, 0.0, 2.0]])
    found = values(order_figures(rewards))
    assert found["clean above generated, share of prompts"] == 0.75
    assert found["generated above noise, share of prompts"] == 0.5
    assert found["clean above noise, mean difference of reward"] == 1.5


def test_the_whole_benchmark_runs_on_a_small_preset(corpus, scoring_preset, tmp_path) -> None:
    setting = Setting(str(scoring_preset), corpus.folder, tmp_path, tmp_path, clips=2)
    report = measured(setting, ListenersRecipe(seconds=1.0))
    names = [figure.name for figure in report.figures]
    assert len(names) == len(set(names)) == 4 + 2 + len(KINDS) + 6
    assert all(np.isfinite(figure.value) for figure in report.figures)
    assert report.recipe["prompts"] == 2 and report.recipe["degraded_pieces"] == 1
    assert set(report.details["mean_reward_by_strength"]) == set(KINDS)
    assert len(ORDER) == 3
