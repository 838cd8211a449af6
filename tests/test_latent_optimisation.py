"""Latent optimisation: true gradients at flat memory, a reward that rises, and a way to stop."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from ttmpref.cli import main
from ttmpref.reward import scorer
from ttmpref.reward.latent_optimisation import (
    Ascent,
    Iterate,
    LatentOptimiser,
    OptimisationSettings,
    Optimised,
    as_finished,
    norm_penalty_gradient,
    relative_norm,
    run_backward,
    run_forward,
)
from ttmpref.studio import Studio, sidecar_path
from ttmpref.types import ConfigError, InvalidRequest, MissingWeights, Progress, TtmprefError


@pytest.fixture(scope="module")
def studio(scoring_preset):
    return Studio.open(str(scoring_preset), "cpu")


@pytest.fixture(scope="module")
def generator(studio):
    return studio._generator("baseline")


def request_of(studio, **overrides):
    return studio.request("calm piano", **{"seed": 7, "num_steps": 3, **overrides})


def dark(waveforms, sample_rate, prompts):
    """Share of the power below an eighth of the sample rate: (B, S) to (B,)."""
    power = torch.fft.rfft(waveforms).abs().square()
    return power[:, : power.shape[1] // 4].sum(1) / power.sum(1)


def optimised(generator, request, reward=dark, **settings):
    *events, result = LatentOptimiser(generator, reward).stream(
        request, OptimisationSettings(**settings)
    )
    return result, events


def plain(segments, state):
    for segment in segments:
        state = segment(state)
    return state


def pulled_through(segments, noise, reward):
    """The gradient of the reward by the noise, through stored states."""
    states = [noise, *run_forward(segments, noise)]
    leaf = states.pop().detach().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(leaf), leaf)
    *_, gradient = run_backward(segments, states, gradient)
    return gradient


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_gradient_is_that_of_plain_backpropagation(studio, generator, solver):
    request = request_of(studio, solver=solver)
    segments = LatentOptimiser(generator, dark)._segments(request)
    noise = generator.noise([request])
    leaf = noise.clone().requires_grad_()
    reward = dark(plain(segments, leaf), 8000, [""]).sum()
    (expected,) = torch.autograd.grad(reward, leaf)
    found = pulled_through(segments, noise, lambda waveform: dark(waveform, 8000, [""]).sum())
    assert expected.norm() > 0 and torch.allclose(found, expected, rtol=1e-4, atol=1e-9)


def test_the_gradient_is_that_of_finite_differences(studio, generator):
    """Up to the mel: what lies behind it holds phases constant."""
    request = request_of(studio)
    *steps, _ = LatentOptimiser(generator, dark)._segments(request)
    backbone, vae = generator.parts.backbone, generator.parts.autoencoder.vae
    segments = [*steps, lambda z: vae.decode(backbone.unnormalise(z).transpose(1, 2)).flatten(1)]
    noise = generator.noise([request])

    def reward(mel):
        return torch.tanh(mel).mean()

    gradient = pulled_through(segments, noise, reward)
    step = 0.02 * gradient / gradient.norm()
    with torch.no_grad():
        up, down = (reward(plain(segments, noise + sign * step)) for sign in (1, -1))
    assert float(up - down) / 0.04 == pytest.approx(float(gradient.norm()), rel=0.02)


def test_memory_is_flat_in_the_number_of_steps(studio, generator):
    """What autograd stores: nothing going forward, one segment's worth going back."""

    def stored(num_steps):
        request, kept = request_of(studio, num_steps=num_steps), [0]

        def count(tensor):
            kept[-1] += tensor.numel()
            return tensor

        segments = LatentOptimiser(generator, dark)._segments(request)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            states = [generator.noise([request])]
            states += run_forward(segments, states[0])
            forward = kept[0]
            for _ in run_backward(segments, states[:-1], torch.ones_like(states[-1])):
                kept.append(0)
        return forward, max(kept)

    assert stored(2) == stored(9)
    assert stored(2)[0] == 0 < stored(2)[1]


def test_the_reward_rises_and_the_start_is_the_ordinary_clip(studio, generator):
    request = request_of(studio)
    found, _ = optimised(generator, request, iterations=4)
    assert found.best_iteration > 0
    assert found.best.scores.reward > 1.1 * found.start.scores.reward
    (ordinary,) = studio.generate(request)
    assert np.array_equal(found.start.clip.waveform, ordinary.clip.waveform)
    assert found.start.provenance == ordinary.provenance


def test_the_trace_tells_what_was_paid_and_the_best_iterate_is_kept(studio, generator):
    found, events = optimised(generator, request_of(studio), iterations=2, learning_rate=0.5)
    trace = found.trace
    assert tuple(event for event in events if isinstance(event, Iterate)) == trace
    assert [iterate.iteration for iterate in trace] == [0, 1, 2]
    assert found.best.scores.reward == max(iterate.reward for iterate in trace)
    assert found.best.scores.reward == trace[found.best_iteration].reward
    assert trace[0].noise_distance == trace[0].audio_distance_db == 0.0
    assert all(i.noise_distance > 0.1 and i.audio_distance_db > 0.1 for i in trace[1:])
    assert all(-1 <= iterate.clap_score <= 1 for iterate in trace)


def test_silence_is_never_better_than_sound():
    sound = Iterate(0, -3.0, 0.1, 1.0, 0.0, 0.0, silent=False)
    silence = dataclasses.replace(sound, reward=5.0, silent=True)
    assert sound.rank > silence.rank


def test_progress_counts_every_segment_both_ways(studio, generator):
    _, events = optimised(generator, request_of(studio), iterations=2)
    ticks = [event for event in events if isinstance(event, Progress)]
    assert [tick.step for tick in ticks] == list(range(4 * (2 * 2 + 1) + 1))
    assert {tick.num_steps for tick in ticks} == {20}


def test_the_noise_stays_on_its_sphere(studio, generator):
    found, _ = optimised(generator, request_of(studio), iterations=2, learning_rate=0.5)
    assert all(i.noise_norm == pytest.approx(1.0, abs=1e-5) for i in found.trace[1:])


def test_a_penalty_draws_it_there_and_without_control_it_leaves():
    noise = torch.randn(1, 30, 4, generator=torch.Generator().manual_seed(0))
    ends = {}
    for norm in ("sphere", "penalty", "none"):
        ascent = Ascent(noise, OptimisationSettings(learning_rate=0.1, norm=norm, penalty=100.0))
        state = noise
        for _ in range(30):
            state = ascent.moved(0.01 * state)  # outwards
        ends[norm] = relative_norm(state)
    assert ends["sphere"] == pytest.approx(1.0, abs=1e-5)
    assert abs(ends["penalty"] - 1) < 0.3 < abs(ends["none"] - 1)


def test_the_penalty_is_differentiated_rightly():
    noise = torch.randn(1, 5, 2, dtype=torch.double).requires_grad_()
    penalty = (noise.square().mean() - 1.0).square()
    (expected,) = torch.autograd.grad(penalty, noise)
    assert torch.allclose(norm_penalty_gradient(noise.detach()), expected)


def test_the_finished_clip_is_rewarded_and_a_plain_gain_is_differentiated():
    raw = torch.tensor([[0.5, -0.2, 0.1]], requires_grad=True)
    finished = torch.tensor([[0.9, -0.4]])
    heard = as_finished(raw, finished, gain=2.0)
    heard.sum().backward()
    assert torch.allclose(heard, finished) and raw.grad.tolist() == [[2.0, 2.0, 0.0]]
    longer = torch.tensor([[0.9, -0.4, 0.0, 0.3]])
    assert torch.allclose(as_finished(raw, longer, gain=2.0), longer)


def test_closing_the_stream_stops_within_one_segment(studio, generator, monkeypatch):
    calls, real = [], generator.parts.backbone.velocity
    monkeypatch.setattr(
        generator.parts.backbone, "velocity", lambda *args: calls.append(1) or real(*args)
    )
    running = studio.optimise_stream(request_of(studio, num_steps=50))
    while next(running).step < 3:
        pass
    running.close()
    assert len(calls) == 3
    calls.clear()
    optimiser = LatentOptimiser(generator, dark)
    running = optimiser.stream(request_of(studio), OptimisationSettings(iterations=1))
    for event in running:  # into the way back
        if isinstance(event, Progress) and event.step == 6:
            break
    running.close()
    assert len(calls) == 3 + 1
    assert studio.generate(request_of(studio))[0].clip.samples == 8_000


def test_gradients_are_left_on_nothing(studio, generator):
    optimised(generator, request_of(studio), iterations=1)
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in generator.parts.backbone.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_or_gradient_that_is_not_finite_stops_it(studio, generator, value):
    with pytest.raises(TtmprefError, match=f"reward of the clip is {value}"):
        optimised(generator, request_of(studio), lambda w, *_: w.sum(1) * 0 + value)
    with pytest.raises(TtmprefError, match="gradient of the reward is not finite"):
        Ascent(torch.ones(1, 2, 2), OptimisationSettings()).moved(torch.full((1, 2, 2), value))


def test_what_cannot_be_optimised_is_refused(studio, generator, tiny_preset):
    with pytest.raises(InvalidRequest, match="variations is 2; one clip"):
        optimised(generator, request_of(studio, variations=2))
    without = Studio.open(str(tiny_preset), "cpu")
    with pytest.raises(MissingWeights, match="cannot be scored"):
        without.optimise(request_of(without))


def test_the_studio_climbs_its_own_reward(studio):
    found = studio.optimise(request_of(studio), OptimisationSettings(iterations=1))
    assert isinstance(found, Optimised) and len(found.trace) == 2
    for generation in (found.start, found.best):
        (scored,) = studio.score([generation.clip], "calm piano")
        assert scored.reward == pytest.approx(generation.scores.reward, abs=1e-5)


def test_the_same_request_ends_alike_and_the_sidecar_replays_it(studio, tmp_path, monkeypatch):
    monkeypatch.setattr(scorer, "DifferentiableScorer", lambda _: dark)
    request, settings = request_of(studio), OptimisationSettings(iterations=2, learning_rate=0.2)
    found = studio.optimise(request, settings)
    assert studio.optimise(request, settings).trace == found.trace and found.best_iteration > 0
    path = studio.save(found.best, tmp_path / "best.wav")
    (replayed,) = studio.replay(sidecar_path(path))
    assert np.array_equal(replayed.clip.waveform, found.best.clip.waveform)
    assert replayed.provenance["optimisation"]["iteration"] == found.best_iteration


def test_the_reward_is_told_the_prompt_or_nothing(studio, generator):
    told = []

    def listening(waveforms, sample_rate, prompts):
        told.extend(prompts)
        return dark(waveforms, sample_rate, prompts)

    for prompted in (True, False):
        optimised(generator, request_of(studio), listening, iterations=1, prompted=prompted)
    assert told == ["calm piano"] * 2 + [""] * 2


@pytest.fixture
def command(scoring_preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--preset", str(scoring_preset), "--device", "cpu", "--steps", "1", "--seed", "3"]
    return lambda *given: main(["optimise", "calm piano", *options, *given])


def test_the_command_line_writes_both_clips_and_the_trace(command, tmp_path, capfd):
    assert command("--iterations", "1", "--start", "before.wav", "--trace", "trace.json") == 0
    out = capfd.readouterr().out
    assert out.startswith("clip.wav\nbefore.wav\ntrace.json\n") and "noise_distance" in out
    assert {path.name for path in tmp_path.iterdir()} == {
        "clip.wav", "clip.json", "before.wav", "before.json", "trace.json"
    }  # fmt: skip
    said = json.loads((tmp_path / "trace.json").read_text())
    before = json.loads((tmp_path / "before.json").read_text())["scores"]
    assert len(said["trace"]) == 2 and said["trace"][0]["reward"] == before["reward"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--iterations", "0"), "optimise: iterations: "),
        (("--norm", "cube"), "optimise: norm: "),
        (("--learning-rate", "0"), "optimise: learning_rate: "),
        (("--out", "clip.ogg"), "'.ogg'; accepted: .wav"),
    ],
)
def test_bad_options_are_one_line(command, tmp_path, capfd, options, said):
    assert command(*options) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ") and said in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_of_an_optimisation_is_named(studio, tmp_path):
    (ordinary,) = studio.generate(request_of(studio))
    broken = dataclasses.replace(
        ordinary, provenance={**ordinary.provenance, "optimisation": {"settings": None}}
    )
    path = studio.save(broken, tmp_path / "clip.wav")
    with pytest.raises(ConfigError, match="optimisation: settings and iteration are needed"):
        studio.replay(sidecar_path(path))
