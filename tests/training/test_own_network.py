"""A network of no preset through the bundle's own training: MONAI's VarAutoEncoder, and its weights file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_cxr_vae import load_model
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.model import create_model, save_model

MONAI: dict[str, Any] = {
    "_target_": "monai_cxr_vae.networks.MonaiVAE",
    "model": {
        "_target_": "VarAutoEncoder",
        "spatial_dims": 2,
        "in_shape": [1, 16, 16],
        "out_channels": 1,
        "latent_size": 4,
        "channels": [8, 16],
        "strides": [2, 2],
    },
    "image_size": 16,
}
OWN = dict.fromkeys(("image_size", "latent_size", "channels", "width")) | {
    "network_def#network": MONAI,
    "learning_rate": 0.02,
}

pytestmark = pytest.mark.training


def network() -> torch.nn.Module:
    return ConfigParser({"network": MONAI}).get_parsed_content("network")


@pytest.fixture
def weights(tiny) -> Path:
    workflow = tiny.workflow(**OWN)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return tiny.folder / "run" / "model.pt"


def test_it_trains_and_gets_what_a_vector_of_latents_gets(tiny, weights: Path):
    with (tiny.folder / "run" / "metrics.csv").open(newline="") as lines:
        errors = [float(row["train/mse"]) for row in csv.DictReader(lines)]
    assert errors[-1] < 0.6 * errors[0]
    model = load_model(weights, network())
    assert repr(model).startswith("RadiographVAE(network MonaiVAE, 16 x 16 pixels (stretch), 4 latents, ")
    assert 0 < float(model.sigma) < 0.5
    assert model.sample(2, seed=1).shape == (2, 1, 16, 16)
    assert len(model.scorer.quality_calibration) == 10
    assert not any(parameter.requires_grad for parameter in model.parameters())
    save_model(model, tiny.folder / "again.pt")
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(load_model(tiny.folder / "again.pt", network())(x), model(x))
    assert torch.equal(create_model(weights, network=network()).eval()(x), model(x))


def test_the_weights_ask_for_the_network_that_they_are_of(weights: Path):
    with pytest.raises(InputError, match="of a network of one's own, which must be given too"):
        load_model(weights)
    with pytest.raises(InputError, match="these are weights of preset 'vector'"):
        load_model("model", network())
    other = network()
    other.image_size = 32
    with pytest.raises(InputError, match="encode of network MonaiVAE fails for a film: "):
        load_model(weights, other)
    with pytest.raises(InputError, match="preset, latent_size cannot be given together with a network"):
        create_model(preset="vector", latent_size=4, network=network())


def test_a_resumed_run_equals_an_uninterrupted_one(tiny, weights: Path):
    workflow = tiny.workflow("parts", **OWN)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
    workflow.run()
    workflow = tiny.workflow("parts", **OWN, resume=True)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    whole, parts = (load_model(tiny.folder / run / "model.pt", network()).state_dict() for run in ("run", "parts"))
    assert all(torch.equal(parts[name], value) for name, value in whole.items() if name != "_extra_state")


def test_it_is_evaluated_and_reconstructs_a_folder(tiny, weights: Path):
    configs = Path(bundle_root()) / "configs"
    common = {"weights": str(weights), "dataset_dir": str(tiny.folder / "val"), "network_def#network": MONAI}
    evaluated, made = tiny.folder / "evaluated", tiny.folder / "made"
    for names, settings in (
        (("train", "evaluate"), {"output_dir": str(evaluated)}),
        (("inference",), {"output_dir": str(made), "num_workers": 1, "scores": False}),
    ):
        files = [str(configs / f"{name}.json") for name in names]
        workflow = ConfigWorkflow(files, logging_file=False, device="cpu", **common, **settings)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    assert json.loads((evaluated / "evaluation.json").read_text())["latent_size"] == 4
    assert len(list((made / "images").glob("*.png"))) == 10


def test_a_network_that_lacks_something_is_refused_before_the_first_step(tiny):
    wrong = {"network_def#network": {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}}
    workflow = tiny.workflow(**OWN | wrong)
    workflow.initialize()
    with pytest.raises(RuntimeError) as refused:
        workflow.run()
    cause: BaseException | None = refused.value
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    assert str(cause) == "network Linear has no encode, decode, image_size, latent_shape"
