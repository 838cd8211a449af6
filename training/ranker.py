"""Training the preference ranker from pairs (specification, section 2.3).

The margin of a pair is s(A) - s(B); the loss is the binary cross-entropy of its sigmoid with the
target 1 (A), 0 (B) or 0.5 (tie). As in the reference the two sides are two forward passes, so that
batch normalisation sees each by itself; AdamW at a constant rate unless the recipe
lets it fall, early stopping on the validation
loss, ties included. Swapping A and B changes the sign of every margin and nothing else.

Shapes: n pairs, B pairs of a batch, D features.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from training.loop import Pace, Schedule, draws, numpy_draws, run
from training.pair_features import PairFeatures
from training.recipe import RankerRecipe
from ttmpref.metrics import chosen_rightly
from ttmpref.reward.ranker import RankerHead
from ttmpref.types import InvalidRequest

log = logging.getLogger(__name__)

EVALUATION_BATCH = 1024
SCALE_RANGE = (1e-2, 1e2)  # of `fitted_scale`


class Best(nn.Module):
    """The head with the lowest validation loss so far, as tensors, so that checkpoints hold it.

    Attributes:
        head: a copy of that head.
        loss: its validation loss.
        stale: validations since it was found.
    """

    def __init__(self, head: RankerHead) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)
        self.register_buffer("loss", torch.tensor(math.inf, dtype=torch.float64))
        self.register_buffer("stale", torch.zeros((), dtype=torch.long))

    def offer(self, head: RankerHead, loss: float, min_improvement: float) -> None:
        """Keep this head if it is better by `min_improvement`, else count."""
        if loss < self.loss.item() - min_improvement:
            self.head.load_state_dict(head.state_dict())
            self.loss.fill_(loss)
            self.stale.zero_()
        else:
            self.stale += 1


class RankerJob:
    """One head."""

    name = "ranker"

    def __init__(
        self, recipe: RankerRecipe, seed: int, train: PairFeatures, valid: PairFeatures
    ) -> None:
        """
        Raises:
            InvalidRequest: a part has no pairs, or one pair alone is to be normalised.
        """
        if len(train) < 2 or len(valid) < 1:
            raise InvalidRequest(
                f"{len(train)} training and {len(valid)} validation pairs; at least 2 and 1 needed"
            )
        self.recipe, self.seed = recipe, seed
        self.train, self.valid = train, valid
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = RankerHead(train.layout, recipe.hidden, recipe.dropout)
        scale_rewards(self.head, recipe.initial_scale)
        self.best = Best(self.head)
        # Fused: a fifth of the time of the plain one, which is as long as a small batch itself.
        self.optimizer = AdamW(self.head.parameters(), weight_decay=recipe.weight_decay, fused=True)
        counts = Counter(pair.source for pair in train.pairs)
        self._chances = [1 / (len(counts) * counts[pair.source]) for pair in train.pairs]
        self._planned: tuple[int, list[np.ndarray]] = (-1, [])

    def modules(self) -> dict[str, nn.Module]:
        return {"head": self.head, "best": self.best}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"all": self.optimizer}

    @property
    def steps_per_epoch(self) -> int:
        """Updates of an epoch; its batches are equal but for one pair, none is left a rest."""
        return math.ceil(len(self.train) / self.recipe.batch)

    def enough(self) -> bool:
        """Early stopping."""
        return self.best.stale.item() >= self.recipe.patience

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """The pairs of every update of an epoch: each pair once, or drawn, sources balanced."""
        rng, n = numpy_draws(self.seed, "ranker epoch", epoch), len(self.train)
        order = rng.choice(n, n, p=self._chances) if self.recipe.balanced else rng.permutation(n)
        return np.array_split(order, self.steps_per_epoch)

    def _batch(self, step: int) -> Tensor:
        """(B,) pairs of an update."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._planned[0] != epoch:
            self._planned = epoch, self._batches(epoch)
        return torch.from_numpy(self._planned[1][place])

    def _margins(self, index: Tensor) -> Tensor:
        """(B,) with gradients."""
        a, b = self.train.side(0, index), self.train.side(1, index)
        if self.recipe.joined:
            of_a, of_b = self.head(torch.cat([a, b])).chunk(2)
            return of_a - of_b
        return self.head(a) - self.head(b)

    def train_step(self, step: int) -> dict[str, float]:
        self.head.train()
        index = self._batch(step)
        with torch.random.fork_rng(devices=[]):
            # Dropout knows only the global random state.
            torch.random.set_rng_state(draws(self.seed, "ranker dropout", step).get_state())
            margins = self._margins(index)
        loss = F.binary_cross_entropy_with_logits(margins, self.train.targets[index])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    def validate(self, step: int) -> dict[str, float]:
        found, targets = margins_of(self.head, self.valid), self.valid.targets
        scale = fitted_scale(found, targets) if self.recipe.fit_scale else 1.0
        loss = F.binary_cross_entropy_with_logits(scale * found, targets).item()
        self.best.offer(self.head, loss, self.recipe.min_improvement)
        decided = targets != 0.5
        if not decided.any():
            return {"loss": loss}
        hits = chosen_rightly(found[decided].numpy(), (targets[decided] > 0.5).numpy())
        return {"loss": loss, "accuracy": float(hits.mean())}

    def finished(self) -> RankerHead:
        """The best head, ready for use."""
        head = self.best.head.eval()
        if self.recipe.fit_scale:
            scale_rewards(head, fitted_scale(margins_of(head, self.valid), self.valid.targets))
        return head


@torch.no_grad()
def margins_of(head: RankerHead, pairs: PairFeatures) -> Tensor:
    """(n,) reward of A less reward of B."""
    head.eval()
    found = [
        head(pairs.side(0, index)) - head(pairs.side(1, index))
        for index in torch.arange(len(pairs)).split(EVALUATION_BATCH)
    ]
    return torch.cat(found) if found else torch.empty(0)


def fitted_scale(margins: Tensor, targets: Tensor) -> float:
    """The factor a that minimises the cross-entropy of sigmoid(a * margins) with the decisions.

    Ties are left out: sigmoid(margin) is the chance that A wins where somebody wins, and ties,
    which ask for 0.5 everywhere, would make it too modest. The loss is convex in a; its slope,
    mean(margin * (sigmoid(a * margin) - target)), has one root. Where it lies outside `SCALE_RANGE`
    (margins that are right always, or no better than chance) the nearer end is taken; without
    decisions it is 1.
    """
    decided = targets != 0.5
    if not decided.any():
        return 1.0
    margins = margins[decided].double()
    m, t = margins.numpy(), targets[decided].double().numpy()

    def slope(log_scale: float) -> float:
        claims = torch.sigmoid(margins * math.exp(log_scale)).numpy()
        return float((m * (claims - t)).mean())

    low, high = (math.log(bound) for bound in SCALE_RANGE)
    if slope(low) >= 0 or slope(high) <= 0:
        return SCALE_RANGE[0] if slope(low) >= 0 else SCALE_RANGE[1]
    return math.exp(brentq(slope, low, high))


@torch.no_grad()
def scale_rewards(head: RankerHead, scale: float) -> None:
    """Multiply all rewards of a head, in its last layer."""
    last = head.net[-1]
    last.weight *= scale
    last.bias *= scale


def train_head(
    recipe: RankerRecipe,
    seed: int,
    train: PairFeatures,
    valid: PairFeatures,
    folder: Path,
    max_minutes: float | None = None,
) -> RankerHead:
    """Train one head, or go on where a stopped run in `folder` left off.

    Args:
        folder: of the checkpoint and the log of this run.
        max_minutes: stop cleanly after so long, with the best head so far.
    """
    job = RankerJob(recipe, seed, train, valid)
    epoch = job.steps_per_epoch
    pace = Pace(
        log_every=epoch,
        checkpoint_every=epoch,
        validate_every=epoch,
        max_minutes=max_minutes,
        enough=job.enough,
    )
    rate = {"learning_rate": recipe.learning_rate, "decay_from": recipe.decay_from}
    schedule = Schedule(recipe.epochs * epoch, warm_up=0, **rate)
    reached = run(job, schedule, folder, pace)
    log.info("head of seed %d: %d epochs, best loss %.4f", seed, reached // epoch, job.best.loss)
    return job.finished()
