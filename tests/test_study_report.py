"""The report of a study: one set of numbers in every file, the same bytes every time (check 29)."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from tests.parts import lacking
from ttmpref.config import read_yaml, validated
from ttmpref.study.analysis import Analysis, Plan, analyse
from ttmpref.study.definition import Definition, Exclusion
from ttmpref.study.figures import PAPER, Palette, ticks
from ttmpref.study.report import figures, p_words, report, tables, words, write_report
from ttmpref.study.simulation import Design, Population, simulate
from ttmpref.study.validity import Scores
from ttmpref.study.votes import Votes

CONTRASTS = (("base", "tuned_&_up"), ("tuned_&_up", "last"))
PLAN = Plan(
    title="Stages",
    question="Which clip do you prefer?",
    contrasts=(*CONTRASTS, ("base", "never")),
    primary=CONTRASTS[0],
    equivalence=(("last", "tuned_&_up"),),
    exclusion=Exclusion(attention_failed_ge=2, median_rt_ms_lt=4000),
    resamples=150,
)
STUDIES = Path(__file__).parent.parent / "assets" / "studies"


@pytest.fixture(scope="module")
def votes() -> Votes:
    design = Design(CONTRASTS, 24, 24, 16, attention=2, repeats=2)
    people = Population({"tuned_&_up": 0.8, "last": 0.8}, ties=0.15, both_bad=0.05, lazy=1 / 12)
    return simulate(design, people, 2)


@pytest.fixture(scope="module")
def scores(votes: Votes) -> Scores:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"stimulus": votes.stimuli, "reward": rng.normal(size=len(votes.stimuli))})
    return Scores.from_frame(frame.assign(lufs=-16.5), votes)


@pytest.fixture(scope="module")
def analysis(votes: Votes, scores: Scores) -> Analysis:
    return analyse(votes, PLAN, scores)


@pytest.fixture(scope="module")
def files(analysis: Analysis) -> dict[str, bytes]:
    return report(analysis)


def test_29_table_figure_methods_and_summary_agree(
    analysis: Analysis, files: dict[str, bytes]
) -> None:
    texts = {name: data.decode() for name, data in files.items() if not name.endswith(".png")}
    summary = json.loads(texts["summary.json"])
    for index, result in enumerate(analysis.contrasts):
        said = words(result.found.preference)
        for name in ("table.md", "table.tex", "methods.txt", "preferences.svg"):
            assert said in texts[name], f"{name} lacks {said}"
        stored = summary["contrasts"][index]["found"]["preference"]
        ends = (stored["value"], stored["low"], stored["high"])
        assert said == "{:.3f} [{:.3f}, {:.3f}]".format(*ends)
        assert stored["n"] == result.found.wins_x + result.found.wins_y
        assert p_words(summary["contrasts"][index]["p_adjusted"]) in texts["methods.txt"]
    accuracy = words(analysis.ranker.accuracy)
    for name in ("table.md", "table.tex", "methods.txt", "ranker_accuracy.svg"):
        assert accuracy in texts[name]


def test_29_every_estimate_in_the_summary_has_n_and_interval_or_a_note(
    files: dict[str, bytes],
) -> None:
    def estimates(value):
        if isinstance(value, dict):
            if {"value", "low", "high", "n", "raters", "prompts"} <= set(value):
                yield value
            for inner in value.values():
                yield from estimates(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from estimates(inner)

    found = list(estimates(json.loads(files["summary.json"])))
    assert len(found) > 40
    for one in found:
        assert one["n"] > 0 or one["note"]
        assert (one["low"] is not None and one["high"] is not None) or one["note"]


def test_29_the_latex_compiles(files: dict[str, bytes], tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        lacking("there is no LaTeX: apt-get install texlive-latex-recommended")
    (tmp_path / "table.tex").write_bytes(files["table.tex"])
    paper = "\n".join([
        r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}",
        r"\input{table}", r"\end{document}",
    ])  # fmt: skip
    (tmp_path / "paper.tex").write_text(paper, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000


def test_29_the_latex_is_well_formed(files: dict[str, bytes]) -> None:
    text = files["table.tex"].decode()
    assert r"tuned\_\&\_up" in text and "tuned_&" not in text
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") > 0
    for body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        columns, rows = len(body[0]), [r for r in body[1].splitlines() if r.endswith(r"\\")]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == columns - 1
            assert not re.search(r"(?<!\\)[%$#_^~]", row)


def test_the_same_votes_give_the_same_bytes(
    votes: Votes, scores: Scores, files: dict[str, bytes], tmp_path: Path
) -> None:
    shuffled = votes.to_frame().iloc[::-1].sort_values(["position", "vote_id"], kind="stable")
    again = analyse(Votes.from_frame(shuffled), PLAN, scores)
    written = write_report(tmp_path, again)
    assert {path.name: path.read_bytes() for path in written} == files


def test_figures_are_well_formed_and_nothing_is_drawn_outside(files: dict[str, bytes]) -> None:
    names = [name for name in files if name.endswith(".svg")]
    assert len(names) == 4
    for name in names:
        assert_inside(files[name])
        assert files[name.replace(".svg", ".png")].startswith(b"\x89PNG")


def assert_inside(svg: bytes) -> float:
    """Nothing of a drawing lies beyond its edges; its width."""
    root = ElementTree.fromstring(svg)
    width, height = float(root.get("width")), float(root.get("height"))
    for mark in root:
        for key, limit in (("x", width), ("x1", width), ("cx", width), ("y", height)):
            assert 0 <= float(mark.get(key, 0)) <= limit
    return width


def test_stacked_figures_fit_a_phone_and_take_the_colours_of_their_page(analysis: Analysis) -> None:
    page = Palette("currentColor", "var(--line)", "var(--wave)", "none")
    for name, drawing in figures(analysis, stacked=True).items():
        svg = drawing.svg(page)
        assert assert_inside(svg) <= 400, name
        assert not set(vars(PAPER).values()) & set(svg.decode().split('"'))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.3, 0.7, [0.3, 0.4, 0.5, 0.6, 0.7]), (-3, 3, None)],
)
def test_ticks_are_round(low: float, high: float, expected: list | None) -> None:
    found = ticks(low, high)
    assert found == pytest.approx(expected or [-2, 0, 2])


def test_planned_contrasts_without_votes_are_reported_as_such(
    analysis: Analysis, files: dict[str, bytes]
) -> None:
    assert analysis.without_votes == (("base", "never"),)
    assert "never over base: no votes." in files["methods.txt"].decode()


def test_equality_is_tested_where_planned_whichever_way_round(analysis: Analysis) -> None:
    planned, other = analysis.contrasts[1], analysis.contrasts[0]
    assert planned.equivalence.margin == PLAN.margin and other.equivalence is None
    assert analysis.primary is other and analysis.mixed is not None


def test_rule_breakers_are_left_out_and_counted(votes: Votes, analysis: Analysis) -> None:
    counts = analysis.counts
    assert counts.raters_excluded == len(analysis.raters) == 2
    assert counts.raters_analysed == counts.raters - 2 == 22
    assert counts.excluded == 2 * len(votes) // 24
    assert counts.analysed == 22 * 16


def test_27_no_votes_and_all_ties_make_a_report_that_claims_nothing(votes: Votes) -> None:
    for some in (
        votes.where(np.zeros(len(votes), bool)),
        dataclasses.replace(votes, answer=np.full(len(votes), 2)),
    ):
        found = analyse(some, dataclasses.replace(PLAN, resamples=20))
        said = report(found)["methods.txt"].decode()
        assert "not estimable" in said
        assert "nan" not in said
        json.loads(report(found)["summary.json"])


def test_a_table_without_a_plan_is_analysed_pair_by_pair(votes: Votes) -> None:
    plan = Plan.default(votes)
    assert plan.contrasts == (("base", "tuned_&_up"), ("last", "tuned_&_up"))
    assert plan.primary is None


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_study_has_a_plan(path: Path) -> None:
    definition = validated(Definition, read_yaml(path), path.name)
    plan = Plan.of(definition)
    assert plan.primary is None or plan.contrasts[0] == plan.primary
    assert {*map(frozenset, definition.pairs.main)} == {*map(frozenset, plan.contrasts)}
    assert plan.bootstrap.level == 1 - definition.analysis.alpha


def test_tables_hold_no_empty_cell(analysis: Analysis) -> None:
    for table in tables(analysis):
        assert all(len(row) == len(table.header) and all(row) for row in table.rows)
