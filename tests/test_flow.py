"""The flow against closed forms: paths, schedules and solvers need no network."""

import pytest
import torch

from ttmpref import flow
from ttmpref.types import InvalidRequest


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def last(states):
    *_, state = states
    return state


def test_time_one_is_noise_and_time_zero_is_data():
    data, noise = gaussian(2, 5, 3), gaussian(2, 5, 3, seed=1)
    torch.testing.assert_close(flow.interpolate(data, noise, torch.ones(2)), noise)
    torch.testing.assert_close(flow.interpolate(data, noise, torch.zeros(2)), data)


def test_the_target_is_the_time_derivative_of_the_path():
    data, noise = gaussian(2, 5, 3).double(), gaussian(2, 5, 3, seed=1).double()
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    step = 1e-3
    ahead, behind = (flow.interpolate(data, noise, t + sign * step) for sign in (1, -1))
    target = flow.velocity_target(data, noise)
    torch.testing.assert_close((ahead - behind) / (2 * step), target)


def test_a_wrong_number_of_times_is_refused():
    with pytest.raises(ValueError, match=r"t must have shape \(2,\), got \(3,\)"):
        flow.interpolate(gaussian(2, 5, 3), gaussian(2, 5, 3), torch.zeros(3))


def test_training_times_are_logit_normal():
    t = flow.sample_times(20_000, torch.Generator().manual_seed(0))
    assert t.shape == (20_000,) and 0 < t.min() and t.max() < 1
    logits = torch.logit(t.double())
    assert abs(logits.mean()) < 0.03 and abs(logits.std() - 1) < 0.03


def test_the_time_grid_runs_from_one_to_zero_in_equal_steps():
    assert flow.time_grid(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        flow.time_grid(0)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("num_steps", [1, 7])
def test_the_true_velocity_of_one_sample_leads_back_to_its_data(solver, num_steps):
    data, noise = gaussian(2, 5, 3), gaussian(2, 5, 3, seed=1)
    velocity = flow.velocity_target(data, noise)
    states = flow.solve(lambda z, t: velocity, noise, num_steps, solver)
    torch.testing.assert_close(last(states), data)


def test_euler_on_an_exponential_matches_its_product_formula():
    noise = gaussian(1, 4, 2)
    z = last(flow.solve(lambda z, t: z, noise, 10))
    torch.testing.assert_close(z, noise * (1 - 1 / 10) ** 10)


def test_heun_on_an_exponential_matches_its_product_formula_with_an_euler_end():
    noise, h = gaussian(1, 4, 2), 1 / 10
    z = last(flow.solve(lambda z, t: z, noise, 10, "heun"))
    torch.testing.assert_close(z, noise * (1 - h + h * h / 2) ** 9 * (1 - h))


def test_heun_is_exact_where_the_velocity_is_linear_in_time_but_for_the_last_step():
    noise = torch.zeros(1, 1, 1)
    states = list(flow.solve(lambda z, t: torch.full_like(z, t), noise, 4, "heun"))
    assert states[-2].item() == pytest.approx((0.25**2 - 1) / 2)
    assert states[-1].item() == pytest.approx(states[-2].item() - 0.25 * 0.25)


def test_heun_never_asks_for_the_velocity_at_the_data():
    asked = []
    last(flow.solve(lambda z, t: asked.append(t) or z, gaussian(1, 2, 2), 5, "heun"))
    assert min(asked) > 0 and len(asked) == 9


def test_both_solvers_approach_the_solution_of_a_gaussian_flow():
    # For data N(0, sigma^2) the exact velocity is linear in z and maps noise to sigma * noise.
    sigma, noise = 0.5, gaussian(1, 8, 4)

    def velocity(z, t):
        return z * (t - (1 - t) * sigma**2) / (t**2 + (1 - t) ** 2 * sigma**2)

    errors = {
        solver: (last(flow.solve(velocity, noise, 50, solver)) - sigma * noise).abs().max().item()
        for solver in ("euler", "heun")
    }
    assert errors["heun"] < errors["euler"] < 0.05


def test_a_state_is_yielded_after_every_step_and_closing_stops_the_work():
    calls = []
    states = flow.solve(lambda z, t: calls.append(t) or z, gaussian(1, 2, 2), 10)
    next(states)
    next(states)
    states.close()
    assert len(calls) == 2
    assert list(states) == []


def test_the_state_stays_float32_whatever_the_network_returns():
    z = last(flow.solve(lambda z, t: z.bfloat16(), gaussian(1, 2, 2), 3))
    assert z.dtype == torch.float32


def test_an_unknown_solver_is_refused_by_name():
    with pytest.raises(InvalidRequest, match="'rk4'; accepted: euler, heun"):
        next(flow.solve(lambda z, t: z, gaussian(1, 2, 2), 3, "rk4"))


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        ("constant", 0.0, 4.0),
        ("constant", 1.0, 4.0),
        ("anneal", 0.0, 4.0),
        ("anneal", 0.5, 2.5),
        ("anneal", 1.0, 1.0),
        ("interval", 0.0, 1.0),
        ("interval", 0.5, 4.0),
        ("interval", 1.0, 1.0),
    ],
)
def test_guidance_follows_its_schedule(schedule, progress, expected):
    assert flow.guidance_at(schedule, 4.0, progress) == pytest.approx(expected)


def test_guidance_combines_the_two_velocities_as_in_equation_two():
    conditional, unconditional = gaussian(2, 3, 4), gaussian(2, 3, 4, seed=1)
    for w in (0.0, 1.0, 4.0):
        expected = w * conditional + (1 - w) * unconditional
        torch.testing.assert_close(
            flow.guided_velocity(conditional, unconditional, w), expected, rtol=1e-5, atol=1e-5
        )


def test_noise_of_a_batch_equals_the_noise_of_each_seed_alone():
    batch = flow.draw_noise([3, 2**63 - 1, 5], 50, 4)
    for i, seed in enumerate([3, 2**63 - 1, 5]):
        assert torch.equal(batch[i], flow.draw_noise([seed], 50, 4)[0])
    assert not torch.equal(batch[0], batch[2])
    assert abs(batch.std().item() - 1) < 0.1


def test_drawing_noise_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    flow.draw_noise([1], 5, 2)
    flow.sample_times(3, torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())
