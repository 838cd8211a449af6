"""The database: nothing acknowledged is lost, nothing is stored twice, nothing stored changes.

Every test that takes `db` runs on SQLite and on PostgreSQL; with CI=true a missing PostgreSQL is a
failure, else those are skipped.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError

from benchmarks.postgres_server import create_database
from tests.studies import Clock, ballot, heard, settings_for, write_study
from ttmpref.study.definition import Study
from ttmpref.study.errors import (
    BuildError,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    TooMany,
    Unauthorised,
    Unavailable,
    Unprocessable,
)
from ttmpref.study.records import build_folder
from ttmpref.study.settings import StudySettings
from ttmpref.study.stimuli import build_study
from ttmpref.study.store import Store, tables
from ttmpref.study.store.people import Joining
from ttmpref.study.store.trials import Finished
from ttmpref.types import ConfigError

CONSENT = Joining("1", True, "203.0.113.7")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Study, Path]:
    """A study and a data folder that holds its build; both are copied, never changed."""
    root = tmp_path_factory.mktemp("built")
    study = write_study(root / "study")
    build_study(study, build_folder(root / "data", study.definition))
    return study, root / "data"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def opened(request, tmp_path_factory, built) -> str:
    """Address of a database in which the study is open; copied for each test."""
    study, data = built
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('opened') / 'studies.sqlite3'}"
    else:
        url = create_database(request.getfixturevalue("postgres"))
    store = Store(settings_for(data, url), Clock())
    store.studies.open(study, "tester")
    store.close()
    return url


@dataclasses.dataclass
class Db:
    """An open study on one kind of database, under a clock that stands still."""

    store: Store
    clock: Clock
    study: Study
    settings: StudySettings

    def join(self, **changes) -> str:
        return self.store.people.join("tiny", dataclasses.replace(CONSENT, **changes))[0]

    def answer(self, token, trial, key=None, **changes):
        return self.store.trials.vote(token, trial.id, key or str(uuid4()), ballot(**changes))

    def finish(self, token: str) -> int:
        """Answer everything; how many trials that took."""
        trial, done = self.store.trials.next(token), 0
        while not isinstance(trial, Finished):
            self.clock.pass_(20)
            trial, done = self.answer(token, trial), done + 1
        return done

    def count(self, table, *conditions) -> int:
        with self.store.database.read() as connection:
            return connection.scalar(select(func.count()).select_from(table).where(*conditions))

    def again(self) -> Store:
        """A second process, as far as the database can tell."""
        return Store(self.settings, self.clock)


@pytest.fixture
def db(request, tmp_path, built, opened) -> Iterator[Db]:
    study, data = built
    shutil.copytree(data, tmp_path / "data")
    if opened.startswith("sqlite"):
        shutil.copy(opened.removeprefix("sqlite:///"), tmp_path / "studies.sqlite3")
        url = f"sqlite:///{tmp_path / 'studies.sqlite3'}"
    else:
        url = create_database(request.getfixturevalue("postgres"), template=opened)
    settings, clock = settings_for(tmp_path / "data", url), Clock()
    store = Store(settings, clock)
    yield Db(store, clock, study, settings)
    store.close()


def test_a_whole_session_is_stored_and_sealed(db):
    token = db.join()
    assert db.finish(token) == 7  # practice 1, main 4, attention 1, repeat 1
    assert db.count(tables.vote) == 6  # practice leaves none
    assert db.store.studies.verify("tiny") == []
    assert db.store.people.info(token)["status"] == "completed"
    assert isinstance(db.store.trials.next(token), Finished)
    assert len(db.store.trials.reveal(token)) == 4


def test_check_7_the_same_trial_again_after_a_reload(db):
    token = db.join()
    first = db.store.trials.next(token)
    db.clock.pass_(120)
    again = db.again().trials.next(token)
    assert dataclasses.replace(again, lease_seconds=first.lease_seconds) == first
    assert again.lease_seconds == first.lease_seconds - 120


def test_check_7_a_page_that_was_loaded_again_learns_what_was_heard_before(db):
    token = db.join()
    trial = db.store.trials.next(token)
    assert trial.heard == {"A": [], "B": []}
    db.store.trials.add_events(token, trial.id, heard(0.5))
    assert db.store.trials.next(token).heard == {"A": [(0.0, 500.0)], "B": [(0.0, 500.0)]}


def test_check_5_the_same_key_is_the_same_vote_and_another_answer_is_refused(db):
    token = db.join()
    trial = db.answer(token, db.store.trials.next(token))  # past the practice
    db.clock.pass_(20)
    key = str(uuid4())
    following = [db.answer(token, trial, key) for _ in range(3)]
    assert following[0] == following[1] == following[2]
    with pytest.raises(Conflict, match="another answer"):
        db.answer(token, trial, key, choice="B")
    with pytest.raises(Conflict, match="is answered"):
        db.answer(token, trial)
    with pytest.raises(Conflict, match="another answer"):
        db.answer(token, following[0], key)
    assert db.count(tables.vote) == 1


def test_check_5_what_is_not_yours_not_ready_or_too_late(db):
    token, other = db.join(), db.join()
    trial = db.store.trials.next(token)
    with pytest.raises(Forbidden):
        db.answer(other, trial)
    with pytest.raises(NotFound):
        db.store.trials.vote(token, "0" * 32, str(uuid4()), ballot())
    with pytest.raises(Unauthorised):
        db.answer("nobody", trial)
    with pytest.raises(Conflict, match="must be loaded"):
        db.answer(token, trial, events=())
    db.clock.pass_(20 * 60)
    with pytest.raises(Gone, match="waited too long") as caught:
        db.answer(token, trial)
    assert caught.value.code == "lease_expired"
    replacement = db.store.trials.next(token)
    assert replacement.id != trial.id and replacement.answered == 0
    assert db.store.studies.verify("tiny") == []


def test_check_5_after_the_close_nothing_new_but_a_retry_still_counts(db):
    token = db.join()
    trial = db.answer(token, db.store.trials.next(token))
    db.clock.pass_(20)
    key = str(uuid4())
    last = db.answer(token, trial, key)
    db.store.studies.move("tiny", "closed", "tester")
    assert db.answer(token, trial, key) == last  # acknowledged again, and the open trial named
    db.clock.pass_(20)
    with pytest.raises(Gone, match="has ended"):
        db.answer(token, last)
    with pytest.raises(Gone, match="has ended"):
        db.join()


def test_a_pause_stops_new_trials_and_takes_open_ones(db):
    token = db.join()
    trial = db.store.trials.next(token)
    db.store.studies.move("tiny", "paused", "tester")
    assert db.answer(token, trial) is None
    with pytest.raises(Conflict, match="paused"):
        db.store.trials.next(token)
    with pytest.raises(Conflict, match="paused"):
        db.join()
    db.store.studies.move("tiny", "open", "tester")
    assert db.store.trials.next(token).answered == 1


@pytest.mark.parametrize("step", ["draft", "archived", "open", "nonsense"])
def test_only_legal_moves_are_made(db, step):
    with pytest.raises(Conflict, match="it can become paused or closed"):
        db.store.studies.move("tiny", step, "tester")
    with pytest.raises(NotFound):
        db.store.studies.move("unknown", "closed", "tester")


def test_check_6_less_than_the_minimum_is_refused_with_the_missing_seconds(db):
    token = db.join()
    trial = db.store.trials.next(token)
    with pytest.raises(Unprocessable, match=r"listen to 0\.[23] s of A and 0\.[23] s of B"):
        db.answer(token, trial, events=heard(0.45))
    assert db.count(tables.playback_event) == 0  # nothing else was written
    fabricated = heard(10.0)[:4]  # claims ten seconds of A and none of B
    with pytest.raises(Unprocessable):
        db.answer(token, trial, events=fabricated)
    assert db.answer(token, trial)


def test_check_6_events_arrive_in_any_order_and_number(db):
    token = db.join()
    trial = db.answer(token, db.store.trials.next(token))
    db.clock.pass_(10)
    events = heard()
    for batch in (events[3:], events[:3], events, events[2:4]):
        db.store.trials.add_events(token, trial.id, batch)
    assert db.store.trials.next(token).presented
    db.answer(token, trial, events=())
    with db.store.database.read() as connection:
        row = connection.execute(select(tables.vote)).one()
    assert (row.cover_a, row.cover_b, row.heard_a_ms, row.switches) == (1.0, 1.0, 1000, 1)
    with pytest.raises(Conflict, match="this trial is over"):
        db.store.trials.add_events(token, trial.id, events)


def test_no_more_than_five_hundred_events_are_kept(db):
    token = db.join()
    trial = db.store.trials.next(token)
    many = [dataclasses.replace(heard()[0], seq=seq) for seq in range(700)]
    assert db.store.trials.add_events(token, trial.id, many) == 500
    assert db.count(tables.playback_event) == 500


def test_check_8_votes_events_and_audit_reject_every_change(db):
    db.finish(db.join())
    for table in tables.APPEND_ONLY:
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET {UPDATES[table]}"):
            if table == "exclusion":
                db.store.studies.exclude("tiny", "participant", any_participant(db), "why", "me")
            with pytest.raises(DBAPIError, match="append-only"), db.store.database.write() as c:
                c.execute(text(statement))
    with pytest.raises(DBAPIError, match="frozen"), db.store.database.write() as c:
        c.execute(text("UPDATE study SET definition_yaml = ''"))


UPDATES = {
    "vote": "choice = 'B'",
    "playback_event": "media_ms = 0",
    "exclusion": "reason = ''",
    "audit": "actor = ''",
}


def any_participant(db) -> str:
    with db.store.database.read() as connection:
        return connection.scalar(select(tables.participant.c.id).limit(1))


def tamper(db, *statements: str) -> list[str]:
    """Change rows as somebody with the file in hand could, and see what `verify` says."""
    drop = "DROP TRIGGER {0}_no_update; DROP TRIGGER {0}_no_delete"
    if not db.store.database.is_sqlite:
        drop = "DROP TRIGGER {0}_append_only ON {0}"
    with db.store.database.write() as connection:
        for table in ("vote", "audit"):
            for statement in drop.format(table).split(";"):
                connection.execute(text(statement))
        for statement in statements:
            connection.execute(text(statement))
    return db.store.studies.verify("tiny")


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE vote SET rt_ms = 1 WHERE id = 2", "vote of trial .* was changed"),
        ("DELETE FROM vote WHERE id = 2", "vote of trial .* is gone"),
        ("UPDATE audit SET actor = 'x' WHERE seq = 3", "audit row 3 was changed"),
        ("DELETE FROM audit WHERE seq = 3", "audit row 3 is missing"),
        ("UPDATE pair_counter SET n_assigned = 9 WHERE pair_id = 1", "counters of pair 1"),
    ],
)
def test_check_8_tampering_is_located(db, statement, found):
    db.finish(db.join())
    words = tamper(db, statement)
    assert re.match(found, words[0]) and len(words) <= 2  # a sealed vote speaks up for its seal


def test_check_3_no_pair_gets_more_than_its_target_from_many_at_once(db):
    """Eight people at once on two stores: 24 votes are wanted, nothing is given twice."""
    stores = [db.store, db.again()]
    tokens = [db.join() for _ in range(8)]

    def work(number):
        trials, token = stores[number % 2].trials, tokens[number]
        with suppress(Conflict):
            trial = trials.next(token)
            while not isinstance(trial, Finished):
                key = str(uuid4())
                for _ in range(2):
                    following = trials.vote(token, trial.id, key, ballot())
                trial = following

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert db.store.studies.verify("tiny") == []
    main = select(tables.pair.c.id).where(tables.pair.c.kind == "main")
    with db.store.database.read() as connection:
        rows = connection.execute(
            select(tables.pair_counter).where(tables.pair_counter.c.pair_id.in_(main))
        ).all()
    assert all(row.n_assigned == row.n_valid == 4 for row in rows)
    assert all(row.n_lo_on_a == 2 for row in rows)


def test_a_study_that_has_all_its_votes_says_so(db):
    with suppress(Conflict):
        for _ in range(10):
            db.finish(db.join())
    with pytest.raises(Conflict, match="all the answers") as caught:
        db.join()
    assert caught.value.code == "full"


def test_leases_that_run_out_go_to_others(db):
    waiting = db.join()
    db.answer(waiting, db.store.trials.next(waiting))
    assert db.count(tables.trial, tables.trial.c.state == "assigned") == 1
    db.clock.pass_(20 * 60)
    db.store.trials.next(db.join())
    assert db.count(tables.trial, tables.trial.c.state == "expired") == 1
    assert db.store.studies.verify("tiny") == []


def test_a_withdrawn_person_is_forgotten_and_their_votes_count_no_more(db):
    token, other = db.join(), db.join()
    db.finish(token)
    db.finish(other)
    db.store.people.withdraw(token)
    with pytest.raises(Gone, match="withdrawn"):
        db.store.people.info(token)
    assert db.store.studies.verify("tiny") == []
    with db.store.database.read() as connection:
        rows = connection.execute(
            select(tables.participant).where(tables.participant.c.status == "withdrawn")
        ).all()
        valid = connection.scalar(select(func.sum(tables.pair_counter.c.n_valid)))
    assert len(rows) == 1
    assert rows[0].net_hmac is rows[0].questionnaire is rows[0].external_hmac is None
    assert valid == 6  # the other's: practice, four main trials, one check
    assert db.count(tables.vote) == 12  # rows stay


def test_what_is_kept_for_a_time_only_is_deleted(db):
    db.join()
    db.clock.pass_(days=15)
    db.join()
    done = db.store.people.forget()
    assert done == {"network hashes": 1, "rate counts": 1, "sessions": 1}


def test_an_expired_session_is_gone(db):
    token = db.join()
    db.clock.pass_(days=8)
    with pytest.raises(Gone, match="expired"):
        db.store.trials.next(token)


def test_consent_is_needed_in_its_present_version(db):
    with pytest.raises(Forbidden, match="nothing was stored"):
        db.join(accepted=False)
    with pytest.raises(Conflict, match="present version is '1'"):
        db.join(consent_version="0")
    with pytest.raises(NotFound):
        db.store.people.join("unknown", CONSENT)
    assert db.count(tables.participant) == 0


def test_check_23_rate_limits_hold_across_processes(db):
    limited = dataclasses.replace(db.settings, joins_per_day=3, trials_per_minute=2)
    stores = [Store(limited, db.clock) for _ in range(2)]
    tokens = [stores[i % 2].people.join("tiny", CONSENT)[0] for i in range(3)]
    with pytest.raises(TooMany) as caught:
        stores[1].people.join("tiny", CONSENT)
    assert 0 < caught.value.retry_after <= 86_400
    stores[1].people.join("tiny", dataclasses.replace(CONSENT, network="198.51.100.1"))
    for store in stores:
        store.trials.next(tokens[0])
    with pytest.raises(TooMany):
        stores[0].trials.next(tokens[0])
    db.clock.pass_(60)
    stores[0].trials.next(tokens[0])


def test_tokens_are_of_one_trial_and_one_person(db):
    token, other = db.join(), db.join()
    trial, foreign = db.store.trials.next(token), db.store.trials.next(other)
    clips = {db.store.trials.clip(token, t) for t in (trial.token_a, trial.token_b)}
    assert len(clips) == 2 and all(path.is_file() for path in clips)
    for stolen in (foreign.token_a, "0" * 32, ""):
        with pytest.raises(NotFound, match="no such clip"):
            db.store.trials.clip(token, stolen)
    db.answer(token, trial)
    with pytest.raises(NotFound, match="no such clip"):
        db.store.trials.clip(token, trial.token_a)


def test_nothing_that_could_name_a_person_is_in_the_database(db):
    db.join(external_id="PROLIFIC-5f3", network="203.0.113.77")
    with db.store.database.read() as connection:
        for table in tables.metadata.sorted_tables:
            for row in connection.execute(select(table)):
                assert "203.0.113" not in str(row) and "PROLIFIC" not in str(row)


def test_an_external_id_takes_part_once(db, tmp_path):
    study = write_study(
        tmp_path / "ids", prompts=1, slug="recruited", recruitment={"source": "prolific"}
    )
    build_study(study, build_folder(db.settings.data_dir, study.definition))
    db.store.studies.open(study, "tester")
    joining = dataclasses.replace(CONSENT, external_id="5f3")
    db.store.people.join("recruited", joining)
    with pytest.raises(Conflict, match="took part before"):
        db.store.people.join("recruited", joining)
    with pytest.raises(Unprocessable, match="an id is needed"):
        db.store.people.join("recruited", CONSENT)


def test_a_required_headphone_check_comes_first_and_can_be_failed_twice(db, tmp_path, monkeypatch):
    study = write_study(
        tmp_path / "heads",
        prompts=2,
        slug="screened",
        screening={"headphones": "hp", "required": True},
        recruitment={"screenout_code_env": "SCREENOUT_CODE"},
    )
    build_study(study, build_folder(db.settings.data_dir, study.definition))
    db.store.studies.open(study, "tester")
    monkeypatch.setenv("SCREENOUT_CODE", "C0DE")
    people, trials = db.store.people, db.store.trials
    passing, failing = (people.join("screened", CONSENT)[0] for _ in range(2))
    with pytest.raises(Conflict, match="headphone check"):
        trials.next(passing)
    with pytest.raises(Unprocessable, match="kind is 'ap'; the headphone check here is 'hp'"):
        people.screen(passing, "ap", 1.0)
    with pytest.raises(Conflict, match="headphone check"):
        trials.next(passing)
    assert people.screen(passing, "hp", 1.0)["passed"]
    assert trials.next(passing).answered == 0
    assert people.screen(failing, "hp", 0.5)["attempts_left"] == 1
    assert people.screen(failing, "hp", 0.5) == {
        "passed": False, "attempts_left": 0, "screened_out": True, "code": "C0DE",
    }  # fmt: skip
    assert trials.next(failing) == Finished("C0DE")
    with pytest.raises(Conflict, match="nothing to repeat"):
        people.screen(failing, "hp", 1.0)


def test_a_version_opens_once_and_one_version_runs_at_a_time(db, tmp_path):
    with pytest.raises(Conflict, match="needs a new version"):
        db.store.studies.open(db.study, "tester")
    second = write_study(tmp_path / "second", prompts=1, version=2)
    build_study(second, build_folder(db.settings.data_dir, second.definition))
    with pytest.raises(Conflict, match="still runs"):
        db.store.studies.open(second, "tester")
    db.store.studies.move("tiny", "closed", "tester")
    db.store.studies.open(second, "tester")
    assert [row["status"] for row in db.store.studies.list()] == ["open", "closed"]


def test_a_study_opens_only_as_it_was_built(db, tmp_path):
    changed = write_study(tmp_path / "changed", prompts=1, version=2, title="Another")
    with pytest.raises(BuildError, match="run `python -m ttmpref study build` first"):
        db.store.studies.open(changed, "tester")
    build_study(changed, build_folder(db.settings.data_dir, changed.definition))
    again = write_study(tmp_path / "changed", prompts=1, version=2, title="A third")
    with pytest.raises(BuildError, match="from another definition"):
        db.store.studies.open(again, "tester")


def test_faults_of_a_build_need_a_reason(db, tmp_path):
    faulty = write_study(tmp_path / "faulty", slug="faulty", prompts=1,
                         audio={"min_seconds": 1.0, "seconds": 1.0, "sample_rate": 8000,
                                "max_target_drop_lu": 0.0, "loudness_lufs": -8})  # fmt: skip
    build_study(faulty, build_folder(db.settings.data_dir, faulty.definition))
    with pytest.raises(BuildError, match="too spiky"):
        db.store.studies.open(faulty, "tester")
    db.store.studies.open(faulty, "tester", waive="a pilot")
    assert db.count(tables.stimulus, tables.stimulus.c.qa_status == "waived") > 0


def test_check_10_the_migrated_schema_is_the_one_the_program_knows(db):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from ttmpref.study.store.engine import MIGRATIONS

    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == tables.HEAD
    with db.store.database.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.metadata) == []


def test_check_10_a_database_opens_again_unchanged(db):
    db.finish(db.join())
    with db.store.database.read() as connection:
        before = [connection.execute(select(t)).all() for t in tables.metadata.sorted_tables]
    with db.again().database.read() as connection:
        after = [connection.execute(select(t)).all() for t in tables.metadata.sorted_tables]
    assert before == after


def test_check_10_a_newer_database_is_left_alone(db):
    with db.store.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unavailable, match="newer program"):
        db.again()


def test_check_4_a_database_that_cannot_be_written_is_unavailable_and_keeps_what_it_has(
    tmp_path, built
):
    study, data = built
    shutil.copytree(data, tmp_path / "data")
    settings = settings_for(tmp_path / "data", "")
    store = Store(settings, clock := Clock())
    store.studies.open(study, "tester")
    db = Db(store, clock, study, settings)
    token = db.join()
    trial = db.answer(token, store.trials.next(token))
    key = str(uuid4())
    many = [event_ for page in range(60) for event_ in heard(client=str(page))]
    full = "PRAGMA max_page_count = 1"  # the disk is full, as far as SQLite can tell
    store.close()  # so that the next connection is the one that is limited

    def limit(connection, record):
        connection.execute(full)

    event.listen(store.database.engine, "connect", limit)
    clock.pass_(20)
    with pytest.raises(Unavailable, match="full"):
        db.answer(token, trial, key, events=many)
    event.remove(store.database.engine, "connect", limit)
    store.close()
    db.answer(token, trial, key, events=many)
    assert db.count(tables.vote) == 1 and store.studies.verify("tiny") == []


def test_sqlite_waits_for_the_disk_and_is_whole(tmp_path, built):
    _, data = built
    settings = settings_for(tmp_path, "")
    store = Store(settings)
    with store.database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    with closing(sqlite3.connect(tmp_path / "studies.sqlite3")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DATABASE_URL", "mysql://x", "scheme 'mysql'"),
        ("TTMPREF_ADMIN_TOKEN", "short", "has 5 characters"),
        ("TTMPREF_TRUSTED_PROXIES", "-1", "whole number"),
        ("TTMPREF_DATA_DIR", "/dev/null/x", "cannot be used"),
    ],
)
def test_impossible_settings_are_named(tmp_path, name, value, message):
    with pytest.raises(ConfigError, match=message):
        settings_for(tmp_path, "", **{name: value})


def test_the_secret_is_made_once_and_kept_from_others(tmp_path):
    environment = {"TTMPREF_DATA_DIR": str(tmp_path / "data")}
    first = StudySettings.from_environment(environment).secret
    assert StudySettings.from_environment(environment).secret == first and len(first) == 32
    assert (tmp_path / "data" / "secret.key").stat().st_mode & 0o077 == 0


def test_storage_that_will_not_last_is_said_and_refused(tmp_path, built, monkeypatch):
    study, _ = built
    mounts = tmp_path / "mounts"
    monkeypatch.setattr("ttmpref.study.settings.MOUNTS", mounts)
    settings = settings_for(tmp_path, "", TTMPREF_STORAGE_IS_SAFE="0")
    lines = {"tmpfs": "in memory", "nfs4": "set DATABASE_URL", "ext4": None}
    for kind, words in lines.items():
        mounts.write_text(f"disk / ext4 rw 0 0\nother {tmp_path} {kind} rw 0 0\n")
        warning = settings.storage_warning()
        assert (warning is None) if words is None else (words in warning)
    mounts.write_text("overlay / overlay rw 0 0\n")
    in_a_space = dataclasses.replace(settings, space_id="me/space")
    assert "disk of a Space" in in_a_space.storage_warning()
    with pytest.raises(Conflict, match="TTMPREF_STORAGE_IS_SAFE=1"):
        Store(in_a_space).studies.open(study, "tester")
