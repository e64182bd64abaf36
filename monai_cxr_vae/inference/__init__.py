"""Running a model over folders of films."""

from __future__ import annotations

from monai_cxr_vae.inference.evaluator import FilmEvaluator, ProgressOnTerminal
from monai_cxr_vae.inference.film_chain import FilmChain
from monai_cxr_vae.inference.folder import FilmFolder
from monai_cxr_vae.inference.folder_run import FolderOptions, FolderRun, scan
from monai_cxr_vae.inference.label_answer import LabelAnswerd

__all__ = [
    "FilmChain",
    "FilmEvaluator",
    "FilmFolder",
    "FolderOptions",
    "FolderRun",
    "LabelAnswerd",
    "ProgressOnTerminal",
    "scan",
]
