"""One weights file, opened in every way that MONAI's tools open it."""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.handlers import CheckpointLoader
from scipy import stats

from monai_cxr_vae import load_model
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.model import RadiographVAE, create_model, save_model, save_state, weights_file
from monai_cxr_vae.networks import VectorFlow

TINY = {"image_size": 16, "latent_size": 4, "channels": (8,), "width": 16}


@pytest.fixture
def model() -> RadiographVAE:
    torch.manual_seed(0)
    model = RadiographVAE(**TINY, fit="letterbox")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.sigma.fill_(0.05)
    model.latent_mean.copy_(torch.arange(4.0))
    root = torch.randn(4, 4)
    model.latent_covariance.copy_(root @ root.T)
    model.settings["training"] = {"films": 7}
    return model.eval()


@pytest.fixture
def weights(model: RadiographVAE, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def assert_same_network(one: torch.nn.Module, other: torch.nn.Module) -> None:
    x = torch.rand(3, 1, 16, 16)
    assert torch.equal(one.eval()(x), other.eval()(x))


def test_the_file_is_a_flat_dictionary_of_tensors(weights: Path):
    state = torch.load(weights, weights_only=True)
    assert isinstance(state, dict)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert not list(weights.parent.glob(".*tmp*"))


def test_load_model_restores_network_geometry_statistics_and_settings(model: RadiographVAE, weights: Path):
    loaded = load_model(weights)
    assert not loaded.training
    assert loaded.fit == "letterbox"
    assert loaded.settings == model.settings
    assert torch.equal(loaded.latent_covariance, model.latent_covariance)
    assert_same_network(model, loaded)


@pytest.mark.parametrize("nested", [False, True])
def test_monai_checkpoint_loader_opens_it(model: RadiographVAE, weights: Path, tmp_path: Path, nested: bool):
    path = weights
    if nested:
        path = tmp_path / "nested.pt"
        torch.save({"model": torch.load(weights, weights_only=True)}, path)
    other = RadiographVAE(**TINY, fit="letterbox")
    engine = Engine(lambda engine, batch: None)
    CheckpointLoader(str(path), {"model": other}).attach(engine)
    engine.run([0])
    assert other.settings["training"] == {"films": 7}
    assert_same_network(model, other)


def test_weights_of_another_geometry_are_refused(weights: Path):
    with pytest.raises(InputError, match="these weights were made with preprocessing"):
        RadiographVAE(**TINY, fit="stretch").load_state_dict(torch.load(weights, weights_only=True))


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_what_is_no_weights_file_is_one_clear_error(tmp_path: Path, content: bytes | None):
    path = tmp_path / "x.pt"
    if content is None:
        torch.save(OrderedDict(weight=torch.zeros(1)), path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"is not a weights file"):
        load_model(path)
    with pytest.raises(InputError, match=r"no weights file"):
        load_model(tmp_path / "absent.pt")


@pytest.mark.parametrize(
    "settings", ["text", [], {"version": 1}, {"version": 1, "network": {"preset": "vector"}, "preprocessing": None}]
)
def test_damaged_settings_are_one_clear_error(weights: Path, settings: object):
    state = torch.load(weights, weights_only=True)
    if settings != "text":
        settings = torch.frombuffer(bytearray(json.dumps(settings).encode()), dtype=torch.uint8)
    torch.save(state | {"_extra_state": settings}, weights)
    with pytest.raises(InputError, match="settings are damaged"):
        load_model(weights)


def test_weights_that_are_not_finite_are_refused_and_missing_statistics_are_not(model: RadiographVAE, weights: Path):
    model.sigma.fill_(float("nan"))
    save_model(model, weights)
    load_model(weights)
    torch.nn.init.constant_(next(model.parameters()), float("nan"))
    save_model(model, weights)
    with pytest.raises(InputError, match="holds weights that are not finite"):
        load_model(weights)


def test_a_folder_does_not_hide_the_name_of_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spatial").mkdir()
    assert weights_file("spatial").parts[-2:] == ("models", "spatial.pt")


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(state: object, file: io.BufferedWriter) -> None:
        file.write(b"some")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        save_state({}, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_scripted_network_is_the_network(model: RadiographVAE):
    x = torch.rand(2, 1, 16, 16)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(x), model(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scripted.encode(x)[0], model.encode(x)[0], rtol=1e-6, atol=1e-6)


def test_samples_follow_the_stored_gaussian(model: RadiographVAE, monkeypatch: pytest.MonkeyPatch):
    latents: list[torch.Tensor] = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda z: latents.append(z) or decode(z))
    films = model.sample(4000, seed=3)
    assert films.shape == (4000, 1, 16, 16)
    assert films.min() >= 0
    assert films.max() <= 1
    # whitened by the stored statistics, every coordinate must be standard normal
    root = np.linalg.cholesky(model.latent_covariance.double().numpy())
    white = np.linalg.solve(root, (latents[0].double() - model.latent_mean).numpy().T)
    assert min(stats.kstest(row, "norm").pvalue for row in white) > 0.001
    assert torch.equal(model.sample(2, seed=5), model.sample(2, seed=5))
    assert not torch.equal(model.sample(2, seed=5), model.sample(2, seed=6))


def test_samples_follow_the_flow_where_the_weights_hold_one(model: RadiographVAE, tmp_path: Path):
    torch.manual_seed(0)
    gaussian = model.sample(4, seed=3)
    model.latent_flow = VectorFlow(model.latent_size).eval()
    model.latent_flow.whiten(2 + torch.randn(50, model.latent_size))
    save_model(model, tmp_path / "model.pt", half=True)
    again = load_model(tmp_path / "model.pt")
    assert again.latent_flow is not None
    assert not any(parameter.requires_grad for parameter in again.latent_flow.parameters())
    films = again.sample(4, seed=3)
    noise = torch.randn(4, model.latent_size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = again.decode(again.latent_flow.mean + noise @ again.latent_flow.root.T).clamp(0, 1)
    torch.testing.assert_close(films, expected, atol=2e-3, rtol=0)
    assert not torch.allclose(films, gaussian, atol=0.01)
    # a network that has a flow takes weights that have none
    again.load_state_dict(RadiographVAE(**TINY, fit="letterbox").state_dict())
    assert again.latent_flow is None


def test_films_like_another_need_levels(model: RadiographVAE):
    with pytest.raises(InputError, match="several levels"):
        model.sample(1, like=torch.rand(1, 1, 16, 16))


def test_sampling_before_the_statistics_are_fitted_says_so():
    fresh = RadiographVAE(**TINY)
    with pytest.raises(InputError, match="not fitted"):
        fresh.sample(1)
    assert fresh.sample(1, distribution="prior").shape == (1, 1, 16, 16)


def test_fine_tuning_keeps_the_network_of_the_weights(model: RadiographVAE, weights: Path):
    assert_same_network(create_model(weights, latent_size=4, preset="vector", fit="letterbox"), model)
    for name, value, own in (("latent_size", 8, 4), ("preset", "compact", "vector"), ("fit", "stretch", "letterbox")):
        with pytest.raises(InputError, match=f"^{name} {value} contradicts the weights file, which has {own}$"):
            create_model(weights, **{name: value})


def test_a_new_network_has_the_default_preset_and_fit():
    model = create_model(**TINY)
    assert (model.settings["network"]["preset"], model.fit) == ("vector", "stretch")


@pytest.mark.parametrize("arguments", [{"preset": "huge"}, {"fit": "crop"}, {"image_size": 63}, {"stride": 8}])
def test_impossible_networks_are_refused(arguments: dict[str, object]):
    with pytest.raises(InputError):
        RadiographVAE(**arguments)  # type: ignore[arg-type]
