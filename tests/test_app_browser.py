"""The app in a real browser: what a visitor does on the Generate tab, from first look to file."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests import browser as driver
from tests.browser import PHONE, RunningApp, Visit, fetch
from ttmpref.loudness import integrated_loudness
from ttmpref.types import Clip

PROMPT = "calm piano"
LONG_RUN = 200  # steps


@pytest.fixture(scope="module")
def app(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    with driver.running_app(tiny_preset, tmp_path_factory.mktemp("app")) as running:
        yield running


def generate(page: Any, prompt: str | None = PROMPT) -> None:
    """Run to the end and wait until the buttons are back."""
    before = page.locator("article.clip").count()
    if prompt is not None:
        page.fill("#prompt textarea", prompt)
    page.click("#generate")
    page.wait_for_function(f"document.querySelectorAll('article.clip').length > {before}")
    page.wait_for_selector("#generate:not([disabled])")


def set_number(page: Any, name: str, value: object) -> None:
    box = page.get_by_label(f"number input for {name}")
    box.fill(str(value))
    box.blur()


def ask_for_a_long_run(page: Any) -> None:
    page.fill("#prompt textarea", PROMPT)
    set_number(page, "Variations", 8)
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("Heun").check()
    set_number(page, "Steps", LONG_RUN)


def start(page: Any) -> None:
    """Press Generate and wait until the sampler moves."""
    page.click("#generate")
    page.wait_for_function(
        "/step [1-9]/.test(document.querySelector('#status .counter')?.textContent)"
    )


def wav_of(app: RunningApp, page: Any, card: int = 0) -> bytes:
    source = page.locator("article.clip audio").nth(card).get_attribute("src")
    return fetch(f"{app.url}/{source}")


def test_a_prompt_becomes_a_clip_of_the_right_length_and_loudness(
    app: RunningApp, visitor: Visit
) -> None:
    assert visitor.page.get_by_text("Your clips will appear here").is_visible()
    visitor.picture("desktop-light-empty")
    generate(visitor.page)
    audio, rate = soundfile.read(io.BytesIO(wav_of(app, visitor.page)), dtype="float32")
    assert (rate, len(audio)) == (8000, 8000)
    facts = visitor.page.locator(".facts").inner_text()
    assert integrated_loudness(Clip(audio[None], rate)) == pytest.approx(-16.5, abs=0.5)
    assert "LUFS" in facts and "dBTP" in facts
    assert visitor.page.get_by_text("Your clips will appear here").is_hidden()
    visitor.picture("desktop-light-clip")


def test_the_clip_plays_and_can_be_moved_through(visitor: Visit) -> None:
    page = visitor.page
    generate(page)
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('article.clip audio').currentTime > 0.2")
    page.wait_for_function("document.querySelector('article.clip audio').paused")  # 1 s long
    seek = page.get_by_label("Position in the clip")
    seek.focus()
    here = page.evaluate("document.querySelector('article.clip audio').currentTime")
    page.keyboard.press("ArrowLeft")
    there = page.evaluate("document.querySelector('article.clip audio').currentTime")
    assert there == pytest.approx(here - 0.1, abs=0.02)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
def test_downloads_are_audio_under_a_readable_name(visitor: Visit, kind: str) -> None:
    generate(visitor.page)
    with visitor.page.expect_download() as waiting:
        visitor.page.get_by_role("link", name=f"Download {kind}").click()
    download = waiting.value
    seed = visitor.page.input_value("#seed input")
    assert download.suggested_filename == f"calm-piano_seed-{seed}.{kind.lower()}"
    with soundfile.SoundFile(download.path()) as audio:
        assert audio.format == kind
        assert audio.samplerate == 8000
        assert len(audio) >= 8000  # MP3 pads


def test_the_settings_file_and_the_clipboard_hold_what_made_the_clip(visitor: Visit) -> None:
    page = visitor.page
    generate(page)
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download JSON").click()
    request = json.loads(Path(waiting.value.path()).read_text())["request"]
    page.get_by_role("button", name="Copy settings").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == request
    assert request["prompt"] == PROMPT
    assert str(request["seed"]) == page.input_value("#seed input")


def test_a_locked_seed_gives_the_same_bytes_and_an_unlocked_one_does_not(
    app: RunningApp, visitor: Visit
) -> None:
    page = visitor.page
    generate(page)
    seed, first = page.input_value("#seed input"), wav_of(app, page)
    generate(page)
    assert page.input_value("#seed input") != seed
    assert wav_of(app, page) != first
    page.get_by_role("button", name="Use this seed").nth(1).click()
    page.wait_for_function(f"document.querySelector('#seed input').value === '{seed}'")
    assert page.is_checked("#lock input")
    generate(page)
    assert page.input_value("#seed input") == seed
    assert wav_of(app, page) == first


def test_variations_come_in_order_above_earlier_clips_which_stay(visitor: Visit) -> None:
    page = visitor.page
    generate(page, "loud drums")
    page.evaluate("document.querySelector('article.clip').marked = true")
    set_number(page, "Variations", 3)
    generate(page)
    seed = int(page.input_value("#seed input"))
    names = [card.get_attribute("aria-label") for card in page.locator("article.clip").all()]
    assert names[:3] == [f"Clip with seed {seed + i}" for i in range(3)]
    assert page.evaluate("document.querySelectorAll('article.clip')[3].marked")
    page.reload()
    page.wait_for_selector("article.clip")
    assert page.locator("article.clip").count() == 4
    page.get_by_role("button", name="Remove this clip").first.click()
    assert page.locator("article.clip").count() == 3


def test_cancel_stops_the_run_and_the_next_one_can_start_at_once(visitor: Visit) -> None:
    page = visitor.page
    ask_for_a_long_run(page)
    for _ in range(4):
        start(page)
        pressed = time.monotonic()
        page.click("#cancel")
        page.get_by_text("Stopped.").wait_for()
        page.wait_for_selector("#generate:not([disabled])")
        assert time.monotonic() - pressed < 10  # half a second on a free machine
    assert page.locator("article.clip").count() == 0
    assert page.locator("#cancel").is_disabled()
    set_number(page, "Steps", 1)
    set_number(page, "Variations", 1)
    generate(page)


def test_a_second_visitor_sees_the_place_in_the_queue_and_can_leave_it(
    chromium: Any, app: RunningApp, visitor: Visit
) -> None:
    ask_for_a_long_run(visitor.page)
    with driver.visit(chromium, app.url) as second:
        second.page.fill("#prompt textarea", PROMPT)
        start(visitor.page)
        second.page.click("#generate")
        second.page.locator("#status").get_by_text("queue").wait_for()
        second.page.click("#cancel")
        second.page.get_by_text("Stopped.").wait_for()
    visitor.page.click("#cancel")
    visitor.page.get_by_text("Stopped.").wait_for()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda page: page.fill("#prompt textarea", " "), "Prompt is empty"),
        (lambda page: page.fill("#prompt textarea", "x" * 2001), "Prompt has 2001 characters"),
        (lambda page: lock_seed(page, "twelve"), "Seed is 'twelve'"),
    ],
    ids=["empty prompt", "long prompt", "bad seed"],
)
def test_mistakes_are_explained_in_one_line_where_they_are(
    visitor: Visit, spoil: Callable[[Any], None], message: str
) -> None:
    visitor.page.fill("#prompt textarea", PROMPT)
    spoil(visitor.page)
    visitor.page.click("#generate")
    visitor.page.locator(".validation-error", has_text=message).wait_for()
    text = visitor.page.inner_text("body")
    assert "Traceback" not in text and "InvalidRequest" not in text
    assert visitor.page.locator("article.clip").count() == 0
    visitor.picture(f"desktop-light-mistake-{message.split()[0].lower()}")
    lock_seed(visitor.page, "12", locked=False)
    generate(visitor.page)  # the form still works


def lock_seed(page: Any, seed: str, locked: bool = True) -> None:
    page.fill("#seed input", seed)
    page.set_checked("#lock input", locked)


def test_pasted_nonsense_is_refused_and_pasted_settings_fill_the_form(visitor: Visit) -> None:
    page = visitor.page
    generate(page)
    page.get_by_role("button", name="Paste settings").click()
    page.fill("#paste-box textarea", "{nonsense")
    page.click("#apply")
    page.get_by_text("This is not JSON").wait_for()
    settings = json.loads(page.locator("article.clip").get_attribute("data-settings"))
    settings |= {"prompt": "loud drums", "seed": 2**63 - 1, "stage": "scored", "score": 4.5}
    page.fill("#paste-box textarea", json.dumps(settings))
    page.click("#apply")
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'loud drums'")
    assert page.input_value("#seed input") == str(2**63 - 1)
    page.wait_for_selector("#score input[type=number]:enabled")
    assert page.get_by_label("number input for Score s").input_value() == "4.5"


def test_the_score_is_open_only_for_stages_that_take_one(visitor: Visit) -> None:
    page = visitor.page
    score = page.get_by_label("number input for Score s")
    assert score.is_disabled()
    assert page.get_by_text("trained without the score").is_visible()
    page.get_by_role("combobox", name="Stage").click()
    options = page.get_by_role("option").all_inner_texts()
    assert [option.strip(" ✓\n") for option in options] == ["Baseline", "Scored"]
    page.get_by_role("option", name="Scored").click()
    page.wait_for_selector("#score input[type=number]:enabled")
    set_number(page, "Score s", 7)
    generate(page)
    assert "score 7" in page.locator(".clip-title").inner_text()


def test_unavailable_stages_say_why(visitor: Visit) -> None:
    visitor.page.get_by_text("2 stages are not available").click()
    reasons = visitor.page.locator("details.missing").inner_text()
    assert "Planned: not trained yet" in reasons
    assert "Lost:" in reasons


def test_without_a_ranker_scoring_is_off_and_says_why(visitor: Visit) -> None:
    page = visitor.page
    assert page.get_by_label("Choose the best by reward").is_disabled()
    reason = "Clips cannot be scored here: Preset 'tiny' has no ranker."
    assert reason in page.locator("#best-of").inner_text()
    page.get_by_role("tab", name="Score").click()
    page.locator("#score-ask").get_by_text(reason).wait_for()
    assert page.locator("#score-start").is_disabled()


def test_the_keyboard_alone_is_enough(visitor: Visit) -> None:
    page = visitor.page
    page.focus("#prompt textarea")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Enter")
    page.wait_for_selector("article.clip")
    page.wait_for_selector("#generate:not([disabled])")
    page.focus("#prompt textarea")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText")
        )
    for wanted in ("calm piano", "Generate", "Play", "Position in the clip"):
        assert wanted in [name.strip() for name in reached]


def test_every_control_has_a_name(visitor: Visit) -> None:
    generate(visitor.page)
    visitor.page.get_by_role("button", name="More settings").click()
    nameless = visitor.page.evaluate(
        """() => [...document.querySelectorAll('button, a, input, textarea')]
          .filter((e) => e.checkVisibility() && !e.closest('[aria-hidden=true]'))
          .filter((e) => !(e.labels?.length || e.ariaLabel || e.innerText?.trim() || e.title))
          .map((e) => e.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [driver.DESKTOP, PHONE, (360, 780)], ids=["desktop", "390", "360"])
def test_every_page_fits_its_window_in_light_and_dark(
    chromium: Any, app: RunningApp, size: tuple[int, int], scheme: str
) -> None:
    name = f"{'desktop' if size == driver.DESKTOP else f'phone-{size[0]}'}-{scheme}"
    with driver.visit(chromium, app.url, size, scheme) as visit:
        generate(visit.page)
        assert visit.overflow() <= 0
        tabs = visit.page.get_by_role("tab").filter(visible=True).all()
        assert len({tab.bounding_box()["y"] for tab in tabs}) == 1  # in one line
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in ground.strip("rgba()").split(",")[:3]) / 3
        assert (brightness > 128) == (scheme == "light")
        visit.picture(f"{name}-generate")
        visit.page.get_by_role("tab", name="About").click()
        visit.page.get_by_text("Words on these pages").wait_for()
        assert visit.overflow() <= 0
        visit.picture(f"{name}-about")


def test_about_names_preset_licence_and_both_papers(visitor: Visit) -> None:
    visitor.page.get_by_role("tab", name="About").click()
    visitor.page.get_by_text("Words on these pages").wait_for()
    text = visitor.page.locator("#about").inner_text()
    for wanted in ("Tiny", "MIT", "arXiv:2606.21670", "arXiv:2606.17006", "gradio 6"):
        assert wanted in text


def test_temporary_files_are_private_and_gone_when_the_app_ends(
    tiny_preset: Path, tmp_path: Path
) -> None:
    with driver.running_app(tiny_preset, tmp_path) as running:
        (folder,) = running.temporary.glob("ttmpref-app-*")
        assert folder.stat().st_mode & 0o077 == 0
    assert list(running.temporary.glob("ttmpref-app-*")) == []
