"""Anchor calibration: what a few battles say about how a reward treats each system.

TuneJury specification, section 5. A reward may be unfair to a whole system: every clip of it scores
too high or too low. Each system s gets an offset beta_s, and the log odds that clip A wins are

    z = a (s_A - s_B) - (beta_A - beta_B),        P(A | decisive) = 1 / (1 + exp(-z))

with the scale a = 1, or learned. Minimised is the negative log likelihood of the battles, summed,
plus ridge * sum beta^2 + scale_ridge * (a - 1)^2. Only differences of offsets are seen, so without
a pinned system the ridge makes them sum to zero; a pinned system has offset 0. Ties count as half a
win for each, or have odds of their own (Davidson 1970): A, B and tie weigh exp(z/2), exp(-z/2) and
exp(eta).

Beside it stand the same model that ignores the reward (a = 0, Bradley-Terry) and the answer "always
B": on the data of the specification a leaderboard that never listens does as well from a hundred
battles on. Nothing is claimed of systems with fewer than `MIN_BATTLES` battles.

Shapes: n battles, S systems, K outcomes (A, B and perhaps tie), P = S + 2 parameters: offsets,
scale, eta.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.special import expit

from ttmpref.audio import write_files
from ttmpref.config import FrozenConfig, read_record, record_bytes
from ttmpref.reward.battles import (
    Battles,
    Evaluation,
    always_b,
    cell,
    column_name,
    evaluate,
    number,
    read_csv,
)
from ttmpref.types import InvalidRequest

MIN_BATTLES = 5  # against other systems, before an offset is spoken of
SWEEP_SIZES = (0, 3, 10, 30, 100, 250)
SWEEP_SEEDS = (0, 1, 2, 3, 4)
FOLDS = 10
Z_95 = 1.96
NEWTON_STEPS = 50
LONGEST_STEP = 1.0  # log odds; longer ones overshoot where few battles say much
TOLERANCE = 1e-10  # of the last step

Scale = Literal["one", "learned", "none"]
Ties = Literal["half", "davidson"]


class AnchorOptions(FrozenConfig):
    """How offsets are fitted.

    Attributes:
        scale: "one" takes margins as they are, "learned" shrinks or stretches them, "none" ignores
            the reward (Bradley-Terry).
        pinned: system whose offset is 0; None makes offsets sum to zero.
        ties: "half" a win for each, or "davidson".
        ridge: of offsets and of eta, per unit squared.
        scale_ridge: pulls a learned scale to 1.
    """

    scale: Scale = "one"
    pinned: str | None = None
    ties: Ties = "half"
    ridge: float = Field(1.0, gt=0)
    scale_ridge: float = Field(1.0, gt=0)


class Anchored(FrozenConfig):
    """A fitted number with its 95 % interval (Laplace's approximation)."""

    value: float
    low: float
    high: float


class SystemOffset(Anchored):
    """What the reward gives a system too much, in log odds.

    Attributes:
        battles: those against other systems that it rests on.
    """

    battles: int = Field(ge=0)

    @property
    def claim(self) -> str:
        """What may be said of the system."""
        if self.battles < MIN_BATTLES:
            return f"no claim: fewer than {MIN_BATTLES} battles"
        if self.low > 0:
            return "over-scored"
        return "under-scored" if self.high < 0 else "no clear offset"


class AnchorCalibration(FrozenConfig):
    """Offsets of systems, kept as a JSON file.

    Attributes:
        battles: all that were fitted, ties included.
        systems: offsets by label.
        scale: a; its interval is the value itself where it was not learned.
        eta: log odds of a tie; None where ties count half.
    """

    format: Literal[1] = 1
    options: AnchorOptions
    battles: int = Field(ge=0)
    systems: dict[str, SystemOffset]
    scale: Anchored
    eta: Anchored | None

    def offset(self, system: str) -> float:
        """beta of a system; 0 for one that was never seen."""
        known = self.systems.get(system)
        return 0.0 if known is None else known.value

    def claim(self, system: str) -> str:
        """What may be said of a system, seen or not."""
        known = self.systems.get(system)
        return "no claim: not in any battle" if known is None else known.claim

    def corrected(self, reward: float, system: str) -> float:
        """a * reward - beta: differences of corrected rewards are log odds of being preferred."""
        return self.scale.value * reward - self.offset(system)

    def margins(self, battles: Battles) -> np.ndarray:
        """(n,) log odds that A wins."""
        offsets = [
            np.array([self.offset(system) for system in side.tolist()])
            for side in (battles.system_a, battles.system_b)
        ]
        return self.scale.value * battles.margins - (offsets[0] - offsets[1])

    def save(self, path: Path) -> None:
        """Write JSON, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        write_files({path: record_bytes(self)})

    @classmethod
    def load(cls, path: Path) -> AnchorCalibration:
        """
        Raises:
            ConfigError: not a calibration file; names the key that is wrong.
        """
        return read_record(cls, path)


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The penalised negative log likelihood, its gradient and its curvature.

    Every outcome's log weight is linear in the parameters, so it is convex.

    Attributes:
        terms: (n, K, P) derivatives of log weights by parameters.
        share: (n, K) what happened: 1, or 1/2 for each side of a tie that counts half.
        start: (P,) where the penalty is zero.
        penalty: (P,) factor of the squared distance from there.
    """

    terms: np.ndarray
    share: np.ndarray
    start: np.ndarray
    penalty: np.ndarray

    @classmethod
    def of(cls, battles: Battles, systems: Sequence[str], options: AnchorOptions) -> Likelihood:
        """The likelihood of battles between `systems`, which hold all labels of the battles."""
        rows, count = np.arange(len(battles)), len(systems)
        z = np.zeros((len(battles), count + 2))
        # Added up, so that the offset of a system that meets itself cancels.
        z[rows, np.searchsorted(systems, battles.system_a)] -= 1.0
        z[rows, np.searchsorted(systems, battles.system_b)] += 1.0
        z[:, count] = battles.margins
        target, tie = battles.target[:, None], ~battles.decisive[:, None]
        terms, share = [z / 2, -z / 2], [target, 1.0 - target]
        if options.ties == "davidson":
            eta = np.broadcast_to(np.eye(count + 2)[-1], z.shape)
            terms, share = [*terms, eta], [battles.wins[:, None], target == 0.0, tie]
        penalty = np.full(count + 2, options.ridge)
        penalty[count] = options.scale_ridge
        start = np.zeros(count + 2)
        start[count] = 0.0 if options.scale == "none" else 1.0
        return cls(np.stack(terms, 1), np.hstack(share).astype(float), start, penalty)

    def _log_chances(self, theta: np.ndarray) -> np.ndarray:
        """(n, K) log probabilities of the outcomes."""
        weights = self.terms @ theta
        return weights - np.logaddexp.reduce(weights, axis=1, keepdims=True)

    def value(self, theta: np.ndarray) -> float:
        away = theta - self.start
        return float(self.penalty @ away**2 - (self.share * self._log_chances(theta)).sum())

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        surplus = np.exp(self._log_chances(theta)) - self.share
        return np.einsum("nk,nkp->p", surplus, self.terms) + 2 * self.penalty * (theta - self.start)

    def curvature(self, theta: np.ndarray) -> np.ndarray:
        """(P, P)."""
        chances = np.exp(self._log_chances(theta))
        mean = np.einsum("nk,nkp->np", chances, self.terms)
        weighted = self.terms * chances[:, :, None]
        square = np.tensordot(weighted, self.terms, axes=([0, 1], [0, 1]))
        return square - mean.T @ mean + np.diag(2 * self.penalty)


def fit(battles: Battles, options: AnchorOptions | None = None) -> AnchorCalibration:
    """Offsets, and perhaps a scale, of any number of battles; of none, the reward as it is.

    A pinned system that is in none of the battles pins nothing.
    """
    options, systems = options or AnchorOptions(), battles.systems
    likelihood = Likelihood.of(battles, systems, options)
    free = _free(systems, options)
    theta = _minimum(likelihood, free)
    error = np.zeros(len(theta))
    curvature = likelihood.curvature(theta)[np.ix_(free, free)]
    error[free] = _standard_errors(curvature, 0 if options.pinned in systems else len(systems))
    ends = np.stack([theta, theta - Z_95 * error, theta + Z_95 * error], 1).tolist()
    fitted = [Anchored(value=v, low=low, high=high) for v, low, high in ends]
    return AnchorCalibration(
        options=options,
        battles=len(battles),
        systems={
            system: SystemOffset(**number.model_dump(), battles=_met_others(battles, system))
            for system, number in zip(systems, fitted[:-2], strict=True)
        },
        scale=fitted[-2],
        eta=fitted[-1] if options.ties == "davidson" else None,
    )


def _free(systems: Sequence[str], options: AnchorOptions) -> np.ndarray:
    """(P,) bool: the parameters that are fitted; the others stay where the penalty is zero."""
    offsets = [system != options.pinned for system in systems]
    return np.array([*offsets, options.scale == "learned", options.ties == "davidson"])


def _minimum(likelihood: Likelihood, free: np.ndarray) -> np.ndarray:
    """(P,) the parameters with the least penalised loss, by Newton's method."""
    theta = likelihood.start.copy()
    for _ in range(NEWTON_STEPS if free.any() else 0):
        curvature = likelihood.curvature(theta)[np.ix_(free, free)]
        step = np.linalg.solve(curvature, likelihood.gradient(theta)[free])
        longest = np.abs(step).max()
        theta[free] -= step * (LONGEST_STEP / max(longest, LONGEST_STEP))
        if longest < TOLERANCE:
            break
    return theta


def _standard_errors(curvature: np.ndarray, unpinned: int) -> np.ndarray:
    """(free parameters,) by Laplace's approximation.

    The battles do not see the common mean of offsets without a pin: it is zero by the ridge, and
    the variance that the ridge alone gives it is taken out.

    Args:
        unpinned: how many parameters come first that are offsets without a pin.
    """
    centred = np.eye(len(curvature))
    if unpinned:
        centred[:unpinned, :unpinned] -= 1.0 / unpinned
    covariance = centred @ np.linalg.inv(curvature) @ centred
    return np.sqrt(covariance.diagonal().clip(0.0))


def _met_others(battles: Battles, system: str) -> int:
    """Battles of a system against other systems."""
    return int(((battles.system_a == system) != (battles.system_b == system)).sum())


def check_pinned(battles: Battles, options: AnchorOptions) -> None:
    """Raise `InvalidRequest` for a pinned system that is in none of the battles."""
    if options.pinned is not None and options.pinned not in battles.systems:
        there = ", ".join(battles.systems)
        raise InvalidRequest(f"pinned system {options.pinned!r} is in no battle; there are {there}")


def controls(options: AnchorOptions) -> dict[str, AnchorOptions]:
    """The models to be shown together, by name; `options` decides all but the scale."""
    names: dict[str, Scale] = {
        "anchor": "one",
        "anchor, learned scale": "learned",
        "Bradley-Terry, reward ignored": "none",
    }
    return {name: options.model_copy(update={"scale": scale}) for name, scale in names.items()}


ALWAYS_B = "always B"
AS_IS = "reward as it is"


@dataclass(frozen=True)
class SweepCell:
    """One model fitted to K battles, over several splits.

    Attributes:
        model: see `controls`; or `ALWAYS_B`.
        size: K, of all systems together.
        accuracy, accuracy_sd: mean and standard deviation over the splits (population form).
        nll, ece: means over the splits; None where no odds are claimed.
        per_split: accuracies.
    """

    model: str
    size: int
    accuracy: float
    accuracy_sd: float
    nll: float | None
    ece: float | None
    per_split: tuple[float, ...]


def sweep(
    battles: Battles,
    models: Mapping[str, AnchorOptions],
    sizes: Sequence[int] = SWEEP_SIZES,
    seeds: Sequence[int] = SWEEP_SEEDS,
) -> list[SweepCell]:
    """How many battles it takes: fitted to the first K of one half, evaluated on the other.

    Halves by `random.Random(seed).shuffle`, as in the reference.

    Args:
        models: see `controls`; `ALWAYS_B` comes last in any case.

    Raises:
        InvalidRequest: a size is more than the half.
    """
    battles, half = battles.rows(battles.decisive), int(battles.decisive.sum()) // 2
    too_large = [size for size in sizes if not 0 <= size <= half]
    if too_large:
        raise InvalidRequest(f"size is {too_large[0]}; 0 to {half}, half of the decisive battles")
    splits = [_halves(battles, half, seed) for seed in seeds]
    cells = []
    for name, model in models.items():
        for size in sizes:
            found = [_foretold(known.rows(range(size)), test, model) for known, test in splits]
            cells.append(_cell(name, size, found))
    base = [always_b(test) for _, test in splits]
    return cells + [_cell(ALWAYS_B, size, base) for size in sizes]


def _halves(battles: Battles, half: int, seed: int) -> tuple[Battles, Battles]:
    order = list(range(len(battles)))
    random.Random(seed).shuffle(order)
    return battles.rows(order[:half]), battles.rows(order[half : 2 * half])


def _foretold(known: Battles, test: Battles, options: AnchorOptions) -> Evaluation:
    return evaluate(fit(known, options).margins(test), test)


def _cell(model: str, size: int, found: Sequence[Evaluation]) -> SweepCell:
    accuracies = [one.accuracy for one in found]
    claims_odds = found[0].nll is not None
    return SweepCell(
        model,
        size,
        float(np.mean(accuracies)),
        float(np.std(accuracies)),
        float(np.mean([one.nll for one in found])) if claims_odds else None,
        float(np.mean([one.ece for one in found])) if claims_odds else None,
        tuple(accuracies),
    )


def cross_validate(
    battles: Battles, models: Mapping[str, AnchorOptions], folds: int = FOLDS, seed: int = 0
) -> dict[str, Evaluation]:
    """Every model on battles it was not fitted to; the reward as it is, and `ALWAYS_B`.

    Raises:
        InvalidRequest: fewer battles than folds, or none that is decisive.
    """
    if len(battles) < folds:
        raise InvalidRequest(f"{len(battles)} battles; at least {folds} are needed")
    fold = np.random.default_rng(seed).permutation(len(battles)) % folds
    found = {AS_IS: evaluate(battles.margins, battles)}
    for name, model in models.items():
        margins = np.zeros(len(battles))
        for left_out in range(folds):
            here = fold == left_out
            margins[here] = fit(battles.rows(~here), model).margins(battles.rows(here))
        found[name] = evaluate(margins, battles)
    return found | {ALWAYS_B: always_b(battles)}


def correct_table(
    calibration: AnchorCalibration, path: Path
) -> tuple[list[dict[str, str | float]], list[str]]:
    """The rows of a CSV table with what the calibration makes of them, and a line per bad row.

    Clips (columns `system`, `reward`) get `corrected` and `claim`, what may be said of their
    system; battles (`system_a`, `reward_a`, ...) get these for both sides and `probability_a`, the
    chance that A is preferred if anything is.

    Raises:
        InvalidRequest: not a CSV file, or a column is missing.
    """
    header, rows = read_csv(path)
    sides = ("",) if "system" in header else ("_a", "_b")
    names = {
        side: [column_name(path, header, f"{what}{side}") for what in ("system", "reward")]
        for side in sides
    }
    corrected, faults = [], []
    for line, row in rows:
        try:
            added = {}
            for side, (system, reward) in names.items():
                label, value = cell(row, system), number(reward, cell(row, reward))
                added[f"corrected{side}"] = calibration.corrected(value, label)
                added[f"claim{side}"] = calibration.claim(label)
        except InvalidRequest as error:
            faults.append(f"{path}:{line}: {error}")
            continue
        if len(sides) == 2:
            odds = added["corrected_a"] - added["corrected_b"]
            added["probability_a"] = float(expit(odds))
        corrected.append({**row, **added})
    return corrected, faults
