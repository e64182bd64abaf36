"""A training of the spatial preset through the bundle, and what its weights file can do."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader

from monai_cxr_vae import load_model
from monai_cxr_vae.data import datalist
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.evaluation import evaluate
from monai_cxr_vae.inference.embed import embed
from monai_cxr_vae.model import RadiographVAE, save_model

SPATIAL = {"preset": "spatial", "image_size": 16, "latent_size": 16, "stride": 8, "channels": [8]}
RUN = SPATIAL | {"width": None, "augment": False, "max_epochs": 2}

pytestmark = pytest.mark.training


@pytest.fixture
def weights(tiny) -> Path:
    workflow = tiny.workflow("run", **RUN)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return tiny.folder / "run" / "model.pt"


def test_the_weights_open_everywhere_and_do_what_a_grid_can(tiny, weights: Path):
    model = load_model(weights)
    assert model.latent_shape == (4, 2, 2)
    assert 0 < float(model.sigma) < 0.2
    assert model.settings["training"]["augment"] is False
    with pytest.raises(InputError, match="a grid of latents has no fitted distribution"):
        model.sample(1)

    other = RadiographVAE(**SPATIAL)
    engine = Engine(lambda engine, batch: None)
    CheckpointLoader(str(weights), {"model": other}).attach(engine)
    engine.run([0])
    x = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(other.eval()(x), model(x))
        assert torch.equal(torch.jit.script(model)(x), model(x))

    save_model(model, tiny.folder / "half.pt", half=True)
    with torch.no_grad():
        assert torch.allclose(load_model(tiny.folder / "half.pt")(x), model(x), atol=2e-3)

    count = embed(model, datalist(tiny.folder / "val"), tiny.folder / "latents")
    with np.load(tiny.folder / "latents" / "latents.npz") as latents:
        assert latents["mu"].shape == latents["logvar"].shape == (count, 4, 2, 2)
        with (tiny.folder / "latents" / "latents.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert np.array_equal(np.float32([row[1:] for row in rows[1:]]), latents["mu"].reshape(count, -1))

    films = torch.rand(12, 1, 16, 16)
    result = evaluate(model, films, None, tiny.folder / "evaluation")
    assert result["latent_size"] == result["active_units"]["of"] == 16


def test_a_resumed_run_equals_an_uninterrupted_one(tiny, weights: Path):
    whole = load_model(weights).state_dict()
    workflow = tiny.workflow("parts", **RUN)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda engine: engine.terminate())
    workflow.run()
    workflow = tiny.workflow("parts", **RUN, resume=True)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    parts = load_model(tiny.folder / "parts" / "model.pt").state_dict()
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
