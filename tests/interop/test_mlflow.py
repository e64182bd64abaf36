"""A training that MONAI tracks with MLflow: what its store holds is what the run says of itself."""

from __future__ import annotations

import csv
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.conftest import TinyRun, tiny

__all__ = ["tiny"]
pytestmark = pytest.mark.interop
INSTALL = Path(__file__).with_name("mlflow") / "install.sh"


@pytest.fixture(scope="module")
def packages() -> str:
    """The folder with MLflow."""
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(["bash", str(INSTALL)], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"MLflow cannot be installed: {done.stderr.strip()}"
        pytest.fail(message) if os.environ.get("CXR_VAE_REQUIRE_INTEROP") == "1" else pytest.skip(message)
    return done.stdout.strip()


def test_a_tracked_training_ends_and_its_store_holds_every_step_and_epoch(tiny: TinyRun, packages: str):
    store = tiny.folder / "runs.db"
    settings = tiny.settings(max_epochs=3) | {"tracking": "mlflow", "tracking_uri": f"sqlite:///{store}"}
    words = [f"--{name}={value}" for name, value in settings.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{packages}"}
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(tiny.config), *words]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]

    with (tiny.folder / "run" / "metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 3
    database = sqlite3.connect(store)
    assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
    for name in ("psnr", "ssim", "kl", "active_units"):
        stored = database.execute("select value from metrics where key = ? order by step", (name,)).fetchall()
        assert [value for (value,) in stored] == pytest.approx([float(row[f"val/{name}"]) for row in rows])
    steps = database.execute("select step, value from metrics where key = 'train_loss' order by step").fetchall()
    assert [step for step, _ in steps] == list(range(1, 10))
    assert all(math.isfinite(value) for _, value in steps)
