"""Shared fixtures: an offline environment and a tiny preset of the real classes.

The tiny preset has random weights, a byte-level tokenizer, a T5 and a CLAP of a few thousand
parameters each; it runs the whole path from prompt to file in a second, without the demo's weights.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import browser as driver
from tests.browser import RunningApp, Visit
from tests.parts import lacking

if TYPE_CHECKING:
    from training.data import Corpus

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# Networks this small lose more to waking threads than they gain, most of all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

VOCABULARY = 320
CORPUS_SECONDS, CORPUS_SAMPLE_RATE = 2.0, 8000  # of the small corpus
PRESET = """\
name: tiny
title: Tiny
description: Random weights for tests.
licence: MIT
text_encoder: {{kind: t5, folder: "{root}/text_encoder", max_tokens: 12, vocabulary: 320, dim: 16}}
conditioning_clap: &clap
  {{kind: clap_transformers, folder: "{root}/clap", window_seconds: 1.0, max_tokens: 12,
    vocabulary: 320, dim: 8}}
metric_clap: *clap
autoencoder:
  mel: {{sample_rate: 8000, n_fft: 256, hop_length: 128, num_mels: 16, f_max: 4000.0}}
  vae: {{kind: magnitude_preserving, data_channels: 16, latent_channels: 4, base_width: 8,
        multipliers: [1, 2], blocks_per_level: 1, downsample_levels: [0]}}
  vae_weights: "{root}/vae.safetensors"
  vocoder: {{kind: istft, num_mels: 16, width: 16, hidden: 32, num_blocks: 1, n_fft: 256,
            hop_length: 128, weights: "{root}/vocoder.safetensors"}}
backbone: {{latent_channels: 4, latent_frames: 31, text_tokens: 12, text_dim: 16, pooled_dim: 8,
           width: 16, num_heads: 2, num_joint_blocks: 1, num_fused_blocks: 1, mlp_ratio: 1.0,
           mlp_round_to: 8}}
stages:
  - {{name: baseline, title: Baseline, weights: "{root}/baseline.safetensors"}}
  - {{name: scored, title: Scored, weights: "{root}/scored.safetensors", head: global_adaln,
     parent: baseline}}
  - {{name: lost, title: Lost, weights: "{root}/lost.safetensors", parent: baseline}}
  - {{name: planned, title: Planned, weights: null, unavailable: not trained yet}}
sampling: {{stage: baseline, score: 2.0, guidance: 3.0, num_steps: 4,
           prompt_prefix: "high quality, ", examples: [calm piano]}}
output: {{seconds: 1.0}}
"""


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a preset file whose weights lie beside it; shared, so tests must not change it."""
    root = tmp_path_factory.mktemp("tiny")
    return build_tiny_preset(root)


@pytest.fixture(scope="session")
def scoring_preset(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny preset with a music encoder and score heads; shared, so not to be changed."""
    from tests.scoring import build_scoring_preset

    return build_scoring_preset(tmp_path_factory.mktemp("scoring"), tiny_preset)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Corpus]:
    """Six pieces of chords, their audio already in the cache: no sound font needed."""
    import numpy as np

    from training.data import Corpus
    from training.text import TARGETS

    seconds, rate = CORPUS_SECONDS, CORPUS_SAMPLE_RATE
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows, waves = [], {"train": [], "validation": []}
    for index in range(6):
        split = "train" if index < 4 else "validation"
        time = np.arange(int(seconds * rate)) / rate
        wave = sum(np.sin(2 * np.pi * f * time) for f in rng.uniform(100, 3000, 3)) / 4
        waves[split].append((wave * 20_000).astype(np.int16))
        rows.append(
            {
                "id": index,
                "split": split,
                "file": f"audio/{index}.flac",
                "seconds": seconds,
                "captions": [f"chord number {index}", f"a {index} sound"],
                "tags": {
                    **{name: values[index % len(values)] for name, values in TARGETS.items()},
                    "tempo_bpm": 1000 + 111 * index,  # of a corpus that lasts a third of a second
                    "beats_per_bar": 3 + index % 2,
                },
            }
        )
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "cache").mkdir()
    for split, arrays in waves.items():
        np.save(folder / "cache" / f"waveforms.{split}.npy", np.stack(arrays))
    return Corpus(folder, "train"), Corpus(folder, "validation")


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., None]:
    """Runs ffmpeg with the given arguments; without it the test is skipped, in CI it fails."""
    program = shutil.which("ffmpeg")
    if program is None:
        lacking("tests with videos need Debian's ffmpeg")

    def run(*arguments: object) -> None:
        subprocess.run([program, "-nostdin", "-v", "error", *map(str, arguments)], check=True)

    return run


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a PostgreSQL server, for `create_database`."""
    from benchmarks.postgres_server import NoPostgres, postgres_server

    try:
        with postgres_server(safe=False) as address:
            yield address
    except NoPostgres as error:
        lacking(str(error))


# Not for the whole session: while Playwright runs, nothing else in this thread may use asyncio.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running headless browser."""
    from benchmarks.browser import NoBrowser, chromium

    try:
        with chromium() as browser:
            yield browser
    except NoBrowser as error:
        lacking(str(error))


@pytest.fixture
def visitor(chromium: Any, app: RunningApp) -> Iterator[Visit]:
    """A visitor of the `app` of a test's file, in a window of a desktop."""
    with driver.visit(chromium, app.url) as visit:
        yield visit


def build_tiny_preset(root: Path) -> Path:
    """Write tiny weights and `tiny.yaml` into `root`; the same ones every time."""
    import torch
    from safetensors.torch import save_file

    from ttmpref.autoencoder import MelAutoencoder
    from ttmpref.config import load_preset
    from ttmpref.models.fluxaudio import FluxAudio

    path = root / "tiny.yaml"
    path.write_text(PRESET.format(root=root))
    preset = load_preset(str(path))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _save_text_encoder(root / "text_encoder")
        _save_clap(root / "clap")
        autoencoder = MelAutoencoder(preset.autoencoder)
        save_file(autoencoder.vae.state_dict(), root / "vae.safetensors")
        save_file(autoencoder.vocoder.state_dict(), root / "vocoder.safetensors")
        for stage in preset.stages[:2]:
            backbone = FluxAudio(preset.backbone, stage.head)
            # The zero-initialised layers would make every velocity zero and hide any mistake.
            for parameter in backbone.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
            backbone.latent_mean.data.zero_()
            backbone.latent_std.data.fill_(1.0)
            save_file(backbone.state_dict(), root / f"{stage.name}.safetensors")
    return path


def _save_tokenizer(folder: Path) -> None:
    """Byte-level BPE: every text of every language has tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ["calm piano music", "loud drums and bass", "a bright synthesizer", "slow jazz guitar"]
    tokenizer.train_from_iterator(texts * 8, trainer)
    missing = VOCABULARY - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([f"<reserved_{index}>" for index in range(missing)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def _save_text_encoder(folder: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu",
        vocab_size=VOCABULARY,
    )  # fmt: skip
    T5EncoderModel(config).half().save_pretrained(folder)
    _save_tokenizer(folder)


def _save_clap(folder: Path) -> None:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    text = dict(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, pad_token_id=0, projection_dim=8,
    )  # fmt: skip
    audio = dict(
        patch_embeds_hidden_size=8, hidden_size=64, depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2], projection_dim=8, spec_size=256, num_mel_bins=64,
    )  # fmt: skip
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=8)
    ClapModel(config).half().save_pretrained(folder)
    extractor = ClapFeatureExtractor(
        max_length_s=1, frequency_min=50, truncation="rand_trunc", padding="repeatpad"
    )
    extractor.save_pretrained(folder)
    _save_tokenizer(folder)
