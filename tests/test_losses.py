"""The loss against torch.distributions and its own definition."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as independent_kl

from monai_cxr_vae.losses import VAELoss, collapse_limit, kl_divergence, mean_squared_error


def random_batch(n: int = 4, size: int = 16, latents: int = 8) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    image = torch.rand(n, 1, size, size)
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


def gradients(loss: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, tensors)])


def test_auto_gradient_is_parallel_to_the_optimal_sigma_bound():
    image, reconstruction, mu, logvar = (t.requires_grad_() for t in random_batch())
    ours = gradients(VAELoss("auto")((reconstruction, mu, logvar), image.detach()), reconstruction, mu, logvar)
    n = image[0].numel()
    bound = (
        0.5 * n * (reconstruction - image.detach()).square().mean().log()
        + independent_kl(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1).mean()
    )
    theirs = gradients(bound, reconstruction, mu, logvar)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.9999


@pytest.mark.parametrize("weight", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_fixed_weight_gradient_is_parallel_to_the_formula_as_written(weight: float, beta: float):
    image, reconstruction, mu, logvar = (t.requires_grad_() for t in random_batch())
    loss = VAELoss(weight, beta)
    ours = gradients(loss((reconstruction, mu, logvar), image.detach()), reconstruction, mu, logvar)
    kl = (-0.5 * (1 + logvar - mu**2 - logvar.exp())).sum(1).mean()
    written = ((reconstruction - image.detach()) ** 2).mean() + beta * weight * kl
    theirs = gradients(written, reconstruction, mu, logvar)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.9999
    assert loss.last_terms()["loss"] == pytest.approx(written.item(), rel=1e-5)


@pytest.mark.parametrize("weight", ["automatic", 0, -1.0, float("inf"), None])
def test_a_weight_that_is_none_is_refused(weight: object):
    with pytest.raises(ValueError, match="kl_weight"):
        VAELoss(weight)  # type: ignore[arg-type]


def test_collapse_limit_is_the_largest_eigenvalue_of_the_covariance():
    torch.manual_seed(0)
    images = torch.rand(50, 1, 6, 6)
    largest = torch.linalg.eigvalsh(torch.cov(images.flatten(1).T))[-1].item()
    assert collapse_limit(images) == pytest.approx(2 * largest / 36, rel=1e-4)
