"""A clip improved on the Generate tab: asked for, drawn as it climbs, kept beside what it was."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.test_app import Marks, a_page, field_values
from ttmpref.studio import Studio
from ttmpref.types import InvalidRequest, MissingWeights
from ttmpref.ui import form, generate, plots
from ttmpref.ui.run import Run

WISH = {"seed": "7", "lock": True, "optimise": True, "num_steps": 2, "variations": 4}


@pytest.fixture(scope="module")
def studio(scoring_preset: Path) -> Studio:
    return Studio.open(str(scoring_preset), "cpu")


def wish(studio: Studio, **changes: object) -> form.Climb:
    return form.read_order(studio, field_values(**WISH | changes))


def test_the_switch_asks_for_one_clip_and_goes_with_no_other(studio: Studio) -> None:
    order = wish(studio)
    assert isinstance(order, form.Climb) and order.request.variations == 1
    for other in ("best_of", "sweep"):
        with pytest.raises(InvalidRequest, match="^optimise cannot go with"):
            wish(studio, **{other: True})


def test_without_a_ranker_it_is_refused_with_the_reason(tiny_preset: Path) -> None:
    with pytest.raises(MissingWeights, match="^optimise cannot be used: preset 'tiny' has no"):
        wish(Studio.open(str(tiny_preset), "cpu"))


def test_rewards_are_drawn_as_they_come_and_both_clips_are_kept(studio: Studio) -> None:
    page = a_page(studio)
    updates = list(page.stream(Run(wish(studio))))
    drawn = [update[page.choice] for update in updates if page.choice in update]
    assert len(drawn) == generate.UPDATES + 2  # the start, every update, and the end
    assert all(Marks(plot).open == [] for plot in drawn)
    (cards,) = (update[page.clips] for update in updates if page.clips in update)
    assert ["Optimised" in card["html"] for card in cards] in ([True, False], [False])
    assert "Gained" in drawn[-1] and "data-optimise" in cards[0]["html"]
    assert "ready" in updates[-1][page.status]


def test_a_card_asks_for_its_own_clip_improved(studio: Studio) -> None:
    settings = studio.request("calm piano", seed=7).to_dict()
    event = SimpleNamespace(settings=json.dumps(settings), optimise=True)
    order = form.read_order(studio, a_page(studio).use_all(event))
    assert order == form.Climb(studio.request("calm piano", seed=7))


def test_cards_offer_nothing_where_clips_cannot_be_scored(tiny_preset: Path) -> None:
    plain = Studio.open(str(tiny_preset), "cpu")
    page = a_page(plain)
    updates = list(page.stream(Run(plain.request("calm piano", seed=7))))
    (cards,) = (update[page.clips] for update in updates if page.clips in update)
    assert "data-optimise" not in cards[0]["html"]


def test_a_curve_of_one_point_is_drawn() -> None:
    html = plots.climb_plot({0: 1.5}, 6)
    assert Marks(html).open == [] and "nan" not in html
