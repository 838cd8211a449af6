"""The preference chain: score-conditioned fine-tune, expert iteration, cross-load, CRPO and NFT.

Each stage begins with its parent's weights, as the preset names them, and leaves its own beside
them with a record that names the parent's hash and what it learnt from (paper, section III-B to D).
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.crpo import CRPOJob, NFTJob, Pairs, best_and_worst
from training.flow_matching import BackboneJob, Captions, FlowMatchingJob, as_float
from training.listeners import Listeners
from training.loop import write_aside, write_json
from training.recipe import CRPORecipe, NFTRecipe, SampledRecipe
from training.sampling import Judge, Judged, sample_and_judge
from training.scored import Mixture, ScoredSplit
from training.sources import TakesSource, source_of
from training.workplace import Workplace, train
from ttmpref import assets
from ttmpref.autoencoder import MelAutoencoder
from ttmpref.config import HeadKind
from ttmpref.generator import Generator, GeneratorParts, TextFeatures
from ttmpref.models.fluxaudio import FluxAudio
from ttmpref.models.pulse import UNKNOWN
from ttmpref.types import DamagedWeights, GenerationRequest

SCALE = "score_scale.json"


def takes(place: Workplace) -> None:
    """Latents of what the listeners heard."""
    source = source_of(place)
    if isinstance(source, TakesSource):
        for corpus in place.corpora:
            source.latents(Listeners(place.recipe.listeners, corpus))


def sft(place: Workplace) -> None:
    """The baseline learns what the score means."""
    recipe, source = place.recipe.sft, source_of(place)
    source.scale.write(place.assets / "logs" / SCALE)
    backbone = stage_backbone(place, "baseline", recipe.head)
    job = FlowMatchingJob("sft", recipe, backbone, source.splits)
    train(place, job, recipe, head=recipe.head, **source.facts, **parent(place, "baseline"))
    export(place, job, "sft")


def expert(place: Workplace) -> None:
    """The fine-tune learns from the best of its own clips, mixed into the windows; then a polish
    on these clips alone."""
    recipe, source = place.recipe.expert, source_of(place)
    head, (windows, held_out) = _head(place, "sft"), source.splits
    backbone = stage_backbone(place, "sft", head)
    prompts, encoded = source.prompts(recipe.candidates)
    judged = _judged(place, "expert", "sft", backbone, recipe, prompts)
    kept = best_of(judged, recipe.keep)
    scores = source.scale.score(judged.rewards[kept])
    chosen = ScoredSplit(
        _as_posteriors(backbone, judged.latents[kept]), kept, scores, _one_each(encoded),
        np.full(len(kept), UNKNOWN),
    )  # fmt: skip
    mixture = Mixture((windows, chosen), (len(windows), recipe.oversample * len(chosen)))
    said = (
        source.facts
        | parent(place, "sft")
        | {
            "head": head,
            "kept": [int(row) for row in kept],
            "candidates": _summary(judged, np.arange(len(prompts))),
            "kept clips": _summary(judged, kept),
        }
    )
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
    export(place, job, "expert")


def crossload(place: Workplace) -> None:
    """The expert's weights under the second head: every name and shape fits, nothing is trained."""
    stage = place.recipe.target.stage("crossload")
    backbone = stage_backbone(place, "expert", stage.head)
    record = {
        "step": "crossload",
        "head": stage.head,
        "tensors": len(backbone.state_dict()),
        "updates": 0,
        **parent(place, "expert"),
    }
    write_json(place.assets / "logs" / "crossload.json", record)


def crpo(place: Workplace) -> None:
    """Preference optimisation of the cross-loaded network on pairs of its own clips."""
    _train_on_pairs(place, "crpo", place.recipe.crpo, CRPOJob)


def nft(place: Workplace) -> None:
    """The negative-aware fine-tune in the place of CRPO."""
    _train_on_pairs(place, "nft", place.recipe.nft, NFTJob)


def _train_on_pairs(
    place: Workplace,
    name: str,
    recipe: CRPORecipe | NFTRecipe,
    make_job: type[CRPOJob] | type[NFTJob],
) -> None:
    head = place.recipe.target.stage("crossload").head
    backbone = stage_backbone(place, "expert", head)
    prompts, encoded = source_of(place).prompts(recipe.prompts)
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
    said = parent(place, "expert") | {
        "head": head,
        "better clips": _summary(judged, better),
        "worse clips": _summary(judged, worse),
    }
    train(place, job, recipe, **said)
    export(place, job, name)


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
    tensors = assets.read_tensors(str(weights_path(place, name)))
    missing, unknown = backbone.load_state_dict(tensors, strict=False)
    scored = any(key.startswith("score_embed.") for key in tensors)
    wrong = [k for k in missing if scored or not k.startswith("score_embed.")] + unknown
    if wrong:
        raise DamagedWeights(f"{weights_path(place, name)}: {wrong[0]} does not fit head {head!r}")
    return backbone


def weights_path(place: Workplace, name: str) -> Path:
    """Where a stage's weights lie: in the runs, where the preset lists no stage or fetches it."""
    known = {stage.name: stage.weights for stage in place.recipe.target.stages}
    uri = known.get(name) or ""
    fetched = uri.startswith(("hf://", "https://"))
    return place.path(uri) if uri and not fetched else place.runs / f"{name}.safetensors"


def export(place: Workplace, job: BackboneJob, name: str) -> None:
    """A stage's weights, as differences from the baseline's where those lie beside them."""
    path, root = weights_path(place, name), weights_path(place, "baseline")
    job.export(path, root if root.parent == path.parent else None)


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


def parent(place: Workplace, name: str) -> dict[str, str]:
    """What a stage's record says of where it began."""
    return {"parent": name, "parent_sha256": assets.sha256(weights_path(place, name))}


def _summary(judged: Judged, rows: np.ndarray) -> dict[str, float | int]:
    """What the judge says of some clips."""
    return {
        "clips": len(rows),
        "mean reward": round(float(judged.rewards[rows].mean()), 4),
        "mean CLAP score": round(float(judged.clap[rows].mean()), 4),
    }
