"""The loss against torch.distributions and its own definition."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as independent_kl

from monai_cxr_vae.losses import (
    VAELoss,
    collapse_limit,
    flow_bound_weight,
    flow_loss,
    kl_divergence,
    mean_squared_error,
)


def random_batch(n: int = 4, latents: int = 8) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    image = torch.rand(n, 2, 16, 12)
    return image, (image + 0.1 * torch.randn_like(image)), torch.randn(n, latents), torch.randn(n, latents)


def test_kl_equals_torch_distributions():
    _, _, mu, logvar = random_batch(latents=200)
    expected = independent_kl(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mu, logvar), expected, rtol=1e-6, atol=1e-6)


def test_kl_between_diagonal_normals_equals_torch_distributions():
    _, _, mu, logvar = random_batch(latents=200)
    prior_mu, prior_logvar = 2 * torch.randn(2, *mu.shape)
    judge = Normal(mu, (0.5 * logvar).exp()), Normal(prior_mu, (0.5 * prior_logvar).exp())
    expected = independent_kl(*judge).sum(1)
    torch.testing.assert_close(kl_divergence(mu, logvar, prior_mu, prior_logvar), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kl_divergence(mu, logvar, mu, logvar), torch.zeros(len(mu)), rtol=0, atol=1e-6)


def test_the_loss_counts_the_divergence_from_a_learned_prior():
    image, reconstruction, mu, logvar = random_batch()
    prior = mu + 0.5, logvar - 1
    loss = VAELoss(kl_weight=0.01)
    loss((reconstruction, mu, logvar, *prior), image)
    assert loss.last_terms()["kl"] == pytest.approx(float(kl_divergence(mu, logvar, *prior).mean()))


def test_kl_is_finite_in_half_precision_where_its_exponential_overflows():
    logvar = torch.full((2, 3), 12.0, dtype=torch.float16)
    assert kl_divergence(torch.zeros_like(logvar), logvar).isfinite().all()


def test_mse_is_per_image():
    image, reconstruction, _, _ = random_batch()
    expected = torch.stack([torch.nn.functional.mse_loss(r, i) for r, i in zip(reconstruction, image, strict=True)])
    torch.testing.assert_close(mean_squared_error(reconstruction, image), expected)


def test_flow_loss_is_the_squared_error_of_each_film():
    velocity, target, _, _ = random_batch()
    expected = torch.stack([torch.nn.functional.mse_loss(v, t) for v, t in zip(velocity, target, strict=True)])
    torch.testing.assert_close(flow_loss(velocity, target), expected)
    vectors = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(flow_loss(*vectors), torch.tensor([2.0, 12.5]))


def test_flow_bound_weight_is_the_square_root_of_the_signal_to_noise_ratio():
    """Of ``t * x + (1 - t) * noise``."""
    time = torch.tensor([0.0, 0.25, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(flow_bound_weight(time) ** 2, time**2 / (1 - time) ** 2)
    assert flow_bound_weight(time)[2] == 1


def kl_of_distributions(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    return independent_kl(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1).mean()


def assert_same_gradients(ours: torch.Tensor, theirs: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
    """Of each tensor by itself: the reconstruction's part is so much larger that it would hide the latents'."""
    for one, other in zip(torch.autograd.grad(ours, tensors), torch.autograd.grad(theirs, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_auto_has_the_gradient_of_the_optimal_sigma_bound(beta: float):
    image, reconstruction, mu, logvar = random_batch()
    tensors = [tensor.requires_grad_() for tensor in (reconstruction, mu, logvar)]
    n = image[0].numel()
    bound = 0.5 * n * (reconstruction - image).square().mean().log() + beta * kl_of_distributions(mu, logvar)
    assert_same_gradients(VAELoss("auto", beta)((reconstruction, mu, logvar), image), bound, tensors)


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_auto_weighs_by_twice_the_mean_square_over_the_values_of_a_film(beta: float):
    image, reconstruction, mu, logvar = random_batch()
    n = image[0].numel()
    mse, kl = float(((reconstruction - image) ** 2).mean()), float(kl_of_distributions(mu, logvar))
    loss = VAELoss("auto", beta)
    assert loss((reconstruction, mu, logvar), image).item() == pytest.approx(n / 2 + beta * kl, rel=1e-5)
    assert loss.last_terms() == pytest.approx(
        {
            "loss": mse + beta * (2 * mse / n) * kl,
            "mse": mse,
            "kl": kl,
            "lambda": 2 * mse / n,
            "sigma": mse**0.5,
            "beta": beta,
        },
        rel=1e-5,
    )


def test_the_warm_up_sets_beta():
    image, reconstruction, mu, logvar = random_batch()
    loss, expected = VAELoss(beta=0.25), VAELoss(beta=0.75)
    loss.set_beta(0.75)
    assert loss((reconstruction, mu, logvar), image) == expected((reconstruction, mu, logvar), image)
    assert loss.last_terms()["beta"] == 0.75


def test_a_loss_that_saw_no_batch_has_no_terms():
    assert VAELoss().last_terms() == {}


@pytest.mark.parametrize("weight", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_a_fixed_weight_gives_the_formula_as_written(weight: float, beta: float):
    image, reconstruction, mu, logvar = random_batch()
    tensors = [tensor.requires_grad_() for tensor in (reconstruction, mu, logvar)]
    kl = (-0.5 * (1 + logvar - mu**2 - logvar.exp())).sum(1).mean()
    written = ((reconstruction - image) ** 2).mean() + beta * weight * kl
    loss = VAELoss(weight, beta)
    assert_same_gradients(weight * loss((reconstruction, mu, logvar), image), written, tensors)
    terms = loss.last_terms()
    assert terms["loss"] == pytest.approx(written.item(), rel=1e-5)
    assert terms["lambda"] == pytest.approx(weight)
    assert terms["sigma"] ** 2 == pytest.approx(weight * image[0].numel() / 2)  # the decoder that the weight stands for


def test_auto_does_not_fall_below_half_a_grey_level_of_eight_bits():
    image, _, mu, logvar = random_batch()
    loss = VAELoss("auto")
    assert loss((image, mu, logvar), image).item() == pytest.approx(float(kl_of_distributions(mu, logvar)), rel=1e-5)
    assert loss.last_terms()["sigma"] == pytest.approx(0.5 / 255)
    assert loss.last_terms()["lambda"] == pytest.approx(2 * (0.5 / 255) ** 2 / image[0].numel())


@pytest.mark.parametrize("weight", ["automatic", 0, -1.0, float("inf"), None])
def test_a_weight_that_is_none_is_refused(weight: object):
    with pytest.raises(ValueError, match="kl_weight"):
        VAELoss(weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("films", [2, 50])
def test_collapse_limit_is_the_largest_eigenvalue_of_the_covariance(films: int):
    """What all films share, here a bright half, is no variance."""
    torch.manual_seed(0)
    images = torch.rand(films, 1, 6, 6)
    images[..., :3] += 5
    largest = torch.linalg.eigvalsh(torch.cov(images.flatten(1).T))[-1].item()
    assert collapse_limit(images) == pytest.approx(2 * largest / 36, rel=1e-4)


def test_one_film_alone_has_no_limit():
    assert collapse_limit(torch.rand(1, 1, 6, 6)) == 0
