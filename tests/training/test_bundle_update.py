"""Run id ``update``: a bundle's own weights trained further by MONAI's runner as MONAI Label calls it."""

from __future__ import annotations

import shutil
from pathlib import Path

import monai.bundle
import pytest
import torch

from monai_cxr_vae.data.phantom import write_phantoms
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.model import RadiographVAE, load_model, save_model
from monai_cxr_vae.training import bundle_update

pytestmark = pytest.mark.training


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundle with small untrained weights, beside four films."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(bundle_root()) / "configs", tmp_path / "bundle" / "configs")
    torch.manual_seed(0)
    save_model(
        RadiographVAE(image_size=32, channels=(8, 8), latent_size=8), tmp_path / "bundle" / "models" / "model.pt"
    )
    write_phantoms(tmp_path / "films", 4, format="png", size=64)
    return tmp_path / "bundle"


def run(bundle: Path, val_count: int = 1, **overrides: object) -> None:
    """What MONAI Label 0.8.5 sets, which hands over dictionaries for handlers and its own loader among them."""
    films = [{"image": str(path), "label": "ignored"} for path in sorted((bundle.parent / "films").iterdir())]
    config = bundle / "configs" / "train.json"
    loader = {"_target_": "CheckpointLoader", "load_path": str(bundle / "models" / "model.pt")}
    given = {
        "bundle_root": str(bundle),
        "train#trainer#max_epochs": 2,
        "train#dataset#data": films[val_count:],
        "validate#dataset#data": films[:val_count],
        "device": "cpu",
        "train#handlers": [loader, *monai.bundle.ConfigParser.load_config_file(config)["train"]["handlers"]],
    }
    meta = str(bundle / "configs" / "metadata.json")
    monai.bundle.run(run_id="update", meta_file=meta, config_file=str(config), logging_file=False, **given | overrides)


@pytest.mark.parametrize("val_count", [0, 1])
def test_better_weights_take_the_place_of_the_old_ones(bundle: Path, val_count: int):
    weights = bundle / "models" / "model.pt"
    before, old = weights.stat().st_ino, load_model(weights)
    run(bundle, val_count)
    new = load_model(weights)
    assert weights.stat().st_ino != before  # moved into place, not written over
    assert new.settings["network"] == old.settings["network"]
    assert new.sigma.isfinite()
    assert list(weights.parent.iterdir()) == [weights]
    (folder,) = (bundle.parent / "output").iterdir()
    assert (folder / "metrics.csv").exists()


def test_weights_that_are_no_better_change_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    weights = bundle / "models" / "model.pt"
    before = weights.read_bytes()
    monkeypatch.setattr(bundle_update, "LEARNING_RATE", 1e-30)
    run(bundle)
    assert weights.read_bytes() == before


def test_no_films_are_an_error(bundle: Path):
    with pytest.raises(RuntimeError) as caught:
        run(bundle, **{"train#dataset#data": []})
    assert "there are no films to train on" in str(caught.value.__cause__)


def test_an_ordinary_run_leaves_the_bundle_alone(bundle: Path):
    weights = bundle / "models" / "model.pt"
    before = weights.read_bytes()
    config = str(bundle / "configs" / "train.json")
    films = str(bundle.parent / "films")
    settings = {"bundle_root": str(bundle), "dataset_dir": films, "device": "cpu"}
    network = {"image_size": 32, "channels": [8, 8], "latent_size": 8, "max_epochs": 1}
    monai.bundle.run(run_id="training", config_file=config, logging_file=False, **settings, **network)
    assert weights.read_bytes() == before
