"""Logistic regressions of answers: many weighted ones at once, and one with random intercepts.

Specification of listening studies, section 2.3: the mixed model is the sensitivity analysis of the
primary estimate, and its further terms (side, place in the session, differences of loudness,
bandwidth, ...) are the nuisances that should be near zero after matching.

    logit P(y preferred) = beta . terms + u_rater + v_prompt,   u ~ N(0, rater_sd^2), v likewise

The likelihood is Laplace's approximation, maximised over the two spreads.

Shapes: n votes, D terms, r weightings, R raters, P prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array, diags_array
from scipy.special import expit, ndtri

from ttmpref.study.bootstrap import Estimate
from ttmpref.study.statistics import TRIALS_PER_SLOPE
from ttmpref.study.votes import Votes

RIDGE = 1e-3  # keeps coefficients finite where the outcome is separated
NEWTON_STEPS = 25
LARGEST_STEP = 2.0
TOLERANCE = 1e-6
SPREADS = (0.02, 5.0)  # sought range of standard deviations, in log odds
SEARCH = {"xatol": 0.02, "fatol": 0.02}  # log spread and deviance; both far below their error
HERMITE_NODES = 40


@dataclass(frozen=True)
class MixedLogit:
    """The mixed model of one contrast x against y.

    Attributes:
        preference: P(prefers y | decisive) over new raters and prompts, terms at zero.
        terms: coefficients in log odds by name: "side" is the pull towards clip A, "position" is
            per ten trials, others per standard deviation of the measured difference y minus x,
            which the name states: "lufs (per 0.12)".
        rater_sd, prompt_sd: spread of the log odds over raters and prompts.
    """

    preference: Estimate
    terms: dict[str, Estimate]
    rater_sd: float
    prompt_sd: float


def weighted_logits(
    terms: np.ndarray, outcome: np.ndarray, weights: np.ndarray, start: np.ndarray | float = 0.0
) -> np.ndarray:
    """(r, D) coefficients of logistic regressions that differ in the weights of votes alone.

    Args:
        terms: (n, D).
        outcome: (n,) 0 to 1.
        weights: (r, n), at least 0.
        start: (D,) where to begin; the unweighted solution halves the work.
    """
    beta = np.zeros((len(weights), terms.shape[1])) + start
    products = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), -1)
    ridge = RIDGE * np.eye(terms.shape[1])
    for _ in range(NEWTON_STEPS):
        p = expit(beta @ terms.T)
        gradient = (weights * (outcome - p)) @ terms - RIDGE * beta
        hessian = ((weights * p * (1.0 - p)) @ products).reshape(-1, *ridge.shape) + ridge
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        longest = np.abs(step).max(-1, keepdims=True)
        beta += step * np.minimum(1.0, LARGEST_STEP / np.maximum(longest, TOLERANCE))
        if longest.max(initial=0.0) < TOLERANCE:
            break
    return beta


def mixed_logit(votes: Votes, x: str, y: str, level: float = 0.95) -> MixedLogit | None:
    """The mixed model of the decisive votes between x and y.

    None where it cannot be fitted: fewer than two raters or prompts, or all votes for one system.
    """
    votes = votes.between(x, y)
    preferred = votes.prefers(y)
    votes, wins = votes.where(preferred != 0), preferred[preferred != 0] > 0
    if wins.all() or not wins.any():
        return None
    model = _Crossed.of(votes, _terms(votes, y), wins.astype(float))
    if min(model.raters, model.prompts) < 2:
        return None
    mode = np.zeros(model.design.shape[1])

    def deviance(logs: np.ndarray) -> float:
        nonlocal mode  # neighbouring spreads have neighbouring modes: start from the last
        value, mode = model.deviance(logs, mode)
        return value

    best = minimize(deviance, np.log([0.5, 0.5]), method="Nelder-Mead", options=SEARCH)
    spreads = model.spreads(best.x)
    mode, hessian = model.newton(model.precision(spreads), mode)
    covariance = np.linalg.inv(hessian)
    bare = (len(votes), model.raters, model.prompts, level)
    terms = {
        name: _normal(mode[index], math.sqrt(covariance[index, index]), bare)
        for index, name in enumerate(model.names)
    }
    return MixedLogit(_marginal(terms.pop("intercept"), *spreads), terms, *map(float, spreads))


def _terms(votes: Votes, y: str) -> dict[str, np.ndarray]:
    """(n,) terms by name, turned towards y; what does not vary is left out."""
    towards = np.where(votes.system_a == votes.system(y), 1.0, -1.0)
    place = votes.position / TRIALS_PER_SLOPE
    terms = {"side": towards, "position": place - place.mean()}
    for name, values in votes.covariates.items():
        difference = towards * np.nan_to_num(values)
        spread = difference.std()
        if spread > 0.0:
            terms[f"{name} (per {spread:.2g})"] = difference / spread
    varying = {name: values for name, values in terms.items() if len(np.unique(values)) > 1}
    return {"intercept": np.ones(len(votes)), **varying}


def _normal(value: float, se: float, bare: tuple[int, int, int, float]) -> Estimate:
    half = float(ndtri(0.5 + bare[-1] / 2.0)) * se
    return Estimate(float(value), float(value - half), float(value + half), se, *bare)


def _marginal(intercept: Estimate, rater_sd: float, prompt_sd: float) -> Estimate:
    """Log odds of a typical rater and prompt, to the share over all of them."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
    weights = weights / weights.sum()
    spread = math.hypot(rater_sd, prompt_sd)

    def share(log_odds: float) -> float:
        return float(weights @ expit(log_odds + spread * nodes))

    at = expit(intercept.value + spread * nodes)
    return Estimate(
        share(intercept.value),
        share(intercept.low),
        share(intercept.high),
        float(weights @ (at * (1.0 - at))) * intercept.se,
        intercept.n,
        intercept.raters,
        intercept.prompts,
        intercept.level,
        "mixed model; the uncertainty of its spreads is left out",
    )


@dataclass(frozen=True, eq=False)
class _Crossed:
    """A logistic regression with one intercept per rater and per prompt.

    Coefficients stand as D terms, R raters, P prompts.
    """

    names: tuple[str, ...]
    design: csr_array  # (n, D + R + P), nearly all zero
    outcome: np.ndarray  # (n,)
    raters: int
    prompts: int

    @classmethod
    def of(cls, votes: Votes, terms: dict[str, np.ndarray], outcome: np.ndarray) -> _Crossed:
        labels, rater = np.unique(votes.rater, return_inverse=True)
        texts, prompt = np.unique(votes.prompt, return_inverse=True)
        blocks = [np.stack(list(terms.values()), 1), np.eye(len(labels))[rater]]
        design = csr_array(np.hstack([*blocks, np.eye(len(texts))[prompt]]))
        return cls(tuple(terms), design, outcome, len(labels), len(texts))

    def spreads(self, logs: np.ndarray) -> np.ndarray:
        """(2,) standard deviations of raters and prompts within the sought range."""
        return np.exp(np.clip(logs, *np.log(SPREADS)))

    def precision(self, spreads: np.ndarray) -> np.ndarray:
        """(D + R + P,) prior precisions."""
        rater, prompt = 1.0 / np.square(spreads)
        free = np.full(len(self.names), RIDGE)
        return np.concatenate([free, np.full(self.raters, rater), np.full(self.prompts, prompt)])

    def deviance(self, logs: np.ndarray, start: np.ndarray) -> tuple[float, np.ndarray]:
        """-2 x Laplace's log likelihood of the log spreads, and the mode of all coefficients."""
        precision = self.precision(self.spreads(logs))
        beta, hessian = self.newton(precision, start)
        linear = self.design @ beta
        fit = (self.outcome * linear - np.logaddexp(0.0, linear)).sum()
        random = slice(len(self.names), None)
        penalty = (precision * np.square(beta))[random].sum()
        volume = np.linalg.slogdet(hessian[random, random])[1] - np.log(precision[random]).sum()
        return float(-2.0 * fit + penalty + volume), beta

    def newton(self, precision: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Penalised mode of all coefficients and the curvature there."""
        beta = start.copy()
        for _ in range(NEWTON_STEPS):
            p = expit(self.design @ beta)
            spread = diags_array(p * (1.0 - p))
            hessian = (self.design.T @ spread @ self.design).toarray() + np.diag(precision)
            step = np.linalg.solve(hessian, self.design.T @ (self.outcome - p) - precision * beta)
            beta += step * min(1.0, LARGEST_STEP / max(np.abs(step).max(), TOLERANCE))
            if np.abs(step).max() < TOLERANCE:
                break
        return beta, hessian
