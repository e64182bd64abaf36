"""Latents of a folder of films, as numbers for other programs."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, LoadImaged

from monai_cxr_vae.data import FilmDataset, datalist
from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.transforms import FitToSquared


@torch.no_grad()
def embed(
    model: RadiographVAE,
    folder: str | os.PathLike,
    output: str | os.PathLike,
    paths: bool = False,
    bits: int | None = None,
) -> int:
    """Write ``latents.npz`` and ``latents.csv`` of all films of a folder.

    Both have one row per film in the folder's order, named by the SHA-256 of the file: ``input_sha256``, ``mu`` and
    ``logvar`` ``(N, *latent_shape)`` float32 in the npz; ``input_sha256, mu_0, mu_1, ...`` in the csv, a grid
    channel by channel.

    Args:
        model: in evaluation mode.
        folder: the films.
        output: folder of the two files, made when missing.
        paths: add each film's path, which may tell who the patient is.
        bits: depth of 16-bit PNG, see :func:`monai_cxr_vae.read_radiograph`.

    Returns:
        Number of films.

    Raises:
        InputError: no film in the folder, or films that cannot be read.
    """
    reader = "monai_cxr_vae.data.RadiographReader"
    load = LoadImaged("image", reader=reader, bits=bits, image_only=True, ensure_channel_first=True)
    films = FilmDataset(datalist(folder), Compose([load, FitToSquared("image", model.image_size, model.fit)]))
    parts = [model.encode(batch) for batch in films.batches()]
    mu, logvar = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    names = {"input_sha256": films.digests}
    if paths:  # which may hold bytes that are no text
        names["path"] = [os.fsencode(item["image"]).decode(errors="backslashreplace") for item in films.data]
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"mu": mu, "logvar": logvar} | {name: np.array(values) for name, values in names.items()}
    np.savez(output / "latents.npz", **arrays)
    with (output / "latents.csv").open("w", newline="") as file:
        table = csv.writer(file)
        rows = mu.reshape(len(mu), -1)
        table.writerow([*names, *(f"mu_{i}" for i in range(rows.shape[1]))])
        table.writerows([*row, *map(str, latents)] for *row, latents in zip(*names.values(), rows, strict=True))
    return len(films)
