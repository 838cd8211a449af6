"""Where a run's figures go beside its log file: TensorBoard, Weights & Biases, a bar in a terminal.

Files of TensorBoard lie in `<run>/tensorboard`. A resumed run hides what an interrupted one had
written past the checkpoint.
"""

from __future__ import annotations

import importlib.util
import uuid
from pathlib import Path

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from ttmpref.config import ConfigError

TRACKERS = ("tensorboard", "wandb")
PROJECT = "ttmpref"


def open_tracker(kind: str, name: str, folder: Path, step: int) -> GeneralTracker:
    """A started tracker of the run `name` in `folder`, which goes on after `step` updates.

    Raises:
        ConfigError: unknown, or its package is not installed.
    """
    if kind not in TRACKERS:
        raise ConfigError(f"tracker is {kind!r}; accepted: {', '.join(TRACKERS)}")
    if importlib.util.find_spec(kind) is None:
        raise ConfigError(f"tracker {kind!r} needs a package: pip install {kind}")
    if kind == "tensorboard":
        tracker = TensorBoardTracker("tensorboard", folder, purge_step=step + 1)
    else:
        tracker = WandBTracker(
            PROJECT, name=name, dir=str(folder), id=_wandb_id(folder), resume="allow"
        )
    tracker.start()
    return tracker


def _wandb_id(folder: Path) -> str:
    """What a resumed run is known by; kept in its folder."""
    path = folder / "wandb_id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex)
    return path.read_text()


def time_left(seconds: float, done: int, left: int) -> str:
    """How long `left` updates take, when `done` took so many seconds."""
    minutes = round(seconds / done * left / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min left" if hours else f"{minutes} min left"
