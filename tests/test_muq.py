"""MuQ-MuLan by its package, small: what it hears and reads, and the released head on top of it."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import VOCABULARY, _save_tokenizer
from tests.parts import lacking
from tests.scoring import noise
from tests.seeded import shared_file
from ttmpref import assets
from ttmpref.config import ConfigError, MuqMulanConfig, load_preset
from ttmpref.encoders.muq import MUQ_FILE, REMEDY, TEXT_FILE, MuqMulanEncoder
from ttmpref.encoders.pretrained import CONFIG_FILE, replaced
from ttmpref.fetch.convert import read_checkpoint
from ttmpref.fetch.plan import plan_for
from ttmpref.protocols import AudioTextEncoder
from ttmpref.reward.ranker import MUQ_AUDIO, MUQ_TEXT, load_ranker, muq_mulan
from ttmpref.studio import Studio
from ttmpref.types import DamagedWeights, Listening, MissingWeights

RATE = 24_000
HOME = "hf://OpenMuQ/MuQ-MuLan-large"
RELEASED = "https://github.com/yonghyunk1m/TuneJury/checkpoints/tunejury_muq_leave_MA.safetensors"
HEAD = "data/tunejury/tunejury_muq_leave_MA.pt"
TRANSFORMER = {"dim": 16, "tf_depth": 1, "heads": 2, "dim_head": 8}
SETTINGS = {
    "mulan": {"sr": RATE, "clip_secs": 10, "dim_latent": 512},
    "audio_model": {"name": "OpenMuQ/MuQ-large-msd-iter", "model_dim": 16, "use_layer_idx": -1},
    "text_model": {"name": "xlm-roberta-base", "model_dim": 16},
    "audio_transformer": TRANSFORMER,
    "text_transformer": TRANSFORMER,
}
MUQ = {
    "encoder_dim": 16, "encoder_depth": 2, "conv_dim": 4, "codebook_size": 8,
    "stat": {"melspec_2048_mean": 6.8, "melspec_2048_std": 18.4},
}  # fmt: skip
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 514,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seeded weights, settings and a small tokenizer as `ttmpref fetch` leaves them."""
    try:
        from muq import MuQ, MuQMuLan
    except ImportError:
        lacking(REMEDY)
    from transformers import Wav2Vec2ConformerConfig, XLMRobertaConfig, XLMRobertaModel

    folder = tmp_path_factory.mktemp("muq")
    network = Wav2Vec2ConformerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        position_embeddings_type="rotary", conv_depthwise_kernel_size=5,
    )  # fmt: skip
    settings = {**MUQ, "w2v2_config": json.loads(network.to_json_string(use_diff=False))}
    for name, said in (("config", SETTINGS), ("muq", settings), ("text", TEXT)):
        (folder / f"{name}.json").write_text(json.dumps(said))
    _save_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        audio, text = MuQ(settings), XLMRobertaModel(XLMRobertaConfig(**TEXT))
        with (
            replaced(MuQ, "from_pretrained", lambda *_, **__: audio),
            replaced(XLMRobertaModel, "from_pretrained", lambda *_, **__: text),
        ):
            model = MuQMuLan(SETTINGS)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # as they come, different sounds would be nearly the same
                torch.nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def config(folder):
    return MuqMulanConfig(folder=str(folder), vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def encoder(config, folder):
    return MuqMulanEncoder(config, folder)


def window(seconds, seed=0):
    return torch.from_numpy(noise(seconds, RATE, seed=seed).mono)


def test_it_keeps_its_seam_and_leaves_the_packages_as_they_were(encoder):
    from muq import MuQ
    from transformers import XLMRobertaModel

    assert isinstance(encoder, AudioTextEncoder)
    assert MuQ.from_pretrained.__func__.__module__.startswith("huggingface_hub")
    assert XLMRobertaModel.from_pretrained.__func__.__module__.startswith("transformers")


def test_vectors_have_length_one_and_tell_sounds_and_texts_apart(encoder):
    sounds = encoder.embed_audio([window(10.0), window(10.0, 1)])
    texts = encoder.encode_text(["calm piano", "loud drums and bass"])
    for vectors in (sounds, texts):
        assert vectors.shape == (2, 512)
        assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)
        assert (vectors[0] - vectors[1]).norm() > 1e-3
    assert encoder.encode_text([]).shape == (0, 512)


def test_a_text_reads_the_same_in_any_company(encoder):
    alone = encoder.encode_text(["calm piano"])
    together = encoder.encode_text(
        ["a bright synthesizer and a very slow jazz guitar", "calm piano"]
    )
    assert torch.equal(together[1:], alone)
    package = encoder._model(
        texts=["a bright synthesizer and a very slow jazz guitar", "calm piano"]
    )
    assert not torch.allclose(package[1:], alone, atol=1e-4)  # its mean counts the pads
    assert encoder.encode_text(["slow " * 600]).isfinite().all()


def test_layers_states_are_those_of_transformers_4(encoder):
    """States are what each layer is given, then the normalised output of the last."""
    network = encoder._model.mulan.audio.model.model
    hidden = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
    told = network.conformer.forward(hidden)
    first, second, last = told["hidden_states"]
    conformer = network.conformer
    places = conformer.embed_positions(hidden)
    for given, layer, found in zip((first, second), conformer.layers, (second, last), strict=True):
        made = layer(given, relative_position_embeddings=places)
        made = made[0] if isinstance(made, tuple) else made
        made = conformer.layer_norm(made) if found is last else made
        assert torch.allclose(found, made, atol=1e-6)
    assert torch.equal(first, hidden) and told["last_hidden_state"] is last


def test_a_short_window_is_continued_from_its_start(encoder):
    short = window(6.0)
    whole = torch.cat([short, short[: round(4.0 * RATE)]])
    assert torch.allclose(encoder.embed_audio([short]), encoder.embed_audio([whole]), atol=1e-5)
    with pytest.raises(ValueError, match="window has 0 samples; 1 to 240000"):
        encoder.embed_audio([short[:0]])


def test_a_gradient_reaches_the_waveform_and_is_the_slope(encoder):
    sound = window(10.0).requires_grad_()
    weights = torch.linspace(-1, 1, 512)
    (encoder.embed_audio([sound])[0] @ weights).backward()
    direction = sound.grad / sound.grad.norm()
    with torch.no_grad():
        up, down = (
            encoder.embed_audio([sound + s * direction])[0] @ weights for s in (0.01, -0.01)
        )
    assert ((up - down) / 0.02).item() == pytest.approx(sound.grad.norm().item(), rel=0.05)


@pytest.fixture
def scoring(tiny_preset, folder, tmp_path):
    """The tiny preset with the released MuQ head."""
    weights = tmp_path / "head.safetensors"
    assets.write_tensors(weights, read_checkpoint(shared_file(HEAD)), {})
    path = tmp_path / "muq.yaml"
    path.write_text(
        tiny_preset.read_text()
        + f'\nmuq_mulan: {{folder: "{folder}", vocabulary: {VOCABULARY}}}'
        + f'\nranker: {{layout: muq_mulan, weights: "{weights}"}}\n'
    )
    return path


def test_the_released_head_scores_audio(scoring, encoder):
    studio, clip = Studio.open(str(scoring), "cpu"), noise(12.0, 44_100, 2)
    told, silent = studio.score([clip, clip], ["calm piano", ""], timeline=False)
    head = load_ranker(read_checkpoint(shared_file(HEAD)), muq_mulan())
    blocks = studio.scorer().parts.features.of_clips([clip], ["calm piano"])
    assert set(blocks) == {MUQ_AUDIO, MUQ_TEXT}
    assert torch.equal(blocks[MUQ_TEXT], encoder.encode_text(["calm piano"]))
    assert told.reward == pytest.approx(head(head.layout.join(blocks)).item(), abs=1e-5)
    nothing = blocks | {MUQ_TEXT: torch.zeros(1, 512)}
    assert silent.reward == pytest.approx(head(head.layout.join(nothing)).item(), abs=1e-5)
    assert told.reward_without_prompt == pytest.approx(silent.reward, abs=1e-5)
    assert told.protocol["layout"] == "[muq_audio 512 | muq_text 512]"
    mean = studio.score([clip], "", timeline=False, listening=Listening(window="mean"))[0]
    assert mean.reward != silent.reward


def test_evaluation_hears_clap_beside_what_the_head_reads(scoring):
    studio = Studio.open(str(scoring), "cpu")
    assert studio.scorer().parts.features.clap is None
    assert studio.hearing().blocks == ("clap_audio", "muq_audio", "muq_text")


def test_without_the_package_the_remedy_is_named(tiny_preset, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "muq", None)
    config = MuqMulanConfig(folder=str(tmp_path), vocabulary=VOCABULARY)
    with pytest.raises(ConfigError, match="pip install -r requirements-muq.txt") as caught:
        MuqMulanEncoder(config, tmp_path)
    assert "\n" not in str(caught.value)
    path = tmp_path / "muq.yaml"
    path.write_text(
        tiny_preset.read_text()
        + f"\nmuq_mulan: {{folder: {tmp_path}}}\nranker: {{layout: muq_mulan, weights: x}}\n"
    )
    studio = Studio.open(str(path), "cpu")
    assert studio.scoring_missing() == REMEDY
    with pytest.raises(MissingWeights, match="clips cannot be scored: MuQ-MuLan needs the package"):
        studio.score([noise()])


def edited(folder, tmp_path, name, **changes):
    """A copy of the folder in which one file of settings says something else."""
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    said = json.loads((folder / name).read_text()) | changes
    (tmp_path / name).unlink()
    (tmp_path / name).write_text(json.dumps(said))
    return tmp_path


def test_what_would_need_remote_code_is_refused(config, folder, tmp_path):
    other = edited(folder, tmp_path, "config.json", text_model={"name": "Qwen/Qwen2"})
    with pytest.raises(DamagedWeights, match="text_model is 'Qwen/Qwen2'; only xlm-roberta"):
        MuqMulanEncoder(config, other)


def test_a_folder_that_does_not_fit_is_named(config, folder, tmp_path):
    with pytest.raises(MissingWeights, match="config.json is missing"):
        MuqMulanEncoder(config, tmp_path)
    with pytest.raises(DamagedWeights, match="encoder width is 512, expected 256"):
        MuqMulanEncoder(config.model_copy(update={"dim": 256}), folder)
    with pytest.raises(DamagedWeights, match=f"tokenizer has {VOCABULARY} tokens, not 9"):
        MuqMulanEncoder(config.model_copy(update={"vocabulary": 9}), folder)
    smaller = edited(folder, tmp_path, "muq.json", encoder_depth=1)
    with pytest.raises(DamagedWeights, match="layers.1"):
        MuqMulanEncoder(config, smaller)


def test_what_old_versions_stored_is_no_fault(config, folder, tmp_path, encoder):
    other = edited(folder, tmp_path, "config.json")
    tensors = load_file(folder / "model.safetensors")
    tensors["mulan.text.model.embeddings.position_ids"] = torch.arange(514)[None]
    (other / "model.safetensors").unlink()
    save_file(tensors, other / "model.safetensors")
    again = MuqMulanEncoder(config, other)
    assert torch.equal(again.encode_text(["calm piano"]), encoder.encode_text(["calm piano"]))


def test_the_layout_needs_its_section(tiny_preset, tmp_path):
    path = tmp_path / "lacking.yaml"
    path.write_text(tiny_preset.read_text() + "\nranker: {layout: muq_mulan, weights: x}\n")
    with pytest.raises(ConfigError, match="'muq_mulan' needs a section muq_mulan"):
        load_preset(str(path))


def test_the_public_homes_are_known(tiny_preset, tmp_path, monkeypatch):
    monkeypatch.setenv("TTMPREF_CACHE", str(tmp_path))
    path = tmp_path / "homes.yaml"
    sections = (
        f"muq_mulan: {{folder: {HOME}}}\nranker: {{layout: muq_mulan, weights: {RELEASED}}}\n"
    )
    path.write_text(tiny_preset.read_text() + sections)
    plan = plan_for(load_preset(str(path)))
    assert {source.uri for source in plan.missing} == {HOME, RELEASED} and not plan.homeless
    names = {file.file_name for source in plan.missing for file in source.files}
    assert {CONFIG_FILE, MUQ_FILE, TEXT_FILE, "tokenizer.json"} <= names
