"""What a filled form stands for: from field values to a `GenerationRequest` and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ttmpref.studio import Studio
from ttmpref.types import (
    MAX_SEED,
    GenerationRequest,
    InvalidRequest,
    MissingWeights,
    check_range,
)

# Fields in the order in which handlers receive their values; all but the switches are fields of
# `GenerationRequest`.
SWITCHES = ("lock", "best_of", "candidates")
DEFAULT_CANDIDATES, MOST_CANDIDATES = 8, 16
FIELDS = (
    "prompt", "seed", "lock", "stage", "score", "guidance", "num_steps", "negative_prompt",
    "variations", "solver", "guidance_schedule", "best_of", "candidates",
)  # fmt: skip


@dataclass(frozen=True)
class BestOf:
    """The wish for the best of n clips of a request."""

    request: GenerationRequest
    n: int


Order = GenerationRequest | BestOf


def read_order(studio: Studio, values: Sequence[Any]) -> Order:
    """What a filled form asks for; errors as `read_request`."""
    form = dict(zip(FIELDS, values, strict=True))
    request = read_request(studio, values)
    if not form["best_of"]:
        return request
    candidates = int(form["candidates"])
    check_range("candidates", candidates, 2, MOST_CANDIDATES, whole=True)
    missing = studio.scoring_missing()
    if missing is not None:
        raise MissingWeights(f"best of cannot be used: {missing}")
    return BestOf(request, candidates)


def read_request(studio: Studio, values: Sequence[Any]) -> GenerationRequest:
    """The request that field values, in the order of `FIELDS`, stand for.

    Raises:
        InvalidRequest: a value lies outside what is accepted; the message starts with its field.
        MissingWeights: the stage cannot be used.
    """
    form = dict(zip(FIELDS, values, strict=True))
    locked, *_ = (form.pop(name) for name in SWITCHES)
    form["seed"] = read_seed(form["seed"]) if locked else None
    for name in ("num_steps", "variations"):  # sliders may send 25.0
        form[name] = int(form[name])
    return studio.request(form.pop("prompt"), **form)


def read_seed(text: str | None) -> int:
    """A typed seed. It is text because a number field rounds above 2**53."""
    digits = (text or "").strip()
    if not (digits.isascii() and digits.isdigit() and int(digits) <= MAX_SEED):
        raise InvalidRequest(
            f"seed is {digits!r}; a locked seed must be a whole number from 0 to {MAX_SEED}"
        )
    return int(digits)


def field_values(request: GenerationRequest) -> list[Any]:
    """Field values, in the order of `FIELDS`, that make the same request again."""
    switches = {"lock": True, "best_of": False, "candidates": DEFAULT_CANDIDATES}
    values = request.to_dict() | {"seed": str(request.seed)} | switches
    return [values[name] for name in FIELDS]


def parse_settings(studio: Studio, text: str) -> GenerationRequest:
    """The request in copied settings or in a downloaded settings file.

    Raises:
        InvalidRequest: the text is something else, or a value is not accepted.
        MissingWeights: the stage cannot be used.
    """
    try:
        data = json.loads(text)
    except ValueError:
        raise InvalidRequest("this is not JSON; paste what “Copy settings” gave") from None
    if isinstance(data, dict) and isinstance(data.get("request"), dict):
        data = data["request"]
    known = set(FIELDS) - set(SWITCHES)
    if not isinstance(data, dict) or not {"prompt", "seed"} <= set(data) or set(data) - known:
        raise InvalidRequest("these are not settings of a clip; paste what “Copy settings” gave")
    return studio.request(data.pop("prompt"), **data)
