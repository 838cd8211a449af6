"""One run of a visitor, shared by the handler that streams it and the one that cancels it.

Gradio can cancel events itself, but tells the page so before the event is gone; a visitor who then
starts again at once loses the new run. Here a run whose sampler moves says itself that it stopped,
in order with everything else it said; one that waits or loads is left alone by the page at once.
"""

from __future__ import annotations

import threading

from ttmpref.types import Generation, GenerationRequest, Progress


class Run:
    """A request on its way: waiting, then moving, possibly cancelled at any time."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self._lock = threading.Lock()
        self._moving = False
        self._cancelled = False

    def goes_on(self, event: Progress | Generation) -> bool:
        """Whether `event` is still wanted; the sampler moves from its first step on."""
        with self._lock:
            if not self._cancelled:
                self._moving = self._moving or isinstance(event, Generation) or event.step > 0
            return not self._cancelled

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
