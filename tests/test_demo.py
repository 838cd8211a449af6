"""The shipped demo: whole, within its size, honest about its training, and it makes music."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import descriptors
from training.recipe import load_recipe, recipe_hash
from ttmpref import assets
from ttmpref.config import load_preset
from ttmpref.studio import Studio

FOLDER = Path(__file__).parents[1] / "assets" / "demo"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
MEBI = 2**20
TRAININGS = (
    "text_encoder", "clap", "music_encoder", "vae", "vocoder", "pulse", "pretraining", "baseline",
    "sft", "expert", "crpo",
)  # fmt: skip
PARENTS = {"sft": "baseline", "expert": "sft", "crossload": "expert", "crpo": "expert"}


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.open("demo", device="cpu")


def test_the_manifest_lists_every_file_with_its_size_and_checksum() -> None:
    there = {
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert there == set(MANIFEST["files"])
    for name, entry in MANIFEST["files"].items():
        assert (FOLDER / name).stat().st_size == entry["bytes"], name
        assert assets.sha256(FOLDER / name) == entry["sha256"], name


def test_the_weights_stay_within_their_size() -> None:
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    assert max(sizes) < 16 * MEBI
    assert sum(sizes) < 100 * MEBI


def test_every_part_verifies_and_every_stage_is_available(studio: Studio) -> None:
    preset = load_preset("demo")
    for uri in (
        preset.text_encoder.folder,
        preset.metric_clap.folder,
        preset.autoencoder.vae_weights,
        preset.autoencoder.vocoder.weights,
    ):
        assets.verify(uri)
    assert all(stage.available for stage in studio.stages())


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_left_its_losses_and_says_what_it_reached(name: str) -> None:
    record = json.loads((FOLDER / "logs" / f"{name}.json").read_text())
    rows = [json.loads(line) for line in (FOLDER / "logs" / f"{name}.jsonl").open()]
    recipe = getattr(load_recipe("demo"), name)
    assert record["recipe_hash"] == recipe_hash(recipe)
    assert record["planned_updates"] == recipe.steps
    assert 0 < record["updates"] <= recipe.steps
    steps = [row["step"] for row in rows if "seconds" in row]
    assert steps == sorted(set(steps))
    assert record["updates"] - steps[-1] < 25


@pytest.mark.parametrize("name", PARENTS)
def test_a_stage_began_with_its_parents_weights(name: str) -> None:
    record = json.loads((FOLDER / "logs" / f"{name}.json").read_text())
    preset = load_preset("demo")
    weights = preset.stage(PARENTS[name]).weights.removeprefix("asset://demo/")
    assert record["parent"] == PARENTS[name]
    assert record["parent_sha256"] == MANIFEST["files"][weights]["sha256"]
    assert record["head"] == preset.stage(name).head


def test_the_recipe_holds_twenty_hours_and_a_held_out_set() -> None:
    corpus = load_recipe("demo").corpus
    assert corpus.splits["train"] * corpus.piece_seconds >= 20 * 3600
    assert corpus.splits["evaluation"] >= 500


def test_a_prompt_becomes_ten_seconds_of_music_at_the_target_loudness(studio: Studio) -> None:
    request = studio.request("A slow jazz ballad led by piano", seed=7)
    [generation] = studio.generate(request)
    clip = generation.clip
    assert clip.sample_rate == 44_100
    assert clip.samples == 441_000
    assert generation.scores.lufs == pytest.approx(-16.5, abs=0.1)
    assert generation.scores.true_peak_db <= -1.0
    # Music moves: a drone or noise would have the same level in every tenth of a second.
    levels = np.sqrt(np.square(clip.mono[:440_000].reshape(100, -1)).mean(1))
    assert levels.std() / levels.mean() > 0.05


@pytest.mark.parametrize(
    ("prompt", "tempo"),
    [
        ("Bright funk with a saxophone lead, around 110 BPM", 110),
        ("A slow hip hop track led by electric piano, around 80 BPM", 80),
    ],
)
def test_a_clip_keeps_the_tempo_that_its_prompt_states(
    studio: Studio, prompt: str, tempo: int
) -> None:
    """Its onsets return after a bar of that tempo, and between the beats they do not."""
    [generation] = studio.generate(studio.request(prompt, seed=3))
    read = generation.provenance["tempo"]
    assert read["bpm"] == pytest.approx(tempo, rel=0.06)
    # About 0.2 without a beat, 0.8 in real music.
    assert descriptors.describe(generation.clip)["tempo clarity"] > 0.35
    power = descriptors._power(generation.clip.mono, descriptors.SIZE, descriptors.HOP)
    strength = descriptors.onset_strength(power)
    beat = 60.0 / read["bpm"] * generation.clip.sample_rate / descriptors.HOP  # frames

    def repeats(beats: float) -> float:
        """Correlation of the onsets with themselves so many beats later."""
        lag = round(beats * beat)
        return float(np.corrcoef(strength[lag:], strength[:-lag])[0, 1])

    bar = read["beats_per_bar"]
    assert repeats(bar) > 0.15 and repeats(bar) > repeats(bar + 0.37)


def test_the_sidecar_makes_the_same_clip_again(studio: Studio, tmp_path: Path) -> None:
    request = studio.request("fast rock with electric guitar", seed=11, num_steps=5)
    [first] = studio.generate(request)
    studio.save(first, tmp_path / "clip.wav")
    [again] = studio.replay(tmp_path / "clip.json")
    assert np.array_equal(first.clip.waveform, again.clip.waveform)


def test_the_prompt_and_the_seed_both_matter(studio: Studio) -> None:
    def clip(prompt: str, seed: int) -> np.ndarray:
        [made] = studio.generate(studio.request(prompt, seed=seed, num_steps=3))
        return made.clip.waveform

    base = clip("calm piano", 1)
    assert not np.array_equal(base, clip("calm piano", 2))
    assert not np.array_equal(base, clip("fast rock guitar", 1))
