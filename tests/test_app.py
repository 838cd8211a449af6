"""The app without a browser: what handlers translate, what cards show, what is kept on disk."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from ttmpref.studio import Studio
from ttmpref.types import (
    Clip,
    Generation,
    GenerationRequest,
    InvalidRequest,
    MissingWeights,
    Progress,
    ScoreCard,
    StageInfo,
)
from ttmpref.ui import about, clips, errors, form, generate, player, plots, words
from ttmpref.ui.run import Run

STAGE = StageInfo("scored", "Scored", "global_adaln", "baseline", None, "Notes.")


@pytest.fixture(scope="module")
def studio(tiny_preset: Path) -> Studio:
    return Studio.open(str(tiny_preset))


def a_generation(prompt: str = "calm piano", seed: int = 7, **scores: float) -> Generation:
    request = GenerationRequest(prompt, seed, "scored", 2.0, 4.0, 25, "")
    times = np.arange(44_100, dtype=np.float32) / 44_100
    clip = Clip(0.5 * np.sin(2 * np.pi * 1000 * times)[None].astype(np.float32), 44_100)
    card = ScoreCard(lufs=-16.5, true_peak_db=-0.04, seconds=1.0, **scores)
    return Generation(request, clip, card, {"preset": "tiny"}, 3.21)


def stored(generation: Generation, folder: Path) -> clips.StoredClip:
    name = clips.file_name(generation)
    return clips.StoredClip(
        "token", {kind: folder / f"{name}.{kind}" for kind in (*clips.FORMATS, "json")}
    )


# ------------------------------------------------------------------------------ imports


def test_the_app_is_laid_out_without_torch(tiny_preset: Path) -> None:
    script = (
        "import sys; from ttmpref.studio import Studio; from ttmpref.ui import build_app;"
        "from ttmpref.study.app import LateApi;"
        f"build_app(Studio.open({str(tiny_preset)!r}), LateApi()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("arguments", [["--preset", "nope"], ["--device", "tpu"]])
def test_a_wrong_argument_ends_in_one_line(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "app.py", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert arguments[1] in done.stderr.splitlines()[-1]


# ------------------------------------------------------------------------------ errors


def test_known_errors_become_sentences() -> None:
    assert errors.spoken(InvalidRequest("seed is -1; it must be")) == "Seed is -1; it must be."


def test_unexpected_errors_are_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(gr.Error) as raised, errors.translated():
        raise RuntimeError("tensor of shape (3, 4)")
    assert raised.value.message == errors.OUR_MISTAKE
    assert "tensor of shape" in caplog.text


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("prompt is empty", "prompt"),
        ("negative prompt has 3000 characters", "negative_prompt"),
        ("guidance_schedule is 'x'", "guidance_schedule"),
        ("stage 'lost' cannot be used", "stage"),
        ("the disk is full", None),
    ],
)
def test_the_field_at_fault_is_the_one_the_message_names(message: str, field: str | None) -> None:
    assert errors.field_at_fault(InvalidRequest(message), form.FIELDS) == field


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x is missing: expected at /srv/a b/c/x.bin; fetch it", "x.bin; fetch it"),
        ("asset://demo/x.bin is damaged", "asset://demo/x.bin is damaged"),
        ("/home/me/mine.yaml: wrong", "mine.yaml: wrong"),
        ("see https://example.org/a/b, 3/4/5", "see https://example.org/a/b, 3/4/5"),
    ],
)
def test_paths_of_the_server_become_names(text: str, shown: str) -> None:
    assert errors.without_folders(text).endswith(shown)
    assert "/srv" not in errors.sentence(text) and "/home" not in errors.sentence(text)


def test_no_tab_says_where_missing_weights_were_looked_for(
    studio: Studio, tiny_preset: Path
) -> None:
    stages = studio.stages()
    shown = about.preset_text(studio) + about.limits_text(studio) + words.unavailable_stages(stages)
    assert "lost.safetensors is missing" in shown
    assert str(tiny_preset.parent) not in shown


# ------------------------------------------------------------------------------ the form


def field_values(**changes: object) -> list[object]:
    """A filled form, in the order of the fields."""
    values = {
        "prompt": "calm piano", "seed": "", "lock": False, "stage": "baseline", "score": 2,
        "guidance": 3, "num_steps": 4.0, "negative_prompt": "", "variations": 1.0,
        "solver": "euler", "guidance_schedule": "constant", "separation_passes": 0,
        "normalise_loudness": True, "target_lufs": -16.5, "best_of": False, "candidates": 8,
        "sweep": False, "optimise": False,
    }  # fmt: skip
    return [(values | changes)[name] for name in form.FIELDS]


def test_every_field_of_the_form_reaches_the_request(studio: Studio) -> None:
    wanted = {
        "prompt": "loud drums", "seed": 2**63 - 1, "stage": "scored", "score": 3.5,
        "guidance": 1.5, "num_steps": 9, "negative_prompt": "noise", "variations": 3,
        "solver": "heun", "guidance_schedule": "anneal", "separation_passes": 0,
        "normalise_loudness": False, "target_lufs": -20.5,
    }  # fmt: skip
    values = field_values(**wanted | {"seed": str(wanted["seed"]), "lock": True})
    request = form.read_request(studio, values)
    assert request.to_dict() == wanted
    assert form.field_values(request) == values


def test_the_form_covers_every_field_of_a_request() -> None:
    names = {field.name for field in dataclasses.fields(GenerationRequest)}
    assert set(form.FIELDS) == names | set(form.SWITCHES)


def test_an_unlocked_seed_is_drawn_anew_and_what_is_typed_there_does_not_matter(
    studio: Studio,
) -> None:
    drawn = {form.read_request(studio, field_values(seed="12 x")).seed for _ in range(5)}
    assert len(drawn) == 5


@pytest.mark.parametrize("text", ["", "-1", "1.5", "12x", "²", str(2**63), None])
def test_a_locked_seed_must_be_a_whole_number_in_range(text: str | None) -> None:
    with pytest.raises(InvalidRequest, match="^seed is "):
        form.read_seed(text)


def test_settings_are_read_from_the_clipboard_and_from_a_settings_file(studio: Studio) -> None:
    request = studio.request("loud drums", seed=5, stage="scored", score=4.0)
    assert form.parse_settings(studio, json.dumps(request.to_dict())) == request
    assert form.parse_settings(studio, json.dumps({"request": request.to_dict()})) == request


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"prompt": "x"}', '{"prompt": "x", "seed": 1, "colour": 2}']
)
def test_other_texts_are_not_settings(studio: Studio, text: str) -> None:
    with pytest.raises(InvalidRequest, match="^this is|^these are"):
        form.parse_settings(studio, text)


def test_settings_of_an_unavailable_stage_are_refused(studio: Studio) -> None:
    with pytest.raises(MissingWeights, match="not trained yet"):
        form.parse_settings(studio, '{"prompt": "x", "seed": 1, "stage": "planned"}')


# ------------------------------------------------------------------------------ a run


def test_progress_is_thinned_and_no_clip_is_lost() -> None:
    def events() -> Iterator[Progress | Generation]:
        for step in range(100):
            yield Progress(step, 100, "sampling")
        yield a_generation(seed=1)
        yield a_generation(seed=2)

    passed = list(generate.paced(events()))
    assert isinstance(passed[0], Progress)
    assert len(passed) < 20
    assert [item.request.seed for item in passed if isinstance(item, Generation)] == [1, 2]


def test_a_run_streams_progress_then_cards_and_frees_the_buttons(studio: Studio) -> None:
    page = a_page(studio)
    updates = list(page.stream(Run(studio.request("calm piano", variations=2))))
    cards = [update[page.clips] for update in updates if page.clips in update]
    assert [len(card) for card in cards] == [1, 2]
    assert cards[1][0] == cards[0][0]
    assert "2 clips ready" in updates[-1][page.status]
    assert updates[-1][page.start]["interactive"] is True
    assert updates[-1][page.cancel]["interactive"] is False


def test_an_error_during_a_run_is_shown_and_frees_the_buttons(studio: Studio) -> None:
    class Broken(Studio):
        def stream(self, request: GenerationRequest) -> Iterator[Progress | Generation]:
            yield Progress(0, 4, "sampling")
            raise MissingWeights("weights <vanished>")

    page = a_page(Broken(studio.preset))
    last = list(page.stream(Run(studio.request("calm piano"))))[-1]
    assert "Weights &lt;vanished&gt;." in last[page.status]
    assert 'role="alert"' in last[page.status]
    assert last[page.start]["interactive"] is True


def test_closing_a_run_closes_the_stream_of_the_studio(studio: Studio) -> None:
    closed = []

    class Endless(Studio):
        def stream(self, request: GenerationRequest) -> Iterator[Progress | Generation]:
            try:
                while True:
                    yield Progress(0, 4, "sampling")
            finally:
                closed.append(True)

    updates = a_page(Endless(studio.preset)).stream(Run(studio.request("calm piano")))
    next(updates)
    updates.close()
    assert closed == [True]


def test_a_cancelled_run_ends_at_the_next_step_and_says_so(studio: Studio) -> None:
    page, run = a_page(studio), Run(studio.request("calm piano", num_steps=200))
    updates = page.stream(run)
    while "step 0" in next(updates)[page.status]:
        pass
    assert page.stop(run) == {page.status: gr.skip()}
    rest = list(updates)
    assert "Stopped" in rest[-1][page.status]
    assert rest[-1][page.start]["interactive"] is True
    assert all(page.clips not in update for update in rest)


def test_a_run_cancelled_while_the_weights_load_is_left_alone_at_once(studio: Studio) -> None:
    page, run = a_page(studio), Run(studio.request("calm piano"))
    updates = page.stream(run)
    assert "step 0" in next(updates)[page.status]
    assert "Stopped" in page.stop(run)[page.status]
    assert list(updates) == [{page.status: gr.skip()}]


def test_a_run_cancelled_while_waiting_never_touches_the_model(studio: Studio) -> None:
    page, run = a_page(studio), Run(studio.request("calm piano"))
    assert "Stopped" in page.stop(run)[page.status]
    assert list(page.stream(run)) == [{page.status: gr.skip()}]


def a_page(studio: Studio) -> generate.Page:
    with gr.Blocks(analytics_enabled=False):
        controls = (gr.State(), gr.Button(), gr.Button(), gr.HTML())
        return generate.Page(*controls, studio, clips.ClipFolder(), {}, gr.HTML(), gr.HTML())


# ------------------------------------------------------------------------------ cards


class Marks(HTMLParser):
    """Names of the elements of a piece of HTML, and whether every one was closed."""

    VOID = frozenset({"input", "img", "line", "polygon", "path", "rect"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_text_from_people_is_escaped_everywhere(tmp_path: Path) -> None:
    nasty = "\"><script>alert(1)</script>'<img src=x onerror=alert(1)>"
    generation = a_generation(nasty)
    request = dataclasses.replace(generation.request, negative_prompt=nasty)
    generation = dataclasses.replace(generation, request=request)
    html = player.clip_card(generation, stored(generation, tmp_path), STAGE)
    marks = Marks(html)
    assert marks.open == []
    assert "script" not in marks.seen
    assert marks.seen.count("img") == 1  # the spectrogram
    assert nasty not in words.failed(nasty)


def test_a_card_shows_settings_measurements_and_all_downloads(tmp_path: Path) -> None:
    generation = a_generation(clap_score=0.314, reward=-0.5)
    html = player.clip_card(generation, stored(generation, tmp_path), STAGE)
    for wanted in (
        "Seed 7 · Scored · score 2 · guidance 4 · 25 steps", "−16.5 LUFS", "0.0 dBTP", "3.2 s",
        "0.31", "−0.50", 'download="calm-piano_seed-7.wav"', 'download="calm-piano_seed-7.flac"',
        'download="calm-piano_seed-7.mp3"', 'download="calm-piano_seed-7.json"',
    ):  # fmt: skip
        assert wanted in html
    assert "−0.0" not in html


def test_silence_is_called_silent(tmp_path: Path) -> None:
    generation = a_generation()
    generation = dataclasses.replace(
        generation,
        clip=Clip(np.zeros((2, 44_100), np.float32), 44_100),
        scores=ScoreCard(None, None, 1.0),
    )
    assert (
        player.clip_card(generation, stored(generation, tmp_path), STAGE).count("<dd>silent</dd>")
        == 2
    )


def test_the_spectrogram_has_a_tone_where_its_axis_says() -> None:
    clip = a_generation().clip
    picture = plots.spectrogram(clip)
    rows = dict((name, top) for top, name in plots._frequency_ticks(picture))
    loudest = picture.levels_db.mean(1).argmax()
    from_top = 1 - (loudest + 0.5) / len(picture.frequencies)
    assert rows["1k"] == pytest.approx(from_top, abs=1 / len(picture.frequencies))


@pytest.mark.parametrize("samples", [1, 100, 8000, 441_000])
def test_pictures_exist_for_clips_of_any_length(samples: int) -> None:
    clip = Clip(np.full((1, samples), 0.1, np.float32), 44_100)
    for html in (plots.waveform_plot(clip), plots.spectrogram_plot(clip)):
        assert Marks(html).open == []
        assert "nan" not in html
    assert Marks(plots.time_axis(clip.seconds)).open == []


def test_a_time_axis_has_a_handful_of_round_ticks() -> None:
    assert plots.time_axis(10.0).count("<span") == 6
    assert ">10 s<" in plots.time_axis(10.0)
    for seconds in (0.05, 1, 7.3, 59, 600):
        assert 2 <= plots.time_axis(seconds).count("<span") <= 8


# ------------------------------------------------------------------------------ files


def test_kept_clips_are_whole_in_every_format(studio: Studio) -> None:
    folder = clips.ClipFolder()
    (generation,) = studio.generate(studio.request("Calm piano, 90 BPM!", seed=3))
    kept = folder.keep(studio, generation)
    assert set(kept.files) == {"wav", "flac", "mp3", "json"}
    assert all(path.stat().st_size > 100 for path in kept.files.values())
    assert kept.files["wav"].name == "calm-piano-90-bpm_seed-3.wav"
    assert json.loads(kept.files["json"].read_text())["request"]["seed"] == 3


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("пианино", "clip_seed-7"), ("../../etc/passwd", "etc-passwd_seed-7"),
     ("a" * 300, "a" * 40 + "_seed-7")],
)  # fmt: skip
def test_file_names_hold_only_safe_characters(prompt: str, name: str) -> None:
    assert clips.file_name(a_generation(prompt)) == name


def test_old_and_surplus_clips_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = clips.ClipFolder()
    monkeypatch.setattr(clips, "MAX_CLIPS", 3)
    now = time.time()
    for name, age in (("a", 10), ("b", 20), ("c", 30), ("d", clips.MAX_AGE_SECONDS + 60)):
        place = folder.path / "clips" / name
        place.mkdir(parents=True)
        (place / "clip.wav").write_bytes(b"x")

        os.utime(place, (now - age, now - age))
    folder.forget_old()
    assert sorted(path.name for path in (folder.path / "clips").iterdir()) == ["a", "b"]


# ------------------------------------------------------------------------------ about


def test_about_reads_everything_from_the_preset(studio: Studio) -> None:
    text = about.preset_text(studio)
    for wanted in ("Tiny", "Random weights for tests.", "MIT", "1 s at 8 kHz", "not trained yet"):
        assert wanted in text


def test_help_says_what_a_stage_needs() -> None:
    missing = dataclasses.replace(STAGE, missing="lost <here>")
    assert "lost &lt;here&gt;" in words.unavailable_stages((STAGE, missing))
    assert " open" in words.unavailable_stages((missing,))
