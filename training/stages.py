"""The preference chain: score-conditioned fine-tune, expert iteration, cross-load, CRPO and NFT.

Each stage begins with its parent's weights, as the preset names them, and leaves its own beside
them with a record that names the parent's hash and what it learnt from (paper, section III-B to D).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.crpo import CRPOJob, NFTJob, Pairs, best_and_worst
from training.data import Corpus
from training.demo_ranker import Hearing, codec
from training.flow_matching import Captions, FlowMatchingJob, as_float
from training.listeners import Listeners, takes_of
from training.loop import numpy_draws, write_aside, write_json
from training.recipe import CRPORecipe, NFTRecipe, SampledRecipe, recipe_hash
from training.sampling import Judge, Judged, sample_and_judge
from training.scored import Mixture, ScoredSplit, ScoreScale, played, take_latents
from training.workplace import Workplace, latent_encoder, train
from ttmpref import assets
from ttmpref.autoencoder import MelAutoencoder
from ttmpref.config import HeadKind
from ttmpref.generator import Generator, GeneratorParts, TextFeatures
from ttmpref.models.fluxaudio import FluxAudio
from ttmpref.reward.features import CLAP_TEXT
from ttmpref.reward.ranker import read_ranker
from ttmpref.types import DamagedWeights, GenerationRequest

log = logging.getLogger(__name__)
SCALE = "score_scale.json"


def takes(place: Workplace) -> None:
    """Latents of what the listeners heard."""
    if place.recipe.sft is None:
        log.info("recipe %s has no score-conditioned stages", place.recipe.name)
        return
    for corpus in place.corpora:
        _latents_of_takes(place, Listeners(place.recipe.listeners, corpus))


def sft(place: Workplace) -> None:
    """The baseline learns what the score means."""
    recipe = place.recipe.sft
    if recipe is None:
        return
    splits = scored_splits(place)
    backbone = stage_backbone(place, "baseline", recipe.head)
    job = FlowMatchingJob("sft", recipe, backbone, splits)
    train(place, job, recipe, head=recipe.head, **_parent(place, "baseline"))
    job.export(weights_path(place, "sft"))


def expert(place: Workplace) -> None:
    """The fine-tune learns from the best of its own clips, mixed into the windows; then a polish
    on these clips alone."""
    recipe = place.recipe.expert
    if recipe is None:
        return
    head, (windows, held_out) = _head(place, "sft"), scored_splits(place)
    backbone = stage_backbone(place, "sft", head)
    prompts, encoded = _prompts(place, recipe.candidates)
    judged = _judged(place, "expert", "sft", backbone, recipe, prompts)
    kept = best_of(judged, recipe.keep)
    scores = ScoreScale.read(place.assets / "logs" / SCALE).score(judged.rewards[kept])
    chosen = ScoredSplit(
        _as_posteriors(backbone, judged.latents[kept]), kept, scores, _one_each(encoded)
    )
    mixture = Mixture((windows, chosen), (len(windows), recipe.oversample * len(chosen)))
    said = _parent(place, "sft") | {
        "head": head,
        "kept": [int(row) for row in kept],
        "candidates": _summary(judged, np.arange(len(prompts))),
        "kept clips": _summary(judged, kept),
    }
    job = FlowMatchingJob("expert", recipe, backbone, (mixture, held_out))
    if train(place, job, recipe, **said) < recipe.steps:
        return
    polish = recipe.model_copy(
        update={
            "steps": recipe.polish_steps,
            "learning_rate": recipe.polish_learning_rate,
            "warm_up": 0,
        }
    )
    backbone.load_state_dict(job.average.weights())
    job = FlowMatchingJob("expert_polish", polish, backbone, (chosen, held_out))
    train(place, job, polish, head=head)
    job.export(weights_path(place, "expert"))


def crossload(place: Workplace) -> None:
    """The expert's weights under the second head: every name and shape fits, nothing is trained."""
    if place.recipe.expert is None:
        return
    stage = place.recipe.target.stage("crossload")
    backbone = stage_backbone(place, "expert", stage.head)
    record = {
        "step": "crossload",
        "head": stage.head,
        "tensors": len(backbone.state_dict()),
        "updates": 0,
        **_parent(place, "expert"),
    }
    write_json(place.assets / "logs" / "crossload.json", record)


def crpo(place: Workplace) -> None:
    """Preference optimisation of the cross-loaded network on pairs of its own clips."""
    if place.recipe.crpo is not None:
        _train_on_pairs(place, "crpo", place.recipe.crpo, CRPOJob)


def nft(place: Workplace) -> None:
    """The negative-aware fine-tune in the place of CRPO."""
    if place.recipe.nft is not None:
        _train_on_pairs(place, "nft", place.recipe.nft, NFTJob)


def _train_on_pairs(
    place: Workplace,
    name: str,
    recipe: CRPORecipe | NFTRecipe,
    make_job: type[CRPOJob] | type[NFTJob],
) -> None:
    head = place.recipe.target.stage("crossload").head
    backbone = stage_backbone(place, "expert", head)
    prompts, encoded = _prompts(place, recipe.prompts)
    every = np.repeat(np.arange(recipe.prompts), recipe.clips_per_prompt)
    asked = [prompts[row] for row in every]
    judged = _judged(place, name, "expert", backbone, recipe, asked)
    ranking = judged.clap.reshape(recipe.prompts, recipe.clips_per_prompt)
    better, worse = best_and_worst(ranking)
    pairs = Pairs(judged.latents[better], judged.latents[worse], *encoded, recipe.sample_score)
    cut = max(1, round(recipe.prompts * recipe.held_out))
    job = make_job(
        name, recipe, backbone, (pairs.part(slice(cut, None)), pairs.part(slice(0, cut)))
    )
    said = _parent(place, "expert") | {
        "head": head,
        "better clips": _summary(judged, better),
        "worse clips": _summary(judged, worse),
    }
    train(place, job, recipe, **said)
    job.export(weights_path(place, name))


def best_of(judged: Judged, keep: int) -> np.ndarray:
    """Rows of the clips with the highest sum of the standard scores of reward and CLAP score."""
    blend = sum((x - x.mean()) / x.std() for x in (judged.rewards, judged.clap))
    return np.argsort(-blend, kind="stable")[:keep]


def stage_backbone(place: Workplace, name: str, head: HeadKind) -> FluxAudio:
    """A stage's weights under a head.

    Raises:
        DamagedWeights: a tensor is missing or unknown; of weights without score, the score's own
            tensors may be missing and stay as they are made, without effect at first.
    """
    backbone = FluxAudio(place.recipe.target.backbone, head)
    tensors = {k: v.float() for k, v in load_file(weights_path(place, name)).items()}
    missing, unknown = backbone.load_state_dict(tensors, strict=False)
    scored = any(key.startswith("score_embed.") for key in tensors)
    wrong = [k for k in missing if scored or not k.startswith("score_embed.")] + unknown
    if wrong:
        raise DamagedWeights(f"{weights_path(place, name)}: {wrong[0]} does not fit head {head!r}")
    return backbone


def weights_path(place: Workplace, name: str) -> Path:
    """Where a stage's weights lie; those of a stage that the preset does not list, in the runs."""
    known = {stage.name: stage.weights for stage in place.recipe.target.stages}
    uri = known.get(name)
    return place.path(uri) if uri else place.runs / f"{name}.safetensors"


def scored_splits(place: Workplace) -> tuple[ScoredSplit, ScoredSplit]:
    """Takes of the training and validation pieces with scores on the chain's scale."""
    found = [_scored(place, corpus) for corpus in place.corpora]
    scale = ScoreScale.of(found[0][1])
    scale.write(place.assets / "logs" / SCALE)
    train_split, held_out = (
        ScoredSplit(latents, pieces, scale.score(rewards), captions)
        for latents, rewards, pieces, captions in found
    )
    return train_split, held_out


def _scored(
    place: Workplace, corpus: Corpus
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Captions]:
    """Latents, rewards, pieces and captions of the takes of a split.

    The reward is asked with a caption of the piece that is played, so it speaks of the sound.
    """
    preset = place.recipe.target
    listeners = Listeners(place.recipe.listeners, corpus)
    votes = list(listeners.votes(range(len(corpus.pieces))))
    hearing = Hearing(listeners, preset, place.corpus_folder / "cache")
    store = hearing.store([vote.preference for vote in votes])
    names = takes_of(votes)
    pieces = played(names)
    order = {name: row for row, name in enumerate(store.clips)}
    rows = [order[name] for name in names]
    blocks = {name: block[rows] for name, block in store.blocks.items() if name != CLAP_TEXT}
    words = hearing.features.of_prompts([captions[0] for captions in corpus.captions])
    blocks |= {name: block[pieces] for name, block in words.items()}
    head = read_ranker(preset.ranker.weights)
    with torch.no_grad():
        rewards = head(head.layout.join(blocks)).numpy()
    return _latents_of_takes(place, listeners), rewards, pieces, place.captions_of(corpus)


def _latents_of_takes(place: Workplace, listeners: Listeners) -> np.ndarray:
    """(takes, 2, N, C), cached by the takes and the networks that they go through."""
    preset, corpus = place.recipe.target, listeners.corpus
    encode, folder = latent_encoder(place)
    vocoder = assets.sha256(place.path(preset.autoencoder.vocoder.weights))
    key = hashlib.sha256(f"{recipe_hash(listeners.recipe)} {vocoder}".encode()).hexdigest()[:16]
    samples = preset.backbone.latent_frames * preset.autoencoder.samples_per_latent
    names = takes_of(list(listeners.votes(range(len(corpus.pieces)))))
    path = folder / f"takes-{key}.{corpus.split}.npy"
    return take_latents(listeners, names, encode, codec(preset), samples, path)


def _prompts(place: Workplace, count: int) -> tuple[list[str], tuple[Tensor, Tensor]]:
    """Captions of `count` different training pieces and their features.

    Raises:
        ValueError: there are fewer pieces.
    """
    corpus = place.corpora[0]
    captions = place.captions_of(corpus)
    rng = numpy_draws(place.recipe.corpus.seed, "prompts of the chain", 0)
    pieces = rng.choice(len(corpus.pieces), count, replace=False)
    picks = [int(rng.integers(len(corpus.captions[piece]))) for piece in pieces]
    rows = captions.first[pieces] + picks
    texts = [corpus.captions[piece][pick] for piece, pick in zip(pieces, picks, strict=True)]
    return texts, (as_float(captions.text[rows]), as_float(captions.pooled[rows]))


def _judged(
    place: Workplace,
    name: str,
    parent: str,
    backbone: FluxAudio,
    recipe: SampledRecipe,
    prompts: list[str],
) -> Judged:
    """A clip of the parent per prompt, kept in the run's folder under what they follow from."""
    preset = place.recipe.target
    first = GenerationRequest(
        prompts[0], recipe.sample_seed, parent, recipe.sample_score, recipe.sample_guidance,
        preset.sampling.num_steps, preset.sampling.negative_prompt,
    )  # fmt: skip
    requests = [
        dataclasses.replace(first, prompt=prompt, seed=first.seed + i)
        for i, prompt in enumerate(prompts)
    ]
    weights, reward = weights_path(place, parent), assets.digest(preset.ranker.weights)
    made_by = [assets.sha256(weights), backbone.head, reward, *requests]
    key = hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]
    path = place.runs / name / f"clips-{key}.npz"
    if not path.exists():
        autoencoder = MelAutoencoder.load(preset.autoencoder, assets.load_tensors)
        parts = GeneratorParts(TextFeatures(*place.text_encoders), autoencoder, backbone.eval())
        generator, judge = Generator(preset, parts), Judge(preset)
        found = sample_and_judge(generator, judge, requests, recipe.precision)
        write_aside(path, found.save)
    return Judged.load(path)


def _as_posteriors(backbone: FluxAudio, latents: np.ndarray) -> np.ndarray:
    """Sampled latents (n, N, C) as windows (n, 2, N, C) without deviation."""
    with torch.no_grad():
        mean = backbone.unnormalise(as_float(latents)).numpy()
    return np.stack([mean, np.zeros_like(mean)], axis=1)


def _one_each(encoded: tuple[Tensor, Tensor]) -> Captions:
    """One caption per row."""
    text, pooled = encoded
    return Captions(text.numpy(), pooled.numpy(), np.arange(len(text) + 1))


def _head(place: Workplace, name: str) -> HeadKind:
    return place.recipe.target.stage(name).head


def _parent(place: Workplace, name: str) -> dict[str, str]:
    return {"parent": name, "parent_sha256": assets.sha256(weights_path(place, name))}


def _summary(judged: Judged, rows: np.ndarray) -> dict[str, float | int]:
    """What the judge says of some clips."""
    return {
        "clips": len(rows),
        "mean reward": round(float(judged.rewards[rows].mean()), 4),
        "mean CLAP score": round(float(judged.clap[rows].mean()), 4),
    }
