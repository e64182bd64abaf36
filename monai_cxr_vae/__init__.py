"""A variational autoencoder for chest radiographs, as a MONAI plugin.

Everything is imported on first use, so that reading DICOM or asking for ``cxr-vae --help`` waits for neither torch nor
MONAI.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_cxr_vae.model import load_model as load_model
    from monai_cxr_vae.radiograph import Radiograph as Radiograph
    from monai_cxr_vae.radiograph import read_radiograph as read_radiograph
    from monai_cxr_vae.version import __version__ as __version__

_PUBLIC = {"load_model": "model", "Radiograph": "radiograph", "read_radiograph": "radiograph", "__version__": "version"}

__all__ = ["Radiograph", "__version__", "load_model", "read_radiograph"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    try:
        return import_module(f"{__name__}.{name}")  # a part of the package, as configs name them
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
