"""The score head: layouts are checked, released files load, known inputs give known rewards."""

import math

import pytest
import torch
from safetensors.torch import save_file

from tests.seeded import seeded_state, shared_file
from ttmpref.reward.ranker import (
    FeatureLayout,
    RankerHead,
    clap_audio,
    clap_mert,
    load_ranker,
    muq_mulan,
    read_ranker,
    write_ranker,
)
from ttmpref.types import DamagedWeights

SMALL = clap_mert(3, 4)


def small_head(layout=SMALL, hidden=(6, 5)):
    head = RankerHead(layout, hidden).eval()
    state = seeded_state({name: t.shape for name, t in head.state_dict().items()})
    for name, tensor in head.state_dict().items():
        tensor.copy_(state[name].abs() + 0.5 if name.endswith("running_var") else state[name])
    return head


def released():
    path = shared_file("data/tunejury/tunejury_muq_leave_MA.pt")
    return torch.load(path, map_location="cpu", weights_only=True)


i = torch.arange(1024, dtype=torch.float64)
GOLDEN = {  # input -> score and norm of the gradient, eval mode, float64 (specification 1.2)
    "zeros": (torch.zeros(1024).double(), 1.028017, 11.2489),
    "linspace": (torch.linspace(-0.05, 0.05, 1024).double(), 1.133254, 10.0951),
    "sine": (torch.sin(i) / 32, 1.003160, 11.1200),
    "cosine": (torch.cos(0.1 * i) / math.sqrt(512), 0.388626, 14.9966),
    "first": (torch.eye(1024).double()[0], -0.261172, 33.0730),
    "middle": (torch.eye(1024).double()[512], 0.999982, 9.3483),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_released_head_gives_its_known_scores_and_gradients(name):
    features, score, slope = GOLDEN[name]
    head = load_ranker(released(), muq_mulan()).double()
    features = features[None].clone().requires_grad_()
    reward = head(features)
    assert reward.item() == pytest.approx(score, abs=1e-4)
    assert torch.autograd.grad(reward, features)[0].norm().item() == pytest.approx(slope, abs=1e-3)
    single = head.float()(features.detach().float())
    assert single.item() == pytest.approx(score, abs=1e-4)


def test_the_widths_of_the_released_head_are_read_from_its_weights():
    head = load_ranker(released())
    assert head.hidden == (512, 256, 128, 64) and head.layout.dim == 1024
    assert sum(p.numel() for p in head.parameters()) == 699_265


@pytest.mark.parametrize(
    ("layout", "parameters"),
    [
        (clap_mert(), 2_791_169),
        (clap_audio(), 1_218_305),
        (clap_mert().without(("clap_audio", "clap_text")), 1_742_593),
        (clap_mert().without(("clap_text",)), 2_266_881),
    ],
)
def test_a_head_has_the_size_of_its_layout(layout, parameters):
    assert sum(p.numel() for p in RankerHead(layout).parameters()) == parameters


def test_the_order_of_the_released_layout_is_sound_mert_text():
    assert clap_mert().names == ("clap_audio", "mert", "clap_text")
    assert clap_mert().dim == 2048
    assert muq_mulan().names == ("muq_audio", "muq_text") and muq_mulan().dim == 1024


def test_weights_start_at_kaiming_fan_out_and_biases_at_zero():
    torch.manual_seed(0)
    head = RankerHead(clap_mert())
    for index, width in ((0, 1024), (4, 512)):
        assert head.net[index].weight.std().item() == pytest.approx(math.sqrt(2 / width), rel=0.01)
        assert not head.net[index].bias.any()


def test_blocks_are_joined_in_the_order_of_the_layout_whatever_the_mapping_says():
    features = {"clap_text": torch.full((2, 3), 3.0), "mert": torch.full((2, 4), 2.0)}
    features |= {"clap_audio": torch.full((2, 3), 1.0), "other": torch.zeros(2, 9)}
    assert SMALL.join(features)[0].tolist() == [1] * 3 + [2] * 4 + [3] * 3
    assert SMALL.without(["mert"]).join(features)[1].tolist() == [1] * 3 + [3] * 3


def test_a_missing_or_misshapen_block_is_named():
    features = {"clap_audio": torch.zeros(2, 3), "mert": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match="lack block 'clap_text'"):
        SMALL.join(features)
    with pytest.raises(ValueError, match=r"'clap_text' is \(1, 3\), expected \(2, 3\)"):
        SMALL.join(features | {"clap_text": torch.zeros(1, 3)})
    with pytest.raises(ValueError, match="'text' is unknown; accepted: clap_audio, mert"):
        SMALL.without(["text"])


def test_a_layout_survives_its_text_form():
    assert FeatureLayout.from_json(SMALL.to_json()) == SMALL
    for text in ("{}", "[]", '[["a", 0]]', '[["a", 1], ["a", 2]]', "nonsense", "3"):
        with pytest.raises(ValueError, match="is not one|needs blocks|positive"):
            FeatureLayout.from_json(text)


@pytest.mark.parametrize("prefix", ["net.", "score."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_head_loads_under_either_prefix_wrapped_or_not(prefix, wrapped):
    head, features = small_head(), torch.randn(5, SMALL.dim)
    state = {prefix + name: tensor for name, tensor in head.net.state_dict().items()}
    loaded = load_ranker({"state_dict": state} if wrapped else state, SMALL)
    assert torch.equal(loaded(features), head(features)) and not loaded.training


def test_a_batch_scores_as_its_clips_do_alone():
    head, features = small_head(), torch.randn(7, SMALL.dim)
    alone = torch.cat([head(row[None]) for row in features])
    assert (head(features) - alone).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s | {"net.9.weight": torch.zeros(3)}, "'9.weight' is .3,., expected nothing"),
        (lambda s: s | {"extra": torch.zeros(3)}, "'extra'"),
        (lambda s: {k: v for k, v in s.items() if k != "net.1.running_mean"}, "running_mean"),
        (lambda s: s | {"net.1.weight": torch.zeros(2)}, "'1.weight' is .2,., expected .6,."),
        (lambda s: s | {"net.4.weight": torch.zeros(5, 7)}, "'0.bias' is .6,., expected .7,."),
        (lambda s: {"state_dict": s, "epoch": 3}, "'epoch' beside 'state_dict' is unknown"),
        (lambda s: {"weight": torch.zeros(1, 2)}, "start with net. or score., found 'weight'"),
        (lambda s: {"net.1.weight": torch.zeros(1, 2)}, r"linear layers at \[1\]"),
        (lambda s: {}, "found 'nothing'"),
    ],
)
def test_what_does_not_fit_a_head_is_named_and_refused(change, said):
    with pytest.raises(DamagedWeights, match=said) as caught:
        load_ranker(change(small_head().state_dict()), source="mine")
    assert str(caught.value).startswith("mine: ") and "\n" not in str(caught.value)


def test_a_layout_of_another_width_is_refused():
    with pytest.raises(DamagedWeights, match="reads 10 features, the layout .* has 11"):
        load_ranker(small_head().state_dict(), clap_mert(3, 5))
    with pytest.raises(ValueError, match="expected .batch, 10. for"):
        small_head()(torch.zeros(2, 11))


def test_a_written_head_reads_back_with_its_layout(tmp_path):
    head, path, features = small_head(), tmp_path / "head.safetensors", torch.randn(3, SMALL.dim)
    write_ranker(head, path)
    again = read_ranker(str(path))
    assert again.layout == SMALL and torch.equal(again(features), head(features))
    assert read_ranker(str(path), SMALL).layout == SMALL


def test_a_file_for_another_order_of_the_same_blocks_is_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    write_ranker(small_head(), path)
    wrong = FeatureLayout((("clap_audio", 3), ("clap_text", 3), ("mert", 4)))
    with pytest.raises(DamagedWeights, match=r"trained on \[clap_audio 3 \| mert 4.*, not on"):
        read_ranker(str(path), wrong)


def test_a_file_that_says_no_layout_needs_one(tmp_path):
    path = tmp_path / "head.safetensors"
    save_file(small_head().state_dict(), path)
    with pytest.raises(DamagedWeights, match="does not say its feature layout"):
        read_ranker(str(path))
    assert read_ranker(str(path), SMALL).layout == SMALL
