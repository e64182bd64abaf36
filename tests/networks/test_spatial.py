"""The spatial VAE: its start against scikit-learn's PCA, its grid of latents, TorchScript, sizes, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from monai_cxr_vae.evaluation import baselines
from monai_cxr_vae.losses import VAELoss, mean_squared_error
from monai_cxr_vae.networks import SpatialVAE
from monai_cxr_vae.training import parameter_groups


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def small(**kwargs) -> SpatialVAE:
    return SpatialVAE(**{"image_size": 32, "latent_size": 32, "channels": (8,), "stride": 16, "groups": 4, **kwargs})


def random_weights(network: SpatialVAE) -> SpatialVAE:
    """Some layers start at zero; random weights make every part take part in a comparison."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def films(n: int, size: int = 32) -> Tensor:
    """Random pictures in [0, 1] with a decaying spectrum, busier at the right."""
    spectrum = torch.fft.rfft2(torch.randn(n, 1, size, size))
    rows, columns = torch.fft.fftfreq(size)[:, None] * size, torch.fft.rfftfreq(size)[None] * size
    smooth = torch.fft.irfft2(spectrum / (1 + rows**2 + columns**2), s=(size, size))
    return (0.5 + smooth * torch.linspace(0.1, 3, size)).clamp(0, 1)


def principal_components(rows: np.ndarray, k: int) -> PCA:
    return PCA(k, svd_solver="full").fit(rows.astype(np.float64))


@pytest.mark.parametrize("n", [40, 1500])  # fewer and more films than pixels
def test_one_cell_starts_as_principal_component_analysis(n: int):
    images, held_out = films(n, 16), films(20, 16)
    network = small(image_size=16, latent_size=6).eval()
    network.initialize_linear(images)
    judge = principal_components(images.flatten(1).numpy(), 6)
    expected = judge.inverse_transform(judge.transform(held_out.flatten(1).numpy().astype(np.float64)))
    with torch.no_grad():
        mu, logvar = network.encode(images)
        assert np.abs(network(held_out).flatten(1).numpy() - expected).max() < 1e-4
    assert torch.allclose(mu.std(0), torch.ones(6, 1, 1), atol=1e-3)
    assert mu.mean(0).abs().max() < 1e-3
    noise = (images.flatten(1).numpy().var(0, ddof=1).sum() - judge.explained_variance_.sum()) / 256
    assert np.allclose(logvar[0].flatten(), np.log(noise / (judge.explained_variance_ + noise)), atol=0.01)


def test_each_place_keeps_its_own_components_as_many_as_win():
    """With a set of components for every place the code is PCA of each lapped block, the largest variances of all."""
    images, held_out = films(300), films(20)
    network = small().eval()
    network.initialize_linear(images)
    lap = network.lapping.double()

    def blocks(x: Tensor) -> list[np.ndarray]:
        lapped = (lap @ x.double() @ lap.T)[:, 0].numpy()
        return [lapped[:, i : i + 16, j : j + 16].reshape(len(x), -1) for i in (0, 16) for j in (0, 16)]

    judges = [principal_components(rows, 32) for rows in blocks(images)]
    limit = np.sort(np.concatenate([judge.explained_variance_ for judge in judges]))[-32]
    kept = [int((judge.explained_variance_ >= limit).sum()) for judge in judges]
    assert kept[0] < kept[1]  # the right is busier, so this test can tell
    error = np.zeros(20)
    for judge, rows, count in zip(judges, blocks(held_out), kept, strict=True):
        basis = judge.components_[:count]
        centred = rows - judge.mean_
        error += ((centred - centred @ basis.T @ basis) ** 2).sum(1)
    with torch.no_grad():
        assert np.allclose(mean_squared_error(network(held_out), held_out), error / 32**2, rtol=1e-3)


def test_a_cell_holds_its_own_leading_components():
    network = small()
    network.initialize_linear(films(300))
    place = network.order[network.kept // network.components].view(network.latent_shape)
    component = (network.kept % network.components).view(network.latent_shape)
    assert len(network.kept.unique()) == network.latent_size
    for cell in range(4):
        own = place.flatten(1)[:, cell] == cell
        assert own[: int(own.sum())].all()
        assert component.flatten(1)[own, cell].tolist() == list(range(int(own.sum())))


def test_the_lapped_transform_is_orthogonal_and_keeps_what_is_constant_in_a_block():
    lap = SpatialVAE(96, 9, (8,), stride=32, groups=1).lapping.double()
    assert torch.allclose(lap @ lap.T, torch.eye(96, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(lap @ torch.ones(96, dtype=torch.float64), torch.ones(96, dtype=torch.float64), atol=1e-5)
    assert (lap[32:64, :16] == 0).all()  # a block sees half of each neighbour
    assert (lap[32:64, 16:32] != 0).any()


def test_the_start_is_better_than_block_pca_of_as_many_values():
    images, held_out = films(400, 64), films(40, 64)
    network = small(image_size=64, latent_size=128, groups=4).eval()
    network.initialize_linear(images)
    blocks = baselines.block_pca(images, 128, held_out)
    assert blocks is not None
    with torch.no_grad():
        ours = mean_squared_error(network(held_out), held_out).mean()
    assert ours < 0.95 * mean_squared_error(blocks.reconstruct(held_out), held_out).mean()


def test_shapes_in_both_modes():
    network = small(image_size=48, latent_size=45)
    assert network.latent_shape == (5, 3, 3)
    x = films(2, 48)
    reconstruction, mu, logvar = network.train()(x)
    assert reconstruction.shape == x.shape
    assert mu.shape == logvar.shape == (2, 5, 3, 3)
    assert network.eval()(x).shape == x.shape
    assert torch.equal(network(x), network.decode(network.encode(x)[0]))


def test_script_equals_eager():
    network = random_weights(small())
    network.initialize_linear(films(60))
    random_weights(network)
    scripted = torch.jit.script(network)  # in train mode: the scripted form is the eval form all the same
    network.eval()
    x = films(4)
    with torch.no_grad():
        assert torch.equal(scripted(x), network(x))
        for eager, script in zip(network.encode(x), scripted.encode(x), strict=True):
            assert torch.equal(eager, script)
        z = torch.randn(2, 8, 2, 2)
        assert torch.equal(scripted.decode(z), network.decode(z))


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (2, 3, 32, 32), (1, 32, 32), (2, 1, 32, 16)])
def test_a_wrong_input_is_a_clear_error(shape: tuple[int, ...]):
    network = small().eval()
    with pytest.raises(ValueError, match=r"\(N, 1, 32, 32\)"):
        network(torch.zeros(shape))
    with pytest.raises(torch.jit.Error, match="expected films of shape"):
        torch.jit.script(network)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 40}, "image_size 40 is not a multiple"),
        ({"stride": 7, "image_size": 56}, "even stride"),
        ({"latent_size": 30}, "not a multiple of the 2 x 2 cells"),
        ({"latent_size": 0}, "positive"),
        ({"channels": ()}, "positive"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_one_film_has_no_principal_components():
    with pytest.raises(ValueError, match="two films"):
        small().initialize_linear(films(1))


def test_fewer_films_than_latents():
    network = small(latent_size=100).eval()
    images = films(5)
    network.initialize_linear(images)
    with torch.no_grad():
        assert torch.allclose(network(images), images, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_films_that_are_all_the_same():
    network = small(image_size=48, latent_size=45, groups=4).eval()
    images = films(1, 48).expand(6, -1, -1, -1)
    network.initialize_linear(images)
    with torch.no_grad():
        assert torch.allclose(network(images), images, atol=1e-4)
        assert network.encode(images)[1].isfinite().all()


def test_gradient_reaches_every_parameter():
    network = random_weights(small()).train()
    reconstruction, mu, logvar = network(films(2))
    (reconstruction.square().mean() + mu.square().mean() + logvar.mean()).backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_training_goes_below_block_pca_and_below_its_start():
    """Bright discs on a dark ground: what a linear code leaves over is not noise, so corrections have a use."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")

    def discs(n: int) -> Tensor:
        y, x, radius = (torch.rand(3, n, 1, 1, 1) * torch.tensor([16, 16, 4]).view(3, 1, 1, 1, 1)).unbind()
        return torch.sigmoid(6 + radius - ((rows - 8 - y) ** 2 + (columns - 8 - x) ** 2).sqrt())

    images, held_out = discs(600), discs(100)
    network = small(latent_size=40, channels=(24,))
    network.initialize_linear(images)

    @torch.no_grad()
    def measure() -> tuple[float, float]:
        torch.manual_seed(1)
        loss = VAELoss(1e-6)(network.train()(held_out), held_out)
        return float(loss), float(mean_squared_error(network.eval()(held_out), held_out).mean())

    loss_before, error_before = measure()
    loss_function = VAELoss(1e-6)
    optimizer = torch.optim.AdamW(parameter_groups(network, 5e-3), betas=(0.9, 0.99))
    network.train()
    for _ in range(150):
        batch = images[torch.randint(len(images), (32,))]
        optimizer.zero_grad()
        loss_function(network(batch), batch).backward()
        optimizer.step()
    loss, error = measure()
    blocks = baselines.block_pca(images, 40, held_out)
    assert blocks is not None
    assert loss < 0.95 * loss_before
    assert error < 0.9 * error_before
    assert error < float(mean_squared_error(blocks.reconstruct(held_out), held_out).mean())
