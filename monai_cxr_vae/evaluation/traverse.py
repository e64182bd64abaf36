"""Walks through the latent space, for people to look at: along leading directions, and from one film to another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import write_whole
from monai_cxr_vae.model import RadiographVAE

_STEP = 0.25  # of the differences that a derivative is taken from, in standard deviations
_AT_A_TIME = 32


class Directions(NamedTuple):
    """Directions in the latent space, the one first that changes films most."""

    steps: Tensor  # (k, latents): each one standard deviation of the films' latents long
    share: Tensor  # (k,) of what the latents change in films altogether, in squared intensity; sums to at most 1


@torch.no_grad()
def leading_directions(model: RadiographVAE, k: int) -> Directions:
    """Directions along which films differ most, as far as the latents tell.

    The latents of films are distributed about their mean with the covariance that the weights hold. To first order the
    decoder makes of it a covariance of films, of which these are the principal components, taken back to latents. No
    two of them go together in the films that the weights were fitted on. They are the model's, the same for every film.

    Args:
        model: in evaluation mode, with a vector of latents whose distribution is fitted.
        k: number of directions, at most that of latents.

    Raises:
        InputError: a grid of latents, or no distribution.
    """
    if not model.fits_latents:
        raise InputError("a grid of latents has no leading directions; presets with a vector of latents have")
    if not model.latent_covariance.isfinite().all():
        raise InputError("the latent distribution of these weights is not fitted; a finished training run fits it")
    eigenvalues, vectors = torch.linalg.eigh(model.latent_covariance.double())
    root = (vectors * eigenvalues.clamp(min=0).sqrt()).T.to(model.latent_mean)  # rows: one standard deviation each
    changes = []
    for step in root.split(_AT_A_TIME):
        ahead, behind = (model.decode(model.latent_mean + sign * _STEP * step) for sign in (1, -1))
        changes.append(((ahead - behind) / (2 * _STEP)).flatten(1).double())
    values, turns = torch.linalg.eigh(torch.cat(changes) @ torch.cat(changes).T)
    values, turns = values.flip(0).clamp(min=0), turns.flip(1)[:, :k]
    steps = turns.T.to(root) @ root
    # Which end is which is nobody's choice: the brighter film lies ahead.
    brighter = (turns.T @ torch.cat(changes)).sum(1)
    return Directions(steps * torch.where(brighter < 0, -1.0, 1.0).to(steps)[:, None], values[:k] / values.sum())


@torch.no_grad()
def draw_traversal(
    path: str | os.PathLike,
    model: RadiographVAE,
    film: Tensor,
    directions: Directions | None = None,
    other: Tensor | None = None,
    steps: int = 7,
    reach: float = 3.0,
) -> None:
    """Write a picture: a row for each direction, from the film's latents in steps either way, and one to another film.

    Args:
        path: PNG to write.
        model: in evaluation mode.
        film: ``(1, 1, S, S)`` in [0, 1].
        directions: of :func:`leading_directions`.
        other: ``(1, 1, S, S)``; the last row goes from the latents of ``film`` straight to those of this one.
        steps: films in a row, at least two; with an odd number the middle of a direction is the reconstruction.
        reach: of the directions, in standard deviations.

    Raises:
        InputError: neither directions nor another film, or fewer than two steps.
    """
    if directions is None and other is None:
        raise InputError("there is nowhere to go: a grid of latents has no directions, and --to names no other film")
    if steps < 2:
        raise InputError("a way has two ends, so at least two steps")
    z = model.encode(film)[0]
    rows: list[tuple[str, Tensor, Sequence[str]]] = []
    if directions is not None:
        ways = torch.linspace(-reach, reach, steps)
        for i, (step, share) in enumerate(zip(directions.steps, directions.share.tolist(), strict=True), 1):
            made = model.decode(z + ways[:, None].to(z) * step)
            rows.append(
                (
                    f"direction {i}\n{100 * share:.1f}%",
                    made,
                    [f"{way:+.2g} SD" if way else "reconstruction" for way in ways.tolist()],
                )
            )
    if other is not None:
        parts = torch.linspace(0, 1, steps)
        ends = z, model.encode(other)[0]
        made = torch.cat([model.decode(torch.lerp(*ends, float(part))) for part in parts])
        rows.append(("to the\nother film", made, [f"{100 * part:.0f}%" for part in parts.tolist()]))

    figure = Figure(figsize=(1.1 * (steps + 2), 1.25 * len(rows) + 0.4), dpi=150, layout="constrained")
    axes = figure.subplots(len(rows), steps + 2, squeeze=False)
    for row, (name, made, labels) in zip(axes, rows, strict=True):
        last = other if other is not None and name.startswith("to") else None
        pictures = [film[0, 0], *made.clamp(0, 1)[:, 0], None if last is None else last[0, 0]]
        for axis, picture, label in zip(row, pictures, ["film", *labels, "other film"], strict=True):
            axis.set(xticks=[], yticks=[])
            if picture is None:
                axis.set_axis_off()
                continue
            axis.imshow(picture.numpy(force=True), cmap="gray", vmin=0, vmax=1)
            axis.set_title(label, fontsize=7, pad=2)
        row[0].set_ylabel(name, fontsize=7)
    figure.supxlabel("Between the films: decoded from latents, no films of a patient", fontsize=7)
    write_whole(Path(path), lambda file: figure.savefig(file, format="png"))
