"""Probes find the reading that a network was trained under, and the loader tells score tensors."""

import json

import pytest
import torch

from tests.seeded import seeded_input, seeded_state
from tests.test_fluxaudio import SMALL, shapes_of
from ttmpref.config import ScoreEmbeddingConfig
from ttmpref.flow import draw_noise, interpolate, solve, velocity_target
from ttmpref.models.fluxaudio import FluxAudio, load_backbone_state
from ttmpref.models.score_heads import match_score_tensors
from ttmpref.probes import Known, rank_readings, rank_responses, read_as, readings_of
from ttmpref.studio import Studio
from ttmpref.types import DamagedWeights, InvalidRequest

TRUTH = ScoreEmbeddingConfig(num_features=12, two_pi=False, cos_first=False)
CONFIG = SMALL.model_copy(update={"score_embedding": TRUTH})
PATTERN = torch.linspace(-1.0, 1.0, 12)[:, None].expand(12, 4)


def data_of(score: torch.Tensor) -> torch.Tensor:
    """(B, N, C): what music of a score looks like here, and chance."""
    return 1.5 * torch.sin(2 * score)[:, None, None] * PATTERN + torch.randn(len(score), 12, 4)


@pytest.fixture(scope="module")
def trained() -> FluxAudio:
    """A network that has learned in a few hundred updates what a score does to the data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FluxAudio(CONFIG, "global_adaln")
        optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 5e-3)
        text, pooled = torch.zeros(32, 5, 6), torch.zeros(32, 3)
        for _ in range(500):
            score, t = 4 * torch.rand(32) - 1, torch.rand(32)
            data = data_of(score)
            noise = torch.randn_like(data)
            found = model(interpolate(data, noise, t), t, text, pooled, score)
            loss = (found - velocity_target(data, noise)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.requires_grad_(False)


def known_clips(model: FluxAudio) -> list[Known]:
    torch.manual_seed(1)
    prompt = model.project(torch.zeros(1, 5, 6), torch.zeros(1, 3))
    scores = torch.linspace(-0.8, 2.8, 12)
    return [Known(data_of(score[None]), prompt, float(score)) for score in scores]


def test_the_probe_finds_how_the_score_was_embedded(trained) -> None:
    wrong = CONFIG.model_copy(update={"score_embedding": ScoreEmbeddingConfig(num_features=12)})
    readings = readings_of("score_head", wrong, "global_adaln")
    assert len(readings) == 4 and next(iter(readings.values())) == wrong
    found = rank_readings(trained, readings, known_clips(trained))
    assert readings[found[0].name] == CONFIG
    assert found[0].name == "score_embedding: {two_pi: false, cos_first: false}"
    assert found[0].above == 0 and found[1].above > 2 * found[1].error


@pytest.mark.parametrize("flow", ["noise_at_one", "data_at_one", "data_at_one_negated"])
def test_the_probe_finds_the_direction_of_the_flow(trained, flow: str) -> None:
    """And a network read under a convention is asked at its time, and answers with its sign."""
    readings = readings_of("flow", CONFIG, "global_adaln")
    assert len(readings) == 3
    known = known_clips(trained)
    ours = rank_readings(trained, readings, known)
    assert ours[0].name == "flow: noise_at_one" and ours[1].above > 2 * ours[1].error
    model = FluxAudio(CONFIG.model_copy(update={"flow": flow}), "global_adaln")
    model.load_state_dict(trained.state_dict())
    z, t = seeded_input("z", (2, 12, 4)), torch.tensor([0.2, 0.7])
    inputs = torch.zeros(2, 5, 6), torch.zeros(2, 3), torch.ones(2)
    as_trained = trained(z, t if flow == "noise_at_one" else 1 - t, *inputs)
    sign = -1 if flow == "data_at_one" else 1
    assert torch.equal(model(z, t, *inputs), sign * as_trained)


def test_the_probe_finds_the_embedding_whose_rewards_rise_with_the_score(trained) -> None:
    """Clips of known readings, judged by how much of the pattern they hold."""
    scores = torch.linspace(-0.7, 0.7, 7)  # where the music changes in one direction
    prompt = trained.project(torch.zeros(1, 5, 6), torch.zeros(1, 3)).expand(8)
    noise = draw_noise(list(range(8)), 12, 4)

    def heard(read: FluxAudio, score: float) -> torch.Tensor:
        def velocity(z: torch.Tensor, t: float) -> torch.Tensor:
            return read.velocity(z, torch.full((8,), t), prompt, torch.full((8,), score))

        *_, made = solve(velocity, noise, 12)
        return (made * PATTERN).mean((1, 2))

    wrong = CONFIG.model_copy(update={"score_embedding": ScoreEmbeddingConfig(num_features=12)})
    readings = readings_of("score_head", wrong, "global_adaln")
    with torch.no_grad():
        rewards = {
            name: torch.stack([heard(read_as(trained, config), float(s)) for s in scores], dim=1)
            for name, config in readings.items()
        }
    found = rank_responses(rewards)
    assert readings[found[0].name] == CONFIG and found[0].rise > 0
    assert found[0].correlation - found[1].correlation > 2 * (found[0].error + found[1].error)


def test_responses_are_rank_correlations_and_the_larger_rise_decides_ties() -> None:
    rising = torch.tensor([[0.0, 1.0, 5.0], [1.0, 2.0, 3.0]])
    rewards = {"flat": torch.ones(2, 3), "a little": rising / 10, "falls": -rising, "much": rising}
    found = rank_responses(rewards)
    assert [one.name for one in found] == ["much", "a little", "flat", "falls"]
    assert [one.correlation for one in found] == pytest.approx([1.0, 1.0, 0.0, -1.0])
    assert found[0].rise == pytest.approx(3.5) and found[0].error == pytest.approx(0.0)
    with pytest.raises(InvalidRequest, match="1 texts were given; a probe needs at least 2"):
        rank_responses({"one": rising[:1]})


def test_the_command_ranks_readings_by_the_rewards_of_new_clips(
    scoring_preset, tmp_path, capsys, monkeypatch
) -> None:
    from ttmpref import probes
    from ttmpref.cli import main

    table = tmp_path / "texts.csv"
    table.write_text("clip,prompt\na.wav,calm piano\nb.wav,loud drums\nc.wav,calm piano\n")
    monkeypatch.setattr(probes, "SCORES", (0.0, 6.0))
    given = ["probe-score-head", str(table), "--preset", str(scoring_preset), "--by", "reward"]
    assert main([*given, "--stage", "scored", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["readings"]) == 4 and told["matched"] == {}
    studio = Studio.open(str(scoring_preset), "cpu")
    rises = []
    for seed, prompt in ((42, "calm piano"), (43, "loud drums")):
        asked = [studio.request(prompt, stage="scored", score=s, seed=seed) for s in (0.0, 6.0)]
        clips = [studio.generate(request)[0].clip for request in asked]
        low, high = studio.score(clips, prompt)
        rises.append(high.reward - low.reward)
    own = next(r for r in told["readings"] if "two_pi: true, cos_first: true" in r["name"])
    assert own["rise"] == pytest.approx(sum(rises) / 2, abs=1e-3)
    assert main([*given, "--stage", "baseline"]) == 2
    assert "head 'none'" in capsys.readouterr().err


def test_a_probe_needs_two_clips_and_a_score() -> None:
    model = FluxAudio(CONFIG, "global_adaln")
    with pytest.raises(InvalidRequest, match="1 clips were given; a probe needs at least 2"):
        rank_readings(model, {"x": CONFIG}, known_clips(model)[:1])
    with pytest.raises(InvalidRequest, match="head 'none'"):
        readings_of("score_head", CONFIG, "none")
    with pytest.raises(InvalidRequest, match="probe is 'sign'; accepted: flow, score_head"):
        readings_of("sign", CONFIG, "none")


FOREIGN = {
    "frequencies": "score_embed.fourier.B",
    "mlp.0.weight": "score_embed.net.0.weight",
    "mlp.0.bias": "score_embed.net.0.bias",
    "mlp.2.weight": "score_embed.net.2.weight",
    "mlp.2.bias": "score_embed.net.2.bias",
}


def test_score_tensors_of_other_names_are_told_by_shape_and_reported() -> None:
    model = FluxAudio(CONFIG, "input_add")
    state = seeded_state(shapes_of(model))
    foreign = dict(state)
    for ours, theirs in FOREIGN.items():
        foreign[theirs] = foreign.pop(f"score_embed.{ours}")
    foreign[FOREIGN["frequencies"]] = foreign[FOREIGN["frequencies"]][None]
    report = load_backbone_state(model, foreign)
    assert report.matched == {f"score_embed.{ours}": name for ours, name in FOREIGN.items()}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({FOREIGN["mlp.0.bias"]: None}, "cannot tell the score tensors by shape"),
        ({FOREIGN["frequencies"]: torch.ones(9)}, "no 8 frequencies for 16 features"),
        (
            {FOREIGN["mlp.0.weight"]: torch.ones(16, 17)},
            "no 8 frequencies for 17 features|by shape",
        ),
        ({FOREIGN["mlp.2.weight"]: torch.ones(15, 16)}, "by shape"),
    ],
)
def test_tensors_that_are_no_score_embedding_are_named(change, message: str) -> None:
    tensors = {
        FOREIGN["frequencies"]: torch.ones(8),
        FOREIGN["mlp.0.weight"]: torch.ones(24, 16),
        FOREIGN["mlp.0.bias"]: torch.ones(24),
        FOREIGN["mlp.2.weight"]: torch.ones(24, 24),
        FOREIGN["mlp.2.bias"]: torch.ones(24),
    }
    assert match_score_tensors(tensors, 24) == FOREIGN
    kept = {name: change.get(name, tensor) for name, tensor in tensors.items()}
    with pytest.raises(DamagedWeights, match=message):
        match_score_tensors({n: t for n, t in kept.items() if t is not None}, 24)


def test_the_command_line_names_what_a_clip_lacks(tmp_path, capsys) -> None:
    from ttmpref.cli import main

    path = tmp_path / "a.wav"
    path.write_bytes(b"")
    assert main(["probe-score-head", str(path)]) == 2
    assert "a probe needs the text of a clip" in capsys.readouterr().err
