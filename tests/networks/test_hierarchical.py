"""The hierarchical network: an orthogonal transform, priors of levels, draws; torch.distributions and SciPy judge."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.model import RadiographVAE, create_model, load_model, save_model
from monai_cxr_vae.networks import HierarchicalVAE
from monai_cxr_vae.networks.hierarchical import POSTERIOR_DEVIATION

TINY = {
    "image_size": 64,
    "codes": 3,
    "channels": (8,),
    "width": 16,
    "normal_width": 8,
    "film_channels": (16, 16),
    "detail_channels": (16, 16),
}


@pytest.fixture
def network() -> HierarchicalVAE:
    """Weights that are not those of the start, where much is zero."""
    torch.manual_seed(0)
    network = HierarchicalVAE(**TINY).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network


def test_all_levels_reconstruct_the_film_and_the_transform_is_orthogonal(network: HierarchicalVAE):
    x = torch.rand(2, 1, 64, 64)
    mu, logvar = network.encode(x)
    assert mu.shape == logvar.shape == (2, network.latent_size) == (2, 3 + 64 * 64)
    torch.testing.assert_close(network(x), x, rtol=0, atol=2e-6)
    codes, film, details = network.split(mu)
    torch.testing.assert_close(
        film.square().flatten(1).sum(1) + details.square().flatten(1).sum(1), x.square().flatten(1).sum(1)
    )
    # what a flat film is does not depend on where a block begins
    flat = network.split(network.encode(torch.full((1, 1, 64, 64), 0.3))[0])
    torch.testing.assert_close(flat[1], torch.full((1, 1, 16, 16), 1.2), rtol=0, atol=1e-5)
    torch.testing.assert_close(flat[2], torch.zeros(1, 15, 16, 16), rtol=0, atol=1e-5)
    assert torch.equal(codes, network.codes.encode(F.avg_pool2d(x, 4))[0])


def test_training_gives_the_terms_of_the_bound(network: HierarchicalVAE):
    torch.manual_seed(1)
    x = torch.rand(2, 1, 64, 64)
    reconstruction, mu, logvar, prior_mu, prior_logvar = network.train()(x)
    assert mu.shape == logvar.shape == prior_mu.shape == prior_logvar.shape
    # noise of the posterior goes through an orthogonal transform, so it is the same in pixels
    assert float((reconstruction - x).detach().std()) == pytest.approx(POSTERIOR_DEVIATION, rel=0.05)
    assert torch.equal(prior_mu[:, :3], torch.zeros(2, 3))
    assert torch.equal(prior_logvar[:, :3], torch.zeros(2, 3))
    # no prior is narrower than the posterior
    assert (prior_logvar[:, 3:] >= logvar[:, 3:]).all()


def test_the_prior_of_a_level_looks_at_the_levels_above_alone(network: HierarchicalVAE):
    z = torch.randn(1, network.latent_size)
    _, film, details = network.split(network.prior(z)[0])
    changed = z.clone()
    changed[:, -15 * 16 * 16 :] += 1
    assert torch.equal(network.prior(changed)[0], network.prior(z)[0])
    changed[:, 3 : -15 * 16 * 16] += 1
    _, same, other = network.split(network.prior(changed)[0])
    assert torch.equal(same, film)
    assert not torch.allclose(other, details)


def test_log_density_is_that_of_what_the_flow_sees(network: HierarchicalVAE):
    """Johnson's S_U distribution, as SciPy has it."""
    latents, film = 0.1 * torch.randn(2, 15, 16, 16), 4 * torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        mean, logvar = network.details.normal(film)
        told = network.details.log_density(latents, film)
        seen = network.details.standardize(latents, film)
    scale = torch.exp(0.5 * logvar).double()
    judge = stats.johnsonsu(a=0, b=1.5, loc=mean.double().numpy(), scale=(1.2 * scale).numpy())
    torch.testing.assert_close(told.double(), torch.from_numpy(judge.logpdf(latents.double())), rtol=1e-4, atol=1e-3)
    # and the flow's values have the probabilities that the latents have
    torch.testing.assert_close(
        torch.distributions.Normal(0, 1).cdf(seen.double()),
        torch.from_numpy(judge.cdf(latents.double())),
        atol=1e-4,
        rtol=0,
    )


def test_an_untrained_level_draws_from_its_density():
    torch.manual_seed(0)
    level = HierarchicalVAE(**TINY).eval().details
    film = torch.zeros(16, 1, 16, 16)
    with torch.no_grad():
        drawn = level.draw(film, torch.randn(16, 15, 16, 16))
        mean, logvar = level.normal(film[:1])
    scale = 1.2 * float(torch.exp(0.5 * logvar[0, 0, 0, 0]))
    judge = stats.johnsonsu(a=0, b=1.5, loc=float(mean[0, 0, 0, 0]), scale=scale)
    assert stats.kstest(drawn.flatten().numpy(), judge.cdf).pvalue > 0.001


def test_draws_depend_on_the_seed_alone_and_share_what_they_shall(network: HierarchicalVAE):
    def draw(n: int, seed: int, **how) -> torch.Tensor:
        with torch.no_grad():
            return network.sample_latents(n, torch.Generator().manual_seed(seed), **how)

    three = draw(3, 5)
    assert three.shape == (3, network.latent_size)
    torch.testing.assert_close(draw(5, 5)[:3], three, rtol=1e-4, atol=1e-4)
    assert torch.equal(draw(3, 5), three)
    assert not torch.allclose(draw(3, 6), three)
    with torch.no_grad():
        given = network.encode(torch.rand(1, 1, 64, 64))[0]
    own = network.split(given)
    for keep in (1, 2):
        parts = network.split(draw(2, 5, like=given, keep=keep))
        assert [all(torch.equal(part[i], own[k][0]) for i in range(2)) for k, part in enumerate(parts)] == [
            level < keep for level in range(3)
        ]


def test_reconstruction_from_each_level(network: HierarchicalVAE):
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        codes, small, whole = (network.reconstruct_from(x, levels) for levels in (1, 2, 3))
        torch.testing.assert_close(whole, network(x))
        film = network.split(network.encode(x)[0])[1]
        torch.testing.assert_close(network.split(network.encode(small)[0])[1], film, rtol=0, atol=1e-4)
        # of the first level only what the codes tell is left
        other = x.flip(0)
        mu = network.encode(x)[0]
        swapped = torch.cat([mu[:, :3], network.encode(other)[0][:, 3:]], 1)
        outline = network.film.normal(network.outline(swapped[:, :3]))[0]
        torch.testing.assert_close(network.split(network.encode(codes)[0])[1], outline, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"image_size": 48}, "multiple of 32"), ({"codes": 0}, "positive"), ({"film_channels": (0,)}, "positive")],
)
def test_impossible_arguments(arguments: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        HierarchicalVAE(**TINY | arguments)


def test_the_weights_file_and_the_network_scripted(tmp_path):
    torch.manual_seed(0)
    model = RadiographVAE("hierarchical", **TINY).eval()
    save_model(model, tmp_path / "model.pt", half=True)
    again, x = load_model(tmp_path / "model.pt"), torch.rand(2, 1, 64, 64)
    assert isinstance(again.network, HierarchicalVAE)
    torch.testing.assert_close(again.sample(2, seed=1), model.sample(2, seed=1), atol=5e-3, rtol=0)
    with torch.no_grad():
        assert torch.equal(torch.jit.script(again)(x), again(x))


def test_codes_of_trained_weights_are_taken_over_and_stay(tmp_path):
    vector = RadiographVAE(image_size=16, latent_size=3, channels=(8,), width=16)
    save_model(vector, tmp_path / "vector.pt")
    model = create_model(tmp_path / "vector.pt", preset="hierarchical", **TINY)
    own = dict(vector.network.named_parameters())
    for name, parameter in model.network.codes.named_parameters():
        assert torch.equal(parameter, own[name])
        assert not parameter.requires_grad
    assert all(parameter.requires_grad for parameter in model.network.details.parameters())
    with pytest.raises(InputError, match="another size"):
        create_model(tmp_path / "vector.pt", preset="hierarchical", **TINY | {"codes": 4})
