"""What a filled form stands for: from field values to a `GenerationRequest` and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttmpref.series import Task
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
SWITCHES = ("lock", "best_of", "candidates", "sweep", "optimise")
DEFAULT_CANDIDATES, MOST_CANDIDATES = 8, 16
SWEPT = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)  # scores of a sweep, as far as the paper's Figure 2
NUMBERS = {
    "seed": int, "num_steps": int, "variations": int, "score": float, "guidance": float,
    "separation_passes": int, "target_lufs": float,
}  # fmt: skip
SWITCH_WORDS = {"true": True, "false": False}  # of settings that are on or off
FIELDS = (
    "prompt", "seed", "lock", "stage", "score", "guidance", "num_steps", "negative_prompt",
    "variations", "solver", "guidance_schedule", "separation_passes", "normalise_loudness",
    "target_lufs", "best_of", "candidates", "sweep", "optimise",
)  # fmt: skip


SETTINGS = tuple(name for name in FIELDS if name not in SWITCHES)


@dataclass(frozen=True)
class BestOf:
    """The wish for the best of n clips of a request."""

    request: GenerationRequest
    n: int


@dataclass(frozen=True)
class Sweep:
    """The wish for a clip at every score of `SWEPT`, from one seed."""

    request: GenerationRequest

    @property
    def tasks(self) -> list[Task]:
        alone = dataclasses.replace(self.request, variations=1)
        return [Task(dataclasses.replace(alone, score=score)) for score in SWEPT]


@dataclass(frozen=True)
class Climb:
    """The wish for a clip whose noise is moved uphill on the reward."""

    request: GenerationRequest


Order = GenerationRequest | BestOf | Sweep | Climb


def read_order(studio: Studio, values: Sequence[Any]) -> Order:
    """What a filled form asks for; errors as `read_request`."""
    form = dict(zip(FIELDS, values, strict=True))
    request = read_request(studio, values)
    if form["optimise"]:
        if form["best_of"] or form["sweep"]:
            raise InvalidRequest(
                "optimise cannot go with the best of several clips or a sweep; switch one of them "
                "off"
            )
        _check_scoring(studio, "optimise")
        return Climb(dataclasses.replace(request, variations=1))
    if form["sweep"]:
        return _sweep(studio, request, form["best_of"])
    if not form["best_of"]:
        return request
    candidates = int(form["candidates"])
    check_range("candidates", candidates, 2, MOST_CANDIDATES, whole=True)
    _check_scoring(studio, "best of")
    return BestOf(request, candidates)


def _check_scoring(studio: Studio, name: str) -> None:
    """Raise `MissingWeights`, which starts with the name, where there are no rewards."""
    missing = studio.scoring_missing()
    if missing is not None:
        raise MissingWeights(f"{name} cannot be used: {missing}")


def _sweep(studio: Studio, request: GenerationRequest, best_of: bool) -> Sweep:
    if best_of:
        raise InvalidRequest(
            "sweep cannot go with the best of several clips; switch one of them off"
        )
    if studio.preset.stage(request.stage).head == "none":
        raise InvalidRequest(
            f"sweep needs a stage that takes the score; {request.stage!r} does not"
        )
    return Sweep(request)


def read_request(studio: Studio, values: Sequence[Any]) -> GenerationRequest:
    """The request that field values, in the order of `FIELDS`, stand for.

    Raises:
        InvalidRequest: a value lies outside what is accepted; the message starts with its field.
        MissingWeights: the stage cannot be used.
    """
    form = dict(zip(FIELDS, values, strict=True))
    locked, *_ = (form.pop(name) for name in SWITCHES)
    form["seed"] = read_seed(form["seed"]) if locked else None
    for name in ("num_steps", "variations", "separation_passes"):  # sliders may send 25.0
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


def field_values(request: GenerationRequest, optimise: bool = False) -> list[Any]:
    """Field values, in the order of `FIELDS`, that make the same request again.

    Args:
        optimise: the clip is to be improved on.
    """
    switches = {"lock": True, "best_of": False, "candidates": DEFAULT_CANDIDATES, "sweep": False,
                "optimise": optimise}  # fmt: skip
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
    known = set(SETTINGS)
    if not isinstance(data, dict) or not {"prompt", "seed"} <= set(data) or set(data) - known:
        raise InvalidRequest("these are not settings of a clip; paste what “Copy settings” gave")
    return studio.request(data.pop("prompt"), **data)


def parse_link(studio: Studio, query: Mapping[str, str]) -> GenerationRequest | None:
    """The request in a shared address, or None where the address holds none.

    What is left out takes the preset's default; what belongs to others is left alone.

    Raises:
        InvalidRequest: a value is not accepted.
        MissingWeights: the stage cannot be used.
    """
    given = {name: query[name] for name in SETTINGS if name in query}
    if "prompt" not in given:
        return None
    values = {name: setting_of(name, text) for name, text in given.items()}
    return studio.request(values.pop("prompt"), **values)


def setting_of(name: str, text: str) -> str | int | float | bool:
    """A setting written as text, as a request wants it.

    Raises:
        InvalidRequest: a number, or true or false, was expected.
    """
    if name == "normalise_loudness":
        switched = SWITCH_WORDS.get(text.strip().lower())
        if switched is None:
            raise InvalidRequest(f"{name} is {text!r}; it must be true or false")
        return switched
    kind = NUMBERS.get(name, str)
    try:
        return kind(text)
    except ValueError:
        raise InvalidRequest(f"{name} is {text!r}; it must be a number") from None
