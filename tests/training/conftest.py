"""A training small enough for tests, through the bundle's own config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow, create_workflow
from PIL import Image

from monai_cxr_vae.paths import bundle_root


@dataclass
class TinyRun:
    """Trains a network of a few thousand parameters on the 30 blobs in ``folder``."""

    folder: Path
    config: str | list[str] = str(Path(bundle_root()) / "configs" / "train.json")

    def settings(self, output: str = "run", **settings: Any) -> dict[str, Any]:
        return {
            "dataset_dir": str(self.folder / "train"),
            "val_dataset_dir": str(self.folder / "val"),
            "output_dir": str(self.folder / output),
            "cache_dir": str(self.folder / "cache"),
            "image_size": 16,
            "latent_size": 4,
            "channels": [8],
            "width": 16,
            "batch_size": 8,
            "max_epochs": 4,
            "device": "cpu",
        } | settings

    def workflow(self, output: str = "run", **settings: Any) -> ConfigWorkflow:
        return create_workflow(
            config_file=self.config, workflow_type="train", logging_file=False, **self.settings(output, **settings)
        )


@pytest.fixture
def tiny(tmp_path: Path) -> TinyRun:
    rows, columns = np.mgrid[:16, :16]
    for part, count in (("train", 20), ("val", 10)):
        (tmp_path / part).mkdir()
        for i in range(count):
            centre = np.random.default_rng([count, i]).uniform(4, 12, 2)
            blob = 255 * np.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / 12)
            Image.fromarray(blob.astype(np.uint8)).save(tmp_path / part / f"{i}.png")
    return TinyRun(tmp_path)
