"""Where between noise and music does the beat get lost?

Clips begin on a bar line, so a tempo tells where its beats fall. Normalised latents are looked at
along their first principal axes, the mean of each clip taken away: their *movement*. Held-out clips
with more and less noise are given to the default stage with a caption that states the tempo, and
the part of the movement that its estimate of the music leaves unexplained stands beside what is
left by the mean course of the training clips of the same tempo, and of the same tempo and genre:
what position and text alone could tell; and what is left by the course that the backbone's pulse
foretells, with the metre that it reads in the caption and with the true one. Above 100 % an
estimate is worse than none. Whether the text's encodings tell the tempo at all, a linear classifier
answers.

Shapes: n clips, N latent frames, C channels, A axes, D width of an encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import ALL_PARTS, Figure, Report, Setting, run
from benchmarks.held_out import stated_tags
from training.corpus.vocabulary import TEMPO_CLASSES, tempo_class_of
from training.data import Corpus
from ttmpref import assets, flow
from ttmpref.config import AutoencoderConfig
from ttmpref.encoders.t5 import T5TextEncoder
from ttmpref.metrics import wilson_interval
from ttmpref.models.fluxaudio import FluxAudio, load_backbone_state
from ttmpref.models.pulse import metre_of, tempo_of

AXES = 8
NOISE_LEVELS = (1.0, 0.9, 0.8, 0.7, 0.5)
SEED = 74
SHRINKAGE = 10.0  # clips without movement that every mean course counts in
BATCH = 16
RIDGE = 0.1


@dataclass(frozen=True)
class Heard:
    """The first clip of every piece of a split that states its tempo, with that caption.

    Attributes:
        latents: (n, N, C), normalised.
        text, pooled: (n, T, D) and (n, D) of the captions.
        tags: of the pieces.
    """

    latents: Tensor
    text: Tensor
    pooled: Tensor
    tags: list[dict[str, Any]]


@torch.inference_mode()
def measure(setting: Setting) -> Report:
    preset = setting.studio.preset
    stage = preset.stage(preset.sampling.stage)
    backbone = FluxAudio(preset.backbone, stage.head).eval()
    load_backbone_state(backbone, assets.load_tensors(stage.weights))
    text_encoder = T5TextEncoder(preset.text_encoder, assets.locate(preset.text_encoder.folder))
    train, test = (
        _heard(setting, Corpus(setting.corpus_folder, split), backbone, text_encoder)
        for split in ("train", "evaluation")
    )
    axes = principal_axes(train.latents)
    score = None if stage.head == "none" else setting.studio.settings.score
    return Report(
        title="Where rhythm is lost",
        question=f"How much of the movement of {len(test.latents)} held-out clips is left "
        "unexplained, and do the text's encodings tell its tempo?",
        figures=(
            *_mean_courses(train, test, axes),
            *_foretold(backbone, test, axes, setting.studio.preset.autoencoder),
            *_estimates(backbone, test, axes, score),
            *_tempo_read(train, test),
        ),
        recipe={
            "training clips": len(train.latents), "held-out clips": len(test.latents),
            "axes": AXES, "noise seed": SEED, "shrinkage": SHRINKAGE, "ridge": RIDGE,
        },
        parts=ALL_PARTS,
    )  # fmt: skip


def _heard(
    setting: Setting, corpus: Corpus, backbone: FluxAudio, text_encoder: T5TextEncoder
) -> Heard:
    config = setting.studio.preset.autoencoder
    samples = backbone.config.latent_frames * config.samples_per_latent
    rows, captions = [], []
    for row, piece in enumerate(corpus.pieces):
        stating = [c for c in piece.captions if "tempo_class" in stated_tags(c, piece.tags)]
        if stating:
            rows.append(row)
            captions.append(stating[0])
    latents, text, pooled = [], [], []
    for first in range(0, len(rows), BATCH):
        some = np.array(rows[first : first + BATCH])
        audio = corpus.cut(some, np.zeros(len(some), int), samples)
        latents.append(backbone.normalise(setting.autoencoder.encode(audio)[0]))
        text.append(text_encoder.encode(captions[first : first + BATCH]))
        pooled.append(setting.clap.encode_text(captions[first : first + BATCH]))
    print(f"{corpus.split}: {len(rows)} clips", flush=True)
    tags = [corpus.pieces[row].tags for row in rows]
    return Heard(torch.cat(latents), torch.cat(text), torch.cat(pooled), tags)


def principal_axes(latents: Tensor) -> Tensor:
    """(n, N, C) to (C, A), the axes along which latents vary most."""
    return torch.linalg.eigh(torch.cov(latents.flatten(0, 1).T))[1][:, -AXES:]


def movement(latents: Tensor, axes: Tensor) -> Tensor:
    """(n, N, C) along the axes, without the mean of each clip: (n, N, A)."""
    along = latents @ axes
    return along - along.mean(1, keepdim=True)


def unexplained(estimated: Tensor, real: Tensor) -> float:
    """Squared error of movements relative to the movement itself."""
    return float((estimated - real).square().sum() / real.square().sum())


def mean_courses(
    train: Heard, test: Heard, axes: Tensor, key: Callable[[dict[str, Any]], Hashable]
) -> Tensor:
    """Movement of held-out clips (n, N, A) as the training clips of the same key tell it."""
    moved = movement(train.latents, axes)
    groups: dict[Hashable, list[int]] = {}
    for i, tags in enumerate(train.tags):
        groups.setdefault(key(tags), []).append(i)
    told = torch.zeros(len(test.tags), *moved.shape[1:])
    for i, tags in enumerate(test.tags):
        if members := groups.get(key(tags)):
            told[i] = moved[members].sum(0) / (len(members) + SHRINKAGE)
    return told


def _tempo(tags: dict[str, Any]) -> Hashable:
    return round(tags["tempo_bpm"]), tags["beats_per_bar"]


def _mean_courses(train: Heard, test: Heard, axes: Tensor) -> Iterable[Figure]:
    real = movement(test.latents, axes)
    keys: dict[str, Callable[[dict[str, Any]], Hashable]] = {
        "tempo": _tempo,
        "tempo and genre": lambda tags: (_tempo(tags), tags["genre"]),
    }
    for name, key in keys.items():
        left = unexplained(mean_courses(train, test, axes, key), real)
        yield Figure(f"movement left by the mean course of the same {name}", left, "%")


def _foretold(
    backbone: FluxAudio, test: Heard, axes: Tensor, autoencoder: AutoencoderConfig
) -> Iterable[Figure]:
    """What the pulse reads and foretells; nothing of a network without one."""
    if backbone.pulse is None:
        return
    real, config = movement(test.latents, axes), backbone.pulse.config
    frame = autoencoder.seconds_per_latent
    true = torch.tensor([
        metre_of(config, tags["beats_per_bar"], 60 / tags["tempo_bpm"] / frame)
        for tags in test.tags
    ])  # fmt: skip
    read = backbone.pulse.likeliest(test.text, test.pooled)
    for name, metre in (("read in the caption", read), ("of the piece", true)):
        course = backbone.course(test.text, test.pooled, metre)
        left = unexplained(movement(course, axes), real)
        yield Figure(f"movement left by the course of the metre {name}", left, "%")
    classes = [
        [tempo_class_of(tempo_of(config, int(metre), frame)[1]) for metre in some]
        for some in (read, true)
    ]
    hits = sum(a == b for a, b in zip(*classes, strict=True))
    yield Figure(
        "tempo class read by the pulse", hits / len(true), "%",
        interval=wilson_interval(hits, len(true)),
    )  # fmt: skip


def _estimates(
    backbone: FluxAudio, test: Heard, axes: Tensor, score: float | None
) -> Iterable[Figure]:
    real = movement(test.latents, axes)
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(test.latents.shape, generator=generator)
    projected = backbone.project(test.text, test.pooled)
    for level in NOISE_LEVELS:
        t = torch.full((len(noise),), level)
        z = flow.interpolate(test.latents, noise, t)
        scores = None if score is None else torch.full((len(noise),), score)
        music = z - level * backbone.velocity(z, t, projected, scores)
        left = unexplained(movement(music, axes), real)
        yield Figure(f"movement left by the network's estimate at noise level {level:g}", left, "%")


def _tempo_read(train: Heard, test: Heard) -> Iterable[Figure]:
    encodings = {
        "the CLAP vector": (train.pooled, test.pooled),
        "the mean of the T5 states": (train.text.mean(1), test.text.mean(1)),
    }
    known, asked = (
        torch.tensor([TEMPO_CLASSES.index(tags["tempo_class"]) for tags in one.tags])
        for one in (train, test)
    )
    for name, (seen, unseen) in encodings.items():
        hits = int((classified(seen, known, unseen) == asked).sum())
        yield Figure(
            f"tempo class read out of {name}", hits / len(asked), "%",
            interval=wilson_interval(hits, len(asked)),
            note=f"chance {100 / len(TEMPO_CLASSES):.1f} %",
        )  # fmt: skip


def classified(seen: Tensor, classes: Tensor, unseen: Tensor) -> Tensor:
    """Classes of unseen vectors by ridge regression on one-hot classes of seen ones (n, D)."""
    ones = torch.nn.functional.one_hot(classes).double()
    mean, scale = seen.mean(0), seen.std() + 1e-8
    x, new = ((part - mean).double() / scale for part in (seen, unseen))
    gram = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=torch.float64) / x.shape[1]
    return (new @ torch.linalg.solve(gram, x.T @ (ones - ones.mean(0))) + ones.mean(0)).argmax(1)


if __name__ == "__main__":
    run("rhythm", measure, __doc__)
