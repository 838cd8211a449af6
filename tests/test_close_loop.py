"""Votes become pairs, and pairs a better ranker: the one command of README's "Close the loop".

Simulated raters hear the clips of a real study and prefer the one with less noise, of which the
ranker of the preset knows nothing. `python -m training ranker <study>` trains a head on their votes
and holds it against that ranker on votes about texts that it never saw.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.scoring import LAYOUT
from tests.studies import RATE, Clock, settings_for, take_part, tone, write_study
from training.__main__ import app
from training.preferences import read_preferences
from training.study_votes import clip_folders, votes_table
from ttmpref.audio import read_clip, write_clip
from ttmpref.reward.ranker import read_ranker
from ttmpref.study.errors import NotFound
from ttmpref.study.export import TRAINING_PAIRS, export_study
from ttmpref.study.records import build_folder
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store
from ttmpref.types import Clip, InvalidRequest

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
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data folder of a study that simulated raters have finished, and an export of it."""
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
    return root / "data", exported


@pytest.fixture
def export(
    answered: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """The export, on the machine of the study."""
    data, exported = answered
    monkeypatch.setenv("TTMPREF_DATA_DIR", str(data))
    monkeypatch.setenv("TTMPREF_SECRET", "a secret of tests")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return exported


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    demo = (Path(__file__).parents[1] / "training" / "recipes" / "demo.yaml").read_text()
    kept = [line for line in demo.splitlines() if not line.startswith("ranker:")]
    path = tmp_path / "quick.yaml"
    path.write_text("\n".join(kept) + RECIPE)
    return path


def test_one_command_makes_a_ranker_of_votes_that_beats_the_old_one_on_texts_it_never_saw(
    export: Path, scoring_preset: Path, recipe_file: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(
        app,
        ["ranker", "tiny", "--preset", str(scoring_preset), "--recipe", str(recipe_file),
         "--held-out", "0.25", "--heads", "1", "--threads", "1"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    out = tmp_path / "runs" / "tiny-v1-ranker"
    report = json.loads((out / "report.json").read_text())
    assert report["provenance"]["test pairs with a clip that is trained on"] == 0
    new, old, gain = report["test"]["all"], report["old"], report["gain"]
    assert new["pairs"] == old["pairs"] == gain["prompts"] * VOTES_PER_PAIR >= TEXTS // 4
    assert gain["value"] == pytest.approx(new["accuracy"] - old["accuracy"])
    assert new["accuracy"] >= 0.7 and gain["value"] >= 0.2
    sure = gain["interval"][0] > 0  # of eleven texts not always
    verdict = "better" if sure else "not clearly better or worse"
    assert f"The new one is **{verdict}**: +" in done.output
    assert done.output.rstrip().endswith(out.name)
    assert read_ranker(str(out / "ranker.safetensors")).layout == LAYOUT
    (table,) = tmp_path.glob(f"listening_results/tiny-v1/*/{TRAINING_PAIRS}")
    assert table.read_bytes() == (export / TRAINING_PAIRS).read_bytes()


def test_an_export_or_its_table_or_the_study_all_mean_the_same_votes(
    export: Path, answered: tuple[Path, Path]
) -> None:
    for given in (export, export / TRAINING_PAIRS, "tiny", "tiny-v1"):
        found = votes_table(str(given))
        assert found.of_study and found.name == "tiny-v1"
        pairs = read_preferences([found.path])
        assert pairs.faults == [] and len(pairs.pairs) == TEXTS * VOTES_PER_PAIR
        (folder,) = clip_folders([found])
        assert folder == answered[0] / "studies" / "tiny-v1"
        heard = {clip for pair in pairs.pairs for clip in (pair.clip_a, pair.clip_b)}
        assert len(heard) == 2 * TEXTS and all((folder / clip).is_file() for clip in heard)


def test_what_is_no_study_and_clips_that_are_elsewhere_are_named(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound, match="there is no study 'unknown'"):
        votes_table("unknown")
    with pytest.raises(InvalidRequest, match="is no export of a study: pairs_for_training.jsonl"):
        votes_table(str(tmp_path))
    plain = [votes_table(str(tmp_path / name / "pairs.csv")) for name in "ab"]
    assert clip_folders([plain[0]]) == (tmp_path / "a",) and not plain[0].of_study
    with pytest.raises(InvalidRequest, match="tables lie in 2 folders; name that of the clips"):
        clip_folders(plain)
    monkeypatch.setenv("TTMPREF_DATA_DIR", str(tmp_path / "another machine"))
    moved = votes_table(str(export))
    with pytest.raises(InvalidRequest, match="the clips of tiny-v1 are not in .*--audio"):
        clip_folders([moved])
    assert clip_folders([moved, *plain], tmp_path) == (tmp_path,)


def test_an_old_ranker_that_is_none_is_refused_before_anything_is_trained(
    export: Path, scoring_preset: Path, recipe_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ranker"
    done = CliRunner().invoke(
        app,
        ["ranker", str(export), "--preset", str(scoring_preset), "--out", str(out),
         "--features", str(tmp_path / "features"), "--recipe", str(recipe_file),
         "--old", str(tmp_path / "nothing.safetensors")],
    )  # fmt: skip
    assert done.exit_code != 0 and "nothing.safetensors" in str(done.exception)
    assert not out.exists()
