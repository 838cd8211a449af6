"""Exports: the same votes give the same bytes in every format, and a report follows from them."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from uuid import uuid4

import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.studies import Clock, ballot, settings_for, write_study
from training.pair_sources import SOURCES
from training.preferences import read_preferences
from ttmpref.study.analysis import Plan, analyse
from ttmpref.study.cli import study_app
from ttmpref.study.columns import TABLES
from ttmpref.study.definition import Exclusion, load_study
from ttmpref.study.errors import Conflict, NotFound, Unprocessable
from ttmpref.study.export import MANIFEST, export_files, export_study, find_export
from ttmpref.study.pairing import most_pairs
from ttmpref.study.records import build_folder, clip_path
from ttmpref.study.rehearsal import Rehearsal, coverage
from ttmpref.study.reporting import analyse_export, read_export
from ttmpref.study.simulation import Population
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store
from ttmpref.study.store.people import Joining
from ttmpref.study.store.trials import Finished
from ttmpref.study.votes import Votes

ROOT = Path(__file__).parents[1]
COMMENT = 'quotes "x", comma, new\nline, 🎹, =1+1'


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that four people have finished, one of whom has withdrawn, and its store."""
    root = tmp_path_factory.mktemp("export")
    rows = ["system,prompt_id,score,clap_score"]
    rows += [f"{system},{prompt},{0.1 * prompt + gain},{0.3 - gain}" for prompt in range(1, 7)
             for system, gain in (("old", 0.0), ("new", 0.5))]  # fmt: skip
    (root / "study").mkdir()
    (root / "study" / "scores.csv").write_text("\n".join(rows))
    study = write_study(
        root / "study",
        ranker={"file": "scores.csv"},
        privacy={"publish": {"comments": True}},
        session={"trials": 6},
        exclusion={"attention_failed_ge": 2},
    )
    settings = settings_for(root / "data", "")
    build_study(study, build_folder(settings.data_dir, study.definition))
    store = Store(settings, clock := Clock())
    store.studies.open(study, "tester")
    answers = iter(["B", "B", "A", "TIE", "A", "BOTH_BAD"] * 10)
    tokens = [store.people.join("tiny", Joining("1", True, "203.0.113.7"))[0] for _ in range(4)]
    for token in tokens:
        trial = store.trials.next(token)
        while not isinstance(trial, Finished):
            clock.pass_(20)
            answer = ballot(next(answers), comment=COMMENT, confidence=2)
            trial = store.trials.vote(token, trial.id, str(uuid4()), answer)
    store.people.withdraw(tokens[3])
    yield store, study, root
    store.close()


@pytest.fixture(scope="module")
def files(finished):
    store, _, _ = finished
    return export_files(store.reading.dump("tiny"), unblind=True)


def lines(data):
    return [json.loads(line) for line in data.decode().splitlines()]


def test_check_9_an_export_repeats_byte_for_byte(finished, files):
    store, _, _ = finished
    assert export_files(store.reading.dump("tiny"), unblind=True) == files


def test_check_9_csv_json_lines_and_parquet_hold_the_same_rows(files):
    for name, columns in TABLES.items():
        table = list(csv.DictReader(io.StringIO(files[f"{name}.csv"].decode())))
        objects = lines(files[f"{name}.jsonl"])
        frame = pd.read_parquet(io.BytesIO(files[f"{name}.parquet"]))
        assert len(table) == len(objects) == len(frame)
        for row, one, stored in zip(table, objects, frame.to_dict("records"), strict=True):
            assert [*row][: len(columns)] == [c.name for c in columns]
            for column in columns:
                value = one[column.name]
                if value is None:
                    assert row[column.name] == "" and pd.isna(stored[column.name])
                elif column.type in ("integer", "number"):
                    assert float(row[column.name]) == value == stored[column.name]
                elif column.type == "flag":
                    assert row[column.name] == str(value).lower()
                    assert value == stored[column.name]
                else:
                    assert row[column.name] in (value, f"'{value}") and value == stored[column.name]


def test_text_survives_every_format(files):
    table = list(csv.DictReader(io.StringIO(files["votes.csv"].decode(), newline="")))
    frame = pd.read_parquet(io.BytesIO(files["votes.parquet"]))
    for found in (table[0]["comment"], lines(files["votes.jsonl"])[0]["comment"]):
        assert found == frame["comment"][0] == COMMENT


def test_the_manifest_names_every_file_and_where_it_comes_from(finished, files):
    store, study, _ = finished
    manifest = json.loads(files[MANIFEST])
    assert set(manifest["files"]) == set(files) - {MANIFEST}
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == hashlib.sha256(files[name]).hexdigest()
    assert manifest["definition_sha256"] == study.definition.sha256
    assert manifest["audit_head"] == store.reading.dump("tiny").audit_head
    assert manifest["counts"]["votes"] == 24 and manifest["withdrawn"] == 1
    assert files["study.yaml"].decode() == study.text


def test_an_export_is_a_folder_that_can_be_found_again(finished, tmp_path):
    store, _, _ = finished
    folder = export_study(store.reading.dump("tiny"), tmp_path)
    assert folder.parent.name == "tiny-v1" and [*tmp_path.rglob("*.part")] == []
    assert find_export(tmp_path, "tiny-v1", folder.name) == folder
    for study, name in (("tiny-v1", "nothing"), ("tiny-v1", "../.."), ("..", "x")):
        with pytest.raises(NotFound):
            find_export(tmp_path, study, name)


def test_an_open_study_is_exported_under_blind_codes(finished):
    store, _, _ = finished
    blind = export_files(store.reading.dump("tiny"))
    assert json.loads(blind[MANIFEST])["blind"]
    for name in ("votes", "trials", "stimuli", "music_arena", "pairs_for_training"):
        for row in lines(blind[f"{name}.jsonl"]):
            systems = {value for key, value in row.items() if key.startswith("system")}
            assert systems <= {"system-1", "system-2", "degraded"}
            assert not row.get("source_sha256")


def test_withdrawn_people_have_no_rows_but_their_own(files):
    people = {row["rater"]: row for row in lines(files["participants.jsonl"])}
    gone = [rater for rater, row in people.items() if row["status"] == "withdrawn"]
    assert len(people) == 4 and len(gone) == 1 and people[gone[0]]["votes"] == 0
    for name, data in files.items():
        if name.endswith(".jsonl") and not name.startswith("participants"):
            assert gone[0] not in data.decode()
    events = lines(gzip.decompress(files["events.jsonl.gz"]))
    votes = {row["vote_id"] for row in lines(files["votes.jsonl"])}
    assert {event["trial_id"] for event in events} == votes


def test_no_export_says_who_or_where_somebody_is(tmp_path):
    study = write_study(
        tmp_path / "study", prompts=2, recruitment={"source": "prolific"}, session={"trials": 2}
    )
    build_study(study, build_folder(tmp_path / "data", study.definition))
    store = Store(settings_for(tmp_path / "data", ""), clock := Clock())
    store.studies.open(study, "tester")
    personal = ("5f3c0ffee0ddba11", "203.0.113.77", "somebody@example.org")
    joining = Joining("1", True, personal[1], external_id=personal[0])
    trial = store.trials.next(token := store.people.join("tiny", joining)[0])
    while not isinstance(trial, Finished):
        clock.pass_(20)
        answer = ballot(comment=f"write to {personal[2]}")
        trial = store.trials.vote(token, trial.id, str(uuid4()), answer)
    files = export_files(store.reading.dump("tiny"), unblind=True)
    store.close()
    assert len(lines(files["votes.jsonl"])) >= 2
    for name, data in files.items():
        if name.endswith(".parquet"):
            data = pd.read_parquet(io.BytesIO(data)).to_csv().encode()
        data = gzip.decompress(data) if name.endswith(".gz") else data
        assert not [word for word in (*personal, token) if word.encode() in data], name


def test_the_codebook_explains_every_column(files):
    text = files["codebook.md"].decode()
    for columns in TABLES.values():
        for column in columns:
            assert f"| `{column.name}` | {column.type} |" in text


def test_votes_are_read_by_the_statistics_as_they_are(files):
    votes = Votes.from_frame(pd.read_parquet(io.BytesIO(files["votes.parquet"])))
    assert votes.systems == ("degraded", "new", "old") and len(votes) == 24
    assert (votes.repeat_of >= 0).sum() == 3


def test_training_pairs_are_read_by_the_ranker_as_they_are(finished, files, tmp_path):
    _, study, root = finished
    path = tmp_path / "pairs_for_training.jsonl"
    path.write_bytes(files[path.name])
    table = read_preferences([path])
    rows = lines(files["votes.jsonl"])
    main = [row for row in rows if row["kind"] == "main" and not row["excluded"]]
    kept = [row["vote_id"] for row in main if row["answer"] != "BOTH_BAD"]
    assert not table.faults and [pair.id for pair in table.pairs] == kept
    assert {pair.target for pair in table.pairs} <= {0.0, 0.5, 1.0}
    folder = build_folder(root / "data", study.definition)
    for pair in table.pairs:
        assert (folder / pair.clip_a).is_file() and (folder / pair.clip_b).is_file()
        assert clip_path(folder, pair.clip_a[6:-4]) == folder / pair.clip_a


def test_music_arena_rows_have_the_public_names(files):
    rows = lines(files["music_arena.jsonl"])
    public = set(SOURCES["music_arena"].columns.values())
    assert all(public <= set(row) for row in rows)
    assert {row["preference"] for row in rows} <= {"A", "B", "TIE", "BOTH_BAD"}


def test_check_9_the_report_of_an_export_is_that_of_the_database(finished, files, tmp_path):
    store, _, _ = finished
    from_files = analyse_export(files).to_dict()
    folder = export_study(store.reading.dump("tiny"), tmp_path, unblind=True)
    assert analyse_export(read_export(folder)).to_dict() == from_files
    others = {one["name"] for one in from_files["ranker"]["baselines"]}
    assert {"higher CLAP score wins", "louder wins", "later stage wins"} <= others
    with pytest.raises(NotFound, match="is no export"):
        read_export(tmp_path)


def test_rules_of_the_definition_exclude_and_say_so(finished):
    """All answered within five seconds; a rule that asks for six flags them all."""
    store, study, _ = finished
    dump = store.reading.dump("tiny")
    strict = study.definition.model_copy(update={"exclusion": Exclusion(median_rt_ms_lt=6_000)})
    files = export_files(dataclasses.replace(dump, definition=strict), unblind=True)
    rows, votes = lines(files["exclusions.jsonl"]), lines(files["votes.jsonl"])
    assert {row["rule"] for row in rows} == {"median_rt_ms_lt"}
    assert {row["target"] for row in rows} == {vote["rater"] for vote in votes}
    assert all(row["preregistered"] for row in rows) and all(vote["excluded"] for vote in votes)
    assert files["pairs_for_training.jsonl"] == b""


def test_what_an_operator_excludes_is_flagged_with_the_reason(finished):
    store, _, _ = finished
    trial = store.reading.dump("tiny").votes[0]["trial_id"]
    store.studies.exclude("tiny", "trial", trial, "the phone rang", "tester")
    files = export_files(store.reading.dump("tiny"))
    assert lines(files["exclusions.jsonl"])[0]["reason"] == "the phone rang"
    assert [v["vote_id"] for v in lines(files["votes.jsonl"]) if v["excluded"]] == [trial]


def test_a_rehearsal_covers_every_pair_and_finds_what_was_planted(tmp_path):
    study = write_study(tmp_path / "study", prompts=40, session={"trials": 20})
    rehearsal = Rehearsal.of(study, None)
    votes = rehearsal.votes(Population({"new": 2.0}), participants=8, seed=1)
    found = coverage(votes, rehearsal)
    assert found["pairs complete"] == found["pairs"] == 40 and found["main answers"] == 160
    result = analyse(votes, Plan.of(study.definition))
    estimate = result.primary.found.preference
    assert estimate.low < Population({"new": 2.0}).preference("old", "new") < estimate.high
    assert estimate.value > 0.8


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run a command of the study's command line with its own data folder."""
    monkeypatch.setenv("TTMPREF_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TTMPREF_STORAGE_IS_SAFE", "1")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        result = CliRunner().invoke(study_app, [*map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run


def test_check_32_from_two_folders_to_a_report_in_five_commands(command, tmp_path):
    """validate, build, open, (two people answer), export, report."""
    path = tmp_path / "mine" / "study.yaml"
    write_study(path.parent, prompts=4, session={"trials": 4})
    assert "8 (0 to be generated)" in command("validate", path)[1]
    code, out = command("build", path)
    assert code == 0 and "delivered  0.50" in out
    assert "is open" in command("open", path)[1]
    store = Store(settings_for(tmp_path / "data", ""), clock := Clock())
    for _ in range(2):
        token = store.people.join("tiny", Joining("1", True, "203.0.113.7"))[0]
        trial = store.trials.next(token)
        while not isinstance(trial, Finished):
            clock.pass_(20)
            trial = store.trials.vote(token, trial.id, str(uuid4()), ballot())
    store.close()
    assert "closed" in command("close", "tiny")[1]
    folder = command("export", "tiny")[1].strip()
    code, out = command("report", folder)
    assert code == 0 and "new over old" in out
    assert (tmp_path / folder / "report" / "summary.json").is_file()
    assert "whole" in command("audit", "tiny")[1]
    assert json.loads(command("status", "tiny", "--json")[1])["votes"] == 8


def test_every_verb_says_what_it_did_and_every_mistake_what_to_do(command, tmp_path):
    path = tmp_path / "mine" / "study.yaml"
    write_study(path.parent, prompts=4, session={"trials": 4})
    with pytest.raises(NotFound, match="there is no study 'tiny'; one is there once it was opened"):
        command("pause", "tiny")
    assert command("build", path)[0] == 0 and command("open", path)[0] == 0
    assert command("pause", "tiny")[1] == "tiny is paused\n"
    assert "paused" in command("status")[1]
    assert "tiny is open" in command("open", "tiny")[1]  # goes on, by its name
    blind, seeing = (command("export", "tiny", *more)[1].strip() for more in ([], ["--unblind"]))
    manifests = [json.loads((tmp_path / one / MANIFEST).read_text()) for one in (blind, seeing)]
    assert [manifest["blind"] for manifest in manifests] == [True, False]
    assert manifests[0]["audit_head"] != manifests[1]["audit_head"]  # lifting it is recorded
    assert command("close", "tiny")[1] == "tiny is closed\n"
    with pytest.raises(Conflict, match="closed"):
        command("open", "tiny")
    assert command("audit", "tiny")[1] == "tiny is whole\n"
    assert command("forget")[0] == 0


def test_check_9_two_processes_write_the_same_export_and_report(finished, tmp_path):
    """Each with its own order of sets; only the names of the folders say when."""
    _, study, root = finished
    environment = {
        **os.environ, "TTMPREF_DATA_DIR": str(root / "data"), "DATABASE_URL": "",
        "TTMPREF_SECRET": "a secret of tests",
    }  # fmt: skip
    written = []
    for seed in ("1", "2"):

        def run(*arguments: object) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "ttmpref", "study", *map(str, arguments)],
                env={**environment, "PYTHONHASHSEED": seed},  # noqa: B023 - run at once
                cwd=ROOT, check=True, capture_output=True, text=True,
            )  # fmt: skip
            return done.stdout.strip()

        folder = Path(run("export", "tiny", "--results", tmp_path / seed))
        run("report", folder)
        files = (path for path in folder.rglob("*") if path.is_file())
        written.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert {"report/summary.json", "report/methods.txt", "votes.parquet"} <= set(written[0])
    assert written[0] == written[1]


def test_a_session_is_as_long_as_its_pairs_allow_and_validating_says_so(command, tmp_path):
    path = tmp_path / "study.yaml"
    study = write_study(tmp_path, prompts=3, session={"trials": 20, "repeats": 2})
    out = command("validate", path)[1]
    assert "1 practice, 3 main, 1 attention, 2 repeats (17 trials fewer than planned" in out
    build = build_study(study, build_folder(tmp_path / "data", study.definition))
    assert most_pairs(study) == Counter(pair.kind for pair in build.pairs)
    write_study(tmp_path, prompts=20, session={"trials": 20, "repeats": 2})
    out = command("validate", path)[1]
    assert "1 practice, 20 main, 1 attention, 2 repeats\n" in out and "fewer" not in out


def test_simulating_says_that_it_does(command, tmp_path):
    path = tmp_path / "study.yaml"
    write_study(tmp_path, prompts=6)
    code, out = command("simulate", path, "--participants", 6, "--effect", "new=1")
    assert code == 0 and out.startswith("SIMULATED") and "found significant" in out


def test_a_study_without_votes_has_no_report(command, tmp_path):
    write_study(tmp_path, prompts=2)
    command("build", tmp_path / "study.yaml")
    command("open", tmp_path / "study.yaml")
    with pytest.raises(Unprocessable, match="no votes"):
        command("report", "tiny")
    with pytest.raises(NotFound):
        command("status", "unknown")


def test_a_shipped_study_with_stages_validates_or_names_the_stage():
    study = load_study("ranker-validity")
    assert study.definition.systems[0].stage.name == "baseline"
