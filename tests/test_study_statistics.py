"""The statistics of listening studies: closed forms, published examples, coverage, recovery.

Names carry the number of the acceptance check of the specification, section 7.4. Sizes are reduced;
`python -m benchmarks.study_statistics` runs checks 25 and 28 in full.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest

from ttmpref.metrics import wilson_interval
from ttmpref.study import bradley_terry
from ttmpref.study.agreement import (
    alpha,
    cohen_kappa,
    krippendorff,
    mean_pairwise_kappa,
    quality,
    ratings,
    self_consistency,
)
from ttmpref.study.bootstrap import Bootstrap, Estimate, exact_interval, share, shares
from ttmpref.study.definition import Exclusion
from ttmpref.study.logit import mixed_logit, weighted_logits
from ttmpref.study.power import (
    binomial_power,
    half_width,
    power,
    votes_for_equivalence,
    votes_for_power,
)
from ttmpref.study.sequential import (
    confidence_sequence,
    evidence,
    log_e_values,
)
from ttmpref.study.simulation import (
    COVERAGE_DESIGNS,
    Crowd,
    Design,
    Population,
    simulate,
    simulations,
    with_duplicates,
)
from ttmpref.study.statistics import (
    binomial_p,
    contrast,
    equivalence,
    holm,
    sharp_null,
    side_effect,
    slope,
)
from ttmpref.study.votes import InvalidVotes, NoSuchSystem, Votes
from ttmpref.types import InvalidRequest

QUICK = Bootstrap(resamples=200)
PAIR = (("x", "y"),)
RULES = Exclusion(attention_failed_ge=2, median_rt_ms_lt=4000, one_side_share_gt=0.95)


def table(*rows: tuple[str, str, str, str, str], **columns: list) -> Votes:
    """Votes of (rater, prompt, system A, system B, answer)."""
    frame = pd.DataFrame(rows, columns=["rater", "prompt", "system_a", "system_b", "answer"])
    frame.insert(0, "vote_id", [f"v{i}" for i in range(len(rows))])
    return Votes.from_frame(frame.assign(**columns))


def preference_share(votes: Votes, bootstrap: Bootstrap) -> Estimate:
    preferred = votes.prefers("y")
    return share((preferred > 0).astype(float), preferred != 0, votes, bootstrap)


# --- the votes table


def test_a_table_survives_the_way_through_a_frame_and_duplicates_count_once() -> None:
    votes = simulate(Design(PAIR, 12, 6, 8, attention=2, repeats=2), Population(ties=0.2), 1)
    frame = votes.to_frame()
    for again in (frame, with_duplicates(frame, 0.3).sort_values("vote_id")):
        read = Votes.from_frame(again)
        rows = np.argsort(read.vote_id)
        expected = np.argsort(votes.vote_id)
        for name in ("answer", "rater", "system_a", "position", "expected", "first_on_a"):
            assert (getattr(read, name)[rows] == getattr(votes, name)[expected]).all()
        firsts = read.vote_id[read.repeat_of[read.repeat_of >= 0]]
        assert sorted(firsts) == sorted(votes.vote_id[votes.repeat_of[votes.repeat_of >= 0]])


def test_votes_stand_in_order_of_arrival_and_grades_say_the_answer() -> None:
    votes = table(
        ("r", "p", "x", "y", ""),
        ("r", "q", "x", "y", ""),
        answered_at=["2030-01-02T00:00:00Z", "2030-01-01T00:00:00.5Z"],
        grade=[2, -1],
    )
    assert votes.vote_id.tolist() == ["v1", "v0"]
    assert votes.answer.tolist() == [0, 1]
    assert contrast(votes, "x", "y", QUICK).grade.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": ["C"]}, "answer is 'C'; accepted: A, B, TIE, BOTH_BAD"),
        ({"kind": ["big"]}, "kind is 'big'; accepted: main"),
        ({"grade": [4]}, "grade is 4; accepted: -3 to 3"),
        ({"seconds": ["soon"]}, "seconds is 'soon'; finite numbers"),
        ({"repeat_of": ["v9"]}, "repeat_of is 'v9'; the vote_id of a row"),
        ({"answered_at": ["today"]}, "answered_at is 'today'; ISO 8601"),
        ({"side_probability": [0.0]}, "side_probability is 0; above 0"),
        ({"rater": [""]}, "a rater is empty"),
        ({"system_b": ["x"]}, "compares a clip with itself"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(change: dict, said: str) -> None:
    with pytest.raises(InvalidVotes, match=said) as error:
        table(("r", "p", "x", "y", "A"), **change)
    assert "\n" not in str(error.value)


def test_missing_columns_conflicting_ids_and_unknown_systems_are_named() -> None:
    with pytest.raises(InvalidVotes, match="no column 'answer'"):
        Votes.from_frame(table(("r", "p", "x", "y", "A")).to_frame().drop(columns="answer"))
    with pytest.raises(InvalidVotes, match="vote_id 'v0' occurs in rows that differ"):
        rows = [("r", "p", "x", "y", "A"), ("r", "p", "x", "y", "B")]
        table(*rows, vote_id=["v0", "v0"])
    with pytest.raises(NoSuchSystem, match="'z' has no votes; systems with votes: x, y"):
        contrast(table(("r", "p", "x", "y", "A")), "x", "z", QUICK)


# --- 24: closed forms and published examples


def test_24_wilson_and_exact_intervals_and_the_binomial_test_match_their_definitions() -> None:
    for hits, n in ((0, 9), (3, 10), (40, 60), (17, 17)):
        test = binomtest(hits, n)
        wilson, exact = (test.proportion_ci(method=m) for m in ("wilson", "exact"))
        assert wilson_interval(hits, n, 1.959964) == pytest.approx(tuple(wilson), abs=1e-6)
        assert exact_interval(hits, n) == pytest.approx(tuple(exact), abs=1e-9)
        assert binomial_p(hits, n) == pytest.approx(test.pvalue)


def fitted(counts: np.ndarray, cells: np.ndarray, systems: int) -> np.ndarray:
    return bradley_terry.davidson(counts.astype(float), cells, systems)


def test_24_davidson_on_two_systems_is_its_closed_form() -> None:
    """log strength ratio = log(wins / losses), nu = ties / sqrt(wins losses)."""
    cells = np.array([[0, 1], [1, 0]])  # as often on either side, so no side effect
    counts = 1000 * np.array([[30, 20, 15], [20, 30, 15]])
    low, high, side, tie = fitted(counts, cells, 2)
    assert low - high == pytest.approx(math.log(30 / 20), abs=1e-4)
    assert side == pytest.approx(0.0, abs=1e-6)
    assert math.exp(tie) == pytest.approx(15 / math.sqrt(30 * 20), abs=1e-4)


def test_24_davidson_and_the_side_effect_maximise_the_likelihood_as_written_down() -> None:
    rng = np.random.default_rng(3)
    cells = np.array([[i, j] for i in range(4) for j in range(4) if i != j])
    counts = rng.integers(3, 40, (len(cells), 3))

    def deviance(theta: np.ndarray) -> float:
        strength, side, tie = theta[:4], theta[4], theta[5]
        a, b = cells.T
        margin = strength[a] - strength[b] + side
        logs = np.stack([margin / 2, -margin / 2, np.full(len(cells), tie)], 1)
        chances = logs - np.log(np.exp(logs).sum(1, keepdims=True))
        prior = bradley_terry.RIDGE * (theta**2).sum() / 2
        return -(counts * chances).sum() + prior

    found = minimize(deviance, np.zeros(6), method="BFGS", options={"gtol": 1e-6}).x
    found[:4] -= found[:4].mean()
    assert fitted(counts, cells, 4) == pytest.approx(found, abs=1e-4)


# Wins of row over column among seven baseball teams in 1987, and Bradley-Terry strengths against
# Baltimore as published (Agresti, Categorical Data Analysis, 2nd edition, section 10.6.1).
TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
WINS = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
)
PUBLISHED = (1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0.0)


def test_24_bradley_terry_matches_a_published_table_and_logistic_regression() -> None:
    pairs = [(i, j) for i in range(7) for j in range(7) if i < j]
    # Every game on both sides with half its weight: no side effect, no ties.
    cells = np.array([*pairs, *[(j, i) for i, j in pairs]])
    counts = np.array([[WINS[i, j] / 2, WINS[j, i] / 2, 0] for i, j in cells])
    scale = 1e4  # lets the ridge vanish
    strengths = fitted(counts * scale, cells, 7)[:7]
    assert strengths - strengths[-1] == pytest.approx(PUBLISHED, abs=2e-3)

    terms = np.zeros((2 * len(pairs), 6))
    for row, (i, j) in enumerate([pair for pair in pairs for _ in range(2)]):
        terms[row, [k for k in (i,) if k < 6]] = 1.0
        terms[row, [k for k in (j,) if k < 6]] = -1.0
    won = np.tile([1.0, 0.0], len(pairs))
    weights = scale * np.array([[w for i, j in pairs for w in (WINS[i, j], WINS[j, i])]])
    logit = weighted_logits(terms, won, weights)[0]
    assert logit == pytest.approx((strengths - strengths[-1])[:6], abs=1e-3)


def test_24_many_weighted_fits_at_once_equal_one_by_one() -> None:
    rng = np.random.default_rng(0)
    cells = np.array([[0, 1], [1, 2], [2, 0]])
    counts = rng.integers(0, 20, (5, 3, 3)).astype(float)
    together = bradley_terry.davidson(counts, cells, 3)
    assert together == pytest.approx(np.stack([fitted(one, cells, 3) for one in counts]), abs=1e-6)
    terms, outcome = rng.standard_normal((40, 2)), (rng.random(40) < 0.5).astype(float)
    weights = rng.integers(0, 3, (4, 40)).astype(float)
    alone = [weighted_logits(terms, outcome, one[None])[0] for one in weights]
    assert weighted_logits(terms, outcome, weights) == pytest.approx(np.stack(alone), abs=1e-5)


def test_24_systems_that_never_met_cannot_share_a_scale() -> None:
    votes = table(("r", "p", "a", "b", "A"), ("r", "p", "c", "d", "A"))
    with pytest.raises(bradley_terry.NotConnected, match=r"\{a, b\} and \{c, d\} were never"):
        bradley_terry.fit(votes, QUICK)


def test_24_cohens_kappa_by_hand() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: agreement 0.7, chance 0.5.
    assert cohen_kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    assert np.isnan(cohen_kappa(np.array([[9, 0], [0, 0]])))
    same = np.array([[0, 1, 2, 1], [0, 1, 2, 1], [0, 0, 0, 0]])
    value, pairs = mean_pairwise_kappa(same[:2], least=4)
    assert (value, pairs) == (1.0, 1)
    assert mean_pairwise_kappa(same, least=5) == (None, 0)


def test_24_krippendorffs_alpha_on_the_textbook_example_with_missing_data() -> None:
    """Four observers, twelve units (Krippendorff, Content Analysis, chapter on reliability)."""
    rows = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    given = np.array([[int(c) - 1 if c != "." else -1 for c in row] for row in rows])
    assert krippendorff(given, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff(given, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff(np.array([[0, 1], [0, 1]]), "nominal") == 1.0
    assert krippendorff(np.array([[0, 0], [0, 0]]), "nominal") is None
    assert krippendorff(np.array([[0, 1], [-1, -1]]), "nominal") is None


def test_24_answers_are_turned_to_the_clips_before_they_are_compared() -> None:
    votes = table(
        ("r1", "p1", "x", "y", "A"),
        ("r2", "p1", "y", "x", "B"),
        ("r1", "p2", "x", "y", "B"),
        ("r2", "p2", "y", "x", "BOTH_BAD"),
    )
    assert ratings(votes, "nominal")[0].tolist() == [[0, 2], [0, 3]]
    assert ratings(votes, "ordinal")[0].tolist() == [[0, 2], [0, 1]]
    assert alpha(votes, "nominal", QUICK).n == 4


def test_24_self_consistency_compares_clips_not_sides() -> None:
    votes = table(
        ("r1", "p1", "x", "y", "A"),
        ("r1", "p1", "y", "x", "B"),
        ("r2", "p2", "x", "y", "A"),
        ("r2", "p2", "y", "x", "A"),
        repeat_of=["", "v0", "", "v2"],
    )
    found = self_consistency(votes, QUICK)
    assert (found.value, found.n, found.raters, found.prompts) == (0.5, 2, 2, 2)
    assert len(votes.analysed) == 2


def test_24_shares_and_counts_by_hand() -> None:
    votes = table(
        ("r1", "p1", "x", "y", "B"),
        ("r1", "p2", "y", "x", "A"),
        ("r2", "p1", "x", "y", "A"),
        ("r2", "p2", "x", "y", "TIE"),
        ("r3", "p1", "x", "y", "BOTH_BAD"),
        ("r3", "p2", "x", "z", "A"),
    )
    found = contrast(votes, "x", "y", QUICK)
    assert (found.votes, found.wins_x, found.wins_y, found.ties, found.both_bad) == (5, 1, 2, 1, 1)
    assert found.preference.value == pytest.approx(2 / 3)
    assert (found.preference.n, found.preference.raters, found.preference.prompts) == (3, 2, 2)
    assert found.with_half_ties.value == pytest.approx(3 / 5)
    assert found.tie_rate.value == found.both_bad_rate.value == pytest.approx(1 / 5)
    assert contrast(votes, "y", "x", QUICK).preference.value == pytest.approx(1 / 3)
    assert side_effect(votes, QUICK).value == pytest.approx(3 / 4)


def test_24_holm_and_two_one_sided_tests_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    estimate = Estimate(0.52, 0.48, 0.56, 0.02, 900, 200, 200, 0.95)
    near = equivalence(estimate, 0.1)
    assert near.p == pytest.approx(4e-5, rel=0.3)  # t = 4, one-sided
    assert near.equivalent and near.interval == pytest.approx((0.487, 0.553), abs=1e-3)
    far = equivalence(estimate, 0.03)
    assert not far.equivalent and far.p == pytest.approx(0.31, abs=0.01)
    # The interval of level 1 - 2 alpha lies inside the margin exactly where the test rejects.
    edge = (estimate.interval(0.9)[1] - 0.5) + 1e-9
    verdicts = [equivalence(estimate, margin).equivalent for margin in (edge, edge - 1e-6)]
    assert verdicts == [True, False]


def test_24_a_slope_is_that_of_least_squares() -> None:
    votes = simulate(Design(PAIR, 40, 10, 20), Population(), 5)
    values = 0.3 * votes.position / 10 + np.sin(np.arange(len(votes)))
    expected = 10 * np.polyfit(votes.position, values, 1)[0]
    assert slope(values, votes, QUICK).value == pytest.approx(expected)


def test_24_the_same_seed_gives_the_same_interval() -> None:
    votes = simulate(Design(PAIR, 20, 8, 10), Population({"y": 0.5}), 0)
    assert preference_share(votes, QUICK) == preference_share(votes, QUICK)


# --- 25: coverage and false positives


def test_25_the_default_interval_covers_and_the_naive_one_does_not() -> None:
    """Five designs, reduced; the tolerance is three standard errors below 95 %."""
    covered, naive, studies = 0, 0, 40
    for design, people in COVERAGE_DESIGNS.values():
        truth = people.preference("x", "y")
        votes = list(simulations(design, people, studies))
        preferred = np.stack([one.prefers("y") for one in votes], 1)
        for found in shares(preferred > 0, preferred != 0, votes[0], QUICK):
            covered += found.low <= truth <= found.high
            low, high = wilson_interval(round(found.value * found.n), found.n)
            naive += low <= truth <= high
    total = studies * len(COVERAGE_DESIGNS)
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / total) <= covered / total < 0.995
    assert naive / total < 0.8


def test_25_the_true_preference_is_that_of_very_many_votes() -> None:
    people = Population(
        {"y": 0.6}, rater_sd=0.8, prompt_sd=0.5, side_bias=0.5, ties=0.2, both_bad=0.1, lazy=0.2,
        one_sided=0.1, lapse=0.1,
    )  # fmt: skip
    votes = simulate(Design(PAIR, 300, 300, 60), people, 0)
    preferred = votes.prefers("y")
    share_y = (preferred > 0).sum() / (preferred != 0).sum()
    assert share_y == pytest.approx(people.preference("x", "y"), abs=0.02)


def peeking(votes: int, studies: int, bias: float, block: int, stored: bool) -> float:
    """Share of null studies whose e-value ever reaches 20, looking after every vote."""
    rng = np.random.default_rng(7)
    towards_a = rng.random((studies, votes)) < 1 / (1 + math.exp(-bias))
    if block:
        sides = np.tile(np.arange(block) < block // 2, (studies * votes // block, 1))
        sides = rng.permuted(sides, axis=1)
        left = block // 2 - (np.cumsum(sides, 1) - sides)
        chance = left / (block - np.arange(block))
        chance = np.where(sides, chance, 1 - chance).reshape(studies, votes)
        sides = sides.reshape(studies, votes)
    else:
        sides, chance = rng.random((studies, votes)) < 0.5, np.full((studies, votes), 0.5)
    wins = towards_a == sides  # y won where the chosen side was y's
    chances = np.where(wins, chance, 1 - chance) if stored else None
    return float((log_e_values(wins, chances).max(1) >= math.log(20)).mean())


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_25_e_values_keep_their_error_at_any_look(bias: float) -> None:
    assert peeking(400, 2000, bias, block=0, stored=False) <= 0.05


def test_25_sides_in_blocks_keep_it_too_with_their_stored_probabilities() -> None:
    assert peeking(60, 300, 1.0, block=4, stored=True) <= 0.05
    assert peeking(400, 2000, 1.0, block=4, stored=False) <= 0.05  # coins assumed: conservative


def test_25_the_e_value_is_the_beta_mixture_for_coins_and_the_same_by_stored_probability() -> None:
    """Two wins of two: B(5/2, 1/2) / B(1/2, 1/2) 2^2 = 3/2."""
    wins = np.array([True, True])
    assert np.exp(log_e_values(wins)) == pytest.approx([1.0, 1.5])
    many = np.random.default_rng(0).random(300) < 0.6
    almost = np.full(300, 0.5)
    almost[-1] = 0.5 + 1e-12  # takes the general way
    assert log_e_values(many, almost) == pytest.approx(log_e_values(many), abs=1e-3)
    certain = np.where(many, 1.0, 0.0)
    assert log_e_values(many, certain) == pytest.approx(np.zeros(300), abs=1e-9)


def test_25_a_confidence_sequence_refutes_one_half_when_the_e_value_crosses() -> None:
    for wins, n in ((60, 100), (64, 100), (68, 100)):
        low, high = confidence_sequence(wins, n)
        path = np.arange(n) < wins
        crosses = log_e_values(path)[-1] >= math.log(20)
        assert crosses == (not low <= 0.5 <= high)
        assert low < wins / n < high
    assert confidence_sequence(0, 0) == (0.0, 1.0)


def test_25_evidence_stops_where_it_first_crosses_and_stays_stopped() -> None:
    rows = [("r", f"p{i}", "x", "y", "B") for i in range(12)]
    votes = table(*rows, *[("r", f"q{i}", "x", "y", "A") for i in range(12)])
    found = evidence(votes, "x", "y")
    assert found.stop and found.stopped_at == 7
    assert found.largest > 20 > found.e_value
    assert found.n == 24 and found.wins == 12


def test_25_the_sharp_null_is_the_binomial_test_for_coins_and_holds_its_level_in_blocks() -> None:
    coins = simulate(Design(PAIR, 50, 20, 10, side_block=0), Population({"y": 1.0}), 2)
    preferred = coins.prefers("y")
    assert sharp_null(coins, "x", "y") == binomial_p(int((preferred > 0).sum()), len(coins))
    # Everybody always chooses clip A: in balanced blocks neither system can win.
    stubborn = simulate(Design(PAIR, 50, 20, 20), Population({"y": 1.0}, one_sided=1.0), 2)
    assert sharp_null(stubborn, "x", "y") == 1.0
    nulls = simulations(Design(PAIR, 30, 10, 12), Population(side_bias=1.0), 40)
    assert np.mean([sharp_null(votes, "x", "y") <= 0.05 for votes in nulls]) <= 0.15


# --- 26: recovery


@pytest.fixture(scope="module")
def robots() -> tuple[Population, Votes]:
    """Three systems, side bias, ties, and a fifth of the raters clicking at random."""
    design = Design((("x", "y"), ("y", "z"), ("x", "z")), 60, 60, 24, attention=2, repeats=2)
    people = Population({"y": 0.5, "z": 1.0}, side_bias=0.4, ties=0.2, lazy=0.2)
    return people, simulate(design, people, 4)


def test_26_clickers_are_flagged_and_others_are_not(robots: tuple[Population, Votes]) -> None:
    people, votes = robots
    found = quality(votes, RULES)
    flagged = np.array([bool(one.broken) for one in found])
    clickers = np.array([one.median_seconds < 4.0 for one in found])
    assert clickers.mean() == pytest.approx(people.lazy)
    assert flagged[clickers].mean() >= 0.9
    assert (~flagged[~clickers]).mean() >= 0.95
    assert all("median_rt_ms_lt" in one.broken for one in found if one.median_seconds < 4.0)


def test_26_effects_side_bias_and_ties_are_recovered(robots: tuple[Population, Votes]) -> None:
    people, votes = robots
    careful = np.array([not one.broken for one in quality(votes, RULES)])
    votes = votes.where(careful[votes.rater]).analysed
    fit = bradley_terry.fit(votes, QUICK)
    for (x, y), gap in fit.differences.items():
        truth = people.effects.get(y, 0.0) - people.effects.get(x, 0.0)
        assert abs(gap.value - truth) <= 2 * gap.se
    assert abs(fit.side.value - people.side_bias) <= 2 * fit.side.se
    assert fit.ties.low <= people.ties <= fit.ties.high
    assert fit.ranks[fit.systems.index("z")] == (1, 1) and not fit.separated
    found = contrast(votes, "x", "z", QUICK)
    assert abs(found.preference.value - people.preference("x", "z")) <= 0.08
    assert fit.probability("x", "z") > 0.65


def test_26_the_mixed_model_finds_spreads_and_nuisances() -> None:
    people = Population({"y": 0.6}, rater_sd=0.8, prompt_sd=1.0, side_bias=0.5)
    votes = simulate(Design(PAIR, 40, 40, 25), people, 1)
    louder = np.where(votes.system_a == votes.system("y"), 1.0, -1.0) * (votes.prompt % 2)
    votes = dataclasses.replace(votes, covariates={"lufs": louder})
    found = mixed_logit(votes, "x", "y")
    assert found.rater_sd == pytest.approx(0.8, abs=0.35)
    assert found.prompt_sd == pytest.approx(1.0, abs=0.35)
    assert abs(found.terms["side"].value - 0.5) <= 2.5 * found.terms["side"].se
    assert list(found.terms) == ["side", "position", "lufs (per 0.5)"]
    wide = found.preference
    assert wide.low <= people.preference("x", "y") <= wide.high
    assert mixed_logit(table(("r", "p", "x", "y", "A")), "x", "y") is None


def test_26_one_sided_raters_are_flagged() -> None:
    votes = simulate(Design(PAIR, 30, 20, 20), Population(one_sided=0.25, lazy_seconds=9.0), 0)
    broken = [one.broken for one in quality(votes, RULES)]
    assert sum(rules == ("one_side_share_gt",) for rules in broken) == 5
    assert sum(bool(rules) for rules in broken) == 5


def test_26_one_robot_answers_one_trial_as_a_crowd_answers_many() -> None:
    people = Population({"y": 3.0}, side_bias=0.5, seconds=10.0)
    crowd = Crowd.draw(people, ("x", "y"), raters=2, prompts=2, seed=0)
    rng = np.random.default_rng(0)
    answers, seconds = zip(*(crowd.vote(1, 0, 1, 0, rng) for _ in range(300)), strict=True)
    chance = 1 / (1 + math.exp(-3.5))  # y is clip A, and clip A is favoured
    assert answers.count("A") / 300 == pytest.approx(chance, abs=0.03)
    assert np.median(seconds) == pytest.approx(10.0, rel=0.1)
    assert all(crowd.vote(0, 0, 1, 0, rng, expected="B")[0] == "B" for _ in range(50))


# --- 27: nothing crashes and nothing is claimed that cannot be


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([], "not estimable: no votes that tell"),
        ([("r1", "p1", "x", "y", "TIE"), ("r2", "p2", "x", "y", "TIE")], "not estimable"),
        ([("r1", "p1", "x", "y", "A"), ("r1", "p2", "x", "y", "B")], "no interval: one rater"),
        ([("r1", "p1", "x", "y", "A"), ("r2", "p1", "x", "y", "B")], "no interval: one prompt"),
    ],
)
def test_27_what_cannot_be_estimated_says_so(rows: list, note: str) -> None:
    never = [("r0", "p0", "x", "y", "A")]
    votes = table(*never, *rows, excluded=[True, *[False] * len(rows)]).analysed
    found = contrast(votes, "x", "y", QUICK).preference
    assert note in found.note and found.low is None and found.p_value(0.5) is None
    assert equivalence(found, 0.1).equivalent is None


def test_27_perfect_separation_gives_an_exact_interval_and_a_flag() -> None:
    rows = [(f"r{i}", f"p{i % 6}", "x", "y", "B") for i in range(12)]
    found = contrast(table(*rows), "x", "y", QUICK).preference
    assert found.value == 1.0 and (found.low, found.high) == exact_interval(6, 6)
    assert found.p_value(0.5) < 0.05
    fit = bradley_terry.fit(table(*rows), QUICK)
    assert fit.separated and np.isfinite(fit.strengths[0].value)


# --- 28: power


@pytest.mark.parametrize(
    ("preference", "for_80", "for_90"),
    [
        (0.55, 808, 1085),
        (0.58, 325, 428),
        (0.60, 210, 274),
        (0.65, 92, 121),
        (0.70, 54, 70),
        (0.75, 35, 42),
        (0.80, 23, 30),
    ],
)
def test_28_the_table_of_votes_is_reproduced(
    preference: float, for_80: int, for_90: int
) -> None:
    """To 0.5 %: the specification's search took steps above 400 votes."""
    assert votes_for_power(preference) == pytest.approx(for_80, rel=0.005)
    assert votes_for_power(preference, 0.9) == pytest.approx(for_90, rel=0.005)


def test_28_exact_power_equivalence_and_precision_are_reproduced() -> None:
    assert binomial_power(np.array([5]), 0.8)[0] == 0.0  # five of five: p = 1/16, never enough
    assert binomial_power(np.array([6]), 0.8)[0] == pytest.approx(0.8**6 + 0.2**6)
    margins = (0.05, 0.075, 0.10, 0.15)
    assert [votes_for_equivalence(margin) for margin in margins] == [857, 381, 215, 96]
    widths = [round(half_width(0.7, n), 3) for n in (100, 200, 400, 800)]
    assert widths == [0.088, 0.063, 0.045, 0.032]


def test_28_the_calculator_agrees_with_running_the_whole_analysis() -> None:
    """Reduced: 150 studies by the bootstrap, so within three standard errors."""
    design = Design(PAIR, 30, 20, 15)
    people = Population({"y": 0.9}, rater_sd=0.5, prompt_sd=0.6, ties=0.15)
    planned = power(design, people, PAIR[0], studies=2000, margin=0.1)
    votes = list(simulations(design, people, 150))
    preferred = np.stack([one.prefers("y") for one in votes], 1)
    found = shares(preferred > 0, preferred != 0, votes[0], QUICK)
    rate = np.mean([one.p_value(0.5) <= 0.05 for one in found])
    spread = math.sqrt(rate * (1 - rate) / len(found))
    assert abs(rate - planned.significant.value) <= 3 * spread + 0.02
    assert np.median([one.high - one.low for one in found]) == pytest.approx(planned.width, rel=0.1)
    assert planned.preference == pytest.approx(people.preference("x", "y"))
    assert planned.design_effect > 1.2 and planned.equivalent.value < 0.05


def test_28_more_raters_do_not_help_once_prompts_are_few() -> None:
    people = Population({"y": 0.4}, rater_sd=0.5, prompt_sd=1.0)
    few, many = (
        power(Design(PAIR, 20, raters, 20), people, PAIR[0], studies=300).width
        for raters in (30, 90)
    )
    more_prompts = power(Design(PAIR, 60, 30, 20), people, PAIR[0], studies=300).width
    assert many > 0.8 * few > more_prompts


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Design(PAIR, 5, 3, 6), "trials is 6; 5 pairs"),
        (lambda: Design((("x", "x"),), 5, 3, 2), "pairs of two systems"),
        (lambda: Design(PAIR, 5, 3, 2, side_block=3), "side_block is 3; an even number"),
        (lambda: Population(ties=1.0), "ties 1.0 must lie below 1"),
        (lambda: votes_for_power(0.5), "10000 votes do not show it"),
        (lambda: power(Design(PAIR, 5, 3, 2), Population(), ("y", "z")), "is not in the design"),
    ],
)
def test_28_impossible_plans_are_refused(make, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        make()
