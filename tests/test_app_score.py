"""The Score tab without a browser: what is shown of uploads, and that nothing of them is kept."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import os
import re
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio import route_utils
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException

from tests.scoring import noise
from tests.test_app import Marks
from tests.test_uploads import video
from ttmpref.audio import read_clip, write_clip
from ttmpref.metrics import chance_preferred
from ttmpref.studio import Studio
from ttmpref.types import InvalidRequest, MissingWeights
from ttmpref.ui import clips, score, score_report, words
from ttmpref.ui.run import Run
from ttmpref.uploads import MAX_BYTES

NASTY = "<img src=x onerror=alert(1)>.wav"


@pytest.fixture(scope="module")
def studio(scoring_preset: Path) -> Studio:
    return Studio.open(str(scoring_preset), "cpu")


@pytest.fixture
def folder() -> clips.ClipFolder:
    return clips.ClipFolder()


@pytest.fixture
def page(studio: Studio, folder: clips.ClipFolder) -> score.Page:
    return a_page(studio, folder)


def a_page(studio: Studio, folder: clips.ClipFolder) -> score.Page:
    with gr.Blocks(analytics_enabled=False):
        controls = (gr.State(), gr.Button(), gr.Button(), gr.HTML())
        return score.Page(*controls, studio, folder, gr.File(), gr.HTML(), gr.Plot(), gr.Plot())


def upload(folder: clips.ClipFolder, name: str, content: bytes) -> str:
    """A file where Gradio puts what visitors send: in a folder named by its content."""
    path = folder.path / f"{hash((name, content)):x}" / name
    path.parent.mkdir()
    path.write_bytes(content)
    return str(path)


def sound(tmp_path: Path, seconds: float = 1.0, seed: int = 0) -> bytes:
    return write_clip(noise(seconds, seed=seed), tmp_path / "sound.wav").read_bytes()


def run_of(page: score.Page, files: list[str], text: str = "") -> Run:
    return page.begin(files, text)[page.run]


def cells(html: str) -> list[list[str]]:
    """Texts of the first table's rows."""
    table = html.split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr")[1:]]
    return [[re.sub(r"<[^>]*>", "", cell) for cell in row] for row in rows]


def downloaded(html: str, kind: str) -> str:
    found = re.search(rf'download="scores.{kind}"[^>]*base64,([^"]*)"', html)
    return base64.b64decode(found[1]).decode()


def test_good_files_are_scored_bad_ones_named_and_all_are_deleted(page, folder, tmp_path) -> None:
    files = [
        upload(folder, "a.wav", sound(tmp_path)),
        upload(folder, "text.wav", b"this is no audio"),
        upload(folder, "long.flac", sound(tmp_path, 3.5, seed=1)),
        upload(folder, NASTY, b""),
    ]
    begun = page.begin(files, "calm piano")
    assert begun[page.files] is None and begun[page.cancel]["interactive"] is True
    updates = list(page.stream(begun[page.run]))
    last = updates[-1]
    assert "2 files scored. 2 could not be scored" in last[page.status]
    assert last[page.start]["interactive"] is True
    html = last[page.report]
    marks = Marks(html)
    assert marks.open == [] and "img" not in marks.seen and str(folder.path) not in html
    head, *rows = cells(html)
    assert [row[0] for row in rows] == ["a.wav", "text.wav", "long.flac", html_of(NASTY)]
    assert "Without text" in head and "Percentile in corpus" in head
    assert rows[1][1].startswith("Not scored: cannot be decoded as audio")
    assert rows[3][1] == f"Not scored: has 0 bytes; 1 to {MAX_BYTES} are accepted"
    assert "very short" in rows[0][-1] and "longer than" in rows[2][-1]
    assert [p for p in folder.path.rglob("*") if p.is_file()] == []


def html_of(text: str) -> str:
    return text.replace("<", "&lt;").replace(">", "&gt;")


def test_the_downloads_hold_what_the_page_shows_and_no_path(page, folder, tmp_path, studio) -> None:
    files = [upload(folder, "a.wav", sound(tmp_path)), upload(folder, "no.wav", b"x")]
    last = list(page.stream(run_of(page, files)))[-1]
    table = list(csv.DictReader(io.StringIO(downloaded(last[page.report], "csv"))))
    data = json.loads(downloaded(last[page.report], "json"))
    (plain,) = studio.score([read_clip(write_clip(noise(1.0), tmp_path / "plain.wav"))])
    assert float(table[0]["reward"]) == pytest.approx(plain.reward, abs=1e-6)
    assert data[0]["score"]["protocol"] == plain.protocol
    assert [row["file"] for row in table] == ["a.wav", "no.wav"]
    assert str(folder.path) not in json.dumps(data) + str(table)
    assert table[1]["error"].startswith("cannot be decoded") and data[1]["score"] is None


def test_two_files_are_compared_with_the_chance_that_rewards_stand_for(
    page, folder, tmp_path
) -> None:
    files = [upload(folder, f"{i}.wav", sound(tmp_path, seed=i)) for i in range(2)]
    html = list(page.stream(run_of(page, files)))[-1][page.report]
    rewards = [row["score"]["reward"] for row in json.loads(downloaded(html, "json"))]
    section = html.split('class="comparison"')[1]
    assert f"<td>{100 * chance_preferred(*rewards):.0f} %</td>" in section
    alone = [upload(folder, "0.wav", sound(tmp_path))]
    assert "comparison" not in list(page.stream(run_of(page, alone)))[-1][page.report]


def test_chances_of_both_orders_sum_to_one_and_follow_the_odds() -> None:
    assert chance_preferred(0.3, 0.3) == 0.5
    assert chance_preferred(np.log(3.0), 0.0) == pytest.approx(0.75)
    assert chance_preferred(0.4, -1.1) + chance_preferred(-1.1, 0.4) == pytest.approx(1.0)
    assert chance_preferred(900.0, -900.0) == 1.0


def test_figures_show_the_collections_the_interval_and_the_timeline(
    page, folder, tmp_path, studio
) -> None:
    files = [upload(folder, "a.wav", sound(tmp_path)), upload(folder, "b.wav", sound(tmp_path, 3))]
    last = list(page.stream(run_of(page, files)))[-1]
    data = {row["id"]: row["score"] for row in json.loads(downloaded(last[page.report], "json"))}
    standing, timeline = (last[plot]["value"] for plot in (page.distribution, page.timeline))
    lines, marks = standing.data[:2], standing.data[2:]
    grids = studio.collections().grids
    assert [line.name for line in lines] == list(grids) and list(lines[0].x) == list(
        grids["corpus"]
    )
    assert [mark.name for mark in marks] == ["a.wav", "b.wav"]
    assert list(marks[0].y) == list(data["a.wav"]["percentiles"].values())
    low, high = data["a.wav"]["interval"]
    error = marks[0].error_x
    assert marks[0].x[0] - error.arrayminus[0] == pytest.approx(low)
    assert marks[0].x[0] + error.array[0] == pytest.approx(high)
    assert [trace.name for trace in timeline.data] == ["b.wav"]
    assert list(timeline.data[0].y) == [w["reward"] for w in data["b.wav"]["timeline"]]
    short = list(page.stream(run_of(page, [upload(folder, "a.wav", sound(tmp_path))])))[-1]
    assert short[page.timeline]["visible"] is False


def test_without_collections_there_is_no_distribution(studio: Studio) -> None:
    assert score_report.distribution_figure([], studio.collections()) is None
    assert score_report.report([], None) == ""


def test_a_cancelled_run_shows_what_was_finished_and_deletes_the_rest(
    page, folder, tmp_path
) -> None:
    files = [upload(folder, f"{i}.wav", sound(tmp_path, 0.2, seed=i)) for i in range(20)]
    run = run_of(page, files)
    updates = page.stream(run)
    while "of 20 files" not in next(updates)[page.status]:
        pass
    assert page.stop(run) == {page.status: gr.skip()}
    last = list(updates)[-1]
    assert "Stopped. Scores that were finished are shown" in last[page.status]
    assert 1 <= len(cells(last[page.report])) - 1 < 20
    assert [p for p in folder.path.rglob("*") if p.is_file()] == []


def test_a_run_cancelled_while_it_waits_or_loads_is_left_alone_and_deletes_too(
    page, folder, tmp_path
) -> None:
    for advance in (0, 1):
        run = run_of(page, [upload(folder, "a.wav", sound(tmp_path))])
        updates = page.stream(run)
        for _ in range(advance):
            next(updates)
        assert "The uploads are deleted" in page.stop(run)[page.status]
        assert list(updates) == [{page.status: gr.skip()}]
        assert [p for p in folder.path.rglob("*") if p.is_file()] == []


def test_an_error_of_the_model_is_a_sentence_and_deletes_the_uploads(
    studio, folder, tmp_path
) -> None:
    class Broken(Studio):
        def score_files(self, entries, **_):
            raise MissingWeights("weights <vanished>")
            yield

    page = a_page(Broken(studio.preset), folder)
    last = list(page.stream(run_of(page, [upload(folder, "a.wav", sound(tmp_path))])))[-1]
    assert "Weights &lt;vanished&gt;." in last[page.status]
    assert last[page.report] == "" and last[page.start]["interactive"] is True
    assert [p for p in folder.path.rglob("*") if p.is_file()] == []


def test_check_18_an_endless_upload_is_written_as_it_comes_and_given_up_at_the_limit(
    tmp_path: Path,
) -> None:
    clips.keep_uploads_apart()
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    piece, taken = bytes(2**20), 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        yield head
        while True:
            taken += len(piece)
            yield piece

    parser = route_utils.GradioMultiPartParser(
        Headers({"Content-Type": "multipart/form-data; boundary=x"}), endless(),
        upload_dir=tmp_path, max_file_size=MAX_BYTES,
    )  # fmt: skip
    tracemalloc.start()
    try:
        with pytest.raises(MultiPartException, match=str(MAX_BYTES)):
            asyncio.run(parser.parse())
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken == MAX_BYTES + len(piece) and most < 8 * len(piece)
    assert list(tmp_path.iterdir()) == []


def test_uploads_that_nobody_scored_go_when_they_are_old(folder, tmp_path) -> None:
    old, new = (Path(upload(folder, name, b"sound")) for name in ("old.wav", "new.wav"))
    leftover = folder.path / "tmpleft"  # the empty file that Gradio makes of every upload
    leftover.touch()
    aged = time.time() - clips.MAX_AGE_SECONDS - 60
    for path in (old.parent, leftover):
        os.utime(path, (aged, aged))
    folder.forget_old()
    assert list(folder.path.iterdir()) == [new.parent]


def test_the_page_says_whose_preferences_the_reward_learned(scoring_preset, tmp_path) -> None:
    path = tmp_path / "said.yaml"
    text = scoring_preset.read_text()
    path.write_text(text.replace("ranker: {", 'ranker: {notes: "Learned from <robots>.", '))
    with gr.Blocks(analytics_enabled=False) as app:
        score.build_score_tab(Studio.open(str(path), "cpu"), clips.ClipFolder())
    assert any("Learned from &lt;robots&gt;." in str(block.value) for block in html_blocks(app))


def html_blocks(app: gr.Blocks) -> list[gr.HTML]:
    return [block for block in app.blocks.values() if isinstance(block, gr.HTML)]


def test_only_what_lies_in_an_upload_folder_is_deleted(folder, tmp_path) -> None:
    kept = folder.path / "clips" / "token" / "clip.wav"
    kept.parent.mkdir(parents=True)
    for path in (kept, tmp_path / "mine.wav"):
        path.write_bytes(b"x")
        folder.forget([path])
        assert path.exists()


@pytest.mark.parametrize(
    ("files", "text", "said"),
    [
        ([], "", "there is no file to score"),
        (["a.wav"] * 33, "", "33 files were given; at most 32"),
        (["a.wav"], "x" * 2001, "text has 2001 characters"),
        (["a.wav"], "a\x07", "text holds the control character"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_a_sentence(files, text, said) -> None:
    with pytest.raises(InvalidRequest, match=said):
        score.entries_of_uploads(files, text)


def test_uploads_of_one_name_are_told_apart() -> None:
    entries = score.entries_of_uploads(["/x/1/a.wav", "/x/2/a.wav", "/x/3/a.wav"], "")
    assert [entry.id for entry in entries] == ["a.wav", "a.wav (2)", "a.wav (3)"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.wav", "a.wav"), ("=1+1.wav", "1+1.wav"), ("-@+ x.wav", "x.wav"), ("=", "file"),
        ("\u202egnp.wav", "gnp.wav"), ("a\tb\x00.wav", "ab.wav"), ("音楽 🎹.wav", "音楽 🎹.wav"),
        ("x" * 300, "x" * 80),
    ],
)  # fmt: skip
def test_names_are_short_visible_and_no_formula(name: str, safe: str) -> None:
    assert score.safe_name(name) == safe


def test_where_nothing_can_be_scored_the_tab_says_why_and_what_to_do(
    scoring_preset: Path, tmp_path: Path, tiny_preset: Path
) -> None:
    path = tmp_path / "lost.yaml"
    head = str(scoring_preset.parent / "head.safetensors")
    path.write_text(scoring_preset.read_text().replace(head, str(tmp_path / "lost.safetensors")))
    for preset, said in ((path, "lost.safetensors is missing"), (tiny_preset, "has no ranker")):
        with gr.Blocks(analytics_enabled=False) as app:
            score.build_score_tab(Studio.open(str(preset), "cpu"), clips.ClipFolder())
        shown = [str(block.value) for block in html_blocks(app)]
        assert any(words.NO_SCORING in text and said in text for text in shown)
        buttons = {b.value: b.interactive for b in app.blocks.values() if isinstance(b, gr.Button)}
        assert buttons == {"Score": False, "Cancel": False}


def test_a_video_is_scored_by_its_sound(page, folder, tmp_path, ffmpeg) -> None:
    plain = write_clip(noise(1.0), tmp_path / "sound.wav")
    made = video(ffmpeg, plain, tmp_path / "made.mkv", "-c:a", "pcm_s16le")
    files = [upload(folder, path.name, path.read_bytes()) for path in (plain, made)]
    html = list(page.stream(run_of(page, files)))[-1][page.report]
    rewards = [row["score"]["reward"] for row in json.loads(downloaded(html, "json"))]
    assert rewards[1] == pytest.approx(rewards[0], abs=0.01)
