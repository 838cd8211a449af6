"""Evaluation of a tiny chain: what is heard, remembered, judged, put into tables, and refused."""

from __future__ import annotations

import csv
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from tests.evaluated import CAPTIONS, STAGES, build_chain, same, write_captions
from tests.scoring import noise
from ttmpref.audio import write_clip
from ttmpref.cli import main
from ttmpref.evaluation import tables
from ttmpref.evaluation.chain import Line, one_after_another, steps
from ttmpref.evaluation.evidence import evidence
from ttmpref.evaluation.heard import GROUP, Condition, Listener
from ttmpref.evaluation.judge import HttpJudge, share_heard
from ttmpref.evaluation.lab import Lab, Missing, step
from ttmpref.evaluation.published import printed
from ttmpref.evaluation.reference import Reference
from ttmpref.evaluation.sheets import Column, Measure, Sheet, words
from ttmpref.studio import Studio
from ttmpref.study.prompts import read_prompts
from ttmpref.types import ConfigError, InvalidRequest, TtmprefError

N = 5  # captions of the tables
FEW = ("--resamples", "50", "--quiet", "--device", "cpu")


@pytest.fixture(scope="module")
def chain(scoring_preset, tmp_path_factory):
    """Path of a preset with every stage that the tables look for but one head's."""
    return build_chain(tmp_path_factory.mktemp("chain"), scoring_preset)


@pytest.fixture(scope="module")
def studio(chain):
    return Studio.open(str(chain), "cpu")


@pytest.fixture(scope="module")
def prompts(chain):
    return read_prompts(chain.with_name("captions.jsonl"))


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """What the tests of this file share of what was heard."""
    return tmp_path_factory.mktemp("memory")


@pytest.fixture(scope="module")
def lab(studio, prompts, chain, memory):
    reference = Reference.read(chain.with_name("reference.safetensors"), studio.preset)
    return Lab(Listener(studio, prompts[:N], memory), reference, resamples=50)


def rows_of(sheet):
    return {row["row"]: row for row in sheet.to_dict()["rows"]}


# What is heard


def test_what_is_heard_is_what_score_and_generate_say(lab, studio):
    heard = lab.listener.hear(Condition("sft", score=1.0))
    for i in (0, N - 1):
        request = studio.request(CAPTIONS[i], seed=42 + i, stage="sft", score=1.0)
        (made,) = studio.generate(request)
        (reward,) = studio.score([made.clip], [CAPTIONS[i]], timeline=False)
        assert heard.rewards[i] == pytest.approx(reward.reward, abs=5e-3)
        assert heard.clap_scores[i] == pytest.approx(made.scores.clap_score, abs=5e-3)
    assert np.linalg.norm(heard.clap, axis=1) == pytest.approx(np.ones(N), abs=1e-5)


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bits(
    studio, prompts, tmp_path, monkeypatch
):
    whole = Listener(studio, prompts, tmp_path / "whole").hear(Condition("expert"))
    made, groups = studio.batch, []

    def dies_at_the_second_group(requests, head):
        groups.append(len(requests))
        if len(groups) == 2:
            raise KeyboardInterrupt
        return made(requests, head)

    with monkeypatch.context() as patch:
        patch.setattr(studio, "batch", dies_at_the_second_group)
        with pytest.raises(KeyboardInterrupt):
            Listener(studio, prompts, tmp_path / "cut").hear(Condition("expert"))
    groups.clear()

    def counted(requests, head):
        groups.append(len(requests))
        return made(requests, head)

    monkeypatch.setattr(studio, "batch", counted)
    again = Listener(studio, prompts, tmp_path / "cut").hear(Condition("expert"))
    assert groups == [len(CAPTIONS) - GROUP]
    assert same(whole, again)


def test_what_was_heard_is_not_made_again_and_fewer_captions_share_it(
    studio, prompts, memory, monkeypatch
):
    heard = Listener(studio, prompts, memory).hear(Condition("sft"))
    monkeypatch.delattr(Studio, "batch")
    assert same(Listener(studio, prompts, memory).hear(Condition("sft")), heard)
    fewer = Listener(studio, prompts[:GROUP], memory).hear(Condition("sft"))
    assert np.array_equal(fewer.clap, heard.clap[:GROUP])


@pytest.mark.parametrize(
    "other",
    [Condition("expert"), Condition("sft", "input_add"), Condition("sft", score=0.0),
     Condition("sft", seed=55), Condition("sft", guidance=1.5), Condition("sft", num_steps=3)],
)  # fmt: skip
def test_every_part_of_a_condition_is_heard(lab, other):
    plain, changed = lab.listener.hear(Condition("sft")), lab.listener.hear(other)
    assert not np.array_equal(plain.clap, changed.clap)


def test_the_same_weights_under_the_same_head_are_one_condition(lab, monkeypatch):
    """The cross-loaded stage is the expert's weights under the second head."""
    crossed = lab.listener.hear(Condition("crossload"))
    monkeypatch.delattr(Studio, "batch")
    assert same(lab.listener.hear(Condition("expert", "input_add")), crossed)


def test_a_damaged_memory_is_named(studio, prompts, tmp_path):
    listener = Listener(studio, prompts[:2], tmp_path)
    listener.hear(Condition("sft"))
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(b"no archive")
    with pytest.raises(TtmprefError, match=f"{path.name}.*remove it"):
        listener.hear(Condition("sft"))


def test_clips_of_a_folder_are_heard_by_the_ids_of_their_captions(lab, studio, prompts, tmp_path):
    for i, prompt in enumerate(prompts):
        write_clip(noise(seed=12 + i), tmp_path / f"{prompt.id}.flac", 24)
    heard = lab.listener.hear_folder(tmp_path)
    real = lab.real().heard  # the same noises, kept in half precision
    assert heard.clap == pytest.approx(real.clap, abs=2e-3)
    assert heard.rewards == pytest.approx(real.rewards, abs=2e-2)
    (tmp_path / "c3.flac").unlink()
    with pytest.raises(InvalidRequest, match="no clip of prompt 'c3'"):
        lab.listener.hear_folder(tmp_path)


def test_without_a_ranker_there_are_distances_and_clap_scores(tiny_preset, prompts, tmp_path):
    heard = Listener(Studio.open(str(tiny_preset), "cpu"), prompts[:3], tmp_path).hear(
        Condition("scored")
    )
    assert heard.rewards is None
    assert heard.clap_scores.shape == (3,)


# The reference


def test_a_reference_of_another_clap_is_refused(chain, studio, tmp_path, lab):
    path = tmp_path / "other.safetensors"
    said = {"encoders": {"clap": "0" * 64}}
    path.write_bytes(Reference(lab.reference.clap, said).pack())
    with pytest.raises(ConfigError, match="made with another CLAP than preset 'chain'"):
        Reference.read(path, studio.preset)


def test_a_file_without_embeddings_is_no_reference(chain, studio):
    with pytest.raises(ConfigError, match="not a reference"):
        Reference.read(chain.with_name("first.safetensors"), studio.preset)


def test_a_folder_of_audio_is_a_reference(studio, tmp_path):
    for seed in range(3):
        write_clip(noise(seed=seed), tmp_path / f"{seed}.wav")
    found = Reference.of_folder(tmp_path, studio.hearing(), studio.preset)
    assert found.clap.shape == (3, studio.preset.metric_clap.dim)
    (tmp_path / "0.wav").unlink()
    (tmp_path / "1.wav").unlink()
    with pytest.raises(InvalidRequest, match="two audio files or more"):
        Reference.of_folder(tmp_path, studio.hearing(), studio.preset)


def test_real_clips_of_other_captions_are_not_shown(studio, prompts, lab, tmp_path):
    swapped = (prompts[1], prompts[0], *prompts[2:N])
    other = Lab(Listener(studio, swapped, tmp_path), lab.reference, resamples=50)
    assert "other captions" in other.real().reason


# Tables


def test_a_step_from_a_row_to_itself_is_nothing(lab):
    row = lab.row(Condition("sft"))
    found = step(row, row)
    assert (found.fad.value, found.fad.low, found.fad.high) == (0.0, 0.0, 0.0)
    assert (found.reward.mean.value, found.reward.p_t) == (0.0, 1.0)


def test_rows_come_after_their_parents_or_after_the_row_above():
    lines = [Line(name, Missing("-")) for name in ("a", "c", "b")]
    after = [line.after for line in one_after_another(lines, {"b": "a", "c": "lost"})]
    assert after == [None, "a", "a"]


def test_table_1_has_a_row_per_head_and_says_which_is_lacking(lab):
    (sheet,) = tables.table1(lab)
    rows = rows_of(sheet)
    assert list(rows) == ["no score", *tables.HEAD_NAMES.values()]
    lacking = rows.pop("latent AdaLN (v4)")
    assert lacking["reason"] == "not trained for the preset 'chain' (stage 'sft_latent_adaln')"
    assert lacking["fad"] is None
    low, high = (lab.row(Condition("sft", score=s)).heard.rewards for s in (-0.5, 1.5))
    assert rows["GlobalAdaLN (v1)"]["delta_out"]["value"] == pytest.approx((high - low).mean())
    assert all(row["n"] == N for row in rows.values())


def test_table_2_follows_the_chain_with_the_papers_numbers_apart(lab):
    levels, differences = tables.table2(lab)
    rows = rows_of(levels)
    assert list(rows) == [*tables.CHAIN, "crpo, seed 55", "real clips of the captions"]
    expert = lab.row(Condition("expert"))
    assert rows["expert"]["reward"]["value"] == pytest.approx(expert.heard.rewards.mean())
    assert rows["expert"]["paper_reward"] == 0.524
    assert rows["expert"]["paper_fad"] is None
    assert rows["crpo"]["paper_fad"] == 0.4238
    steps_of = rows_of(differences)
    assert [row["after"] for row in steps_of.values()] == list(tables.CHAIN[:-1])
    assert steps_of["expert"]["paper_fad"] == -0.0362
    ours = lab.row(Condition("expert")).distance - lab.row(Condition("sft")).distance
    assert steps_of["expert"]["fad"]["value"] == pytest.approx(ours)


def test_holm_is_over_all_tests_of_a_table_and_kind(lab):
    (_, differences) = tables.table2(lab)
    rows = differences.to_dict()["rows"]
    plain = [row[f"{metric}_p_t"] for row in rows for metric in ("clap", "reward")]
    adjusted = [row[f"{metric}_p_t_holm"] for row in rows for metric in ("clap", "reward")]
    smallest = int(np.argmin(plain))
    assert adjusted[smallest] == pytest.approx(min(1.0, len(plain) * plain[smallest]))
    assert all(a >= p for a, p in zip(adjusted, plain, strict=True))


def test_table_3_has_eight_cells_and_two_submissions(lab):
    (sheet,) = tables.table3(lab)
    rows = rows_of(sheet)
    assert len(rows) == 10
    assert all(row["reason"] is None for row in rows.values())
    native = lab.row(Condition("expert")).heard.rewards.mean()
    crossed = lab.row(Condition("crossload")).heard.rewards.mean()
    found = [rows[f"chain end: v1 weights, {v} forward"]["reward"]["value"] for v in ("v1", "v2")]
    assert found == pytest.approx([native, crossed])
    assert rows["SFT only: v2 weights, v1 forward"]["paper_reward"] == -0.5
    assert rows["submission 1"]["p_reward"] is None


def test_figure_2_sweeps_the_fine_tune_and_the_last_stage(lab):
    (sheet,) = tables.figure2(lab)
    rows = sheet.to_dict()["rows"]
    assert [(row["stage"], row["s"]) for row in rows] == [
        (stage, s) for stage in ("sft", "crpo") for s in tables.SWEEP
    ]
    known = {(r["stage"], r["s"]): r["paper_reward"] for r in rows if r["paper_reward"]}
    assert known == {("sft", 0.0): 0.16, ("sft", 2.0): 0.47, ("crpo", 0.0): 0.54}


def test_pollution_compares_the_two_fine_tunes(lab):
    levels, differences = tables.pollution(lab)
    rows = rows_of(levels)
    assert [row["paper_fad"] for row in rows.values()] == [0.515, 0.337]
    ((_, difference),) = rows_of(differences).items()
    values = [row["reward"]["value"] for row in rows.values()]
    assert difference["reward"]["value"] == pytest.approx(values[1] - values[0], abs=1e-6)


def test_evidence_answers_every_claim_with_what_the_tables_say(lab):
    claims, extrapolation = evidence(lab)
    found = {row["claim"]: row for row in claims.to_dict()["rows"]}
    assert len(found) == 9
    assert {row["met"] for row in found.values()} <= {"yes", "no"}
    expert = found["expert over sft: reward"]
    before, after = (lab.row(Condition(name)).heard.rewards for name in ("sft", "expert"))
    assert expert["found"]["value"] == pytest.approx((after - before).mean())
    assert expert["met"] == ("yes" if expert["p"] < 0.01 else "no")
    crossed = found["v1 weights run as v2, against native: reward"]
    assert crossed["met"] == ("yes" if abs(crossed["found"]["value"]) <= 0.05 else "no")
    assert [row["stage"] for row in extrapolation.to_dict()["rows"]] == ["sft", "crpo"]


def test_a_chain_that_is_not_there_yet_is_said_to_be_so(scoring_preset, tmp_path):
    later = [name for name, *_ in STAGES if name != "baseline"]
    path = build_chain(tmp_path, scoring_preset, without=later)
    studio = Studio.open(str(path), "cpu")
    listener = Listener(studio, read_prompts(tmp_path / "captions.jsonl")[:4], tmp_path / "heard")
    reference = Reference.read(tmp_path / "reference.safetensors", studio.preset)
    early = Lab(listener, reference, resamples=50)
    (figure,) = tables.figure2(early)
    assert all("not trained" in row["reason"] for row in figure.to_dict()["rows"])
    claims, extrapolation = evidence(early)
    assert {row["met"] for row in claims.to_dict()["rows"]} == {None}
    assert all(row["reason"] for row in extrapolation.to_dict()["rows"])
    levels, _ = tables.table2(early)
    assert [row["n"] for row in levels.to_dict()["rows"]][:2] == [4, None]
    assert figure.files({})


# Files


def test_files_of_a_sheet_say_the_same(lab):
    (sheet,) = tables.table3(lab)
    files = sheet.files(lab.record())
    table = list(csv.DictReader(files["table3.csv"].decode().splitlines()))
    record = json.loads(files["table3.json"])
    for line, row in zip(table, record["rows"], strict=True):
        assert float(line["fad"]) == row["fad"]["value"]
        assert float(line["fad_low"]) == row["fad"]["low"]
        shown = f"{row['fad']['value']:.3f} [{row['fad']['low']:.3f}, {row['fad']['high']:.3f}]"
        assert shown in files["table3.md"].decode()
        assert shown in files["table3.tex"].decode()
    assert record["record"]["weights"]
    assert record["record"]["captions"] == N
    assert record["record"]["reference"]["clips"] == 12


def test_the_figure_is_one_that_plotly_reads_and_a_picture(lab, tmp_path):
    for (sheet,) in (tables.figure2(lab), tables.table1(lab)):
        files = sheet.files({})
        figure = go.Figure(json.loads(files[f"{sheet.name}.plotly.json"]))
        assert sum(len(trace.x or ()) for trace in figure.data) >= len(sheet.rows)
        (tmp_path / "figure.png").write_bytes(files[f"{sheet.name}.png"])
        assert Image.open(tmp_path / "figure.png").size[0] > 600


def test_a_curve_of_the_figure_goes_through_the_rows_of_the_table(lab):
    (sheet,) = tables.figure2(lab)
    figure = json.loads(sheet.files({})["figure2.plotly.json"])
    rows = [row for row in sheet.to_dict()["rows"] if row["stage"] == "sft"]
    curve = next(t for t in figure["data"] if t["name"].startswith("sft") and t["xaxis"] == "x")
    assert curve["x"] == [row["s"] for row in rows]
    assert curve["y"] == [row["reward"]["value"] for row in rows]


def test_cells_in_words():
    number, p = Column("x", "x"), Column("p", "p", "p")
    cells = [None, "a", 3, 0.12345, Measure(1.0, 0.5, 1.5), Measure(1.0)]
    said = ["-", "a", "3", "0.123", "1.000 [0.500, 1.500]", "1.000"]
    assert [words(number, cell) for cell in cells] == said
    assert words(p, 0.0001) == "< 0.001"


def test_specials_of_latex_are_escaped():
    sheet = Sheet("x", "50 % & more", (Column("row", "row", "words"),), (("a_b",),))
    text = sheet.files({})["x.tex"].decode()
    assert r"50 \% \& more" in text
    assert r"a\_b" in text


def test_what_the_paper_printed_is_found_by_row_and_metric():
    assert printed("levels", "crpo") == {"fad": 0.4238, "clap": 0.285, "reward": 0.533}
    assert printed("levels", "") == {}
    assert printed("sweep", "sft", "9.0") == {}


# Commands


def options(chain, memory, command, *more):
    home = chain.parent
    return [
        command, "--preset", str(chain), "--prompts", str(home / "captions.jsonl"), "--reference",
        str(home / "reference.safetensors"), "--cache", str(memory), "--clips", str(N), *FEW, *more,
    ]  # fmt: skip


def test_evaluate_writes_tables_of_stages_and_folders(chain, memory, prompts, tmp_path, capsys):
    for prompt in prompts[:N]:
        write_clip(noise(seed=1), tmp_path / "clips" / f"{prompt.id}.wav")
    out = tmp_path / "out"
    more = ["evaluate", "--out", str(out), "--audio", f"noise={tmp_path / 'clips'}"]
    assert main(options(chain, memory, *more, "--stage", "baseline", "--stage", "sft")) == 0
    printed_files = capsys.readouterr().out.split()
    assert all((out / name).exists() for name in ("stages.csv", "steps.md", "per_prompt.csv"))
    assert str(out / "stages.json") in printed_files
    table = list(csv.DictReader((out / "per_prompt.csv").read_text().splitlines()))
    named = [name for name in ("baseline", "sft", "noise") for _ in range(N)]
    assert [row["row"] for row in table] == named
    levels = json.loads((out / "stages.json").read_text())
    rewards = [float(row["reward"]) for row in table if row["row"] == "sft"]
    assert levels["rows"][1]["reward"]["value"] == pytest.approx(np.mean(rewards))
    assert [row["after"] for row in json.loads((out / "steps.json").read_text())["rows"]] == [
        "baseline", "sft"
    ]  # fmt: skip


def test_tables_of_fewer_captions_are_written(chain, memory, tmp_path, capsys):
    more = ["tables", "table2", "evidence", "--clips", "3", "--out", str(tmp_path)]
    assert main(options(chain, memory, *more)) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"table2.csv", "table2_steps.tex", "evidence.md", "extrapolation.json"} <= names
    assert json.loads((tmp_path / "table2.json").read_text())["rows"][0]["n"] == 3


def test_tables_written_twice_are_the_same_bytes(chain, memory, tmp_path):
    for name in ("a", "b"):
        assert main(options(chain, memory, "tables", "table3", "--out", str(tmp_path / name))) == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tables", "table9"], "table is 'table9'; accepted: table1, table2"),
        (["tables", "--clips", "1"], "clips is 1; it must be a whole number from 2 to 10"),
        (["tables", "--resamples", "3"], "resamples is 3"),
        (["evaluate", "--stage", "sfx"], "stage is 'sfx'; accepted: baseline, sft"),
        (["evaluate", "--audio", "x"], "audio is 'x'; NAME=FOLDER is accepted"),
        (["evaluate", "--audio", "x=/nowhere"], "/nowhere: no such folder of clips"),
        (["evaluate", "--judge-url", "localhost"], "judge is 'localhost'; it must begin with http"),
        (["evaluate", "--score", "99"], "score is 99.0"),
    ],
)
def test_bad_options_end_in_one_line(chain, memory, tmp_path, capsys, arguments, said):
    assert main(options(chain, memory, *arguments, "--out", str(tmp_path / "out"))) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["evaluate", "tables"])
def test_a_preset_that_brings_no_captions_says_what_to_do(tiny_preset, command, tmp_path, capsys):
    assert main([command, "--preset", str(tiny_preset), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "captions.jsonl is missing: run `python -m benchmarks.reference`" in error
    assert "--prompts" in error


def test_a_place_that_cannot_be_written_is_said_before_anything_is_made(chain, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    given = options(chain, tmp_path / "heard", "tables", "table2", "--out", str(tmp_path / "file"))
    assert main(given) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert not (tmp_path / "heard").exists()


# The judge


class Chat(BaseHTTPRequestHandler):
    """Answers as a chat-completions server whose model says what the test wants."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), asked))
        status, words_said = self.server.answers(asked)
        self.send_response(status)
        self.end_headers()
        body = {"choices": [{"message": {"content": words_said}}]}
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    found.asked = []
    found.answers = lambda asked: (200, '{"concepts": {"piano": true, "calm": false}}')
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    found.judge = HttpJudge(f"http://127.0.0.1:{found.server_port}/v1", "listener")
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_the_judge_hears_the_clip_and_its_caption(server, monkeypatch):
    monkeypatch.setenv("TTMPREF_JUDGE_KEY", "secret")
    assert server.judge.coverage(noise(), "calm piano") == 0.5
    ((path, key, asked),) = server.asked
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    text, audio = asked["messages"][0]["content"]
    assert "calm piano" in text["text"]
    assert audio["input_audio"]["format"] == "wav"


def test_coverage_is_remembered_and_stands_in_the_table(server, studio, prompts, lab, tmp_path):
    server.answers = lambda asked: (
        200,
        "I hear nothing." if "fast rock" in str(asked) else '{"concepts": {"a": true}}',
    )
    listener = Listener(studio, prompts[:N], tmp_path, server.judge)
    row = lab.of(listener.hear(Condition("sft")))
    assert row.coverage.value == 1.0
    assert np.isnan(row.heard.coverage).tolist() == [text == "fast rock" for text in CAPTIONS[:N]]
    asked = len(server.asked)
    listener.hear(Condition("sft"))
    assert len(server.asked) == asked == N


@pytest.mark.parametrize(
    ("words_said", "share"),
    [('{"concepts": {"a": true, "b": true, "c": false, "d": false}}', 0.5),
     ('Of course!\n```json\n{"concepts": {"a": true}}\n```', 1.0),
     ('{"concepts": {}}', None), ('{"concepts": {"a": 3}}', None), ("[]", None), ("yes", None)],
)  # fmt: skip
def test_answers_are_read_with_care(words_said, share):
    found = share_heard(words_said)
    assert np.isnan(found) if share is None else found == share


def test_a_judge_that_fails_ends_the_run_in_one_line(server):
    server.answers = lambda asked: (503, "")
    with pytest.raises(TtmprefError, match="HTTP 503"):
        server.judge.coverage(noise(), "calm piano")
    nobody = HttpJudge("http://127.0.0.1:9", "listener")
    with pytest.raises(TtmprefError, match="cannot be asked"):
        nobody.coverage(noise(), "calm piano")


def test_lines_that_cannot_be_compared_say_why(lab):
    lines = [Line("sft", lab.row(Condition("sft"))), Line("x", Missing("not yet"), after="sft")]
    (row,) = steps("s", "s", lines).to_dict()["rows"]
    assert (row["reason"], row["fad"], row["reward_p_t"]) == ("not yet", None, None)


def test_captions_of_any_list_will_do(studio, tmp_path):
    write_captions(tmp_path / "own.jsonl", ["one thing", "another thing"])
    heard = Listener(studio, read_prompts(tmp_path / "own.jsonl"), tmp_path).hear(Condition("sft"))
    assert heard.clap_scores.shape == (2,)
