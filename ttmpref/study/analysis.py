"""The planned analysis of a study, run on a votes table: what the report, the tab and the CLI show.

Specification of listening studies, section 2.3. The plan is fixed in the study's definition before
the first vote; nothing here looks at the answers to decide what to do. What the votes cannot say is
None or a note, never a crash and never a guess.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttmpref.study.agreement import (
    RaterQuality,
    alpha,
    exclude,
    mean_pairwise_kappa,
    quality,
    ratings,
    self_consistency,
)
from ttmpref.study.bootstrap import Bootstrap, Estimate
from ttmpref.study.bradley_terry import Fit, NotConnected, fit
from ttmpref.study.definition import Definition, EvalueStopping, Exclusion, sides
from ttmpref.study.logit import MixedLogit, mixed_logit
from ttmpref.study.sequential import Evidence, evidence
from ttmpref.study.statistics import (
    Contrast,
    Equivalence,
    both_bad_rates,
    contrast,
    equivalence,
    holm,
    side_effect,
    slope,
)
from ttmpref.study.validity import Scores, Validity, validity
from ttmpref.study.votes import ATTENTION, PRACTICE, A, Votes

Pair = tuple[str, str]
SIGNIFICANT = 6  # digits kept in files: far beyond what votes can say, and the same every time


@dataclass(frozen=True)
class Plan:
    """What will be computed.

    Attributes:
        title, question: of the study, in words.
        contrasts: (x, y), "is y preferred to x?".
        primary: the contrast that decides, one of `contrasts`.
        equivalence: contrasts held to be equal within `margin`.
        margin: P(prefer) = 1/2 -+ margin counts as equal.
        exclusion: rules for raters.
        alpha: of tests; intervals have level 1 - alpha.
        holm: whether p-values of the contrasts are adjusted for their number.
        stop_alpha: the study stops at the e-value 1 / stop_alpha; None for a fixed size.
        resamples, seed: of the bootstrap.
    """

    title: str = ""
    question: str = ""
    contrasts: tuple[Pair, ...] = ()
    primary: Pair | None = None
    equivalence: tuple[Pair, ...] = ()
    margin: float = 0.1
    exclusion: Exclusion = Exclusion()
    alpha: float = 0.05
    holm: bool = True
    stop_alpha: float | None = None
    resamples: int = Bootstrap.resamples
    seed: int = 0

    @classmethod
    def of(cls, definition: Definition) -> Plan:
        """The plan that a study's definition fixed."""
        planned = definition.analysis
        primary = sides(planned.primary, "<") if planned.primary else None
        pairs = [pair for pair in definition.pairs.main if set(pair) != set(primary or ())]
        stopping = definition.stopping
        return cls(
            title=definition.title,
            question=next(iter(definition.question.values())),
            contrasts=(*([primary] if primary else []), *pairs),
            primary=primary,
            equivalence=tuple(sides(pair, "~") for pair in planned.equivalence.pairs),
            margin=planned.equivalence.margin,
            exclusion=definition.exclusion,
            alpha=planned.alpha,
            holm=planned.holm,
            stop_alpha=stopping.alpha if isinstance(stopping, EvalueStopping) else None,
            seed=definition.seed,
        )

    @classmethod
    def default(cls, votes: Votes) -> Plan:
        """Every pair of systems that met in an analysed vote, none of them primary."""
        analysed = votes.analysed
        low = np.minimum(analysed.system_a, analysed.system_b)
        high = np.maximum(analysed.system_a, analysed.system_b)
        met = np.unique(np.stack([low, high], 1)[low != high], axis=0)
        return cls(contrasts=tuple((votes.systems[i], votes.systems[j]) for i, j in met))

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.resamples, 1.0 - self.alpha, self.seed)


@dataclass(frozen=True)
class Counts:
    """What came in and what was analysed."""

    votes: int
    analysed: int
    excluded: int
    repeats: int
    attention: int
    raters: int
    raters_analysed: int
    raters_excluded: int
    prompts: int


@dataclass(frozen=True)
class ContrastResult:
    """A contrast with what depends on the whole plan.

    Attributes:
        found: the contrast.
        p_adjusted: Holm's, over all contrasts of the plan; None without Holm or without a p-value.
        equivalence: the planned test of equality, None where none was planned.
        evidence: e-value and confidence sequence.
    """

    found: Contrast
    p_adjusted: float | None
    equivalence: Equivalence | None
    evidence: Evidence


@dataclass(frozen=True)
class Analysis:
    """Everything that the report shows.

    Attributes:
        plan: what was planned.
        counts: what came in.
        contrasts: in the order of the plan.
        without_votes: planned contrasts that nobody has judged.
        mixed: mixed model of the primary contrast, the sensitivity analysis.
        scale: Bradley-Terry strengths; None where they cannot be had, and `scale_note` says why.
        side: P(answers A | decisive).
        drift: change of P(answers A) per ten trials.
        pace: change of log response time per ten trials; None where times are unknown.
        both_bad: absolute failures by system.
        consistency: share of repeats answered alike.
        alpha_nominal, alpha_ordinal: Krippendorff's.
        kappa, kappa_pairs: mean Cohen's kappa over pairs of raters who share 10 clips, how many.
        ranker: the ranker against people; None without scores.
        raters: those whom the rules exclude.
    """

    plan: Plan
    counts: Counts
    contrasts: tuple[ContrastResult, ...]
    without_votes: tuple[Pair, ...]
    mixed: MixedLogit | None
    scale: Fit | None
    scale_note: str
    side: Estimate
    drift: Estimate
    pace: Estimate | None
    both_bad: dict[str, Estimate]
    consistency: Estimate
    alpha_nominal: Estimate
    alpha_ordinal: Estimate
    kappa: float | None
    kappa_pairs: int
    ranker: Validity | None
    raters: tuple[RaterQuality, ...]

    @property
    def primary(self) -> ContrastResult | None:
        """The result of the primary contrast, None without votes on it."""
        return next((one for one in self.contrasts if _pair(one.found) == self.plan.primary), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values, numbers at six significant digits."""
        return _plain(self)


def analyse(votes: Votes, plan: Plan, scores: Scores | None = None) -> Analysis:
    """Run the plan.

    Args:
        votes: everything that was answered, with exclusions marked; the plan's rules mark more.
        scores: of the clips, for the comparison of the ranker with people.
    """
    bootstrap = plan.bootstrap
    votes = votes.where(votes.kind != PRACTICE)
    flagged = tuple(one for one in quality(votes, plan.exclusion) if one.broken)
    votes = exclude(votes, plan.exclusion)
    analysed = votes.analysed
    contrasts, without = _contrasts(analysed, plan)
    scale, scale_note = _scale(analysed, bootstrap)
    decided = analysed.where(analysed.decisive)
    timed = analysed.where(analysed.seconds > 0)
    kappa, kappa_pairs = mean_pairwise_kappa(ratings(analysed, "nominal")[0])
    return Analysis(
        plan,
        _counts(votes, analysed, len(flagged)),
        contrasts,
        without,
        mixed=_mixed(analysed, plan),
        scale=scale,
        scale_note=scale_note,
        side=side_effect(analysed, bootstrap),
        drift=slope(decided.answer == A, decided, bootstrap),
        pace=slope(np.log(timed.seconds), timed, bootstrap) if len(timed) else None,
        both_bad=both_bad_rates(analysed, bootstrap),
        consistency=self_consistency(votes, bootstrap),
        alpha_nominal=alpha(analysed, "nominal", bootstrap),
        alpha_ordinal=alpha(analysed, "ordinal", bootstrap),
        kappa=kappa,
        kappa_pairs=kappa_pairs,
        ranker=None if scores is None else validity(votes, scores, bootstrap),
        raters=flagged,
    )


def _counts(votes: Votes, analysed: Votes, raters_excluded: int) -> Counts:
    return Counts(
        votes=len(votes),
        analysed=len(analysed),
        excluded=int(votes.excluded.sum()),
        repeats=int((votes.repeat_of >= 0).sum()),
        attention=int((votes.kind == ATTENTION).sum()),
        raters=len(np.unique(votes.rater)),
        raters_analysed=len(np.unique(analysed.rater)),
        raters_excluded=raters_excluded,
        prompts=len(np.unique(analysed.prompt)),
    )


def _contrasts(analysed: Votes, plan: Plan) -> tuple[tuple[ContrastResult, ...], tuple[Pair, ...]]:
    judged, without = [], []
    for pair in plan.contrasts:
        known = set(pair) <= set(analysed.systems) and analysed.compares(*pair).any()
        (judged if known else without).append(pair)
    found = [contrast(analysed, *pair, plan.bootstrap) for pair in judged]
    adjusted = holm([one.p for one in found]) if plan.holm else [None] * len(found)
    results = [
        ContrastResult(
            one,
            p,
            _equality(one, plan),
            evidence(analysed, *pair, plan.stop_alpha or plan.alpha),
        )
        for pair, one, p in zip(judged, found, adjusted, strict=True)
    ]
    return tuple(results), tuple(without)


def _equality(found: Contrast, plan: Plan) -> Equivalence | None:
    """The test of equality where the plan has one, whichever way round it names the pair."""
    if not any(set(pair) == set(_pair(found)) for pair in plan.equivalence):
        return None
    return equivalence(found.preference, plan.margin, plan.alpha)


def _mixed(analysed: Votes, plan: Plan) -> MixedLogit | None:
    if plan.primary is None or not set(plan.primary) <= set(analysed.systems):
        return None
    return mixed_logit(analysed, *plan.primary, 1.0 - plan.alpha)


def _scale(analysed: Votes, bootstrap: Bootstrap) -> tuple[Fit | None, str]:
    """Strengths of all systems, or why there are none."""
    try:
        found = fit(analysed, bootstrap)
    except NotConnected as error:
        return None, str(error)
    note = "some system never lost or never won: strengths rest on the weak ridge"
    return found, note if found.separated else ""


def _pair(found: Contrast) -> Pair:
    return found.x, found.y


def _plain(value: Any) -> Any:
    """Records, tuples and numbers as JSON knows them; what is not finite is null."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {_key(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Exclusion):
        return value.model_dump(mode="json")
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT}g}") if math.isfinite(value) else None
    return value


def _key(key: Any) -> str:
    return " / ".join(key) if isinstance(key, tuple) else str(key)
