"""The bound of a hierarchical model as a rate: cases in which the rate is known, and codecs beside it."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform, ComposeTransform

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.evaluation import evaluate
from monai_cxr_vae.evaluation.levels import bits_per_level
from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.networks import HierarchicalVAE
from tests.networks.test_hierarchical import TINY


@pytest.fixture
def network() -> HierarchicalVAE:
    """Conditional normals that are none of the start's; the flows are linear."""
    torch.manual_seed(0)
    network = HierarchicalVAE(**TINY).eval()
    with torch.no_grad():
        for level in (network.film, network.details):
            for parameter in level.means.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return network


def grey_films(n: int) -> torch.Tensor:
    coarse = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.interpolate(coarse, 64, mode="bilinear") * 255).round() / 255


def test_the_rate_of_normals_is_that_of_torch_distributions(network: HierarchicalVAE):
    films = grey_films(3)
    bits = bits_per_level(network, films, torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    noisy = films + (torch.rand(films.shape, generator=generator) - 0.5) / 255
    with torch.no_grad():
        mu, logvar = (part[:, :3] for part in network.encode(films))
        epsilon = torch.randn(mu.shape, generator=generator)
        z = torch.cat([mu + (0.5 * logvar).exp() * epsilon, network.encode(noisy)[0][:, 3:]], 1)
        prior_mu, prior_logvar = network.prior(z)
    # In grey levels a density is a probability per level.
    in_levels = ComposeTransform([AffineTransform(0, 255)])
    judge = TransformedDistribution(Normal(prior_mu[:, 3:], (0.5 * prior_logvar[:, 3:]).exp()), in_levels)
    expected = -judge.log_prob(255 * z[:, 3:]).sum(1) / math.log(2) / 64**2
    torch.testing.assert_close(bits["film_normal"] + bits["details_normal"], expected, rtol=1e-4, atol=1e-4)
    # codes cost what their posterior tells more than the standard normal, which an untrained flow is
    cost = (Normal(mu, (0.5 * logvar).exp()).log_prob(z[:, :3]) - Normal(0, 1).log_prob(z[:, :3])).sum(1)
    torch.testing.assert_close(bits["codes"], cost / math.log(2) / 64**2, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(bits["bits"], bits["codes"] + bits["film"] + bits["details"])


def test_a_flow_that_is_wrong_costs_bits(network: HierarchicalVAE):
    films = grey_films(4)
    before = bits_per_level(network, films, torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.details.flow.last[2].bias.fill_(1.0)
    after = bits_per_level(network, films, torch.Generator().manual_seed(0))
    assert (after["details"] > before["details"]).all()
    assert torch.equal(after["film"], before["film"])
    assert torch.equal(after["details_normal"], before["details_normal"])


def test_evaluation_tells_levels_and_codecs(network: HierarchicalVAE, tmp_path):
    films, model = grey_films(4), RadiographVAE(network=network)
    result = evaluate(model, films, None, tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    levels = result["levels"]
    assert [levels[name]["values"] for name in ("codes", "film", "details")] == [3, 256, 15 * 256]
    assert levels["codes"]["psnr"]["mean"] < levels["film"]["psnr"]["mean"] < levels["details"]["psnr"]["mean"]
    assert levels["details"]["psnr"]["mean"] > 80
    # smooth films: the best codec needs far fewer bits than eight
    assert 0 < result["codecs"]["jpeg_xl"]["mean"] < result["codecs"]["png"]["mean"] < 8
    assert result["bits_per_pixel"]["bits"]["n"] == 4
    with pytest.raises(InputError, match="two films"):
        evaluate(model, films[:1], None, tmp_path)
