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

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training.autoencoder import Coded, VAEJob, VocoderJob, load_vae
from training.baseline import BaselineJob, LatentSplit
from training.clap import ClapJob
from training.corpus import build_corpus
from training.data import Corpus
from training.demo_ranker import COLLECTION, clean_rewards, material
from training.features import Encode, bar_features, caption_features, latent_features
from training.loop import Job, Pace, Schedule, run, save_checkpoint, write_aside, write_json
from training.music_encoder import MusicEncoderJob
from training.ranker_runs import train_and_report
from training.recipe import Recipe, StepRecipe, recipe_hash
from training.separator import SeparatorJob, sounds_of
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
    "ranker", "separator",
)  # fmt: skip
RESTARTS = "restarts.json"


@dataclass(frozen=True)
class Workplace:
    """Where a chain reads and writes, and how much of the machine it may use.

    Attributes:
        from_assets: vocoder and backbone go on from the shipped weights where no checkpoint is.
    """

    recipe: Recipe
    data: Path
    runs: Path
    assets: Path
    workers: int = 2
    max_minutes: float | None = None
    from_assets: bool = False

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


def _encoder(place: Workplace) -> tuple[Encode, Path]:
    """The trained VAE's posterior of audio, and where to keep what it says.

    Caches are keyed by the weights that made them, so they can never be stale.
    """
    config = place.recipe.target.autoencoder
    path = place.path(config.vae_weights)
    log_mel, network = LogMel(config.mel), load_vae(config, path)
    folder = place.corpus_folder / "cache" / f"latents-{assets.sha256(path)[:16]}"
    return lambda waveform: network.encode(log_mel(waveform)), folder


def vocoder(place: Workplace) -> None:
    config = place.recipe.target.autoencoder
    encode, folder = _encoder(place)
    train_split, held_out = (
        Coded(split, latent_features(split, encode, folder)) for split in place.corpora
    )
    network = load_vae(config, place.path(config.vae_weights))
    job = VocoderJob(place.recipe.vocoder, config, (train_split, held_out), network)
    _go_on_from_assets(place, job, place.path(config.vocoder.weights))
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
    encode, latents = _encoder(place)
    samples = preset.backbone.latent_frames * preset.autoencoder.samples_per_latent
    train_split, held_out = (
        LatentSplit(
            *bar_features(split, encode, samples, latents),
            *caption_features(split, text, pooled, cache),
        )
        for split in place.corpora
    )
    empty = (text.encode([""])[0], pooled.encode_text([""])[0])
    job = BaselineJob(place.recipe.baseline, preset.backbone, (train_split, held_out), empty)
    _go_on_from_assets(place, job, place.path(preset.stage("baseline").weights))
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


def separator(place: Workplace) -> None:
    recipe = place.recipe.separator
    if recipe is None:
        log.info("recipe %s has no separator", place.recipe.name)
        return
    train_split, held_out = (sounds_of(recipe, corpus) for corpus in place.corpora)
    job = SeparatorJob(recipe, (train_split, held_out))
    _train(place, job, recipe)
    job.export(place.assets / recipe.folder)


def _go_on_from_assets(place: Workplace, job: VocoderJob | BaselineJob, shipped: Path) -> None:
    """A checkpoint of the shipped weights at the update that they reached, if asked for one.

    Optimiser and live weights of the run that made them are gone, so it is noted as a restart.
    """
    folder, logs = place.runs / job.name, place.assets / "logs"
    if not place.from_assets or (folder / "checkpoint.pt").exists():
        return
    record = json.loads((logs / f"{job.name}.json").read_text())
    job.restart(load_file(shipped))
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / "log.jsonl", lambda p: shutil.copy(logs / f"{job.name}.jsonl", p))
    write_json(folder / RESTARTS, [*record.get("restarts", []), record["updates"]])
    save_checkpoint(job, record["updates"], folder)


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
        "restarts": _restarts(folder),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    write_json(logs / f"{job.name}.json", record)
    if reached < recipe.steps:
        log.warning("%s stopped at %d of %d updates", job.name, reached, recipe.steps)


def _restarts(folder: Path) -> list[int]:
    """Updates at which a run went on from shipped weights."""
    path = folder / RESTARTS
    return json.loads(path.read_text()) if path.exists() else []


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
