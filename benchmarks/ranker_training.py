"""How long the 2.8 M head takes to train, and whether it finds the utility behind the votes.

Synthetic clips whose feature blocks have the released widths and vary along a few factors, as those
of real encoders do, with little noise around them. Their utility is linear in those features; a
vote is drawn with probability sigmoid(u_A - u_B), a tenth are ties. So the utility's own accuracy
on new votes is the best that any model can reach (Bayes), and the head is held against it on clips
that it has not heard. No weights of a preset are read.

Shapes: N clips, n pairs.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Figure, Report, Setting, cores, run
from training.pair_features import PairFeatures
from training.ranker import margins_of, train_head
from training.ranker_report import evaluate
from training.recipe import RankerRecipe
from ttmpref.metrics import bootstrap_interval, chosen_rightly
from ttmpref.reward.ranker import CLAP_AUDIO, CLAP_TEXT, MERT, FeatureLayout, RankerHead, clap_mert
from ttmpref.types import Preference

CORES = 2
SEED = 0
RECIPE = RankerRecipe(
    epochs=8,
    batch=256,
    learning_rate=1e-3,
    initial_scale=0.05,
    patience=2,
    joined=True,
    fit_scale=True,
)
SINGLE_CLIPS = 200
MINUTES_TARGET, SHORT_TARGET, AGREEMENT = 2.0, 0.01, 1e-5


@dataclass(frozen=True)
class Size:
    """The experiment; train and valid are TuneJury's counts.

    Attributes:
        pairs, clips: of the three parts, which share no clip.
        prompts: texts, which play no part in the utility.
        factors: directions in which features vary.
        noise: deviation of each feature around them, in units of theirs.
        spread: deviation of a margin.
        ties: share of the votes.
    """

    layout: FeatureLayout = clap_mert()
    pairs: tuple[int, int, int] = (17_500, 2_100, 20_000)
    clips: tuple[int, int, int] = (6_000, 800, 6_000)
    prompts: int = 500
    factors: int = 32
    noise: float = 0.3
    spread: float = 2.0
    ties: float = 0.1


@dataclass(frozen=True, eq=False)
class Planted:
    """Pairs with votes and, `truth` (n,), the margins behind these."""

    pairs: PairFeatures
    truth: Tensor


def measure(setting: Setting) -> Report:
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:CORES])
    torch.set_num_threads(min(CORES, len(allowed)))
    torch.set_flush_denormal(True)
    size = Size()
    return Report(
        title="Training the ranker",
        question=f"{size.pairs[0]} pairs of synthetic features {size.layout}, {cores()} cores.",
        figures=trained(size, RECIPE),
        recipe={"seed": SEED, "ranker": RECIPE.model_dump(mode="json"), **_numbers(size)},
        parts=(),
    )


def _numbers(size: Size) -> dict[str, object]:
    return {name: value for name, value in vars(size).items() if name != "layout"}


def trained(size: Size, recipe: RankerRecipe) -> tuple[Figure, ...]:
    """Train once, from nothing, and compare with the truth."""
    train, valid, test = planted(size)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        head = train_head(recipe, SEED, train.pairs, valid.pairs, Path(folder))
    taken = time.perf_counter() - started
    margins, targets = margins_of(head, test.pairs), test.pairs.targets.numpy()
    decided = targets != 0.5
    ours, best = (
        chosen_rightly(found.numpy()[decided], targets[decided] > 0.5)
        for found in (margins, test.truth)
    )
    lost = best.astype(float) - ours
    found = evaluate(margins.numpy(), targets)
    return (
        Figure("training time", taken / 60, "min", at_most=MINUTES_TARGET),
        Figure(
            "accuracy on new votes, Bayes", float(best.mean()), "%",
            note=f"{decided.sum()} decisions",
        ),
        Figure(
            "accuracy on new votes, trained head", float(ours.mean()), "%",
            interval=found.accuracy_interval,
        ),
        Figure(
            "accuracy lost against Bayes", float(lost.mean()), "%", at_most=SHORT_TARGET,
            interval=bootstrap_interval(lambda rows: float(lost[rows].mean()), len(lost)),
            note="on the same votes",
        ),
        Figure(
            "calibration error", found.ece,
            note=f"95 % of calibrated models stay below {found.ece_null[1]:.4f}",
        ),
        Figure(
            "sum of margins with A and B swapped, largest",
            _asymmetry(head, test.pairs), at_most=0.0,
        ),
        Figure(
            "reward in a batch and alone, largest difference",
            _batch_effect(head, test.pairs), at_most=AGREEMENT,
        ),
    )  # fmt: skip


def planted(size: Size, seed: int = SEED) -> tuple[Planted, Planted, Planted]:
    """Training, validation and test pairs of one population of clips."""
    generator = torch.Generator().manual_seed(seed)
    blocks, utility = _clips(size, generator)
    parts, first = [], 0
    for count, clips in zip(size.pairs, size.clips, strict=True):
        rows = torch.randint(first, first + clips, (count, 2), generator=generator)
        truth = utility[rows[:, 0]] - utility[rows[:, 1]]
        targets = torch.bernoulli(torch.sigmoid(truth), generator=generator)
        targets[torch.rand(count, generator=generator) < size.ties] = 0.5
        prompts = torch.randint(size.prompts, (count,), generator=generator)
        # The trainer reads of a pair only where it comes from.
        names = (Preference("planted", "A", "B", "", 0.5, "planted"),) * count
        pairs = PairFeatures(names, size.layout, blocks, rows, prompts, targets)
        parts.append(Planted(pairs, truth))
        first += clips
    return tuple(parts)


def _clips(size: Size, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """Feature blocks (N or prompts, width) and utilities (N,) with margins of the wanted spread."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    count, widths = sum(size.clips), dict(size.layout.blocks)
    factors, taste = normal(count, size.factors), normal(size.factors)
    blocks = {CLAP_TEXT: F.normalize(normal(size.prompts, widths[CLAP_TEXT]), dim=1)}
    utility = torch.zeros(count)
    for name in (CLAP_AUDIO, MERT):
        loadings = normal(size.factors, widths[name]) / size.factors**0.5
        block = factors @ loadings + size.noise * normal(count, widths[name])
        blocks[name] = F.normalize(block, dim=1) if name == CLAP_AUDIO else block
        utility += F.normalize(taste @ loadings, dim=0) @ blocks[name].T / blocks[name].std()
    return blocks, utility / utility.std() * size.spread / 2**0.5


def _asymmetry(head: RankerHead, pairs: PairFeatures) -> float:
    swapped = dataclasses.replace(pairs, clip_rows=pairs.clip_rows.flip(1))
    return (margins_of(head, pairs) + margins_of(head, swapped)).abs().max().item()


@torch.no_grad()
def _batch_effect(head: RankerHead, pairs: PairFeatures) -> float:
    features = pairs.side(0, torch.arange(SINGLE_CLIPS))
    single = torch.cat([head(row[None]) for row in features])
    return (head(features) - single).abs().max().item()


if __name__ == "__main__":
    run("ranker_training", measure, __doc__)
