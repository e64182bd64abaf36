"""The VAE: its modes, its sizes, TorchScript, and the linear start against scikit-learn's PCA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from monai_cxr_vae.networks import VAE
from monai_cxr_vae.networks.blocks import Warp, bound_logvar, unbound_logvar, upsample_bicubic


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def small(**kwargs) -> VAE:
    network = VAE(**{"image_size": 32, "latent_size": 6, "channels": (8, 16), "width": 24, **kwargs})
    # Some layers start at zero; random weights make every part take part in the comparison.
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def films(n: int, size: int = 32) -> torch.Tensor:
    """Smooth random pictures in [0, 1] with a decaying spectrum."""
    coarse = torch.rand(n, 1, 8, 8)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").clamp(0, 1)


@pytest.mark.parametrize(
    ("image_size", "latent_size", "channels"),
    [(32, 5, (8, 16)), (64, 128, (16, 24, 32)), (64, 16, (8,)), (96, 7, (8, 8, 16))],
)
def test_shapes_in_both_modes(image_size, latent_size, channels):
    network = VAE(image_size, latent_size, channels, width=24)
    assert (network.image_size, network.latent_size) == (image_size, latent_size)
    x = films(3, image_size)
    reconstruction, mu, logvar = network.train()(x)
    assert reconstruction.shape == x.shape
    assert mu.shape == logvar.shape == (3, latent_size)
    assert network.eval()(x).shape == x.shape
    assert network.decode(torch.zeros(2, latent_size)).shape == (2, 1, image_size, image_size)


def test_script_equals_eager():
    network = small()
    scripted = torch.jit.script(network)  # in train mode: the scripted form is the eval form all the same
    network.eval()
    x = films(4)
    with torch.no_grad():
        assert torch.equal(scripted(x), network(x))
        for eager, script in zip(network.encode(x), scripted.encode(x), strict=True):
            assert torch.equal(eager, script)
        z = torch.randn(2, 6)
        assert torch.equal(scripted.decode(z), network.decode(z))
        assert torch.equal(scripted.reconstruct(x), network.reconstruct(x))


def test_eval_is_deterministic_and_uses_the_mean():
    network = small().eval()
    x = films(2)
    with torch.no_grad():
        first = network(x)
        assert torch.equal(first, network(x))
        assert torch.equal(first, network.decode(network.encode(x)[0]))


def test_training_samples_the_posterior_and_follows_the_seed():
    network = small().train()
    x = films(1).expand(4000, -1, -1, -1)
    with torch.no_grad():
        seen: list[torch.Tensor] = []
        network.linear_decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        torch.manual_seed(5)
        first, mu, logvar = network(x)
        torch.manual_seed(5)
        assert torch.equal(network(x)[0], first)
        assert not torch.equal(network(x)[0], first)
    z = seen[1]  # the first is the encoder's guess
    deviation = (0.5 * logvar[0]).exp()
    assert torch.allclose(z.mean(0), mu[0], atol=5 * float(deviation.max()) / 4000**0.5)
    assert torch.allclose(z.std(0), deviation, rtol=0.06)


def test_posterior_starts_small_and_stays_bounded():
    network = VAE(32, 6, (8, 16), 24)
    assert torch.allclose(network.encode(films(2))[1], torch.tensor(-2.0))
    extreme = bound_logvar(torch.tensor([-1e9, 0.0, 1e9]))
    assert extreme.min() >= -16
    assert extreme.max() <= 4
    values = torch.linspace(-15, 3, 7)
    assert torch.allclose(bound_logvar(unbound_logvar(values)), values, atol=1e-4)


@pytest.mark.parametrize(("grid", "size"), [(5, 64), (8, 32), (16, 64), (8, 8)])
def test_spread_is_bicubic_interpolation(grid, size):
    coarse = torch.randn(3, 2, grid, grid, dtype=torch.double, requires_grad=True)
    theirs = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    weights = torch.randn_like(theirs)
    torch.testing.assert_close(upsample_bicubic(coarse, size), theirs)
    gradients = [
        torch.autograd.grad((out * weights).sum(), coarse)[0] for out in (upsample_bicubic(coarse, size), theirs)
    ]
    torch.testing.assert_close(*gradients)


def test_gradient_reaches_every_parameter():
    network = small().train()
    reconstruction, mu, logvar = network(films(2))
    (reconstruction.square().mean() + mu.square().mean() + logvar.mean()).backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_a_fresh_network_wakes_up_in_a_few_steps():
    network = VAE(32, 6, (8, 16), 24).train()
    network.initialize_linear(films(30))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(4):
        x = films(8)
        reconstruction, mu, logvar = network(x)
        loss = (reconstruction - x).square().mean() + 1e-4 * (mu.square() + logvar.exp() - logvar).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [name for name, p in network.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("n", [40, 1500])  # fewer and more films than pixels
def test_linear_start_is_principal_component_analysis(n):
    images = films(n)
    network = VAE(32, 6, (8, 16), 24).eval()
    network.initialize_linear(images)
    held_out = films(20)
    judge = PCA(6, svd_solver="full").fit(images.flatten(1).numpy().astype(np.float64))
    flat = held_out.flatten(1).numpy().astype(np.float64)
    expected = judge.inverse_transform(judge.transform(flat))
    with torch.no_grad():
        reconstruction = network(held_out).flatten(1).numpy()
        mu, _ = network.encode(images)
        logvar = network.encode(held_out)[1]
    assert np.abs(reconstruction - expected).max() < 1e-4
    assert torch.allclose(mu.std(0), torch.ones(6), atol=1e-3)
    assert mu.mean(0).abs().max() < 1e-3
    # Probabilistic PCA of the same films: the noise is spread over all pixels here, not over the remaining directions.
    noise = (images.flatten(1).numpy().var(0, ddof=1).sum() - judge.explained_variance_.sum()) / 1024
    assert np.allclose(logvar[0], np.log(noise / (judge.explained_variance_ + noise)), atol=0.01)


def test_fewer_films_than_latents():
    network = VAE(32, 20, (8, 16), 24).eval()
    images = films(5)
    network.initialize_linear(images)
    with torch.no_grad():
        assert torch.allclose(network(images), images, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (2, 3, 32, 32), (1, 32, 32), (2, 1, 32, 16)])
def test_a_wrong_input_is_a_clear_error(shape):
    network = small().eval()
    with pytest.raises(ValueError, match=r"\(N, 1, 32, 32\)"):
        network(torch.zeros(shape))
    with pytest.raises(torch.jit.Error, match="expected films of shape"):
        torch.jit.script(network)(torch.zeros(shape))


def test_the_warp_moves_the_picture_by_its_field():
    """A constant field is a translation; an inhomogeneous one moves each part by its own amount."""
    warp = Warp(32, 8)
    image = films(2)
    field = torch.zeros(2, 2, 8, 8)
    assert torch.allclose(warp(image, field.flatten(1)), image, atol=1e-5)
    field[:, 0] = 3 / 32  # three pixels, in units of the side: sample to the right
    assert torch.allclose(warp(image, field.flatten(1))[..., :-3], image[..., 3:], atol=1e-5)
    field[:, 0] = 0
    field[:, 1] = 2 / 32
    assert torch.allclose(warp(image, field.flatten(1))[..., :-2, :], image[..., 2:, :], atol=1e-5)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        VAE(40, 8, (8, 16, 32))
    with pytest.raises(ValueError, match="positive"):
        VAE(32, 0, (8,))
    with pytest.raises(ValueError, match="two films"):
        VAE(32, 8, (8,)).initialize_linear(films(1))
