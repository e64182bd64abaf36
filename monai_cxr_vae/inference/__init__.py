"""Running a model over folders of films."""

from __future__ import annotations

from monai_cxr_vae.inference.evaluator import FilmEvaluator, FilmProgress
from monai_cxr_vae.inference.film_chain import FilmChain
from monai_cxr_vae.inference.folder import FilmFolder
from monai_cxr_vae.inference.label_answer import LabelAnswerd
from monai_cxr_vae.inference.plan import FolderOptions
from monai_cxr_vae.inference.run import FolderRun, scan

__all__ = [
    "FilmChain",
    "FilmEvaluator",
    "FilmFolder",
    "FilmProgress",
    "FolderOptions",
    "FolderRun",
    "LabelAnswerd",
    "scan",
]
