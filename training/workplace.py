"""Where a chain works: folders, the encoders that all steps share, and how a step is trained.

A step's weights land in `assets/<preset>`, its losses and its record (recipe, hashes, updates) in
`assets/<preset>/logs`, and the manifest with checksums is rewritten after each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from training.autoencoder import load_vae
from training.corpus import describe
from training.data import Corpus
from training.features import Encode, bar_samples, caption_features
from training.flow_matching import Captions
from training.loop import Job, Pace, Schedule, run, save_checkpoint, write_aside, write_json
from training.recipe import Recipe, StepRecipe, recipe_hash
from ttmpref import assets
from ttmpref.config import Preset
from ttmpref.encoders.clap import ClapEncoder
from ttmpref.encoders.t5 import T5TextEncoder
from ttmpref.models.mel import LogMel
from ttmpref.models.pulse import metre_of

log = logging.getLogger(__name__)
RESTARTS = "restarts.json"


@dataclass(frozen=True)
class Workplace:
    """Where a chain reads and writes, and how much of the machine it may use.

    Attributes:
        from_assets: music encoder, vocoder and backbone go on from shipped weights where no
            checkpoint is.
        trackers: where the curves of runs go (`training.tracking`).
        prepared: folder of `python -m training prepare` that backbones learn from instead of the
            recipe's corpus.
    """

    recipe: Recipe
    data: Path
    runs: Path
    assets: Path
    workers: int = 2
    max_minutes: float | None = None
    from_assets: bool = False
    trackers: Sequence[str] = Pace.trackers
    prepared: Path | None = None

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

    @cached_property
    def text_encoders(self) -> tuple[T5TextEncoder, ClapEncoder]:
        """What encodes captions for the backbone: sequence and pooled."""
        preset = self.recipe.target
        return (
            T5TextEncoder(preset.text_encoder, self.path(preset.text_encoder.folder)),
            ClapEncoder(preset.conditioning_clap, self.path(preset.conditioning_clap.folder)),
        )

    def captions_of(self, split: Corpus) -> Captions:
        """Encoded captions of a split, cached by the weights that encode them."""
        preset = self.recipe.target
        folders = (preset.text_encoder.folder, preset.conditioning_clap.folder)
        hashes = "".join(assets.sha256(self.path(f) / "model.safetensors") for f in folders)
        key = hashlib.sha256(hashes.encode()).hexdigest()[:16]
        cache = self.corpus_folder / "cache" / f"captions-{key}"
        return Captions(*caption_features(split, *self.text_encoders, cache))

    def metres_of(self, split: Corpus) -> np.ndarray | None:
        """(pieces,), as the backbone's pulse numbers them; None without one."""
        preset = self.recipe.target
        if preset.backbone.pulse is None:
            return None
        return np.array([_metre(preset, piece.tags) for piece in split.pieces])

    def made_up_captions(
        self, count: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Captions of pieces that the corpus might hold: text, pooled and (count,) metres."""
        preset, (text, pooled) = self.recipe.target, self.text_encoders
        tags = [self.recipe.corpus.draw_tags(rng) for _ in range(count)]
        captions = [describe(one, rng) for one in tags]
        metres = torch.tensor([_metre(preset, dataclasses.asdict(one)) for one in tags])
        return text.encode(captions), pooled.encode_text(captions), metres

    def path(self, uri: str) -> Path:
        """Where the preset's `asset://<preset>/x` is written."""
        return self.assets / uri.removeprefix(f"asset://{self.recipe.preset}/")


def _metre(preset: Preset, tags: dict[str, Any]) -> int:
    beats = tags["beats_per_bar"]
    beat_frames = bar_samples(tags) / beats / preset.autoencoder.samples_per_latent
    return metre_of(preset.backbone.pulse, beats, beat_frames)


def latent_encoder(place: Workplace) -> tuple[Encode, Path]:
    """The trained VAE's posterior of audio, and where to keep what it says.

    Caches are keyed by the weights that made them, so they can never be stale.
    """
    config = place.recipe.target.autoencoder
    path = place.path(config.vae_weights)
    log_mel, network = LogMel(config.mel), load_vae(config, path)
    folder = place.corpus_folder / "cache" / f"latents-{assets.sha256(path)[:16]}"
    return lambda waveform: network.encode(log_mel(waveform)), folder


class Restartable(Job, Protocol):
    """A job that can go on from shipped weights."""

    def restart(self, weights: dict[str, Tensor]) -> None: ...


def go_on_from_assets(place: Workplace, job: Restartable, shipped: Path) -> None:
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


def train(place: Workplace, job: Job, recipe: StepRecipe, **said: Any) -> int:
    """Run the loop and leave log and provenance, with what is `said`, beside the weights.

    Returns:
        The updates that are done.
    """
    schedule = Schedule(recipe.steps, recipe.learning_rate, recipe.warm_up, recipe.decay_from)
    pace = Pace(
        checkpoint_every=recipe.checkpoint_every,
        validate_every=recipe.validate_every,
        max_minutes=place.max_minutes,
        trackers=place.trackers,
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
        "corpus_hash": place.recipe.corpus and recipe_hash(place.recipe.corpus),
        "updates": reached,
        "planned_updates": recipe.steps,
        "restarts": restarts(folder),
        "torch": torch.__version__,
        "machine": platform.machine(),
        **said,
    }
    write_json(logs / f"{job.name}.json", record)
    if reached < recipe.steps:
        log.warning("%s stopped at %d of %d updates", job.name, reached, recipe.steps)
    return reached


def restarts(folder: Path) -> list[int]:
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
