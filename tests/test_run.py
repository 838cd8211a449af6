"""A run of a visitor: when it goes on, when it stops, and that it ends."""

from __future__ import annotations

import pytest

from ttmpref.types import Progress
from ttmpref.ui import run
from ttmpref.ui.run import Run, TookTooLong

LOADING, STEP = Progress(0, 4, "loading the weights"), Progress(1, 4, "sampling")


def test_a_run_that_moves_says_itself_that_it_stopped() -> None:
    waiting, moving = Run("a request"), Run("a request")
    assert waiting.goes_on(LOADING) and moving.goes_on(STEP)
    assert not waiting.cancel() and moving.cancel()
    assert waiting.dropped and not moving.dropped and moving.cancelled
    assert not moving.goes_on(STEP)


def test_no_run_holds_the_model_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(run.time, "monotonic", lambda: now)
    one = Run("a request")
    assert one.goes_on(LOADING)
    now += 10 * run.LONGEST_SECONDS  # waiting and loading do not count
    assert one.goes_on(STEP)
    now += run.LONGEST_SECONDS
    assert one.goes_on(STEP)
    now += 1
    with pytest.raises(TookTooLong, match="30 minutes"):
        one.goes_on(STEP)
