"""Latents of a folder of films, as numbers for other programs."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_cxr_vae.data import FilmDataset, datalist, film_transforms
from monai_cxr_vae.files import write_whole
from monai_cxr_vae.model import RadiographVAE


@torch.no_grad()
def embed(
    model: RadiographVAE,
    folder: str | os.PathLike,
    output: str | os.PathLike,
    paths: bool = False,
    skip_unreadable: bool = False,
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
        skip_unreadable: leave out films that cannot be read; ``unreadable.csv`` lists them either way.
        bits: depth of 16-bit PNG, see :func:`monai_cxr_vae.read_radiograph`.

    Returns:
        Number of films.

    Raises:
        InputError: no film in the folder, or films that cannot be read.
    """
    output = Path(output)
    transform = film_transforms(model.image_size, model.fit, bits)
    films = FilmDataset(datalist(folder), transform, None, output / "unreadable.csv", skip_unreadable)
    parts = [model.encode(batch["image"]) for batch in films.batches("latents")]
    mu, logvar = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    names = {"input_sha256": films.digests}
    if paths:  # which may hold bytes that are no text
        names["path"] = [os.fsencode(item["image"]).decode(errors="backslashreplace") for item in films.data]
    arrays: dict[str, Any] = {"mu": mu, "logvar": logvar} | {name: np.array(values) for name, values in names.items()}
    write_whole(output / "latents.npz", lambda file: np.savez(file, **arrays))
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer)
    rows = mu.reshape(len(mu), -1)
    table.writerow([*names, *(f"mu_{i}" for i in range(rows.shape[1]))])
    table.writerows([*row, *map(str, latents)] for *row, latents in zip(*names.values(), rows, strict=True))
    write_whole(output / "latents.csv", buffer.getvalue().encode())
    return len(films)
