"""The report of a study as files: tables, figures, methods text, and every number as JSON.

Specification of listening studies, sections 2.3 and 3.5. Each number is turned into words in one
place (`words`, `p_words`), so that table, figure, methods and JSON agree; the files hold no date
and no path, so that the same votes give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ttmpref.audio import write_files
from ttmpref.study.analysis import Analysis, ContrastResult
from ttmpref.study.bootstrap import Estimate
from ttmpref.study.figures import Drawing, Point, Row, diagonal, intervals
from ttmpref.study.validity import Validity

NOT_ESTIMABLE = "not estimable"
NONE = "-"
SMALLEST_P = 0.001
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip
LATEX_HEAD = "% needs \\usepackage{booktabs}; written by ttmpref, do not edit\n"


@dataclass(frozen=True)
class Table:
    """A table of words; the first column is left-aligned, the others are centred."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [f"## {self.title}", ""]
        for cells in (self.header, ("---",) * len(self.header), *self.rows):
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        header, *rows = (" & ".join(map(latex, row)) + r" \\" for row in (self.header, *self.rows))
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex(self.title)}}}",
            rf"\begin{{tabular}}{{l{'c' * (len(self.header) - 1)}}}",
            r"\toprule",
            header,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def write_report(folder: Path, analysis: Analysis) -> list[Path]:
    """Write all files of the report into `folder`, whole or not at all.

    Raises:
        OutputError: a file cannot be written.
    """
    files = {folder / name: data for name, data in report(analysis).items()}
    write_files(files)
    return list(files)


def report(analysis: Analysis) -> dict[str, bytes]:
    """The files of the report by name."""
    found = tables(analysis)
    title = analysis.plan.title or "Listening study"
    files = {
        "summary.json": json.dumps(analysis.to_dict(), indent=2, ensure_ascii=False) + "\n",
        "table.md": f"# {title}\n\n" + "\n".join(table.markdown() for table in found),
        "table.tex": LATEX_HEAD + "\n".join(table.latex() for table in found),
        "methods.txt": methods(analysis),
    }
    encoded = {name: text.encode("utf-8") for name, text in files.items()}
    for name, drawing in figures(analysis).items():
        encoded[f"{name}.svg"] = drawing.svg()
        encoded[f"{name}.png"] = drawing.png()
    return encoded


def latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)


def words(estimate: Estimate | None) -> str:
    """A number with its interval, as every file says it."""
    if estimate is None or estimate.value is None:
        return NOT_ESTIMABLE
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f} [no interval]"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def with_n(estimate: Estimate) -> str:
    """As `words`, and how many votes, raters and prompts stand behind it."""
    return (
        f"{words(estimate)} (n = {estimate.n} votes, {estimate.raters} raters, "
        f"{estimate.prompts} prompts)"
    )


def p_words(p: float | None) -> str:
    """A p-value, or a dash where there is none."""
    if p is None:
        return NONE
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}"


def tables(analysis: Analysis) -> list[Table]:
    """All tables of the report."""
    found = [_preferences(analysis), _further(analysis), _systems(analysis)]
    found += [_sensitivity(analysis), _people(analysis)]
    if analysis.ranker is not None:
        found += [_ranker(analysis.ranker), _strata(analysis.ranker)]
    return [table for table in found if table.rows]


def _name(result: ContrastResult) -> str:
    return f"{result.found.y} over {result.found.x}"


def _preferences(analysis: Analysis) -> Table:
    header = (
        "preferred", "votes", "decisive", "raters", "prompts", "P(preferred) [CI]", "p", "p (Holm)"
    )  # fmt: skip
    rows = [
        (
            _name(one),
            str(one.found.votes),
            str(one.found.preference.n),
            str(one.found.preference.raters),
            str(one.found.preference.prompts),
            words(one.found.preference),
            p_words(one.found.p),
            p_words(one.p_adjusted),
        )
        for one in analysis.contrasts
    ]
    rows += [(f"{y} over {x}", "0", *[NONE] * (len(header) - 2)) for x, y in analysis.without_votes]
    return Table("Which system is preferred", header, tuple(rows))


def _further(analysis: Analysis) -> Table:
    header = ("preferred", "ties [CI]", "both bad [CI]", "p (sharp null)", "e-value", "equal")
    rows = [
        (
            _name(one),
            words(one.found.tie_rate),
            words(one.found.both_bad_rate),
            p_words(one.found.p_sharp),
            f"{one.evidence.e_value:.3g}",
            _equality(one),
        )
        for one in analysis.contrasts
    ]
    return Table("Ties, failures and further tests", header, tuple(rows))


def _equality(result: ContrastResult) -> str:
    """The verdict of the planned test of equality."""
    test = result.equivalence
    if test is None:
        return NONE
    if test.equivalent is None:
        return NOT_ESTIMABLE
    verdict = "yes" if test.equivalent else "not shown"
    return f"{verdict} (margin {test.margin:g}, p {p_words(test.p)})"


def _systems(analysis: Analysis) -> Table:
    header = ("system", "log strength [CI]", "rank", "both bad [CI]", "votes")
    scale = analysis.scale
    rows = []
    for system, failures in analysis.both_bad.items():
        strength, rank = NOT_ESTIMABLE, NONE
        if scale is not None and system in scale.systems:
            index = scale.systems.index(system)
            best, worst = scale.ranks[index]
            strength = words(scale.strengths[index])
            rank = str(best) if best == worst else f"{best} to {worst}"
        rows.append((system, strength, rank, words(failures), str(failures.n)))
    return Table("Systems on one scale", header, tuple(rows))


def _sensitivity(analysis: Analysis) -> Table:
    """The primary contrast in other ways, and the nuisances that should be near zero."""
    result = analysis.primary
    if result is None:
        return Table("Sensitivity of the primary contrast", (), ())
    found = result.found
    rows = [
        ("crossed bootstrap, ties dropped", found.preference),
        ("crossed bootstrap, ties and both bad count half", found.with_half_ties),
        (f"Wilson ({found.naive.note})", found.naive),
    ]
    if found.grade is not None:
        rows.append(("mean grade", found.grade))
    if analysis.mixed is not None:
        rows.append(("mixed model, new raters and prompts", analysis.mixed.preference))
        rows += [(f"log odds of {name}", one) for name, one in analysis.mixed.terms.items()]
    return _estimates(f"Sensitivity: {_name(result)}", rows)


def _people(analysis: Analysis) -> Table:
    rows = [
        ("P(answers A)", analysis.side),
        ("change of P(answers A) per ten trials", analysis.drift),
        ("change of log response time per ten trials", analysis.pace),
        ("same answer on repeats", analysis.consistency),
        ("Krippendorff's alpha, nominal", analysis.alpha_nominal),
        ("Krippendorff's alpha, ordinal", analysis.alpha_ordinal),
    ]
    if analysis.scale is not None:
        rows.append(("log odds towards A (Davidson)", analysis.scale.side))
        rows.append(("ties between equals (Davidson)", analysis.scale.ties))
    return _estimates("Listeners", rows)


def _estimates(title: str, rows: Sequence[tuple[str, Estimate | None]]) -> Table:
    return Table(
        title,
        ("quantity", "estimate [CI]", "votes", "raters", "prompts", "note"),
        tuple(
            (name, words(one), str(one.n), str(one.raters), str(one.prompts), one.note or NONE)
            for name, one in rows
            if one is not None
        ),
    )


def _ranker(ranker: Validity) -> Table:
    calibration = ranker.calibration
    rows = [
        ("accuracy on decisive votes", ranker.accuracy),
        (f"accuracy on the majorities of {ranker.pairs} pairs", ranker.majority_accuracy),
        ("ceiling: majority of the other listeners", ranker.ceiling.leave_one_out),
        ("ceiling: from agreement between listeners", ranker.ceiling.from_agreement),
        ("ceiling: from listeners' own repeats", ranker.ceiling.from_repeats),
        ("accuracy over the leave-one-out ceiling", ranker.of_ceiling),
        ("Cohen's kappa with the majority", ranker.kappa),
        ("area under the ROC curve", ranker.auc),
        ("log loss", ranker.log_loss),
        ("Brier score", ranker.brier),
        ("calibration slope (1 is right)", calibration.slope),
        ("log odds towards the later stage at equal reward", calibration.stage_bias),
        ("log odds towards A at equal reward", calibration.side_bias),
    ]
    for one in ranker.baselines:
        rows.append((one.name, one.accuracy))
        rows.append((f"gain of the ranker over: {one.name}", one.gain))
    return _estimates("Ranker against people", rows)


def _strata(ranker: Validity) -> Table:
    return Table(
        "Ranker against people by stratum",
        ("by", "stratum", "claimed accuracy", "accuracy [CI]", "votes", "raters", "prompts"),
        tuple(
            (
                one.by,
                one.label,
                f"{one.confidence:.3f}",
                words(one.accuracy),
                str(one.accuracy.n),
                str(one.accuracy.raters),
                str(one.accuracy.prompts),
            )
            for one in ranker.strata
        ),
    )


def calibration_words(ranker: Validity) -> tuple[str, str]:
    """The calibration error, and the null band without which it says nothing."""
    found = ranker.calibration
    return (
        f"calibration error {found.error:.3f} (n = {ranker.accuracy.n} votes)",
        f"perfect calibration: {found.null_mean:.3f}, up to {found.null_limit:.3f}",
    )


def figures(analysis: Analysis, stacked: bool = False) -> dict[str, Drawing]:
    """The figures by file name without ending; `stacked` ones fit narrow screens."""
    found = {}
    if analysis.contrasts:
        rows = [_row(_name(one), one.found.preference) for one in analysis.contrasts]
        axis = "P(preferred | decisive)"
        found["preferences"] = intervals("Preferences", rows, axis, 0.5, (0.3, 0.7), stacked)
    if analysis.scale is not None:
        rows = [
            _row(*pair)
            for pair in zip(analysis.scale.systems, analysis.scale.strengths, strict=True)
        ]
        axis, least = "log strength", (-0.5, 0.5)
        found["strengths"] = intervals("Strengths", rows, axis, 0.0, least, stacked)
    ranker = analysis.ranker
    if ranker is not None:
        rows = [
            _row("ranker", ranker.accuracy),
            _row("majority of the others", ranker.ceiling.leave_one_out),
            _row("ceiling from agreement", ranker.ceiling.from_agreement),
            *(_row(one.name, one.accuracy) for one in ranker.baselines),
        ]
        axis = "share of decisive votes predicted"
        title, least = "Ranker and ceilings", (0.4, 0.8)
        found["ranker_accuracy"] = intervals(title, rows, axis, 0.5, least, stacked)
        points = [
            Point(one.claimed.confidence, one.claimed.accuracy, one.accuracy.low, one.accuracy.high)
            for one in ranker.calibration.bins
        ]
        found["ranker_reliability"] = diagonal("Reliability", points, calibration_words(ranker))
    return found


def _row(label: str, estimate: Estimate) -> Row:
    return Row(label, estimate.value, estimate.low, estimate.high, words(estimate))


def methods(analysis: Analysis) -> str:
    """Text for the methods and results sections of a paper."""
    paragraphs = [_design_words(analysis), _analysis_words(analysis), *_result_words(analysis)]
    if analysis.ranker is not None:
        paragraphs.append(_ranker_words(analysis.ranker))
    return "\n\n".join(paragraphs) + "\n"


def _design_words(analysis: Analysis) -> str:
    counts, plan = analysis.counts, analysis.plan
    question = f' ("{plan.question}")' if plan.question else ""
    rules = [
        f"{name} {value:g}"
        for name, value in plan.exclusion.model_dump().items()
        if value is not None
    ]
    fixed = f" by rules fixed beforehand ({', '.join(rules)})" if rules else ""
    return (
        f"Listeners heard two clips made from the same text, blind and in random order, and "
        f"answered which they preferred{question}, with ties and 'both bad' as further answers. "
        f"{counts.raters} listeners gave {counts.votes} answers, among them {counts.attention} to "
        f"attention trials and {counts.repeats} to repeated pairs. {counts.raters_excluded} "
        f"listeners were excluded{fixed}; {counts.analysed} answers of {counts.raters_analysed} "
        f"listeners to {counts.prompts} texts were analysed."
    )


def _analysis_words(analysis: Analysis) -> str:
    plan = analysis.plan
    adjusted = " p-values of the contrasts are adjusted by Holm's method." if plan.holm else ""
    return (
        f"Preference is the share of decisive answers, estimated over listeners and texts. "
        f"Intervals ({100 * (1 - plan.alpha):g} %) come from a bootstrap of listeners and texts, "
        f"drawn independently of each other ({plan.resamples} resamples, seed {plan.seed}), scaled "
        f"to the two-way clustered variance; p-values from the same standard error and a t "
        f"distribution with G - 1 degrees of freedom, G the smaller number of clusters.{adjusted} "
        f"The sharp null 'nobody can tell' is tested against the randomised order of the clips; "
        f"its e-value is valid at any look. Strengths follow the Bradley-Terry model with "
        f"Davidson's ties, 'both bad' counting as a tie, and an effect of the order."
    )


def _result_words(analysis: Analysis) -> list[str]:
    lines = []
    for one in analysis.contrasts:
        label = "Primary: " if one is analysis.primary else ""
        holm = f", Holm-adjusted {p_words(one.p_adjusted)}" if one.p_adjusted is not None else ""
        line = (
            f"{label}{_name(one)}: {with_n(one.found.preference)}, p {p_words(one.found.p)}{holm}; "
            f"sharp null p {p_words(one.found.p_sharp)}, e-value {one.evidence.e_value:.3g}; ties "
            f"{words(one.found.tie_rate)}, both bad {words(one.found.both_bad_rate)}."
        )
        if one.equivalence is not None:
            line += f" Equality: {_equality(one)}."
        lines.append(line)
    lines += [f"{y} over {x}: no votes." for x, y in analysis.without_votes]
    if analysis.scale_note:
        lines.append(f"Scale: {analysis.scale_note}.")
    lines.append(
        f"Answers went to the first clip in {with_n(analysis.side)} of decisive trials. "
        f"Repeats: same answer {with_n(analysis.consistency)}. Krippendorff's alpha: nominal "
        f"{with_n(analysis.alpha_nominal)}, ordinal {with_n(analysis.alpha_ordinal)}. "
        f"{_kappa_words(analysis)}"
    )
    return lines


def _kappa_words(analysis: Analysis) -> str:
    if analysis.kappa is None:
        return "No two listeners shared enough clips for a kappa."
    return f"Mean kappa over {analysis.kappa_pairs} pairs of listeners: {analysis.kappa:.3f}."


def _ranker_words(ranker: Validity) -> str:
    return (
        f"The ranker predicts {with_n(ranker.accuracy)} of decisive votes; the majority of the "
        f"other listeners {words(ranker.ceiling.leave_one_out)}, and knowing every pair's majority "
        f"would reach {words(ranker.ceiling.from_agreement)}. Calibration: "
        f"{'; '.join(calibration_words(ranker))}; slope {words(ranker.calibration.slope)}."
    )
