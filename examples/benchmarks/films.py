"""Films for the benchmarks that train."""

from __future__ import annotations

from monai.transforms import Compose, LoadImaged
from torch import Tensor

from monai_cxr_vae.data import FilmDataset, datalist
from monai_cxr_vae.transforms import FitToSquared


def films(folder: str, size: int, section: str = "all") -> Tensor:
    """The films of a folder (or its training or validation part), ``(N, 1, size, size)``."""
    reader = "monai_cxr_vae.data.RadiographReader"
    load = LoadImaged("image", reader=reader, image_only=True, ensure_channel_first=True)
    return FilmDataset(datalist(folder, section), Compose([load, FitToSquared("image", size)])).images()
