"""One finished clip as a card: player, pictures, measurements, downloads, settings.

The card is HTML with data attributes; `static/player.js` gives it life (play, seek, copy) and puts
new cards on top of the list without touching the others, so a clip keeps playing while the next
ones arrive. Every text that came from a person is escaped here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from ttmpref.types import Clip, Generation, GenerationRequest, StageInfo
from ttmpref.ui.clips import StoredClip
from ttmpref.ui.plots import spectrogram_plot, time_axis, waveform_plot

DOWNLOADS = (
    ("wav", "WAV", "uncompressed"),
    ("flac", "FLAC", "lossless"),
    ("mp3", "MP3", "small"),
    ("json", "JSON", "settings and measurements"),
)
PLAY_ICON = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path class="icon-play" d="M8 5.2v13.6L19 12z"/>'
    '<path class="icon-pause" d="M7 5h3.6v14H7zM13.4 5H17v14h-3.6z"/></svg>'
)
OPTIMISE_BUTTON = (
    '<button type="button" class="mini" data-optimise '
    'title="Fills the form; press Generate to begin">Optimise</button>'
)
REMOVE_ICON = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M6 6l12 12M18 6 6 18"/></svg>'


def clip_card(
    generation: Generation,
    stored: StoredClip,
    stage: StageInfo,
    badge: str = "",
    optimisable: bool = False,
) -> str:
    """The whole card.

    Args:
        badge: marks it among others.
        optimisable: it offers to be improved on.
    """
    request, seconds = generation.request, generation.clip.seconds
    settings = escape(json.dumps(request.to_dict(), ensure_ascii=False), quote=True)
    return (
        f'<article class="clip" data-id="{stored.token}" data-seconds="{seconds:.3f}" '
        f'data-settings="{settings}" data-lufs="{_attribute(generation.scores.lufs)}" '
        f'aria-label="Clip with seed {request.seed}">'
        f'<audio preload="metadata" src="{file_address(stored.files["wav"])}"></audio>'
        f"{_head(generation, stage, badge)}{pictures(generation.clip, _seek(generation.clip))}"
        f"{facts(generation)}{_actions(stored, optimisable)}</article>"
    )


def file_address(path: Path) -> str:
    """Where the browser finds a file; relative, so it holds behind a proxy with a prefix."""
    return f"gradio_api/file={quote(str(path))}"


def _head(generation: Generation, stage: StageInfo, badge: str) -> str:
    request = generation.request
    prompt = escape(request.prompt)
    words = [f"Seed {request.seed}", stage.title, *setting_words(request, stage)]
    mark = f'<span class="badge">{escape(badge)}</span>' if badge else ""
    return (
        '<header class="clip-head">'
        f'<button type="button" class="play" data-play aria-label="Play">{PLAY_ICON}</button>'
        f'<div class="clip-title"><h3 title="{prompt}">{prompt}</h3>'
        f"<p>{escape(' · '.join(words))}</p></div>{mark}"
        '<span class="clip-time"><span data-now>0:00</span><span class="total"> / '
        f"{clock(generation.clip.seconds)}</span></span>"
        '<button type="button" class="remove" data-remove title="Remove from the page" '
        f'aria-label="Remove this clip from the page">{REMOVE_ICON}</button></header>'
    )


def setting_words(request: GenerationRequest, stage: StageInfo) -> Sequence[str]:
    """How a clip was sampled, beside its seed and stage."""
    words = [f"score {request.score:g}"] if stage.takes_score else []
    words += [f"guidance {request.guidance:g}", f"{request.num_steps} steps"]
    if request.solver != "euler":
        words.append(f"{request.solver} solver")
    if request.guidance_schedule != "constant":
        words.append(f"{request.guidance_schedule} guidance")
    if request.separation_passes:
        words.append(f"voices taken out {request.separation_passes} ×")
    if not request.normalise_loudness:
        words.append("level as made")
    if request.negative_prompt.strip():
        words.append(f"avoiding “{request.negative_prompt.strip()}”")
    return words


def pictures(clip: Clip, over: str = "") -> str:
    """Waveform and spectrogram above one time axis; a playhead and more may lie over them."""
    return (
        '<div class="pictures">'
        f"{waveform_plot(clip)}{spectrogram_plot(clip)}"
        f'<div class="over"><div class="playhead"></div>{over}</div>'
        f"</div>{time_axis(clip.seconds)}"
    )


def _seek(clip: Clip) -> str:
    return (
        f'<input type="range" class="seek" data-seek min="0" max="{clip.seconds:.3f}" step="0.01" '
        'value="0" aria-label="Position in the clip" aria-valuetext="0:00">'
    )


def facts(generation: Generation, interval: tuple[float, float] | None = None) -> str:
    """Measurements of a clip.

    Args:
        interval: 95 % range of its reward, where one is known.
    """
    scores = generation.scores
    known = [
        ("Loudness", _measured(scores.lufs, "LUFS"), "Integrated loudness, ITU-R BS.1770"),
        ("True peak", _measured(scores.true_peak_db, "dBTP"), "Highest level between samples"),
        ("Made in", f"{generation.seconds_taken:.1f} s", "Time from pressing the button"),
    ]
    if tempo := generation.provenance.get("tempo"):
        told = f"{number(tempo['bpm'], 0)} BPM, {tempo['beats_per_bar']} beats a bar"
        known.append(("Tempo", told, "Read in the prompt; the clip begins on the first beat"))
    if scores.clap_score is not None:
        match = number(scores.clap_score, 2)
        known.append(("Fits the words", match, "CLAP similarity of prompt and clip, -1 to 1"))
    if scores.reward is not None:
        liked = number(scores.reward, 2)
        if interval is not None:
            liked += f" ({number(interval[0], 2)} to {number(interval[1], 2)})"
        known.append(("Reward", liked, "Predicted listener preference; higher is better"))
    items = (
        f'<div title="{escape(hint)}"><dt>{name}</dt><dd>{value}</dd></div>'
        for name, value, hint in known
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


def _actions(stored: StoredClip, optimisable: bool) -> str:
    optimise = OPTIMISE_BUTTON if optimisable else ""
    return (
        f'<footer class="clip-actions">{download_links(stored)}<div class="group">'
        '<button type="button" class="mini" data-copy>Copy settings</button>'
        '<button type="button" class="mini" data-link>Copy link</button>'
        '<button type="button" class="mini" data-pair aria-pressed="false">Compare</button>'
        '<button type="button" class="mini" data-use-seed>Use this seed</button>'
        '<button type="button" class="mini" data-use-all>Use all settings</button>'
        f"{optimise}</div></footer>"
    )


def download_links(stored: StoredClip) -> str:
    """Links to all files of a clip."""
    links = "".join(
        f'<a class="mini" href="{file_address(stored.files[kind])}" '
        f'download="{escape(stored.files[kind].name)}" title="{hint}" '
        f'aria-label="Download {name}, {hint}">{name}</a>'
        for kind, name, hint in DOWNLOADS
    )
    return f'<div class="group"><span class="lead">Download</span>{links}</div>'


def _measured(value: float | None, unit: str) -> str:
    return "silent" if value is None else f"{number(value, 1)} {unit}"


def _attribute(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def number(value: float, digits: int) -> str:
    """`value` with a real minus sign and no negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def clock(seconds: float) -> str:
    """Minutes and seconds, as players write them."""
    whole = int(seconds + 0.5)
    return f"{whole // 60}:{whole % 60:02d}"
