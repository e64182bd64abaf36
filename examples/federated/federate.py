"""Sites that train together without sending films, in NVFLARE's simulator on one computer.

    python examples/federated/federate.py OUT [--films FOLDER] [--weights NAME] [--rounds 8] ...

FOLDER holds the films of a site in ``train/SITE`` and others of it in ``test/SITE``; without it three sites of phantom
films are drawn, each with a technique of its own. The server's average is compared with each site alone and with a
training on all films together, on the same settings and with as many passes over the films.
``OUT/figures.json`` tells the PSNR of each on the test films of each site; ``OUT/global.pt`` is the server's model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv
from torch import Tensor

from monai_cxr_vae.data import FilmDataset, datalist, film_transforms
from monai_cxr_vae.data.phantom import render
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.metrics import peak_signal_to_noise_ratio
from monai_cxr_vae.model import RadiographVAE, create_model, save_model
from monai_cxr_vae.training import SharedWeights, forget_statistics

# Gamma, contrast about middle grey, and blur in pixels of a film of 128: what another tube, detector and software do.
TECHNIQUES = {"north": (1.0, 1.0, 0.0), "south": (1.7, 1.0, 0.8), "west": (0.6, 0.7, 0.0)}


def draw_sites(folder: Path, count: int, size: int = 128) -> None:
    """Films of three sites of phantoms: ``count`` in ``train/SITE`` and a quarter as many in ``test/SITE``."""
    for number, (name, (gamma, contrast, blur)) in enumerate(TECHNIQUES.items()):
        for i in range(count + count // 4):
            image = contrast * (render((number, i), size).image ** gamma - 0.5) + 0.5
            image = cv2.GaussianBlur(image, (0, 0), blur) if blur else image
            path = folder / ("train" if i < count else "test") / name / f"{name}_{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.rint(255 * image).astype(np.uint8))


def new_network(image_size: int, latent_size: int) -> RadiographVAE:
    """One that nobody has shown films of patients: it starts from the principal components of phantom films."""
    torch.manual_seed(0)
    model = create_model(image_size=image_size, latent_size=latent_size)
    films = [torch.from_numpy(render((99, i), image_size).image)[None] for i in range(2 * latent_size)]
    model.network.initialize_linear(torch.stack(films))
    return model


def average(out: Path, films: Path, sites: list[str], rounds: int, **training: float) -> dict[str, Tensor]:
    """What the server ends with."""
    os.environ.update(FEDERATED_FILMS=str(films / "train"), FEDERATED_OUTPUT=str(out / "sites"))
    with contextlib.chdir(Path(__file__).parent):  # NVFLARE takes only a script with a relative path along to the sites
        recipe = FedAvgRecipe(
            name="average",
            model={"class_path": "monai_cxr_vae.training.shared_weights", "args": {"weights": str(out / "start.pt")}},
            min_clients=len(sites),
            num_rounds=rounds,
            train_script="client.py",
            train_args=" ".join(f"--{name} {value}" for name, value in training.items()),
        )
        recipe.add_client_file(str(out / "start.pt"))
        recipe.run(SimEnv(clients=sites, num_threads=len(sites), workspace_root=str(out / "nvflare")))
    (file,) = (out / "nvflare").rglob("FL_global_model.pt")
    return torch.load(file, weights_only=True)["model"]


def alone(out: Path, films: Path, epochs: int, learning_rate: float, batch_size: int) -> dict[str, Tensor]:
    """What the same training gives from films of one folder."""
    workflow = ConfigWorkflow(
        config_file=[str(Path(bundle_root()) / "configs" / f"{name}.json") for name in ("train", "federated")],
        workflow_type="train",
        logging_file=False,
        weights=out / "start.pt",
        dataset_dir=films,
        output_dir=out / "alone" / films.name,
        cache_dir=out / "cache",
        val_fraction=0.2,
        max_epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
    )
    workflow.initialize()
    workflow.run()
    return workflow.trainer.network.state_dict()


@torch.no_grad()
def psnr(model: RadiographVAE, folder: Path, cache: Path) -> float:
    """Mean over the films of a folder."""
    films = FilmDataset(datalist(folder), film_transforms(model.image_size, model.fit), cache)
    batches = (batch["image"] for batch in films.batches())
    values = [peak_signal_to_noise_ratio(model.reconstruct(images), images) for images in batches]
    return float(torch.cat(values).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--films", type=Path, help="see above")
    parser.add_argument("--count", type=int, default=120, help="phantom films of a site (default: %(default)s)")
    parser.add_argument("--weights", help="weights to begin with; a new network unless given")
    parser.add_argument("--image_size", type=int, default=64, help="of a new network (default: %(default)s)")
    parser.add_argument("--latent_size", type=int, default=32, help="of a new network (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--local_epochs", type=int, default=2, help="epochs of a round (default: %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=16, help="(default: %(default)s)")
    arguments = parser.parse_args()
    out, films = arguments.out.resolve(), (arguments.films or arguments.out / "films").resolve()
    out.mkdir(parents=True, exist_ok=True)
    if arguments.films is None:
        draw_sites(films, arguments.count)
    sites = sorted(folder.name for folder in (films / "train").iterdir())
    begin = arguments.weights
    save_model(
        create_model(begin) if begin else new_network(arguments.image_size, arguments.latent_size), out / "start.pt"
    )

    model = create_model(out / "start.pt")
    shared, forms = SharedWeights(model), {"learning_rate": arguments.learning_rate, "batch_size": arguments.batch_size}
    epochs = arguments.rounds * arguments.local_epochs
    weights = {"start": {name: value.clone() for name, value in shared.state_dict().items()}}
    weights["average"] = average(out, films, sites, arguments.rounds, local_epochs=arguments.local_epochs, **forms)
    for site in sites:
        weights[f"{site} alone"] = alone(out, films / "train" / site, epochs, **forms)
    weights["pooled"] = alone(out, films / "train", epochs, **forms)
    figures = {}
    for name, values in weights.items():
        shared.load_state_dict(values)
        figures[name] = {site: psnr(model.eval(), films / "test" / site, out / "cache") for site in sites}
        figures[name]["mean"] = float(np.mean(list(figures[name].values())))
    (out / "figures.json").write_text(json.dumps(figures, indent=4))
    print("PSNR in dB on test films of".ljust(28), *(f"{site:>8}" for site in (*sites, "mean")))
    for name, values in figures.items():
        print(name.ljust(28), *(f"{value:8.2f}" for value in values.values()))

    shared.load_state_dict(weights["average"])
    forget_statistics(model)
    save_model(model, out / "global.pt")


if __name__ == "__main__":
    main()
