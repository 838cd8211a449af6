"""One scale for all systems: Bradley-Terry with Davidson's ties and the effect of the side.

Specification of listening studies, section 2.3; Davidson (1970), Davidson and Beaver (1977). With
log strengths lambda, side effect delta and tie parameter eta, the answers A, B and tie to a trial
with system i as clip A and j as clip B have weights

    exp(m / 2), exp(-m / 2), exp(eta),    m = lambda_i - lambda_j + delta.

BOTH_BAD counts as a tie: neither was preferred. Strengths are centred. A weak ridge keeps them
finite where one system never lost; `Fit.separated` says that it had to. Strengths can be compared
only within a connected set of comparisons, so anything else is refused.

Shapes: C cells (ordered pair of systems), S systems, D = S + 2 parameters (strengths, side, tie);
leading axes ... hold resamples, which are fitted all at once.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ttmpref.study.bootstrap import Bootstrap, Estimate, Resampled, resample
from ttmpref.study.votes import BOTH_BAD, TIE, Votes
from ttmpref.types import TtmprefError

RIDGE = 0.01  # prior precision of strengths (log odds): an SD of 10, far beyond any music
NEWTON_STEPS = 30
LARGEST_STEP = 1.0  # log odds; longer steps overshoot where a resample is nearly separated
TOLERANCE = 1e-8
OUTCOMES = 3  # A, B, tie


class NotConnected(TtmprefError, ValueError):
    """Systems fall into groups that were never compared with each other."""


@dataclass(frozen=True)
class Fit:
    """Strengths of systems and what comes with them.

    Attributes:
        systems: sorted labels.
        strengths: centred log strengths, one per system.
        ranks: (best, worst) rank of each system that the resamples leave open, 1 is best.
        differences: log odds that the second of each pair beats the first, by (first, second).
        side: log odds towards clip A.
        ties: share of ties between equals on the same side effect 0.
        ridge: the prior precision that was used.
        separated: some system never lost or never won; strengths rest on the ridge.
    """

    systems: tuple[str, ...]
    strengths: tuple[Estimate, ...]
    ranks: tuple[tuple[int, int], ...]
    differences: dict[tuple[str, str], Estimate]
    side: Estimate
    ties: Estimate
    ridge: float
    separated: bool

    def probability(self, x: str, y: str) -> float:
        """P(y beats x | decisive) without a side effect."""
        gap = self.strengths[self.systems.index(y)].value
        gap -= self.strengths[self.systems.index(x)].value
        return float(1.0 / (1.0 + np.exp(-gap)))


def fit(votes: Votes, bootstrap: Bootstrap) -> Fit:
    """Fit all votes between different systems, intervals over raters and prompts.

    Raises:
        NotConnected: one line naming the groups of systems that never met.
    """
    votes = votes.where(votes.system_a != votes.system_b)
    codes = np.union1d(votes.system_a, votes.system_b)
    systems = tuple(votes.systems[code] for code in codes)
    first, second = np.searchsorted(codes, votes.system_a), np.searchsorted(codes, votes.system_b)
    _check_connected(systems, first, second)
    outcome = np.where(np.isin(votes.answer, (TIE, BOTH_BAD)), 2, votes.answer)
    cells, cell = np.unique(np.stack([first, second], 1), axis=0, return_inverse=True)
    onehot = np.eye(len(cells) * OUTCOMES)[cell.reshape(-1) * OUTCOMES + outcome]

    def parameters(sums: np.ndarray) -> np.ndarray:
        return davidson(sums.reshape(*sums.shape[:-1], len(cells), OUTCOMES), cells, len(systems))

    drawn = resample(onehot, parameters, votes, bootstrap)
    return _read(drawn, systems, _separated(onehot.sum(0), cells, len(systems)))


def _check_connected(systems: tuple[str, ...], first: np.ndarray, second: np.ndarray) -> None:
    if not systems:
        raise NotConnected("no votes compare two systems; a common scale needs some")
    group = np.arange(len(systems))
    for i, j in set(zip(first.tolist(), second.tolist(), strict=True)):
        group = np.where(group == group[i], group[j], group)
    if len(set(group)) > 1:
        names = [
            "{" + ", ".join(s for s, own in zip(systems, group, strict=True) if own == one) + "}"
            for one in sorted(set(group))
        ]
        raise NotConnected(
            f"systems {' and '.join(names)} were never compared; votes must connect all systems"
        )


def _separated(counts: np.ndarray, cells: np.ndarray, systems: int) -> bool:
    """Whether some system never lost, or never won, against any rival; ties hold them together."""
    counts = counts.reshape(len(cells), OUTCOMES)
    beats = np.eye(systems, dtype=bool)
    for (i, j), (a, b, tie) in zip(cells, counts, strict=True):
        beats[i, j] |= a + tie > 0
        beats[j, i] |= b + tie > 0
    for middle in range(systems):  # who beats whom through others (Ford's condition)
        beats |= beats[:, middle : middle + 1] & beats[middle : middle + 1, :]
    return not beats.all()


def davidson(counts: np.ndarray, cells: np.ndarray, systems: int) -> np.ndarray:
    """Penalised maximum likelihood by Newton's method, all resamples at once.

    Args:
        counts: (..., C, 3) answers A, B and tie of each cell, not necessarily whole.
        cells: (C, 2) systems of clips A and B.
        systems: S.

    Returns:
        (..., S + 2): centred log strengths, side effect, tie parameter.
    """
    shape = counts.shape[:-2]
    counts = counts.reshape(-1, *counts.shape[-2:])
    total = counts.sum(-1)
    design = np.zeros((len(cells), systems + 2))  # m = design @ parameters
    rows = np.arange(len(cells))
    design[rows, cells[:, 0]] += 1.0
    design[rows, cells[:, 1]] -= 1.0
    design[:, systems] = 1.0
    tie_axis = np.zeros(systems + 2)
    tie_axis[-1] = 1.0
    theta = np.zeros((len(counts), systems + 2))
    for _ in range(NEWTON_STEPS):
        half = theta @ design.T / 2.0
        weights = np.exp(np.stack([half, -half, np.broadcast_to(theta[:, -1:], half.shape)], -1))
        p = weights / weights.sum(-1, keepdims=True)
        lean, drawn = p[..., 0] - p[..., 1], p[..., 2]
        # Expected and observed sums of the two statistics of a cell: (A - B) / 2 and ties.
        misfit = (counts[..., 0] - counts[..., 1] - total * lean) / 2.0
        gradient = misfit @ design - RIDGE * theta
        gradient[:, -1] += (counts[..., 2] - total * drawn).sum(-1)
        curvature = total * (1.0 - drawn - lean * lean) / 4.0
        mixed = (-total * lean * drawn / 2.0) @ design
        hessian = np.einsum("bc,ci,cj->bij", curvature, design, design, optimize=True)
        hessian += mixed[:, :, None] * tie_axis + tie_axis[:, None] * mixed[:, None, :]
        hessian[:, -1, -1] += (total * drawn * (1.0 - drawn)).sum(-1)
        hessian += RIDGE * np.eye(systems + 2)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        longest = np.abs(step).max(-1, keepdims=True)
        theta += step * np.minimum(1.0, LARGEST_STEP / np.maximum(longest, TOLERANCE))
        if longest.max(initial=0.0) < TOLERANCE:
            break
    theta[:, :systems] -= theta[:, :systems].mean(-1, keepdims=True)
    return theta.reshape(*shape, systems + 2)


def _read(drawn: Resampled, systems: tuple[str, ...], separated: bool) -> Fit:
    """Estimates of fitted parameters (M = S + 2)."""
    count = len(systems)
    pairs = list(itertools.combinations(range(count), 2))
    gaps = drawn.map(lambda theta: np.stack([theta[..., j] - theta[..., i] for i, j in pairs], -1))
    shares = drawn.map(lambda theta: _tie_share(theta[..., -1:]))
    return Fit(
        systems,
        strengths=tuple(drawn.estimate(index) for index in range(count)),
        ranks=_ranks(drawn, count),
        differences={
            (systems[i], systems[j]): gaps.estimate(index) for index, (i, j) in enumerate(pairs)
        },
        side=drawn.estimate(count),
        ties=shares.estimate(0, (0.0, 1.0)),
        ridge=RIDGE,
        separated=separated,
    )


def _tie_share(eta: np.ndarray) -> np.ndarray:
    """Share of ties between equals: exp(eta) / (2 + exp(eta))."""
    return 1.0 / (1.0 + 2.0 * np.exp(-eta))


def _ranks(drawn: Resampled, systems: int) -> tuple[tuple[int, int], ...]:
    """Central ranges of ranks over resamples of raters and prompts."""
    strengths = drawn.crossed[:, :systems]
    ranks = 1 + (strengths[:, None, :] > strengths[:, :, None]).sum(-1)
    tail = (1.0 - drawn.level) / 2.0
    low, high = np.quantile(ranks, [tail, 1.0 - tail], axis=0, method="inverted_cdf")
    return tuple((int(best), int(worst)) for best, worst in zip(low, high, strict=True))
