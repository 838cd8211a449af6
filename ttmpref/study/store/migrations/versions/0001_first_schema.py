"""The first schema: all tables, and triggers that keep what must never change.

Frozen: later changes are later migrations.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

APPEND_ONLY = ("vote", "playback_event", "exclusion", "audit")
FROZEN = (
    "slug", "version", "definition_yaml", "definition_json", "definition_sha256", "build_sha256",
    "seed",
)  # fmt: skip


def upgrade() -> None:
    _create_tables()
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in _sqlite_triggers() if sqlite else _postgresql_triggers():
        op.execute(sa.text(statement))


def _sqlite_triggers():
    for table in APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            yield (
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    yield (
        f"CREATE TRIGGER study_frozen BEFORE UPDATE OF {', '.join(FROZEN)} ON study "
        "WHEN OLD.status <> 'draft' "
        "BEGIN SELECT RAISE(ABORT, 'the definition of an opened study is frozen'); END"
    )


def _postgresql_triggers():
    yield (
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '%', TG_ARGV[0]; END $$"
    )
    for table in APPEND_ONLY:
        yield (
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            f"EXECUTE FUNCTION refuse_change('{table} is append-only')"
        )
    yield (
        f"CREATE TRIGGER study_frozen BEFORE UPDATE OF {', '.join(FROZEN)} ON study "
        "FOR EACH ROW WHEN (OLD.status <> 'draft') "
        "EXECUTE FUNCTION refuse_change('the definition of an opened study is frozen')"
    )


def _create_tables() -> None:
    op.create_table(
        "rate_bucket",
        sa.Column("key_hmac", sa.LargeBinary(length=32), nullable=False),
        sa.Column("window_start", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key_hmac", "window_start", name="pk_rate_bucket"),
    )
    op.create_table(
        "study",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("slug", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("definition_yaml", sa.Text(), nullable=False),
        sa.Column("definition_json", sa.Text(), nullable=False),
        sa.Column("definition_sha256", sa.String(length=64), nullable=False),
        sa.Column("build_sha256", sa.String(length=64), nullable=False),
        sa.Column("leaks", sa.Text(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("assign_algo", sa.String(length=40), nullable=False),
        sa.Column("consent_version", sa.String(length=40), nullable=False),
        sa.Column("app_version", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=True),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "status IN ('draft', 'open', 'paused', 'closed', 'archived')", name="ck_study_status"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_study"),
        sa.UniqueConstraint("slug", "version", name="uq_study_slug_version"),
    )
    op.create_table(
        "audit",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=40), nullable=False),
        sa.Column("action", sa.String(length=20), nullable=False),
        sa.Column("object", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=False),
        sa.Column("row_hash", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_audit_study_id"),
        sa.PrimaryKeyConstraint("study_id", "seq", name="pk_audit"),
    )
    op.create_table(
        "exclusion",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("scope", sa.String(length=12), nullable=False),
        sa.Column("target", sa.String(length=32), nullable=False),
        sa.Column("rule", sa.String(length=40), nullable=False),
        sa.Column("preregistered", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(length=40), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("scope IN ('participant', 'trial')", name="ck_exclusion_scope"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_exclusion_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_exclusion"),
    )
    op.create_index("ix_exclusion_study_id", "exclusion", ["study_id"])
    op.create_table(
        "participant",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=20), nullable=False),
        sa.Column("external_hmac", sa.LargeBinary(length=32), nullable=True),
        sa.Column("consent_version", sa.String(length=40), nullable=False),
        sa.Column("consent_at", sa.BigInteger(), nullable=False),
        sa.Column("locale", sa.String(length=10), nullable=False),
        sa.Column("rng_seed", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("questionnaire", sa.Text(), nullable=True),
        sa.Column("net_hmac", sa.LargeBinary(length=32), nullable=True),
        sa.Column("device_class", sa.String(length=20), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "status IN ('consented', 'active', 'completed', 'screened_out', 'withdrawn')",
            name="ck_participant_status",
        ),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_participant_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_participant"),
        sa.UniqueConstraint(
            "study_id",
            "source",
            "external_hmac",
            name="uq_participant_study_id_source_external_hmac",
        ),
    )
    op.create_index("ix_participant_study_id_status", "participant", ["study_id", "status"])
    op.create_table(
        "prompt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("text_sha256", sa.String(length=64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_prompt_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_prompt"),
        sa.UniqueConstraint("study_id", "key", name="uq_prompt_study_id_key"),
        sa.UniqueConstraint("study_id", "text_sha256", name="uq_prompt_study_id_text_sha256"),
    )
    op.create_table(
        "system",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(length=40), nullable=False),
        sa.Column("blind_code", sa.String(length=40), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_system_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_system"),
        sa.UniqueConstraint("study_id", "blind_code", name="uq_system_study_id_blind_code"),
        sa.UniqueConstraint("study_id", "label", name="uq_system_study_id_label"),
    )
    op.create_table(
        "screening",
        sa.Column("participant_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["participant_id"], ["participant.id"], name="fk_screening_participant_id"
        ),
        sa.PrimaryKeyConstraint("participant_id", "kind", "attempt", name="pk_screening"),
    )
    op.create_table(
        "session",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("participant_id", sa.String(length=32), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("client", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["participant_id"], ["participant.id"], name="fk_session_participant_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_session"),
        sa.UniqueConstraint("token_sha256", name="uq_session_token_sha256"),
    )
    op.create_table(
        "stimulus",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("system_id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("take", sa.Integer(), nullable=False),
        sa.Column("source_sha256", sa.String(length=64), nullable=False),
        sa.Column("delivered_sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("duration_ms", sa.Double(), nullable=False),
        sa.Column("sample_rate", sa.Integer(), nullable=False),
        sa.Column("channels", sa.Integer(), nullable=False),
        sa.Column("lufs_in", sa.Double(), nullable=False),
        sa.Column("lufs_out", sa.Double(), nullable=False),
        sa.Column("target_lufs", sa.Double(), nullable=False),
        sa.Column("gain_db", sa.Double(), nullable=False),
        sa.Column("true_peak_dbtp", sa.Double(), nullable=False),
        sa.Column("crest_db", sa.Double(), nullable=False),
        sa.Column("dc", sa.Double(), nullable=False),
        sa.Column("lead_ms", sa.Double(), nullable=False),
        sa.Column("tail_ms", sa.Double(), nullable=False),
        sa.Column("music_ms", sa.Double(), nullable=False),
        sa.Column("bandwidth_hz", sa.Double(), nullable=False),
        sa.Column("qa", sa.Text(), nullable=False),
        sa.Column("qa_status", sa.String(length=10), nullable=False),
        sa.CheckConstraint("qa_status IN ('pass', 'waived')", name="ck_stimulus_qa_status"),
        sa.CheckConstraint("true_peak_dbtp <= 0 OR qa_status <> 'pass'", name="ck_stimulus_peak"),
        sa.CheckConstraint("duration_ms > 0", name="ck_stimulus_duration"),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.id"], name="fk_stimulus_prompt_id"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_stimulus_study_id"),
        sa.ForeignKeyConstraint(["system_id"], ["system.id"], name="fk_stimulus_system_id"),
        sa.PrimaryKeyConstraint("id", name="pk_stimulus"),
        sa.UniqueConstraint(
            "study_id",
            "system_id",
            "prompt_id",
            "take",
            name="uq_stimulus_study_id_system_id_prompt_id_take",
        ),
    )
    op.create_table(
        "pair",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("stim_lo", sa.Integer(), nullable=False),
        sa.Column("stim_hi", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("expected", sa.String(length=10), nullable=True),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.CheckConstraint("expected IN ('lo', 'hi')", name="ck_pair_expected"),
        sa.CheckConstraint("kind IN ('main', 'attention', 'practice')", name="ck_pair_kind"),
        sa.CheckConstraint("stim_lo < stim_hi", name="ck_pair_order"),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompt.id"], name="fk_pair_prompt_id"),
        sa.ForeignKeyConstraint(["stim_hi"], ["stimulus.id"], name="fk_pair_stim_hi"),
        sa.ForeignKeyConstraint(["stim_lo"], ["stimulus.id"], name="fk_pair_stim_lo"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_pair_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_pair"),
        sa.UniqueConstraint(
            "study_id", "stim_lo", "stim_hi", "kind", name="uq_pair_study_id_stim_lo_stim_hi_kind"
        ),
    )
    op.create_table(
        "ranker_score",
        sa.Column("stimulus_id", sa.Integer(), nullable=False),
        sa.Column("scorer", sa.String(length=40), nullable=False),
        sa.Column("scorer_sha256", sa.String(length=64), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("abs(score) < 1e30", name="ck_ranker_score_finite"),
        sa.ForeignKeyConstraint(
            ["stimulus_id"], ["stimulus.id"], name="fk_ranker_score_stimulus_id"
        ),
        sa.PrimaryKeyConstraint("stimulus_id", "scorer", "scorer_sha256", name="pk_ranker_score"),
    )
    op.create_table(
        "pair_counter",
        sa.Column("pair_id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("n_assigned", sa.Integer(), nullable=False),
        sa.Column("n_lo_on_a", sa.Integer(), nullable=False),
        sa.Column("n_valid", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "n_lo_on_a >= 0 AND n_lo_on_a <= n_assigned", name="ck_pair_counter_sides"
        ),
        sa.CheckConstraint("n_valid >= 0 AND n_valid <= n_assigned", name="ck_pair_counter_valid"),
        sa.ForeignKeyConstraint(["pair_id"], ["pair.id"], name="fk_pair_counter_pair_id"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_pair_counter_study_id"),
        sa.PrimaryKeyConstraint("pair_id", name="pk_pair_counter"),
    )
    op.create_index("ix_pair_counter_study_id", "pair_counter", ["study_id"])
    op.create_table(
        "trial",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("participant_id", sa.String(length=32), nullable=False),
        sa.Column("pair_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("repetition", sa.Integer(), nullable=False),
        sa.Column("a_is_lo", sa.Boolean(), nullable=False),
        sa.Column("assign_prob", sa.Double(), nullable=False),
        sa.Column("side_prob", sa.Double(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("token_a", sa.String(length=32), nullable=False),
        sa.Column("token_b", sa.String(length=32), nullable=False),
        sa.Column("assigned_at", sa.BigInteger(), nullable=False),
        sa.Column("presented_at", sa.BigInteger(), nullable=True),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('practice', 'main', 'attention', 'repeat')", name="ck_trial_kind"
        ),
        sa.CheckConstraint(
            "state IN ('assigned', 'presented', 'answered', 'expired', 'invalid')",
            name="ck_trial_state",
        ),
        sa.ForeignKeyConstraint(["pair_id"], ["pair.id"], name="fk_trial_pair_id"),
        sa.ForeignKeyConstraint(
            ["participant_id"], ["participant.id"], name="fk_trial_participant_id"
        ),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_trial_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_trial"),
        sa.UniqueConstraint(
            "participant_id",
            "pair_id",
            "repetition",
            name="uq_trial_participant_id_pair_id_repetition",
        ),
        sa.UniqueConstraint(
            "participant_id", "position", "attempt", name="uq_trial_participant_id_position_attempt"
        ),
        sa.UniqueConstraint("token_a", name="uq_trial_token_a"),
        sa.UniqueConstraint("token_b", name="uq_trial_token_b"),
    )
    op.create_index(
        "ix_trial_study_id_state_lease_expires_at",
        "trial",
        ["study_id", "state", "lease_expires_at"],
    )
    op.create_table(
        "comment",
        sa.Column("trial_id", sa.String(length=32), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_comment_trial_id"),
        sa.PrimaryKeyConstraint("trial_id", name="pk_comment"),
    )
    op.create_table(
        "playback_event",
        sa.Column("trial_id", sa.String(length=32), nullable=False),
        sa.Column("client", sa.String(length=36), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("side", sa.String(length=4), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("media_ms", sa.Double(), nullable=False),
        sa.Column("mono_ms", sa.Double(), nullable=False),
        sa.Column("server_ts", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_playback_event_trial_id"),
        sa.PrimaryKeyConstraint("trial_id", "client", "seq", name="pk_playback_event"),
    )
    op.create_table(
        "vote",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("trial_id", sa.String(length=32), nullable=False),
        sa.Column("idempotency_key", sa.String(length=36), nullable=False),
        sa.Column("payload_sha256", sa.String(length=64), nullable=False),
        sa.Column("choice", sa.String(length=10), nullable=False),
        sa.Column("grade", sa.Integer(), nullable=True),
        sa.Column("chosen", sa.String(length=10), nullable=False),
        sa.Column("confidence", sa.Integer(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("rt_ms", sa.Integer(), nullable=False),
        sa.Column("heard_a_ms", sa.Integer(), nullable=False),
        sa.Column("heard_b_ms", sa.Integer(), nullable=False),
        sa.Column("cover_a", sa.Double(), nullable=False),
        sa.Column("cover_b", sa.Double(), nullable=False),
        sa.Column("switches", sa.Integer(), nullable=False),
        sa.Column("hidden_ms", sa.BigInteger(), nullable=False),
        sa.Column("client_ts", sa.String(length=40), nullable=True),
        sa.Column("server_ts", sa.BigInteger(), nullable=False),
        sa.Column("row_hash", sa.String(length=64), nullable=False),
        sa.CheckConstraint("choice IN ('A', 'B', 'TIE', 'BOTH_BAD')", name="ck_vote_choice"),
        sa.CheckConstraint("chosen IN ('lo', 'hi', 'tie', 'both_bad')", name="ck_vote_chosen"),
        sa.CheckConstraint(
            "cover_a >= 0 AND cover_a <= 1 AND cover_b >= 0 AND cover_b <= 1", name="ck_vote_cover"
        ),
        sa.CheckConstraint("grade BETWEEN -3 AND 3", name="ck_vote_grade"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_vote_study_id"),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name="fk_vote_trial_id"),
        sa.PrimaryKeyConstraint("id", name="pk_vote"),
        sa.UniqueConstraint("idempotency_key", name="uq_vote_idempotency_key"),
        sa.UniqueConstraint("trial_id", name="uq_vote_trial_id"),
    )
    op.create_index("ix_vote_study_id", "vote", ["study_id"])
