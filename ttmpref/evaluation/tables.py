"""The paper's tables and its sweep for the stages of a preset, whichever of them are there.

Stages are found by name: `baseline`, `sft`, `expert`, `crossload`, `crpo` are the chain; a stage
that was trained under another head than its namesake is called `<name>_<head>` (`sft_input_add`),
one conditioned on the reward of the full mix `sft_full_mix`. Rows of stages that are not there say
so. All clips of all tables come from one memory (`heard`), so that what two tables share is made
once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ttmpref.config import HEADS_WITH_SCORE, HeadKind
from ttmpref.evaluation.chain import (
    FAD_NOTE,
    LEVELS,
    NAME,
    PAPER,
    REASON,
    Line,
    N,
    levels,
    metric_panels,
    steps,
)
from ttmpref.evaluation.comparison import Measure, change, correlation
from ttmpref.evaluation.figures import Panel, Series
from ttmpref.evaluation.heard import Condition
from ttmpref.evaluation.lab import Lab, Missing, Row
from ttmpref.evaluation.published import NOTE, printed
from ttmpref.evaluation.sheets import Cell, Column, Sheet
from ttmpref.metrics import bootstrap_interval
from ttmpref.study.statistics import holm

CHAIN = ("baseline", "sft", "expert", "crossload", "crpo")
V1, V2 = "global_adaln", "input_add"
FULL_MIX = "sft_full_mix"
SECOND_SEED = 55  # the paper's second submission
SWEEP = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0)
TRAINED = (-0.5, 2.0)  # where the reward must follow s; scores beyond are extrapolation
HEAD_SCORES = (-0.5, 0.5, 1.5)  # of Table I; the outer ones span its last column
HEAD_NAMES: dict[HeadKind, str] = {
    "global_adaln": "GlobalAdaLN (v1)",
    "input_add": "InputAdd (v2)",
    "audio_prepend": "audio prepend (v3)",
    "latent_adaln": "latent AdaLN (v4)",
    "text_prepend": "text prepend (v5)",
}


def trained_under(lab: Lab, name: str, head: HeadKind) -> str:
    """The stage called `name` that was trained under a head: itself, or `<name>_<head>`."""
    own = next((s.head for s in lab.listener.studio.preset.stages if s.name == name), None)
    return name if own == head else f"{name}_{head}"


def final_stage(lab: Lab) -> str:
    """The last stage of the chain that can be heard."""
    there = [name for name in CHAIN if lab.listener.missing(name) is None]
    return there[-1] if there else CHAIN[-1]


def table1(lab: Lab) -> list[Sheet]:
    """Five ways for the score to enter (Table I)."""
    columns = (
        NAME, N, *LEVELS[:2], Column("score_r", "score-r", "measure"),
        Column("delta_out", "Δ out", "measure"), REASON,
    )  # fmt: skip
    baseline = lab.row(Condition(CHAIN[0]))
    found: list[tuple[str, Row | Missing, dict[str, Cell]]] = [("no score", baseline, {})]
    for head in HEADS_WITH_SCORE:
        stage = trained_under(lab, "sft", head)
        swept = [lab.row(Condition(stage, score=score)) for score in HEAD_SCORES]
        found.append((HEAD_NAMES[head], swept[-1], _steering(swept)))
    rows = []
    for name, row, cells in found:
        own: dict[str, Cell] = {"row": name, **cells}
        if isinstance(row, Missing):
            own["reason"] = row.reason
        else:
            own |= {"n": row.n, "fad": row.fad, "clap": row.clap}
        rows.append(tuple(own.get(column.name) for column in columns))
    low, middle, high = HEAD_SCORES
    notes = (
        f"FAD-CLAP and CLAP score at s = {high}. score-r: Pearson's r of s = {low}, {middle}, "
        f"{high} and the reward of single clips, captions resampled; Δ out: mean reward at {high} "
        f"less that at {low}.",
        FAD_NOTE,
        "The paper's text states no cell of its Table I, only that its heads are 0.025 to 0.040 "
        "below the unconditional baseline in FAD-CLAP and that InputAdd leads.",
    )
    lines = [Line(name, row) for name, row, _ in found]
    title = "Table I: five heads of the score-conditioned fine-tune"
    return [Sheet("table1", title, columns, tuple(rows), notes, metric_panels(lines))]


def _steering(swept: Sequence[Row | Missing]) -> dict[str, Cell]:
    """How the reward follows s over rows at HEAD_SCORES."""
    rewards = rewards_of(swept)
    if rewards is None:
        return {}
    return {
        "score_r": score_r(HEAD_SCORES, rewards),
        "delta_out": change(rewards[0], rewards[-1]).mean,
    }


def rewards_of(swept: Sequence[Row | Missing]) -> np.ndarray | None:
    """(scores, n) rewards of rows; None where one is missing."""
    found = [row.heard.rewards for row in swept if isinstance(row, Row)]
    if len(found) < len(swept) or any(rewards is None for rewards in found):
        return None
    return np.stack(found)


def score_r(scores: Sequence[float], rewards: np.ndarray) -> Measure | None:
    """Pearson's r of s and reward over all clips (scores, n); captions resampled together."""
    given = np.repeat(np.array(scores)[:, None], rewards.shape[1], axis=1)

    def statistic(picked: np.ndarray) -> float:
        return correlation(given.ravel(), rewards[:, picked].ravel()) or 0.0

    r = correlation(given.ravel(), rewards.ravel())
    return None if r is None else Measure(r, *bootstrap_interval(statistic, rewards.shape[1]))


def chain_lines(lab: Lab) -> list[Line]:
    """The paper's rows 0 to 4, then the second submission's seed."""
    lines = [
        Line(name, lab.row(Condition(name)), name, before)
        for name, before in zip(CHAIN, (None, *CHAIN), strict=False)
    ]
    second = lab.row(Condition(CHAIN[-1], seed=SECOND_SEED))
    name = f"{CHAIN[-1]}, seed {SECOND_SEED}"
    return [*lines, Line(name, second, f"{CHAIN[-1]}.seed{SECOND_SEED}")]


def table2(lab: Lab) -> list[Sheet]:
    """The chain, stage by stage (Table II), with the real clips as what could be reached."""
    lines = chain_lines(lab)
    shown = [*lines, Line("real clips of the captions", lab.real())]
    return [
        levels("table2", "Table II: the chain, cumulative", shown, "levels"),
        steps("table2_steps", "Table II, from stage to stage", lines, "changes"),
    ]


def forward_cells(lab: Lab) -> list[tuple[str, str, HeadKind, HeadKind]]:
    """(key, stage, head of the weights, head they run under) of Table III's eight cells."""
    return [
        (f"{name}.{own}.{run}", trained_under(lab, name, own), own, run)
        for name in ("sft", "expert")
        for own in (V1, V2)
        for run in (V1, V2)
    ]


def forward_row(lab: Lab, stage: str, own: HeadKind, run: HeadKind, **of: float) -> Row | Missing:
    """The clips of weights under a head; their own is no other condition than the stage's."""
    return lab.row(Condition(stage, None if own == run else run, **of))


def table3(lab: Lab) -> list[Sheet]:
    """The same weights under either head (Table III), against the first submission."""
    columns = (
        NAME, N, *LEVELS, *PAPER, Column("p_clap", "p CLAP vs Sub.1", "p"),
        Column("p_clap_holm", "(Holm)", "p"), Column("p_reward", "p reward vs Sub.1", "p"),
        Column("p_reward_holm", "(Holm)", "p"), REASON,
    )  # fmt: skip
    lines = [
        Line(_cell_name(key), forward_row(lab, stage, own, run), key)
        for key, stage, own, run in forward_cells(lab)
    ]
    first = lab.row(Condition(CHAIN[-1]))
    second = lab.row(Condition(CHAIN[-1], seed=SECOND_SEED))
    submissions = [Line("submission 1", first), Line(f"submission 2, seed {SECOND_SEED}", second)]
    tests = [_against(first, line.row) for line in lines]
    rows = []
    for line, p in zip([*lines, *submissions], [*_with_holm(tests), {}, {}], strict=True):
        cells: dict[str, Cell] = {"row": line.name, **p}
        cells |= {f"paper_{k}": v for k, v in printed("forwards", line.key).items()}
        if isinstance(line.row, Missing):
            cells["reason"] = line.row.reason
        else:
            cells |= {"n": line.row.n, "fad": line.row.fad, "clap": line.row.clap}
            cells["reward"] = line.row.reward
        rows.append(tuple(cells.get(column.name) for column in columns))
    notes = (
        "v1: GlobalAdaLN, v2: InputAdd. Nothing is trained between cells of the same weights. p: "
        "two-sided paired t against submission 1; (Holm): adjusted over this table's cells.",
        FAD_NOTE, NOTE,
        "The paper's text gives one rounded pair of values for both cells of v2 weights run as v1.",
    )  # fmt: skip
    title = "Table III: weights by the head they run under"
    panels = metric_panels([*lines, *submissions], "forwards")
    return [Sheet("table3", title, columns, tuple(rows), notes, panels)]


def _cell_name(key: str) -> str:
    name, own, run = key.split(".")
    short = {V1: "v1", V2: "v2"}
    stage = {"sft": "SFT only", "expert": "chain end"}[name]
    return f"{stage}: {short[own]} weights, {short[run]} forward"


def _against(first: Row | Missing, row: Row | Missing) -> dict[str, float]:
    if isinstance(first, Missing) or isinstance(row, Missing) or first is row:
        return {}
    found = {"p_clap": change(first.heard.clap_scores, row.heard.clap_scores).p_different}
    if first.heard.rewards is not None and row.heard.rewards is not None:
        found["p_reward"] = change(first.heard.rewards, row.heard.rewards).p_different
    return found


def _with_holm(tests: Sequence[dict[str, float]]) -> list[dict[str, Cell]]:
    found: list[dict[str, Cell]] = [dict(one) for one in tests]
    for name in ("p_clap", "p_reward"):
        for cells, p in zip(found, holm([one.get(name) for one in tests]), strict=True):
            cells[f"{name}_holm"] = p
    return found


def swept_stages(lab: Lab) -> dict[str, str]:
    """The fine-tune and the last stage after it, with the keys of what the paper printed."""
    final = final_stage(lab)
    return {"sft": "sft", (CHAIN[-1] if final in CHAIN[:2] else final): "final"}


def figure2(lab: Lab) -> list[Sheet]:
    """Reward and FAD-CLAP over the score (Figure 2): the fine-tune against the last stage."""
    columns = (
        Column("stage", "stage", "words"), Column("s", "s", digits=1), N, *LEVELS, *PAPER, REASON,
    )  # fmt: skip
    stages = swept_stages(lab)
    *_, final = stages
    rows, points = [], {}
    for stage, key in stages.items():
        points[stage] = sweep(lab, stage)
        for score, row in points[stage]:
            known = printed("sweep", key, str(score))
            cells: dict[str, Cell] = {"stage": stage, "s": score}
            cells |= {f"paper_{metric}": value for metric, value in known.items()}
            if isinstance(row, Missing):
                cells["reason"] = row.reason
            else:
                cells |= {"n": row.n, "fad": row.fad, "clap": row.clap, "reward": row.reward}
            rows.append(tuple(cells.get(column.name) for column in columns))
    notes = (
        f"s from {TRAINED[0]} to {TRAINED[1]} lies within what was trained, the rest beyond. "
        "The paper's second curve is its submission.",
        FAD_NOTE, NOTE,
    )  # fmt: skip
    title = f"Figure 2: sweep of the score, sft against {final}"
    panels = tuple(_sweep_panel(column, points) for column in (LEVELS[2], LEVELS[0]))
    return [Sheet("figure2", title, columns, tuple(rows), notes, panels)]


def sweep(lab: Lab, stage: str) -> list[tuple[float, Row | Missing]]:
    """A stage at every score of the sweep."""
    return [(score, lab.row(Condition(stage, score=score))) for score in SWEEP]


def _sweep_panel(column: Column, points: dict[str, list[tuple[float, Row | Missing]]]) -> Panel:
    series = []
    for stage, colour in zip(points, ("accent", "ink"), strict=True):
        shown = [(s, getattr(r, column.name)) for s, r in points[stage] if isinstance(r, Row)]
        there = tuple((s, measure) for s, measure in shown if measure is not None)
        series.append(Series(f"{stage}, measured here", there, colour, line=True))
    known = [
        (score, Measure(printed("sweep", key, str(score))[column.name]))
        for key in ("sft", "final")
        for score in SWEEP
        if column.name in printed("sweep", key, str(score))
    ]
    series.append(Series("paper, full-size system", tuple(known), "faint"))
    return Panel(column.title, tuple(series), over="score s")


def pollution(lab: Lab) -> list[Sheet]:
    """Conditioned on the reward of the full mix against that of the instrumental stem."""
    full = Line("reward of the full mix", lab.row(Condition(FULL_MIX)), FULL_MIX)
    stem = Line("reward of the instrumental stem", lab.row(Condition("sft")), "sft", full.name)
    title = "Reward pollution: what the fine-tune was conditioned on"
    return [
        levels("pollution", title, [full, stem], "pollution"),
        steps("pollution_steps", f"{title}, difference", [full, stem]),
    ]
