"""Pictures of the app's tabs, used as a visitor uses them.

    python -m benchmarks.screenshots             # those that README shows
    python -m benchmarks.screenshots --all --out DIR  # each tab, wide and narrow, light and dark

A tab is used once and then looked at in every size and colour scheme. Needs Debian's chromium.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.app_driver import RUN_LIMIT_SECONDS, free_port, running_app
from benchmarks.browser import SETTLED, chromium
from benchmarks.common import REPOSITORY
from benchmarks.study_raters import Load, prepare
from ttmpref.studio import Studio

FOLDER = REPOSITORY / "assets" / "screenshots"
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}  # CSS pixels
SCHEMES = ("light", "dark")
TABS = ("generate", "stages", "score", "listen", "results", "about")
SEED, VARIATIONS = "7", "2"
COLOURS = 128  # of a picture
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@dataclass(frozen=True)
class Look:
    """One picture: a tab in a window of a size, under a colour scheme."""

    tab: str
    size: str
    scheme: str

    @property
    def name(self) -> str:
        return f"{self.tab}-{self.size}-{self.scheme}.png"


SHOWN = (
    Look("generate", "desktop", "light"),
    Look("stages", "desktop", "light"),
    Look("score", "desktop", "dark"),
    Look("generate", "phone", "dark"),
)
ALL = tuple(Look(tab, size, scheme) for tab in TABS for size in SIZES for scheme in SCHEMES)


def take(preset: str, out: Path, looks: Sequence[Look]) -> list[Path]:
    """Start the app with an open study, walk through its tabs, and write the pictures."""
    prompt = Studio.open(preset).settings.examples[0]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder, paths = Path(name), []
        environment = prepare(folder, Load(raters=10, trials=6, prompts=8), "")
        with running_app(preset, free_port(), REPOSITORY, environment) as app:
            page = browser.new_page()
            page.set_default_timeout(1000 * RUN_LIMIT_SECONDS)
            width, height = SIZES["desktop"]
            page.set_viewport_size({"width": width, "height": height})
            page.goto(app.url)
            for tab in _walk(page, prompt, folder, {look.tab for look in looks}):
                paths += [_picture(page, look, out) for look in looks if look.tab == tab]
    return paths


def _picture(page: Any, look: Look, out: Path) -> Path:
    width, height = SIZES[look.size]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=look.scheme)
    page.mouse.move(0, 0)  # points at nothing
    page.evaluate(DRAWN)
    page.evaluate(SETTLED)
    path = out / look.name
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as image:  # a palette weighs half as much and shows no less
        image.convert("RGB").quantize(COLOURS).save(path, optimize=True)
    return path


def _walk(page: Any, prompt: str, folder: Path, tabs: Collection[str]) -> Iterator[str]:
    """Use the tabs, Generate always; yields a tab's name when there is something to see."""
    _generate(page, prompt)
    yield "generate"
    clips = [_download(page, number, folder) for number in range(int(VARIATIONS))]
    for tab in TABS[1:]:
        if tab not in tabs:
            continue
        page.get_by_role("tab", name=tab).click()
        if tab == "stages":
            _stages(page, prompt)
        elif tab == "score":
            _score(page, prompt, clips)
        elif tab == "listen":
            page.frame_locator("#listen iframe").get_by_role("heading").first.wait_for()
        yield tab


def _generate(page: Any, prompt: str) -> None:
    page.fill("#prompt textarea", prompt)
    page.locator("#lock input").check()
    page.fill("#seed input", SEED)
    variations = page.get_by_label("number input for Variations")
    variations.fill(VARIATIONS)
    variations.blur()
    page.click("#generate")
    page.locator("article.clip").nth(int(VARIATIONS) - 1).wait_for()
    page.locator("#generate:enabled").wait_for()


def _download(page: Any, number: int, folder: Path) -> Path:
    """A clip of the Generate tab as a file."""
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download WAV").nth(number).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def _stages(page: Any, prompt: str) -> None:
    page.fill("#stages-prompt textarea", prompt)
    page.click("#stages-start")
    page.locator("#stages-archive a").first.wait_for()
    page.locator("#stages-start:enabled").wait_for()


def _score(page: Any, prompt: str, clips: Sequence[Path]) -> None:
    page.fill("#score-text textarea", prompt)
    page.locator("#uploads input[type=file]").set_input_files(clips)
    page.locator("#uploads td.filename").nth(len(clips) - 1).wait_for()
    page.click("#score-start")
    page.locator("#score-report table").first.wait_for()
    page.locator("#score-distribution .js-plotly-plot").wait_for()
    page.locator("#score-start:enabled").wait_for()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="demo", help="name of a preset or path of its .yaml")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the pictures")
    parser.add_argument("--all", action="store_true", help="each tab, size and colour scheme")
    given = parser.parse_args()
    for path in take(given.preset, given.out, ALL if given.all else SHOWN):
        print(path)


if __name__ == "__main__":
    main()
