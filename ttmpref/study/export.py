"""A study as files: tables in three formats, events, codebook, training pairs, manifest.

Specification of listening studies, section 3.5. Derived from the database and reproducible from it:
the same votes give the same bytes, so nothing here writes the time of the export, which stands in
the folder's name alone:

    listening_results/<slug>-v<version>/<UTC>-<first 8 of the manifest's hash>/

While a study is open, systems appear under their blind codes unless somebody lifts the blind, which
the audit chain records. Withdrawn people are in no table but the list of participants, without
anything they said. What people wrote is neutralised in CSV, where a spreadsheet would run it as a
formula; JSON lines and parquet hold it raw.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from ttmpref import __version__
from ttmpref.audio import write_files
from ttmpref.study.columns import COMMENT, TABLES, Column, codebook
from ttmpref.study.definition import DEGRADED, OTHER_SCORES, REWARD
from ttmpref.study.errors import NotFound
from ttmpref.study.store.reading import Dump, Row
from ttmpref.types import OutputError, vote_target

MANIFEST = "MANIFEST.json"
MANIFEST_FORMAT = 1
DEFINITION = "study.yaml"
TRAINING_PAIRS = "pairs_for_training.jsonl"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
PACKAGES = ("pyarrow", "sqlalchemy", "pydantic")
DIGITS = 6
COVARIATES = {
    "delta_lufs": "lufs_out",
    "delta_true_peak_dbtp": "true_peak_dbtp",
    "delta_crest_db": "crest_db",
    "delta_bandwidth_hz": "bandwidth_hz",
}
ANCHORS = ("anchor_low", "anchor_high")


def export_study(dump: Dump, results: Path, unblind: bool = False) -> Path:
    """Write an export below `results`; the new folder, which is whole or not there.

    Args:
        unblind: name systems although the study may still be open.

    Raises:
        OutputError: it cannot be written.
    """
    files = export_files(dump, unblind)
    name = f"{dump.study['slug']}-v{dump.study['version']}"
    digest = hashlib.sha256(files[MANIFEST]).hexdigest()[:8]
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = results / name / f"{stamp}-{digest}"
    if folder.is_dir():  # the same files within the same second
        return folder
    aside = folder.with_name(f".{folder.name}.{uuid4().hex}.part")
    try:
        write_files({aside / file: data for file, data in files.items()})
        os.replace(aside, folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from None
    return folder


def export_files(dump: Dump, unblind: bool = False) -> dict[str, bytes]:
    """Names and contents of all files of an export, the manifest last."""
    rows = _Rows(dump, unblind)
    columns = dict(TABLES)
    if dump.definition.privacy.publish.comments:
        columns["votes"] = (*columns["votes"], COMMENT)
    tables = {
        name: [{c.name: row.get(c.name) for c in columns[name]} for row in getattr(rows, name)()]
        for name in columns
    }
    files = {DEFINITION: dump.study["definition_yaml"].encode("utf-8")}
    for name, table in tables.items():
        files[f"{name}.csv"] = to_csv(columns[name], table)
        files[f"{name}.jsonl"] = _lines(table)
        files[f"{name}.parquet"] = _parquet(columns[name], table)
    files["prompts.jsonl"] = _lines(rows.prompts())
    files["events.jsonl.gz"] = _zipped(_lines(rows.events()))
    files["music_arena.jsonl"] = _lines(rows.music_arena(tables["votes"]))
    files[TRAINING_PAIRS] = _lines(rows.pairs_for_training(tables["votes"]))
    files["codebook.md"] = codebook(columns).encode("utf-8")
    files[MANIFEST] = _manifest(dump, rows.blind, tables, files)
    return files


def find_export(results: Path, study: str, name: str) -> Path:
    """The folder of an earlier export.

    Raises:
        NotFound: there is none of that name.
    """
    folder = results / study
    for child in sorted(folder.iterdir()) if folder.is_dir() else ():
        if child.name == name and (child / MANIFEST).is_file():
            return child
    raise NotFound("there is no such export")


class _Rows:
    """The rows of every table, under blind codes or labels."""

    def __init__(self, dump: Dump, unblind: bool) -> None:
        self.dump = dump
        self.blind = dump.study["status"] in ("draft", "open", "paused") and not unblind
        code = "blind_code" if self.blind else "label"
        self.systems = {row["id"]: row[code] for row in dump.systems}
        self.roles = {row["id"]: row["role"] for row in dump.systems}
        self.order = {row["id"]: place for place, row in enumerate(dump.systems)}
        self.prompt_keys = {row["id"]: row["key"] for row in dump.prompts}
        self.texts = {row["key"]: row["text"] for row in dump.prompts}
        self.pairs = {row["id"]: row for row in dump.pairs}
        self.clips = {row["id"]: row for row in dump.stimuli}
        self.names = {row["id"]: f"s{place:05d}" for place, row in enumerate(dump.stimuli)}
        self.by_trial = {row["id"]: row for row in dump.trials}

    def votes(self) -> list[Row]:
        firsts = {
            (trial["participant_id"], trial["pair_id"]): vote["trial_id"]
            for vote in self.dump.votes
            for trial in [self.by_trial[vote["trial_id"]]]
            if trial["kind"] == "main"
        }
        excluded = {(row["scope"], row["target"]) for row in self.exclusions()}
        comments = {row["trial_id"]: row["text"] for row in self.dump.comments}
        return [self._vote(vote, firsts, excluded, comments) for vote in self.dump.votes]

    def _vote(
        self,
        vote: Row,
        firsts: Mapping[tuple[str, int], str],
        excluded: set[tuple[str, str]],
        comments: Mapping[str, str],
    ) -> Row:
        trial = self.by_trial[vote["trial_id"]]
        sides = self._sides(trial)
        first = firsts.get((trial["participant_id"], trial["pair_id"]))
        row = {
            **self._compared(trial),
            "vote_id": trial["id"],
            "answer": vote["choice"],
            "repeat_of": first if trial["kind"] == "repeat" else None,
            "expected": self._expected(trial),
            "position": trial["position"],
            "block": trial["block"],
            "seconds": vote["rt_ms"] / 1000,
            "answered_at": _iso(vote["server_ts"]),
            "excluded": ("participant", trial["participant_id"]) in excluded
            or ("trial", trial["id"]) in excluded,
            "tags": ";".join(json.loads(vote["tags"])),
            "comment": comments.get(trial["id"]),
            **{
                name: round(sides[0][column] - sides[1][column], DIGITS)
                for name, column in COVARIATES.items()
            },
        }
        return {**vote, **row}

    def _sides(self, trial: Row) -> tuple[Row, Row]:
        """Stimuli A and B of a trial."""
        pair = self.pairs[trial["pair_id"]]
        lo, hi = self.clips[pair["stim_lo"]], self.clips[pair["stim_hi"]]
        return (lo, hi) if trial["a_is_lo"] else (hi, lo)

    def _compared(self, trial: Row) -> Row:
        """What a trial and its vote have in common."""
        a, b = self._sides(trial)
        anchored = {self.roles[clip["system_id"]] for clip in (a, b)} & set(ANCHORS)
        return {
            "rater": trial["participant_id"],
            "prompt": self.prompt_keys[a["prompt_id"]],
            "system_a": self.systems[a["system_id"]],
            "system_b": self.systems[b["system_id"]],
            "stimulus_a": self.names[a["id"]],
            "stimulus_b": self.names[b["id"]],
            "kind": "anchor" if anchored and trial["kind"] == "main" else trial["kind"],
            "first_on_a": trial["a_is_lo"],
            "assign_probability": round(trial["assign_prob"], DIGITS),
            "side_probability": round(trial["side_prob"], DIGITS),
        }

    def _expected(self, trial: Row) -> str | None:
        expected = self.pairs[trial["pair_id"]]["expected"]
        if expected is None or trial["kind"] != "attention":
            return None
        return "A" if (expected == "lo") == trial["a_is_lo"] else "B"

    def trials(self) -> list[Row]:
        return [
            {
                "trial_id": trial["id"],
                **self._compared(trial),
                "position": trial["position"],
                "attempt": trial["attempt"],
                "state": trial["state"],
                "assigned_at": _iso(trial["assigned_at"]),
                "presented_at": _iso(trial["presented_at"]),
                "answered_at": _iso(trial["answered_at"]),
            }
            for trial in self.dump.trials
            if trial["state"] != "invalid"
        ]

    def participants(self) -> list[Row]:
        counts = Counter(self.by_trial[v["trial_id"]]["participant_id"] for v in self.dump.votes)
        return [
            {
                "rater": person["id"],
                "source": person["source"],
                "status": person["status"],
                "consent_version": person["consent_version"],
                "locale": person["locale"],
                "device_class": person["device_class"],
                "joined_on": _iso(person["created_at"])[:10],
                "votes": counts[person["id"]],
                **_questionnaire(person["questionnaire"]),
            }
            for person in self.dump.participants
        ]

    def stimuli(self) -> list[Row]:
        ranker = self.dump.definition.ranker
        scores: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for score in self.dump.scores:
            kind = REWARD if score["scorer"] == ranker.name else score["scorer"]
            scores[score["stimulus_id"]][kind] = score["score"]
        return [
            {
                **clip,
                "stimulus": self.names[clip["id"]],
                "system": self.systems[clip["system_id"]],
                "prompt": self.prompt_keys[clip["prompt_id"]],
                "clip": _clip_name(clip),
                "source_sha256": None if self.blind else clip["source_sha256"],
                "stage": None if self.blind else self.order[clip["system_id"]],
                **{kind: scores[clip["id"]].get(kind) for kind in (REWARD, *OTHER_SCORES)},
            }
            for clip in self.dump.stimuli
        ]

    def exclusions(self) -> list[Row]:
        """What an operator excluded, then whom the rules of the definition exclude."""
        manual = [
            {
                "scope": row["scope"],
                "target": row["target"],
                "rule": row["rule"],
                "preregistered": row["preregistered"],
                "reason": row["reason"],
                "at": _iso(row["at"]),
            }
            for row in self.dump.exclusions
        ]
        return manual + self._by_rule()

    def _by_rule(self) -> list[Row]:
        """People who break a rule, whoever was excluded by hand."""
        if not self.dump.votes:
            return []
        import pandas as pd

        from ttmpref.study.agreement import quality
        from ttmpref.study.votes import Votes

        rows = [self._vote(vote, {}, set(), {}) for vote in self.dump.votes]
        votes = Votes.from_frame(pd.DataFrame(rows))
        return [
            {
                "scope": "participant",
                "target": one.rater,
                "rule": rule,
                "preregistered": True,
                "reason": "a rule of the definition",
                "at": None,
            }
            for one in quality(votes, self.dump.definition.exclusion)
            for rule in one.broken
        ]

    def prompts(self) -> list[Row]:
        return [
            {
                "id": row["key"],
                "text": row["text"],
                "source": row["source"],
                "licence": row["licence"],
                "tags": json.loads(row["tags"]),
            }
            for row in self.dump.prompts
        ]

    def events(self) -> list[Row]:
        counted = {vote["trial_id"] for vote in self.dump.votes}
        return [event for event in self.dump.events if event["trial_id"] in counted]

    def ranker_scores(self) -> list[Row]:
        return [
            {
                "stimulus": self.names[score["stimulus_id"]],
                "scorer": score["scorer"],
                "scorer_sha256": score["scorer_sha256"],
                "score": score["score"],
            }
            for score in self.dump.scores
        ]

    def music_arena(self, votes: Sequence[Row]) -> list[Row]:
        """Main votes under the column names of the public Music Arena data."""
        audio = self.dump.definition.audio
        seconds = audio.duration_ms / 1000
        return [
            {
                "battle_uuid": vote["vote_id"],
                "date": vote["answered_at"][:10],
                "prompt": self.texts[vote["prompt"]],
                "is_instrumental": None,
                "is_prebaked": True,
                "user_pseudonym": vote["rater"],
                "audio_a": self._file(vote["stimulus_a"]),
                "system_a": vote["system_a"],
                "audio_b": self._file(vote["stimulus_b"]),
                "system_b": vote["system_b"],
                "preference": vote["answer"],
                "total_listening_time_a": vote["heard_a_ms"] / 1000,
                "total_listening_time_b": vote["heard_b_ms"] / 1000,
                "feedback": vote.get("comment"),
                "timestamp": vote["answered_at"],
                "duration_a": seconds,
                "duration_b": seconds,
                "sample_rate_a": audio.sample_rate,
                "sample_rate_b": audio.sample_rate,
            }
            for vote in _usable(votes)
        ]

    def pairs_for_training(self, votes: Sequence[Row]) -> list[Row]:
        """Main votes as `training ranker` reads them, BOTH_BAD left out by the one rule for it.

        Clips are named below the build folder.
        """
        return [
            {
                "id": vote["vote_id"],
                "clip_a": self._file(vote["stimulus_a"]),
                "clip_b": self._file(vote["stimulus_b"]),
                "vote": vote["answer"],
                "prompt": self.texts[vote["prompt"]],
                "source": f"{self.dump.study['slug']}-v{self.dump.study['version']}",
                "system_a": vote["system_a"],
                "system_b": vote["system_b"],
            }
            for vote in _usable(votes)
            if vote_target(vote["answer"]) is not None
            and self._file(vote["stimulus_a"]) != self._file(vote["stimulus_b"])
        ]

    def _file(self, stimulus: str) -> str:
        return _clip_name(self.dump.stimuli[int(stimulus[1:])])


def _usable(votes: Iterable[Row]) -> list[Row]:
    """Main votes that nothing excludes."""
    return [vote for vote in votes if vote["kind"] == "main" and not vote["excluded"]]


def _clip_name(clip: Row) -> str:
    return f"clips/{clip['delivered_sha256']}.wav"


def _questionnaire(text: str | None) -> Row:
    answers = json.loads(text) if text else {}
    return {name: answers.get(name) for name in ("age_band", "device", "hearing", "training")}


def _iso(microseconds: int | None) -> str | None:
    if microseconds is None:
        return None
    seconds, rest = divmod(microseconds, 1_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{rest:06d}Z"


def to_csv(columns: Sequence[Column], rows: Iterable[Row]) -> bytes:
    """CSV in UTF-8 with one header line; cells that a spreadsheet would run are quoted for it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for row in rows:
        writer.writerow([_cell(column, row.get(column.name)) for column in columns])
    return buffer.getvalue().encode("utf-8")


def _cell(column: Column, value: Any) -> str:
    if value is None:
        return ""
    if column.type == "flag":
        return "true" if value else "false"
    if column.type == "number":
        return repr(float(value))
    text = str(value)
    dangerous = column.type == "text" and text.startswith(FORMULA_STARTS)
    return f"'{text}" if dangerous else text


def _lines(rows: Iterable[Row]) -> bytes:
    """JSON lines in UTF-8."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def _zipped(data: bytes) -> bytes:
    """gzip without a time stamp, so that the same data give the same bytes."""
    return gzip.compress(data, mtime=0)


def _parquet(columns: Sequence[Column], rows: Sequence[Row]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "flag": pa.bool_()}
    table = pa.table(
        {
            c.name: pa.array([row.get(c.name) for row in rows], kinds[c.type], from_pandas=False)
            for c in columns
        }
    )
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _manifest(
    dump: Dump, blind: bool, tables: Mapping[str, Sequence[Row]], files: Mapping[str, bytes]
) -> bytes:
    """What the export holds and where it comes from; nothing that changes when it is repeated."""
    study = dump.study
    manifest = {
        "format": MANIFEST_FORMAT,
        "study": study["slug"],
        "version": study["version"],
        "status": study["status"],
        "blind": blind,
        "definition_sha256": study["definition_sha256"],
        "build_sha256": study["build_sha256"],
        "audit_head": dump.audit_head,
        "assignment": study["assign_algo"],
        "opened_with": study["app_version"],
        "exported_with": {"ttmpref": __version__, **{name: version(name) for name in PACKAGES}},
        "counts": {name: len(rows) for name, rows in tables.items()},
        "withdrawn": sum(person["status"] == "withdrawn" for person in dump.participants),
        "degraded_system": DEGRADED,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in sorted(files.items())
        },
    }
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode("utf-8")
