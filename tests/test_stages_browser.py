"""The Stages tab in a real browser: compare, listen on one transport, blind first, take along."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser as driver
from tests.browser import PHONE, ROOT, RunningApp, Visit
from tests.stage_preset import build_stage_preset

PROMPT = "calm piano"
TITLES = ["Baseline", "Scored", "Expert iteration", "Cross-loaded (v1 weights, v2 head)"]


@pytest.fixture(scope="module")
def app(scoring_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    preset = build_stage_preset(tmp_path_factory.mktemp("stages"), scoring_preset)
    assets = tmp_path_factory.mktemp("assets")
    measured = "reference/{}/tables"
    shutil.copytree(ROOT / "assets" / measured.format("demo"), assets / measured.format("tiny"))
    folder, given = tmp_path_factory.mktemp("app"), {"TTMPREF_ASSETS": str(assets)}
    with driver.running_app(preset, folder, **given) as running:
        yield running


@pytest.fixture
def visitor(chromium: Any, app: RunningApp) -> Iterator[Visit]:
    with driver.visit(chromium, app.url) as visit:
        open_tab(visit.page)
        yield visit


def open_tab(page: Any) -> None:
    page.get_by_role("tab", name="Stages").click()
    page.locator("#stages-start").wait_for()


def compare(page: Any, clips: int = len(TITLES)) -> None:
    """Run to the end and wait until every clip can be heard."""
    page.fill("#stages-prompt textarea", PROMPT)
    page.click("#stages-start")
    page.wait_for_function(
        f"document.querySelectorAll('.entry input[type=radio]:enabled').length === {clips}"
    )
    page.wait_for_selector("#stages-start:not([disabled])")


def names(page: Any) -> list[str]:
    return page.locator(".entry .hear b").all_inner_texts()


def test_every_available_stage_is_made_in_order_and_measured(visitor: Visit) -> None:
    page = visitor.page
    assert page.get_by_text("One prompt, every stage").is_visible()
    assert "Planned: not trained yet" in page.locator("#stages-list details").text_content()
    assert "python -m training chain --recipe tiny" in page.locator("#stages-list").inner_text()
    compare(page)
    assert names(page) == TITLES
    for card in page.locator(".entry").all():
        text = card.inner_text()
        assert all(fact in text for fact in ("Reward", " to ", "Fits the words", "LUFS"))
        assert card.locator(".plot-spec").count() == 1
    page.locator("#stages-climb .js-plotly-plot").wait_for()
    page.wait_for_function("document.querySelectorAll('#stages-climb .point').length >= 8")
    visitor.picture("desktop-light-stages")


def test_one_transport_plays_all_clips_and_switching_keeps_the_place(visitor: Visit) -> None:
    page = visitor.page
    compare(page)
    page.locator("#desk .transport").get_by_role("button", name="Play").click()
    page.wait_for_function("Number(document.querySelector('#desk [data-desk-seek]').value) > 0.1")
    assert page.locator(".entry.heard .hear b").inner_text() == TITLES[0]
    page.keyboard.press("3")
    assert page.locator(".entry.heard .hear b").inner_text() == TITLES[2]
    assert page.locator("#desk .transport.playing").count() == 1
    page.get_by_role("button", name="Pause").click()
    place = page.input_value("#desk [data-desk-seek]")
    page.locator(".entry input[type=radio]").nth(1).check()  # goes on where it stopped
    page.wait_for_function(f"document.querySelector('#desk [data-desk-seek]').value !== '{place}'")
    assert page.locator("#desk .transport.playing").count() == 1
    page.locator("#desk").get_by_label("Repeat").uncheck()
    page.wait_for_selector("#desk .transport:not(.playing)")  # a second long
    assert float(page.input_value("#desk [data-desk-seek]")) == 0


def test_a_clip_that_joins_late_plays_in_step_and_as_loud_as_it_is_told(visitor: Visit) -> None:
    """Ramps: |sound| says where, its sign which clip; the second joins while the first plays."""
    late, side, place = visitor.page.evaluate(
        """async () => {
          const { Transport } = await import("/listen/static/transport.js");
          const rate = 44100;
          const context = new OfflineAudioContext(1, 2 * rate, rate);
          const ramp = (sign) => {
            const buffer = new AudioBuffer({ length: rate * 10, sampleRate: rate });
            const samples = buffer.getChannelData(0);
            samples.forEach((_, i) => { samples[i] = sign * (0.1 + i / rate / 20); });
            return buffer;
          };
          const transport = new Transport(context, { A: ramp(1) });
          transport.play();
          context.suspend(0.5).then(() => {
            transport.add("B", ramp(-1));
            transport.setLevel("B", 0.5);
            context.resume();
          });
          context.suspend(1).then(() => { transport.select("B"); context.resume(); });
          const sound = (await context.startRendering()).getChannelData(0);
          return [sound[1.5 * rate], transport.side, 0.1 + (1.5 - 0.02) / 20];
        }"""
    )
    assert side == "B"
    assert late == pytest.approx(-0.5 * place, abs=1e-4)


def test_blind_clips_tell_nothing_until_asked(visitor: Visit) -> None:
    page = visitor.page
    page.get_by_label("Listen blind first").check()
    compare(page)
    assert names(page) == ["Clip A", "Clip B", "Clip C", "Clip D"]
    source = page.locator("#desk").inner_html()
    assert not any(word in source for word in (*TITLES, "Reward", "expert", "input_add"))
    assert page.locator("#stages-climb .js-plotly-plot").count() == 0
    assert page.locator("#stages-archive a").count() == 0
    visitor.picture("desktop-light-stages-blind")
    page.keyboard.press("Tab")
    page.locator(".entry input[type=radio]").nth(2).check()
    heard = page.locator(".entry.heard").get_attribute("data-id")
    page.get_by_role("button", name="Which is which?").click()
    page.wait_for_function("document.querySelector('.entry .facts')")
    assert names(page) == TITLES
    letters = [card.locator(".hear .soft").inner_text() for card in page.locator(".entry").all()]
    assert sorted(letters) == ["was Clip A", "was Clip B", "was Clip C", "was Clip D"]
    assert page.locator(".entry.heard").get_attribute("data-id") == heard  # the same one plays on
    assert page.locator("#stages-archive a").count() == 1


def test_other_heads_are_made_beside_their_stage_and_called_ablations(visitor: Visit) -> None:
    page = visitor.page
    page.get_by_role("button", name="Weights × forward").click()
    group = page.locator("#stages-heads fieldset", has_text="Scored: weights under")
    group.get_by_label("InputAdd (v2)").check()
    compare(page, 5)
    assert names(page)[1:3] == ["Scored", "Scored under InputAdd (v2)"]
    marked = page.locator(".entry", has=page.locator(".badge", has_text="Ablation"))
    assert marked.count() == 1
    visitor.picture("desktop-light-stages-ablation")


def test_the_archive_holds_every_clip_with_its_settings_and_a_table(
    app: RunningApp, visitor: Visit
) -> None:
    page = visitor.page
    compare(page)
    with page.expect_download() as waiting:
        page.locator("#stages-archive a").click()
    archive = zipfile.ZipFile(io.BytesIO(Path(waiting.value.path()).read_bytes()))
    assert archive.testzip() is None
    inside = archive.namelist()
    assert [Path(name).suffix for name in inside].count(".wav") == len(TITLES)
    assert [Path(name).suffix for name in inside].count(".json") == len(TITLES)
    rows = archive.read("clips.csv").decode().splitlines()
    assert len(rows) == 1 + len(TITLES)
    assert [row.split(",")[3] for row in rows[1:]] == ["baseline", "scored", "expert", "crossload"]


def test_cancel_keeps_the_clips_that_were_finished(visitor: Visit) -> None:
    page = visitor.page
    page.fill("#stages-prompt textarea", PROMPT)
    steps = page.locator("#stages-steps input[type=number]")
    steps.fill("200")
    steps.blur()
    page.evaluate(  # by the page itself: a fast machine has made the next clip before a click comes
        """() => new MutationObserver((_, observer) => {
          if (!document.querySelector("#desk .entry")) return;
          observer.disconnect();
          document.querySelector("#stages-cancel").click();
        }).observe(document.querySelector("#desk"), { childList: true, subtree: true })"""
    )
    page.click("#stages-start")
    page.get_by_text("Stopped. Clips that were finished are kept.").wait_for()
    page.wait_for_selector("#stages-start:not([disabled])")
    assert 1 <= page.locator(".entry").count() < len(TITLES)


def test_an_empty_prompt_is_refused_at_the_box(visitor: Visit) -> None:
    visitor.page.click("#stages-start")
    visitor.page.locator("#stages-ask .validation-error", has_text="Prompt is empty").wait_for()


def test_with_one_stage_the_tab_works_and_says_so(
    chromium: Any, tiny_preset: Path, tmp_path: Path
) -> None:
    preset = tmp_path / "one.yaml"
    lines = tiny_preset.read_text().splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if "name: scored" in line)
    preset.write_text("".join(lines[:start] + lines[start + 2 :]))
    with (
        driver.running_app(preset, tmp_path) as running,
        driver.visit(chromium, running.url) as visit,
    ):
        open_tab(visit.page)
        assert "Only this stage can be used here" in visit.page.locator("#stages-list").inner_text()
        visit.page.get_by_role("button", name="Weights × forward").click()
        visit.page.get_by_text("No stage that can be used here takes the score").wait_for()
        compare(visit.page, 1)
        assert names(visit.page) == ["Baseline"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [driver.DESKTOP, PHONE, (360, 780)], ids=["desktop", "390", "360"])
def test_the_tab_fits_its_window(
    chromium: Any, app: RunningApp, size: tuple[int, int], scheme: str
) -> None:
    with driver.visit(chromium, app.url, size, scheme) as visit:
        open_tab(visit.page)
        compare(visit.page)
        visit.page.locator("#stages-climb .js-plotly-plot").wait_for()
        assert visit.overflow() <= 0
        visit.page.get_by_role("button", name="Evidence").click()
        visit.page.locator(".evidence-table").filter(visible=True).first.wait_for()
        assert visit.overflow() <= 0
        visit.picture(f"stages-{size[0]}-{scheme}")


def test_evidence_is_read_on_a_phone_cell_by_cell_and_not_letter_by_letter(
    chromium: Any, app: RunningApp
) -> None:
    with driver.visit(chromium, app.url, PHONE) as visit:
        page = visit.page
        open_tab(page)
        page.get_by_role("button", name="Evidence").click()
        cells = page.locator(".evidence-table td", has_text="0.").filter(visible=True)
        cells.first.wait_for()
        widths = [cell.bounding_box()["width"] for cell in cells.all()]
        assert min(widths) > 50  # CSS pixels: a number of three decimals in one line
        page.locator(".evidence-figure .js-plotly-plot").first.wait_for()
        assert visit.overflow() <= 0
        visit.picture("phone-light-evidence")
