"""How far people agree with each other and with themselves, and who did not listen.

Specification of listening studies, sections 2.2 and 2.3. Answers are turned to the pair of clips,
so that the side on which a clip was heard plays no part: the first clip of a pair is the one whose
id sorts first.

Shapes: n votes, U units (pairs of clips), R raters, V values of a rating; ratings (R, U) int with
-1 where a rater did not judge a unit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ttmpref.study.bootstrap import Bootstrap, Estimate, over_prompts, share
from ttmpref.study.definition import Exclusion
from ttmpref.study.votes import ATTENTION, BOTH_BAD, TIE, A, B, Votes

Scale = Literal["nominal", "ordinal"]
FIRST, EQUAL, SECOND, BAD = range(4)  # a turned answer; ordinal but for BAD
LEAST_SHARED = 10  # units that two raters must share for a kappa of their own
LEAST_SIDES = 8  # decisive answers before one side can be called always: chance 1 in 128


@dataclass(frozen=True)
class RaterQuality:
    """What one rater's answers say about their care.

    Attributes:
        rater: label.
        votes: main answers.
        attention, attention_failed: trials with a known answer, and those answered otherwise.
        median_seconds: of main answers; None where times are unknown.
        one_side_share: share of the more chosen side among decisive answers; None below 8.
        broken: names of the exclusion rules that the rater breaks.
    """

    rater: str
    votes: int
    attention: int
    attention_failed: int
    median_seconds: float | None
    one_side_share: float | None
    broken: tuple[str, ...]


def turned(votes: Votes) -> np.ndarray:
    """(n,) which clip of the pair was preferred: FIRST, EQUAL, SECOND or BAD."""
    first_is_a = votes.stimulus_a < votes.stimulus_b
    first_won = votes.answer == np.where(first_is_a, A, B)
    values = np.where(first_won, FIRST, SECOND)
    values = np.where(votes.answer == TIE, EQUAL, values)
    return np.where(votes.answer == BOTH_BAD, BAD, values)


def pair_of(votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    """(U, 3) prompt and the two stimuli of each pair of clips, and (n,) which pair was heard."""
    low = np.minimum(votes.stimulus_a, votes.stimulus_b)
    high = np.maximum(votes.stimulus_a, votes.stimulus_b)
    keys = np.stack([votes.prompt, low, high], 1)
    pairs, unit = np.unique(keys, axis=0, return_inverse=True)
    return pairs, unit.reshape(-1)


def ratings(votes: Votes, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """(R, U) turned answers of raters to pairs, and (U,) the pairs' prompts.

    On the ordinal scale BOTH_BAD is a tie: neither clip was preferred.
    """
    pairs, unit = pair_of(votes)
    values = turned(votes)
    if scale == "ordinal":
        values = np.where(values == BAD, EQUAL, values)
    table = np.full((len(votes.raters), len(pairs)), -1)
    table[votes.rater, unit] = values
    return table, pairs[:, 0]


def krippendorff(table: np.ndarray, scale: Scale) -> float | None:
    """Krippendorff's alpha of ratings (R, U): 1 is agreement, 0 chance.

    None where no unit has two ratings, or where all ratings are the same.
    """
    value = float(_alpha(_coincidences(table).sum(0), scale))
    return value if np.isfinite(value) else None


def _coincidences(table: np.ndarray) -> np.ndarray:
    """(U, V, V) pairs of values of different raters within each unit, per m - 1 of m raters."""
    values = np.arange(table.max(initial=0) + 1)
    counts = (table[:, :, None] == values).sum(0).astype(float)  # (U, V)
    raters = counts.sum(1)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(values))
    return pairs / np.maximum(raters - 1, 1)[:, None, None]


def _alpha(coincidences: np.ndarray, scale: Scale) -> np.ndarray:
    """(...) alpha of summed coincidences (..., V, V); NaN where there is nothing to disagree on."""
    totals = coincidences.sum(-1)
    n = totals.sum(-1)
    if scale == "nominal":
        distance = 1.0 - np.eye(totals.shape[-1])
    else:
        middle = np.cumsum(totals, -1) - totals / 2.0
        distance = np.square(middle[..., :, None] - middle[..., None, :])
    expected = (totals[..., :, None] * totals[..., None, :] * distance).sum((-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        disagreement = (n - 1.0) * (coincidences * distance).sum((-1, -2)) / expected
    return np.where(expected > 0.0, 1.0 - disagreement, np.nan)


def alpha(votes: Votes, scale: Scale, bootstrap: Bootstrap) -> Estimate:
    """Krippendorff's alpha of the votes, its interval over prompts."""
    table, prompt = ratings(votes, scale)
    shared = (table >= 0).sum(0) > 1  # pairs that two or more have judged
    table, prompt = table[:, shared], prompt[shared]
    judged = table >= 0
    pairs = _coincidences(table)
    width = pairs.shape[-1]

    def statistic(sums: np.ndarray) -> np.ndarray:
        return _alpha(sums.reshape(-1, width, width), scale)[:, None]

    columns = pairs.reshape(len(pairs), width * width)
    n, raters = int(judged.sum()), int(judged.any(1).sum())
    return over_prompts(columns, prompt, statistic, n, raters, bootstrap)[0]


def cohen_kappa(tables: np.ndarray) -> np.ndarray:
    """(...) Cohen's kappa of tables (..., V, V) of joint counts; NaN where chance explains all."""
    tables = np.asarray(tables, float)
    n = tables.sum((-1, -2))
    with np.errstate(invalid="ignore", divide="ignore"):
        agreed = np.trace(tables, axis1=-2, axis2=-1) / n
        chance = (tables.sum(-1) * tables.sum(-2)).sum(-1) / np.square(n)
        return np.where(chance < 1.0, (agreed - chance) / (1.0 - chance), np.nan)


def mean_pairwise_kappa(table: np.ndarray, least: int = LEAST_SHARED) -> tuple[float | None, int]:
    """Mean Cohen's kappa over pairs of raters, and how many pairs shared `least` units.

    Args:
        table: (R, U) ratings.
    """
    values = np.arange(table.max(initial=0) + 1)
    chosen = (table[:, None, :] == values[:, None]).astype(float)  # (R, V, U)
    flat = chosen.reshape(len(table) * len(values), table.shape[1])
    joint = (flat @ flat.T).reshape(len(table), len(values), len(table), len(values))
    first, second = np.triu_indices(len(table), 1)
    joint = joint.transpose(0, 2, 1, 3)[first, second]
    kappas = cohen_kappa(joint[joint.sum((1, 2)) >= least])
    kappas = kappas[np.isfinite(kappas)]
    return (float(kappas.mean()) if len(kappas) else None), len(kappas)


def self_consistency(votes: Votes, bootstrap: Bootstrap) -> Estimate:
    """Share of repeated pairs to which the same rater gave the same answer again.

    Args:
        votes: all votes, repeats included.
    """
    again = (votes.repeat_of >= 0) & ~votes.excluded
    answers = turned(votes)
    same = answers == answers[votes.repeat_of]
    repeats = votes.where(again)
    return share(same[again].astype(float), np.ones(len(repeats), bool), repeats, bootstrap)


def quality(votes: Votes, rules: Exclusion) -> list[RaterQuality]:
    """Every rater with the exclusion rules that they break.

    Args:
        votes: all votes, attention trials included.
    """
    return [_quality_of(votes, label, code, rules) for code, label in enumerate(votes.raters)]


def _quality_of(votes: Votes, label: str, code: int, rules: Exclusion) -> RaterQuality:
    own = votes.rater == code
    check = own & (votes.kind == ATTENTION) & (votes.expected >= 0)
    failed = int((votes.answer[check] != votes.expected[check]).sum())
    main = own & (votes.kind < ATTENTION)
    seconds = votes.seconds[main]
    seconds = seconds[~np.isnan(seconds)]
    median = float(np.median(seconds)) if len(seconds) else None
    sides = votes.answer[main & votes.decisive]
    share_a = float((sides == A).mean()) if len(sides) >= LEAST_SIDES else None
    one_side = None if share_a is None else max(share_a, 1.0 - share_a)
    checked, main_votes = int(check.sum()), int(main.sum())
    broken = _broken(rules, failed, median, one_side)
    return RaterQuality(label, main_votes, checked, failed, median, one_side, broken)


def _broken(
    rules: Exclusion, failed: int, seconds: float | None, one_side: float | None
) -> tuple[str, ...]:
    """Names of the rules that these values break; what is unknown breaks none."""
    most, least_ms, side = (
        rules.attention_failed_ge, rules.median_rt_ms_lt, rules.one_side_share_gt
    )  # fmt: skip
    breaks = {
        "attention_failed_ge": most is not None and failed >= most,
        "median_rt_ms_lt": None not in (least_ms, seconds) and 1000.0 * seconds < least_ms,
        "one_side_share_gt": None not in (side, one_side) and one_side > side,
    }
    return tuple(name for name, broken in breaks.items() if broken)


def exclude(votes: Votes, rules: Exclusion) -> Votes:
    """The votes with those of rule-breaking raters marked as excluded; none is removed."""
    broken = np.array([bool(one.broken) for one in quality(votes, rules)], bool)
    return dataclasses.replace(votes, excluded=votes.excluded | broken[votes.rater])
