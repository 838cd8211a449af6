"""Presets are strict: every mistake is one line with the dotted path of the key."""

import pytest
import yaml

from ttmpref.config import (
    PRESET_FOLDER,
    BigVGANConfig,
    ISTFTVocoderConfig,
    Preset,
    load_preset,
    preset_names,
    validated,
)
from ttmpref.types import ConfigError, InvalidRequest


@pytest.fixture
def demo():
    return yaml.safe_load((PRESET_FOLDER / "demo.yaml").read_text(encoding="utf-8"))


def put(data, path, value):
    *parents, last = path.split(".")
    for name in parents:
        data = data[int(name) if name.isdecimal() else name]
    data[last] = value


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_loads_under_its_own_name(name):
    assert load_preset(name).name == name


def test_the_default_preset_comes_first():
    assert preset_names()[0] == "demo"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("backbone.widht", 192, "backbone.widht: unknown key"),
        ("backbone.width", "wide", "'wide'"),
        ("backbone.width", 161, "161"),
        ("backbone.latent_channels", 41, "41"),
        ("backbone.text_tokens", 76, "76"),
        ("text_encoder.dim", 191, "191"),
        ("conditioning_clap.dim", 255, "255"),
        ("autoencoder.mel.num_mels", 80, "80"),
        ("autoencoder.vocoder.kind", "wavenet", "wavenet"),
        ("sampling.stage", "missing", "'missing'"),
        ("sampling.score", float("nan"), "nan"),
        ("stages.0.parent", "nobody", "'nobody'"),
        ("stages.0.weights", None, "reason"),
        ("stages.0.head", "v9", "'v9'"),
        ("stages.0.name", "Base Line", "'Base Line'"),
        ("stages", [], "stages"),
        ("output.target_lufs", 3, "3"),
    ],
)
def test_a_mistake_is_one_line_with_the_path_of_the_key(demo, path, value, said):
    put(demo, path, value)
    with pytest.raises(ConfigError) as caught:
        validated(Preset, demo, "mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml: ") and said in message and "\n" not in message


def test_stage_names_must_differ(demo):
    demo["stages"].append(demo["stages"][0])
    with pytest.raises(ConfigError, match="must differ"):
        validated(Preset, demo, "mine.yaml")


def test_a_preset_cannot_be_changed_after_loading():
    with pytest.raises(ValueError, match="frozen"):
        load_preset("demo").name = "other"


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match="'nope' is unknown; accepted: demo"):
        load_preset("nope")


def test_an_unknown_stage_lists_the_known_ones():
    with pytest.raises(InvalidRequest, match="'nope'; accepted: .*baseline"):
        load_preset("demo").stage("nope")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: [unclosed", "not valid YAML"),
        (b"- a list", "must hold a mapping"),
        (b"", "must hold a mapping"),
        (b"name: \xff\xfe", "cannot be read"),
        (b"name: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_preset_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        load_preset(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_preset_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent.yaml: no such file"):
        load_preset(str(tmp_path / "absent.yaml"))


def test_the_kind_of_vocoder_picks_its_record(demo):
    assert isinstance(load_preset("demo").autoencoder.vocoder, ISTFTVocoderConfig)
    demo["autoencoder"]["vocoder"] = {"kind": "bigvgan_v2", "weights": "hf://a/b/c"}
    assert isinstance(validated(Preset, demo, "x").autoencoder.vocoder, BigVGANConfig)


def test_gated_width_is_two_thirds_of_the_ratio_rounded_up():
    config = load_preset("demo").backbone
    paper = config.model_copy(update={"width": 448, "mlp_ratio": 4.0, "mlp_round_to": 256})
    assert paper.mlp_hidden == 1280
