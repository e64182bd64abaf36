"""Films as data: lists, splits, readers, writers, cache, phantom."""

from __future__ import annotations

from monai_cxr_vae.data.cache import FilmDataset, whole_batch
from monai_cxr_vae.data.datalist import datalist, films_digest, find_films
from monai_cxr_vae.data.markers import EraseMarkersd
from monai_cxr_vae.data.phantom import phantom_folder
from monai_cxr_vae.data.readers import LoadRadiographd, RadiographReader, film_transforms

__all__ = [
    "EraseMarkersd",
    "FilmDataset",
    "LoadRadiographd",
    "RadiographReader",
    "datalist",
    "film_transforms",
    "films_digest",
    "find_films",
    "phantom_folder",
    "whole_batch",
]
