"""Films as data: lists, splits, readers, writers, cache, phantom."""

from __future__ import annotations

from .cache import FilmDataset, whole_batch
from .datalist import datalist, films_digest, find_films
from .phantom import phantom_folder
from .readers import RadiographReader

__all__ = [
    "FilmDataset",
    "RadiographReader",
    "datalist",
    "films_digest",
    "find_films",
    "phantom_folder",
    "whole_batch",
]
