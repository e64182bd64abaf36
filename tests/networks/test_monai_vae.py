"""MONAI's autoencoders as networks, beside what they compute themselves."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import AutoencoderKL, VarAutoEncoder

from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.networks import MonaiVAE


def kl() -> AutoencoderKL:
    return AutoencoderKL(
        2,
        channels=(8, 16),
        num_res_blocks=(1, 1),
        attention_levels=(False, False),
        latent_channels=3,
        norm_num_groups=8,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )


def vector() -> VarAutoEncoder:
    return VarAutoEncoder(2, (1, 32, 32), 1, 5, (8, 16), (2, 2))


def test_the_posterior_of_a_grid_is_monais():
    model = kl().eval()
    network, x = MonaiVAE(model, 32), torch.rand(2, 1, 32, 32)
    assert network.latent_shape == (3, 16, 16)
    with torch.no_grad():
        made, mu, deviation = model.reconstruct(x), *model.encode(x)
        own_mu, logvar = network.encode(x)
        assert torch.equal(own_mu, mu)
        torch.testing.assert_close((0.5 * logvar).exp(), deviation)
        assert torch.equal(RadiographVAE(network=network).eval()(x), made)


def test_the_posterior_of_a_vector_is_monais():
    model = vector().eval()
    network, x = MonaiVAE(model, 32), torch.rand(2, 1, 32, 32)
    assert network.latent_shape == (5,)
    with torch.no_grad():
        _, mu, logvar, _ = model(x)
        made = model.decode_forward(mu, model.use_sigmoid)
        assert all(torch.equal(*pair) for pair in zip(network.encode(x), (mu, logvar), strict=True))
        whole = RadiographVAE(network=network).eval()
        assert torch.equal(whole(x), made)
        torch.testing.assert_close(torch.jit.script(whole)(x), made)


def test_a_film_that_the_model_cannot_take_is_refused():
    with pytest.raises(ValueError, match="VarAutoEncoder takes no film of 48 pixels"):
        MonaiVAE(vector(), 48)
