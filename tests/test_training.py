"""The training loop and every job: a step trains, a resumed run is the uninterrupted one."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.conftest import CORPUS_SAMPLE_RATE as RATE
from tests.conftest import CORPUS_SECONDS as SECONDS
from tests.conftest import build_tiny_preset
from training import chain, workplace
from training.autoencoder import Coded, VAEJob, VocoderJob, load_vae
from training.clap import ClapJob
from training.corpus.vocabulary import GENRES
from training.crpo import CRPOJob, NFTJob, Pairs
from training.data import CORPUS_RATE, Corpus
from training.features import bar_windows
from training.flow_matching import Captions, FlowMatchingJob, LatentSplit, fresh_backbone
from training.loop import Average, Job, Pace, Schedule, draws, run, write_aside
from training.music_encoder import MusicEncoderJob
from training.recipe import (
    BackboneRecipe,
    ClapRecipe,
    CRPORecipe,
    MusicEncoderRecipe,
    NFTRecipe,
    SeparatorRecipe,
    TextEncoderRecipe,
    TokenizerRecipe,
    VAERecipe,
    VocoderRecipe,
    VoicesRecipe,
    load_recipe,
)
from training.scored import ScoredSplit
from training.separator import BAG, SeparatorJob, Sounds
from training.text import TextEncoderJob, train_tokenizer
from ttmpref.config import ConfigError, MelConfig, MusicEncoderConfig, Preset, load_preset
from ttmpref.models.fluxaudio import FluxAudio
from ttmpref.separation import read_bag


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    return load_preset(str(build_tiny_preset(tmp_path_factory.mktemp("preset"))))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return train_tokenizer(TokenizerRecipe(captions=50), 320, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def jobs(tiny: Preset, corpora, tokenizer) -> dict[str, Callable[[], Job]]:
    """A maker of every job, small enough for a step in milliseconds."""
    step = {"steps": 6, "batch": 2, "learning_rate": 1e-3}
    rng = np.random.default_rng(0)
    clap = tiny.metric_clap.model_copy(update={"sample_rate": RATE})
    network = load_vae(tiny.autoencoder, Path(tiny.autoencoder.vae_weights))
    hop = tiny.autoencoder.samples_per_latent
    coded = tuple(
        Coded(c, rng.random((len(c.pieces), 2, int(SECONDS * RATE) // hop, 4)).astype(np.float16))
        for c in corpora
    )
    split = LatentSplit(
        latents=rng.random((5, 2, tiny.backbone.latent_frames, 4)).astype(np.float16),
        first_window=np.array([0, 1, 3, 5]),
        captions=Captions(
            rng.random((6, 12, 16)).astype(np.float16),
            rng.random((6, 8)).astype(np.float16),
            np.array([0, 2, 4, 6]),
        ),
    )
    empty = (torch.zeros(12, 16), torch.zeros(8))
    scored = ScoredSplit(split.latents, np.arange(5) % 3, rng.random(5).astype("f"), split.captions)
    clips = rng.normal(size=(2, 4, tiny.backbone.latent_frames, 4)).astype(np.float16)
    pairs = Pairs(*clips, torch.randn(4, 12, 16), torch.randn(4, 8), score=2.0)
    small_clap = ClapRecipe(
        **step, patch_width=16, hop_length=64, n_fft=256, text_layers=1, text_width=32
    )
    mel = MelConfig(sample_rate=11_025, n_fft=256, hop_length=64, num_mels=8, f_max=5_512.5)
    music = MusicEncoderConfig(
        kind="wav2vec2_bert", folder="unused", sample_rate=11_025, dim=16, mel=mel
    )
    small_music = MusicEncoderRecipe(
        **step, seconds=0.2, layers=1, heads=2, hidden=16, kernel=3, precision="bf16",
        repeats=2, kept_batches=2,
    )  # fmt: skip
    vocoder = VocoderRecipe(**step, latents=12, audio_from=1, adversarial_from=3)
    separator = SeparatorRecipe(**step, seconds=0.15, segment=1.0, channels=4, depth=4, n_fft=256)
    voices = (rng.normal(size=(2, 3, 9_000)) * 3_000).astype(np.int16)
    sounds = tuple(map(Sounds, corpora, voices))
    return {
        "text_encoder": lambda: TextEncoderJob(
            TextEncoderRecipe(**step, layers=1, heads=2, hidden=16), tiny.text_encoder, tokenizer
        ),
        "clap": lambda: ClapJob(small_clap, clap, tokenizer, corpora, workers=1),
        "music_encoder": lambda: MusicEncoderJob(small_music, music, corpora, workers=1),
        "vae": lambda: VAEJob(VAERecipe(**step, frames=16), tiny.autoencoder, corpora),
        "vocoder": lambda: VocoderJob(vocoder, tiny.autoencoder, coded, network),
        "baseline": lambda: FlowMatchingJob(
            "baseline",
            BackboneRecipe(**step),
            fresh_backbone(0, tiny.backbone, split.latents, empty),
            (split, split),
        ),
        "sft": lambda: FlowMatchingJob(
            "sft", BackboneRecipe(**step), scored_backbone(tiny), (scored, scored)
        ),
        "crpo": lambda: CRPOJob(
            "crpo", CRPORecipe(**step, prompts=4), scored_backbone(tiny), (pairs, pairs)
        ),
        "nft": lambda: NFTJob(
            "nft", NFTRecipe(**step, prompts=4), scored_backbone(tiny), (pairs, pairs)
        ),
        "separator": lambda: SeparatorJob(separator, sounds),
    }


def scored_backbone(tiny: Preset) -> FluxAudio:
    """With a score head and weights that say something."""
    backbone = FluxAudio(tiny.backbone, "global_adaln")
    backbone.load_state_dict(load_file(tiny.stage("scored").weights))
    return backbone


JOB_NAMES = (
    "text_encoder", "clap", "music_encoder", "vae", "vocoder", "baseline", "sft", "crpo", "nft",
    "separator",
)  # fmt: skip


def tensors(job: Job) -> dict[str, torch.Tensor]:
    states = {name: module.state_dict() for name, module in job.modules().items()}
    return {f"{n}.{k}": v for n, state in states.items() for k, v in state.items()}


@pytest.mark.parametrize("name", JOB_NAMES)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    name: str, jobs: dict[str, Callable[[], Job]], tmp_path: Path
) -> None:
    pace = Pace(log_every=1, checkpoint_every=2, validate_every=3)
    whole = jobs[name]()
    run(whole, Schedule(5, 1e-3, warm_up=2), tmp_path / "whole", pace)

    stopped = jobs[name]()
    run(stopped, Schedule(2, 1e-3, warm_up=2, decay_from=10), tmp_path / "parts", pace)
    # Another process would start with another global random state.
    torch.manual_seed(99)
    resumed = jobs[name]()
    run(resumed, Schedule(5, 1e-3, warm_up=2), tmp_path / "parts", pace)

    a, b = tensors(whole), tensors(resumed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (tmp_path / folder / "log.jsonl").read_text().splitlines()
        ]
        for folder in ("whole", "parts")
    ]
    assert [row for row in logs[0] if "val" not in str(row)] == [
        row for row in logs[1] if "val" not in str(row)
    ]


@pytest.mark.parametrize("name", JOB_NAMES)
def test_training_changes_every_trained_tensor(
    name: str, jobs: dict[str, Callable[[], Job]], tmp_path: Path
) -> None:
    job = jobs[name]()
    before = {k: v.clone() for k, v in tensors(job).items() if not k.startswith("average")}
    run(job, Schedule(6, 1e-2, warm_up=1), tmp_path, Pace(log_every=10, validate_every=100))
    after = tensors(job)
    constant = ("data_mean", "data_std", "latent_mean", "latent_std", "empty_string", "frequencies")
    stuck = [
        key
        for key, value in before.items()
        if value.is_floating_point()
        and torch.equal(value, after[key])
        and not any(part in key for part in constant)
    ]
    # CLAP's second temperature belongs to the library's own loss; the last joint block's text
    # queries are attended with and thrown away (specification 1.7).
    allowed = ("logit_scale_t", "joint_blocks.0.text_block.attn.q_norm")
    assert [key for key in stuck if not any(part in key for part in allowed)] == []


def test_draws_depend_on_seed_purpose_and_step_alone() -> None:
    def first(*key) -> float:
        return torch.rand(1, generator=draws(*key)).item()

    assert first(1, "a", 2) == first(1, "a", 2)
    assert len({first(1, "a", 2), first(2, "a", 2), first(1, "b", 2), first(1, "a", 3)}) == 4


def test_the_learning_rate_warms_up_holds_and_falls() -> None:
    schedule = Schedule(100, 1.0, warm_up=10, decay_from=0.5, final_fraction=0.1)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(30) == 1.0
    assert schedule.rate(75) == pytest.approx(0.55)
    assert schedule.rate(100) == pytest.approx(0.1)


def test_the_average_of_constant_weights_is_the_constant() -> None:
    network = nn.Linear(2, 2)
    average = Average(network, 0.9)
    for _ in range(5):
        average.update(network)
    assert torch.allclose(average.weights()["weight"], network.weight)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Broken:
        name = "broken"

        def modules(self):
            return {}

        def optimizers(self):
            return {}

        def train_step(self, step):
            return {"loss": float("nan")}

        def validate(self, step):
            return {}

    with pytest.raises(FloatingPointError, match="broken: update 1"):
        run(Broken(), Schedule(3, 1.0), tmp_path, Pace(log_every=1))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(aside: Path) -> None:
        aside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_aside(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["vocoder", "baseline"])
def test_a_run_goes_on_from_shipped_weights_and_says_so(
    name: str, jobs: dict[str, Callable[[], Job]], tmp_path: Path
) -> None:
    place = workplace.Workplace(
        load_recipe("demo"), tmp_path / "data", tmp_path / "runs", tmp_path / "assets"
    )
    first, shipped = jobs[name](), place.assets / "weights.safetensors"
    workplace.train(place, first, BackboneRecipe(steps=6, batch=2, learning_rate=1e-3))
    first.export(shipped)

    elsewhere = dataclasses.replace(place, runs=tmp_path / "others", from_assets=True)
    job = jobs[name]()
    workplace.go_on_from_assets(elsewhere, job, shipped)
    job.export(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == shipped.read_bytes()
    workplace.train(elsewhere, job, BackboneRecipe(steps=8, batch=2, learning_rate=1e-3))
    logs = place.assets / "logs"
    record = json.loads((logs / f"{name}.json").read_text())
    assert (record["restarts"], record["updates"]) == ([6], 8)
    lines = (logs / f"{name}.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [6, 8]
    workplace.go_on_from_assets(
        elsewhere, jobs[name](), tmp_path / "not read: there is a checkpoint"
    )


def test_the_separators_step_renders_voices_trains_and_leaves_a_bag(
    corpora, tmp_path: Path
) -> None:
    small = SeparatorRecipe(
        steps=2, batch=2, learning_rate=1e-3, seconds=0.15, segment=1.0, channels=4, depth=4,
        n_fft=256,
        voices=VoicesRecipe(
            counts={"train": 1, "validation": 1}, seconds=0.5, shares=(1.0, 0.0, 0.0)
        ),
    )  # fmt: skip
    recipe = load_recipe("demo").model_copy(update={"separator": small})
    place = workplace.Workplace(recipe, tmp_path / "data", tmp_path / "runs", tmp_path / "assets")
    shutil.copytree(corpora[0].folder, place.corpus_folder)
    chain.separator(place)
    assert read_bag(str(place.assets / small.folder), BAG).sources == ("other", "vocals")
    assert json.loads((place.assets / "logs" / "separator.json").read_text())["updates"] == 2
    without = dataclasses.replace(place, recipe=recipe.model_copy(update={"separator": None}))
    chain.chain(without, ("separator",))  # nothing to do, and no error


def test_every_shipped_recipe_fits_its_preset() -> None:
    recipe = load_recipe("demo")
    assert recipe.target.name == "demo"
    assert len(GENRES) >= 8


def test_recipe_mistakes_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown; accepted: .*demo"):
        load_recipe("nothing")
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\npreset: demo\nvae: {steps: -1}\n")
    with pytest.raises(ConfigError, match=r"recipe.yaml: \w+"):
        load_recipe(str(path))


def test_latents_are_drawn_with_a_caption_of_their_own_piece() -> None:
    split = LatentSplit(
        latents=np.arange(5, dtype=np.float16)[:, None, None, None] * np.ones((1, 2, 8, 1)),
        first_window=np.array([0, 2, 3, 5]),
        captions=Captions(
            np.arange(6, dtype=np.float16)[:, None, None],
            np.arange(6, dtype=np.float16)[:, None],
            np.array([0, 1, 4, 6]),
        ),
    )
    batch = split.batch(64, draws(0, "test", 0))
    owner = torch.tensor([0, 1, 1, 1, 2, 2])[batch.text[:, 0, 0].long()]
    assert torch.equal(owner, torch.tensor([0, 0, 1, 2, 2])[batch.mean[:, 0, 0].long()])
    assert batch.mean[:, 0, 0].unique().tolist() == [0, 1, 2, 3, 4]


def test_windows_of_latents_begin_on_bar_lines(corpora: tuple[Corpus, Corpus]) -> None:
    corpus, samples = corpora[0], 5_000
    rows, starts, first = bar_windows(corpus, samples)
    length = corpus.waveforms.shape[1]
    assert first[0] == 0 and first[-1] == len(rows) and len(first) == len(corpus.pieces) + 1
    for row, piece in enumerate(corpus.pieces):
        mine = starts[first[row] : first[row + 1]]
        assert (rows[first[row] : first[row + 1]] == row).all()
        bar = 60 / piece.tags["tempo_bpm"] * piece.tags["beats_per_bar"] * CORPUS_RATE
        assert mine[0] == 0 and np.abs(mine - bar * np.arange(len(mine))).max() <= 0.5
        assert mine[-1] + samples <= length < mine[-1] + samples + bar


def test_half_precision_training_is_close_to_full(jobs, monkeypatch) -> None:
    """Products in bf16, weights in fp32: the loss agrees to a hundredth."""
    monkeypatch.setattr("training.engine.has_bf16", lambda _: True)
    full, half = jobs["baseline"](), jobs["baseline"]()
    half.recipe = half.recipe.model_copy(update={"precision": "bf16"})
    for job in (full, half):
        job.train_step(0)  # until here the network's answer is zero in any precision
    rounded, exact = (job.train_step(1)["loss"] for job in (half, full))
    assert rounded != exact and rounded == pytest.approx(exact, rel=1e-2)
    assert {p.dtype for p in half.trained} == {torch.float32}


def test_a_corpus_travels_to_workers_without_its_audio(corpora: tuple[Corpus, Corpus]) -> None:
    corpus = corpora[0]
    assert corpus.waveforms.nbytes > 100_000
    assert len(pickle.dumps(corpus)) < 1_000
