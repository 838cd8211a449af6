"""Stimuli: alike in everything that is not music, built once, and a leak report that shouts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.studies import RATE, shared_data, tone, write_study
from ttmpref.audio import read_clip, write_clip
from ttmpref.studio import Studio
from ttmpref.study.cli import Studios
from ttmpref.study.definition import Audio
from ttmpref.study.errors import BuildError
from ttmpref.study.leaks import OUTER, file_facts, leak_report
from ttmpref.study.pairing import most_pairs
from ttmpref.study.records import BUILD_FILE, build_folder, clip_path, read_build
from ttmpref.study.rendering import HEADER_BYTES, audible_span, degraded, render_prompt
from ttmpref.study.stimuli import build_study
from ttmpref.types import Clip

AUDIO = Audio(sample_rate=RATE, seconds=1.0, min_seconds=0.5)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A study of six prompts and its build folder; not to be changed."""
    root = tmp_path_factory.mktemp("study")
    study = write_study(root / "study")
    build = build_study(study, root / "build")
    return study, build, root / "build"


def test_check_11_all_files_have_one_length_and_a_plain_header(built):
    _, build, folder = built
    files = [clip_path(folder, s.delivered_sha256).read_bytes() for s in build.stimuli]
    assert {len(data) for data in files} == {HEADER_BYTES + 2 * RATE}
    assert len({data[:HEADER_BYTES] for data in files}) == 1
    assert files[0][:4] == b"RIFF" and files[0][36:40] == b"data"


def test_check_14_loudness_peaks_and_silence_are_matched(built):
    _, build, _ = built
    assert not build.faults
    for one in build.stimuli:
        assert abs(one.lufs_out - one.target_lufs) <= 0.3
        assert one.true_peak_dbtp <= -1.0 and one.dc < 1e-3
    for prompt in build.prompts:
        here = [s for s in build.stimuli if s.prompt_id == prompt.id]
        for name in ("lead_ms", "tail_ms"):
            values = [getattr(s, name) for s in here]
            assert max(values) - min(values) <= 50
        assert len({s.target_lufs for s in here}) == 1
    means = [
        np.mean([s.lufs_out for s in build.stimuli if s.system == name]) for name in ("old", "new")
    ]
    assert abs(means[0] - means[1]) <= 0.1


def test_a_spiky_clip_lowers_its_whole_prompt_by_one_gain_and_meets_no_limiter():
    spiky = tone(1.0, 220, level=0.02)
    spiky.waveform[:, 4000] = 0.9
    rendered = render_prompt({"a/1/0": spiky, "b/1/0": tone(1.0, 230)}, AUDIO)
    first, second = (one.measures for one in rendered.values())
    assert first.true_peak_dbtp == pytest.approx(-1.0, abs=0.05)
    assert second.true_peak_dbtp < -3
    assert first.target_lufs == second.target_lufs < -17
    assert first.lufs_out == pytest.approx(second.lufs_out, abs=0.02)


def test_silence_is_cut_before_and_shared_after():
    late, short = tone(1.0, 220), tone(0.8, 230)
    late = Clip(np.pad(late.waveform, ((0, 0), (1600, 0))), RATE)
    rendered = render_prompt({"a/1/0": late, "b/1/0": short}, AUDIO)
    spans = [
        audible_span(np.frombuffer(one.data[HEADER_BYTES:], "<i2")[None] / 32768.0, RATE)
        for one in rendered.values()
    ]
    assert spans[0][0] == spans[1][0] == 0
    assert abs(spans[0][1] - spans[1][1]) <= 0.05 * RATE
    assert spans[0][1] <= 0.8 * RATE


def test_a_delivered_clip_is_in_the_form_asked_for():
    audio = Audio(sample_rate=16_000, channels=2, seconds=0.8, min_seconds=0.5, pad_ms=100)
    rendered = render_prompt({"a/1/0": tone(1.0, 220, rate=44_100, channels=3)}, audio)
    data = rendered["a/1/0"].data
    samples = np.frombuffer(data[HEADER_BYTES:], "<i2").reshape(-1, 2)
    assert len(samples) == 16_000 and not samples[:1600].any() and not samples[-1600:].any()
    assert np.array_equal(samples[:, 0], samples[:, 1])


def test_a_constant_offset_is_taken_out():
    clip = tone(1.0, 220)
    clip.waveform[:] += 0.1
    measures = render_prompt({"a/1/0": clip}, AUDIO)["a/1/0"].measures
    assert measures.dc < 1e-3 and measures.lead_ms == 0


def test_too_little_music_is_a_fault():
    rendered = render_prompt({"a/1/0": tone(0.45, 220), "b/1/0": tone(1.0, 220)}, AUDIO)
    assert all("of music" in one.faults[0] for one in rendered.values())


SPOILT = {
    "zeros": (np.zeros(44_100), "the clip is silent; replace it"),
    "dc only": (np.full(44_100, 0.3), "the clip is silent; replace it"),
    "0.05 s": (tone(0.05, 220, rate=44_100).waveform[0], "holds 0.05 s of sound, and less than"),
    "faint": (1e-6 * np.sin(np.arange(44_100)), "too quiet or too short to have a loudness"),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("order", [1, -1])
def test_check_18_a_clip_without_music_ends_the_build_and_is_named(name, order, tmp_path):
    """Whichever clip of the prompt comes first, and at a rate that is not the study's."""
    samples, said = SPOILT[name]
    study = write_study(tmp_path / "study", prompts=2)
    system, suffix = ("old", "wav") if order > 0 else ("new", "flac")
    path = tmp_path / "study" / system / f"2.{suffix}"
    write_clip(Clip(np.float32(samples)[None], 44_100), path, bit_depth=24)
    with pytest.raises(BuildError, match=f"{system}/2/0: {said}") as caught:
        build_study(study, tmp_path / "build")
    assert "leave its prompt out" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "build" / BUILD_FILE).exists()


def test_check_18_a_clip_with_an_offset_is_mended_and_said(tmp_path, caplog):
    study = write_study(tmp_path / "study", prompts=2)
    with caplog.at_level("WARNING"):
        build_study(study, tmp_path / "build")
    assert not caplog.records
    path = tmp_path / "study" / "old" / "2.wav"
    clip = tone(1.2, 220)
    write_clip(Clip(clip.waveform + np.float32(0.1), RATE), path)
    offset = read_clip(path).waveform.mean()
    for _ in range(2):  # said again although nothing is rendered again
        caplog.clear()
        with caplog.at_level("WARNING"):
            build = build_study(study, tmp_path / "build")
        (said,) = caplog.messages
        assert said.startswith("clips with a DC offset: 1;") and f"old/2/0, {offset:+.3f}" in said
    assert not build.faults and max(stimulus.dc for stimulus in build.stimuli) < 1e-3


def test_degrading_is_repeatable_and_plain_to_hear():
    clip = tone(1.0, 220)
    first, again = degraded(clip, 1), degraded(clip, 1)
    assert np.array_equal(first.waveform, again.waveform)
    error = np.square(first.waveform - clip.waveform).mean() / np.square(clip.waveform).mean()
    assert error > 0.01


def test_a_build_repeats_byte_for_byte_and_does_nothing_twice(built, monkeypatch, tmp_path):
    study, build, folder = built
    before = (folder / BUILD_FILE).read_bytes()
    other = build_study(study, tmp_path / "again")
    assert other == build and (tmp_path / "again" / BUILD_FILE).read_bytes() == before
    monkeypatch.setattr("ttmpref.study.stimuli.render_prompt", None)
    assert build_study(study, tmp_path / "again") == build


def test_an_interrupted_build_goes_on(tmp_path, monkeypatch):
    study = write_study(tmp_path / "study", prompts=3)
    stopped = []

    def stop(done, total, what):
        stopped.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_study(study, tmp_path / "build", progress=stop)
    assert not (tmp_path / "build" / BUILD_FILE).exists()
    assert len(list((tmp_path / "build" / "prompts").iterdir())) == 2
    assert read_build_after(study, tmp_path / "build").pairs


def read_build_after(study, folder):
    build_study(study, folder)
    return read_build(folder)


def test_pairs_are_main_then_checks_then_practice(built):
    study, build, _ = built
    kinds = [pair.kind for pair in build.pairs]
    assert kinds == ["main"] * 6 + ["attention"] * 2 + ["practice"]
    for pair in build.pairs:
        assert pair.lo < pair.hi
        assert build.stimuli[pair.lo].prompt_id == build.stimuli[pair.hi].prompt_id
    checks = [pair for pair in build.pairs if pair.kind == "attention"]
    assert all(build.stimuli[pair.hi].system == "degraded" for pair in checks)
    assert all(pair.expected == "lo" for pair in checks)
    assert {build.stimuli[pair.lo].system for pair in build.pairs[6:]} == {"old", "new"}


def test_takes_of_one_system_meet_spread_over_margins(tmp_path):
    folder = tmp_path / "study"
    rows = ["system,prompt_id,take,score"]
    for prompt in (1, 2, 3, 4):
        for take, score in enumerate((0.0, 0.1, 1.0)):
            clip = tone(1.1, 200 + 20 * take + prompt)
            write_clip(clip, folder / "takes" / f"{prompt}-{take}.wav")
            rows.append(f"solo,{prompt},{take},{score}")
    (folder / "scores.csv").write_text("\n".join(rows))
    study = write_study(
        folder,
        prompts=4,
        systems=[{"label": "solo", "audio": "takes/{prompt_id}-{take}.wav", "takes": 3}],
        pairs={
            "main": [],
            "within": {"systems": ["solo"], "margins": [0, 0.5], "pairs_per_bin": 3},
        },
        ranker={"file": "scores.csv"},
        analysis={"primary": None},
    )
    build = build_study(study, tmp_path / "build")
    main = [pair for pair in build.pairs if pair.kind == "main"]
    takes = [(build.stimuli[p.lo].take, build.stimuli[p.hi].take) for p in main]
    assert takes.count((0, 1)) == 3 and len(main) == 6 == most_pairs(study)["main"]
    assert len({pair.prompt_id for pair in main if build.stimuli[pair.hi].take == 1}) == 3
    assert len(build.scores) == 12 and {s.scorer for s in build.scores} == {"ranker"}
    # What the ranker is held against is taken along, and does not decide which takes meet.
    wide = [f"{row},{'reward_without_prompt' if i == 0 else 0.0}" for i, row in enumerate(rows)]
    (folder / "scores.csv").write_text("\n".join(wide))
    again = build_study(study, tmp_path / "build")
    assert again.pairs == build.pairs and again.scores[:12] == tuple(
        score.model_copy(update={"scorer_sha256": again.scores[0].scorer_sha256})
        for score in build.scores
    )
    assert {score.scorer for score in again.scores[12:]} == {"reward_without_prompt"}
    (folder / "scores.csv").write_text("\n".join([*wide[:-1], f"{rows[-1]},high"]))
    with pytest.raises(BuildError, match="reward_without_prompt is 'high'; a finite number"):
        build_study(study, tmp_path / "build")


def test_a_preset_scores_clips_and_says_what_its_ranker_is_held_against(scoring_preset, tmp_path):
    study = write_study(tmp_path / "study", prompts=2, ranker={"preset": str(scoring_preset)})
    folder = build_folder(tmp_path / "data", study.definition)
    build = build_study(study, folder, score=Studios("cpu").score)
    found = {(score.stimulus, score.scorer): score.score for score in build.scores}
    studio = Studio.open(str(scoring_preset), "cpu")
    for place, stimulus in enumerate(build.stimuli):
        if stimulus.system not in ("old", "new"):
            continue
        (path,) = (tmp_path / "study" / stimulus.system).glob(f"{stimulus.prompt_id}.*")
        clip, text = read_clip(path), f"prompt number {stimulus.prompt_id}"
        (reward,) = studio.score([clip], text)
        assert found[place, "ranker"] == pytest.approx(reward.reward, abs=1e-5)
        without = found[place, "reward_without_prompt"]
        assert without == pytest.approx(reward.reward_without_prompt, abs=1e-5)
        similarity = studio.clap_score(clip, text)
        assert found[place, "clap_score"] == pytest.approx(similarity, abs=1e-5)
        assert -1 <= similarity <= 1


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "old" / "2.wav").unlink(), "system 'old', prompt '2', take 0"),
        (lambda f: write_clip(tone(1, 220), f / "new" / "2.wav"), "2.wav and 2.flac both lie"),
    ],
)
def test_a_missing_or_ambiguous_clip_is_named(tmp_path, break_it, message):
    study = write_study(tmp_path / "study", prompts=2)
    break_it(tmp_path / "study")
    with pytest.raises(BuildError, match=message):
        build_study(study, tmp_path / "build")


def test_an_altered_clip_is_found_before_the_study_opens(tmp_path):
    study = write_study(tmp_path / "study", prompts=1)
    build = build_study(study, tmp_path / "build")
    clip_path(tmp_path / "build", build.stimuli[0].delivered_sha256).write_bytes(b"RIFF")
    with pytest.raises(BuildError, match="missing or altered"):
        read_build(tmp_path / "build")
    with pytest.raises(BuildError, match="run `python -m ttmpref study build` first"):
        read_build(tmp_path)


def test_check_15_synthetic_systems_are_at_chance_once_delivered(built):
    _, build, _ = built
    forms = {leak.form: leak for leak in build.leaks}
    assert forms["supplied"].outer_auc == 1.0 and forms["supplied"].leaks
    assert forms["delivered"].outer_auc <= 0.55 and not forms["delivered"].leaks


def test_check_15_chance_is_inside_the_null_band():
    """Random differences are no evidence; a constant one always is."""
    rng = np.random.default_rng(0)
    names = [*OUTER, "true_peak_db", "crest_db", "bandwidth_hz"]
    noise = {
        (system, str(i), 0): {name: float(rng.normal(0, 1e4)) for name in names}
        for system in "xy"
        for i in range(30)
    }
    leak = leak_report(noise, [("x", "y")])[0]
    assert leak.outer_auc < leak.outer_null and 0.55 < leak.outer_null < 0.85
    shifted = {
        key: {**facts, "bytes": 882_044 + 34 * (key[0] == "x")} for key, facts in noise.items()
    }
    assert leak_report(shifted, [("x", "y")])[0].features["bytes"] == 1.0


def test_check_15_the_published_clips_shout_and_our_build_of_them_does_not(tmp_path):
    folder = shared_data("paper_clips")
    supplied, delivered = {}, {}
    for prompt in sorted(path.stem for path in (folder / "baseline").glob("*.wav")):
        paths = {system: folder / system / f"{prompt}.wav" for system in ("baseline", "sub1")}
        clips = {f"{system}/{prompt}/0": read_clip(path) for system, path in paths.items()}
        for key, one in render_prompt(clips, Audio()).items():
            assert not one.faults
            system = key.split("/")[0]
            path = tmp_path / f"{system}-{prompt}.wav"
            path.write_bytes(one.data)
            supplied[system, prompt, 0] = file_facts(paths[system])
            delivered[system, prompt, 0] = file_facts(path)
    assert len(supplied) == len(delivered) == 20
    contrast = [("baseline", "sub1")]
    assert leak_report(supplied, contrast)[0].outer_auc == 1.0
    assert leak_report(delivered, contrast)[0].outer_auc <= 0.55
