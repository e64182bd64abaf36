"""Films for the benchmarks that train."""

from __future__ import annotations

from torch import Tensor

from monai_cxr_vae.data import FilmDataset, datalist, film_transforms


def films(folder: str, size: int, section: str = "all") -> Tensor:
    """The films of a folder (or its training or validation part), ``(N, 1, size, size)``."""
    return FilmDataset(datalist(folder, section), film_transforms(size, "stretch")).images()
