"""Does the demo's reward know what its simulated listeners like, and what any ear would say?

Three questions, on pieces that no training has seen. *Votes*: how often does it foretell those of
`training.listeners`, whose true utility is known, so that the best possible rate is too; and are
its odds right? *Faults*: does it fall as each kind of fault grows (the graded degradations of
`training.corpus.degradations`)? *Order*: is a real piece rated above the clip that the demo
generates for its caption, and that above noise of the piece's spectrum, all equally loud? How fast
it is, `benchmarks.scoring` measures.

Shapes: P pieces, K kinds of faults, S strengths, 0 the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.common import ALL_PARTS, Figure, Report, Setting, cores, run
from benchmarks.generate import generated
from benchmarks.held_out import Prompt, window
from training.corpus.degradations import KINDS, Degradation, as_loud, degrade
from training.data import Corpus
from training.demo_ranker import Hearing
from training.listeners import TAKES_PER_PROMPT, Heard, Listeners, noise_like
from training.ranker import margins_of
from training.ranker_report import evaluate
from training.recipe import ListenersRecipe, load_recipe
from ttmpref.metrics import bootstrap_interval, chosen_rightly, wilson_interval
from ttmpref.types import Clip

STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PIECES_PER_CLIP = 0.1  # of the clips per set, how many pieces are degraded: each gives 61 clips
FAULT_SEED = 73
SHARE_TARGET = 0.9
ORDER = ("clean", "generated", "noise")
Rate = Callable[[Sequence[Clip], Sequence[str]], list[float]]


def measure(setting: Setting) -> Report:
    return measured(setting, load_recipe("demo").listeners)


def measured(setting: Setting, recipe: ListenersRecipe) -> Report:
    """The report of a preset's ranker on the listeners of a recipe."""
    listeners = Listeners(recipe, setting.evaluation)

    def rate(clips: Sequence[Clip], prompts: Sequence[str]) -> list[float]:
        scores = setting.studio.score(clips, prompts, timeline=False)
        return [score.reward for score in scores]

    votes = list(listeners.votes(range(len(setting.evaluation.pieces))))
    count = max(1, round(PIECES_PER_CLIP * setting.clips))
    faulty = fault_rewards(setting.evaluation, listeners.samples, count, rate)
    asked, clips = generated(setting)
    ordered = order_rewards(setting.evaluation, listeners.samples, asked, clips, rate)
    figures = (
        *vote_figures(votes, _margins(setting, listeners, votes)),
        *fault_figures(faulty),
        *order_figures(ordered),
    )
    return Report(
        title="The demo's reward",
        question=(
            f"Votes of simulated listeners on {len(setting.evaluation.pieces)} held-out pieces, "
            f"{len(KINDS)} kinds of faults on {count} of them, and {len(asked)} prompts."
        ),
        figures=figures,
        recipe={
            "listeners": recipe.model_dump(mode="json"), "strengths": STRENGTHS,
            "degraded_pieces": count, "prompts": len(asked), "fault_seed": FAULT_SEED,
        },
        parts=(*ALL_PARTS, "ranker"),
        details={"mean_reward_by_strength": _means(faulty)},
    )  # fmt: skip


# ------------------------------------------------------------------------------ votes


def _margins(setting: Setting, listeners: Listeners, votes: Sequence[Heard]) -> np.ndarray:
    """(n,) rewards of A less those of B; features that training has cached are used again."""
    preset, caches = setting.studio.preset, setting.corpus_folder / "cache"
    pairs = Hearing(listeners, preset, caches, cores())([one.preference for one in votes])
    return margins_of(setting.studio.scorer().parts.heads[0], pairs).numpy()


def vote_figures(votes: Sequence[Heard], margins: np.ndarray) -> list[Figure]:
    """Accuracy and calibration on votes in the order in which the listeners gave them."""
    targets = np.array([one.preference.target for one in votes])
    truth = np.array([one.advantage for one in votes])
    decided, wins = targets != 0.5, targets == 1.0
    by_piece = (-1, TAKES_PER_PROMPT)  # votes on one prompt stay together in the bootstrap
    counts = decided.reshape(by_piece).sum(1)
    ours, best = (
        (chosen_rightly(found, wins) & decided).reshape(by_piece).sum(1)
        for found in (margins, truth)
    )

    def accuracy(rows: np.ndarray) -> float:
        return float(ours[rows].sum() / counts[rows].sum())

    def oracle(rows: np.ndarray) -> float:
        return float(best[rows].sum() / counts[rows].sum())

    def share(rows: np.ndarray) -> float:
        return (accuracy(rows) - 0.5) / (oracle(rows) - 0.5)

    everything, pieces = np.arange(len(counts)), len(counts)
    found = evaluate(margins, targets)
    return [
        Figure(
            "votes foretold", accuracy(everything), "%",
            interval=bootstrap_interval(accuracy, pieces),
            note=f"{counts.sum()} decisions, {(~decided).sum()} ties left out; chance is 50 %",
        ),
        Figure(
            "votes foretold by the true utility", oracle(everything), "%",
            interval=bootstrap_interval(oracle, pieces), note="the best anybody can do",
        ),
        Figure(
            "share of the way from chance to the true utility", share(everything), "%",
            at_least=SHARE_TARGET, interval=bootstrap_interval(share, pieces),
        ),
        Figure(
            "calibration error (ECE)", found.ece, at_most=found.ece_null[1],
            note="the target is what 95 % of perfectly calibrated models stay below",
        ),
    ]  # fmt: skip


# ------------------------------------------------------------------------------ faults


def fault_rewards(corpus: Corpus, samples: int, count: int, rate: Rate) -> np.ndarray:
    """(P, K, S) rewards of evenly spread pieces with every fault at every strength."""
    rows = np.linspace(0, len(corpus.pieces) - 1, count).round().astype(int)
    rewards = np.empty((count, len(KINDS), len(STRENGTHS)))
    for place, row in enumerate(rows):
        clean, prompt = window(corpus, int(row), samples), corpus.captions[row][0]
        clips = [clean] + [
            degrade(clean, Degradation(kind, strength, FAULT_SEED + place))
            for kind in KINDS
            for strength in STRENGTHS[1:]
        ]
        found = rate(clips, [prompt] * len(clips))
        rewards[place, :, 0] = found[0]
        rewards[place, :, 1:] = np.reshape(found[1:], (len(KINDS), -1))
    return rewards


def fault_figures(rewards: np.ndarray) -> list[Figure]:
    """How surely rewards (P, K, S) fall with the strength of a fault."""
    falls = -rank_correlations(rewards)  # (P, K)
    steps = np.diff(rewards.mean(0), axis=1) < 0  # (K, S - 1)
    fault = "correlation of rank between strength and loss of reward"
    return [
        Figure(
            f"{fault}, all faults", float(falls.mean()),
            interval=_mean_interval(falls.mean(1)), note="within a piece, then the mean",
        ),
        Figure(
            "kinds of faults whose mean reward falls at every step",
            float(steps.all(1).sum()), at_least=float(len(KINDS)),
            note=f"{steps.sum()} of {steps.size} steps fall",
        ),
        *(
            Figure(f"{fault}, {kind}", float(column.mean()), interval=_mean_interval(column))
            for kind, column in zip(KINDS, falls.T, strict=True)
        ),
    ]  # fmt: skip


def rank_correlations(rewards: np.ndarray) -> np.ndarray:
    """(P, K) Spearman correlations of rewards (P, K, S) with strengths; 0 where all are equal."""
    from scipy.stats import rankdata

    ranks = rankdata(rewards, axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    places = np.arange(rewards.shape[-1]) - (rewards.shape[-1] - 1) / 2
    lengths = np.linalg.norm(ranks, axis=-1) * np.linalg.norm(places)
    return np.divide(ranks @ places, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def _means(rewards: np.ndarray) -> dict[str, list[float]]:
    """Mean reward of every kind at every strength."""
    return {
        kind: [round(float(mean), 4) for mean in row]
        for kind, row in zip(KINDS, rewards.mean(0), strict=True)
    }


# ------------------------------------------------------------------------------ order


def order_rewards(
    corpus: Corpus, samples: int, asked: Sequence[Prompt], made: Sequence[Clip], rate: Rate
) -> np.ndarray:
    """(prompts, 3) rewards of the prompt's own piece, the generated clip and noise: ORDER."""
    rewards = []
    for prompt, clip in zip(asked, made, strict=True):
        clean = window(corpus, prompt.row, samples)
        noise = as_loud(noise_like(clean, prompt.row), clean)
        rewards.append(rate([clean, as_loud(clip, clean), noise], [prompt.text] * len(ORDER)))
    return np.array(rewards)


def order_figures(rewards: np.ndarray) -> list[Figure]:
    """How often and by how much each is above the next, prompts paired."""
    figures = []
    for above, below in ((0, 1), (1, 2), (0, 2)):
        names = f"{ORDER[above]} above {ORDER[below]}"
        gains = rewards[:, above] - rewards[:, below]
        higher = int((gains > 0).sum())
        figures += [
            Figure(
                f"{names}, share of prompts", higher / len(gains), "%", at_least=0.5,
                interval=wilson_interval(higher, len(gains)),
            ),
            Figure(
                f"{names}, mean difference of reward", float(gains.mean()), at_least=0.0,
                interval=_mean_interval(gains),
            ),
        ]  # fmt: skip
    return figures


def _mean_interval(values: np.ndarray) -> tuple[float, float]:
    return bootstrap_interval(lambda rows: float(values[rows].mean()), len(values))


if __name__ == "__main__":
    run("ranker", measure, __doc__)
