"""What runs at a site of NVFLARE: it trains on the site's own films and sends the change of the weights, nothing else.

The films are those of the folder named after the site in ``FEDERATED_FILMS``; what a site writes goes to the folder of
its name in ``FEDERATED_OUTPUT``. Neither is told to the server. ``start.pt`` comes with the job, beside this file.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import nvflare.client as flare
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from monai_cxr_vae.files import bundle_root

CONFIGS = ["configs/train.json", "configs/federated.json"]


def site(name: str, weights: Path, local_epochs: int, learning_rate: float, batch_size: int) -> MonaiAlgo:
    """MONAI's client for the films of a site."""
    films, output = (Path(os.environ[f"FEDERATED_{what}"]) / name for what in ("FILMS", "OUTPUT"))
    settings = {"weights": weights, "dataset_dir": films, "output_dir": output, "cache_dir": output / "cache"}
    settings |= {"val_fraction": 0.2, "learning_rate": learning_rate, "batch_size": batch_size}
    client = MonaiAlgo(
        bundle_root=str(bundle_root()),
        local_epochs=local_epochs,
        config_train_filename=CONFIGS,
        config_evaluate_filename=None,  # the training validates, and its metrics.csv stays at the site
        train_kwargs=settings,
    )
    client.initialize(extra={ExtraItems.CLIENT_NAME: name})
    return client


def trained(client: MonaiAlgo, received: flare.FLModel) -> flare.FLModel:
    """One round: by how much the site's films change the server's weights. No metric and no count goes along."""
    client.train(ExchangeObject(weights=received.params))
    change = client.get_weights().weights
    return flare.FLModel(params_type=flare.ParamsType.DIFF, params=change)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local_epochs", type=int, required=True)
    parser.add_argument("--learning_rate", type=float, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    arguments = vars(parser.parse_args())
    flare.init()
    client = site(flare.get_site_name(), Path(__file__).with_name("start.pt"), **arguments)
    while flare.is_running():
        flare.send(trained(client, flare.receive()))


if __name__ == "__main__":
    main()
