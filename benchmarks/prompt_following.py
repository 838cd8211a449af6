"""Does a clip do what its prompt says? A tagger that never met the generator listens.

The tagger (`benchmarks.tagger`) is trained on the evaluation pieces that lend no prompt. It then
names lead instrument (16 classes), genre (10) and tempo class (3) of 200 generated clips, of the
real audio of the very pieces whose captions were the prompts, and of that audio after a round trip
through the autoencoder, which is the most a generator in its latents could reach. A tag counts only
where the prompt states it in words (`benchmarks.held_out.stated_tags`). Classes are near uniform,
so chance is one over their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

import numpy as np
import torch

from benchmarks.common import ALL_PARTS, Figure, Report, Setting, run
from benchmarks.generate import BASE_SEED, generated
from benchmarks.held_out import CORPUS_RATE, TAGS, Prompt, divide, windows
from benchmarks.tagger import (
    CLASSES,
    FrontEnd,
    Tagger,
    TaggerRecipe,
    tags_heard,
    train_tagger,
)
from ttmpref.audio import resample
from ttmpref.metrics import wilson_interval
from ttmpref.types import Clip

WORDS = {"lead": "lead instrument", "genre": "genre", "tempo_class": "tempo class"}
TIMES_CHANCE = {"lead": 4.0, "genre": 4.0, "tempo_class": 2.0}
SOURCES = ("generated", "real", "real, through the autoencoder")


def measure(setting: Setting) -> Report:
    recipe = TaggerRecipe()
    tagger = tagger_of(setting, recipe)
    asked, clips = generated(setting)
    real = list(windows(setting.evaluation, _rows(asked), setting.studio.preset.output.seconds))
    sources = dict(zip(SOURCES, (clips, real, _round_trips(setting, real)), strict=True))
    front_end = FrontEnd()
    heard = {
        source: tags_heard(tagger, map(front_end, some), recipe) for source, some in sources.items()
    }
    return Report(
        title="Prompt following",
        question=f"What a tagger hears in {len(asked)} clips made from held-out captions.",
        figures=tuple(_figures(asked, heard)),
        recipe={
            "n": len(asked),
            "prompts": "one caption of each prompt piece of the evaluation split: "
            "the first that states most tags",
            "seeds": f"{BASE_SEED} + index",
            "tagger": asdict(recipe),
            "tagger_pieces": len(divide(len(setting.evaluation.pieces), setting.clips)[1]),
        },
        parts=ALL_PARTS,
        details={"confusions": {tag: _confusions(asked, heard["generated"], tag) for tag in TAGS}},
    )


def _rows(asked: Sequence[Prompt]) -> list[int]:
    return [prompt.row for prompt in asked]


def tagger_of(setting: Setting, recipe: TaggerRecipe) -> Tagger:
    """A tagger trained on the whole of every evaluation piece that lends no prompt."""
    corpus = setting.evaluation
    _, rows = divide(len(corpus.pieces), setting.clips)
    front_end, length = FrontEnd(), corpus.waveforms.shape[1]
    features = []
    for row in rows:
        waveform = corpus.cut(np.array([row]), np.array([0]), length)
        features.append(front_end(Clip(waveform.numpy(), CORPUS_RATE)))
    print(f"tagger: features of {len(features)} pieces", flush=True)
    return train_tagger(features, [corpus.pieces[row].tags for row in rows], recipe)


@torch.inference_mode()
def _round_trips(setting: Setting, clips: Iterable[Clip]) -> Iterator[Clip]:
    """The clips after the autoencoder and the vocoder."""
    rate = setting.sample_rate
    for clip in clips:
        waveform = torch.from_numpy(resample(clip, rate).waveform)
        yield Clip(setting.autoencoder.round_trip(waveform).numpy(), rate)


def _figures(asked: Sequence[Prompt], heard: dict[str, list[dict[str, str]]]) -> Iterable[Figure]:
    """Rate of every tag in every source; the generated clips have targets."""
    for tag in TAGS:
        chance = 1 / len(CLASSES[tag])
        counted = [i for i, prompt in enumerate(asked) if tag in prompt.stated]
        for source in SOURCES:
            hits = sum(heard[source][i][tag] == asked[i].tags[tag] for i in counted)
            yield Figure(
                name=f"{WORDS[tag]}, {source}",
                value=hits / len(counted),
                unit="%",
                at_least=TIMES_CHANCE[tag] * chance if source == "generated" else None,
                interval=wilson_interval(hits, len(counted)),
                note=f"chance {100 * chance:.1f} %, n = {len(counted)}",
            )


def _confusions(
    asked: Sequence[Prompt], heard: Sequence[dict[str, str]], tag: str
) -> dict[str, dict[str, int]]:
    """Asked class -> heard class -> clips, the commonest first."""
    table: dict[str, Counter[str]] = {name: Counter() for name in CLASSES[tag]}
    for prompt, one in zip(asked, heard, strict=True):
        if tag in prompt.stated:
            table[prompt.tags[tag]][one[tag]] += 1
    return {name: dict(counts.most_common()) for name, counts in table.items()}


if __name__ == "__main__":
    run("prompt_following", measure, __doc__)
