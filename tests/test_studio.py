"""The whole path on a tiny preset of the real classes: request, clips, files, replay, errors."""

import json
import logging
import shutil
import threading

import numpy as np
import pytest
import torch

from tests.conftest import PRESET, build_tiny_preset
from ttmpref import audio
from ttmpref.loudness import integrated_loudness, true_peak_db
from ttmpref.protocols import AudioTextEncoder, Autoencoder, TextEncoder
from ttmpref.studio import Studio, read_sidecar, sidecar_path
from ttmpref.types import (
    Clip,
    ConfigError,
    DamagedWeights,
    Generation,
    InvalidRequest,
    MissingWeights,
    OutputError,
    Progress,
    TtmprefError,
)


@pytest.fixture(scope="module")
def studio(tiny_preset):
    return Studio.open(str(tiny_preset), "cpu")


@pytest.fixture
def own_preset(tiny_preset, tmp_path):
    """A copy of the tiny preset that a test may damage."""
    shutil.copytree(tiny_preset.parent, tmp_path / "own")
    path = tmp_path / "own" / "tiny.yaml"
    path.write_text(path.read_text().replace(str(tiny_preset.parent), str(path.parent)))
    return path


def one(studio, **overrides):
    (generation,) = studio.generate(studio.request("calm piano", **{"seed": 7, **overrides}))
    return generation


def same(a, b):
    return np.array_equal(a.clip.waveform, b.clip.waveform)


def test_a_clip_has_the_presets_length_loudness_and_a_score_card(studio):
    generation = one(studio)
    clip, scores = generation.clip, generation.scores
    assert clip.sample_rate == 8_000 and clip.samples == 8_000 and clip.channels == 1
    assert integrated_loudness(clip) == pytest.approx(-16.5, abs=0.1)
    assert true_peak_db(clip) <= -1.0
    assert scores.seconds == 1.0 and -1 <= scores.clap_score <= 1
    assert scores.lufs == pytest.approx(integrated_loudness(clip), abs=1e-6)


def test_progress_comes_after_every_step_and_clips_come_last(studio):
    items = list(studio.stream(studio.request("calm piano", seed=1, num_steps=3, variations=2)))
    steps = [item.step for item in items if isinstance(item, Progress)]
    assert steps == sorted(steps) and set(steps) == {0, 1, 2, 3}
    assert [isinstance(item, Generation) for item in items[-3:]] == [False, True, True]


def test_the_same_request_gives_the_same_clip_and_another_seed_another(studio):
    assert same(one(studio), one(studio))
    assert not same(one(studio), one(studio, seed=8))


def test_a_second_studio_gives_the_same_clip(studio, tiny_preset):
    assert same(one(studio), one(Studio.open(str(tiny_preset), "cpu")))


def test_variations_take_consecutive_seeds_and_equal_the_clips_made_alone(studio):
    made = studio.generate(studio.request("calm piano", seed=7, variations=3))
    assert [generation.request.seed for generation in made] == [7, 8, 9]
    assert all(generation.request.variations == 1 for generation in made)
    alone = one(studio, seed=8)
    # Rounding differs between batch sizes, and the vocoder's phases magnify it here and there.
    difference = made[1].clip.waveform - alone.clip.waveform
    assert np.square(difference).mean() < 1e-4 * np.square(alone.clip.waveform).mean()


@pytest.mark.parametrize(
    "change",
    [
        {"guidance": 5.0},
        {"negative_prompt": "noise"},
        {"num_steps": 5},
        {"solver": "heun"},
        {"guidance_schedule": "anneal"},
        {"guidance_schedule": "interval"},
        {"normalise_loudness": False},
        {"target_lufs": -20.0},
    ],
    ids=str,
)
def test_every_setting_is_heard(studio, change):
    assert not same(one(studio), one(studio, **change))


def test_loudness_is_what_was_asked_for_or_is_left_alone_under_the_ceiling(studio):
    assert one(studio, target_lufs=-24.0).scores.lufs == pytest.approx(-24.0, abs=0.1)
    as_made = one(studio, normalise_loudness=False)
    assert as_made.scores.lufs != pytest.approx(-16.5, abs=0.1)
    assert as_made.scores.true_peak_db <= -1.0


def test_the_prompt_and_its_prefix_are_heard(studio, tiny_preset, tmp_path):
    plain = tmp_path / "plain.yaml"
    plain.write_text(tiny_preset.read_text().replace("high quality, ", ""))
    without_prefix = Studio.open(str(plain), "cpu")
    assert not same(one(studio), one(without_prefix))
    prefixed = without_prefix.request("high quality, calm piano", seed=7)
    assert same(one(studio), without_prefix.generate(prefixed)[0])
    loud = studio.generate(studio.request("loud drums", seed=7))[0]
    assert not same(one(studio), loud)


def test_a_score_is_heard_by_a_stage_with_a_head_and_ignored_by_one_without(studio):
    assert not same(one(studio, stage="scored", score=0.0), one(studio, stage="scored", score=5.0))
    assert same(one(studio, score=0.0), one(studio, score=5.0))
    assert one(studio, score=5.0).request.score == 5.0


def test_guidance_is_the_formula_and_without_guidance_half_the_batch_is_saved(studio, monkeypatch):
    """One Euler step by hand: v = w v(prompt, s) + (1 - w) v(empty, 0)."""
    one(studio, stage="scored", num_steps=1)
    generator = studio._generator("scored")
    backbone, batches = generator.parts.backbone, []
    real = backbone.velocity

    def counting(latents, t, projected, score=None):
        batches.append(len(latents))
        return real(latents, t, projected, score)

    monkeypatch.setattr(backbone, "velocity", counting)
    request = studio.request("calm piano", stage="scored", seed=3, guidance=2.5, num_steps=1)
    z, t = generator.noise([request]), torch.ones(1)
    found = generator.velocity(request)(z, 1.0)
    with torch.no_grad():
        features = generator.parts.text_features("high quality, calm piano")
        conditional = real(z, t, backbone.project(*features), torch.tensor([request.score]))
        unconditional = real(z, t, backbone.project_empty(1), torch.zeros(1))
    assert torch.allclose(found, 2.5 * conditional - 1.5 * unconditional, atol=1e-4)
    one(studio, stage="scored", guidance=1.0, num_steps=2, variations=1)
    assert batches == [2, 1, 1]


def test_a_text_is_encoded_once_for_all_stages_and_runs(tiny_preset, monkeypatch):
    studio = Studio.open(str(tiny_preset), "cpu")
    one(studio, negative_prompt="noise")
    encoder, texts = studio._text_encoder(), []
    real = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda batch: texts.extend(batch) or real(batch))
    one(studio, negative_prompt="noise", seed=8)
    one(studio, negative_prompt="noise", stage="scored")
    assert texts == []
    studio.generate(studio.request("something new", negative_prompt="noise"))
    assert texts == ["high quality, something new"]


def test_closing_the_stream_stops_within_one_step_and_frees_the_studio(studio, monkeypatch):
    one(studio, num_steps=1)
    backbone, calls = studio._generator("baseline").parts.backbone, []
    real = backbone.velocity
    monkeypatch.setattr(
        backbone, "velocity", lambda *arguments: calls.append(1) or real(*arguments)
    )
    running = studio.stream(studio.request("calm piano", num_steps=100))
    while next(running).step < 2:
        pass
    running.close()
    assert len(calls) == 2
    assert one(studio).clip.samples == 8_000


def test_a_stream_that_is_dropped_blocks_no_other_thread(studio):
    running = studio.stream(studio.request("calm piano", num_steps=50))
    while next(running).step < 1:
        pass
    made = []
    thread = threading.Thread(target=lambda: made.append(one(studio)))
    thread.start()
    thread.join(timeout=30)
    assert made and same(made[0], one(studio))


def test_two_threads_get_the_clips_they_asked_for(studio):
    made = {}
    threads = [
        threading.Thread(target=lambda seed=seed: made.update({seed: one(studio, seed=seed)}))
        for seed in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(same(made[seed], one(studio, seed=seed)) for seed in (1, 2))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3"])
def test_saving_writes_audio_and_a_sidecar_that_says_how_it_was_made(studio, tmp_path, suffix):
    generation = one(studio)
    path = studio.save(generation, tmp_path / f"clip{suffix}")
    assert audio.read_clip(path).sample_rate == 8_000
    request, provenance = read_sidecar(sidecar_path(path))
    assert request == generation.request
    assert provenance["preset"] == "tiny" and provenance["stage"] == "baseline"
    assert set(provenance["versions"]) == {"ttmpref", "torch", "transformers"}
    assert all(len(digest) == 64 for digest in provenance["weights"].values())
    assert sum(name.endswith("baseline.safetensors") for name in provenance["weights"]) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(["clip.json", path.name])


@pytest.mark.parametrize("index", [0, 2])
def test_a_sidecar_replays_its_clip_sample_for_sample(studio, tiny_preset, tmp_path, index):
    made = studio.generate(studio.request("calm piano 🎹", seed=5, variations=3, stage="scored"))
    path = studio.save(made[index], tmp_path / "clip.wav")
    (again,) = Studio.open(str(tiny_preset), "cpu").replay(sidecar_path(path))
    assert same(made[index], again)
    assert again.request == made[index].request
    assert again.provenance == made[index].provenance
    copy = studio.save(again, tmp_path / "again.wav")
    assert copy.read_bytes() == path.read_bytes()


def test_replaying_with_other_weights_warns(studio, tmp_path, caplog):
    path = sidecar_path(studio.save(one(studio), tmp_path / "clip.wav"))
    with caplog.at_level(logging.WARNING):
        studio.replay(path)
    assert not caplog.records
    record = json.loads(path.read_text())
    name = next(name for name in record["provenance"]["weights"] if "baseline" in name)
    record["provenance"]["weights"][name] = "0" * 64
    path.write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING):
        studio.replay(path)
    assert [name in entry.getMessage() for entry in caplog.records] == [True]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not JSON"),
        ("[]", "format 'list'"),
        ('{"format": 2}', "format 2"),
        ('{"format": 1}', "request"),
        ('{"format": 1, "request": [], "provenance": {}}', "incomplete or wrong"),
        ('{"format": 1, "provenance": {}, "request": {"tempo": 3}}', "tempo"),
    ],
)
def test_what_is_no_sidecar_is_refused_in_one_line(studio, tmp_path, content, said):
    path = tmp_path / "clip.json"
    path.write_text(content)
    with pytest.raises(InvalidRequest, match=said) as caught:
        studio.replay(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": []}, "batch is"),
        ({"batch": {"seed": 7}}, "variations"),
        ({"batch": {"seed": 7, "variations": 99, "index": 0}}, "variations is 99"),
        ({"batch": {"seed": 7, "variations": 2, "index": 2}}, "index is 2"),
        ({"batch": {"seed": 7, "variations": 2, "index": 1}}, "seed 7 is not number 1"),
        ({"weights": 3}, "weights is 3"),
    ],
)
def test_a_sidecar_whose_batch_cannot_be_is_refused(studio, tmp_path, change, said):
    record = one(studio).sidecar()
    record["provenance"] = {**record["provenance"], **change}
    (tmp_path / "clip.json").write_text(json.dumps(record))
    with pytest.raises(InvalidRequest, match=said):
        studio.replay(tmp_path / "clip.json")


def test_a_sidecar_of_another_preset_or_with_bad_values_is_refused(studio, tmp_path):
    path = sidecar_path(studio.save(one(studio), tmp_path / "clip.wav"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "provenance": {"preset": "paper"}}))
    with pytest.raises(InvalidRequest, match="'paper'; the open preset is 'tiny'"):
        studio.replay(path)
    record["request"]["guidance"] = 99
    path.write_text(json.dumps(record))
    with pytest.raises(InvalidRequest, match="guidance is 99"):
        studio.replay(path)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        studio.replay(tmp_path / "none.json")


def test_defaults_come_from_the_preset_and_a_seed_is_drawn(studio):
    request = studio.request("calm piano", guidance=None, seed=None)
    assert (request.stage, request.guidance, request.num_steps) == ("baseline", 3.0, 4)
    assert 0 <= request.seed < 2**31
    assert request.seed != studio.request("calm piano").seed
    assert studio.request("calm piano", seed=0).seed == 0
    assert studio.settings.examples == ("calm piano",)
    assert (request.separation_passes, request.target_lufs) == (0, -16.5)


def test_stages_without_weights_are_listed_with_the_reason_and_refused(studio):
    stages = {stage.name: stage for stage in studio.stages()}
    assert [name for name, stage in stages.items() if stage.available] == ["baseline", "scored"]
    assert stages["planned"].missing == "not trained yet"
    assert "lost.safetensors" in stages["lost"].missing
    assert stages["scored"].takes_score and stages["scored"].parent == "baseline"
    for name in ("lost", "planned"):
        with pytest.raises(MissingWeights) as caught:
            studio.request("calm piano", stage=name)
        assert repr(name) in str(caught.value) and stages[name].missing in str(caught.value)
    with pytest.raises(InvalidRequest, match="'nope'; accepted: baseline, scored, lost, planned"):
        studio.request("calm piano", stage="nope")


def test_unknown_presets_and_devices_are_refused():
    with pytest.raises(ConfigError, match="'nope'"):
        Studio.open("nope")
    for device in ("tpu", "cuda:x", "cpu:-1"):
        with pytest.raises(InvalidRequest, match="accepted: auto, cpu"):
            Studio.open("demo", device)
    if not torch.cuda.is_available():
        with pytest.raises(InvalidRequest, match="'cuda' but torch sees 0 GPUs"):
            Studio.open("demo", "cuda").device  # noqa: B018


def test_the_last_seed_of_a_batch_must_be_a_seed(studio):
    with pytest.raises(InvalidRequest, match="seed"):
        studio.generate(studio.request("calm piano", seed=2**63 - 1, variations=2))


@pytest.mark.parametrize(
    "name",
    [
        "baseline.safetensors",
        "vae.safetensors",
        "vocoder.safetensors",
        "text_encoder/model.safetensors",
        "clap/model.safetensors",
        "text_encoder/tokenizer.json",
    ],
)
def test_a_truncated_file_is_one_line_naming_it(own_preset, name):
    path = own_preset.parent / name
    path.write_bytes(path.read_bytes()[:-40])
    studio = Studio.open(str(own_preset), "cpu")
    with pytest.raises(DamagedWeights) as caught:
        one(studio)
    message = str(caught.value)
    assert str(path.parent) in message and "\n" not in message and len(message) < 400


@pytest.mark.parametrize("name", ["baseline.safetensors", "text_encoder", "clap/model.safetensors"])
def test_a_missing_file_is_one_line_naming_it(own_preset, name):
    path = own_preset.parent / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(MissingWeights) as caught:
        one(Studio.open(str(own_preset), "cpu"))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused(own_preset):
    root = own_preset.parent
    shutil.copy(root / "vae.safetensors", root / "baseline.safetensors")
    with pytest.raises(DamagedWeights):
        one(Studio.open(str(own_preset), "cpu"))


def test_encoder_weights_that_are_missing_are_not_drawn_at_random(own_preset):
    from safetensors.torch import load_file, save_file

    path = own_preset.parent / "text_encoder/model.safetensors"
    tensors = load_file(path)
    removed = next(name for name in tensors if "layer_norm" in name)
    tensors.pop(removed)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(DamagedWeights, match=f"missing keys: {removed}"):
        one(Studio.open(str(own_preset), "cpu"))


def test_a_tokenizer_that_lost_its_vocabulary_is_refused(own_preset):
    own_preset.write_text(own_preset.read_text().replace("vocabulary: 320", "vocabulary: 321"))
    with pytest.raises(DamagedWeights, match="320 tokens, not 321"):
        one(Studio.open(str(own_preset), "cpu"))


def test_velocities_that_explode_are_an_error_not_a_clip(own_preset):
    from safetensors.torch import load_file, save_file

    path = own_preset.parent / "baseline.safetensors"
    tensors = load_file(path)
    tensors["final_layer.conv.weight"] = torch.full_like(
        tensors["final_layer.conv.weight"], float("nan")
    )
    save_file(tensors, path)
    with pytest.raises(TtmprefError, match="not finite"):
        one(Studio.open(str(own_preset), "cpu"))


def test_a_full_disk_leaves_neither_audio_nor_sidecar(studio, tmp_path, monkeypatch):
    real = audio._write_synced

    def full_after_the_first(path, data):
        if data.startswith(b"{"):
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(audio, "_write_synced", full_after_the_first)
    with pytest.raises(OutputError, match="clip.json: cannot be written .No space left"):
        studio.save(one(studio), tmp_path / "clip.wav")
    assert list(tmp_path.iterdir()) == []


def test_warming_up_loads_the_default_stage_and_never_raises(own_preset, caplog):
    studio = Studio.open(str(own_preset), "cpu")
    studio.warm_up()
    assert ("stage", "baseline", "none") in studio._parts
    (own_preset.parent / "baseline.safetensors").unlink()
    Studio.open(str(own_preset), "cpu").warm_up()
    assert "not warmed up" in caplog.text


def test_opening_a_studio_reads_no_weights(tmp_path):
    path = build_tiny_preset_without_weights(tmp_path)
    studio = Studio.open(str(path))
    assert not any(stage.available for stage in studio.stages())


def build_tiny_preset_without_weights(root):
    path = root / "tiny.yaml"
    path.write_text(PRESET.format(root=root))
    return path


def test_parts_keep_their_seams(studio):
    assert isinstance(studio._text_encoder(), TextEncoder)
    assert isinstance(studio._clap(studio.preset.metric_clap), AudioTextEncoder)
    assert isinstance(studio._autoencoder(studio.preset.stages[0]), Autoencoder)


def test_text_states_do_not_depend_on_the_batch_and_pads_are_kept(studio):
    encoder = studio._text_encoder()
    both = encoder.encode(["calm piano", "loud drums and a long line of words"])
    assert both.shape == (2, 12, 16)
    assert torch.allclose(both[:1], encoder.encode(["calm piano"]), atol=1e-5)
    assert encoder.encode(["x" * 2_000]).shape == (1, 12, 16)
    assert both[0, -1].abs().sum() > 0


def test_clap_vectors_are_unit_long_repeatable_and_cover_long_audio(studio):
    clap = studio._clap(studio.preset.metric_clap)
    wave = np.random.default_rng(0).normal(size=(2, 70_000)).astype(np.float32) * 0.1
    clips = [Clip(wave, 44_100), Clip(wave[:, :9_000], 44_100), Clip(wave[:1, :100], 8_000)]
    vectors = clap.encode_audio(clips)
    assert vectors.shape == (3, 8) and torch.allclose(vectors.norm(dim=-1), torch.ones(3))
    assert torch.equal(vectors, clap.encode_audio(clips))
    assert torch.allclose(vectors[:1], clap.encode_audio(clips[:1]), atol=1e-5)
    text = clap.encode_text(["calm piano", "loud drums"])
    assert text.shape == (2, 8) and not torch.allclose(text[0], text[1])


def test_encoders_leave_the_global_random_state_alone(studio):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    one(studio)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_the_tiny_preset_is_the_same_every_time(tiny_preset, tmp_path):
    build_tiny_preset(tmp_path)
    for name in ("vae.safetensors", "baseline.safetensors", "clap/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tiny_preset.parent / name).read_bytes()
