"""The Stages tab without a browser: what is asked for, what stays covered, what is kept."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

import gradio as gr
import pytest

from tests.stage_preset import build_stage_preset
from tests.test_app import Marks
from ttmpref.studio import Studio
from ttmpref.types import InvalidRequest, Progress, TtmprefError
from ttmpref.ui import clips, evidence, figures, stages
from ttmpref.ui.run import Run

TITLES = ["Baseline", "Scored", "Expert iteration", "Cross-loaded (v1 weights, v2 head)"]
ROWS = ("scored", "expert", "crossload")


@pytest.fixture(scope="module")
def studio(scoring_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    preset = build_stage_preset(tmp_path_factory.mktemp("stages"), scoring_preset)
    return Studio.open(str(preset), "cpu")


def a_page(studio: Studio) -> stages.Page:
    with gr.Blocks(analytics_enabled=False):
        controls = (gr.State(), gr.Button(), gr.Button(), gr.HTML())
        parts = (gr.HTML(), gr.Button(), gr.Plot(), gr.HTML())
        fields = {name: gr.Textbox() for name in stages.FIELDS}
        rows = {name: gr.CheckboxGroup() for name in ROWS}
        return stages.Page(*controls, studio, clips.ClipFolder(), fields, rows, *parts)


def filled(*heads: list[str], blind: bool = False, **changes: object) -> list[object]:
    form = {
        "prompt": "calm piano", "seed": "7", "lock": True, "score": 2.0, "guidance": 3.0,
        "num_steps": 2.0, "blind": blind,
    } | changes  # fmt: skip
    return [*form.values(), *(heads or ([], [], []))]


def run_of(page: stages.Page, values: list[object]) -> tuple[Run, list[dict]]:
    """The run that a form begins, and everything that the page is told."""
    run = page.begin(*values)[page.run]
    return run, list(page.stream(run))


def names(page: stages.Page, update: dict) -> list[str]:
    return [clip["name"] for clip in update[page.desk]["clips"]]


def test_all_stages_share_prompt_and_seed_and_other_heads_follow_their_stage(
    studio: Studio,
) -> None:
    tasks, blind = stages.read_comparison(studio, filled([], ["input_add"], []), ROWS)
    assert [(task.request.stage, task.head) for task in tasks] == [
        ("baseline", None), ("scored", None), ("expert", None), ("expert", "input_add"),
        ("crossload", None),
    ]  # fmt: skip
    assert {task.request.seed for task in tasks} == {7} and not blind
    assert {task.request.prompt for task in tasks} == {"calm piano"}


def test_too_many_clips_are_refused_with_the_limit(studio: Studio) -> None:
    four = ["input_add", "audio_prepend", "latent_adaln", "text_prepend"]
    with pytest.raises(InvalidRequest, match="^16 clips were asked for; at most 12"):
        stages.read_comparison(studio, filled(four, four, four), ROWS)


def test_clips_come_one_by_one_and_stay_in_the_order_of_the_preset(studio: Studio) -> None:
    page = a_page(studio)
    run, updates = run_of(page, filled())
    shown = [names(page, update) for update in updates if page.desk in update]
    assert shown[0] == [] and shown[1] == TITLES[:1] and shown[-1] == TITLES
    assert "4 clips ready" in updates[-1][page.status]
    html = [clip["html"] for clip in updates[-1][page.desk]["clips"]]
    assert all(Marks(one).open == [] and "<dt>Reward</dt>" in one for one in html)
    assert updates[-1][page.climb]["visible"] is True
    assert "stages.zip" in updates[-1][page.archive]


def test_blind_clips_say_nothing_before_they_are_uncovered(studio: Studio) -> None:
    page = a_page(studio)
    run, updates = run_of(page, filled(blind=True))
    for update in updates:
        told = json.dumps(update.get(page.desk, {}))
        assert not any(word in told for word in (*TITLES, "expert", "scored", "Reward"))
        assert update.get(page.archive, "") == ""
    assert names(page, updates[-1]) == ["Clip A", "Clip B", "Clip C", "Clip D"]
    before = {clip["id"]: clip["source"] for clip in updates[-1][page.desk]["clips"]}
    opened = page.uncover(run)
    assert names(page, opened) == TITLES
    assert {clip["id"]: clip["source"] for clip in opened[page.desk]["clips"]} == before
    assert opened[page.reveal]["visible"] is False and "stages.zip" in opened[page.archive]


def test_blind_orders_differ(studio: Studio) -> None:
    page = a_page(studio)
    orders = set()
    for _ in range(20):
        series = page.begin(*filled(blind=True))[page.run].request.series
        orders.add(tuple(task.request.stage for task in series.tasks))
    assert len(orders) > 1  # twenty equal ones of 24: once in 10**26


def test_a_stage_that_fails_is_said_on_its_card_and_the_others_are_made(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Studio._generator

    def damaged(self: Studio, name: str, head: str | None = None) -> object:
        if name == "expert":
            raise TtmprefError("the weights <b>do not fit</b>")
        return whole(self, name, head)

    monkeypatch.setattr(Studio, "_generator", damaged)
    page = a_page(studio)
    _, updates = run_of(page, filled())
    cards = updates[-1][page.desk]["clips"]
    assert [card["source"] is None for card in cards] == [False, False, True, False]
    assert "The weights &lt;b&gt;do not fit&lt;/b&gt;." in cards[2]["html"]
    assert "3 clips ready" in updates[-1][page.status]


def test_the_archive_holds_sound_settings_and_a_table(studio: Studio) -> None:
    page = a_page(studio)
    _, updates = run_of(page, filled([], ["input_add"], []))
    assert updates[-1][page.archive].count("<a ") == 1
    (path,) = page.folder.path.glob("clips/*/stages.zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        inside = sorted(archive.namelist())
        stem = "04-expert-under-input_add_calm-piano_seed-7"
        sidecar = json.loads(archive.read(f"{stem}.json"))
    assert len(inside) == 11 and f"{stem}.wav" in inside and "clips.csv" in inside
    assert sidecar["provenance"]["head"] == "input_add"
    assert sidecar["scores"]["reward"] is not None


def test_the_climb_draws_reward_with_its_range_and_clap(studio: Studio) -> None:
    page = a_page(studio)
    run, _ = run_of(page, filled())
    made = run.request.series.finished
    figure = figures.climb_figure(TITLES, made)
    reward, clap = figure.data
    assert list(reward.y) == [one.reward.reward for one in made]
    ends = [y - down for y, down in zip(reward.y, reward.error_y.arrayminus, strict=True)]
    assert ends == pytest.approx([one.reward.interval[0] for one in made])
    assert list(clap.y) == [one.generation.scores.clap_score for one in made]


def test_a_cancelled_comparison_keeps_what_was_finished(studio: Studio) -> None:
    page = a_page(studio)
    run = page.begin(*filled(num_steps=50.0))[page.run]
    updates = page.stream(run)
    for update in updates:
        if page.desk in update and update[page.desk]["clips"]:
            page.stop(run)
            break
    rest = list(updates)
    assert names(page, rest[-1]) == TITLES[:1]
    assert "Stopped." in rest[-1][page.status]
    assert "stages.zip" in rest[-1][page.archive]


def test_progress_says_which_clip_of_how_many(studio: Studio) -> None:
    tasks, _ = stages.read_comparison(studio, filled(), ROWS)
    said = [tick.activity for tick in studio.series(tasks) if isinstance(tick, Progress)]
    assert said[0].startswith("clip 1 of 4") and said[-1].startswith("clip 4 of 4")


# ------------------------------------------------------------------------------ evidence


def texts(component: type, app: gr.Blocks) -> list[str]:
    return [str(block.value) for block in app.blocks.values() if isinstance(block, component)]


def test_without_tables_the_evidence_page_says_how_to_make_them() -> None:
    with gr.Blocks(analytics_enabled=False) as app:
        evidence.build_evidence("no-such-preset")
    (said,) = texts(gr.HTML, app)
    assert "python -m ttmpref tables" in said


def test_tables_and_figures_are_shown_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TTMPREF_ASSETS", str(tmp_path))
    folder = evidence.tables_folder("tiny")
    folder.mkdir(parents=True)
    table = "## Table II\n\n| stage | FAD | paper FAD |\n| --- | --- | --- |\n| sft | 0.1 | 0.2 |\n"
    (folder / "table2.md").write_text(table)
    drawn = {"data": [{"type": "scatter", "x": [1, 2], "y": [3, 4]}], "layout": {"title": "Twice"}}
    (folder / "table2.plotly.json").write_text(json.dumps(drawn))
    (folder / "table3.md").write_text("## Table III\n")
    (folder / "table3.plotly.json").write_text("{broken")
    with gr.Blocks(analytics_enabled=False) as app, caplog.at_level(logging.WARNING):
        evidence.build_evidence("tiny")
    assert texts(gr.Markdown, app) == [table.strip(), "## Table III"]
    assert len(texts(gr.Plot, app)) == 1
    figure = evidence.read_figure(folder / "table2.plotly.json")
    assert figure.layout.legend.yref == "container"  # below the axes, whose titles it would cover
    assert figure.layout.title.text is None  # the table has it
    assert "table3.plotly.json is not a plotly figure" in caplog.text
