"""One run of a visitor, shared by the handler that streams it and the one that cancels it.

Gradio can cancel events itself, but tells the page so before the event is gone; a visitor who then
starts again at once loses the new run. Here a run whose sampler moves says itself that it stopped,
in order with everything else it said; one that waits or loads is left alone by the page at once.
A run makes clips or scores files. It may take so long and no longer, since others wait behind it.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Generic, TypeVar

from ttmpref.types import Progress, TtmprefError

LONGEST_SECONDS = 1800.0  # from the first step on

Request = TypeVar("Request")


class TookTooLong(TtmprefError):
    """A run held the model for longer than any may."""


class Run(Generic[Request]):
    """A request on its way: waiting, then moving, possibly cancelled at any time."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._lock = threading.Lock()
        self._moving_since: float | None = None
        self._cancelled = False

    def goes_on(self, event: Any) -> bool:
        """Whether `event` is still wanted; it moves from its first step or result on.

        Raises:
            TookTooLong: it has been moving for more than `LONGEST_SECONDS`.
        """
        with self._lock:
            if self._cancelled:
                return False
            if self._moving:
                self._check_time()
            elif not (isinstance(event, Progress) and event.step == 0):
                self._moving_since = time.monotonic()
            return True

    @property
    def _moving(self) -> bool:
        return self._moving_since is not None

    def _check_time(self) -> None:
        if time.monotonic() - self._moving_since > LONGEST_SECONDS:
            raise TookTooLong(
                f"this takes longer than {LONGEST_SECONDS / 60:g} minutes, and others are waiting; "
                "ask for less at once"
            )

    def cancel(self) -> bool:
        """Ask it to stop; True when the run itself will say that it has."""
        with self._lock:
            self._cancelled = True
            return self._moving

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    @property
    def dropped(self) -> bool:
        """Cancelled before it moved: the page has gone on without it."""
        return self._cancelled and not self._moving
