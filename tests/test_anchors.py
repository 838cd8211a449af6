"""Anchor calibration: closed forms, the tables of the specification, and what it refuses to say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.seeded import shared_file
from ttmpref.cli import main
from ttmpref.metrics import calibration_error, reliability
from ttmpref.reward.anchors import (
    ALWAYS_B,
    AS_IS,
    AnchorCalibration,
    AnchorOptions,
    Likelihood,
    controls,
    correct_table,
    cross_validate,
    fit,
    sweep,
)
from ttmpref.reward.battles import Battles, evaluate, read_battles, read_ids
from ttmpref.types import ConfigError, InvalidRequest

HEADER = "battle_id,preference,system_a,system_b,tj_a,tj_b\n"


def battles(rows):
    """Rows of (system a, system b, reward a, reward b, target)."""
    a, b, reward_a, reward_b, target = (np.array(column) for column in zip(*rows, strict=True))
    return Battles(
        np.arange(len(rows)).astype(str), a, b, reward_a.astype(float), reward_b.astype(float),
        target.astype(float),
    )  # fmt: skip


def simulated(n=400, ties=0.0, scale=1.0, seed=0):
    """Battles whose log odds are the model's, with known offsets of three systems."""
    rng = np.random.default_rng(seed)
    names, offsets = np.array(["high", "low", "fair"]), np.array([1.0, -1.0, 0.0])
    a = rng.integers(3, size=n)
    b = (a + rng.integers(1, 3, size=n)) % 3
    rewards = rng.standard_normal((2, n))
    z = scale * (rewards[0] - rewards[1]) - (offsets[a] - offsets[b])
    target = np.where(rng.random(n) < 1 / (1 + np.exp(-z)), 1.0, 0.0)
    target[rng.random(n) < ties] = 0.5
    return Battles(np.arange(n).astype(str), names[a], names[b], *rewards, target)


def released():
    table = read_battles(shared_file("data/tunejury/ma_postcut_scored.csv"))
    return table.battles.in_order_of(
        read_ids(shared_file("data/tunejury/MusicArena_v2_increment.json"))
    )


def anchor_cells(options):
    cells = sweep(released(), {"anchor": options})
    return {cell.size: cell for cell in cells if cell.model == "anchor"}


def test_the_published_sweep_comes_out_with_the_pin():
    cells = anchor_cells(AnchorOptions(pinned="sonauto-v2-2"))
    found = {size: round(100 * cell.accuracy, 2) for size, cell in cells.items()}
    assert found == {0: 55.12, 3: 56.52, 10: 56.99, 30: 58.13, 100: 60.00, 250: 61.00}
    spread = {size: round(100 * cell.accuracy_sd, 2) for size, cell in cells.items()}
    assert spread == {0: 1.95, 3: 2.46, 10: 2.50, 30: 2.04, 100: 2.61, 250: 1.56}


def test_every_split_of_the_published_results_comes_out_without_a_pin():
    published = json.loads(shared_file("data/tunejury/ood_repro.json").read_text())["anchor"]
    for size, cell in anchor_cells(AnchorOptions()).items():
        assert cell.per_split == pytest.approx(published[str(size)], abs=1e-6)


def test_the_published_offsets_come_out():
    found = fit(released(), AnchorOptions(pinned="sonauto-v2-2"))
    assert found.offset("acestep-1.5-turbo-1.7b") == pytest.approx(0.6112, abs=5e-5)
    assert found.offset("sonauto-v3-preview") == pytest.approx(-0.8461, abs=5e-5)
    assert found.offset("sonauto-v2-2") == 0.0
    assert found.systems["musicgen-small"].claim.startswith("no claim: fewer than 5")


def test_the_released_table_holds_what_it_is_said_to_hold():
    table = read_battles(shared_file("data/tunejury/ma_postcut_scored.csv"))
    assert len(table.battles) == 799 and not table.faults and table.both_bad == 0
    found = evaluate(table.battles.margins, table.battles)
    assert found.accuracy == pytest.approx(0.5369, abs=5e-5)
    assert len(released()) == 598


@pytest.mark.parametrize("ties", ["half", "davidson"])
def test_gradient_and_curvature_are_those_of_the_loss(ties):
    drawn = simulated(30, ties=0.3)
    likelihood = Likelihood.of(drawn, drawn.systems, AnchorOptions(ties=ties, ridge=0.3))
    theta = np.array([0.3, -0.2, 0.5, 0.8, -0.4])
    step = 1e-5 * np.eye(5)
    slope = [(likelihood.value(theta + s) - likelihood.value(theta - s)) / 2e-5 for s in step]
    bend = [(likelihood.gradient(theta + s) - likelihood.gradient(theta - s)) / 2e-5 for s in step]
    assert likelihood.gradient(theta) == pytest.approx(slope, abs=1e-6)
    assert np.allclose(likelihood.curvature(theta), bend, atol=1e-6)


def test_one_kind_of_battle_has_a_closed_form():
    """x beats y in w of n: with beta_y = -beta_x = b, n (sigma(2 b) - w / n) + 2 b = 0."""
    found = fit(battles([("x", "y", 0.0, 0.0, 1.0)] * 7 + [("x", "y", 0.0, 0.0, 0.0)] * 3))
    b = found.offset("y")
    assert found.offset("x") == pytest.approx(-b, abs=1e-9)
    assert 10 * (1 / (1 + math.exp(-2 * b)) - 0.7) + 2 * b == pytest.approx(0.0, abs=1e-8)


def test_offsets_sum_to_zero_without_a_pin_and_the_pin_has_none():
    drawn = simulated()
    assert sum(s.value for s in fit(drawn).systems.values()) == pytest.approx(0.0, abs=1e-9)
    pinned = fit(drawn, AnchorOptions(pinned="low")).systems["low"]
    assert (pinned.value, pinned.low, pinned.high) == (0.0, 0.0, 0.0)


def test_known_offsets_and_a_known_scale_are_recovered_inside_their_intervals():
    found = fit(simulated(4000, scale=0.4), AnchorOptions(scale="learned"))
    for system, truth in {"high": 1.0, "low": -1.0, "fair": 0.0}.items():
        assert found.systems[system].low < truth < found.systems[system].high
    assert found.scale.low < 0.4 < found.scale.high
    assert found.systems["high"].claim == "over-scored"
    assert found.systems["low"].claim == "under-scored"
    assert found.systems["fair"].claim == "no clear offset"


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = 0
    for seed in range(100):
        system = fit(simulated(300, seed=seed), AnchorOptions(ridge=0.01)).systems["high"]
        held += system.low < 1.0 < system.high
    assert 90 <= held <= 99


def test_davidsons_ties_have_their_share_and_halves_leave_it_out():
    level = battles([("x", "y", 0.0, 0.0, t) for t in [1.0, 0.0] * 300 + [0.5] * 300])
    found = fit(level, AnchorOptions(ties="davidson", ridge=1e-6))
    assert found.eta.value == pytest.approx(0.0, abs=1e-6)  # a third each
    assert fit(level).eta is None


def test_half_a_win_each_is_one_win_each_at_half_the_weight():
    ties = battles([("x", "y", 0.3, 0.0, 0.5)] * 2 + [("x", "y", 0.0, 0.0, 1.0)])
    split = battles([("x", "y", 0.3, 0.0, t) for t in (1.0, 0.0)] + [("x", "y", 0.0, 0.0, 1.0)])
    assert fit(ties).offset("x") == pytest.approx(fit(split).offset("x"), abs=1e-9)


def test_a_system_that_meets_itself_teaches_nothing_of_its_offset():
    among_itself = battles([("x", "x", 1.0, 0.0, 0.0)] * 9)
    assert fit(among_itself).offset("x") == 0.0
    assert fit(among_itself).systems["x"].battles == 0
    assert fit(among_itself).systems["x"].claim.startswith("no claim")
    assert fit(among_itself, AnchorOptions(scale="learned")).scale.value < 0.5


def test_margins_however_large_stay_finite():
    found = fit(battles([("x", "y", 1e6, 0.0, 0.0), ("y", "x", 0.0, 1e6, 1.0)] * 20))
    assert math.isfinite(found.offset("x")) and found.offset("x") > 1.0
    assert math.isfinite(evaluate(np.array([1e6]), battles([("x", "y", 0, 0, 0.0)])).nll)


def test_without_battles_the_reward_is_as_it_is_and_bradley_terry_knows_nothing():
    drawn = simulated(20)
    nothing = drawn.rows([])
    assert np.array_equal(fit(nothing).margins(drawn), drawn.margins)
    ignorant = fit(nothing, AnchorOptions(scale="none")).margins(drawn)
    assert not ignorant.any() and evaluate(ignorant, drawn).accuracy == 0.5


def test_nll_and_calibration_error_are_the_plain_formulae():
    drawn = simulated(50)
    margins, wins = drawn.margins, drawn.wins
    p = 1 / (1 + np.exp(-margins))
    found = evaluate(margins, drawn)
    assert found.nll == pytest.approx(-np.log(np.where(wins, p, 1 - p)).mean())
    assert found.ece == pytest.approx(calibration_error(reliability(margins, wins)))
    assert found.n == 50


def test_on_simulated_battles_the_offsets_help_and_all_controls_are_there():
    found = cross_validate(simulated(600, ties=0.1), controls(AnchorOptions()))
    assert list(found) == [
        AS_IS, "anchor", "anchor, learned scale", "Bradley-Terry, reward ignored", ALWAYS_B
    ]  # fmt: skip
    assert found["anchor"].accuracy > found[AS_IS].accuracy
    assert found["anchor"].accuracy > found["Bradley-Terry, reward ignored"].accuracy
    assert found["anchor"].nll < found[AS_IS].nll < math.log(2) + 0.2
    assert found[ALWAYS_B].nll is None


def test_a_calibration_comes_back_from_its_file_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "anchors.json"
    found = fit(simulated(60), AnchorOptions(scale="learned", pinned="fair", ties="davidson"))
    found.save(path)
    assert AnchorCalibration.load(path) == found
    assert [entry.name for entry in tmp_path.iterdir()] == ["anchors.json"]
    path.write_text(path.read_text().replace('"pinned"', '"pined"'))
    with pytest.raises(ConfigError, match=r"anchors\.json: options\.pined: unknown key"):
        AnchorCalibration.load(path)
    path.write_text("[")
    with pytest.raises(ConfigError, match="not JSON"):
        AnchorCalibration.load(path)
    with pytest.raises(ConfigError, match=r"gone\.json: cannot be read"):
        AnchorCalibration.load(tmp_path / "gone.json")


def test_bad_rows_are_named_and_the_others_kept(tmp_path):
    path = tmp_path / "battles.csv"
    path.write_text(
        HEADER + "1,A,x,y,0.5,1\n2,maybe,x,y,0,0\n3,B,x,,0,0\n4,BOTH_BAD,x,y,0,0\n"
        "5,TIE,x,y,nan,0\n1,B,x,y,0,0\n6,TIE,x,y,1,one\n7,TIE,x,y,1,1\n"
    )
    table = read_battles(path)
    assert table.battles.ids.tolist() == ["1", "7"] and table.both_bad == 1
    said = [fault.removeprefix(f"{path}:") for fault in table.faults]
    assert said[0].startswith("3: vote is 'maybe'")
    assert said[1] == "4: column 'system_b' is missing or empty"
    assert said[2].startswith("6: reward_a is 'nan'")
    assert said[3] == "7: id '1' was given to an earlier battle"
    assert said[4].startswith("8: reward_b is 'one'")


@pytest.mark.parametrize(
    ("text", "said"), [("", "is empty"), ("id,vote\n", "has no column 'system_a'")]
)
def test_a_table_without_its_columns_is_refused(tmp_path, text, said):
    path = tmp_path / "battles.csv"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=said):
        read_battles(path)


def test_corrected_rewards_differ_by_the_log_odds(tmp_path):
    drawn = simulated(200)
    found = fit(drawn, AnchorOptions(scale="learned"))
    path = tmp_path / "clips.csv"
    path.write_text("file,system,reward\na.wav,high,0.7\nb.wav,new,-0.1\nc.wav,,1\n")
    rows, faults = correct_table(found, path)
    odds = rows[0]["corrected"] - rows[1]["corrected"]
    assert odds == pytest.approx(found.scale.value * 0.8 - found.offset("high"))
    assert rows[0]["file"] == "a.wav" and rows[1]["claim"] == "no claim: not in any battle"
    assert faults == [f"{path}:4: column 'system' is missing or empty"]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "battles.csv"
    drawn = simulated(60)
    rows = zip(
        drawn.ids, np.where(drawn.wins, "A", "B"), drawn.system_a, drawn.system_b,
        drawn.reward_a, drawn.reward_b, strict=True,
    )  # fmt: skip
    path.write_text(HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def test_the_command_line_fits_applies_and_sweeps(table, tmp_path, capfd):
    stored = tmp_path / "anchors.json"
    assert main(["anchors", "fit", str(table), "--out", str(stored), "--scale", "learned"]) == 0
    out = capfd.readouterr().out
    assert "-scored" in out and "always B" in out and "nll" in out
    assert AnchorCalibration.load(stored).options.scale == "learned"
    assert main(["anchors", "apply", str(table), "--anchors", str(stored), "--csv"]) == 0
    header, first = capfd.readouterr().out.splitlines()[:2]
    assert header.endswith("corrected_b,claim_b,probability_a")
    assert 0 < float(first.rsplit(",", 1)[1]) < 1
    assert main(["anchors", "sweep", str(table), "--sizes", "0,30", "--json"]) == 0
    cells = json.loads(capfd.readouterr().out)
    assert {(cell["model"], cell["size"]) for cell in cells} >= {("anchor", 30), (ALWAYS_B, 0)}


def test_the_command_line_names_bad_rows_and_says_so_in_its_exit_code(table, tmp_path, capfd):
    with open(table, "a") as file:
        file.write("99,MAYBE,x,y,0,0\n")
    assert main(["anchors", "fit", str(table), "--out", str(tmp_path / "anchors.json")]) == 1
    assert "62: vote is 'MAYBE'" in capfd.readouterr().err
    assert main(["anchors", "sweep", str(table), "--sizes", "0,x"]) == 2
    assert "'x' is not a whole number" in capfd.readouterr().err
    assert main(["anchors", "fit", str(table), "--out", "a.json", "--pin", "nobody"]) == 2
    assert "pinned system 'nobody'" in capfd.readouterr().err
