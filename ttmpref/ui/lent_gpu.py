"""A GPU that the host lends for one call at a time, as Hugging Face Spaces do.

There the package `spaces` stands ready; what its `GPU` decorates runs in a process of its own that
holds a GPU while it lasts. Elsewhere there is no such package, and nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ttmpref.studio import Studio

# Of the Studio: what works with the models.
VERBS = ("stream", "series", "choose", "optimise_stream", "score_files")
SECONDS = 120  # that a GPU is asked for at most


class OnLentGpu:
    """A studio whose work with models happens where a GPU is; everything else is the studio's."""

    def __init__(self, studio: Studio, gpu: Callable[..., Any]) -> None:
        self._studio = studio
        for name in VERBS:
            setattr(self, name, gpu(duration=SECONDS)(_streaming(getattr(studio, name))))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._studio, name)


def with_lent_gpu(studio: Studio) -> Studio | OnLentGpu:
    """The studio as it is, or one that borrows a GPU where the host lends them."""
    if find_spec("spaces") is None:
        return studio
    return OnLentGpu(studio, import_module("spaces").GPU)


def _streaming(verb: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same as a generator function, by which the host knows that results come one by one."""

    @wraps(verb)
    def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from verb(*args, **kwargs)

    return stream
