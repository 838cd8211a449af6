"""The steps of a recipe in order, each a function of what the earlier ones left behind.

A step that is finished (its assets exist and its run reached the recipe's updates) is skipped, one
that was interrupted goes on from its checkpoint. Weights land in `assets/<preset>`, losses in
`assets/<preset>/logs`, and the manifest with checksums and recipe hashes is rewritten after each.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training.autoencoder import Coded, VAEJob, VocoderJob, load_vae
from training.baseline import BaselineJob, LatentSplit
from training.clap import ClapJob
from training.corpus import build_corpus
from training.data import Corpus
from training.demo_ranker import COLLECTION, clean_rewards, material
from training.features import caption_features, latent_features
from training.loop import Job, Pace, Schedule, run, write_aside, write_json
from training.music_encoder import MusicEncoderJob
from training.ranker_runs import train_and_report
from training.recipe import Recipe, StepRecipe, recipe_hash
from training.text import TextEncoderJob, train_tokenizer
from ttmpref import assets
from ttmpref.encoders.clap import ClapEncoder
from ttmpref.encoders.t5 import T5TextEncoder
from ttmpref.models.mel import LogMel
from ttmpref.reward.percentiles import write_collections
from ttmpref.reward.ranker import write_ranker

log = logging.getLogger(__name__)

STEPS = (
    "corpus", "tokenizer", "text_encoder", "clap", "music_encoder", "vae", "vocoder", "baseline",
    "ranker",
)  # fmt: skip


@dataclass(frozen=True)
class Workplace:
    """Where a chain reads and writes, and how much of the machine it may use."""

    recipe: Recipe
    data: Path
    runs: Path
    assets: Path
    workers: int = 2
    max_minutes: float | None = None

    @cached_property
    def corpora(self) -> tuple[Corpus, Corpus]:
        """Training and validation split."""
        return Corpus(self.corpus_folder, "train"), Corpus(self.corpus_folder, "validation")

    @property
    def corpus_folder(self) -> Path:
        return self.data / f"corpus-{recipe_hash(self.recipe.corpus)}"

    @property
    def tokenizer_folder(self) -> Path:
        return self.runs / "tokenizer"

    def tokenizer(self) -> PreTrainedTokenizerFast:
        return AutoTokenizer.from_pretrained(self.tokenizer_folder, local_files_only=True)

    def path(self, uri: str) -> Path:
        """Where the preset's `asset://<preset>/x` is written."""
        return self.assets / uri.removeprefix(f"asset://{self.recipe.preset}/")


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
    _train(place, job, place.recipe.text_encoder)
    job.export(place.path(config.folder))


def clap(place: Workplace) -> None:
    config = place.recipe.target.metric_clap
    recipe = place.recipe.clap
    job = ClapJob(recipe, config, place.tokenizer(), place.corpora, place.workers)
    _train(place, job, recipe)
    job.export(place.path(config.folder))


def music_encoder(place: Workplace) -> None:
    config = place.recipe.target.music_encoder
    if config is None:
        log.info("preset %s has no music encoder", place.recipe.preset)
        return
    job = MusicEncoderJob(place.recipe.music_encoder, config, place.corpora)
    _train(place, job, place.recipe.music_encoder)
    job.export(place.path(config.folder))


def vae(place: Workplace) -> None:
    config = place.recipe.target.autoencoder
    job = VAEJob(place.recipe.vae, config, place.corpora)
    _train(place, job, place.recipe.vae)
    job.export(place.path(config.vae_weights))


def _latents(place: Workplace) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors of the training and the validation pieces.

    Caches are keyed by the weights that made them, so they can never be stale.
    """
    config = place.recipe.target.autoencoder
    path = place.path(config.vae_weights)
    log_mel, network = LogMel(config.mel), load_vae(config, path)
    folder = place.corpus_folder / "cache" / f"latents-{assets.sha256(path)[:16]}"
    train_split, held_out = (
        latent_features(split, lambda waveform: network.encode(log_mel(waveform)), folder)
        for split in place.corpora
    )
    return train_split, held_out


def vocoder(place: Workplace) -> None:
    config = place.recipe.target.autoencoder
    pairs = zip(place.corpora, _latents(place), strict=True)
    train_split, held_out = (Coded(split, latents) for split, latents in pairs)
    network = load_vae(config, place.path(config.vae_weights))
    job = VocoderJob(place.recipe.vocoder, config, (train_split, held_out), network)
    _train(place, job, place.recipe.vocoder)
    job.export(place.path(config.vocoder.weights))


def baseline(place: Workplace) -> None:
    preset = place.recipe.target
    folders = [place.path(preset.text_encoder.folder), place.path(preset.conditioning_clap.folder)]
    text = T5TextEncoder(preset.text_encoder, folders[0])
    pooled = ClapEncoder(preset.conditioning_clap, folders[1])
    hashes = "".join(assets.sha256(folder / "model.safetensors") for folder in folders)
    key = hashlib.sha256(hashes.encode()).hexdigest()[:16]
    cache = place.corpus_folder / "cache" / f"captions-{key}"
    train_split, held_out = (
        LatentSplit(latents, *caption_features(split, text, pooled, cache))
        for split, latents in zip(place.corpora, _latents(place), strict=True)
    )
    empty = (text.encode([""])[0], pooled.encode_text([""])[0])
    job = BaselineJob(place.recipe.baseline, preset.backbone, (train_split, held_out), empty)
    _train(place, job, place.recipe.baseline)
    job.export(place.path(preset.stage("baseline").weights))


def ranker(place: Workplace) -> None:
    """Heads, their report, and the held-out corpus's rewards; needs every other network."""
    config = place.recipe.target.ranker
    if config is None:
        log.info("preset %s has no ranker", place.recipe.preset)
        return
    train_split, test_split = place.corpora[0], Corpus(place.corpus_folder, "evaluation")
    caches, folder = place.corpus_folder / "cache", place.runs / "ranker"
    parts, hearing = material(place.recipe, train_split, test_split, caches)
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


def _train(place: Workplace, job: Job, recipe: StepRecipe) -> None:
    """Run the loop and leave the log and the provenance beside the weights."""
    schedule = Schedule(recipe.steps, recipe.learning_rate, recipe.warm_up, recipe.decay_from)
    pace = Pace(
        checkpoint_every=recipe.checkpoint_every,
        validate_every=recipe.validate_every,
        max_minutes=place.max_minutes,
    )
    folder = place.runs / job.name
    reached = run(job, schedule, folder, pace)
    logs = place.assets / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    write_aside(logs / f"{job.name}.jsonl", lambda p: shutil.copy(folder / "log.jsonl", p))
    record = {
        "step": job.name,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe_hash(recipe),
        "corpus_hash": recipe_hash(place.recipe.corpus),
        "updates": reached,
        "planned_updates": recipe.steps,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    write_json(logs / f"{job.name}.json", record)
    if reached < recipe.steps:
        log.warning("%s stopped at %d of %d updates", job.name, reached, recipe.steps)


def write_manifest(place: Workplace) -> None:
    """Sizes and checksums of every shipped file, with the recipe they came from."""
    files = {}
    for path in sorted(place.assets.rglob("*")):
        name = path.relative_to(place.assets).as_posix()
        if path.is_file() and name != "manifest.json" and not path.name.startswith("."):
            files[name] = {"bytes": path.stat().st_size, "sha256": assets.sha256(path)}
    recipe = json.loads(place.recipe.model_dump_json())
    write_json(place.assets / "manifest.json", {"format": 1, "files": files, "recipe": recipe})


def chain(place: Workplace, steps: tuple[str, ...] = STEPS) -> None:
    """Run the named steps in order; each leaves the manifest whole."""
    known: dict[str, Callable[[Workplace], None]] = {name: globals()[name] for name in STEPS}
    for name in steps:
        log.info("step %s", name)
        known[name](place)
        if place.assets.exists():
            write_manifest(place)
