"""Tables of the study database, the same on SQLite and PostgreSQL.

Specification of listening studies, section 3.2. Times are whole microseconds of UTC since 1970,
public ids are random text, JSON is canonical text so that it hashes alike everywhere. What changes
here needs a migration: a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from ttmpref.types import VOTES

HEAD = "0001"  # newest migration
STATUSES = ("draft", "open", "paused", "closed", "archived")
PARTICIPANT_STATUSES = ("consented", "active", "completed", "screened_out", "withdrawn")
TRIAL_STATES = ("assigned", "presented", "answered", "expired", "invalid")
TRIAL_KINDS = ("practice", "main", "attention", "repeat")
CHOSEN = ("lo", "hi", "tie", "both_bad")
QA_STATUSES = ("pass", "waived")
EXCLUSION_SCOPES = ("participant", "trial")
APPEND_ONLY = ("vote", "playback_event", "exclusion", "audit")
FROZEN_COLUMNS = ("slug", "version", "definition_yaml", "definition_json", "definition_sha256",
                  "build_sha256", "seed")  # fmt: skip

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers INTEGER keys by itself
Digest = String(64)  # SHA-256 in hexadecimal
RandomId = String(32)  # 128 random bits in hexadecimal


def _one_of(column: str, words: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _of_study() -> Column:
    return Column("study_id", Integer, ForeignKey("study.id"), nullable=False)


study = Table(
    "study",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("slug", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("title", Text, nullable=False),
    Column("status", String(10), nullable=False),
    Column("definition_yaml", Text, nullable=False),
    Column("definition_json", Text, nullable=False),
    Column("definition_sha256", Digest, nullable=False),
    Column("build_sha256", Digest, nullable=False),
    Column("leaks", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("assign_algo", String(40), nullable=False),
    Column("consent_version", String(40), nullable=False),
    Column("app_version", String(40), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("opened_at", BigInteger),
    Column("closed_at", BigInteger),
    UniqueConstraint("slug", "version"),
    _one_of("status", STATUSES),
)

system = Table(
    "system",
    metadata,
    Column("id", Integer, primary_key=True),
    _of_study(),
    Column("label", String(40), nullable=False),
    Column("blind_code", String(40), nullable=False),
    Column("role", String(20), nullable=False),
    Column("source", Text, nullable=False),
    UniqueConstraint("study_id", "label"),
    UniqueConstraint("study_id", "blind_code"),
)

prompt = Table(
    "prompt",
    metadata,
    Column("id", Integer, primary_key=True),
    _of_study(),
    Column("key", String(64), nullable=False),
    Column("text", Text, nullable=False),
    Column("text_sha256", Digest, nullable=False),
    Column("source", Text, nullable=False),
    Column("licence", Text, nullable=False),
    Column("tags", Text, nullable=False),
    UniqueConstraint("study_id", "key"),
    UniqueConstraint("study_id", "text_sha256"),
)

stimulus = Table(
    "stimulus",
    metadata,
    Column("id", Integer, primary_key=True),
    _of_study(),
    Column("system_id", Integer, ForeignKey("system.id"), nullable=False),
    Column("prompt_id", Integer, ForeignKey("prompt.id"), nullable=False),
    Column("take", Integer, nullable=False),
    Column("source_sha256", Digest, nullable=False),
    Column("delivered_sha256", Digest, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("duration_ms", Double, nullable=False),
    Column("sample_rate", Integer, nullable=False),
    Column("channels", Integer, nullable=False),
    Column("lufs_in", Double, nullable=False),
    Column("lufs_out", Double, nullable=False),
    Column("target_lufs", Double, nullable=False),
    Column("gain_db", Double, nullable=False),
    Column("true_peak_dbtp", Double, nullable=False),
    Column("crest_db", Double, nullable=False),
    Column("dc", Double, nullable=False),
    Column("lead_ms", Double, nullable=False),
    Column("tail_ms", Double, nullable=False),
    Column("music_ms", Double, nullable=False),
    Column("bandwidth_hz", Double, nullable=False),
    Column("qa", Text, nullable=False),
    Column("qa_status", String(10), nullable=False),
    UniqueConstraint("study_id", "system_id", "prompt_id", "take"),
    CheckConstraint("duration_ms > 0", name="duration"),
    CheckConstraint("true_peak_dbtp <= 0 OR qa_status <> 'pass'", name="peak"),
    _one_of("qa_status", QA_STATUSES),
)

ranker_score = Table(
    "ranker_score",
    metadata,
    Column("stimulus_id", Integer, ForeignKey("stimulus.id"), primary_key=True),
    Column("scorer", String(40), primary_key=True),
    Column("scorer_sha256", Digest, primary_key=True),
    Column("score", Double, nullable=False),
    Column("at", BigInteger, nullable=False),
    CheckConstraint("abs(score) < 1e30", name="finite"),
)

pair = Table(
    "pair",
    metadata,
    Column("id", Integer, primary_key=True),
    _of_study(),
    Column("prompt_id", Integer, ForeignKey("prompt.id"), nullable=False),
    Column("stim_lo", Integer, ForeignKey("stimulus.id"), nullable=False),
    Column("stim_hi", Integer, ForeignKey("stimulus.id"), nullable=False),
    Column("kind", String(10), nullable=False),
    Column("expected", String(10)),
    Column("target", Integer, nullable=False),
    UniqueConstraint("study_id", "stim_lo", "stim_hi", "kind"),
    CheckConstraint("stim_lo < stim_hi", name="order"),
    _one_of("kind", ("main", "attention", "practice")),
    _one_of("expected", ("lo", "hi")),
)

pair_counter = Table(
    "pair_counter",
    metadata,
    Column("pair_id", Integer, ForeignKey("pair.id"), primary_key=True),
    _of_study(),
    Column("n_assigned", Integer, nullable=False),
    Column("n_lo_on_a", Integer, nullable=False),
    Column("n_valid", Integer, nullable=False),
    CheckConstraint("n_valid >= 0 AND n_valid <= n_assigned", name="valid"),
    CheckConstraint("n_lo_on_a >= 0 AND n_lo_on_a <= n_assigned", name="sides"),
    Index(None, "study_id"),
)

participant = Table(
    "participant",
    metadata,
    Column("id", RandomId, primary_key=True),
    _of_study(),
    Column("source", String(20), nullable=False),
    Column("external_hmac", LargeBinary(32)),
    Column("consent_version", String(40), nullable=False),
    Column("consent_at", BigInteger, nullable=False),
    Column("locale", String(10), nullable=False),
    Column("rng_seed", BigInteger, nullable=False),
    Column("status", String(20), nullable=False),
    Column("questionnaire", Text),
    Column("net_hmac", LargeBinary(32)),
    Column("device_class", String(20)),
    Column("created_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger, nullable=False),
    Column("completed_at", BigInteger),
    UniqueConstraint("study_id", "source", "external_hmac"),
    _one_of("status", PARTICIPANT_STATUSES),
    Index(None, "study_id", "status"),
)

session = Table(
    "session",
    metadata,
    Column("id", RandomId, primary_key=True),
    Column("participant_id", RandomId, ForeignKey("participant.id"), nullable=False),
    Column("token_sha256", LargeBinary(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("client", Text),
    UniqueConstraint("token_sha256"),
)

screening = Table(
    "screening",
    metadata,
    Column("participant_id", RandomId, ForeignKey("participant.id"), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("score", Double, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("at", BigInteger, nullable=False),
)

trial = Table(
    "trial",
    metadata,
    Column("id", RandomId, primary_key=True),
    _of_study(),
    Column("participant_id", RandomId, ForeignKey("participant.id"), nullable=False),
    Column("pair_id", Integer, ForeignKey("pair.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", String(10), nullable=False),
    Column("repetition", Integer, nullable=False),
    Column("a_is_lo", Boolean, nullable=False),
    Column("assign_prob", Double, nullable=False),
    Column("side_prob", Double, nullable=False),
    Column("block", Integer, nullable=False),
    Column("state", String(10), nullable=False),
    Column("token_a", RandomId, nullable=False),
    Column("token_b", RandomId, nullable=False),
    Column("assigned_at", BigInteger, nullable=False),
    Column("presented_at", BigInteger),
    Column("answered_at", BigInteger),
    Column("lease_expires_at", BigInteger, nullable=False),
    UniqueConstraint("participant_id", "position", "attempt"),
    UniqueConstraint("participant_id", "pair_id", "repetition"),
    UniqueConstraint("token_a"),
    UniqueConstraint("token_b"),
    _one_of("state", TRIAL_STATES),
    _one_of("kind", TRIAL_KINDS),
    Index(None, "study_id", "state", "lease_expires_at"),
)

vote = Table(
    "vote",
    metadata,
    Column("id", Serial, primary_key=True),
    _of_study(),
    Column("trial_id", RandomId, ForeignKey("trial.id"), nullable=False),
    Column("idempotency_key", String(36), nullable=False),
    Column("payload_sha256", Digest, nullable=False),
    Column("choice", String(10), nullable=False),
    Column("grade", Integer),
    Column("chosen", String(10), nullable=False),
    Column("confidence", Integer),
    Column("tags", Text, nullable=False),
    Column("rt_ms", Integer, nullable=False),
    Column("heard_a_ms", Integer, nullable=False),
    Column("heard_b_ms", Integer, nullable=False),
    Column("cover_a", Double, nullable=False),
    Column("cover_b", Double, nullable=False),
    Column("switches", Integer, nullable=False),
    Column("hidden_ms", BigInteger, nullable=False),
    Column("client_ts", String(40)),
    Column("server_ts", BigInteger, nullable=False),
    Column("row_hash", Digest, nullable=False),
    UniqueConstraint("trial_id"),
    UniqueConstraint("idempotency_key"),
    _one_of("choice", VOTES),
    _one_of("chosen", CHOSEN),
    CheckConstraint("cover_a >= 0 AND cover_a <= 1 AND cover_b >= 0 AND cover_b <= 1",
                    name="cover"),
    CheckConstraint("grade BETWEEN -3 AND 3", name="grade"),
    Index(None, "study_id"),
)  # fmt: skip

# Free text is personal: it lives apart from the vote, so that it can be deleted while votes cannot.
comment = Table(
    "comment",
    metadata,
    Column("trial_id", RandomId, ForeignKey("trial.id"), primary_key=True),
    Column("text", Text, nullable=False),
)

playback_event = Table(
    "playback_event",
    metadata,
    Column("trial_id", RandomId, ForeignKey("trial.id"), primary_key=True),
    Column("client", String(36), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("side", String(4), nullable=False),
    Column("kind", String(12), nullable=False),
    Column("media_ms", Double, nullable=False),
    Column("mono_ms", Double, nullable=False),
    Column("server_ts", BigInteger, nullable=False),
)

exclusion = Table(
    "exclusion",
    metadata,
    Column("id", Serial, primary_key=True),
    _of_study(),
    Column("scope", String(12), nullable=False),
    Column("target", RandomId, nullable=False),
    Column("rule", String(40), nullable=False),
    Column("preregistered", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", String(40), nullable=False),
    Column("at", BigInteger, nullable=False),
    _one_of("scope", EXCLUSION_SCOPES),
    Index(None, "study_id"),
)

audit = Table(
    "audit",
    metadata,
    Column("study_id", Integer, ForeignKey("study.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", String(40), nullable=False),
    Column("action", String(20), nullable=False),
    Column("object", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("prev_hash", Digest, nullable=False),
    Column("row_hash", Digest, nullable=False),
)

rate_bucket = Table(
    "rate_bucket",
    metadata,
    Column("key_hmac", LargeBinary(32), primary_key=True),
    Column("window_start", BigInteger, primary_key=True),
    Column("count", Integer, nullable=False),
)
