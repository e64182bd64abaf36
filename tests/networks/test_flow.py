"""Flows: exact cases, and densities that are known."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from monai_cxr_vae.losses import flow_bound_weight, flow_loss
from monai_cxr_vae.networks.flow import GridFlow, VectorFlow, carry, interpolate, linear_velocity, random_times


def test_the_linear_velocity_is_the_best_guess_for_normal_latents():
    """Regression on many draws, time by time."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 200_000, generator=generator).double()
    for t in (0.05, 0.3, 0.5, 0.8, 0.97):
        x = interpolate(latents, noise, torch.full((len(latents),), t).double())
        slope = stats.linregress(x, latents - noise).slope
        assert float(linear_velocity(torch.ones(1), torch.tensor([t]))) == pytest.approx(slope, abs=0.01)


def exact_velocity(m: float, s: float):
    """Of latents N(m, s^2), in closed form."""

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = t[:, None]
        variance = (t * s) ** 2 + (1 - t) ** 2
        return m + (t * s**2 - (1 - t)) / variance * (x - t * m)

    return velocity


@pytest.mark.parametrize("until", [1.0, 0.9, 0.6])
def test_a_flow_with_the_exact_velocity_of_a_gaussian_gives_that_gaussian(until):
    """The exact map to a time is affine, and so is the mean of the latents given what is there."""
    m, s = 2.0, 0.3
    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0)).double()
    expected = m + until * s**2 / ((until * s) ** 2 + (1 - until) ** 2) ** 0.5 * noise
    found = [carry(exact_velocity(m, s), noise, steps, until) for steps in (12, 24, 48)]
    errors = [float((latents - expected).abs().max()) for latents in found]
    assert errors[2] < 0.02
    # the method's error falls with the square of the step
    assert errors[0] / errors[2] > 8


def test_the_bound_is_exact_for_another_gaussian():
    """Weighted by the bound, the squared errors differ by as much as the log densities of N(0, 1) and N(0, s^2)."""
    s = 0.5
    generator = torch.Generator().manual_seed(0)
    u = s * torch.randn(200_000, 1, generator=generator).double()
    times = torch.linspace(0.0025, 0.9975, 200).double()
    gains = []
    for t in times:
        time = t.expand(len(u))
        noise = torch.randn(u.shape, generator=generator).double()
        x = interpolate(u, noise, time)
        variance = (t * s) ** 2 + (1 - t) ** 2
        best = (t * s**2 - (1 - t)) / variance * x
        less = flow_loss(linear_velocity(x, time), u - noise) - flow_loss(best, u - noise)
        gains.append(float(flow_bound_weight(t) * less.mean()))
    gain = sum(gains) / len(gains)
    expected = (stats.norm(0, s).logpdf(u) - stats.norm(0, 1).logpdf(u)).mean()
    assert gain == pytest.approx(float(expected), abs=0.01)


def test_times_are_spread_over_the_batch():
    torch.manual_seed(0)
    times = torch.cat([random_times(16) for _ in range(2000)])
    assert 0 < float(times.min()) < float(times.max()) < 1
    assert stats.kstest(torch.logit(times).numpy(), stats.norm(0, 1.2).cdf).statistic < 0.01
    # each batch has one time in each sixteenth of the distribution
    ranks = (stats.norm(0, 1.2).cdf(torch.logit(random_times(16)).numpy()) * 16).astype(int)
    assert sorted(ranks) == list(range(16))


def test_a_vector_flow_starts_as_the_gaussian_of_its_vectors():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=generator)
    vectors = 3 + torch.randn(20_000, 5, generator=generator) @ root.T
    flow = VectorFlow(5).eval()
    flow.whiten(vectors)
    white = flow.standardize(vectors)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(5), rtol=0, atol=1e-3)
    with torch.no_grad():
        drawn = flow.draw(torch.randn(20_000, 5, generator=generator))
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(vectors.T), rtol=0.1, atol=0.2)
    torch.testing.assert_close(drawn.mean(0), vectors.mean(0), rtol=0, atol=0.1)


@pytest.mark.parametrize("attention", [False, True])
def test_a_grid_flow_starts_linear_and_sees_its_condition(attention: bool):
    torch.manual_seed(0)
    flow = GridFlow(3, 2, (16, 32), attention).eval()
    x, condition, time = torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 8), torch.tensor([0.2, 0.9])
    torch.testing.assert_close(flow(x, condition, time), linear_velocity(x, time))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    moved = flow(x, condition, time)
    assert not torch.allclose(flow(x, condition + 1, time), moved)
    assert not torch.allclose(flow(x, condition, time * 0.5), moved)
    torch.testing.assert_close(flow(x[:1], condition[:1], time[:1]), moved[:1], rtol=1e-4, atol=1e-5)
