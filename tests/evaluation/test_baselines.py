"""Baselines against closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from monai_cxr_vae.evaluation import baselines


@pytest.fixture
def films():
    """Films of 32 px on a subspace of eight dimensions, 60 to fit on and 10 to test."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(8, 32 * 32, generator=generator)
    films = 0.5 + 0.02 * torch.randn(70, 8, generator=generator) @ basis
    return films[:60].view(-1, 1, 32, 32), films[60:].view(-1, 1, 32, 32)


def test_mean_image(films):
    train, test = films
    assert torch.allclose(baselines.mean_image(train).reconstruct(test)[3], train.mean(0), atol=1e-6)


def test_pca_is_exact_on_its_subspace_and_optimal_below(films):
    train, test = films
    code = baselines.pca(train, 8)
    assert code.size == {"components": 8, "values": 8}
    assert torch.allclose(code.reconstruct(test), test, atol=1e-4)
    made = baselines.pca(train, 4).reconstruct(train)
    singular = torch.linalg.svdvals((train - train.mean(0)).flatten(1))
    assert float((made - train).square().sum()) == pytest.approx(float(singular[4:].square().sum()), rel=1e-3)


def test_pca_takes_what_there_is(films):
    assert baselines.pca(films[0][:5], 100).size["values"] == 4


def test_block_pca_finds_the_blocks():
    generator = torch.Generator().manual_seed(0)
    tile = torch.rand(1, 8, 8, generator=generator)
    weights = torch.rand(40, 1, 4, 4, generator=generator)
    films = weights.repeat_interleave(8, 2).repeat_interleave(8, 3) * tile.tile(1, 4, 4)  # one number per 8 px block
    code = baselines.block_pca(films[:30], 16, films[30:])
    assert code.size == {"grid": 4, "components": 1, "values": 16}
    assert torch.allclose(code.reconstruct(films[30:]), films[30:], atol=1e-4)


def test_block_pca_takes_the_best_grid(films, monkeypatch):
    train, test = films

    def psnr(sides):
        monkeypatch.setattr(baselines, "BLOCK_SIDES", sides)
        made = baselines.block_pca(train, 16, test).reconstruct(test)
        return float(-10 * ((made.clamp(0, 1) - test) ** 2).flatten(1).mean(1).log10().mean())

    alone = [psnr((side,)) for side in (8, 16, 32)]
    assert max(alone) > min(alone) + 1
    assert psnr((8, 16, 32)) == pytest.approx(max(alone), abs=1e-4)
    assert psnr((32, 16, 8)) == pytest.approx(max(alone), abs=1e-4)


def test_block_pca_without_a_grid(films):
    assert baselines.block_pca(films[0], 0, films[1]) is None


def test_bicubic_has_no_more_values_than_allowed():
    film = torch.rand(1, 1, 32, 32)
    code = baselines.bicubic(32, 70)
    made = code.reconstruct(film)
    assert code.size == {"values": 64}
    assert made.shape == film.shape
    small = Image.fromarray(film[0, 0].numpy()).resize((8, 8), Image.BICUBIC)
    inner = np.asarray(small.resize((32, 32), Image.BICUBIC))[4:-4, 4:-4]
    assert np.abs(made[0, 0, 4:-4, 4:-4].numpy() - inner).max() < 0.1  # Pillow's cubic is a little sharper


def test_low_pass_dct_keeps_what_is_slow():
    rows = torch.cos(torch.pi / 32 * 3 * (torch.arange(32) + 0.5))  # the third cosine
    slow = (0.5 + 0.2 * rows[:, None] * rows[None])[None, None]
    code = baselines.low_pass_dct(32, 17)
    assert code.size == {"values": 16}
    assert torch.allclose(code.reconstruct(slow), slow, atol=1e-5)
    fast = baselines.low_pass_dct(32, 9).reconstruct(slow)
    assert torch.allclose(fast, torch.full_like(fast, 0.5), atol=1e-5)  # only the mean is left


def test_best_dct_is_the_best_choice_of_coefficients():
    film = torch.rand(3, 1, 8, 8)
    code = baselines.best_dct(8, 10)
    made = code.reconstruct(film)
    assert code.size == {"values": 10}
    matrix = np.array([[np.cos(np.pi / 8 * k * (n + 0.5)) for n in range(8)] for k in range(8)]) / 2
    matrix[0] /= 2**0.5
    energy = np.sort(((matrix @ film[:, 0].numpy() @ matrix.T) ** 2).reshape(3, -1), 1)
    error = (made - film).square().flatten(1).sum(1).numpy()
    assert np.allclose(error, energy[:, :-10].sum(1), rtol=1e-3)
    assert torch.allclose(baselines.best_dct(8, 100).reconstruct(film), film, atol=1e-5)
