"""Does the ranker agree with people? Beside what people can agree on, and beside dumb rankers.

Specification of listening studies, section 2.4. A pair's margin is the score of clip A less that
of clip B; the ranker claims P(A preferred) = sigma(margin). Accuracy counts decisive votes, a
margin of zero being half right. Ceilings say how far any ranker could get:

- leave one out: how often the majority of the other listeners of a pair predicts a vote;
- from agreement: two votes on a pair agree with rate a; with preferences spread as a symmetric Beta
  over pairs that fixes the accuracy of a ranker that knows each pair's majority;
- from repeats: the same with one listener's own repeats, a ranker that knows the listener.

Votes carry taste that no ranker knows, so a slope below 1 is over-confidence about *people*.

Shapes: n decisive votes with scores, U pairs of clips, S stimuli, r resamples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import expit, gammaln

from ttmpref.metrics import ReliabilityBin, calibration_error, calibration_null, reliability
from ttmpref.study.agreement import FIRST, SECOND, cohen_kappa, pair_of, turned
from ttmpref.study.bootstrap import (
    UNIT,
    Bootstrap,
    Estimate,
    Resampled,
    means,
    over_prompts,
    ratios,
    resample,
    resample_weighted,
    share,
    share_of,
)
from ttmpref.study.definition import REWARD
from ttmpref.study.logit import weighted_logits
from ttmpref.study.votes import A, InvalidVotes, Votes

BASELINES = {
    "reward_without_prompt": "the ranker without the text",
    "clap_score": "higher CLAP score wins",
    "lufs": "louder wins",
    "stage": "later stage wins",
}
SELECTED = "selected"
MARGIN_EDGES = (0.0, 0.25, 0.5, 1.0, 2.0, np.inf)
BINS = 10


@dataclass(frozen=True)
class Scores:
    """What is known of each stimulus, aligned with `Votes.stimuli`.

    Attributes:
        values: (S,) float by name, NaN where unknown. "reward" is the ranker's,
            "reward_without_prompt" the same ranker's without the text; "clap_score", "lufs" and
            "stage" (a number that rises along the chain) are dumb rankers; "selected" is 1 for
            clips that the ranker chose for training.
    """

    values: Mapping[str, np.ndarray]

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, votes: Votes) -> Scores:
        """Scores of a table with a row per stimulus: `stimulus` and columns of numbers.

        Raises:
            InvalidVotes: no stimulus column, a stimulus twice, or a value that is no number.
        """
        if "stimulus" not in frame:
            raise InvalidVotes("scores have no column 'stimulus'; needed: stimulus, reward")
        ids = frame["stimulus"].astype(str)
        if ids.duplicated().any():
            raise InvalidVotes(f"stimulus {ids[ids.duplicated()].iloc[0]!r} has two rows of scores")
        values = {}
        for name in (REWARD, *BASELINES, SELECTED):
            if name in frame:
                numbers = pd.to_numeric(frame[name], errors="coerce")
                values[name] = pd.Series(numbers.to_numpy(float), ids).reindex(votes.stimuli)
        return cls({name: column.to_numpy(float) for name, column in values.items()})

    def margin(self, name: str, votes: Votes) -> np.ndarray:
        """(n,) score of clip A less that of clip B; NaN where either is unknown."""
        values = self.values[name]
        return values[votes.stimulus_a] - values[votes.stimulus_b]


@dataclass(frozen=True)
class Bin:
    """One bar of the reliability diagram: what is claimed and what is so, with its interval."""

    claimed: ReliabilityBin
    accuracy: Estimate


@dataclass(frozen=True)
class Baseline:
    """Another ranker, mostly a dumb one, on the same votes, and how much better the ranker is."""

    name: str
    accuracy: Estimate
    gain: Estimate


@dataclass(frozen=True)
class Stratum:
    """Accuracy on some of the votes.

    Attributes:
        by: "systems", "margin" or "selection".
        label: which of them.
        confidence: mean claimed accuracy there.
    """

    by: str
    label: str
    accuracy: Estimate
    confidence: float


@dataclass(frozen=True)
class Ceiling:
    """What people allow: see the module's introduction; None where too few judged twice."""

    leave_one_out: Estimate
    from_agreement: Estimate
    from_repeats: Estimate


@dataclass(frozen=True)
class Calibration:
    """Whether claimed probabilities come true.

    Attributes:
        error: expected calibration error.
        null_mean, null_limit: mean and 95th percentile for a perfectly calibrated ranker with the
            same margins; an error below the limit is no evidence against calibration.
        slope: of the log odds of votes over the margin; below 1 is over-confident.
        stage_bias: log odds towards the later stage at margin 0; None without stages.
        side_bias: log odds towards clip A at margin 0.
        bins: of the reliability diagram.
    """

    error: float
    null_mean: float
    null_limit: float
    slope: Estimate
    stage_bias: Estimate | None
    side_bias: Estimate
    bins: tuple[Bin, ...]

    @property
    def within_null(self) -> bool:
        return self.error <= self.null_limit


@dataclass(frozen=True)
class Validity:
    """The ranker against people.

    Attributes:
        pairs: pairs of clips with a majority.
        accuracy: share of decisive votes that the ranker predicts.
        majority_accuracy: share of pairs whose majority it predicts; pairs without one left out.
        kappa: Cohen's, of ranker and majority.
        auc: area under the ROC curve of the margin.
        log_loss, brier: of the claimed probabilities; 0.693 and 0.25 for a coin.
        ceiling: what people allow.
        of_ceiling: accuracy over the leave-one-out ceiling, on the same votes.
    """

    pairs: int
    accuracy: Estimate
    majority_accuracy: Estimate
    kappa: Estimate
    auc: Estimate
    log_loss: Estimate
    brier: Estimate
    ceiling: Ceiling
    of_ceiling: Estimate
    calibration: Calibration
    baselines: tuple[Baseline, ...]
    strata: tuple[Stratum, ...]


def validity(votes: Votes, scores: Scores, bootstrap: Bootstrap) -> Validity | None:
    """Compare the ranker with the analysed votes; None without a decisive vote on scored clips.

    Args:
        votes: all votes; repeats serve the ceiling alone.
    """
    if REWARD not in scores.values:
        return None
    scored = votes.analysed
    scored = scored.where(scored.decisive & np.isfinite(scores.margin(REWARD, scored)))
    if len(scored) == 0:
        return None
    margin, wins = scores.margin(REWARD, scored), scored.answer == A
    hits = predicted(margin, wins)
    others, everything = _Others.of(scored), np.ones(len(scored), bool)
    drawn = _Means(scored, bootstrap)
    drawn.add("accuracy", hits, everything)
    drawn.add("log_loss", np.logaddexp(0.0, np.where(wins, -margin, margin)), everything)
    drawn.add("brier", np.square(expit(margin) - wins), everything)
    drawn.add("leave_one_out", others.majority_hits, others.any)
    drawn.add("agreement", others.agreement, others.any)
    bins = _bins(margin, wins, hits, drawn)
    strata = _strata(scored, scores, hits, drawn)
    rivals = _rivals(scored, scores, hits, drawn)
    majority_accuracy, kappa, pairs = _majority(scored, margin, bootstrap)
    return Validity(
        pairs=pairs,
        accuracy=drawn.share("accuracy"),
        majority_accuracy=majority_accuracy,
        kappa=kappa,
        auc=_auc(np.where(wins, margin, -margin), scored, bootstrap),
        log_loss=drawn.mean("log_loss"),
        brier=drawn.share("brier"),
        ceiling=Ceiling(
            drawn.share("leave_one_out"),
            _reachable(drawn.share("agreement")),
            _reachable(_own_agreement(votes, bootstrap)),
        ),
        of_ceiling=_of_ceiling(scored, hits, others, bootstrap),
        calibration=_calibration(scored, scores, bins, drawn, bootstrap),
        baselines=tuple(
            Baseline(BASELINES[name], drawn.share(name), drawn.mean(f"gain over {name}"))
            for name in rivals
        ),
        strata=tuple(
            Stratum(by, label, drawn.share(f"{by} {label}"), confidence)
            for by, label, confidence in strata
        ),
    )


class _Means:
    """Named means over subsets of the same votes, resampled together when first asked for."""

    def __init__(self, votes: Votes, bootstrap: Bootstrap) -> None:
        self._votes, self._bootstrap = votes, bootstrap
        self._columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, name: str, values: np.ndarray, among: np.ndarray) -> None:
        """Values (n,) that will be averaged over the votes among (n,)."""
        self._columns[name] = values, among

    @cached_property
    def _drawn(self) -> Resampled:
        values, among = (np.stack(parts, 1) for parts in zip(*self._columns.values(), strict=True))
        return means(values, among, self._votes, self._bootstrap)

    def _index(self, name: str) -> int:
        return list(self._columns).index(name)

    def mean(self, name: str) -> Estimate:
        return self._drawn.estimate(self._index(name))

    def share(self, name: str) -> Estimate:
        return share_of(self._drawn, self._index(name))


def predicted(margin: np.ndarray, wins: np.ndarray) -> np.ndarray:
    """(n,) 1 where the sign of the margin predicts a win of clip A, 1/2 where it says nothing."""
    return np.where(margin == 0.0, 0.5, (margin > 0.0) == wins)


def _majority(
    scored: Votes, margin: np.ndarray, bootstrap: Bootstrap
) -> tuple[Estimate, Estimate, int]:
    """Accuracy and kappa against the pairs' majorities, and the number of pairs that have one."""
    pairs, unit = pair_of(scored)
    towards = np.where(scored.stimulus_a < scored.stimulus_b, 1.0, -1.0)  # turned to first clips
    lead = np.bincount(unit, towards * np.where(scored.answer == A, 1, -1), len(pairs))
    claim = np.zeros(len(pairs))
    claim[unit] = np.sign(towards * margin)
    has = lead != 0
    choice = np.stack([(1.0 + claim) / 2.0, (1.0 - claim) / 2.0], 1)  # halves where it abstains
    people = np.stack([lead > 0, lead < 0], 1)
    tables = (choice[:, :, None] * people[:, None, :]).reshape(-1, 4)[has]

    def statistic(sums: np.ndarray) -> np.ndarray:
        table = sums.reshape(-1, 2, 2)
        rate = np.trace(table, axis1=1, axis2=2) / table.sum((1, 2))
        return np.stack([rate, cohen_kappa(table)], 1)

    voted = has[unit]
    n, raters = int(voted.sum()), len(np.unique(scored.rater[voted]))
    rate, kappa = over_prompts(tables, pairs[has, 0], statistic, n, raters, bootstrap)
    return rate, kappa, int(has.sum())


def _auc(won_by: np.ndarray, scored: Votes, bootstrap: Bootstrap) -> Estimate:
    """Chance that the margin of a win exceeds that of a loss, each vote taken both ways round.

    Args:
        won_by: (n,) margin of the preferred clip over the other.
    """
    order = np.argsort(-won_by, kind="stable")
    lost_by = -won_by[order]
    below, up_to = (np.searchsorted(lost_by, won_by, side) for side in ("left", "right"))

    def statistic(weights: np.ndarray) -> np.ndarray:
        mass = np.pad(np.cumsum(weights[:, order], 1), ((0, 0), (1, 0)))
        area = (weights * (mass[:, below] + mass[:, up_to]) / 2.0).sum(1)
        return (area / np.square(weights.sum(1)))[:, None]

    return resample_weighted(statistic, scored, bootstrap).estimate(0, UNIT)


@dataclass(frozen=True)
class _Others:
    """Of each decisive vote, how many others on its pair agree and differ; (n,) each."""

    agree: np.ndarray
    differ: np.ndarray

    @classmethod
    def of(cls, scored: Votes) -> _Others:
        pairs, unit = pair_of(scored)
        answer = turned(scored)
        first = np.bincount(unit, answer == FIRST, len(pairs))[unit]
        second = np.bincount(unit, answer == SECOND, len(pairs))[unit]
        same = np.where(answer == FIRST, first, second)
        return cls(same - 1, first + second - same)

    @property
    def any(self) -> np.ndarray:
        return self.agree + self.differ > 0

    @property
    def majority_hits(self) -> np.ndarray:
        """1 where the others' majority gives the same answer, 1/2 where they are split."""
        return np.where(self.any, 0.5 + np.sign(self.agree - self.differ) / 2.0, 0.0)

    @property
    def agreement(self) -> np.ndarray:
        """Share of the others who agree."""
        return self.agree / np.maximum(self.agree + self.differ, 1)


def _own_agreement(votes: Votes, bootstrap: Bootstrap) -> Estimate:
    """How often a rater who decided twice on the same pair decided alike."""
    again = (votes.repeat_of >= 0) & ~votes.excluded & votes.decisive
    again &= votes.decisive[votes.repeat_of]
    answer = turned(votes)
    same = (answer == answer[votes.repeat_of])[again]
    return share(same, np.ones(len(same), bool), votes.where(again), bootstrap)


def best_accuracy(agreement: float) -> float:
    """Accuracy of knowing each pair's majority, where two votes on a pair agree at this rate.

    Preferences h spread as Beta(a, a) over pairs have agreement E[h^2 + (1 - h)^2] =
    (a + 1) / (2 a + 1), and knowing the majority is right E[max(h, 1 - h)] =
    1/2 + 1 / (a 4^a B(a, a)) of the time.
    """
    if agreement <= 0.5:
        return 0.5
    if agreement >= 1.0:
        return 1.0
    a = (1.0 - agreement) / (2.0 * agreement - 1.0)
    log_spread = np.log(a) + a * np.log(4.0) + 2.0 * gammaln(a) - gammaln(2.0 * a)
    return float(0.5 + np.exp(-log_spread))


def _reachable(agreement: Estimate) -> Estimate:
    """`best_accuracy` of an agreement and of the ends of its interval."""
    value, low, high = (
        None if end is None else best_accuracy(end)
        for end in (agreement.value, agreement.low, agreement.high)
    )
    return dataclasses.replace(agreement, value=value, low=low, high=high, se=None)


def _of_ceiling(
    scored: Votes, hits: np.ndarray, others: _Others, bootstrap: Bootstrap
) -> Estimate:
    columns = np.stack([hits * others.any, others.majority_hits], 1)
    return resample(columns, ratios, scored, bootstrap, others.any[:, None]).estimate()


def _bins(
    margin: np.ndarray, wins: np.ndarray, hits: np.ndarray, drawn: _Means
) -> list[ReliabilityBin]:
    """The bars of the reliability diagram; their accuracies are added to `drawn`."""
    bins = reliability(margin, wins, BINS)
    order = np.argsort(np.abs(margin), kind="stable")  # as `reliability` fills its bins
    member = np.empty(len(margin), int)
    member[order] = np.repeat(np.arange(len(bins)), [one.n for one in bins])
    for index in range(len(bins)):
        drawn.add(f"bin {index}", hits, member == index)
    return bins


def _calibration(
    scored: Votes,
    scores: Scores,
    bins: list[ReliabilityBin],
    drawn: _Means,
    bootstrap: Bootstrap,
) -> Calibration:
    margin, wins = scores.margin(REWARD, scored), scored.answer == A
    terms, later = [margin, np.ones(len(margin))], _later(scored, scores)
    if later.any():
        terms.append(later)
    design = np.stack(terms, 1)
    start = weighted_logits(design, wins, np.ones((1, len(margin))))[0]
    fits = resample_weighted(lambda w: weighted_logits(design, wins, w, start), scored, bootstrap)
    mean_null, limit = calibration_null(margin, BINS, seed=bootstrap.seed)
    return Calibration(
        error=calibration_error(bins),
        null_mean=mean_null,
        null_limit=limit,
        slope=fits.estimate(0),
        side_bias=fits.estimate(1),
        stage_bias=fits.estimate(2) if later.any() else None,
        bins=tuple(Bin(one, drawn.share(f"bin {index}")) for index, one in enumerate(bins)),
    )


def _later(scored: Votes, scores: Scores) -> np.ndarray:
    """(n,) 1 where clip A is of the later stage, -1 where B is, 0 where neither or unknown."""
    if "stage" not in scores.values:
        return np.zeros(len(scored))
    return np.sign(np.nan_to_num(scores.margin("stage", scored)))


def _rivals(scored: Votes, scores: Scores, hits: np.ndarray, drawn: _Means) -> list[str]:
    """The dumb rankers whose scores are known; accuracies and gains are added to `drawn`."""
    names = []
    for name in BASELINES:
        if name in scores.values:
            margin = scores.margin(name, scored)
            known = np.isfinite(margin)
            rival = predicted(margin, scored.answer == A)
            drawn.add(name, rival, known)
            drawn.add(f"gain over {name}", hits - rival, known)
            names.append(name)
    return names


def _strata(
    scored: Votes, scores: Scores, hits: np.ndarray, drawn: _Means
) -> list[tuple[str, str, float]]:
    """What strata there are, with the mean claim; accuracies are added to `drawn`."""
    size = np.abs(scores.margin(REWARD, scored))
    found = []
    for by, label, rows in (
        *_by_systems(scored),
        *_by_margin(size),
        *_by_selection(scored, scores),
    ):
        if rows.any():
            drawn.add(f"{by} {label}", hits, rows)
            found.append((by, label, float(expit(size[rows]).mean())))
    return found


Part = tuple[str, str, np.ndarray]  # by, label, (n,) bool


def _by_systems(scored: Votes) -> list[Part]:
    low = np.minimum(scored.system_a, scored.system_b)
    high = np.maximum(scored.system_a, scored.system_b)
    parts = []
    for i, j in np.unique(np.stack([low, high], 1), axis=0):
        first, second = scored.systems[i], scored.systems[j]
        label = f"within {first}" if i == j else f"{first} / {second}"
        parts.append(("systems", label, (low == i) & (high == j)))
    return parts


def _by_margin(size: np.ndarray) -> list[Part]:
    edges = zip(MARGIN_EDGES[:-1], MARGIN_EDGES[1:], strict=True)
    return [
        ("margin", f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} or more", rows)
        for low, high in edges
        for rows in [(size >= low) & (size < high)]
    ]


def _by_selection(scored: Votes, scores: Scores) -> list[Part]:
    """Whether clips were inside the ranker's own selection loop."""
    if SELECTED not in scores.values:
        return []
    selected = scores.values[SELECTED]
    count = selected[scored.stimulus_a] + selected[scored.stimulus_b]
    labels = ("neither clip selected", "one clip selected", "both clips selected")
    return [("selection", label, count == number) for number, label in enumerate(labels)]
