"""One optimisation loop for every network: exact resume, logs, atomic checkpoints.

A `Job` owns its networks, optimisers and one training step; the loop owns time. All random draws
of a job come from `draws(seed, purpose, step)`, so they are functions of the step alone: a run that
was killed and resumed takes the same batches and the same noise as one that was not, and ends with
the same bits on the same CPU. With several processes (`training.engine`) all run the loop and the
first one writes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from training.engine import accelerator, agreed, check_alike
from training.tracking import open_tracker, time_left

log = logging.getLogger(__name__)


class Job(Protocol):
    """What the loop needs to know of a training."""

    name: str

    def modules(self) -> dict[str, nn.Module]:
        """Everything with tensors to keep, trained or averaged."""
        ...

    def optimizers(self) -> dict[str, Optimizer]: ...

    def train_step(self, step: int) -> dict[str, float]:
        """Update the networks once; returns named scalars for the log."""
        ...

    def validate(self, step: int) -> dict[str, float]:
        """Named scalars on held-out data; must not draw from any shared random state."""
        ...


@runtime_checkable
class Snapshots(Protocol):
    """A module of a job that leaves a file of its own with every checkpoint."""

    def snapshot(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """Pace of a run.

    Attributes:
        steps: optimiser updates of the whole run.
        learning_rate: peak value, reached after `warm_up` updates.
        decay_from: fraction of the run after which the rate falls linearly to `final_fraction`.
    """

    steps: int
    learning_rate: float
    warm_up: int = 100
    decay_from: float = 0.7
    final_fraction: float = 0.05

    def rate(self, step: int) -> float:
        """Learning rate of update `step` (0-based)."""
        start = self.decay_from * self.steps
        decay = 1.0
        if step > start:
            done = (step - start) / max(1.0, self.steps - start)
            decay = 1.0 - (1.0 - self.final_fraction) * min(1.0, done)
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warm_up)) * decay


@dataclass(frozen=True)
class Pace:
    """How often the loop writes, where to, and when it must stop.

    Attributes:
        trackers: of `training.tracking`, beside `log.jsonl`.
        max_minutes: stop cleanly after so long; a later run goes on.
        enough: asked before every update; stops for good (early stopping), so its answer must
            follow from what the job's checkpoint holds.
    """

    log_every: int = 25
    checkpoint_every: int = 250
    validate_every: int = 500
    trackers: Sequence[str] = ("tensorboard",)
    max_minutes: float | None = None
    enough: Callable[[], bool] | None = None


def _entropy(seed: int, purpose: str, step: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), step])


def draws(seed: int, purpose: str, step: int) -> torch.Generator:
    """Torch generator that depends on (seed, purpose, step) alone."""
    state = _entropy(seed, purpose, step).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def numpy_draws(seed: int, purpose: str, step: int) -> np.random.Generator:
    """NumPy generator that depends on (seed, purpose, step) alone."""
    return np.random.default_rng(_entropy(seed, purpose, step))


def write_aside(path: Path, save: Any) -> None:
    """Call `save(temporary path)` and rename: `path` is whole or absent, never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Indented JSON, written aside and renamed."""
    write_aside(path, lambda p: p.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n"))


def _state(job: Job, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "modules": {name: module.state_dict() for name, module in job.modules().items()},
        "optimizers": {name: opt.state_dict() for name, opt in job.optimizers().items()},
    }


def load_checkpoint(job: Job, folder: Path) -> int:
    """Restore `job` from its folder; returns the number of finished updates (0 when fresh)."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in job.modules().items():
        module.load_state_dict(state["modules"][name])
    for name, optimizer in job.optimizers().items():
        optimizer.load_state_dict(state["optimizers"][name])
    return state["step"]


class RunLog:
    """`log.jsonl` of a run and its trackers; drops what lies past the checkpoint first."""

    def __init__(self, name: str, folder: Path, step: int, trackers: Sequence[str]) -> None:
        self.path = folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.rglob(".*.part"):  # of a run that was killed
            unfinished.unlink()
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        # The last line of a run that was killed may be cut.
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_aside(self.path, lambda p: p.write_text("".join(kept)))
        self.trackers = [open_tracker(kind, name, folder, step) for kind in trackers]

    def add(self, step: int, values: dict[str, float], **aside: float) -> None:
        """Values of a step; what stands aside is for the file alone."""
        line = {"step": step, **aside, **values}
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in line.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(rounded) + "\n")
        for tracker in self.trackers:
            tracker.log(values, step=step)

    def say(self, message: str, *values: object) -> None:
        log.info(message, *values)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.finish()


class NoLog:
    """In the place of `RunLog` in every process but the first."""

    def add(self, step: int, values: dict[str, float], **aside: float) -> None: ...

    def say(self, message: str, *values: object) -> None: ...


@contextlib.contextmanager
def _reporting(
    name: str, schedule: Schedule, folder: Path, step: int, pace: Pace
) -> Iterator[tuple[RunLog | NoLog, tqdm]]:
    """Log and bar of a run that goes on after `step` updates."""
    if not accelerator().is_main_process:
        yield NoLog(), tqdm(disable=True)
        return
    record = RunLog(name, folder, step, pace.trackers)
    with contextlib.ExitStack() as stack:
        stack.callback(record.close)
        # None: in a terminal only.
        bar = tqdm(total=schedule.steps, initial=step, desc=name, disable=None)
        stack.enter_context(bar)
        if not bar.disable:
            stack.enter_context(logging_redirect_tqdm())
        yield record, bar


def run(job: Job, schedule: Schedule, folder: Path, pace: Pace | None = None) -> int:
    """Train until `schedule.steps` or the time limit; returns the number of finished updates.

    A non-finite loss stops the run with the last checkpoint intact.

    Raises:
        FloatingPointError: a logged value is not finite.
        ConfigError: a tracker is unknown or missing, or processes do not see one folder.
    """
    pace = pace or Pace()
    start = step = load_checkpoint(job, folder)
    check_alike(f"last update in {folder}", step)
    with _reporting(job.name, schedule, folder, step, pace) as (record, bar):
        began, sums, count = time.monotonic(), {}, 0
        record.say("%s: from update %d of %d", job.name, step, schedule.steps)
        while step < schedule.steps and not agreed(_out_of_time(began, pace) or _enough(pace)):
            for optimizer in job.optimizers().values():
                for group in optimizer.param_groups:
                    group["lr"] = schedule.rate(step)
            values = job.train_step(step)
            step, count = step + 1, count + 1
            bar.update()
            sums = {key: sums.get(key, 0.0) + value for key, value in values.items()}
            if step % pace.log_every == 0:
                means = {key: value / count for key, value in sums.items()}
                if not all(map(math.isfinite, means.values())):
                    raise FloatingPointError(f"{job.name}: update {step}: {means}")
                seconds = time.monotonic() - began
                left = time_left(seconds, step - start, schedule.steps - step)
                record.add(step, means, seconds=round(seconds, 1))
                record.say("%s %d/%d %s, %s", job.name, step, schedule.steps, _words(means), left)
                sums, count = {}, 0
            if step % pace.validate_every == 0 or step == schedule.steps:
                found = job.validate(step)
                record.add(step, {f"val_{key}": value for key, value in found.items()})
            if step % pace.checkpoint_every == 0:
                save_checkpoint(job, step, folder)
        save_checkpoint(job, step, folder)
    accelerator().wait_for_everyone()
    return step


def save_checkpoint(job: Job, step: int, folder: Path) -> None:
    """Whole resumable state, replaced atomically; the first process alone writes."""
    if not accelerator().is_main_process:
        return
    for name, module in job.modules().items():
        if isinstance(module, Snapshots):
            module.snapshot(folder / name)
    write_aside(folder / "checkpoint.pt", lambda path: torch.save(_state(job, step), path))


def _out_of_time(began: float, pace: Pace) -> bool:
    return pace.max_minutes is not None and time.monotonic() - began > 60 * pace.max_minutes


def _enough(pace: Pace) -> bool:
    return pace.enough is not None and pace.enough()


def _words(values: dict[str, float]) -> str:
    return " ".join(f"{key}={value:.4g}" for key, value in values.items())


class Average(nn.Module):
    """Exponential moving average of a network's floating tensors, warmed up like a mean.

    The decay of update k is min(decay, (1 + k) / (10 + k)), so early weights are forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.names = list(network.state_dict())
        for index, tensor in enumerate(network.state_dict().values()):
            self.register_buffer(f"t{index}", tensor.detach().clone())

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates.item()) / (10 + self.updates.item()))
        live = list(network.state_dict().values())
        mine = [getattr(self, f"t{index}") for index in range(len(live))]
        pairs = [(m, v) for m, v in zip(mine, live, strict=True) if v.is_floating_point()]
        torch._foreach_lerp_([m for m, _ in pairs], [v for _, v in pairs], 1 - decay)

    def weights(self) -> dict[str, torch.Tensor]:
        """State dict of the averaged network."""
        return {name: getattr(self, f"t{index}") for index, name in enumerate(self.names)}
