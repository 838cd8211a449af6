"""What the chain must show, claim by claim: the target, what was found, and whether it is met.

A claim about stages that are not there is neither met nor missed; it says which stage is lacking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ttmpref.evaluation.chain import REASON
from ttmpref.evaluation.comparison import Measure, change, rank_correlation
from ttmpref.evaluation.heard import Condition
from ttmpref.evaluation.lab import Lab, Missing, Row, step
from ttmpref.evaluation.sheets import Cell, Column, Sheet
from ttmpref.evaluation.tables import (
    TRAINED,
    V1,
    V2,
    final_stage,
    forward_row,
    rewards_of,
    score_r,
    sweep,
    swept_stages,
    trained_under,
)
from ttmpref.study.statistics import holm

RHO, R, EXPERT_P, TIED, SIGNIFICANT = 0.9, 0.3, 0.01, 0.05, 0.05
NO_REWARD = "the preset has no usable ranker"


class NotThere(Exception):
    """A claim cannot be looked at; the message says why."""


@dataclass(frozen=True)
class Finding:
    """One claim.

    Attributes:
        value: what was found.
        p: one-sided p-value where a test decides.
        met: whether it holds; None where it cannot be looked at, for the `reason`.
    """

    claim: str
    target: str
    value: Measure | None = None
    p: float | None = None
    met: bool | None = None
    reason: str = ""


def evidence(lab: Lab) -> list[Sheet]:
    """All claims, and where extrapolation breaks."""
    findings = [_looked_at(*claim, lab) for claim in claims(lab)]
    columns = (
        Column("claim", "claim", "words"), Column("target", "target", "words"),
        Column("found", "found", "measure"), Column("p", "p", "p"),
        Column("met", "met", "words"), REASON,
    )  # fmt: skip
    words = {True: "yes", False: "no", None: None}
    rows: list[tuple[Cell, ...]] = [
        (one.claim, one.target, one.value, one.p, words[one.met], one.reason or None)
        for one in findings
    ]
    notes = (f"n = {len(lab.listener.prompts)} captions. Brackets: 95 %. p: one-sided, paired t.",)
    return [Sheet("evidence", "What the chain shows", columns, tuple(rows), notes), *breaks(lab)]


Look = Callable[[Lab], tuple[Measure | None, float | None, bool]]


def _looked_at(claim: str, target: str, look: Look, lab: Lab) -> Finding:
    try:
        return Finding(claim, target, *look(lab))
    except NotThere as error:
        return Finding(claim, target, reason=str(error))


def claims(lab: Lab) -> list[tuple[str, str, Look]]:
    """Claim, target in words, and how it is looked at."""
    final = final_stage(lab)
    span = f"s from {TRAINED[0]:g} to {TRAINED[1]:g}"
    outside = "0 outside its interval"
    return [
        (f"sft: mean reward follows s, Spearman over {span}", f"≥ {RHO}", _follows),
        (f"sft: reward of single clips follows s, Pearson over {span}", f"≥ {R}", _per_clip),
        ("expert over sft: reward", f"p < {EXPERT_P}", _expert_reward),
        ("expert over sft: FAD-CLAP", "not worse by more than its interval", _expert_fad),
        ("v1 weights run as v2, against native: reward", f"|Δ| ≤ {TIED}", _benign),
        ("v2 weights run as v1, against native: reward", f"lower, p < {SIGNIFICANT}", _collapse),
        (f"{final} over baseline: reward", f"> 0, {outside}", _final("reward")),
        (f"{final} over baseline: CLAP score", f"> 0, {outside}", _final("clap")),
        (f"{final} over baseline: FAD-CLAP", f"< 0, {outside}", _final("fad")),
    ]


def _row(found: Row | Missing, rewards: bool = True) -> Row:
    if isinstance(found, Missing):
        raise NotThere(found.reason)
    if rewards and found.heard.rewards is None:
        raise NotThere(NO_REWARD)
    return found


def _trained_sweep(lab: Lab) -> tuple[list[float], np.ndarray]:
    """Scores within TRAINED and the rewards of sft there, (scores, n)."""
    inside = [(s, row) for s, row in sweep(lab, "sft") if TRAINED[0] <= s <= TRAINED[1]]
    rows = [_row(row) for _, row in inside]
    return [s for s, _ in inside], rewards_of(rows)


def _follows(lab: Lab) -> tuple[Measure | None, None, bool]:
    scores, rewards = _trained_sweep(lab)
    rho = rank_correlation(np.array(scores), rewards.mean(1))
    return None if rho is None else Measure(rho), None, rho is not None and rho >= RHO


def _per_clip(lab: Lab) -> tuple[Measure | None, None, bool]:
    scores, rewards = _trained_sweep(lab)
    found = score_r(scores, rewards)
    return found, None, found is not None and found.value >= R


def _expert_reward(lab: Lab) -> tuple[Measure, float, bool]:
    before, after = (_row(lab.row(Condition(name))) for name in ("sft", "expert"))
    found = change(before.heard.rewards, after.heard.rewards)
    return found.mean, found.p_t, found.p_t < EXPERT_P


def _expert_fad(lab: Lab) -> tuple[Measure, None, bool]:
    before, after = (_row(lab.row(Condition(name)), False) for name in ("sft", "expert"))
    found = step(before, after).fad
    return found, None, found.low <= 0.0


def _benign(lab: Lab) -> tuple[Measure, None, bool]:
    stage = trained_under(lab, "expert", V1)
    native, crossed = (_row(forward_row(lab, stage, V1, run)) for run in (V1, V2))
    found = change(native.heard.rewards, crossed.heard.rewards).mean
    return found, None, abs(found.value) <= TIED


def _collapse(lab: Lab) -> tuple[Measure, float, bool]:
    stage = trained_under(lab, "sft", V2)
    native, crossed = (_row(forward_row(lab, stage, V2, run)) for run in (V2, V1))
    p = change(crossed.heard.rewards, native.heard.rewards).p_t
    return change(native.heard.rewards, crossed.heard.rewards).mean, p, p < SIGNIFICANT


def _final(metric: str) -> Look:
    def look(lab: Lab) -> tuple[Measure, float | None, bool]:
        final = final_stage(lab)
        if final == "baseline":
            raise NotThere("the chain has no stage after the baseline yet")
        rows = [_row(lab.row(Condition(name)), metric == "reward") for name in ("baseline", final)]
        found = step(*rows)
        if metric == "fad":
            return found.fad, None, found.fad.excludes_zero and found.fad.value < 0.0
        test = found.clap if metric == "clap" else found.reward
        return test.mean, test.p_t, test.mean.excludes_zero and test.mean.value > 0.0

    return look


def breaks(lab: Lab) -> list[Sheet]:
    """Where following s further stops to help: per stage, the peak and what comes after it."""
    columns = (
        Column("stage", "stage", "words"), Column("peak", "s of the highest reward", digits=1),
        Column("reward_at_peak", "reward there", "measure"),
        Column("worse_from", "reward lower from s =", digits=1),
        Column("fad_peak", "s of the lowest FAD-CLAP", digits=1),
        Column("fad_worse_from", "FAD-CLAP higher from s =", digits=1),
        Column("reward_range", "range of mean rewards"), REASON,
    )  # fmt: skip
    rows = []
    for stage in swept_stages(lab):
        try:
            cells = _break_of([(score, _row(row)) for score, row in sweep(lab, stage)])
        except NotThere as error:
            cells = {"reason": str(error)}
        rows.append(tuple(({"stage": stage} | cells).get(column.name) for column in columns))
    notes = (
        "Lower: the first s beyond the peak whose reward is below the peak's (paired t, one-sided, "
        f"Holm over the scores beyond, p < {SIGNIFICANT}). Higher: the first s beyond the lowest "
        "FAD-CLAP from which the paired interval of the difference excludes 0. A dash: nowhere in "
        "the sweep.",
    )
    title = f"Past the trained range ({TRAINED[0]:g} to {TRAINED[1]:g}): where extrapolation breaks"
    return [Sheet("extrapolation", title, columns, tuple(rows), notes)]


def _break_of(swept: Sequence[tuple[float, Row]]) -> dict[str, Cell]:
    scores = [score for score, _ in swept]
    rows = [row for _, row in swept]
    means = [float(row.heard.rewards.mean()) for row in rows]
    peak = int(np.argmax(means))
    beyond = rows[peak + 1 :]
    p = holm([change(row.heard.rewards, rows[peak].heard.rewards).p_t for row in beyond])
    lowest = int(np.argmin([row.distance for row in rows]))
    higher = [
        found.low is not None and found.low > 0.0
        for found in (step(rows[lowest], row).fad for row in rows[lowest + 1 :])
    ]
    return {
        "peak": scores[peak],
        "reward_at_peak": rows[peak].reward,
        "worse_from": _first(scores[peak + 1 :], [one < SIGNIFICANT for one in p]),
        "fad_peak": scores[lowest],
        "fad_worse_from": _first(scores[lowest + 1 :], higher),
        "reward_range": max(means) - min(means),
    }


def _first(scores: Sequence[float], true: Sequence[bool]) -> float | None:
    return next((score for score, one in zip(scores, true, strict=True) if one), None)
