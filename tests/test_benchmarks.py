"""The published figures are those of the shipped weights, and the page quotes nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.common import RESULTS, Figure, number
from benchmarks.descriptors import describe
from benchmarks.held_out import divide, stated_tags
from benchmarks.table import ORDER, PAGE, render
from benchmarks.tagger import BANDS, FRAMES_PER_SECOND, LAGS, tempogram
from ttmpref.assets import assets_folder, manifest
from ttmpref.types import Clip

FILES = sorted(RESULTS.glob("*.json"))
TABLES = [
    path
    for path in sorted((assets_folder() / "reference" / "demo" / "tables").glob("*.json"))
    if not path.stem.endswith(".plotly")
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_result_file_is_complete_and_honest(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["name"] == path.stem and record["name"] in ORDER
    assert record["format"] == 1
    assert record["preset"] == ("paper" if path.stem == "full_size" else "demo")
    for key in ("recipe", "versions", "machine", "date", "command"):
        assert record[key]
    for figure in record["figures"]:
        fields = {key: value for key, value in figure.items() if key != "met"}
        assert np.isfinite(figure["value"])
        assert figure["met"] == Figure(**fields).met


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_result_was_measured_with_the_shipped_weights(path: Path) -> None:
    weights = json.loads(path.read_text(encoding="utf-8"))["weights"]
    shipped = {f"asset://demo/{name}": e["sha256"] for name, e in manifest("demo").items()}
    stale = [uri for uri, sha256 in weights.items() if shipped.get(uri) != sha256]
    weightless = ("study_", "ranker_training", "training_step", "full_size", "separation")
    assert weights or path.stem.startswith(weightless), "what was measured?"
    assert not stale, f"measure again: python -m benchmarks.{path.stem}"


def test_the_page_is_rendered_from_the_result_files() -> None:
    page = RESULTS / PAGE
    if not FILES and not page.exists():
        pytest.skip("nothing has been measured yet")
    assert page.read_text(encoding="utf-8") == render(RESULTS), "python -m benchmarks.table"


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [(0.4567, "s", "0.457 s"), (0.5, "%", "50.0 %"), (123.4, "", "123"), (12.0, "dB", "12.0 dB")],
)
def test_numbers_are_written_for_people(value: float, unit: str, words: str) -> None:
    assert number(value, unit) == words


def test_a_figure_knows_whether_its_target_is_met() -> None:
    assert Figure("wait", 1.0, "s", at_most=1.0).met is True
    assert Figure("recall", 0.49, "%", at_least=0.5).met is False
    assert Figure("median", 3.0).met is None


def test_no_piece_is_both_prompt_and_other() -> None:
    asked, others = divide(700, 200)
    assert len(asked) == 200 and sorted([*asked, *others]) == list(range(700))
    with pytest.raises(ValueError):
        divide(399, 200)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_of_the_chain_was_measured_with_the_shipped_weights(path: Path) -> None:
    weights = json.loads(path.read_text(encoding="utf-8"))["record"]["weights"]
    shipped = {f"asset://demo/{name}": e["sha256"] for name, e in manifest("demo").items()}
    stale = [uri for uri, sha256 in weights.items() if shipped.get(uri) != sha256]
    assert weights and not stale, f"measure again: python -m ttmpref tables {path.stem}"


@pytest.mark.parametrize(
    ("caption", "stated"),
    [
        ("A slow jazz piece led by piano", {"lead", "genre", "tempo_class"}),
        ("A jazz tune with strings", {"genre"}),
        ("Pianos and jazzy chords", set()),
        ("Grand piano over brushes, perfect for a slow dance", {"lead"}),
        ("Swing featuring a grand piano, around 70 BPM", {"lead", "genre", "tempo_class"}),
        ("An electric guitar slowly takes over", set()),
    ],
)
def test_only_what_a_caption_says_counts_as_asked(caption: str, stated: set[str]) -> None:
    tags = {"lead": "piano", "genre": "jazz", "tempo_class": "slow"}
    assert stated_tags(caption, tags) == stated


def test_the_tempogram_shows_the_beat() -> None:
    period = round(0.5 * FRAMES_PER_SECOND)
    onsets = torch.zeros(1, BANDS, 860)
    onsets[..., ::period] = 1.0
    heard = tempogram(onsets)
    assert heard.shape == (1, BANDS, len(LAGS))
    assert heard[0, 0].argmax() + LAGS.start in (period, 2 * period, 3 * period, 4 * period)
    assert heard[0, 0, period - LAGS.start] == pytest.approx(1.0, abs=0.1)


def _clicks(rate: int = 22_050) -> Clip:
    waveform = np.zeros(8 * rate, dtype=np.float32)
    waveform[rate // 4 :: rate // 2] = 1.0
    return Clip(np.convolve(waveform, np.hanning(64))[None, : len(waveform)].astype("f4"), rate)


def test_descriptors_tell_a_pulse_from_noise() -> None:
    noise = np.random.default_rng(0).standard_normal((1, 8 * 22_050)).astype(np.float32) * 0.1
    clicks, hiss = describe(_clicks()), describe(Clip(noise, 22_050))
    assert clicks["onset rate"] == pytest.approx(2.0, abs=0.3)
    assert clicks["tempo clarity"] > 0.8 > 0.4 > hiss["tempo clarity"]
    assert hiss["spectral flatness"] > -3.5
    assert hiss["pitch-class entropy"] > 3.4
    assert abs(hiss["level of loud moments"] - hiss["level of quiet moments"]) < 0.5


def test_one_note_has_no_pitch_class_entropy_and_silence_has_none_at_all() -> None:
    time = np.arange(4 * 22_050) / 22_050
    tone = (0.5 * np.sin(2 * np.pi * 440.0 * time)).astype(np.float32)[None]
    assert describe(Clip(tone, 22_050))["pitch-class entropy"] < 0.3
    assert np.isnan(describe(Clip(np.zeros_like(tone), 22_050))["level of quiet moments"])
