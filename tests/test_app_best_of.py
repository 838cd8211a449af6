"""The best of several clips on the Generate tab: asked for, marked, compared, cancelled."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from tests.test_app import Marks, a_page, field_values
from ttmpref.studio import Studio
from ttmpref.types import GenerationRequest, InvalidRequest, MissingWeights
from ttmpref.ui import form, plots, words
from ttmpref.ui.run import Run


@pytest.fixture(scope="module")
def studio(scoring_preset: Path) -> Studio:
    return Studio.open(str(scoring_preset), "cpu")


def wish(studio: Studio, n: int = 3, **settings: object) -> form.BestOf:
    return form.BestOf(studio.request("calm piano", seed=7, **settings), n)


def test_the_switch_turns_variations_into_candidates(studio: Studio) -> None:
    values = field_values(seed="7", lock=True, variations=4, best_of=True, candidates=5.0)
    order = form.read_order(studio, values)
    assert isinstance(order, form.BestOf) and order.n == 5 and order.request.seed == 7
    assert isinstance(form.read_order(studio, field_values()), GenerationRequest)


@pytest.mark.parametrize("candidates", [1, 17])
def test_too_few_or_many_candidates_are_named(studio: Studio, candidates: int) -> None:
    with pytest.raises(InvalidRequest, match=f"^candidates is {candidates}; .* from 2 to 16"):
        form.read_order(studio, field_values(best_of=True, candidates=candidates))


def test_without_a_ranker_the_switch_is_refused_with_the_reason(tiny_preset: Path) -> None:
    plain = Studio.open(str(tiny_preset), "cpu")
    with pytest.raises(MissingWeights, match="^best of cannot be used: preset 'tiny' has no"):
        form.read_order(plain, field_values(best_of=True))
    assert form.read_order(plain, field_values()).prompt == "calm piano"


def test_all_candidates_are_shown_with_rewards_and_the_winner_first(studio: Studio) -> None:
    page = a_page(studio)
    updates = list(page.stream(Run(wish(studio))))
    (shown,) = (update for update in updates if page.clips in update)
    cards = [card["html"] for card in shown[page.clips]]
    rewards = [one.scores.reward for one in list(studio.choose(wish(studio).request, 3))[-1].kept]
    assert rewards == sorted(rewards, reverse=True) and len(cards) == 3
    assert [card.count("Best of 3") for card in cards] == [1, 0, 0]
    assert all("<dt>Reward</dt>" in card for card in cards)
    assert {f"Clip with seed {seed}" in "".join(cards) for seed in (7, 8, 9)} == {True}
    assert "Best of 3: seed" in shown[page.choice] and Marks(shown[page.choice]).open == []
    assert "3 clips ready" in updates[-1][page.status]
    assert updates[-1][page.start]["interactive"] is True


def test_a_cancelled_choice_shows_no_clip_and_says_so(studio: Studio) -> None:
    page, run = a_page(studio), Run(wish(studio, 16, num_steps=200))
    updates = page.stream(run)
    while "step 0" in next(updates)[page.status]:
        pass
    assert page.stop(run) == {page.status: gr.skip()}
    rest = list(updates)
    assert words.stopped_choosing() == rest[-1][page.status]
    assert all(page.clips not in update for update in rest)


def test_a_run_of_variations_takes_the_last_choice_away(studio: Studio) -> None:
    page = a_page(studio)
    updates = list(page.stream(Run(studio.request("calm piano", seed=7))))
    (shown,) = (update for update in updates if page.clips in update)
    assert shown[page.choice] == ""
    assert "Best of" not in shown[page.clips][0]["html"]


def test_the_expected_rewards_rise_to_the_largest(studio: Studio) -> None:
    *_, choice = studio.choose(wish(studio).request, 3)
    rewards = [candidate.reward for candidate in choice.candidates]
    assert choice.expected[0] == pytest.approx(np.mean(rewards))
    assert choice.expected[-1] == pytest.approx(max(rewards))


@pytest.mark.parametrize("expected", [[0.0, 0.5, 0.75], [1.0, 1.0], list(range(16))])
def test_the_curve_runs_from_corner_to_corner(expected: list[float]) -> None:
    html = plots.expectation_plot(expected)
    assert Marks(html).open == [] and "nan" not in html
    points = html.split('points="')[1].split('"')[0].split()
    assert len(points) == len(expected)
    if expected[0] < expected[-1]:
        assert (points[0], points[-1]) == ("0,1.000", f"{len(expected) - 1},0.000")
