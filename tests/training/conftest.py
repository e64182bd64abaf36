"""A training small enough for tests, through the bundle's own config."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow, create_workflow
from PIL import Image

from monai_cxr_vae.files import bundle_root


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
            "num_threads": 1,  # the number changes last bits, and other processes of a test may count otherwise
        } | settings

    def workflow(self, output: str = "run", **settings: Any) -> ConfigWorkflow:
        return create_workflow(
            config_file=self.config, workflow_type="train", logging_file=False, **self.settings(output, **settings)
        )

    def two_processes(self, output: str = "run", **settings: Any) -> None:
        """Trains with two gloo ranks of torchrun."""
        config = Path(str(self.config))
        files = f"['{config}','{config.with_name('multi_gpu_train.json')}']"
        words = [f"--{name}={value}" for name, value in self.settings(output, **settings).items()]
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
        command += ["-m", "monai.bundle", "run", "training", "--config_file", files, *words]
        # A rank that exits while a thread of gloo still holds a tensor aborts, seldom; a long switch interval of the
        # interpreter makes that frequent.
        (self.folder / "sitecustomize.py").write_text("import sys; sys.setswitchinterval(20)")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.folder)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]


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
