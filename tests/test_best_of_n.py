"""Best-of-N: the closed form of the expected maximum, the choice, and a run that can be resumed."""

from __future__ import annotations

import itertools
import json
import types

import numpy as np
import pytest

from ttmpref import audio
from ttmpref.cli import main
from ttmpref.reward.best_of_n import (
    Choice,
    Plan,
    Record,
    choose,
    curve,
    expected_maximum,
    run,
    write_summary,
)
from ttmpref.studio import Studio, read_sidecar
from ttmpref.study.prompts import Prompt
from ttmpref.types import (
    Clip,
    ConfigError,
    Generation,
    GenerationRequest,
    InvalidRequest,
    Progress,
    RewardFlag,
    ScoreCard,
    TtmprefError,
)

PROMPTS = (Prompt("p1", "calm piano"), Prompt("p2", "loud drums"))
REQUEST = GenerationRequest("any", 100, "baseline", 2.0, 3.0, 4, "")


class Maker:
    """Clips whose one sample is their seed; remembers what it was asked for."""

    def __init__(self, weights="w1"):
        self.asked, self.weights = [], weights

    def stream(self, request):
        self.asked.append((request.prompt, request.seed, request.variations))
        for step in range(request.num_steps + 1):
            yield Progress(step, request.num_steps, "sampling")
        for i in range(request.variations):
            single = REQUEST.__class__(
                **{**request.to_dict(), "seed": request.seed + i, "variations": 1}
            )
            clip = Clip(np.full((1, 1), single.seed, np.float32), 8000)
            provenance = {"weights": self.weights, "batch": {"index": i}}
            yield Generation(single, clip, ScoreCard(None, None, 1.0, 0.5), provenance, 1.0)

    def save(self, generation, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(generation.request.seed))
        return path


def by_seed(clips, prompts):
    """A reward that falls and rises with the seed, and seed 105 is silent but well liked."""
    scores = []
    for clip in clips:
        seed = int(clip.waveform[0, 0])
        flags = (RewardFlag("silent", "silent", True),) if seed == 105 else ()
        reward = 9.0 if seed == 105 else float((seed * 7) % 10)
        scores.append(types.SimpleNamespace(reward=reward, flags=flags, protocol={"head": "h"}))
    return scores


def chosen(score=by_seed, n=10, keep=3):
    *_, last = choose(Maker(), score, "calm piano", Plan.of(REQUEST, n, keep))
    return last


def test_the_expected_maximum_is_the_mean_over_all_subsets():
    rewards = np.random.default_rng(0).standard_normal(7)
    rewards[3] = rewards[1]  # ties change nothing
    for n, found in enumerate(expected_maximum(rewards), 1):
        subsets = itertools.combinations(rewards, n)
        assert found == pytest.approx(np.mean([max(subset) for subset in subsets]))


def test_it_begins_with_the_mean_and_ends_with_the_maximum_at_any_size():
    rewards = np.random.default_rng(1).standard_normal((3, 500))
    found = expected_maximum(rewards)
    assert np.allclose(found[:, 0], rewards.mean(1)) and np.allclose(found[:, -1], rewards.max(1))
    assert (np.diff(found) >= -1e-12).all()


def test_it_is_unbiased_for_uniform_rewards():
    """The largest of n uniform numbers is n / (n + 1) on average."""
    found = expected_maximum(np.random.default_rng(2).random((4000, 6))).mean(0)
    n = np.arange(1, 7)
    assert np.allclose(found, n / (n + 1), atol=0.01)


def test_rewards_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        expected_maximum(np.array([1.0, -np.inf]))


def test_the_curve_has_an_interval_over_prompts_and_a_narrower_one_of_the_gain():
    rng = np.random.default_rng(3)
    rewards = 5 * rng.standard_normal((40, 1)) + rng.standard_normal((40, 4))
    points = curve(rewards)
    assert [point.n for point in points] == [1, 2, 3, 4]
    assert points[0].gain == points[0].gain_low == 0.0
    assert all(point.low < point.expected < point.high for point in points)
    last = points[-1]
    assert last.gain_high - last.gain_low < (last.high - last.low) / 3
    assert last.gain_low < 1.03 < last.gain_high  # of four standard normal numbers


def test_the_curve_of_a_single_prompt_has_no_interval():
    assert curve(np.ones((1, 2)))[1].low is None


def test_the_best_are_kept_best_first_and_silence_only_for_want_of_anything_else():
    found = chosen()
    assert [candidate.seed for candidate in found.candidates] == list(range(100, 110))
    assert [one.request.seed for one in found.kept] == [107, 104, 101]
    assert [one.scores.reward for one in found.kept] == [9.0, 8.0, 7.0]
    assert found.candidates[5].silent and chosen(keep=10).kept[-1].request.seed == 105


def test_equal_rewards_are_settled_by_the_seed():
    def flat(clips, prompts):
        return [types.SimpleNamespace(reward=1.0, flags=(), protocol={})] * len(clips)

    assert [one.request.seed for one in chosen(flat, keep=2).kept] == [100, 101]


def test_clips_are_made_in_batches_and_progress_runs_over_all_of_them():
    maker = Maker()
    items = list(choose(maker, by_seed, "calm piano", Plan.of(REQUEST, 10)))
    assert maker.asked == [("calm piano", 100, 8), ("calm piano", 108, 2)]
    steps = [item.step for item in items if isinstance(item, Progress)]
    assert steps == sorted(steps) and steps[-1] == 10 * REQUEST.num_steps
    assert isinstance(items[-1], Choice)


@pytest.mark.parametrize("prompted", [True, False])
def test_the_reward_is_told_the_prompt_as_asked_or_nothing(prompted):
    told = []

    def listening(clips, prompts):
        told.extend(prompts)
        return by_seed(clips, prompts)

    list(choose(Maker(), listening, "calm piano", Plan.of(REQUEST, 2, prompted=prompted)))
    assert told == ["calm piano" if prompted else ""] * 2


def test_a_reward_that_is_no_number_stops_the_run():
    def broken(clips, prompts):
        return [types.SimpleNamespace(reward=float("nan"), flags=(), protocol={})] * len(clips)

    with pytest.raises(TtmprefError, match="reward of seed 100 is nan"):
        chosen(broken)


@pytest.mark.parametrize(
    ("n", "keep", "said"), [(0, 1, "n: "), (2, 3, "keep is 3; at most n = 2"), (2000, 1, "n: ")]
)
def test_impossible_plans_are_refused(n, keep, said):
    with pytest.raises(ConfigError, match=said):
        Plan.of(REQUEST, n, keep)


def done(maker, folder, plan=None, prompts=PROMPTS):
    plan = plan or Plan.of(REQUEST, 3, 2)
    items = run(maker, by_seed, prompts, plan, folder)
    return [item for _, item in items if isinstance(item, Record)]


def test_a_run_keeps_clips_records_a_table_and_the_curve(tmp_path):
    records = done(Maker(), tmp_path)
    points = write_summary(records, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "plan.json", "p1-1.wav", "p1-2.wav", "p2-1.wav", "p2-2.wav", "p1.record.json",
        "p2.record.json", "candidates.csv", "curve.json",
    }  # fmt: skip
    assert (tmp_path / "p1-1.wav").read_text() == "101"
    assert len((tmp_path / "candidates.csv").read_text().splitlines()) == 1 + 2 * 3
    said = json.loads((tmp_path / "curve.json").read_text())
    assert said["prompts"] == 2 and said["curve"][2]["expected"] == points[2].expected == 7.0


def test_what_is_done_is_not_made_again_and_an_interrupted_prompt_is(tmp_path):
    whole = done(Maker(), tmp_path / "whole")
    interrupted = run(Maker(), by_seed, PROMPTS, Plan.of(REQUEST, 3, 2), tmp_path / "cut")
    for number, _ in interrupted:
        if number == 1:
            break
    interrupted.close()
    maker = Maker()
    assert done(maker, tmp_path / "cut") == whole
    assert [asked[0] for asked in maker.asked] == ["loud drums"]
    again = Maker()
    assert done(again, tmp_path / "cut") == whole and again.asked == []


def test_a_folder_of_another_plan_prompt_or_weights_is_refused(tmp_path):
    done(Maker(), tmp_path, prompts=PROMPTS[:1])
    with pytest.raises(InvalidRequest, match="was begun with n 3, not 4"):
        done(Maker(), tmp_path, Plan.of(REQUEST, 4, 2))
    with pytest.raises(InvalidRequest, match="was begun with num_steps 4, not 9"):
        other = GenerationRequest(**{**REQUEST.to_dict(), "num_steps": 9})
        done(Maker(), tmp_path, Plan.of(other, 3, 2))
    with pytest.raises(InvalidRequest, match="is of prompt 'calm piano', not 'jazz'"):
        done(Maker(), tmp_path, prompts=[Prompt("p1", "jazz")])
    with pytest.raises(InvalidRequest, match="'p2' was made with other weights"):
        done(Maker("w2"), tmp_path)


def test_the_command_line_makes_keeps_and_resumes(scoring_preset, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("calm piano\nloud drums\n")
    command = [
        "best-of-n", "--prompts", "prompts.txt", "--out", "best", "--n", "3", "--steps", "1",
        "--preset", str(scoring_preset), "--device", "cpu", "--json",
    ]  # fmt: skip
    assert main(command) == 0
    points = json.loads(capfd.readouterr().out)
    assert [point["n"] for point in points] == [1, 2, 3]
    assert points[0]["expected"] <= points[2]["expected"]
    clip = audio.read_clip("best/1-1.wav")
    request, _ = read_sidecar("best/1-1.json")
    card = json.loads((tmp_path / "best/1-1.json").read_text())["scores"]
    record = json.loads((tmp_path / "best/1.record.json").read_text())
    rewards = {one["seed"]: one["reward"] for one in record["candidates"]}
    assert card["reward"] == rewards[request.seed] == max(rewards.values())
    again = Studio.open(str(scoring_preset), "cpu").replay("best/1-1.json")[0].clip
    assert np.allclose(again.waveform, clip.waveform, atol=1 / 2**15)
    monkeypatch.setattr(Studio, "stream", lambda *_: pytest.fail("made again"))
    assert main(command) == 0 and json.loads(capfd.readouterr().out) == points
    assert main([*command, "--n", "4"]) == 2
    assert "was begun with n 3, not 4; use a new folder" in capfd.readouterr().err


def test_the_command_line_says_first_that_nothing_can_score(tiny_preset, tmp_path, capfd):
    (tmp_path / "prompts.txt").write_text("calm piano\n")
    command = ["best-of-n", "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path)]
    assert main([*command, "--preset", str(tiny_preset)]) == 2
    assert "clips cannot be scored: preset 'tiny' has no ranker" in capfd.readouterr().err
