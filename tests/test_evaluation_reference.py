"""The command that makes captions and reference from a corpus, and what the demo ships of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.held_out import divide
from benchmarks.reference import captions, reference
from training.data import CORPUS_RATE, Corpus
from ttmpref.config import load_preset
from ttmpref.evaluation.reference import CAPTIONS_FILE, FILE, Reference, reference_folder
from ttmpref.studio import Studio
from ttmpref.study.prompts import read_prompts

PIECES, ASKED, SECONDS = 9, 3, 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A held-out split of nine noises."""
    folder = tmp_path_factory.mktemp("corpus")
    tags = {"lead": "sitar", "genre": "folk", "tempo_class": "fast"}
    lines = [
        {"id": i, "split": "evaluation", "file": f"{i}.flac", "seconds": float(SECONDS),
         "captions": [f"Folk piece number {i}"], "tags": tags}
        for i in range(PIECES)
    ]  # fmt: skip
    (folder / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "corpus.json").write_text(json.dumps({"hash": "abc"}))
    (folder / "cache").mkdir()
    noise = np.random.default_rng(0).normal(0, 2_000, (PIECES, SECONDS * CORPUS_RATE))
    np.save(folder / "cache" / "waveforms.evaluation.npy", noise.astype(np.int16))
    return Corpus(folder, "evaluation")


def test_no_piece_is_caption_and_reference_and_the_file_can_be_read(
    corpus, scoring_preset, tmp_path
):
    studio = Studio.open(str(scoring_preset), "cpu")
    records = captions(corpus, ASKED)
    own, _ = divide(PIECES, ASKED)
    assert [record["text"] for record in records] == [f"Folk piece number {i}" for i in own]
    made = reference(corpus, studio, records)
    assert made.clap.shape == (PIECES - ASKED, studio.preset.metric_clap.dim)
    assert {rows.shape[0] for rows in made.real.values()} == {ASKED}
    assert made.said["captions"] == [record["id"] for record in records]
    (tmp_path / "r.safetensors").write_bytes(made.pack())
    again = Reference.read(tmp_path / "r.safetensors", studio.preset)
    assert again.clap == pytest.approx(made.clap, abs=1e-3)
    assert again.real.keys() == made.real.keys()
    assert again.said == made.said


def test_the_demo_ships_captions_and_a_reference_of_its_own_clap():
    preset = load_preset("demo")
    folder = reference_folder(preset)
    prompts = read_prompts(folder / CAPTIONS_FILE)
    shipped = Reference.read(folder / FILE, preset)
    assert len(prompts) == 100
    assert shipped.clap.shape[1] == preset.metric_clap.dim
    assert len(shipped.clap) >= 400
    assert shipped.said["captions"] == [prompt.id for prompt in prompts]
    assert np.abs(np.linalg.norm(shipped.clap, axis=1) - 1.0).max() < 1e-2
