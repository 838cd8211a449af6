"""The steps of a recipe in order, each a function of what the earlier ones left behind.

A step that is finished (its assets exist and its run reached the recipe's updates) is skipped, one
that was interrupted goes on from its checkpoint. Weights land in `assets/<preset>`, losses in
`assets/<preset>/logs`, and the manifest with checksums and recipe hashes is rewritten after each.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from training import stages
from training.autoencoder import Coded, VAEJob, VocoderJob, load_vae
from training.clap import ClapJob
from training.corpus import build_corpus
from training.data import Corpus
from training.demo_ranker import COLLECTION, clean_rewards, material
from training.features import bar_features, latent_features
from training.flow_matching import (
    MEASURED,
    FlowMatchingJob,
    LatentSplit,
    Windows,
    fresh_backbone,
)
from training.loop import write_aside
from training.music_encoder import MusicEncoderJob
from training.prepare.reader import PreparedData
from training.pulse import PulseJob, load_pulse
from training.ranker_runs import train_and_report
from training.recipe import BackboneRecipe, recipe_hash
from training.separator import SeparatorJob, sounds_of
from training.sources import TakesSource
from training.text import TextEncoderJob, train_tokenizer
from training.workplace import Workplace, go_on_from_assets, latent_encoder, train, write_manifest
from ttmpref import assets
from ttmpref.encoders.pretrained import WEIGHTS_FILE
from ttmpref.reward.percentiles import write_collections
from ttmpref.reward.ranker import write_ranker

log = logging.getLogger(__name__)


def corpus(place: Workplace) -> None:
    """Compose and render every piece that is missing."""
    build_corpus(place.recipe.corpus, place.corpus_folder, place.workers, log=log.info)
    for split in (*place.corpora, Corpus(place.corpus_folder, "evaluation")):
        log.info("%s: %d pieces decoded", split.split, len(split.waveforms))


def tokenizer(place: Workplace) -> None:
    vocabulary = place.recipe.target.text_encoder.vocabulary
    train_tokenizer(place.recipe.tokenizer, vocabulary, place.tokenizer_folder)


def text_encoder(place: Workplace) -> None:
    config = place.recipe.target.text_encoder
    job = TextEncoderJob(place.recipe.text_encoder, config, place.tokenizer())
    train(place, job, place.recipe.text_encoder)
    job.export(place.path(config.folder))


def clap(place: Workplace) -> None:
    config = place.recipe.target.metric_clap
    recipe = place.recipe.clap
    job = ClapJob(recipe, config, place.tokenizer(), place.corpora, place.workers)
    train(place, job, recipe)
    job.export(place.path(config.folder))


def music_encoder(place: Workplace) -> None:
    config = place.recipe.target.music_encoder
    job = MusicEncoderJob(place.recipe.music_encoder, config, place.corpora, place.workers)
    go_on_from_assets(place, job, place.path(config.folder) / WEIGHTS_FILE)
    train(place, job, place.recipe.music_encoder)
    job.export(place.path(config.folder))


def vae(place: Workplace) -> None:
    config = place.recipe.target.autoencoder
    job = VAEJob(place.recipe.vae, config, place.corpora)
    train(place, job, place.recipe.vae)
    job.export(place.path(config.vae_weights))


def vocoder(place: Workplace) -> None:
    config = place.recipe.target.autoencoder
    encode, folder = latent_encoder(place)
    train_split, held_out = (
        Coded(split, latent_features(split, encode, folder)) for split in place.corpora
    )
    network = load_vae(config, place.path(config.vae_weights))
    job = VocoderJob(place.recipe.vocoder, config, (train_split, held_out), network)
    go_on_from_assets(place, job, place.path(config.vocoder.weights))
    train(place, job, place.recipe.vocoder)
    job.export(place.path(config.vocoder.weights))


def pulse(place: Workplace) -> None:
    """What the text foretells of the latents; prepared recordings do not tell their tempo."""
    config = place.recipe.target.backbone
    if config.pulse is None or place.prepared is not None:
        log.info("no pulse: the preset has none, or prepared recordings do not tell their tempo")
        return
    recipe, (splits, latents, empty) = place.recipe.pulse, _windows(place)
    backbone = fresh_backbone(recipe.seed, config, latents, empty)
    job = PulseJob(recipe, backbone, splits, place.made_up_captions)
    train(place, job, recipe)
    job.export(_pulse_path(place))


def _pulse_path(place: Workplace) -> Path:
    return place.runs / "pulse.safetensors"


def pretraining(place: Workplace) -> None:
    """The backbone learns on the corpus as it was rendered, without a fault."""
    job = _from_the_start(place, "pretraining", place.recipe.pretraining)
    train(place, job, place.recipe.pretraining)
    job.export(stages.weights_path(place, "pretraining"))


def baseline(place: Workplace) -> None:
    """The network without score.

    After a pretraining it learns from what the listeners heard, music good and bad, as a baseline
    of recordings does: only then is there anything for a score to choose. Prepared recordings are
    both already.
    """
    recipe, said = place.recipe.baseline, {}
    if place.recipe.pretraining is None or place.prepared is not None:
        job = _from_the_start(place, "baseline", recipe)
    else:
        backbone, source = stages.stage_backbone(place, "pretraining", "none"), TakesSource(place)
        said = source.facts | stages.parent(place, "pretraining")
        job = FlowMatchingJob("baseline", recipe, backbone, source.collection)
    weights = stages.weights_path(place, "baseline")
    go_on_from_assets(place, job, weights)
    train(place, job, recipe, **said)
    job.export(weights)


def _from_the_start(place: Workplace, name: str, recipe: BackboneRecipe) -> FlowMatchingJob:
    splits, latents, empty = _windows(place)
    backbone = fresh_backbone(recipe.seed, place.recipe.target.backbone, latents, empty)
    if backbone.pulse is not None and place.prepared is None:
        load_pulse(backbone, _pulse_path(place))
    return FlowMatchingJob(name, recipe, backbone, splits)


def _windows(
    place: Workplace,
) -> tuple[tuple[Windows, Windows], np.ndarray, tuple[Tensor, Tensor]]:
    """Windows without scores, some of their latents (n, 2, N, C), and the empty text."""
    if place.prepared is not None:
        data = [PreparedData(place.prepared, split) for split in ("train", "validation")]
        splits = data[0].windows(None), data[1].windows(None)
        return splits, data[0].some_latents(MEASURED), data[0].empty_text
    preset, (text, pooled) = place.recipe.target, place.text_encoders
    encode, folder = latent_encoder(place)
    samples = preset.backbone.latent_frames * preset.autoencoder.samples_per_latent
    train_split, held_out = (
        LatentSplit(
            *bar_features(split, encode, samples, folder),
            place.captions_of(split),
            place.metres_of(split),
        )
        for split in place.corpora
    )
    empty = (text.encode([""])[0], pooled.encode_text([""])[0])
    return (train_split, held_out), train_split.latents, empty


def ranker(place: Workplace) -> None:
    """Heads, their report, and the held-out corpus's rewards; needs every other network."""
    config = place.recipe.target.ranker
    train_split, test_split = place.corpora[0], Corpus(place.corpus_folder, "evaluation")
    caches, folder = place.corpus_folder / "cache", place.runs / "ranker"
    parts, hearing = material(place.recipe, train_split, test_split, caches, place.workers)
    heads = train_and_report(place.recipe.ranker, parts, folder, place.max_minutes)
    files = [place.path(uri) for uri in (config.weights, *config.ensemble)]
    for head, path in zip(heads, files, strict=True):
        write_ranker(head, path)
    for name in ("report.json", "report.md", "reliability.png"):
        target = place.assets / "logs" / f"ranker_{name}"
        write_aside(target, lambda p, name=name: shutil.copy(folder / name, p))
    rewards = {COLLECTION: clean_rewards(heads[0], hearing)}
    said = f"{place.recipe.name} corpus {recipe_hash(place.recipe.corpus)}, no text"
    write_collections(place.path(config.collections), assets.sha256(files[0]), said, rewards)


def separator(place: Workplace) -> None:
    recipe = place.recipe.separator
    train_split, held_out = (sounds_of(recipe, corpus) for corpus in place.corpora)
    job = SeparatorJob(recipe, (train_split, held_out))
    train(place, job, recipe)
    job.export(place.assets / recipe.folder)


_IN_ORDER = (
    corpus, tokenizer, text_encoder, clap, music_encoder, vae, vocoder, pulse, pretraining,
    ranker, separator, stages.takes, baseline, stages.sft, stages.expert, stages.crossload,
    stages.crpo,
)  # fmt: skip
STEPS = tuple(step.__name__ for step in _IN_ORDER)
_NUMBERS = {"takes": "sft", "crossload": "expert"}  # recipe field of a step of another name
EXTRA_STEPS = ("nft",)  # run when named: another last stage than the paper's
_KNOWN: dict[str, Callable[[Workplace], None]] = {
    step.__name__: step for step in (*_IN_ORDER, stages.nft)
}


def chain(place: Workplace, steps: tuple[str, ...] = STEPS) -> None:
    """Run the named steps in order; each leaves the manifest whole."""
    for name in steps:
        if getattr(place.recipe, _NUMBERS.get(name, name)) is None:
            log.info("recipe %s has no step %s", place.recipe.name, name)
            continue
        log.info("step %s", name)
        _KNOWN[name](place)
        if place.assets.exists():
            write_manifest(place)
