"""Scoring files: the good ones are rated, each bad one is named, and nothing is dropped."""

import csv
import io
import json
import os

import numpy as np
import pytest
import soundfile

from tests.scoring import RATE, noise
from ttmpref.audio import write_clip
from ttmpref.cli import main
from ttmpref.reward.entries import entries_of
from ttmpref.studio import Studio
from ttmpref.types import Clip


@pytest.fixture(scope="module")
def studio(scoring_preset):
    return Studio.open(str(scoring_preset), "cpu")


@pytest.fixture
def score(studio, scoring_preset, monkeypatch, tmp_path, capfd):
    """Run the command in an empty folder: (exit code, stdout, stderr). Weights are kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Studio, "open", lambda preset, device: studio)

    def command(*arguments):
        code = main(["score", *map(str, arguments), "--preset", "scoring"])
        out, err = capfd.readouterr()
        return code, out, err

    return command


@pytest.fixture
def clips(tmp_path):
    """Three good files below a folder."""
    names = ("a.wav", "b.flac", "deep/c.mp3")
    return [write_clip(noise(1.0, seed=i), tmp_path / n) for i, n in enumerate(names)]


def rows_of(text):
    return {row["id"]: row for row in csv.DictReader(io.StringIO(text))}


def write_three_hours(path):
    """A WAV file of one byte a sample, none of which takes room on the disk."""
    soundfile.write(path, np.zeros(1, np.int16), RATE, subtype="PCM_U8")
    header, size = bytearray(path.read_bytes()[:44]), 3 * 3600 * RATE
    header[4:8], header[40:44] = (n.to_bytes(4, "little") for n in (size + 36, size))
    path.write_bytes(header)
    os.truncate(path, size + 44)


def bad_files(folder):
    """Everything that must be refused by name, and what is said of it."""
    silent, samples = np.zeros(RATE, np.float32), noise(0.5).mono
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("this is no audio")
    write_clip(noise(), folder / "cut.flac")
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:40])
    soundfile.write(folder / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(folder / "none.wav", silent[:0], RATE)
    soundfile.write(folder / "slow.wav", samples, 1)
    write_three_hours(folder / "hours.wav")
    (folder / "folder.wav").mkdir()
    return {
        "empty.wav": "has 0 bytes",
        "text.wav": "cannot be decoded",
        "cut.flac": "cannot be decoded",
        "nan.wav": "not finite",
        "none.wav": "holds no samples",
        "slow.wav": "sample rate 1 Hz",
        "hours.wav": "10800.0 s long; at most 900 s",
        "folder.wav": "no audio in this folder",
        "gone.wav": "no such file",
    }


def test_each_bad_file_is_named_and_the_good_ones_are_scored(score, clips, tmp_path):
    expected = bad_files(tmp_path)
    code, out, err = score("a.wav", *expected, "b.flac", "--csv")
    rows = rows_of(out)
    assert code == 1 and list(rows) == ["a.wav", *expected, "b.flac"]
    for name, said in expected.items():
        assert said in rows[name]["error"] and not rows[name]["reward"]
        (line,) = (line for line in err.splitlines() if line.startswith(f"error: {name}: "))
        assert said in line
    assert "Traceback" not in err and len(err.splitlines()) == len(expected)
    for name in ("a.wav", "b.flac"):
        assert np.isfinite(float(rows[name]["reward"])) and not rows[name]["error"]


def test_silence_and_six_channels_are_scored_and_flagged(score, tmp_path):
    write_clip(Clip(np.zeros((1, RATE), np.float32), RATE), tmp_path / "silent.wav")
    write_clip(noise(4.0, channels=6), tmp_path / "six.wav")
    code, out, _ = score("silent.wav", "six.wav", "--csv", "--no-timeline")
    rows = rows_of(out)
    assert code == 0 and "silent" in rows["silent.wav"]["flags"].split()
    assert "multichannel" in rows["six.wav"]["flags"].split()
    assert rows["six.wav"]["channels"] == "6" and rows["six.wav"]["timeline"] == ""


def test_folders_are_scored_by_name_and_other_files_in_them_left_alone(score, clips, tmp_path):
    (tmp_path / "notes.txt").write_text("not a clip")
    code, out, err = score(".", "--json", "--prompt", "calm piano")
    results = json.loads(out)
    assert code == 0 and err == ""
    assert [result["file"] for result in results] == ["a.wav", "b.flac", "deep/c.mp3"]
    for result in results:
        assert result["score"]["prompt"] == "calm piano" and result["error"] is None
        assert result["score"]["protocol"]["heads"] and len(result["score"]["interval"]) == 2


def test_a_table_for_people_shows_rewards_warnings_and_timeline(score, tmp_path):
    write_clip(noise(2.5), tmp_path / "long.wav")
    code, out, err = score("long.wav", "gone.wav")
    lines = out.splitlines()
    assert code == 1 and lines[0].split() == ["clip", "reward", "95", "%", "remarks"]
    assert "very short: 2.50 s" in lines[1] and "0-1 s" in lines[1]
    assert lines[2].split() == ["gone.wav", "-", "not", "scored"]
    assert err == "error: gone.wav: gone.wav: no such file\n"


def test_results_go_to_a_file_of_the_kind_its_name_says(score, clips, tmp_path):
    code, out, _ = score("a.wav", "--out", "r/scores.json")
    assert (code, out) == (0, "r/scores.json\n")
    assert json.loads((tmp_path / "r/scores.json").read_text())[0]["id"] == "a.wav"
    score("a.wav", "--out", "scores.csv")
    row = rows_of((tmp_path / "scores.csv").read_text())["a.wav"]
    assert float(row["low"]) < float(row["reward"]) < float(row["high"])
    assert 0 <= float(row["percentile_corpus"]) <= 100
    assert (row["window"], row["band"]) == ("centre", "full") and row["heads"] and row["encoders"]


def test_policies_on_the_command_line_reach_the_protocol(score, clips):
    arguments = ("--window", "random", "--window-seed", "3", "--band", "16k")
    code, out, _ = score("a.wav", "--json", *arguments)
    protocol = json.loads(out)[0]["score"]["protocol"]
    assert code == 0
    assert [protocol[k] for k in ("window", "window_seed", "band")] == ["random", 3, "16k"]


def test_a_manifest_gives_ids_and_prompts_and_names_each_bad_row(score, clips, tmp_path):
    (tmp_path / "m.csv").write_text(
        "id,clip,prompt,mood\n"
        "one,a.wav,calm piano,x\n"
        ",b.flac,,x\n"
        "one,b.flac,,x\n"  # line 4: id given before
        "four,gone.wav,,x\n"
        "five,,,x\n"  # line 6: no clip
        "six,a.wav\n"  # line 7: cells missing
        "seven,a.wav,bad\x07prompt,x\n"
    )
    code, out, err = score("m.csv", "--csv", "--prompt", "default")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 1 and len(rows) == 7
    assert [bool(row["reward"]) for row in rows] == [True, True] + [False] * 5
    assert [row["prompt"] for row in rows[:2]] == ["calm piano", "default"]
    assert rows[1]["id"] == "b.flac"
    for row, said in zip(rows[2:], (
        "id 'one' was given to an earlier clip", "gone.wav: no such file",
        "m.csv:6: names no clip", "m.csv:7: has another number of cells", "control character",
    ), strict=True):  # fmt: skip
        assert said in row["error"] and said in err


def test_pairs_with_votes_say_how_often_the_reward_agrees(score, clips, tmp_path):
    _, out, _ = score("a.wav", "b.flac", "--csv")
    rewards = [float(row["reward"]) for row in rows_of(out).values()]
    better = "A" if rewards[0] > rewards[1] else "B"
    worse = {"A": "B", "B": "A"}[better]
    (tmp_path / "pairs.csv").write_text(
        "id,clip_a,clip_b,vote\n"
        f"p,a.wav,b.flac,{better}\nq,a.wav,b.flac,{worse}\nr,b.flac,a.wav,{worse}\n"
        "s,a.wav,b.flac,TIE\nt,a.wav,b.flac,C\nu,a.wav,gone.wav,A\nv,a.wav,b.flac,\n"
    )
    code, out, err = score("pairs.csv", "--csv")
    rows = rows_of(out)
    assert code == 1 and "rewards agree with 2 of 3 decisive votes" in err
    assert "pairs.csv:6: vote is 'C'; accepted: A, B, TIE, BOTH_BAD" in rows["t"]["error"]
    assert "no such file" in rows["u/B"]["error"] and rows["u/A"]["reward"]
    assert rows["v/A"]["vote"] == "" and rows["v/A"]["reward"] == rows["p/A"]["reward"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "needed: clip, or clip_a and clip_b"),
        (b"file,prompt\na.wav,x\n", "columns file, prompt; needed: clip"),
        (b"clip_a,vote\na.wav,A\n", "needed: clip, or clip_a and clip_b"),
        (b"clip\n\xff\xfe\n", "decode"),
        (b'clip\n"a.wav\n', "unexpected end of data"),
    ],
)
def test_a_file_that_is_no_manifest_is_one_fault(score, clips, tmp_path, content, said):
    (tmp_path / "m.csv").write_bytes(content)
    code, out, _ = score("m.csv", "a.wav", "--csv")
    rows = rows_of(out)
    assert code == 1 and said in rows["m.csv"]["error"] and rows["a.wav"]["reward"]


def test_columns_that_are_not_used_are_mentioned(tmp_path, caplog):
    (tmp_path / "m.csv").write_text("clip,promt\na.wav,calm\n")
    assert entries_of([tmp_path / "m.csv"])[0].prompt == ""
    assert "columns not used: promt" in caplog.text


def test_a_file_named_twice_is_scored_once_and_said(score, clips):
    code, out, err = score("a.wav", "a.wav")
    assert code == 1 and "id 'a.wav' was given to an earlier clip" in err


def test_few_files_are_in_memory_however_many_there_are(studio, tmp_path, monkeypatch):
    path = write_clip(noise(1.0), tmp_path / "a.wav")
    entries = [entry for i in range(40) for entry in entries_of([path])]
    sizes = []
    monkeypatch.setattr(
        studio, "score", lambda clips, prompts, **_: sizes.append(len(clips)) or [None] * len(clips)
    )
    assert sum(1 for _ in studio.score_files(entries)) == 40
    assert sizes == [8] * 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.wav", "--window", "middle"), "'middle'; accepted: centre, first, mean, random"),
        (("a.wav", "--band", "8k"), "'8k'; accepted: full, 16k"),
        (("a.wav", "--window-seed", "-1"), "seed is -1"),
        (("a.wav", "--json", "--csv"), "choose one"),
        (("a.wav", "--out", "scores.txt"), "'scores.txt'; accepted suffixes: .json, .csv"),
        (("a.wav", "--out", "/proc/nowhere/s.csv"), "cannot be written"),
        ((), "files"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_two(score, clips, arguments, said):
    code, out, err = score(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and said in err.lower() and err.count("\n") == 1


def test_a_preset_without_ranker_is_one_line(tiny_preset, clips, capfd):
    code = main(["score", str(clips[0]), "--preset", str(tiny_preset), "--device", "cpu"])
    assert code == 2
    assert capfd.readouterr().err == "error: clips cannot be scored: preset 'tiny' has no ranker\n"
