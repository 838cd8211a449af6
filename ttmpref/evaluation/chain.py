"""Rows of a chain of stages: levels, steps from row to row, and every caption's numbers.

The command `evaluate` shows whatever stages a preset lists; the paper's Table II is the same with
the paper's rows and numbers.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ttmpref.evaluation.comparison import Measure
from ttmpref.evaluation.figures import Panel, Series
from ttmpref.evaluation.lab import Missing, Row, Step, adjusted, step
from ttmpref.evaluation.published import NOTE, printed
from ttmpref.evaluation.sheets import Cell, Column, Sheet
from ttmpref.study.prompts import Prompt

LEVELS = (
    Column("fad", "FAD-CLAP", "measure"),
    Column("clap", "CLAP score", "measure"),
    Column("reward", "reward", "measure"),
)
PAPER = (
    Column("paper_fad", "FAD-CLAP (paper)"),
    Column("paper_clap", "CLAP score (paper)"),
    Column("paper_reward", "reward (paper)"),
)
NAME = Column("row", "row", "words")
N = Column("n", "n")
REASON = Column("reason", "not available because", "words")
FAD_NOTE = (
    "FAD-CLAP is biased upwards by the small number of clips: compare rows of one table only. Its "
    "brackets are 95 % of resampled captions, centred on the value; those of CLAP score and reward "
    "are Student's."
)
STEP_NOTE = (
    "Differences are after less before on the same captions and seeds. p: one-sided, of no "
    "improvement; (Holm): adjusted over all CLAP score and reward tests of this table and kind."
)


@dataclass(frozen=True)
class Line:
    """A row of a chain with its name.

    Attributes:
        key: of what the paper printed; empty for nothing.
        after: name of the row that it is compared with; None for no comparison.
    """

    name: str
    row: Row | Missing
    key: str = ""
    after: str | None = None


def one_after_another(lines: Sequence[Line], parents: Mapping[str, str | None]) -> list[Line]:
    """Lines that each come after their parent or, where it has no line, after the one above."""
    names = [line.name for line in lines]
    found: list[Line] = []
    for line, above in zip(lines, [None, *names], strict=False):
        parent = parents.get(line.name)
        found.append(dataclasses.replace(line, after=parent if parent in names else above))
    return found


def levels(name: str, title: str, lines: Sequence[Line], paper: str | None = None) -> Sheet:
    """Every row's numbers; beside them those of a section of what the paper printed, if one is
    named."""
    columns = (
        NAME, N, *LEVELS, *(PAPER if paper else ()),
        Column("fad_infinity", "FAD-inf"), Column("kad", "KAD", digits=4),
        *_coverage_column(lines), REASON,
    )  # fmt: skip
    rows = []
    for line in lines:
        cells = _cells(line.row) | {"row": line.name} | _printed(paper, line.key)
        rows.append(tuple(cells.get(column.name) for column in columns))
    notes = (FAD_NOTE, NOTE) if paper else (FAD_NOTE,)
    return Sheet(name, title, columns, tuple(rows), notes, metric_panels(lines, paper))


def _coverage_column(lines: Sequence[Line]) -> tuple[Column, ...]:
    judged = any(isinstance(one.row, Row) and one.row.coverage for one in lines)
    return (Column("coverage", "concept coverage", "measure"),) if judged else ()


def _cells(row: Row | Missing) -> dict[str, Cell]:
    if isinstance(row, Missing):
        return {"reason": row.reason}
    return {
        "n": row.n,
        "fad": row.fad,
        "clap": row.clap,
        "reward": row.reward,
        "fad_infinity": row.fad_infinity,
        "kad": row.kad,
        "coverage": row.coverage,
    }


def _printed(section: str | None, key: str) -> dict[str, Cell]:
    if section is None:
        return {}
    return {f"paper_{metric}": value for metric, value in printed(section, key).items()}


def metric_panels(lines: Sequence[Line], paper: str | None = None) -> tuple[Panel, ...]:
    """FAD, CLAP score and reward of the rows that are there, over their names."""
    panels = []
    for column in LEVELS:
        ours, theirs = [], []
        for place, line in enumerate(lines):
            value = None if isinstance(line.row, Missing) else getattr(line.row, column.name)
            if value is not None:
                ours.append((float(place), value))
            known = printed(paper, line.key).get(column.name) if paper else None
            if known is not None:
                theirs.append((float(place), Measure(known)))
        series = [Series("measured here", tuple(ours), "accent")]
        if paper:
            series.append(Series("paper, full-size system", tuple(theirs), "faint"))
        panels.append(Panel(column.title, tuple(series), labels=tuple(one.name for one in lines)))
    return tuple(panels)


def steps(name: str, title: str, lines: Sequence[Line], paper: str | None = None) -> Sheet:
    """Every row against the one that it comes after; `paper` as in `levels`."""
    by_name = {line.name: line for line in lines}
    pairs = [(by_name[line.after], line) for line in lines if line.after is not None]
    found = [_step(before.row, after.row) for before, after in pairs]
    columns = (
        NAME, Column("after", "against", "words"),
        Column("fad", "Δ FAD-CLAP", "measure"), Column("clap", "Δ CLAP score", "measure"),
        Column("reward", "Δ reward", "measure"), *(PAPER if paper else ()),
        *_p_columns("clap", "CLAP"), *_p_columns("reward", "reward"), REASON,
    )  # fmt: skip
    rows = []
    for (before, after), one, holm in zip(pairs, found, adjusted(found), strict=True):
        cells: dict[str, Cell] = {"row": after.name, "after": before.name, **holm}
        cells |= _printed(paper, after.key)
        cells |= _reason(before, after) if one is None else _step_cells(one)
        rows.append(tuple(cells.get(column.name) for column in columns))
    return Sheet(name, title, columns, tuple(rows), (STEP_NOTE, *((NOTE,) if paper else ())))


def _step(before: Row | Missing, after: Row | Missing) -> Step | None:
    known = isinstance(before, Row) and isinstance(after, Row)
    return step(before, after) if known else None


def _reason(before: Line, after: Line) -> dict[str, Cell]:
    missing = next(one.row for one in (after, before) if isinstance(one.row, Missing))
    return {"reason": missing.reason}


def _p_columns(metric: str, title: str) -> tuple[Column, ...]:
    return (
        Column(f"{metric}_p_t", f"p {title}, paired t", "p"),
        Column(f"{metric}_p_t_holm", "(Holm)", "p"),
        Column(f"{metric}_p_wilcoxon", f"p {title}, Wilcoxon", "p"),
        Column(f"{metric}_p_wilcoxon_holm", "(Holm)", "p"),
    )


def _step_cells(one: Step) -> dict[str, Cell]:
    cells: dict[str, Cell] = {"fad": one.fad}
    for metric, test in (("clap", one.clap), ("reward", one.reward)):
        if test is not None:
            cells |= {metric: test.mean, f"{metric}_p_t": test.p_t}
            cells[f"{metric}_p_wilcoxon"] = test.p_wilcoxon
    return cells


def per_prompt(prompts: Sequence[Prompt], lines: Sequence[Line]) -> bytes:
    """CSV with a line per caption and row: CLAP score, reward and coverage of the clip."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["row", "id", "caption", "clap_score", "reward", "coverage"])
    for line in lines:
        if isinstance(line.row, Missing):
            continue
        heard, blank = line.row.heard, [None] * line.row.n
        columns = (
            heard.clap_scores,
            blank if heard.rewards is None else heard.rewards,
            blank if heard.coverage is None else heard.coverage,
        )
        for prompt, *values in zip(prompts, *columns, strict=True):
            writer.writerow([line.name, prompt.id, prompt.text, *values])
    return buffer.getvalue().encode("utf-8")
