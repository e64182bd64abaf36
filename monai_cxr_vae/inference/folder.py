"""The files of a folder as a dataset, in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from monai_cxr_vae.files import Entry, walk


class FilmFolder(Dataset):
    """Every file of a tree (or a single file) as a film to be tried; nothing is read before it is asked for.

    Args:
        data: the folder or file.
        transform: applied to ``{"image": path}`` when a film is taken by its number.
    """

    def __init__(self, data: str | os.PathLike, transform: Any = None) -> None:
        self.root = Path(data)
        self.transform = transform
        self._listed: list[Entry] | None = None

    def entries(self, without: Iterable[str | os.PathLike] = ()) -> list[Entry]:
        """See :func:`monai_cxr_vae.files.walk`."""
        return walk(self.root, without)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Any:
        item = {"image": self._entries[index].path}
        return self.transform(item) if self.transform else item

    @property
    def _entries(self) -> list[Entry]:
        if self._listed is None:
            self._listed = self.entries()
        return self._listed
