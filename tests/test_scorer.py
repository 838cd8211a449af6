"""Rewards of clips: alike in batches and gradients, with their interval, timeline and warnings."""

import json

import numpy as np
import pytest
import torch

from tests.scoring import LAYOUT, RATE, noise, seeded_head
from tests.seeded import shared_file
from ttmpref import assets
from ttmpref.audio import write_clip
from ttmpref.reward.entries import ScoreEntry
from ttmpref.reward.guards import examine, loudness_of
from ttmpref.reward.percentiles import (
    RELEASED_HEAD_MD5,
    SOURCE_MD5_KEY,
    read_collections,
    write_collections,
)
from ttmpref.reward.ranker import clap_audio, write_ranker
from ttmpref.reward.scorer import (
    DifferentiableScorer,
    Scorer,
    ScorerParts,
    in_groups,
    reward_interval,
)
from ttmpref.studio import Studio
from ttmpref.types import Clip, DamagedWeights, InvalidRequest, Listening, MissingWeights


@pytest.fixture(scope="module")
def studio(scoring_preset):
    return Studio.open(str(scoring_preset), "cpu")


@pytest.fixture(scope="module")
def scorer(studio):
    return studio.scorer()


CLIPS = [noise(1.0), noise(0.4, 22_050, seed=1), noise(1.0, seed=2), noise(3.7, 44_100, 2, seed=3)]
PROMPTS = ["calm piano", "", "loud drums", "calm piano"]


def test_a_batch_scores_as_its_clips_do_alone(scorer):
    together = scorer.score_clips(CLIPS, PROMPTS)
    for clip, prompt, batched in zip(CLIPS, PROMPTS, together, strict=True):
        alone = scorer.score_clips([clip], prompt)[0]
        assert batched.rewards == pytest.approx(alone.rewards, abs=1e-5)
        assert batched.timeline == alone.timeline or clip.seconds > 1
        assert batched.reward_without_prompt == pytest.approx(alone.reward_without_prompt, abs=1e-5)
    assert len({round(score.reward, 3) for score in together}) == len(CLIPS)


@pytest.mark.parametrize(
    ("rate", "policy"), [(RATE, {}), (44_100, {"band": "16k"}), (22_050, {"window": "mean"})]
)
def test_the_differentiable_scorer_gives_the_plain_rewards(studio, rate, policy):
    scorer = studio.scorer(Listening(**policy))
    clips = [noise(1.6, rate, seed=seed) for seed in range(3)]
    plain = [score.reward for score in scorer.score_clips(clips, PROMPTS[:3], timeline=False)]
    waveforms = torch.from_numpy(np.stack([clip.mono for clip in clips])).requires_grad_()
    rewards = DifferentiableScorer(scorer)(waveforms, rate, PROMPTS[:3])
    assert rewards.tolist() == pytest.approx(plain, abs=1e-5)
    (gradient,) = torch.autograd.grad(rewards[1], waveforms)
    assert gradient[1].abs().sum() > 0 and not gradient[[0, 2]].any()


def test_its_gradient_is_the_slope_of_the_plain_reward(scorer):
    clip = noise(1.0, 16_000)
    waveforms = torch.from_numpy(clip.waveform).requires_grad_()
    DifferentiableScorer(scorer)(waveforms, 16_000, "calm piano")[0].backward()
    direction = waveforms.grad[0].numpy() / waveforms.grad.norm().item()
    step = 1e-2
    up, down = (
        scorer.score_clips([Clip(clip.waveform + s * step * direction, 16_000)], "calm piano")[0]
        for s in (1, -1)
    )
    slope = (up.reward - down.reward) / (2 * step)
    assert slope == pytest.approx(waveforms.grad.norm().item(), rel=0.02)


def test_every_head_is_scored_on_features_that_were_encoded_once(scorer, monkeypatch):
    heads = [seeded_head("a"), seeded_head("b", clap_audio(8)), seeded_head("c", LAYOUT)]
    calls = []
    encode = scorer.parts.features.of_clips
    monkeypatch.setattr(
        scorer.parts.features, "of_clips", lambda *given: calls.append(1) or encode(*given)
    )
    several = Scorer(ScorerParts(scorer.parts.features, heads))
    rewards = several.score_clips(CLIPS[:2], "calm piano")[0].rewards
    assert len(calls) == 1
    for head, reward in zip(heads, rewards, strict=True):
        one = Scorer(ScorerParts(scorer.parts.features, [head]))
        alone = one.score_clips(CLIPS[:1], "calm piano")[0]
        assert alone.reward == pytest.approx(reward, abs=1e-5) and alone.interval is None


def test_the_interval_is_student_t_on_the_spread_of_the_heads():
    assert reward_interval([1.0]) is None
    assert reward_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    low, high = reward_interval([1.0, 0.0, 2.0, 1.0])
    half = 3.182446 * np.sqrt(2 / 3)
    assert (low, high) == pytest.approx((1 - half, 1 + half), rel=1e-5)


def test_a_prompt_changes_the_reward_and_the_reward_without_it_is_told(scorer):
    told, silent = scorer.score_clips(CLIPS[:1] * 2, ["calm piano", ""])
    assert told.reward != pytest.approx(silent.reward, abs=1e-3)
    assert told.reward_without_prompt == pytest.approx(silent.reward, abs=1e-5)
    assert silent.reward_without_prompt == silent.reward


def test_long_clips_have_a_timeline_of_windows_heard_alone(scorer):
    loud = noise(1.0).waveform
    clip = Clip(np.concatenate([loud, 0 * loud, loud[:, :4_000]], 1), RATE)  # 2.5 s
    score = scorer.score_clips([clip], "calm piano")[0]
    assert [(w.start, w.end) for w in score.timeline] == [(0.0, 1.0), (0.75, 1.75), (1.5, 2.5)]
    first = scorer.score_clips([Clip(loud, RATE)], "calm piano")[0]
    assert score.timeline[0].reward == pytest.approx(first.reward, abs=1e-5)
    assert first.timeline == ()
    assert scorer.score_clips([clip], timeline=False)[0].timeline == ()


def test_a_score_says_how_it_was_made(studio, scorer):
    score = scorer.score_clips(CLIPS[3:], "")[0]
    protocol = score.protocol
    assert (protocol["window"], protocol["band"]) == ("centre", "full")
    assert protocol["layout"] == "[clap_audio 8 | mert 16 | clap_text 8]"
    config = studio.preset.ranker
    assert protocol["heads"][config.weights] == assets.sha256(assets.locate(config.weights))
    assert len(protocol["heads"]) == 3 and len(protocol["encoders"]) == 2
    assert {"ttmpref", "torch", "transformers", "preset", "window_seconds"} <= set(protocol)
    assert (score.sample_rate, score.channels) == (44_100, 2)
    assert json.loads(json.dumps(score.to_dict()))["reward"] == score.reward


def test_policies_given_to_the_studio_replace_those_of_the_preset(studio):
    clip = noise(4.0)
    centre, first = (
        studio.score([clip], listening=Listening(window=window))[0]
        for window in ("centre", "first")
    )
    assert studio.score([clip])[0].reward == centre.reward != first.reward
    assert first.protocol["window"] == "first"
    assert studio.score([]) == []


@pytest.mark.parametrize(
    ("clips", "prompts", "said"),
    [
        ([Clip(np.zeros((1, 0), np.float32), RATE)], "", "the clip is empty"),
        ([Clip(np.full((1, 9), np.nan, np.float32), RATE)], "", "not finite"),
        ([noise()], ["a", "b"], "2 prompts for 1 clips"),
        ([noise()], "a\x07b", "control character"),
        ([noise()], "x" * 3_000, "3000 characters"),
    ],
)
def test_what_no_reward_is_defined_for_is_refused_in_one_line(scorer, clips, prompts, said):
    with pytest.raises(InvalidRequest, match=said) as caught:
        scorer.score_clips(clips, prompts)
    assert "\n" not in str(caught.value)


def test_one_sample_is_scored_and_flagged(scorer):
    score = scorer.score_clips([Clip(np.full((1, 1), 0.5, np.float32), RATE)])[0]
    assert np.isfinite(score.reward) and score.flags[0].code == "short"


def test_groups_keep_the_order_and_bound_what_is_in_memory():
    groups = list(in_groups([10.0] * 20 + [900.0, 10.0], lambda seconds: seconds))
    assert [len(group) for group in groups] == [8, 8, 5, 1]
    assert in_groups(iter(lambda: 1.0, None), float).__next__() == [1.0] * 8
    assert list(in_groups([], float)) == []


# Guards ------------------------------------------------------------------------------------------


def sine(amplitude, frequency=220.0, seconds=4.0, rate=44_100):
    time = np.arange(round(seconds * rate)) / rate
    return Clip((amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)[None], rate)


def stacked(*clips):
    return Clip(np.concatenate([clip.waveform for clip in clips]), clips[0].sample_rate)


def clipped(clip, level):
    return Clip(np.clip(clip.waveform, -level, level) / level * 0.3, clip.sample_rate)


GUARDED = {
    "silence": (sine(0.0), {"silent", "mono"}),
    "faint hiss": (noise(4.0).waveform * 1e-3, {"silent", "mono"}),
    "mostly silence": (
        np.concatenate([sine(0.3).waveform, sine(0.0, seconds=6.0).waveform], 1),
        {"mostly_silent", "mono"},
    ),
    "a tone": (sine(0.3), {"mono"}),
    "a clipped tone made quiet again": (clipped(sine(1.0), 0.7), {"clipped", "mono"}),
    "clipped noise": (clipped(noise(4.0, 44_100), 0.15), {"clipped", "mono"}),
    "half a second": (sine(0.3, seconds=0.5), {"short", "mono"}),
    "more than a window": (sine(0.3, seconds=11.0), {"long", "mono"}),
    "six minutes": (sine(0.3, seconds=360.0, rate=8_000), {"very_long", "mono"}),
    "stereo": (stacked(noise(4.0), noise(4.0, seed=1)), {"stereo"}),
    "two opposite channels": (
        stacked(sine(0.3), Clip(-sine(0.28).waveform, 44_100)),
        {"stereo", "cancelling"},
    ),
    "six channels": (stacked(*[noise(4.0, seed=i) for i in range(6)]), {"multichannel"}),
    "very loud": (noise(4.0).waveform * 8, {"loud", "mono"}),
    "very quiet": (sine(0.004), {"quiet", "mono"}),
}


@pytest.mark.parametrize("name", GUARDED)
def test_what_makes_a_reward_doubtful_is_flagged(name):
    clip, expected = GUARDED[name]
    if isinstance(clip, np.ndarray):
        clip = Clip(clip.astype(np.float32), 44_100 if clip.shape[1] > 32_000 else RATE)
    flags = examine(clip, loudness_of(clip), 10.0)
    assert {flag.code for flag in flags} == expected
    assert [flag.serious for flag in flags] == sorted((f.serious for f in flags), reverse=True)
    assert all("\n" not in flag.text and flag.text for flag in flags)


# Percentiles -------------------------------------------------------------------------------------


def test_percentiles_are_read_off_the_quantiles_of_each_collection(tmp_path):
    rewards = {"even": np.linspace(-1, 1, 1001), "narrow": np.linspace(0, 0.1, 11)}
    collections = write_collections(tmp_path / "c.json", "abc", "us", rewards)
    assert collections.percentiles(0.5) == {"even": pytest.approx(75.0), "narrow": 100.0}
    assert collections.percentiles(-9.0) == {"even": 0.0, "narrow": 0.0}
    again = read_collections(tmp_path / "c.json", {"abc", "other"})
    assert again.percentiles(0.05) == pytest.approx(collections.percentiles(0.05))
    assert again.source == "us"


def test_percentiles_of_another_head_are_refused(tmp_path, scorer):
    write_collections(tmp_path / "c.json", "abc", "us", {"even": np.linspace(-1, 1, 101)})
    with pytest.raises(DamagedWeights, match="percentiles are of head abc, not of def"):
        read_collections(tmp_path / "c.json", {"def"})


def test_released_percentiles_belong_to_the_released_head_alone():
    path = shared_file("data/tunejury/release_percentiles101.json")
    with pytest.raises(DamagedWeights, match=f"of head {RELEASED_HEAD_MD5[:12]}, not of"):
        read_collections(path, {"0" * 64})
    released = read_collections(path, {"0" * 64, RELEASED_HEAD_MD5})
    assert "CC BY-NC" in released.source and set(released.grids) >= {"fma_large", "sdd"}
    # Digital silence, -1.05, outscores these shares (specification 3.2).
    silence = released.percentiles(-1.05)
    assert silence["fma_large"] == pytest.approx(39, abs=1)
    assert silence["openmic"] == pytest.approx(46, abs=1)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"a": [1, 2]}', '{"format": 2}', '{"format": 1, "head": "x"}',
     json.dumps({"a": list(range(100, -1, -1))}), json.dumps({"a": [float("nan")] * 101})],
)  # fmt: skip
def test_a_file_that_is_no_collections_file_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(DamagedWeights, match="not a collections file") as caught:
        read_collections(path, {"abc"})
    assert "\n" not in str(caught.value)


def test_scores_carry_the_percentiles_of_their_head(studio):
    score = studio.score([noise()])[0]
    assert set(score.percentiles) == {"corpus", "noise"}
    expected = studio.collections().percentiles(score.reward)
    assert score.percentiles == expected and studio.collections().source == "tests"


# Presets that can and cannot score ---------------------------------------------------------------


def variant(scoring_preset, tmp_path, old, new):
    path = tmp_path / "mine.yaml"
    text = scoring_preset.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return Studio.open(str(path), "cpu")


def test_a_preset_without_ranker_says_so(tiny_preset):
    studio = Studio.open(str(tiny_preset), "cpu")
    assert studio.scoring_missing() == "preset 'tiny' has no ranker"
    assert studio.collections() is None
    with pytest.raises(MissingWeights, match="cannot be scored: preset 'tiny' has no ranker"):
        studio.score([noise()])


def test_missing_and_unfitting_heads_are_named(scoring_preset, tmp_path):
    lost = variant(scoring_preset, tmp_path, "seed2.safetensors", "lost.safetensors")
    assert "lost.safetensors is missing" in lost.scoring_missing()
    sound = variant(scoring_preset, tmp_path, "ranker: {", "ranker: {layout: clap_audio, ")
    with pytest.raises(DamagedWeights, match="trained on .*mert 16.*, not on .clap_audio 8."):
        sound.score([noise()])


def test_a_head_on_sound_alone_needs_no_music_encoder(scoring_preset, tmp_path):
    write_ranker(seeded_head("alone", clap_audio(8)), tmp_path / "alone.safetensors")
    text = scoring_preset.read_text()
    path = tmp_path / "sound.yaml"
    start = text.index("music_encoder:")
    path.write_text(
        f'{text[:start]}ranker: {{layout: clap_audio, weights: "{tmp_path}/alone.safetensors"}}\n'
    )
    score = Studio.open(str(path), "cpu").score([noise()], "calm piano")[0]
    assert score.reward == score.reward_without_prompt and score.interval is None
    assert len(score.protocol["encoders"]) == 1 and score.percentiles == {}


def test_a_collections_file_that_is_not_there_leaves_scores_without_percentiles(
    scoring_preset, tmp_path, caplog
):
    studio = variant(scoring_preset, tmp_path, "collections.json", "gone.json")
    assert studio.score([noise()])[0].percentiles == {}
    assert "rewards come without percentiles" in caplog.text and "gone.json" in caplog.text


def test_a_converted_head_is_known_by_its_original(scoring_preset, tmp_path):
    """The released figures are bound to the released file, whatever it was converted to."""
    head = seeded_head("head")
    says = {SOURCE_MD5_KEY: RELEASED_HEAD_MD5, "feature_layout": LAYOUT.to_json()}
    (tmp_path / "head.safetensors").write_bytes(assets.pack_tensors(head.state_dict(), says))
    (tmp_path / "released.json").write_text(json.dumps({"sdd": list(np.linspace(-2, 2, 101))}))
    text = scoring_preset.read_text()
    path = tmp_path / "released.yaml"
    start = text.index("ranker:")
    path.write_text(
        f'{text[:start]}ranker: {{weights: "{tmp_path}/head.safetensors", '
        f'collections: "{tmp_path}/released.json"}}\n'
    )
    assert set(Studio.open(str(path), "cpu").score([noise()])[0].percentiles) == {"sdd"}


def test_the_benchmark_compares_ways_that_agree(tiny_preset, tmp_path):
    """At a small size; the figures of the full one are measured by `benchmarks.scoring`."""
    from benchmarks.scoring import Size, against_the_plain_way

    size = Size(
        heads=2, clap_dim=8, music_dim=16, music_rate=RATE, window_seconds=1,
        clap_audio={"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1],
                    "num_attention_heads": [1, 1, 2, 2]},
        clap_text={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "intermediate_size": 32},
        music={"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
               "conv_dim": (8, 8), "conv_stride": (10, 4), "conv_kernel": (20, 4),
               "num_conv_pos_embedding_groups": 2},
    )  # fmt: skip
    paths = [write_clip(noise(1.5, seed=i), tmp_path / f"{i}.wav") for i in range(3)]
    entries = [ScoreEntry(str(path), path, "calm piano") for path in paths]
    tokenizer = tiny_preset.parent / "clap"
    whole, single, difference = against_the_plain_way(size, tmp_path / "w", tokenizer, entries)
    assert whole.value > single.value > 0 and difference.met
