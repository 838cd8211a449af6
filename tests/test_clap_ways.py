"""CLAP by transformers and by LAION's own package: the same numbers, and nothing else touched."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import _save_tokenizer
from ttmpref.config import ClapConfig, load_preset
from ttmpref.encoders.clap import COLLAPSED, ClapEncoder, mean_similarity
from ttmpref.encoders.laion import CONFIG, FRONT_END, renamed, restored
from ttmpref.types import Clip, DamagedWeights

RATE = 48_000
WAYS = ("clap_transformers", "clap_laion")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of the fetched checkpoints at their full size, seeded weights, a small tokenizer."""
    from transformers import ClapConfig as Settings
    from transformers import ClapModel

    folder = tmp_path_factory.mktemp("clap")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ClapModel(Settings(**CONFIG))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        statistics = model.audio_model.audio_encoder.batch_norm
        statistics.running_mean.normal_(-30.0, 5.0)
        statistics.running_var.uniform_(50.0, 200.0)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(FRONT_END))
    _save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def encoders(folder: Path) -> dict[str, ClapEncoder]:
    before, names = list(sys.path), set(sys.modules)
    built = {
        way: ClapEncoder(ClapConfig(kind=way, folder=str(folder), vocabulary=320, dim=512), folder)
        for way in WAYS
    }
    assert sys.path == before
    assert not {name.split(".")[0] for name in set(sys.modules) - names} & {
        "clap_module",
        "evaluate",
    }
    return built


def noise(seconds: float, seed: int = 0) -> Clip:
    rng = np.random.default_rng(seed)
    return Clip(rng.normal(0, 0.1, (1, round(seconds * RATE))).astype(np.float32), RATE)


def test_both_ways_read_a_text_alike(encoders) -> None:
    texts = ["calm piano", "loud drums and a very long bass solo, " * 9, ""]
    theirs, ours = (encoders[way].encode_text(texts) for way in WAYS)
    assert ours.shape == (3, 512) and (ours[0] - ours[1]).norm() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seconds", [3.0, 10.0, 23.0])
def test_both_ways_hear_a_clip_alike_however_long_it_is(encoders, seconds: float) -> None:
    theirs, ours = (encoders[way].encode_audio([noise(seconds)]) for way in WAYS)
    again = encoders["clap_laion"].encode_audio([noise(seconds)])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert torch.equal(ours, again)  # no random crop


def test_a_gradient_reaches_the_waveform_through_laions_network(encoders) -> None:
    window = torch.from_numpy(noise(10.0).mono).requires_grad_()
    encoders["clap_laion"].embed_audio([window])[0, 0].backward()
    assert window.grad.isfinite().all() and window.grad.any()


def test_training_stays_ours_and_nothing_stays_replaced(encoders) -> None:
    import laion_clap
    import transformers

    import training

    assert Path(training.__file__).is_relative_to(Path(__file__).parents[1])
    assert Path(laion_clap.__file__).parent not in map(Path, sys.path)
    for kind in (transformers.RobertaModel, transformers.RobertaTokenizer):
        assert kind.from_pretrained.__func__.__module__.startswith("transformers")


def test_a_network_that_is_not_laions_is_refused(tiny_preset) -> None:
    config = load_preset(str(tiny_preset)).metric_clap.model_copy(update={"kind": "clap_laion"})
    with pytest.raises(DamagedWeights, match="patch width 8 is not LAION's; accepted: 96, 128"):
        ClapEncoder(config, Path(config.folder))


def test_restoring_undoes_renaming() -> None:
    attention = "audio_branch.layers.0.blocks.0.attn"
    state = {
        f"{attention}.qkv.weight": torch.arange(6.0).view(6, 1),
        f"{attention}.proj.bias": torch.ones(2),
        "audio_branch.layers.0.blocks.0.mlp.fc2.bias": torch.full((2,), 2.0),
        "text_branch.encoder.layer.0.output.dense.bias": torch.full((2,), 3.0),
        "text_projection.2.bias": torch.full((2,), 4.0),
        "logit_scale_a": torch.tensor(5.0),
    }
    again = restored([*state, "audio_branch.head.weight"], renamed(state))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


class Hearing:
    """An encoder whose embeddings are given."""

    sample_rate, window_samples = 100, 200

    def __init__(self, embeddings: torch.Tensor) -> None:
        self.embeddings = embeddings

    def embed_audio(self, windows) -> torch.Tensor:
        assert len(windows) == 4 and all(len(window) == 200 for window in windows)
        return self.embeddings


def test_a_collapsed_encoder_is_told_from_one_that_keeps_sounds_apart() -> None:
    assert mean_similarity(Hearing(torch.eye(4))) == 0.0
    assert mean_similarity(Hearing(torch.ones(4, 1))) == 1.0 > COLLAPSED
