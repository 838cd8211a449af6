"""What one process does of an update, and what all of them agree on; the owner of accelerate.

Every process draws the same whole batch, since draws are functions of the step, and works on its
own rows of it; gradients are averaged over all rows before the optimiser moves. So the result does
not depend on how many processes share the work, or in how many pieces each takes its part, but for
the order in which numbers are added. With one process and one piece nothing is cut and nothing is
averaged. `accelerate launch` sets processes, machines, pieces and precision:

    accelerate launch --num_processes 4 --gradient_accumulation_steps 2 -m training steps sft
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn
from torch.optim import Optimizer

from ttmpref.config import ConfigError
from ttmpref.models.over_time import has_bf16

logger = logging.getLogger(__name__)

# fp16 needs a scale of the loss, which would have to be part of every checkpoint; fp8 is untried.
PRECISIONS = ("no", "bf16")


@cache
def accelerator() -> Accelerator:
    """This process among the others, as `accelerate launch` describes it; alone without it.

    Raises:
        ConfigError: a precision that the networks are not trained in.
    """
    found = Accelerator()
    if found.mixed_precision not in PRECISIONS:
        accepted = ", ".join(PRECISIONS)
        raise ConfigError(f"mixed_precision is {found.mixed_precision!r}; accepted: {accepted}")
    return found


def products(precision: str, device: torch.device) -> torch.autocast:
    """Products in half precision where the recipe or the launcher says "bf16" and the device can.

    A processor without such products imitates them, a hundred times slower than it computes fp32.
    """
    wanted = precision == "bf16" or accelerator().mixed_precision == "bf16"
    able = wanted and has_bf16(str(device))
    if wanted and not able:
        _warn_of_fp32(str(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


@cache
def _warn_of_fp32(device: str) -> None:
    """Say once per device that training there is in fp32."""
    logger.warning("%s has no bf16 products, so training runs in fp32", device)


@dataclass(frozen=True)
class Share:
    """One of `count` equal parts of a batch, and where it is worked on; by default all of it.

    Attributes:
        index: which part, from 0.
    """

    index: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    def __call__(self, whole: Tensor) -> Tensor:
        """Rows of this part, (B, ...) to (B / count, ...), on the device.

        Raises:
            ConfigError: the parts would not be equal.
        """
        size, rest = divmod(len(whole), self.count)
        if rest:
            raise ConfigError(
                f"batch is {len(whole)}; accepted: multiples of {self.count}, which is processes "
                "times gradient_accumulation_steps"
            )
        return whole[self.index * size : (self.index + 1) * size].to(self.device)


def update(
    loss_of: Callable[[Share], Tensor], optimizer: Optimizer, largest_norm: float = math.inf
) -> dict[str, float]:
    """Move the weights once, by the gradient of a batch that all processes share.

    Args:
        loss_of: mean loss of a part of the batch, which must be the same batch at every call.
        largest_norm: of the gradient of the whole batch, which is shortened to it.

    Returns:
        "loss" of the whole batch and "grad_norm" before shortening.
    """
    here = accelerator()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    pieces, device = here.gradient_accumulation_steps, trained[0].device
    first, count = here.process_index * pieces, here.num_processes * pieces
    optimizer.zero_grad()
    losses = []
    for index in range(first, first + pieces):
        loss = loss_of(Share(index, count, device))
        here.backward(loss)  # divides by the number of pieces
        losses.append(loss.detach())
    _average_gradients(trained)
    norm = nn.utils.clip_grad_norm_(trained, largest_norm)
    optimizer.step()
    loss = here.reduce(torch.stack(losses).mean(), "mean")
    return {"loss": loss.item(), "grad_norm": norm.item()}


def _average_gradients(trained: list[nn.Parameter]) -> None:
    """Over all processes, in one message: a job may call its network in any way it likes, which
    hooks around one forward pass (DDP) would not allow."""
    here = accelerator()
    if here.num_processes > 1:
        gradients = [p.grad for p in trained if p.grad is not None]
        vector = nn.utils.parameters_to_vector(gradients)
        nn.utils.vector_to_parameters(here.reduce(vector, "mean"), gradients)


def agreed(answer: bool) -> bool:
    """The first process's answer, so that all leave a loop together."""
    here = accelerator()
    if here.num_processes == 1:
        return answer
    return bool(broadcast(torch.tensor(float(answer), device=here.device)))


def check_alike(name: str, value: Any) -> None:
    """Raise `ConfigError` unless all processes found the same value."""
    found = gather_object([value])
    if any(other != found[0] for other in found):
        raise ConfigError(f"{name} differs between processes: {found}; they must share one folder")
