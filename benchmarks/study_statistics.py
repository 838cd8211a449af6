"""Do the statistics of listening studies keep their promises? Simulated studies with known truth.

Specification of listening studies, checks 25 to 28 of section 7.4: coverage of the default interval
in five designs, beside the intervals that others use; false positives of the e-value under
continuous peeking; recovery of what robots were given; the power calculator against the whole
analysis. Nothing here needs weights or audio; `--clips` and `--corpus` are ignored.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from benchmarks.common import Figure, Report, Setting, run
from ttmpref.metrics import calibration_error, calibration_null, reliability, wilson_interval
from ttmpref.study import bradley_terry
from ttmpref.study.agreement import quality
from ttmpref.study.assignment import Candidate, Schedule
from ttmpref.study.bootstrap import (
    Bootstrap,
    Resampled,
    crossed_weights,
    means,
    share,
    share_of,
)
from ttmpref.study.definition import Exclusion, Session
from ttmpref.study.power import power, votes_for_equivalence, votes_for_power
from ttmpref.study.sequential import log_e_values
from ttmpref.study.simulation import COVERAGE_DESIGNS, Design, Population, simulate, simulations
from ttmpref.study.statistics import sharp_null
from ttmpref.study.votes import A, B, Votes

PAIR = ("x", "y")
STUDIES = 400  # per design, as in the specification
RESAMPLES = 1000
NULLS = 2000
SHARP_NULLS = 200
PEEKS = 500  # looks, one after every decisive vote
SIDE_BIAS = 1.0  # log odds: 73 % of answers go to clip A
LEVEL, ALPHA = 0.95, 0.05
# Table of section 2.5: preference, votes for 80 % and for 90 % power.
POWER_TABLE = (
    (0.55, 808, 1085), (0.58, 325, 428), (0.60, 210, 274), (0.65, 92, 121), (0.70, 54, 70),
    (0.75, 35, 42), (0.80, 23, 30),
)  # fmt: skip
EQUIVALENCE_TABLE = ((0.05, 857), (0.075, 381), (0.10, 215), (0.15, 96))
POWER_STUDIES = 6000
RULES = Exclusion(attention_failed_ge=2, median_rt_ms_lt=4000, one_side_share_gt=0.95)


def preferences(
    design: Design, people: Population, studies: int, seed: int = 0
) -> tuple[Votes, np.ndarray]:
    """One study's votes, and (n, studies) which system each study's votes prefer, as `prefers`."""
    found = list(simulations(design, people, studies, seed))
    return found[0], np.stack([votes.prefers(PAIR[1]) for votes in found], 1)


def resampled(votes: Votes, preferred: np.ndarray, bootstrap: Bootstrap) -> Resampled:
    """P(prefers y | decisive) of many studies on one schedule, resampled together."""
    return means((preferred > 0).astype(float), preferred != 0, votes, bootstrap)


def covered(truth: float, intervals: Iterator[tuple[float, float]]) -> float:
    """Share of intervals that hold the truth."""
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def coverage(name: str) -> dict[str, float]:
    """Coverage of the default interval and of three others in one of the designs."""
    design, people = COVERAGE_DESIGNS[name]
    truth = people.preference(*PAIR)
    votes, preferred = preferences(design, people, STUDIES)
    drawn = resampled(votes, preferred, Bootstrap(RESAMPLES, LEVEL))
    estimates = [share_of(drawn, index) for index in range(STUDIES)]
    tails = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    hits, n = (preferred > 0).sum(0), (preferred != 0).sum(0)
    # With one label for all prompts only raters are drawn.
    weights = np.concatenate(
        list(crossed_weights(votes.rater, np.zeros_like(votes.prompt), Bootstrap(RESAMPLES)))
    )
    raters = (weights @ (preferred > 0)) / (weights @ (preferred != 0))
    return {
        "truth": truth,
        "default": covered(truth, ((one.low, one.high) for one in estimates)),
        "plain crossed": covered(truth, np.percentile(drawn.crossed, tails, axis=0).T),
        "raters only": covered(truth, np.percentile(raters, tails, axis=0).T),
        "Wilson": covered(truth, map(wilson_interval, hits.tolist(), n.tolist())),
    }


def towards_a(studies: int, votes: int, rng: np.random.Generator) -> np.ndarray:
    """(studies, votes) bool: answers of people who cannot tell, but like the first clip."""
    return rng.random((studies, votes)) < 1.0 / (1.0 + math.exp(-SIDE_BIAS))


def false_positives(wins: np.ndarray, chances: np.ndarray | None = None) -> float:
    """Share of null studies (S, n) that are stopped at any look."""
    return float((log_e_values(wins, chances).max(1) >= -math.log(ALPHA)).mean())


def peeking_coins() -> float:
    rng = np.random.default_rng(0)
    sides = rng.random((NULLS, PEEKS)) < 0.5
    return false_positives(towards_a(NULLS, PEEKS, rng) == sides)


def peeking_blocks(stored: bool) -> float:
    """Sides in shuffled blocks of four, with or without their stored probabilities."""
    rng = np.random.default_rng(1)
    block = 4
    sides = np.tile(np.arange(block) < block // 2, (NULLS * PEEKS // block, 1))
    sides = rng.permuted(sides, axis=1)
    left = block // 2 - (np.cumsum(sides, 1) - sides)
    chance = left / (block - np.arange(block))
    chance = np.where(sides, chance, 1.0 - chance).reshape(NULLS, PEEKS)
    wins = towards_a(NULLS, PEEKS, rng) == sides.reshape(NULLS, PEEKS)
    return false_positives(wins, np.where(wins, chance, 1.0 - chance) if stored else None)


def shipped_study(seed: int) -> Votes:
    """Main trials as the server assigns them to 25 people who work at the same time."""
    session, prompts = Session(trials=20, attention=2, repeats=0, practice=0), 100
    pairs = [Candidate(p, p, 2 * p, 2 * p + 1) for p in range(prompts + 40)]
    kinds = {"main": pairs[:prompts], "attention": pairs[prompts:]}
    given = Schedule(session, kinds, target=5).run(seed, 25)
    given = [one for one in given if one[1].kind == "main"]
    given.sort(key=lambda one: one[1].position)
    rows = [
        {
            "vote_id": f"v{row}",
            "rater": f"r{who:02d}",
            "prompt": f"p{trial.candidate.prompt:03d}",
            "system_a": PAIR[0] if trial.a_is_lo else PAIR[1],
            "system_b": PAIR[1] if trial.a_is_lo else PAIR[0],
            "answer": "A",
            "block": drawn.block,
            "first_on_a": trial.a_is_lo,
            "side_probability": drawn.side_probability,
        }
        for row, (who, trial, drawn) in enumerate(given)
    ]
    return Votes.from_frame(pd.DataFrame(rows))


def biased_answers(votes: Votes, studies: int, seed: int) -> np.ndarray:
    """(studies, n) bool: A, from people who cannot tell, each with their own pull to a side.

    The hardest null for balanced sides, since the side of a trial predicts who wins it.
    """
    rng = np.random.default_rng([2, seed])
    pull = rng.normal(0.0, SIDE_BIAS, (studies, len(votes.raters)))[:, votes.rater]
    return rng.random(pull.shape) < 1.0 / (1.0 + np.exp(-pull))


def peeking_shipped(stored: bool, schedules: int = 5) -> float:
    """Sides as the server assigns them, with or without their stored probabilities."""
    stopped = []
    for seed in range(schedules):
        votes = shipped_study(seed)
        wins = biased_answers(votes, NULLS // schedules, seed) == (votes.system_a == 1)
        chances = np.where(wins, votes.side_probability, 1.0 - votes.side_probability)
        stopped.append(false_positives(wins, chances if stored else None))
    return float(np.mean(stopped))


def sharp_shipped() -> float:
    """Share of null studies under the server's sides that the sharp test rejects at the end."""
    votes = shipped_study(0)
    answers = np.where(biased_answers(votes, SHARP_NULLS, 0), A, B)
    found = [sharp_null(dataclasses.replace(votes, answer=one), *PAIR) for one in answers]
    return float(np.mean([p <= ALPHA for p in found]))


def recovery(studies: int = 20) -> dict[str, float]:
    """Robots with a fifth of clickers: how well these are found, and effects without them."""
    design = Design((("x", "y"), ("y", "z"), ("x", "z")), 60, 60, 24, attention=2, repeats=2)
    people = Population({"y": 0.5, "z": 1.0}, side_bias=0.4, ties=0.2, lazy=0.2)
    flags, within = [], []
    for seed, votes in enumerate(simulations(design, people, studies)):
        found = quality(votes, RULES)
        # Who clicks is not in the votes; robots that do are faster than anyone who listens.
        limit = 2.0 * people.lazy_seconds
        flags += [(one.median_seconds < limit, bool(one.broken)) for one in found]
        careful = np.array([not one.broken for one in found])
        analysed = votes.where(careful[votes.rater]).analysed
        fit = bradley_terry.fit(analysed, Bootstrap(300, seed=seed))
        for (x, y), gap in fit.differences.items():
            truth = people.effects.get(y, 0.0) - people.effects.get(x, 0.0)
            within.append(abs(gap.value - truth) <= 2 * gap.se)
        within.append(abs(fit.side.value - people.side_bias) <= 2 * fit.side.se)
    clicks, flagged = np.array(flags).T
    return {
        "sensitivity": float(flagged[clicks].mean()),
        "specificity": float(1.0 - flagged[~clicks].mean()),
        "within two errors": float(np.mean(within)),
    }


def calibrated_inside(studies: int = 300) -> float:
    """Share of studies in which a perfectly calibrated ranker stays inside its null band."""
    design = Design((PAIR,), 100, 40, 20)
    rewards = np.random.default_rng(3).normal(0.0, 0.9, (design.prompts, 2))
    inside = []
    for votes in simulations(design, Population(), studies, utility=rewards):
        values = rewards[votes.prompt]
        rows = np.arange(len(votes))
        margins = values[rows, votes.system_a] - values[rows, votes.system_b]
        error = calibration_error(reliability(margins, votes.answer == A))
        inside.append(error <= calibration_null(margins, draws=300)[1])
    return float(np.mean(inside))


def power_gap() -> dict[str, float]:
    """The calculator, and the share of whole analyses by bootstrap that are significant."""
    design = Design((PAIR,), 40, 30, 20)
    people = Population({"y": 0.6}, rater_sd=0.5, prompt_sd=0.8, ties=0.15, both_bad=0.05)
    planned = power(design, people, PAIR, POWER_STUDIES).significant.value
    significant, step = [], 500
    for start in range(0, POWER_STUDIES, step):
        votes, preferred = preferences(design, people, step, start)
        drawn = resampled(votes, preferred, Bootstrap(500, seed=start))
        found = [share_of(drawn, index) for index in range(step)]
        significant += [one.p_value(0.5) <= ALPHA for one in found]
    return {"calculator": planned, "analysis": float(np.mean(significant))}


def table_gap() -> float:
    """Largest relative distance from the tables of section 2.5."""
    pairs = [(votes_for_power(p), n) for p, n, _ in POWER_TABLE]
    pairs += [(votes_for_power(p, 0.9), n) for p, _, n in POWER_TABLE]
    pairs += [(votes_for_equivalence(margin), n) for margin, n in EQUIVALENCE_TABLE]
    return max(abs(ours / theirs - 1.0) for ours, theirs in pairs)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def plain_bootstrap(votes: Votes, resamples: int) -> list[float]:
    """The crossed bootstrap as one would write it down: a loop over resamples."""
    rng, preferred = np.random.default_rng(0), votes.prefers(PAIR[1])
    raters, prompts = np.unique(votes.rater), np.unique(votes.prompt)
    values = []
    for _ in range(resamples):
        drawn = np.bincount(rng.choice(raters, len(raters)), minlength=raters.max() + 1)
        texts = np.bincount(rng.choice(prompts, len(prompts)), minlength=prompts.max() + 1)
        weights = drawn[votes.rater] * texts[votes.prompt]
        values.append((weights * (preferred > 0)).sum() / (weights * (preferred != 0)).sum())
    return values


def speeds() -> dict[str, float]:
    """How many times faster the shared and batched ways are than plain loops, in this run."""
    design, people = COVERAGE_DESIGNS["rater SD 0.7"]
    votes, preferred = preferences(design, people, 100)
    bootstrap = Bootstrap(RESAMPLES)
    together = seconds(lambda: resampled(votes, preferred, bootstrap))
    # The plain loop redraws raters and prompts; ours redraws single votes too.
    loop = 100 * seconds(lambda: plain_bootstrap(votes, RESAMPLES))
    alone = seconds(lambda: share(preferred[:, 0] > 0, preferred[:, 0] != 0, votes, bootstrap))

    chain = simulate(
        Design((("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")), 40, 40, 20),
        Population({"b": 0.4, "c": 0.6, "d": 0.6}, ties=0.2),
    )
    cells, cell = np.unique(
        np.stack([chain.system_a, chain.system_b], 1), axis=0, return_inverse=True
    )
    outcomes = np.eye(len(cells) * 3)[cell.reshape(-1) * 3 + np.minimum(chain.answer, 2)]
    weights = np.concatenate(list(crossed_weights(chain.rater, chain.prompt, Bootstrap(500))))
    counts = (weights @ outcomes).reshape(500, len(cells), 3)
    batch = seconds(lambda: bradley_terry.davidson(counts, cells, 4))
    singly = seconds(lambda: [bradley_terry.davidson(one, cells, 4) for one in counts])
    return {
        "100 intervals": loop / together,
        "one interval": loop / 100 / alone,
        "fits": singly / batch,
    }


def measure(setting: Setting) -> Report:
    designs = {name: coverage(name) for name in COVERAGE_DESIGNS}
    defaults = [one["default"] for one in designs.values()]
    figures = [
        Figure("lowest coverage of the default interval, five designs", min(defaults), "%",
               at_least=0.92),
        Figure("highest coverage of the default interval, five designs", max(defaults), "%",
               at_most=0.995),
    ]  # fmt: skip
    for name, one in designs.items():
        others = ", ".join(
            f"{key} {100 * one[key]:.1f} %" for key in ("plain crossed", "raters only", "Wilson")
        )
        interval = wilson_interval(round(one["default"] * STUDIES), STUDIES)
        figures.append(
            Figure(f"coverage: {name}", one["default"], "%", interval=interval, note=others)
        )
    peeks = {
        "sides by coin": peeking_coins(),
        "sides in blocks, stored probabilities": peeking_blocks(stored=True),
        "sides in blocks, taken for coins": peeking_blocks(stored=False),
        "sides as the server assigns and stores them": peeking_shipped(stored=True),
        "sides as the server assigns them, taken for coins": peeking_shipped(stored=False),
    }
    for name, rate in peeks.items():
        interval = wilson_interval(round(rate * NULLS), NULLS)
        figures.append(
            Figure(f"false positives while peeking: {name}", rate, "%", at_most=ALPHA,
                   interval=interval)
        )  # fmt: skip
    sharp = sharp_shipped()
    figures.append(
        Figure("false positives of the sharp test at the end, server's sides", sharp, "%",
               interval=wilson_interval(round(sharp * SHARP_NULLS), SHARP_NULLS))
    )  # fmt: skip
    robots, planned, faster = recovery(), power_gap(), speeds()
    figures += [
        Figure("clickers flagged", robots["sensitivity"], "%", at_least=0.9),
        Figure("others left alone", robots["specificity"], "%", at_least=0.95),
        Figure("effects and side bias within two standard errors", robots["within two errors"], "%",
               at_least=0.9),
        Figure("calibrated ranker inside its null band", calibrated_inside(), "%", at_least=0.92,
               note="95 % is right"),
        Figure("power calculator less whole analysis",
               abs(planned["calculator"] - planned["analysis"]), "%", at_most=0.02,
               note=f"calculator {100 * planned['calculator']:.1f} %, "
                    f"analysis {100 * planned['analysis']:.1f} %"),
        Figure("largest distance from the tables of votes", table_gap(), "%", at_most=0.005),
        Figure("speed of 100 intervals on one schedule over a plain loop", faster["100 intervals"],
               "x", note="also redraws single votes, which the loop does not"),
        Figure("speed of one interval over a plain loop", faster["one interval"], "x"),
        Figure("speed of 500 fits with ties at once over one by one", faster["fits"], "x"),
    ]  # fmt: skip
    recipe = {
        "studies": STUDIES,
        "resamples": RESAMPLES,
        "nulls": NULLS,
        "peeks": PEEKS,
        "power_studies": POWER_STUDIES,
        "seeds": "0 upwards",
    }
    return Report(
        "Statistics of listening studies",
        "Do intervals, tests and the power calculator keep their promises on simulated studies?",
        tuple(figures),
        recipe,
        parts=(),
        details={"designs": designs},
    )


if __name__ == "__main__":
    run("study_statistics", measure, __doc__)
