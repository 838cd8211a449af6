"""The tables of an export: every column once, with its type, meaning and unit.

Header lines, parquet types and the codebook are all made from here. Specification of listening
studies, section 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ColumnType = Literal["text", "integer", "number", "flag"]


@dataclass(frozen=True)
class Column:
    """A column: values of one type or missing; `meaning` gives unit and allowed values."""

    name: str
    type: ColumnType
    meaning: str


def _columns(text: str) -> tuple[Column, ...]:
    """Columns from lines `name type meaning`."""
    rows = (line.split(None, 2) for line in text.strip().splitlines())
    return tuple(Column(name, kind, meaning) for name, kind, meaning in rows)


VOTES = _columns("""
vote_id text trial_id of the answered trial
rater text random id of the participant
prompt text id of the prompt
system_a text system of clip A (its blind code while the study is open)
system_b text system of clip B
answer text A, B, TIE or BOTH_BAD; of a graded answer, the sign of the grade
stimulus_a text id of clip A in stimuli
stimulus_b text id of clip B in stimuli
kind text main, anchor (a main trial with an anchor system), attention or repeat
repeat_of text vote_id of the first answer to the same pair, of a repeat
expected text answer of somebody attentive, of an attention trial
position integer place of the trial in the session, from 0; practice comes first
block integer number of the block in which the person's sides were balanced, -1 for none
first_on_a flag whether the pair's first clip was clip A
side_probability number with which the sides were so, given the pair and everything before
seconds number from presentation to answer by the listener's clock, s
answered_at text UTC, ISO 8601
excluded flag whether an exclusion names this trial or its participant
grade integer -3 (A much better) to 3 (B much better), of a graded study
delta_lufs number delivered loudness, A minus B, LU
delta_true_peak_dbtp number delivered true peak, A minus B, dB
delta_crest_db number crest factor, A minus B, dB
delta_bandwidth_hz number bandwidth, A minus B, Hz
chosen text lo, hi, tie or both_bad: the answer by the pair's own order
confidence integer 1 to the study's number of levels
tags text words the listener ticked, separated by semicolons
heard_a_ms integer playing time of A, ms, from the player's events
heard_b_ms integer playing time of B, ms
cover_a number share of A that was played at least once, 0 to 1
cover_b number share of B that was played at least once, 0 to 1
switches integer changes between the clips
hidden_ms integer time with the page out of sight, ms
assign_probability number with which this pair was drawn, given everything before
client_ts text time of the answer by the listener's clock, as sent
row_hash text SHA-256 that seals the vote in the audit chain
""")
COMMENT = Column("comment", "text", "what the listener wrote; only where the study publishes it")

TRIALS = _columns("""
trial_id text random id
rater text random id of the participant
prompt text id of the prompt
system_a text system of clip A
system_b text system of clip B
stimulus_a text id of clip A in stimuli
stimulus_b text id of clip B in stimuli
kind text practice, main, anchor, attention or repeat
position integer place of the trial in the session, from 0
attempt integer 0, or more where a lease ran out and another pair took the place
state text assigned, presented, answered, expired or invalid (withdrawn)
first_on_a flag whether the pair's first clip was clip A
assign_probability number with which this pair was drawn
side_probability number with which the sides were so
assigned_at text UTC, ISO 8601
presented_at text UTC, when both clips were ready to play
answered_at text UTC
""")

PARTICIPANTS = _columns("""
rater text random id
source text open, invite, prolific, sona, mturk, lab or sim
status text consented, active, completed, screened_out or withdrawn
consent_version text version agreed to
locale text language of the page
age_band text as answered
device text listening device as answered
hearing text as answered
training text musical training as answered
device_class text kind of device the page saw
joined_on text UTC day
votes integer answers that count
""")

STIMULI = _columns("""
stimulus text id
system text system (its blind code while the study is open)
prompt text id of the prompt
take integer number of the clip among those of its system and prompt
clip text file of the delivered clip, below the build folder
delivered_sha256 text of that file
source_sha256 text of the clip it was rendered from; empty while the study is open
bytes integer size of the file
duration_ms number length, ms
sample_rate integer Hz
channels integer 1 or 2
lufs_in number loudness before the gain, LUFS
lufs_out number loudness as delivered, LUFS
target_lufs number what it was brought to: the study's target less the prompt's common gain
gain_db number dB
true_peak_dbtp number as delivered, dBTP
crest_db number true peak over mean level, dB
dc number largest mean of a channel, of full scale 1
lead_ms number silence before, ms
tail_ms number silence after, ms
music_ms number between them, ms
bandwidth_hz number highest frequency within 70 dB of the strongest, Hz
stage integer place of the system in the definition, from 0
reward number score by the study's ranker
reward_without_prompt number the same ranker's without the prompt
clap_score number similarity of clip and prompt as a CLAP encoder hears them
qa_status text pass or waived
""")

EXCLUSIONS = _columns("""
scope text participant or trial
target text id of it
rule text of the definition, or manual
preregistered flag whether the rule was fixed before the study opened
reason text in words
at text UTC; empty for rules, which are applied to the votes as they are
""")

RANKER_SCORES = _columns("""
stimulus text id
scorer text name of the study's ranker, or of another score of the table stimuli
scorer_sha256 text of its weights, or of the table of scores
score number what it says of the clip
""")

TABLES: dict[str, tuple[Column, ...]] = {
    "votes": VOTES,
    "trials": TRIALS,
    "participants": PARTICIPANTS,
    "stimuli": STIMULI,
    "ranker_scores": RANKER_SCORES,
    "exclusions": EXCLUSIONS,
}


def codebook(tables: dict[str, tuple[Column, ...]]) -> str:
    """Every column of every table, in Markdown."""
    lines = ["# Codebook", "", "Missing values are empty in CSV and null elsewhere."]
    for name, columns in tables.items():
        lines += ["", f"## {name}", "", "| column | type | meaning |", "|---|---|---|"]
        lines += [f"| `{c.name}` | {c.type} | {c.meaning} |" for c in columns]
    return "\n".join(lines) + "\n"
