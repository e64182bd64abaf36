"""Learned priors: both phases of the hierarchical preset through the bundle, and fits whose answer is known."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from scipy import stats

from monai_cxr_vae import load_model
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.model import RadiographVAE, save_model
from monai_cxr_vae.networks import HierarchicalVAE, VectorFlow
from monai_cxr_vae.training import FlowInferer, PrecisionInferer, fit_vector_flow, model_with_priors

TINY = {"image_size": 64, "codes": 3, "normal_width": 8, "film_channels": [16, 16], "detail_channels": [16, 16]}
RUN = {"preset": "hierarchical", "image_size": 64, "latent_size": None, "max_epochs": 2}
ARGUMENTS = {f"network_def#{name}": value for name, value in TINY.items() if name != "image_size"}


def test_a_flow_fits_what_no_gaussian_can():
    """Two clusters: a Gaussian puts most of its mass between them."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2400, 2, generator=generator)
    side = torch.where(torch.rand(2400, generator=generator) < 0.3, -2.0, 2.0)
    vectors = torch.stack([side + 0.5 * noise[:, 0], 0.5 * noise[:, 1] + 0.2 * side], 1)
    flow = fit_vector_flow(vectors[:2000], vectors[2000:], epochs=400)
    gaussian = VectorFlow(2).eval()
    gaussian.whiten(vectors[:2000])
    start = torch.randn(2000, 2, generator=generator)
    with torch.no_grad():
        drawn, simple = flow.draw(start), gaussian.draw(start)
    far, near = (stats.ks_2samp(x[:, 0], vectors[:, 0]).statistic for x in (simple, drawn))
    assert near < 0.5 * far
    empty = [float((x[:, 0].abs() < 0.7).double().mean()) for x in (vectors, drawn, simple)]
    assert empty[0] < 0.01
    assert empty[1] < 0.5 * empty[2]
    assert not flow.training


def test_the_same_vectors_and_seed_give_the_same_flow():
    vectors = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)).exp()
    one, same, other = (fit_vector_flow(vectors, vectors, 150, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(same[name], value) for name, value in one.items())
    assert not torch.equal(other["last.weight"], one["last.weight"])


def test_too_few_vectors_leave_the_standard_normal():
    flow = fit_vector_flow(5 + torch.randn(3, 4), torch.randn(2, 4))
    noise = torch.randn(50, 4)
    torch.testing.assert_close(flow.draw(noise), noise, rtol=1e-3, atol=1e-3)


def test_only_the_flow_of_the_level_can_learn(tmp_path: Path):
    model = RadiographVAE("hierarchical", channels=[8], width=16, **TINY)
    save_model(model, tmp_path / "model.pt")
    ready = model_with_priors(tmp_path / "model.pt", "details")
    learning = {name for name, parameter in ready.named_parameters() if parameter.requires_grad}
    assert learning == {f"network.details.flow.{name}" for name, _ in ready.network.details.flow.named_parameters()}
    with pytest.raises(InputError, match="unknown level 'codes'; there are film, details"):
        model_with_priors(tmp_path / "model.pt", "codes")
    save_model(RadiographVAE(image_size=16, latent_size=4, channels=(8,), width=16), tmp_path / "vector.pt")
    with pytest.raises(InputError, match="no learned priors"):
        model_with_priors(tmp_path / "vector.pt", "film")


def test_what_a_flow_is_asked():
    """Of an untrained network the right answer's error is the latents' own, and a seed asks the same again."""
    torch.manual_seed(0)
    network = RadiographVAE("hierarchical", channels=[8], width=16, **TINY)
    films = torch.rand(8, 1, 64, 64)
    ask = FlowInferer("details", PrecisionInferer("cpu"), seed=3)
    velocity, target, linear = ask(films, network)
    assert velocity.shape == target.shape == (8, 15, 16, 16)
    torch.testing.assert_close(velocity.detach(), linear)
    assert torch.equal(ask(films, network)[1], target)
    assert not torch.equal(FlowInferer("details", PrecisionInferer("cpu"))(films, network)[1], target)
    velocity.square().mean().backward()
    assert {name.split(".")[1] for name, p in network.named_parameters() if p.grad is not None} == {"details"}


@pytest.fixture
def first(tiny) -> Path:
    """Weights of the first phase: codes and conditional normals."""
    rows, columns = np.mgrid[:64, :64]
    import cv2

    for part, count in (("train", 20), ("val", 10)):
        for i in range(count):
            centre = np.random.default_rng([count, i]).uniform(16, 48, 2)
            blob = 255 * np.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / 200)
            cv2.imwrite(str(tiny.folder / part / f"{i}.png"), blob.astype(np.uint8))
    workflow = tiny.workflow("first", **RUN, **ARGUMENTS)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return tiny.folder / "first" / "model.pt"


@pytest.mark.training
def test_both_phases_and_an_exact_resume(tiny, first: Path):
    model = load_model(first)
    assert isinstance(model.network, HierarchicalVAE)
    with (tiny.folder / "first" / "metrics.csv").open(newline="") as lines:
        log = list(csv.DictReader(lines))
    assert float(log[1]["val/negative_kl"]) > float(log[0]["val/negative_kl"])
    assert float(log[1]["val/kl"]) == -float(log[1]["val/negative_kl"])
    start = RadiographVAE("hierarchical", channels=[8], width=16, **TINY)
    assert not torch.equal(model.network.code_flow.root, start.network.code_flow.root)  # the codes' density is fitted

    configs = Path(bundle_root()) / "configs"
    tiny.config = [str(configs / "train.json"), str(configs / "prior.json")]
    none = dict.fromkeys(("image_size", "latent_size", "channels", "width"))
    for level in ("film", "details"):
        settings = none | {"weights": str(first), "level": level, "batch_size": 8, "max_epochs": 2, "val_interval": 1}
        workflow = tiny.workflow(level, **settings)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        trained = load_model(tiny.folder / level / "model.pt")
        own = dict(model.named_parameters())
        changed = {name for name, p in trained.named_parameters() if not torch.equal(p, own[name])}
        assert changed
        assert all(name.startswith(f"network.{level}.flow.") for name in changed)
        workflow = tiny.workflow(f"{level}-parts", **settings)
        workflow.initialize()
        trainer = workflow.parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda engine: engine.terminate())
        workflow.run()
        workflow = tiny.workflow(f"{level}-parts", **settings, resume=True)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        parts = load_model(tiny.folder / f"{level}-parts" / "model.pt").state_dict()
        assert all(torch.equal(parts[name], value) for name, value in trained.state_dict().items())
    films = trained.sample(3, seed=1)
    assert films.shape == (3, 1, 64, 64)
    assert films.isfinite().all()
