"""What a trained ranker is worth: accuracy, calibration, margins, per source; JSON, Markdown, plot.

Ties count in training only. Accuracy comes with its Wilson interval; the calibration error (ECE)
with what a perfectly calibrated model would show on the same margins, because an ECE is never zero
(specification, section 2.4).

Shapes: margins and targets (n,), see `training.ranker`.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttmpref.audio import write_files
from ttmpref.metrics import (
    ReliabilityBin,
    calibration_error,
    calibration_null,
    chosen_rightly,
    reliability,
    wilson_interval,
)

BINS = 10
ALL = "all"


@dataclass(frozen=True)
class Evaluation:
    """How margins agree with votes.

    Attributes:
        pairs, ties: counts; what follows is of the pairs that are no ties.
        accuracy, accuracy_interval: rate of right choices with its 95 % Wilson interval.
        ece: calibration error in `BINS` equal bins.
        ece_null: mean and 95th percentile of that of a perfectly calibrated model.
        margin_*: of |margin|; `margin_below_...` are shares.
        tie_margin: mean |margin| of the ties, None without any.
    """

    pairs: int
    ties: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    ece: float
    ece_null: tuple[float, float]
    margin_mean: float
    margin_median: float
    margin_p95: float
    margin_p99: float
    margin_max: float
    margin_below_half: float
    margin_below_one: float
    tie_margin: float | None

    @property
    def calibrated(self) -> bool:
        """Whether the calibration error is no evidence against calibration."""
        return self.ece <= self.ece_null[1]


def evaluate(margins: np.ndarray, targets: np.ndarray) -> Evaluation | None:
    """None where all pairs are ties: nothing can be right or wrong."""
    decided = targets != 0.5
    if not decided.any():
        return None
    m, wins = margins[decided], targets[decided] > 0.5
    sizes, tied = np.abs(m), np.abs(margins[~decided])
    hits = chosen_rightly(m, wins)
    return Evaluation(
        pairs=len(margins),
        ties=len(tied),
        accuracy=float(hits.mean()),
        accuracy_interval=wilson_interval(int(hits.sum()), len(hits)),
        ece=calibration_error(reliability(m, wins, BINS)),
        ece_null=calibration_null(m, BINS),
        margin_mean=float(sizes.mean()),
        margin_median=float(np.median(sizes)),
        margin_p95=float(np.percentile(sizes, 95)),
        margin_p99=float(np.percentile(sizes, 99)),
        margin_max=float(sizes.max()),
        margin_below_half=float((sizes < 0.5).mean()),
        margin_below_one=float((sizes < 1.0).mean()),
        tie_margin=float(tied.mean()) if len(tied) else None,
    )


def by_source(
    margins: np.ndarray, targets: np.ndarray, sources: Sequence[str]
) -> dict[str, Evaluation]:
    """Evaluations of all pairs (`ALL`) and of every source that has a decision."""
    names = np.array(sources)
    parts = {ALL: np.full(len(names), True)} | {name: names == name for name in sorted(set(names))}
    found = {name: evaluate(margins[rows], targets[rows]) for name, rows in parts.items()}
    return {name: one for name, one in found.items() if one is not None}


def macro_accuracy(found: Mapping[str, Evaluation]) -> float:
    """Mean over sources: the pooled accuracy is that of the largest source, little else."""
    return float(np.mean([one.accuracy for name, one in found.items() if name != ALL]))


@dataclass(frozen=True)
class Gain:
    """How much more often a ranker is right than another one on the same decisions.

    Attributes:
        value: accuracy less that of the other, -1 to 1.
        interval: at 95 %, from the spread over prompts, whose votes depend on one another; None
            where there is but one.
        prompts: that the decisions are about.
    """

    value: float
    interval: tuple[float, float] | None
    prompts: int

    @property
    def verdict(self) -> str:
        """In words; "not clear" where the interval holds 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "not clearly better or worse"
        return "better" if self.value > 0 else "worse"


def gain_over(
    before: np.ndarray, after: np.ndarray, targets: np.ndarray, prompts: Sequence[str]
) -> Gain:
    """What margins `after` gain over margins `before` of the same pairs, one of them decided.

    The interval is Student's with one degree of freedom less than prompts: few prompts, however
    many votes they have, say little.

    Args:
        prompts: of each pair; votes about the same one are drawn together.
    """
    from scipy import stats

    decided = targets != 0.5
    wins = targets[decided] > 0.5
    right = [chosen_rightly(margins[decided], wins).astype(float) for margins in (before, after)]
    gained = right[1] - right[0]
    _, group = np.unique(np.array(prompts)[decided], return_inverse=True)
    value, count = float(gained.mean()), int(group.max()) + 1
    if count == 1:
        return Gain(value, None, count)
    beyond = np.bincount(group, gained - value)  # of each prompt, what it adds to the mean
    error = np.sqrt(count / (count - 1) * np.square(beyond).sum()) / len(gained)
    half = float(stats.t.ppf(0.975, count - 1) * error)
    return Gain(value, (value - half, value + half), count)


@dataclass(frozen=True)
class RankerReport:
    """All that is written about a training.

    Attributes:
        test: evaluations of the first head, whose reward is reported.
        bins: reliability of the first head on all test pairs.
        heads: accuracy of every head; the spread is what seeds do.
        ensemble: evaluation of the mean reward of several heads, None with one.
        provenance: recipe, layout, data, versions.
        old: evaluation of another ranker on the same test pairs, None without one.
        gain: of the first head over that ranker, None without one.
    """

    test: dict[str, Evaluation]
    bins: list[ReliabilityBin]
    heads: list[float]
    ensemble: Evaluation | None
    provenance: dict[str, Any]
    old: Evaluation | None = None
    gain: Gain | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"macro_accuracy": macro_accuracy(self.test)}


def report_of(
    margins: np.ndarray, targets: np.ndarray, sources: Sequence[str], provenance: dict[str, Any]
) -> RankerReport:
    """
    Args:
        margins: (heads, n) on the test pairs; at least one pair is no tie.
    """
    decided = targets != 0.5
    wins = targets[decided] > 0.5
    return RankerReport(
        test=by_source(margins[0], targets, sources),
        bins=reliability(margins[0][decided], wins, BINS),
        heads=[float(chosen_rightly(one[decided], wins).mean()) for one in margins],
        ensemble=evaluate(margins.mean(0), targets) if len(margins) > 1 else None,
        provenance=provenance,
    )


def write_report(report: RankerReport, folder: Path) -> None:
    """`report.json`, `report.md` and `reliability.png`."""
    write_files(
        {
            folder / "report.json": _json(report.to_dict()),
            folder / "report.md": markdown(report).encode("utf-8"),
            folder / "reliability.png": reliability_plot(report.bins),
        }
    )


def _json(record: Any) -> bytes:
    return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def markdown(report: RankerReport) -> str:
    """The report for people."""
    whole = report.test[ALL]
    verdict = "inside" if whole.calibrated else "outside"
    lines = [
        "# Preference ranker",
        "",
        f"Accuracy **{_percent(whole.accuracy)}** ({_range(whole.accuracy_interval)}) on "
        f"{whole.pairs - whole.ties} held-out decisions, mean of the sources "
        f"{_percent(macro_accuracy(report.test))}.",
        f"Calibration error {whole.ece:.4f}, {verdict} the band of a perfectly calibrated model "
        f"(mean {whole.ece_null[0]:.4f}, 95 % below {whole.ece_null[1]:.4f}).",
        "",
        *_old_lines(report),
        *table(
            ("source", "pairs", "ties", "accuracy", "95 %", "ECE", "calibrated: below"),
            [
                (name, one.pairs, one.ties, _percent(one.accuracy), _range(one.accuracy_interval),
                 f"{one.ece:.4f}", f"{one.ece_null[1]:.4f}")
                for name, one in report.test.items()
            ],
        ),
        "",
        "Size of the margins of decisions, and of ties:",
        "",
        *table(
            ("source", "mean", "median", "p95", "p99", "max", "< 0.5", "< 1", "mean of ties"),
            [(name, *_margin_cells(one)) for name, one in report.test.items()],
        ),
        "",
        "![Reliability](reliability.png)",
        "",
        *_heads_lines(report),
        *(f"- {key}: {_words(value)}" for key, value in report.provenance.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _old_lines(report: RankerReport) -> list[str]:
    if report.old is None or report.gain is None:
        return []
    old, gain = report.old, report.gain
    known = "" if gain.interval is None else f", 95 % {_points(*gain.interval)}"
    return [
        f"Accuracy of the old ranker on the same decisions: **{_percent(old.accuracy)}** "
        f"({_range(old.accuracy_interval)}). The new one is **{gain.verdict}**: "
        f"{_points(gain.value)} percentage points{known} (from {gain.prompts} prompts).",
        "",
    ]


def _points(*rates: float) -> str:
    return " to ".join(f"{100 * rate:+.1f}" for rate in rates)


def _heads_lines(report: RankerReport) -> list[str]:
    if report.ensemble is None:
        return []
    rates = ", ".join(_percent(rate) for rate in report.heads)
    together = f"{_percent(report.ensemble.accuracy)}, calibration error {report.ensemble.ece:.4f}"
    return [f"Accuracy of the heads by seed: {rates}; of their mean reward: {together}.", ""]


def _margin_cells(one: Evaluation) -> tuple[str, ...]:
    sizes = (one.margin_mean, one.margin_median, one.margin_p95, one.margin_p99, one.margin_max)
    shares = (one.margin_below_half, one.margin_below_one)
    ties = "" if one.tie_margin is None else f"{one.tie_margin:.2f}"
    return (*(f"{size:.2f}" for size in sizes), *map(_percent, shares), ties)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines]


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _range(interval: tuple[float, float]) -> str:
    return f"{_percent(interval[0])} to {_percent(interval[1])}"


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def reliability_plot(bins: Sequence[ReliabilityBin]) -> bytes:
    """A PNG: rate of right choices against the claimed rate, with Wilson intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    claimed = np.array([one.confidence for one in bins])
    found = np.array([one.accuracy for one in bins])
    hits = [round(one.accuracy * one.n) for one in bins]
    ends = np.array([wilson_interval(h, one.n) for h, one in zip(hits, bins, strict=True)])
    figure, axes = pyplot.subplots(figsize=(4.5, 4.5))
    axes.plot([0.5, 1], [0.5, 1], color="0.6", linestyle="--", label="perfectly calibrated")
    bars = np.abs(ends.T - found)
    axes.errorbar(claimed, found, bars, fmt="o", capsize=3, label="bins of equal size, 95 %")
    axes.set(xlabel="claimed rate of right choices", ylabel="rate of right choices")
    axes.set(xlim=(0.48, 1.02), ylim=(min(0.45, ends.min() - 0.02), 1.02))
    axes.legend(loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return buffer.getvalue()


@dataclass(frozen=True)
class Variant:
    """One row of a comparison of trainings on the same test pairs.

    Attributes:
        heads: evaluations by source, of every head.
    """

    name: str
    layout: str
    train_pairs: int
    heads: tuple[dict[str, Evaluation], ...]

    @property
    def accuracy(self) -> dict[str, float]:
        """By source, mean over the heads."""
        return {
            source: float(np.mean([head[source].accuracy for head in self.heads]))
            for source in self.heads[0]
        }

    @property
    def spread(self) -> tuple[float, float]:
        """Lowest and highest accuracy of a head on all pairs."""
        rates = [head[ALL].accuracy for head in self.heads]
        return min(rates), max(rates)


def write_comparison(
    name: str, rows: Sequence[Variant], provenance: Mapping[str, Any], folder: Path
) -> None:
    """`<name>.json` and `<name>.md`."""
    record = {"variants": [dataclasses.asdict(row) for row in rows], "provenance": dict(provenance)}
    write_files(
        {
            folder / f"{name}.json": _json(record),
            folder / f"{name}.md": comparison(name, rows, provenance).encode("utf-8"),
        }
    )


def comparison(name: str, rows: Sequence[Variant], provenance: Mapping[str, Any]) -> str:
    """The accuracies of some variants as a Markdown page."""
    sources = [source for source in rows[0].heads[0] if source != ALL]
    whole = rows[0].heads[0][ALL]
    lines = [
        f"# {name.replace('-', ' ').capitalize()}",
        "",
        f"Accuracy on {whole.pairs - whole.ties} held-out decisions, mean over "
        f"{len(rows[0].heads)} heads of other seeds; the interval is that of the first.",
        "",
        *table(
            ("variant", "training pairs", ALL, "95 %", "heads", *sources),
            [
                (row.name, row.train_pairs, _percent(row.accuracy[ALL]),
                 _range(row.heads[0][ALL].accuracy_interval), _range(row.spread),
                 *(_percent(row.accuracy[source]) for source in sources))
                for row in rows
            ],
        ),
        "",
        *(f"- {key}: {_words(value)}" for key, value in provenance.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
