"""Going on from a bundle's own weights on films that have come since, and putting the better weights in their place."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from monai_cxr_vae.data.cache import FilmDataset
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.metrics import peak_signal_to_noise_ratio
from monai_cxr_vae.model import RadiographVAE, load_model, save_model

logger = logging.getLogger(__name__)

# Of a run that starts from good weights: a tenth of what a new network gets.
LEARNING_RATE = 1e-4


def update_bundle(
    bundle_root: str,
    data: Sequence[dict[str, Any]],
    val_data: Sequence[dict[str, Any]],
    max_epochs: int,
    device: str | torch.device,
    output_dir: str,
) -> None:
    """Train ``models/model.pt`` of a bundle further and replace it, whole or not at all, if that made it better.

    MONAI Label calls this as run id ``update``: it hands over the films, the number of epochs and the device through
    ids of ``train.json``. Better is a higher mean PSNR over the validation films.

    Args:
        bundle_root: the bundle, whose ``configs/train.json`` trains.
        data: ``[{"image": path}, ...]``.
        val_data: the same for validation; if there are none, the training films choose the best epoch.
        max_epochs: number of epochs.
        device: where to train.
        output_dir: folder of the run.

    Raises:
        InputError: no films, or none that can be read.
    """
    if not data:
        raise InputError("there are no films to train on")
    weights = Path(bundle_root) / "models" / "model.pt"
    settings: dict[str, Any] = {
        "bundle_root": bundle_root,
        "weights": weights,
        # Paths, which no config takes for expressions.
        "train#dataset#data": [{"image": Path(item["image"])} for item in data],
        "validate#dataset#data": [{"image": Path(item["image"])} for item in val_data or data],
        "skip_unreadable": True,
        "max_epochs": max_epochs,
        "learning_rate": LEARNING_RATE,
        "device": str(device),
        "output_dir": output_dir,
    }
    config = str(Path(bundle_root) / "configs" / "train.json")
    run = ConfigWorkflow(config_file=config, workflow_type="train", logging_file=False, **settings)
    run.initialize()
    films = run.parser.get_parsed_content("validate#dataset")
    before = _psnr(load_model(weights), films)
    run.run()
    run.finalize()
    model = load_model(Path(output_dir) / "model.pt")
    after = _psnr(model, films)
    if after > before:
        save_model(model, weights)
        logger.info("new weights: %.2f dB on %d validation films, %.2f dB before", after, len(films), before)
    else:
        logger.warning("the old weights stay: %.2f dB on %d validation films, %.2f dB now", before, len(films), after)


@torch.no_grad()
def _psnr(model: RadiographVAE, films: FilmDataset) -> float:
    values = [
        peak_signal_to_noise_ratio(model.reconstruct(batch["image"]), batch["image"], batch["mask"])
        for batch in films.batches()
    ]
    return float(torch.cat(values).mean())
