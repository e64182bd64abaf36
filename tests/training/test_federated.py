"""Federated averaging with two of MONAI's own clients (MonaiAlgo) on a server that only averages."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import run
from monai.engines import Trainer
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor

from monai_cxr_vae import load_model
from monai_cxr_vae.data.phantom import render, write_phantoms
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.model import RadiographVAE, create_model, save_model
from monai_cxr_vae.networks import PRESETS
from monai_cxr_vae.training import SharedWeights, forget_statistics, shared_weights

pytestmark = pytest.mark.training
CONFIGS = ["configs/train.json", "configs/federated.json"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders with films in ``films``."""
    folders = [tmp_path_factory.mktemp(name) for name in ("north", "south")]
    for seed, folder in enumerate(folders):
        write_phantoms(folder / "films", 24, seed, "png", size=72)
    return folders


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new network, from the principal components of phantom films that the server has drawn itself."""
    torch.manual_seed(0)
    model = RadiographVAE("vector", image_size=32, latent_size=8, channels=[8], width=32)
    model.network.initialize_linear(torch.stack([torch.from_numpy(render((9, i), 32).image)[None] for i in range(24)]))
    path = tmp_path_factory.mktemp("server") / "start.pt"
    save_model(model, path)
    return path


class Watch:
    """Looks at a client's network whenever its trainer starts, and after each step."""

    def __init__(self, trainer: Trainer) -> None:
        self.network: Any = trainer.network
        self.form = form(self.network.state_dict())
        self.at_start: list[dict[str, Tensor]] = []
        self.steps = 0
        trainer.add_event_handler(Events.STARTED, self.started)
        trainer.add_event_handler(Events.ITERATION_STARTED, self.step)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self.step_done)

    def started(self) -> None:
        self.starting = True

    def step(self) -> None:
        # Not when the run starts: a handler that comes after this one could still change the weights.
        if self.starting:
            self.at_start.append({name: value.clone() for name, value in self.network.state_dict().items()})
        self.starting = False

    def step_done(self) -> None:
        self.steps += 1
        assert form(self.network.state_dict()) == self.form


class Federation:
    """A server and its clients."""

    def __init__(self, sites: list[Path], weights: str | Path, differences: bool, output: str, **settings: Any) -> None:
        self.weights = {name: value.clone() for name, value in shared_weights(weights).state_dict().items()}
        self.differences = differences
        self.clients = []
        for site in sites:
            own = {"weights": weights, "dataset_dir": site / "films", "output_dir": site / output, "val_fraction": 0.25}
            own |= {"cache_dir": site / "cache", "batch_size": 6, "device": "cpu", "num_threads": 1} | settings
            client = MonaiAlgo(
                bundle_root=str(bundle_root()),
                local_epochs=2,
                config_train_filename=CONFIGS,
                config_evaluate_filename=CONFIGS,
                train_kwargs=dict(own),
                eval_kwargs=dict(own),
                send_weight_diff=differences,
            )
            client.initialize(extra={ExtraItems.CLIENT_NAME: site.name})
            self.clients.append(client)
        self.watches = [Watch(client.trainer) for client in self.clients]

    def psnr(self) -> float:
        """Mean over both clients' validation films."""
        each = [client.evaluate(ExchangeObject(weights=self.weights)).metrics["psnr"] for client in self.clients]
        return sum(each) / len(each)

    def round(self) -> None:
        """Every client trains, and the server takes the mean of what they send."""
        sent = []
        for client, watch in zip(self.clients, self.watches, strict=True):
            client.train(ExchangeObject(weights=dict(self.weights)))
            assert all(torch.equal(value, self.weights[name]) for name, value in watch.at_start[-1].items())
            answer = client.get_weights()
            assert answer.weight_type == (WeightType.WEIGHT_DIFF if self.differences else WeightType.WEIGHTS)
            assert form(answer.weights) == form(self.weights)
            sent.append(answer.weights)
        mean = {name: torch.stack([weights[name] for weights in sent]).mean(0) for name in self.weights}
        self.weights = {name: self.weights[name] + mean[name] for name in mean} if self.differences else mean


def form(weights: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype, bool]]:
    """Name, shape and type of each tensor, and whether all of it is finite."""
    return {name: (value.shape, value.dtype, bool(value.isfinite().all())) for name, value in weights.items()}


@pytest.mark.parametrize("differences", [False, True], ids=["weights", "differences"])
@pytest.mark.parametrize(("weights", "learning_rate"), [(None, 0.002), ("compact", 0.0003)], ids=["new", "shipped"])
def test_every_round_starts_from_the_server_and_makes_it_better(
    sites: list[Path], start: Path, weights: str | None, learning_rate: float, differences: bool
) -> None:
    output = f"{weights}-{differences}"
    federation = Federation(sites, weights or start, differences, output, learning_rate=learning_rate)
    quality = [federation.psnr()]
    for _ in range(3):
        federation.round()
        quality.append(federation.psnr())
    assert quality == sorted(set(quality)), quality
    for site, client, watch in zip(sites, federation.clients, federation.watches, strict=True):
        assert len(watch.at_start) == 3
        assert watch.steps == client.trainer.state.iteration > 0
        with (site / output / "metrics.csv").open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
        assert all(float(row["val/psnr"]) > 0 for row in rows)


def test_full_weights_and_differences_are_one_federation(sites: list[Path], start: Path) -> None:
    ends = []
    for differences in (False, True):
        federation = Federation(sites, start, differences, f"same-{differences}")
        federation.round()
        ends.append(federation.weights)
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_shared_are_the_trained_parameters_and_nothing_else(preset: str) -> None:
    model = RadiographVAE(preset)
    frozen = next(iter(model.parameters())).requires_grad_(False)
    shared = SharedWeights(model).state_dict()
    trained = {id(value) for value in model.parameters() if value is not frozen}
    assert {value.data_ptr() for value in shared.values()} == {
        value.data_ptr() for value in model.parameters() if id(value) in trained
    }
    assert all(value.dtype == torch.float32 for value in shared.values())


def test_weights_of_another_network_are_refused(start: Path) -> None:
    shared = shared_weights(start)
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    others = [
        shared_weights("compact").state_dict(),
        dict(list(before.items())[1:]),
        before | {"sigma": torch.ones(())},
    ]
    for other in others:
        with pytest.raises(InputError, match="another network"):
            shared.load_state_dict(other)
    assert all(torch.equal(value, before[name]) for name, value in shared.state_dict().items())


def test_statistics_and_scores_are_fitted_at_the_end(sites: list[Path], tmp_path: Path) -> None:
    model = create_model("model")
    shared = SharedWeights(model)
    critic = {name: value.clone() for name, value in model.state_dict().items() if "scorer.critic." in name}
    shared.load_state_dict({name: 1.001 * value for name, value in shared.state_dict().items()})
    forget_statistics(model)
    save_model(model, tmp_path / "global.pt")
    whole = load_model(tmp_path / "global.pt")
    with pytest.raises(InputError, match="not fitted"):
        whole.sample(1)
    run(
        run_id="fitting",
        config_file=[str(Path(bundle_root()) / name) for name in CONFIGS],
        logging_file=False,
        weights=tmp_path / "global.pt",
        dataset_dir=sites[0] / "films",
        val_dataset_dir=sites[1] / "films",
        output_dir=tmp_path / "own",
        cache_dir=tmp_path / "cache",
        device="cpu",
        num_threads=1,
    )
    own = load_model(tmp_path / "own" / "model.pt")
    assert all(torch.equal(value, own.get_parameter(f"{name}")) for name, value in shared.state_dict().items())
    assert own.sigma.isfinite()
    assert own.sample(1).isfinite().all()
    assert own.settings["calibration"]["films"] == 24
    assert critic
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in critic.items())
