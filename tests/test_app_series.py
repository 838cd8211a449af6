"""The Generate tab's series without a browser: score sweep, shared addresses, batches."""

from __future__ import annotations

import zipfile
from pathlib import Path

import gradio as gr
import pytest

from tests.test_app import Marks, a_page, field_values
from ttmpref.studio import Studio
from ttmpref.types import InvalidRequest
from ttmpref.ui import batch, clips, form, generate, plots
from ttmpref.ui.run import Run


@pytest.fixture(scope="module")
def studio(scoring_preset: Path) -> Studio:
    return Studio.open(str(scoring_preset), "cpu")


# ------------------------------------------------------------------------------ sweep


def a_sweep(studio: Studio, **changes: object) -> form.Sweep:
    values = {"stage": "scored", "seed": "7", "lock": True, "sweep": True, "num_steps": 2.0}
    return form.read_order(studio, field_values(**values | changes))


def test_a_sweep_changes_nothing_but_the_score(studio: Studio) -> None:
    tasks = a_sweep(studio, variations=3).tasks
    assert [task.request.score for task in tasks] == [0, 1, 2, 3, 4, 5, 6]
    assert len({(task.request.seed, task.request.variations) for task in tasks}) == 1
    assert tasks[0].request.seed == 7


def test_a_sweep_is_refused_where_it_makes_no_sense(studio: Studio) -> None:
    with pytest.raises(InvalidRequest, match="^sweep needs a stage that takes the score; 'base"):
        a_sweep(studio, stage="baseline")
    with pytest.raises(InvalidRequest, match="^sweep cannot go with the best of several"):
        a_sweep(studio, best_of=True)


def test_the_curve_grows_with_every_clip_of_a_sweep(studio: Studio) -> None:
    page = a_page(studio)
    updates = list(page.stream(Run(a_sweep(studio))))
    shown = [update for update in updates if page.clips in update]
    assert [len(update[page.clips]) for update in shown] == [1, 2, 3, 4, 5, 6, 7]
    curves = [update[page.choice] for update in shown]
    points = [curve.split('points="')[1].split('"')[0].split() for curve in curves]
    assert [len(one) for one in points] == [1, 2, 3, 4, 5, 6, 7]
    assert all(Marks(curve).open == [] and "nan" not in curve for curve in curves)
    assert ">s = 6<" in shown[-1][page.clips][-1]["html"]


def test_a_sweep_without_rewards_says_so(tiny_preset: Path) -> None:
    plain = Studio.open(str(tiny_preset), "cpu")
    page = a_page(plain)
    updates = list(page.stream(Run(a_sweep(plain))))
    assert generate.NO_CURVE in [one for one in updates if page.clips in one][-1][page.choice]


def test_a_curve_of_equal_or_single_rewards_is_drawn() -> None:
    for rewards in ({0.0: 1.5}, {0.0: 1.0, 1.0: 1.0}):
        html = plots.sweep_plot(rewards, form.SWEPT)
        assert Marks(html).open == [] and "nan" not in html


# ------------------------------------------------------------------------------ shared addresses


def test_an_address_made_of_a_request_gives_that_request(studio: Studio) -> None:
    request = studio.request(
        "loud drums & bass?", seed=2**63 - 1, stage="scored", score=4.5, guidance=1.5, num_steps=9,
        negative_prompt="noise", variations=2, solver="heun", guidance_schedule="anneal",
        normalise_loudness=False, target_lufs=-20.5,
    )  # fmt: skip
    query = {name: str(value) for name, value in request.to_dict().items()}
    assert form.parse_link(studio, query | {"__theme": "dark"}) == request


def test_a_plain_address_asks_for_nothing(studio: Studio) -> None:
    assert form.parse_link(studio, {"__theme": "dark"}) is None


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"seed": "x"}, "^seed is 'x'; it must be a number"),
        ({"score": "99"}, "^score is 99.0; it must be a number from"),
        ({"normalise_loudness": "x"}, "^normalise_loudness is 'x'; it must be true or false"),
        ({"separation_passes": "2"}, "^separation_passes is 2; preset 'tiny' has no separator"),
        ({"stage": "nope"}, "^stage is 'nope'; accepted: "),
    ],
)
def test_a_wrong_address_is_explained(studio: Studio, query: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        form.parse_link(studio, {"prompt": "calm piano", **query})


# ------------------------------------------------------------------------------ batch


CSV = 'prompt,seed,stage\n"calm piano, slow",,\nloud drums,99,scored\n\ncalm piano,,\n'


def a_batch(studio: Studio) -> batch.Page:
    with gr.Blocks(analytics_enabled=False):
        controls = (gr.State(), gr.Button(), gr.Button(), gr.HTML())
        return batch.Page(*controls, studio, clips.ClipFolder(), gr.File(), gr.HTML(), gr.HTML())


def tasks_of(studio: Studio, text: str = CSV) -> list:
    return batch.read_tasks(studio, batch.read_rows(text), studio.request("base", seed=5))


def test_rows_take_what_they_leave_out_from_the_form(studio: Studio) -> None:
    requests = [task.request for task in tasks_of(studio)]
    assert [one.prompt for one in requests] == ["calm piano, slow", "loud drums", "calm piano"]
    assert [one.seed for one in requests] == [5, 99, 7]  # base + index
    assert [one.stage for one in requests] == ["baseline", "scored", "baseline"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "^the CSV file has the columns none; accepted: prompt"),
        ("text\nx\n", "^the CSV file has the columns text; accepted: prompt"),
        ("prompt,sede\nx,1\n", "columns prompt, sede; accepted"),
        ("prompt\n", "^the CSV file has 0 rows; 1 to 48"),
        ("prompt\n" + "x\n" * 49, "^the CSV file has 49 rows; 1 to 48"),
        ("prompt,seed\nx,1\n,2\n", "^row 2: prompt is empty"),
        ("prompt,score\nx,much\n", "^row 1: score is 'much'; it must be a number"),
        ("prompt,num_steps\nx,0\n", "^row 1: num_steps is 0; it must be a whole number"),
    ],
)
def test_a_wrong_file_is_explained_with_its_row(studio: Studio, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        tasks_of(studio, text)


def test_a_batch_makes_every_row_and_offers_all_as_one_archive(
    studio: Studio, tmp_path: Path
) -> None:
    page = a_batch(studio)
    upload = page.folder.path / "upload" / "prompts.csv"
    upload.parent.mkdir()
    upload.write_text("prompt,num_steps\ncalm <b>piano</b>,2\nloud drums,2\n", encoding="utf-8-sig")
    begun = page.begin(str(upload), *field_values(prompt="", seed="7", lock=True))
    assert not upload.parent.exists()
    updates = list(page.stream(begun[page.run]))
    table = [update for update in updates if page.table in update][-1][page.table]
    assert Marks(table).open == [] and "calm &lt;b&gt;piano&lt;/b&gt;" in table
    assert table.count("<audio") == 2
    assert "batch.zip" in updates[-1][page.archive] and "2 clips ready" in updates[-1][page.status]
    (path,) = page.folder.path.glob("clips/*/batch.zip")
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 5 and archive.testzip() is None
