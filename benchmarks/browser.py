"""A headless Chromium of the system, driven through Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-component-update", "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
# For `evaluate`: what fades or slides has arrived, or was called off.
SETTLED = """Promise.all(document.getAnimations()
  .filter((one) => one.effect.getComputedTiming().iterations !== Infinity)
  .map((one) => one.finished.catch(() => null)))"""


class NoBrowser(RuntimeError):
    """There is no Chromium to drive."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser.

    Raises:
        NoBrowser: it is not installed.
    """
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        raise NoBrowser("no chromium on PATH (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, headless=True, args=ARGUMENTS
        )
        yield browser
        browser.close()
