"""The ranker against people: fake rankers whose right answers are known (acceptance check 27)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from ttmpref.metrics import calibration_error, calibration_null, reliability
from ttmpref.study.bootstrap import Bootstrap
from ttmpref.study.simulation import Design, Population, simulate, simulations
from ttmpref.study.validity import Scores, Validity, best_accuracy, validity
from ttmpref.study.votes import InvalidVotes, Votes

QUICK = Bootstrap(resamples=150)
DESIGN = Design((("a", "b"), ("b", "c"), ("a", "c")), 30, 30, 20, repeats=2)


def rewards(seed: int = 0) -> np.ndarray:
    """(prompts, systems) true log strengths, spread as rewards are."""
    return np.random.default_rng(seed).normal(0.0, 0.9, (DESIGN.prompts, 3)) + [0.0, 0.2, 0.4]


def scores(votes: Votes, values: np.ndarray, **columns: np.ndarray) -> Scores:
    """Scores of the clips `system/prompt` from (prompts, systems) values."""
    names = [f"{system}/p{p:04d}" for p in range(len(values)) for system in DESIGN.systems]
    frame = pd.DataFrame({"stimulus": names, "reward": values.ravel()})
    more = {name: np.asarray(column).ravel() for name, column in columns.items()}
    return Scores.from_frame(frame.assign(**more), votes)


@pytest.fixture(scope="module")
def listened() -> Votes:
    """Votes whose log odds are exactly the differences of the rewards."""
    return simulate(DESIGN, Population(ties=0.1, both_bad=0.05), 1, rewards())


@pytest.fixture(scope="module")
def found(listened: Votes) -> Validity:
    stage = np.tile([0.0, 1.0, 2.0], (DESIGN.prompts, 1))
    noise = np.random.default_rng(9).normal(0.0, 1.0, rewards().shape)
    return validity(
        listened,
        scores(
            listened, rewards(), stage=stage, clap_score=rewards() + noise,
            lufs=np.full(rewards().shape, -16.5), selected=stage > 0,
        ),
        QUICK,
    )  # fmt: skip


def test_27_a_calibrated_ranker_has_slope_one_and_reaches_the_ceiling(found: Validity) -> None:
    slope = found.calibration.slope
    assert abs(slope.value - 1.0) <= 2.5 * slope.se
    assert found.calibration.within_null
    assert abs(found.calibration.stage_bias.value) <= 2.5 * found.calibration.stage_bias.se
    assert abs(found.calibration.side_bias.value) <= 2.5 * found.calibration.side_bias.se
    ceiling = found.ceiling
    assert found.accuracy.value == pytest.approx(ceiling.from_agreement.value, abs=0.05)
    assert ceiling.leave_one_out.value <= found.accuracy.value + 0.02
    assert found.of_ceiling.value == pytest.approx(
        found.accuracy.value / ceiling.leave_one_out.value, abs=0.03
    )


def test_27_a_calibrated_ranker_stays_in_its_null_band_95_percent_of_the_time() -> None:
    margins = np.random.default_rng(0).normal(0.0, 1.2, 400)
    limit = calibration_null(margins, draws=300)[1]
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(200):
        wins = rng.random(400) < 1 / (1 + np.exp(-margins))
        inside.append(calibration_error(reliability(margins, wins)) <= limit)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.04)


def test_27_an_inverted_ranker_is_wrong_where_the_ranker_was_right(
    listened: Votes, found: Validity
) -> None:
    inverted = validity(listened, scores(listened, -rewards()), QUICK)
    assert inverted.accuracy.value == pytest.approx(1 - found.accuracy.value)
    assert inverted.majority_accuracy.value == pytest.approx(1 - found.majority_accuracy.value)
    assert inverted.auc.value == pytest.approx(1 - found.auc.value)
    slopes = inverted.calibration.slope.value, found.calibration.slope.value
    assert slopes[0] == pytest.approx(-slopes[1], abs=0.02)
    assert not inverted.calibration.within_null
    assert inverted.calibration.stage_bias is None


def test_27_an_overconfident_ranker_has_a_slope_below_one(listened: Votes) -> None:
    loud = validity(listened, scores(listened, 3 * rewards()), QUICK)
    assert loud.calibration.slope.value == pytest.approx(1 / 3, abs=0.08)
    assert not loud.calibration.within_null


def test_24_brier_log_loss_and_auc_by_hand() -> None:
    frame = pd.DataFrame(
        [("v0", "r0", "p0", "x", "y", "A"), ("v1", "r1", "p1", "x", "y", "B")],
        columns=["vote_id", "rater", "prompt", "system_a", "system_b", "answer"],
    )
    votes = Votes.from_frame(frame)
    log3 = math.log(3.0)  # claims 3/4
    rows = [("x/p0", log3), ("y/p0", 0.0), ("x/p1", log3), ("y/p1", 0.0)]
    one_right = validity(
        votes, Scores.from_frame(pd.DataFrame(rows, columns=["stimulus", "reward"]), votes), QUICK
    )
    assert one_right.accuracy.value == 0.5 and one_right.auc.value == 0.5
    assert one_right.brier.value == pytest.approx((0.25**2 + 0.75**2) / 2)
    assert one_right.log_loss.value == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    assert one_right.ceiling.leave_one_out.note.startswith("not estimable")


@pytest.mark.parametrize("a", [0.5, 1.0, 4.0])
def test_24_the_ceiling_of_an_agreement_is_that_of_a_beta(a: float) -> None:
    agreement = (a + 1) / (2 * a + 1)
    preferences = np.random.default_rng(0).beta(a, a, 400_000)
    best = np.maximum(preferences, 1 - preferences).mean()
    assert best_accuracy(agreement) == pytest.approx(best, abs=2e-3)
    assert best_accuracy(0.4) == 0.5 and best_accuracy(1.0) == 1.0


def test_dumb_rankers_are_measured_on_the_same_votes(found: Validity) -> None:
    clap, loudness, later = found.baselines
    assert loudness.accuracy.value == 0.5  # all alike: it says nothing
    assert loudness.gain.value == pytest.approx(found.accuracy.value - 0.5)
    for one in (clap, later):
        assert one.accuracy.n == found.accuracy.n
        assert one.gain.value == pytest.approx(found.accuracy.value - one.accuracy.value)
    assert found.accuracy.value > clap.accuracy.value > 0.5


def test_strata_partition_the_votes(found: Validity) -> None:
    by = {}
    for one in found.strata:
        by.setdefault(one.by, []).append(one)
    for parts in by.values():
        assert sum(one.accuracy.n for one in parts) == found.accuracy.n
    assert [one.label for one in by["systems"]] == ["a / b", "a / c", "b / c"]
    claims = [one.confidence for one in by["margin"]]
    assert claims == sorted(claims)
    assert {one.label for one in by["selection"]} == {"one clip selected", "both clips selected"}


def test_bins_of_the_reliability_diagram_carry_their_n_and_interval(found: Validity) -> None:
    for one in found.calibration.bins:
        assert one.accuracy.n == one.claimed.n
        assert one.accuracy.value == pytest.approx(one.claimed.accuracy)
        assert one.accuracy.low <= one.accuracy.value <= one.accuracy.high


def test_27_votes_that_say_nothing_about_the_ranker_give_no_result(listened: Votes) -> None:
    nothing = listened.where(np.zeros(len(listened), bool))
    ties = dataclasses.replace(listened, answer=np.full(len(listened), 2))
    for votes in (nothing, ties):
        assert validity(votes, scores(votes, rewards()), QUICK) is None
    assert validity(listened, Scores({}), QUICK) is None
    unknown = scores(listened, np.full(rewards().shape, np.nan))
    assert validity(listened, unknown, QUICK) is None


def test_27_one_rater_or_one_pair_gives_values_without_intervals(listened: Votes) -> None:
    one_rater = listened.where(listened.rater == 0)
    found = validity(one_rater, scores(listened, rewards()), QUICK)
    assert found.accuracy.value is not None and found.accuracy.low is None
    first = (listened.prompt == 0) & (listened.system_a + listened.system_b == 1)
    found = validity(listened.where(first), scores(listened, rewards()), QUICK)
    assert found.accuracy.note == "no interval: one prompt"


def test_27_agreement_with_a_random_ranker_is_a_coin() -> None:
    rng = np.random.default_rng(5)
    people = Population(ties=0.1)
    values = [
        validity(votes, scores(votes, rng.normal(size=rewards().shape)), Bootstrap(20)).accuracy
        for votes in simulations(DESIGN, people, 4, utility=rewards())
    ]
    assert np.mean([one.value for one in values]) == pytest.approx(0.5, abs=0.06)


def test_wrong_scores_are_refused_in_one_line(listened: Votes) -> None:
    with pytest.raises(InvalidVotes, match="no column 'stimulus'"):
        Scores.from_frame(pd.DataFrame({"reward": [1.0]}), listened)
    with pytest.raises(InvalidVotes, match="'a/p0000' has two rows"):
        Scores.from_frame(pd.DataFrame({"stimulus": ["a/p0000"] * 2, "reward": [1, 2]}), listened)
