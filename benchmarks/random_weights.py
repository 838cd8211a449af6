"""Random weights for every part of the paper preset, where its fetched ones would lie.

They cost what trained ones cost, so speed and memory of the full size can be measured where the
released files are out of reach. Every file is written as `python -m ttmpref fetch` would leave it,
below a cache folder of its own; point TTMPREF_CACHE there. What is there already is kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ttmpref import assets
from ttmpref.autoencoder import build_vae, build_vocoder
from ttmpref.config import Preset
from ttmpref.encoders.laion import CONFIG, FRONT_END
from ttmpref.models.fluxaudio import FluxAudio
from ttmpref.reward.percentiles import write_collections
from ttmpref.reward.ranker import RankerHead, clap_mert, write_ranker
from ttmpref.separation import write_bag

SPREAD = 0.02  # of what would start at zero and make the network trivial
SOURCES = ["drums", "bass", "other", "vocals"]
MODELS = ("e51eebcc", "a1d90b5c", "5d2d6c55", "cfa93e08")  # of the bag mdx_extra
SEGMENT_SECONDS = 44.0


@contextmanager
def cache_at(folder: Path) -> Iterator[None]:
    """Weights are looked for below `folder`, also by processes started meanwhile."""
    before = os.environ.get("TTMPREF_CACHE")
    os.environ["TTMPREF_CACHE"] = str(folder.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["TTMPREF_CACHE"]
        else:
            os.environ["TTMPREF_CACHE"] = before


def write_random_weights(preset: Preset, generating: bool = False, seed: int = 0) -> None:
    """Fill the cache with a preset of the paper's classes; about 7 GB for the paper's own sizes.

    Args:
        generating: only what makes a clip; nothing that measures it or takes voices out.
    """
    stage = preset.stage(preset.sampling.stage)
    autoencoder, text = preset.autoencoder, preset.text_encoder
    makers: dict[str, Callable[[Path], None]] = {
        text.folder: lambda path: _text_encoder(path, text.vocabulary),
        autoencoder.vae_weights: lambda path: _save(_vae_state(preset), path),
        autoencoder.vocoder.weights: lambda path: _save(
            build_vocoder(autoencoder.vocoder, autoencoder.mel).state_dict(), path
        ),
        stage.weights: lambda path: _save(_backbone_state(preset), path),
    }
    claps = (
        (preset.conditioning_clap,)
        if generating
        else (preset.conditioning_clap, preset.metric_clap)
    )
    for clap in claps:
        makers[clap.folder] = lambda path, vocabulary=clap.vocabulary: _clap(path, vocabulary)
    if not generating:
        layout = clap_mert(preset.metric_clap.dim, preset.music_encoder.dim)
        makers[preset.music_encoder.folder] = _music_encoder
        makers[preset.ranker.weights] = lambda path: write_ranker(RankerHead(layout), path)
        makers[preset.ranker.collections] = lambda path: _collections(path, preset.ranker.weights)
        makers[preset.separator.folder] = _separator
    torch.manual_seed(seed)
    for uri, make in makers.items():
        target = assets.expected_path(uri)
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f"{target.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        make(aside)
        os.replace(aside, target)


def _save(state: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def _vae_state(preset: Preset) -> dict[str, Tensor]:
    return build_vae(preset.autoencoder.vae).state_dict()


def _backbone_state(preset: Preset) -> dict[str, Tensor]:
    """A backbone in which no layer is zero."""
    backbone = FluxAudio(preset.backbone, preset.stage(preset.sampling.stage).head)
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=SPREAD)
        if name.startswith("empty_string"):
            nn.init.normal_(parameter)
    return backbone.state_dict()


def _tokenizer(folder: Path, vocabulary: int) -> None:
    """Byte by byte, filled up with tokens that no text has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    named = ["<pad>", "</s>", "<unk>", *pre_tokenizers.ByteLevel.alphabet()]
    tokens = named + [f"<{i}>" for i in range(vocabulary - len(named))]
    numbers = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def _text_encoder(folder: Path, vocabulary: int) -> None:
    """flan-t5-large."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        d_model=1024, d_kv=64, d_ff=2816, num_layers=24, num_heads=16,
        feed_forward_proj="gated-gelu", vocab_size=32_128,
    )  # fmt: skip
    T5EncoderModel(config).save_pretrained(folder)
    _tokenizer(folder, vocabulary)


def _clap(folder: Path, vocabulary: int) -> None:
    """LAION-CLAP with the settings that the fetched one gets."""
    from transformers import ClapConfig, ClapModel

    ClapModel(ClapConfig(**CONFIG)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(FRONT_END), encoding="utf-8")
    _tokenizer(folder, vocabulary)


def _music_encoder(folder: Path) -> None:
    """MERT-v1-330M."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    config = HubertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=24_000, do_normalize=True).save_pretrained(folder)


def _collections(path: Path, weights: str) -> None:
    write_collections(path, assets.digest(weights), "random", {"none": torch.randn(500).numpy()})


def _separator(folder: Path) -> None:
    """Four networks of Demucs' default size."""
    from demucs.hdemucs import HDemucs

    folder.mkdir()
    models = {name: HDemucs(SOURCES, hybrid_old=True) for name in MODELS}
    write_bag(folder, "mdx_extra", models, SEGMENT_SECONDS)
