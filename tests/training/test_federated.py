"""Federated averaging with two of MONAI's own clients (MonaiAlgo), server and network left away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor

from monai_cxr_vae import load_model
from monai_cxr_vae.data.phantom import render, write_phantoms
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.model import RadiographVAE, create_model, save_model
from monai_cxr_vae.paths import bundle_root
from monai_cxr_vae.training import SharedWeights, forget_statistics, shared_weights

pytestmark = pytest.mark.training
CONFIGS = ["configs/train.json", "configs/federated.json"]
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of films."""
    folders = [tmp_path_factory.mktemp(name) for name in ("north", "south")]
    for seed, folder in enumerate(folders):
        write_phantoms(folder / "films", 24, seed, "png", size=72)
    return folders


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new network that the server begins with, from the principal components of phantom films of its own."""
    torch.manual_seed(0)
    model = RadiographVAE("vector", image_size=32, latent_size=8, channels=[8], width=32)
    model.initialize_linear(torch.stack([torch.from_numpy(render((9, i), 32).image)[None] for i in range(24)]))
    path = tmp_path_factory.mktemp("server") / "start.pt"
    save_model(model, path)
    return path


class Federation:
    """A server that averages, and its clients."""

    def __init__(self, sites: list[Path], weights: str | Path, differences: bool, **settings: Any) -> None:
        self.clients = []
        for site in sites:
            own = {"weights": str(weights), "dataset_dir": str(site / "films"), "output_dir": str(site / "run")}
            own |= {"val_fraction": 0.25, "batch_size": 6, "device": "cpu", "num_threads": 1} | settings
            client = MonaiAlgo(
                bundle_root=str(bundle_root()),
                config_train_filename=CONFIGS,
                config_evaluate_filename=CONFIGS,
                train_kwargs=dict(own),
                eval_kwargs=dict(own),
                send_weight_diff=differences,
            )
            client.initialize(extra={ExtraItems.CLIENT_NAME: site.name})
            self.clients.append(client)
        self.weights = {name: value.clone() for name, value in shared_weights(weights).state_dict().items()}

    def psnr(self) -> float:
        """Mean over the clients' validation films."""
        each = [client.evaluate(ExchangeObject(weights=self.weights)).metrics["psnr"] for client in self.clients]
        return sum(each) / len(each)

    def round(self) -> None:
        sent = []
        for client in self.clients:
            client.train(ExchangeObject(weights=dict(self.weights)))
            answer = client.get_weights()
            assert answer.weight_type == (
                WeightType.WEIGHT_DIFF if client.send_weight_diff else WeightType.WEIGHTS
            )
            check_same_form(answer.weights, self.weights)
            sent.append(answer.weights)
        mean = {name: torch.stack([weights[name] for weights in sent]).mean(0) for name in self.weights}
        if self.clients[0].send_weight_diff:
            mean = {name: self.weights[name] + value for name, value in mean.items()}
        self.weights = mean


def check_same_form(weights: Weights, other: Weights) -> None:
    assert {name: value.shape for name, value in weights.items()} == {n: value.shape for n, value in other.items()}
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize("differences", [False, True], ids=["weights", "differences"])
@pytest.mark.parametrize("scratch", [True, False], ids=["scratch", "shipped"])
def test_three_rounds(sites: list[Path], start: Path, scratch: bool, differences: bool) -> None:
    federation = Federation(sites, start if scratch else "compact", differences, learning_rate=0.002 if scratch else 0.0003)
    values = [federation.psnr()]
    for _ in range(3):
        federation.round()
        values.append(federation.psnr())
    print(values)
    assert values == sorted(set(values)), values
