"""Votes become pairs, and pairs a better ranker: the loop of README's "Close the loop".

Simulated raters hear the clips of a real study, its export goes to `python -m training ranker` as
it is, and the new head is held against an old one on pairs of texts that it never saw.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.scoring import LAYOUT, seeded_head
from tests.studies import RATE, Clock, settings_for, take_part, tone, write_study
from training.__main__ import app
from training.preferences import Split, read_preferences, write_split
from ttmpref.audio import read_clip, write_clip
from ttmpref.reward.ranker import read_ranker, write_ranker
from ttmpref.study.export import export_study
from ttmpref.study.records import build_folder
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store
from ttmpref.types import Clip

TEXTS, VOTES_PER_PAIR, TRIALS = 44, 3, 22
NOISE = (0.005, 0.6)  # of the clean and of the noisy clip of a text; the tune is at 0.2
RECIPE = """
ranker: {epochs: 60, batch: 32, learning_rate: 1.0e-2, initial_scale: 0.1, patience: 15,
  hidden: [16], dropout: 0.1, joined: true}
"""


def noisy(text: int, noise: float) -> Clip:
    """A tune with so much noise beside it."""
    tune = tone(1.2, 200 + 10 * text)
    rng = np.random.default_rng(text)
    return Clip(tune.waveform + noise * rng.standard_normal(tune.waveform.shape, np.float32), RATE)


def prefers_the_cleaner(a: Path, b: Path) -> str:
    """What somebody answers who dislikes noise: the clip with the duller spectrum."""
    return "A" if brightness(a) < brightness(b) else "B"


def brightness(path: Path) -> float:
    """Share of the power above 2 kHz."""
    power = np.square(np.abs(np.fft.rfft(read_clip(path).waveform[0])))
    return float(power[len(power) // 2 :].sum() / power.sum())


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of an export with the votes of simulated raters, and of the build they heard."""
    root = tmp_path_factory.mktemp("loop")
    study = write_study(
        root / "study", TEXTS,
        pairs={"votes_per_pair": VOTES_PER_PAIR},
        session={"trials": TRIALS, "attention": 0, "repeats": 0, "practice": 0},
    )  # fmt: skip
    for text in range(1, TEXTS + 1):
        for system, noise in zip(("old", "new"), NOISE[:: (-1) ** (text // 4)], strict=True):
            suffix = "wav" if system == "old" else "flac"
            write_clip(noisy(text, noise), root / "study" / system / f"{text}.{suffix}")
    folder = build_folder(root / "data", study.definition)
    build_study(study, folder)
    clock = Clock()
    store = Store(settings_for(root / "data", ""), clock)
    store.studies.open(study, "tester", waive="the systems differ in sound, as they must here")
    take_part(store, clock, "tiny", TEXTS * VOTES_PER_PAIR // TRIALS, prefers_the_cleaner)
    store.studies.move("tiny", "closed", "tester")
    exported = export_study(store.reading.dump("tiny"), root / "results")
    store.close()
    return exported, folder


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    demo = (Path(__file__).parents[1] / "training" / "recipes" / "demo.yaml").read_text()
    kept = [line for line in demo.splitlines() if not line.startswith("ranker:")]
    path = tmp_path / "quick.yaml"
    path.write_text("\n".join(kept) + RECIPE)
    return path


def test_a_ranker_trained_on_votes_beats_the_old_one_on_texts_it_never_saw(
    export: tuple[Path, Path], scoring_preset: Path, recipe_file: Path, tmp_path: Path
) -> None:
    exported, build = export
    table = exported / "pairs_for_training.jsonl"
    pairs = read_preferences([table])
    assert pairs.faults == [] and len(pairs.pairs) == TEXTS * VOTES_PER_PAIR
    parts = [[], [], []]
    for pair in pairs.pairs:  # whole texts, so that no clip is in two parts
        number = int(pair.prompt.rsplit(" ", 1)[1])
        parts[{0: 2, 1: 1}.get(number % 4, 0)].append(pair.id)
    write_split(Split(*map(tuple, parts)), {}, tmp_path / "split.json")
    old = tmp_path / "old.safetensors"
    write_ranker(seeded_head("head"), old)
    out = tmp_path / "ranker"
    done = CliRunner().invoke(
        app,
        ["ranker", str(table), "--preset", str(scoring_preset), "--audio", str(build),
         "--features", str(tmp_path / "features"), "--out", str(out), "--old", str(old),
         "--splits", str(tmp_path / "split.json"), "--recipe", str(recipe_file), "--heads", "1",
         "--threads", "1"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    new, before = report["test"]["all"], report["old"]
    assert new["pairs"] == before["pairs"] == len(parts[2])
    assert new["accuracy"] >= 0.7 and new["accuracy"] >= before["accuracy"] + 0.2
    assert "Accuracy of the old ranker on the same decisions" in done.output
    assert read_ranker(str(out / "ranker.safetensors")).layout == LAYOUT


def test_an_old_ranker_that_is_none_is_refused_before_anything_is_trained(
    export: tuple[Path, Path], scoring_preset: Path, recipe_file: Path, tmp_path: Path
) -> None:
    exported, build = export
    out = tmp_path / "ranker"
    done = CliRunner().invoke(
        app,
        ["ranker", str(exported / "pairs_for_training.jsonl"), "--preset", str(scoring_preset),
         "--audio", str(build), "--features", str(tmp_path / "features"), "--out", str(out),
         "--old", str(tmp_path / "nothing.safetensors"), "--recipe", str(recipe_file)],
    )  # fmt: skip
    assert done.exit_code != 0 and "nothing.safetensors" in str(done.exception)
    assert not out.exists()
