"""Prepared data hold what the encoders say of every clip, and whatever happens nothing is lost."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from typer.testing import CliRunner

from benchmarks.prepare import Size, compare
from tests.prepared import (
    CAPTIONS,
    RECIPE,
    TRACKS,
    files_of,
    order_of,
    prepared,
    tone,
    write_table,
    write_tracks,
)
from tests.test_separation import htdemucs
from training.__main__ import app
from training.flow_matching import FlowMatchingJob
from training.prepare import work
from training.prepare.catalogue import Catalogue, read_tracks
from training.prepare.encoders import Encoders
from training.prepare.plan import PAPER_CLIPS, plan, sizes_of
from training.prepare.reader import PreparedData
from training.prepare.recipe import RECIPE_FOLDER, load_prepare_recipe
from training.prepare.store import REWARDS, held
from training.prepare.work import Order, clips_of
from training.recipe import BackboneRecipe
from ttmpref import assets
from ttmpref.audio import READABLE_SUFFIXES, cut_or_pad, read_clip, resample, write_clip
from ttmpref.autoencoder import MelAutoencoder
from ttmpref.config import load_preset
from ttmpref.encoders.clap import ClapEncoder
from ttmpref.encoders.t5 import T5TextEncoder
from ttmpref.models.fluxaudio import FluxAudio
from ttmpref.separation import write_bag
from ttmpref.studio import Studio
from ttmpref.types import Clip, ConfigError, DamagedWeights, InvalidRequest, OutputError

CLIPS = 1 + 1 + 3 + 3 + 3  # of the five tracks, in their order


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared; tests must not change it."""
    return write_tracks(tmp_path_factory.mktemp("audio"))


@pytest.fixture(scope="module")
def order(scoring_preset: Path, audio: Path, tmp_path_factory: pytest.TempPathFactory) -> Order:
    """What was prepared once for all tests that only read."""
    order = order_of(scoring_preset, audio, tmp_path_factory.mktemp("whole") / "out")
    report = prepared(order)
    assert (report.tracks, report.clips, report.captions) == (len(TRACKS), CLIPS, 5)
    assert report.faults == [] and not (order.out / "faults.txt").exists()
    return order


@pytest.fixture(scope="module")
def data(order: Order) -> PreparedData:
    return PreparedData(order.out)


def by_hand(order: Order, data: PreparedData, row: int) -> Clip:
    """The clip of a row, straight from its file."""
    track = read_clip(order.audio / data.catalogue.tracks[data.tracks[row]].path)
    louder = Clip(track.waveform * (0.95 / np.abs(track.mono).max()), track.sample_rate)
    start = round(data.starts[row].item() * track.sample_rate)
    cut = Clip(louder.waveform[:, start : start + track.sample_rate], track.sample_rate)
    return cut_or_pad(cut, track.sample_rate)


def test_latents_are_the_posterior_of_every_clip(order: Order, data: PreparedData) -> None:
    autoencoder = MelAutoencoder.load(order.preset.autoencoder, assets.load_tensors)
    batch = data.batch(range(CLIPS))
    for row in range(CLIPS):
        clip = resample(by_hand(order, data, row), autoencoder.sample_rate)
        waveform = torch.from_numpy(clip.mono)[None].clamp(-1, 1)
        mean, std = autoencoder.encode(waveform)
        assert torch.allclose(batch.mean[row], mean[0], rtol=2e-3, atol=2e-3)
        assert torch.allclose(batch.std[row], std[0], rtol=2e-3, atol=2e-3)


def test_text_is_what_the_encoders_make_of_each_caption(order: Order, data: PreparedData) -> None:
    texts = [CAPTIONS[track] for track in data.tracks]
    assert [data.caption(row) for row in range(CLIPS)] == texts
    configs = order.preset.text_encoder, order.preset.conditioning_clap
    text, clap = (
        encoder(config, assets.locate(config.folder))
        for encoder, config in zip((T5TextEncoder, ClapEncoder), configs, strict=True)
    )
    batch = data.batch(range(CLIPS))
    assert torch.allclose(batch.text, text.encode(texts), rtol=5e-3, atol=5e-3)  # bf16
    assert torch.allclose(batch.pooled, clap.encode_text(texts), atol=5e-3)
    sequence, pooled = data.empty_text
    assert torch.allclose(sequence, text.encode([""])[0], rtol=5e-3, atol=5e-3)
    assert torch.allclose(pooled, clap.encode_text([""])[0], atol=5e-3)


def test_rewards_are_those_that_the_studio_gives(order: Order, data: PreparedData) -> None:
    clips = [by_hand(order, data, row) for row in range(CLIPS)]
    told = [data.caption(row) for row in range(CLIPS)]
    scores = Studio(order.preset, "cpu").score(clips, told, timeline=False)
    expected = torch.tensor([score.reward for score in scores])
    full, instrumental, track = (data.reward(name) for name in REWARDS)
    assert torch.allclose(full, expected, atol=1e-3) and full.std() > 1e-2
    assert torch.equal(full, instrumental)  # the preset has no separator
    for number in range(len(TRACKS)):
        own = data.tracks == number
        assert torch.allclose(track[own], full[own].mean())


def test_features_are_kept_for_the_rankers_of_tomorrow(order: Order, data: PreparedData) -> None:
    clips = [by_hand(order, data, row) for row in range(CLIPS)]
    heard = Encoders(order.preset, RECIPE, "cpu").heard(clips)
    for name, block in heard.items():
        assert torch.allclose(data.features(name), block, atol=2e-3)
    with pytest.raises(InvalidRequest, match="clap_audio, mert"):
        data.features("latents")


@pytest.mark.parametrize(("prompted", "alike"), [(True, False), (False, True)])
def test_rewards_read_captions_where_the_recipe_says_so(
    prompted: bool, alike: bool, scoring_preset: Path, data: PreparedData
) -> None:
    recipe = RECIPE.model_copy(update={"prompted": prompted})
    encoders = Encoders(load_preset(str(scoring_preset)), recipe, "cpu")
    blocks = {name: data.features(name) for name in ("clap_audio", "mert")}
    first, second = (encoders.rewards(blocks, text) for text in ("calm piano", "loud drums"))
    assert torch.equal(first, second) == alike


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.7, [0.0]), (1.0, [0.0]), (1.5, [0.0, 0.5]), (3.0, [0.0, 1.0, 2.0]), (9.0, [0.0, 4.0, 8.0])],
)
def test_clips_are_evenly_spread_and_no_more_than_needed(
    seconds: float, expected: list[float]
) -> None:
    track = tone(seconds, 1000, channels=2)
    starts, clips = clips_of(track, 1.0, RECIPE)
    assert starts == expected
    for start, clip in zip(starts, clips, strict=True):
        first = round(start * 1000)
        kept = track.waveform[:, first : first + 1000]
        assert clip.samples == 1000 and np.array_equal(clip.waveform[:, : kept.shape[1]], kept)
        assert not clip.waveform[:, kept.shape[1] :].any()


def test_any_rows_come_in_any_order_and_several_times(data: PreparedData) -> None:
    everything = data.batch(range(CLIPS))
    some = data.batch([7, 0, 7, 10])
    for whole, part in zip(everything, some, strict=True):
        assert torch.equal(whole[[7, 0, 7, 10]], part) and part.dtype == torch.float32
    drawn = data.draw(100, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0 and drawn.max() < len(data) == CLIPS


def test_several_processes_read_the_same(data: PreparedData) -> None:
    sampler = BatchSampler(SequentialSampler(data), 4, drop_last=False)
    loaded = list(DataLoader(data, sampler=sampler, batch_size=None, num_workers=2))
    assert [len(batch.mean) for batch in loaded] == [4, 4, 3]
    whole = data.batch(range(CLIPS))
    for name in whole._fields:
        assert torch.equal(torch.cat([getattr(b, name) for b in loaded]), getattr(whole, name))
    travelled = pickle.dumps(data)
    assert len(travelled) < 1000 and len(pickle.loads(travelled)) == CLIPS


def test_flow_matching_trains_on_prepared_clips_and_their_scores(
    order: Order, data: PreparedData
) -> None:
    windows = data.windows("track_reward_score")
    drawn = windows.batch(6, torch.Generator().manual_seed(1))
    rows = data.draw(6, torch.Generator().manual_seed(1))
    assert torch.equal(drawn.mean, data.batch(rows).mean)
    assert torch.equal(drawn.score, data.reward("track_reward_score")[rows])
    assert data.windows(None).batch(2, torch.Generator()).score is None
    backbone = FluxAudio(order.preset.backbone, "global_adaln")
    backbone.set_empty_text(*data.empty_text)
    backbone.set_statistics(torch.zeros(1, 1, 4), torch.ones(1, 1, 4))
    recipe = BackboneRecipe(steps=1, batch=4, learning_rate=1e-3)
    job = FlowMatchingJob("sft", recipe, backbone, (data.windows(), data.windows()))
    assert np.isfinite(job.train_step(0)["loss"])


def test_every_track_is_decoded_once(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    monkeypatch.setattr(work, "read_clip", lambda *a: decoded.append(a[0].name) or read_clip(*a))
    prepared(replace(order, out=tmp_path / "out"))
    assert sorted(decoded) == sorted(Path(name).name for name in TRACKS)
    assert files_of(tmp_path / "out") == files_of(order.out)


def test_a_run_that_was_stopped_goes_on_and_makes_the_same_files(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = replace(order, out=tmp_path / "out")
    finished = []

    def stop(done: work.Done) -> None:
        finished.append(done.job)
        if len(finished) == 6:  # three text files, one whole shard, one track of the next
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(again, on_done=stop)
    assert len(list((again.out / "shards").iterdir())) == 1
    assert len(list((again.out / "parts").iterdir())) == 1
    (again.out / "parts" / ".0000004.safetensors.1.part").write_bytes(b"half")
    (again.out / "shards" / "00001-none.safetensors").write_bytes(b"not in the index")
    rest = []
    report = prepared(again, on_done=lambda done: rest.append(done.job))
    assert {job.row for job in rest} == {3, 4} and report.clips_made == 6
    assert files_of(again.out) == files_of(order.out)
    assert not list((again.out / "parts").iterdir())


def test_kill_9_loses_nothing_that_was_done(
    scoring_preset: Path, order: Order, tmp_path: Path
) -> None:
    """The real command in a process of its own, killed as soon as its first track is there."""
    out, recipe = tmp_path / "out", write_recipe(tmp_path)
    command = (sys.executable, "-m", "training", "prepare", order.audio, "--out", out)
    options = ("--preset", scoring_preset, "--recipe", recipe, "--device", "cpu", "--threads", 1)
    process = subprocess.Popen([*map(str, command + options)])
    while not list(out.glob("parts/[0-9]*")):
        with suppress(subprocess.TimeoutExpired):
            assert process.wait(0.02) == 0, "the command failed"
            break
    process.kill()
    process.wait()
    prepared(replace(order, out=out))
    assert files_of(out) == files_of(order.out)


def write_recipe(folder: Path, **values: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE.model_dump(mode="json") | values))
    return path


def test_what_cannot_be_used_is_named_and_the_rest_goes_on(
    scoring_preset: Path, tmp_path: Path
) -> None:
    audio = write_tracks(tmp_path / "audio")
    rows = [*zip(TRACKS, CAPTIONS, strict=True)]
    (audio / "text.wav").write_text("not audio")
    (audio / "empty.wav").write_bytes(b"")
    write_clip(Clip(np.zeros((1, 16_000), np.float32), 8_000), audio / "silent.wav")
    write_clip(tone(0.3, 8_000), audio / "tiny.wav")
    gap = tone(3.0, 8_000).waveform.copy()
    gap[:, 8_000:16_000] = 0
    write_clip(Clip(gap, 8_000), audio / "gap.wav")
    write_clip(tone(1.0, 8_000), audio / "unnamed.flac")
    added = ["text.wav", "empty.wav", "silent.wav", "tiny.wav", "gap.wav", "absent.wav"]
    rows += [(name, "a caption") for name in added]
    rows += [("exact.flac", "once more"), ("long.ogg", ""), ("deep/last.wav", "a\x07bell")]
    rows[3:5] = []  # so that the faulty rows are the only ones of their tracks
    write_table(audio / "captions.csv", rows)
    out = tmp_path / "out"
    ran = run_command(audio, out, scoring_preset, write_recipe(tmp_path))
    assert ran.exit_code == 1 and str(out / "faults.txt") in ran.output
    faults = (out / "faults.txt").read_text("utf-8").splitlines()
    for name, reason in {
        "text.wav": "cannot be decoded",
        "empty.wav": "0 bytes",
        "silent.wav": "silent",
        "tiny.wav": "0.3 s long; 0.5 s or more",
        "gap.wav": "clip at 1.0 s is silent",
        "absent.wav": "no such file",
        "unnamed.flac": "has no caption",
        "captions.csv:11": "id 'exact' was given to an earlier track",
        "captions.csv:12": "'caption' is missing or empty",
        "captions.csv:13": "control character",
    }.items():
        [line] = [line for line in faults if f"{name}:" in line]
        assert reason in line
    assert len(faults) == 10
    record = json.loads((out / "report.json").read_text())
    assert record["faults"] == 10 and record["tracks"] == 4 and record["clips"] == 5 + 2
    assert sorted(PreparedData(out).starts[-2:].tolist()) == [0.0, 2.0]


def run_command(audio: Path, out: Path, preset: Path, recipe: Path | str, *more: str):
    options = ["--preset", str(preset), "--recipe", str(recipe), "--threads", "1", *more]
    return CliRunner().invoke(app, ["prepare", str(audio), "--out", str(out), *options])


def test_mended_and_added_rows_are_taken_in_by_another_run(
    scoring_preset: Path, order: Order, tmp_path: Path
) -> None:
    audio = write_tracks(tmp_path / "audio")
    (audio / "exact.flac").rename(tmp_path / "exact.flac")
    write_table(audio / "captions.csv", [*zip(TRACKS, CAPTIONS, strict=True)][:3])
    first = order_of(scoring_preset, audio, tmp_path / "out")
    report = prepared(first)
    assert report.tracks == 2 and len(report.faults) == 1 + 2  # absent; two without a caption
    (tmp_path / "exact.flac").rename(audio / "exact.flac")
    write_tracks(audio)
    report = prepared(first)
    assert report.faults == [] and report.clips_made == CLIPS - 4
    assert files_of(first.out) == files_of(order.out)


def test_a_track_that_changed_its_caption_is_refused(order: Order) -> None:
    tracks = read_tracks(order.audio, order.audio / "captions.csv", RECIPE)[0]
    other = Catalogue((replace(tracks[1], caption="something else"),))
    with pytest.raises(InvalidRequest, match="track 'exact' had another file or caption"):
        Catalogue(tuple(tracks)).grown(other.tracks)


def test_a_folder_of_other_numbers_or_another_run_is_refused(
    order: Order, tiny_preset: Path
) -> None:
    others = {
        "recipe": replace(order, recipe=RECIPE.model_copy(update={"peak": 0.5})),
        "ranker": order_of(tiny_preset, order.audio, order.out),
    }
    for key, other in others.items():
        with pytest.raises(InvalidRequest, match=f"was begun with {key} .* name another folder"):
            prepared(other)
    with held(order.out), pytest.raises(InvalidRequest, match="another run is at work"):
        prepared(order)


def test_damage_is_found_and_mended(order: Order, tmp_path: Path) -> None:
    again = replace(order, out=tmp_path / "out")
    prepared(again)
    PreparedData(again.out).verify()
    shard = sorted((again.out / "shards").iterdir())[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedWeights, match=shard.name):
        PreparedData(again.out).verify()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DamagedWeights, match=shard.name):
        PreparedData(again.out)
    shard.unlink()
    report = prepared(again)
    assert report.clips_made == 6 and files_of(again.out) == files_of(order.out)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (None, InvalidRequest, "holds no prepared data"),
        ("[]", DamagedWeights, "not an index"),
        ('{"format": "other", "version": 7}', InvalidRequest, "'other 7'"),
    ],
)
def test_what_is_no_data_set_is_refused(
    text: str | None, error: type[Exception], words: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(error, match=words):
        PreparedData(tmp_path)


def test_a_disk_that_cannot_be_written_is_one_line(order: Order, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        prepared(replace(order, out=tmp_path / "file" / "out"))


def test_splits_are_drawn_by_track_and_keep_their_clips_apart(order: Order, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"test": 1, "validation": 2})
    again = replace(order, out=tmp_path / "out", recipe=recipe)
    prepared(again)
    splits = {name: PreparedData(again.out, name) for name in ("train", "validation", "test")}
    tracks = {name: set(split.tracks.tolist()) for name, split in splits.items()}
    assert [len(rows) for rows in tracks.values()] == [2, 2, 1]
    assert set.union(*tracks.values()) == set(range(5))
    assert sum(len(split) for split in splits.values()) == CLIPS
    everything = PreparedData(order.out).batch(range(CLIPS)).mean
    track_of = PreparedData(order.out).tracks
    for split in splits.values():
        rows = torch.isin(track_of, split.tracks).nonzero()[:, 0]
        assert torch.equal(split.batch(range(len(split))).mean, everything[rows])
    with pytest.raises(InvalidRequest, match="5 tracks are to be held out, but there are 5"):
        recipe = RECIPE.model_copy(update={"test": 5})
        read_tracks(order.audio, order.audio / "captions.csv", recipe)
    with pytest.raises(InvalidRequest, match="train, validation, test"):
        PreparedData(order.out, "trian")
    with pytest.raises(InvalidRequest, match="no clip of split 'test'"):
        PreparedData(order.out, "test")


@pytest.mark.parametrize(
    ("held_out", "expected"), [(0, 0), (0.01, 1), (0.25, 1), (0.26, 2), (3, 3)]
)
def test_so_many_tracks_or_such_a_share_are_held_out(
    held_out: float, expected: int, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "captions.csv", [(f"{n}.wav", "words") for n in range(4)])
    tracks, _ = read_tracks(tmp_path, table, RECIPE.model_copy(update={"validation": held_out}))
    assert sum(track.split == "validation" for track in tracks) == expected


def test_stems_are_what_is_learned_and_both_mix_and_stem_are_scored(
    scoring_preset: Path, order: Order, tmp_path: Path
) -> None:
    write_bag(tmp_path / "bag", "b", {"one": htdemucs()})
    path = tmp_path / "separating.yaml"
    section = f'separator: {{folder: "{tmp_path}/bag", bag: b, passes: 3}}\n'
    path.write_text(scoring_preset.read_text() + section)
    separating = order_of(path, order.audio, tmp_path / "out")
    prepared(separating)
    mixed, data = PreparedData(order.out), PreparedData(separating.out)
    encoders = Encoders(separating.preset, RECIPE, "cpu")
    stems = [encoders.separator.instrumental(by_hand(order, mixed, row)) for row in range(CLIPS)]
    batch = data.batch(range(CLIPS))
    for row, stem in enumerate(stems):
        mean = encoders.latents([stem])[0, 0].float()
        assert torch.allclose(batch.mean[row], mean, rtol=2e-3, atol=2e-3)
    full, instrumental, track = (data.reward(name) for name in REWARDS)
    assert torch.allclose(full, mixed.reward(REWARDS[0]), atol=1e-3)
    assert torch.allclose(track, mixed.reward(REWARDS[2]), atol=1e-3)
    told = [data.caption(row) for row in range(CLIPS)]
    scores = Studio(order.preset, "cpu").score(stems, told, timeline=False)
    expected = torch.tensor([score.reward for score in scores])
    assert torch.allclose(instrumental, expected, atol=1e-3)
    assert (full - instrumental).abs().max() > 1e-3


def test_a_preset_without_a_ranker_has_no_rewards(
    tiny_preset: Path, audio: Path, order: Order, tmp_path: Path
) -> None:
    prepared(order_of(tiny_preset, audio, tmp_path / "out"))
    data = PreparedData(tmp_path / "out")
    batch = data.batch(range(CLIPS))
    with pytest.raises(InvalidRequest, match="prepared without a ranker"):
        data.windows()
    assert batch.rewards.isnan().all() and batch.rewards.shape == (CLIPS, len(REWARDS))
    assert torch.equal(batch.mean, PreparedData(order.out).batch(range(CLIPS)).mean)


def test_the_papers_data_set_takes_a_quarter_of_the_references_disk() -> None:
    sizes = sizes_of(load_preset("paper"))
    ours = (PAPER_CLIPS * sizes.clip + 55_000 * sizes.text) / 1e9
    assert ours < 60 and PAPER_CLIPS * sizes.reference / 1e9 == pytest.approx(243, abs=1)


def test_the_plan_knows_the_size_of_the_files(order: Order, data: PreparedData) -> None:
    sizes = sizes_of(order.preset)
    report = json.loads((order.out / "report.json").read_text())
    headers = 1_000 * len(list(order.out.glob("*/*.safetensors")))
    assert 0 <= report["clip_bytes"] - CLIPS * sizes.clip < headers
    assert 0 <= report["text_bytes"] - 5 * sizes.text < headers


def test_a_plan_measures_and_writes_nothing(
    scoring_preset: Path, audio: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path)
    ran = run_command(audio, tmp_path / "out", scoring_preset, recipe, "--plan")
    assert ran.exit_code == 0 and not (tmp_path / "out").exists()
    for words in (
        "ms per track",
        "ms per clip",
        "ms per caption",
        "535000 clips",
        "GB",
        "h on one",
    ):
        assert words in ran.output


def test_a_plan_without_weights_says_so_and_still_knows_the_disk(order: Order) -> None:
    tracks = read_tracks(order.audio, order.audio / "captions.csv", RECIPE)[0]
    page = plan(replace(order, preset=load_preset("paper")), Catalogue(tuple(tracks)))
    assert "time cannot be measured" in page and "243 GB" in page


@pytest.mark.parametrize("path", sorted(RECIPE_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_accepted(path: Path) -> None:
    assert load_prepare_recipe(path.stem) == load_prepare_recipe(str(path))
    assert load_prepare_recipe(path.stem).name == path.stem


def test_an_unknown_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="accepted: folder, mtg_jamendo"):
        load_prepare_recipe("jamendo")


def test_jamendos_folder_and_captions_are_read_as_they_are(tmp_path: Path) -> None:
    recipe = load_prepare_recipe("mtg_jamendo").model_copy(update={"test": 1, "validation": 1})
    rows = [{"path": f"{n % 100:02d}/10857{n:02d}.mp3", "caption": f"piece {n}"} for n in range(4)]
    (tmp_path / recipe.captions).write_text(json.dumps(rows))
    tracks, faults = read_tracks(tmp_path, tmp_path / recipe.captions, recipe)
    assert [track.id for track in tracks] == [row["path"].removesuffix(".mp3") for row in rows]
    assert sorted(track.split for track in tracks) == ["test", "train", "train", "validation"]
    assert faults == [] and ".mp3" in READABLE_SUFFIXES


def test_the_benchmarks_plain_way_makes_the_same_numbers(order: Order, tmp_path: Path) -> None:
    bench = replace(order, audio=tmp_path / "audio", out=tmp_path / "out")
    figures = {f.name: f for f in compare(bench, Size(tracks=1, seconds=4, rounds=1, rate=16_000))}
    for name in ("relative difference of the latents", "largest difference of a reward"):
        assert figures[name].met
