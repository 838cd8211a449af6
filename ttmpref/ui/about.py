"""The About tab: what this preset is, what is small or simulated in it, what its words mean, how
programs use it, licences, citation, versions.
"""

from __future__ import annotations

from importlib import metadata

import gradio as gr

from ttmpref import __version__
from ttmpref.config import Preset
from ttmpref.studio import Studio
from ttmpref.types import StageInfo
from ttmpref.ui.errors import without_folders
from ttmpref.ui.player import number

PACKAGES = ("torch", "transformers", "gradio", "numpy", "soundfile", "pyloudnorm")
VOCODER_NAMES = {"istft": "small inverse-STFT vocoder", "bigvgan_v2": "BigVGAN v2 vocoder"}
WORDS = """
### Words on these pages

- **Prompt**: what the music should be. **Negative prompt**: what it should move away from.
- **Seed**: the number from which the random starting noise is drawn. The same seed with the same
  settings gives the same clip again.
- **Score s**: how well liked the clip should be, as a number that the model was shown during
  training. Stages that were trained without it ignore it.
- **Guidance w**: how closely the clip follows the words, compared with music for no words at all.
- **Steps** and **solver**: the clip starts as noise and is brought into shape in this many steps.
- **Stage**: one step of the training chain. Later stages start from the weights of earlier ones.
- **Reward**: how much listeners would like a clip, learned from which of two clips they chose. Only
  differences mean something: of two clips 1 apart, the higher is preferred in 73 of 100 choices, as
  far as the reward is right.
- **LUFS**: loudness as people perceive it, averaged over the clip. **dBTP**: the highest level the
  sound reaches after conversion to analogue; below 0 nothing clips.
"""
PROGRAMS = """
### Use by programs and assistants

What the tabs do, three endpoints do for programs: `generate`, `compare` and `score`. They wait in
the same line as visitors. With `pip install gradio_client`, and this page's address:

```python
from gradio_client import Client, handle_file

app = Client("http://127.0.0.1:7860")
clip, facts = app.predict(
    "calm piano", seed=7, api_name="/generate")
clips, facts = app.predict(
    "calm piano", api_name="/compare")
scores = app.predict(
    [handle_file(clip)], "calm piano",
    api_name="/score")
```

`app.view_api()` lists every argument; what is left out takes the preset's value.

The same three are tools of the Model Context Protocol: give an assistant the address of this page
with `gradio_api/mcp/` behind it. Where this page asks for a login, programs give it as
`Client(..., auth=("name", "password"))`, and there are no tools. Listening studies are for people
and not among them; their own interface is described in the README.
"""
CITATION = """
### Citing

The system: *Improving Text-to-Music Generation with Human Preference Rewards*.
Yonghyun Kim, Junwon Lee, Haiwen Xia, Yinghao Ma, Chris Donahue.
ICME 2026 Academic Text-to-Music Grand Challenge, arXiv:2606.21670.

```bibtex
@article{kim2026ttmhumanpref,
  title = {Improving Text-to-Music Generation
    with Human Preference Rewards},
  author = {Kim, Yonghyun and Lee, Junwon and
    Xia, Haiwen and Ma, Yinghao and
    Donahue, Chris},
  journal = {arXiv preprint arXiv:2606.21670},
  year = {2026}
}
```

The reward: *TuneJury: An Open Metric for Improving Music Generation Preference Alignment*.
Yonghyun Kim, Junwon Lee, Haiwen Xia, Yinghao Ma, Junghyun Koo, Koichi Saito, Yuki Mitsufuji,
Chris Donahue. arXiv:2606.17006.

```bibtex
@article{kim2026tunejury,
  title = {TuneJury: An Open Metric for Improving
    Music Generation Preference Alignment},
  author = {Kim, Yonghyun and Lee, Junwon and
    Xia, Haiwen and Ma, Yinghao and
    Koo, Junghyun and Saito, Koichi and
    Mitsufuji, Yuki and Donahue, Chris},
  journal = {arXiv preprint arXiv:2606.17006},
  year = {2026}
}
```
"""


def build_about_tab(studio: Studio) -> None:
    """Lay out the tab inside the current `gr.Tab`."""
    texts = (
        preset_text(studio), limits_text(studio), WORDS, PROGRAMS, CITATION, versions_text(),
    )  # fmt: skip
    with gr.Column(elem_id="about"):
        for text in texts:
            gr.Markdown(text, elem_classes="panel")


def preset_text(studio: Studio) -> str:
    """What the preset says of itself, its numbers and its stages."""
    preset = studio.preset
    output = preset.output
    return "\n".join([
        f"### The {preset.title} preset",
        preset.description,
        "",
        "- **Licence of the code:** MIT",
        f"- **Licence of the weights:** {preset.licence}",
        f"- **Clips:** {output.seconds:g} s at {preset.autoencoder.mel.sample_rate / 1000:g} kHz, "
        f"levelled to {number(output.target_lufs, 1)} LUFS, true peak at most "
        f"{number(output.true_peak_ceiling_db, 1)} dBTP",
        *(f"- **{name}:** {size}" for name, size in _sizes(preset)),
        "",
        "**Stages**, each made from the one it names:",
        "",
        *(_stage_line(stage, studio.stages()) for stage in studio.stages()),
    ])  # fmt: skip


def limits_text(studio: Studio) -> str:
    """What a visitor should not take for more than it is."""
    preset = studio.preset
    limits = [f"**Music:** {preset.description}"]
    missing = studio.scoring_missing()
    if missing is not None:
        limits.append(f"**Reward:** clips cannot be scored: {without_folders(missing)}")
    elif preset.ranker.notes:
        limits.append(f"**Reward:** {preset.ranker.notes}")
    if preset.separator is None:
        limits.append("**Voices:** they are not taken out of clips; this preset has no separator.")
    absent = [stage.title for stage in studio.stages() if not stage.available]
    if absent:
        limits.append(f"**Stages not at hand:** {', '.join(absent)}.")
    lines = (f"- {limit}".replace("\n", " ") for limit in limits)
    return "\n".join(["### What is small, simulated or missing here", "", *lines])


def _sizes(preset: Preset) -> list[tuple[str, str]]:
    """(part, how large it is)"""
    backbone, vae = preset.backbone, preset.autoencoder.vae
    network = (
        f"FluxAudio, {backbone.width} wide, {backbone.num_joint_blocks} joint and "
        f"{backbone.num_fused_blocks} fused blocks"
    )
    if backbone.pulse is not None:
        network += "; beside the paper's, a pulse that reads tempo and metre in the prompt"
    return [
        ("Backbone", network),
        ("Text encoders", f"T5 with {preset.text_encoder.dim} channels, "
         f"CLAP with {preset.conditioning_clap.dim}"),
        ("Sound", f"mel VAE with {vae.latent_channels} channels, "
         f"{VOCODER_NAMES[preset.autoencoder.vocoder.kind]}"),
    ]  # fmt: skip


def _stage_line(stage: StageInfo, stages: tuple[StageInfo, ...]) -> str:
    titles = {other.name: other.title for other in stages}
    origin = f"from {titles[stage.parent]}" if stage.parent else "from scratch"
    score = "takes a score" if stage.takes_score else "takes no score"
    state = "" if stage.available else f" *Not available: {without_folders(stage.missing)}*"
    return f"- **{stage.title}**, {origin}, {score}. {stage.notes}{state}".replace("\n", " ")


def versions_text() -> str:
    """Versions of this package and of those that decide how a clip sounds."""
    lines = [f"ttmpref {__version__}", *(f"{name} {_version(name)}" for name in PACKAGES)]
    return "### Versions\n\n" + " · ".join(lines)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
