"""The simulation of labelling: what it counts, and that it runs on folders."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from monai_cxr_vae.data import datalist
from monai_cxr_vae.data.phantom import write_phantoms
from monai_cxr_vae.model import RadiographVAE, save_model
from monai_cxr_vae.scoring import detail_films, fit_scorer

SCRIPT = Path(__file__).parents[1] / "examples" / "monailabel" / "simulation.py"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulation", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_perfect_and_worst_order(simulation: ModuleType):
    low, high = np.arange(90.0), np.arange(100.0, 110.0)
    assert simulation.found(low, high, 0.1) == 1
    assert simulation.found(low, high, 0.05) == 0.5
    assert simulation.found(high, low, 0.1) == 0


def test_patients_are_drawn_whole(simulation: ModuleType):
    patients = ["a"] * 3 + ["b"] * 2 + ["c"]
    for seed in range(20):
        drawn = simulation.resampled(np.arange(6.0), patients, np.random.default_rng(seed))
        counts = np.bincount(drawn.astype(int), minlength=6)
        assert len(set(counts[:3])) == len(set(counts[3:5])) == 1
        assert counts[0] + counts[3] + counts[5] == 3


def test_it_runs_on_folders(
    simulation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    write_phantoms(tmp_path / "normal", 24, format="png", size=64)
    write_phantoms(tmp_path / "abnormal", 4, seed=1, format="png", size=64, finding="effusion")
    (tmp_path / "names").write_text("phantom_0000.png\nphantom_0002.png\n")
    torch.manual_seed(0)
    model = RadiographVAE(image_size=32, channels=(8, 8), latent_size=8).eval()
    films = detail_films(model, datalist(tmp_path / "normal"), tmp_path / "cache")
    fit_scorer(model, films, films)
    save_model(model, tmp_path / "model.pt")
    words = ["--names", str(tmp_path / "names"), "--weights", str(tmp_path / "model.pt")]
    monkeypatch.setattr(sys, "argv", ["simulation.py", str(tmp_path / "normal"), str(tmp_path / "abnormal"), *words])
    threads = torch.get_num_threads()
    monkeypatch.setattr(simulation, "RESAMPLES", 20)
    simulation.main()
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert printed.startswith("24 normal films, 2 with a finding; AUROC")
    assert re.findall(r"^\| (\d+)% \|", printed, re.M) == ["10", "20", "30"]
