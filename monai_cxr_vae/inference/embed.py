"""Latents of films, as numbers for other programs and for TensorBoard's projector."""

from __future__ import annotations

import csv
import io
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_cxr_vae.data import FilmDataset, film_transforms
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import write_whole
from monai_cxr_vae.model import RadiographVAE

MOST_POINTS = 10_000  # a browser turns no more of them smoothly
_SHEET = 4096  # largest side of the picture that holds all thumbnails, pixels
_THUMBNAIL = 64


@torch.no_grad()
def embed(
    model: RadiographVAE,
    data: Sequence[dict[str, Any]],
    output: str | os.PathLike,
    paths: bool = False,
    columns: bool = False,
    projector: bool = False,
    skip_unreadable: bool = False,
    bits: int | None = None,
) -> int:
    """Write ``latents.npz`` and ``latents.csv`` of films.

    Both have one row per film in the list's order, named by the SHA-256 of the file: ``input_sha256``, ``mu`` and
    ``logvar`` ``(N, *latent_shape)`` float32 in the npz; ``input_sha256, mu_0, mu_1, ...`` in the csv, a grid
    channel by channel.

    Args:
        model: in evaluation mode.
        data: the films, ``[{"image": path, ...}, ...]``.
        output: folder of the files, made when missing.
        paths: add each film's path, which may tell who the patient is.
        columns: add what else stands in ``data`` of each film (a label of the list, and any other key), as text, empty
            where there is nothing; it may tell who the patient is.
        projector: write the folder ``projector`` too, with the same columns and a thumbnail of each film, for
            ``tensorboard --logdir``; of more than 10,000 films that many are taken, evenly chosen.
        skip_unreadable: leave out films that cannot be read; ``unreadable.csv`` lists them either way.
        bits: depth of 16-bit PNG, see :func:`monai_cxr_vae.read_radiograph`.

    Returns:
        Number of films.

    Raises:
        InputError: films that cannot be read, or a grid of latents where the projector is asked for.
        OutputError: a file cannot be written.
    """
    if projector and len(model.latent_shape) > 1:
        raise InputError("a grid of latents is too large for the projector; presets with a vector of latents fit")
    output = Path(output)
    transform = film_transforms(model.image_size, model.fit, bits)
    films = FilmDataset(data, transform, None, output / "unreadable.csv", skip_unreadable)
    parts = [model.encode(batch["image"]) for batch in films.batches("latents")]
    mu, logvar = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    names = {"input_sha256": films.digests}
    if paths:  # which may hold bytes that are no text
        names["path"] = [os.fsencode(item["image"]).decode(errors="backslashreplace") for item in films.data]
    if columns:
        own = dict.fromkeys(name for item in films.data for name in item if name not in ("image", *names))
        names |= {name: [_text(item.get(name)) for item in films.data] for name in own}
    arrays: dict[str, Any] = {name: np.array(values) for name, values in names.items()} | {"mu": mu, "logvar": logvar}
    write_whole(output / "latents.npz", lambda file: np.savez(file, **arrays))
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer)
    rows = mu.reshape(len(mu), -1)
    table.writerow([*names, *(f"mu_{i}" for i in range(rows.shape[1]))])
    table.writerows([*row, *map(str, latents)] for *row, latents in zip(*names.values(), rows, strict=True))
    write_whole(output / "latents.csv", buffer.getvalue().encode(errors="backslashreplace"))
    if projector:
        chosen = np.linspace(0, len(films) - 1, min(len(films), MOST_POINTS)).round().astype(int)
        metadata = {name: [values[i] for i in chosen] for name, values in names.items()}
        write_projector(output / "projector", mu[chosen], metadata, _thumbnails(films, chosen))
    return len(films)


def write_projector(folder: Path, points: np.ndarray, columns: Mapping[str, Sequence[str]], pictures: Tensor) -> None:
    """Write points for the projector of TensorBoard, ``tensorboard --logdir FOLDER``.

    Args:
        folder: made when missing; what it holds is replaced, file by file, and the file that names the others last.
        points: ``(n, latents)``.
        columns: what is said of each point.
        pictures: ``(n, 1, s, s)`` in [0, 1].

    Raises:
        OutputError: a file cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    rows = [[" ".join(value.split()) for value in row] for row in zip(*columns.values(), strict=True)]
    # A single column has no header in this format.
    single = len(columns) == 1
    metadata, header = ([row[0] for row in rows], None) if single else (rows, list(columns))
    with tempfile.TemporaryDirectory() as name:
        with SummaryWriter(name) as writer:
            writer.add_embedding(points, metadata, pictures, tag="latents", metadata_header=header)
        config = Path(name) / "projector_config.pbtxt"
        for file in [*sorted(config.parent.glob("*/*/*")), config]:
            write_whole(folder / file.relative_to(name), file.read_bytes())


def _thumbnails(films: FilmDataset, chosen: np.ndarray) -> Tensor:
    view = films.view("image")
    side = min(view[:1].shape[-1], _THUMBNAIL, _SHEET // math.ceil(len(chosen) ** 0.5))
    parts = (view[part] for part in np.array_split(chosen, -(-len(chosen) // 64)))
    return torch.cat([F.interpolate(part, (side, side), mode="area") for part in parts])


def _text(value: Any) -> str:
    return "" if value is None else str(value)
