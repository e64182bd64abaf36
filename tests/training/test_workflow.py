"""What a training does besides lowering the loss."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import create_workflow
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_cxr_vae import load_model, read_radiograph
from monai_cxr_vae.data.phantom import write_phantoms
from monai_cxr_vae.metrics import structural_similarity
from monai_cxr_vae.settings import input_error
from monai_cxr_vae.training import Augmentation, UpdateAverage

pytestmark = pytest.mark.training


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as lines:
        return list(csv.DictReader(lines))


def images(folder: Path, size: int = 16) -> torch.Tensor:
    files = sorted(folder.glob("*.png"), key=lambda file: os.fsencode(file))
    return torch.stack([torch.from_numpy(np.asarray(read_radiograph(file)))[None] for file in files])


def test_statistics_are_those_of_the_films(tiny):
    tiny.workflow().run()
    model = load_model(tiny.folder / "run" / "model.pt")
    with torch.no_grad():
        mu = model.encode(images(tiny.folder / "train"))[0].double().numpy()
        mu_val, logvar = model.encode(images(tiny.folder / "val"))
        films = images(tiny.folder / "val")
        draws = [model.decode(mu_val + (0.5 * logvar).exp() * torch.randn_like(mu_val)) - films for _ in range(200)]
    np.testing.assert_allclose(model.latent_mean.numpy(), mu.mean(0), atol=1e-4)
    np.testing.assert_allclose(model.latent_covariance.numpy(), np.cov(mu.T), atol=1e-4)
    assert float(model.sigma) == pytest.approx(torch.stack(draws).square().mean().sqrt().item(), rel=0.1)
    assert model.settings["training"]["batch_size"] == 8


def test_the_log_has_a_line_per_epoch(tiny, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "monai_cxr_vae")
    tiny.workflow(val_interval=2).run()
    told = [message for message in caplog.messages if message.startswith("epoch ")]
    for i, (line, row) in enumerate(zip(told, rows(tiny.folder / "run"), strict=True), start=1):
        assert line.startswith(f"epoch {i} of 4: train/loss {float(row['train/loss']):.4g}")
        assert ("val/psnr" in line) == (i % 2 == 0)


def test_padding_counts_neither_in_sigma_nor_in_a_metric(tiny):
    for path in (tiny.folder / "val").iterdir():
        film = np.asarray(Image.open(path))
        Image.fromarray(np.tile(film, (2, 1))).save(path)
    tiny.workflow(fit="letterbox", image_size=32).run()
    model = load_model(tiny.folder / "run" / "model.pt")
    films = torch.stack([model.preprocess(read_radiograph(path))[0] for path in (tiny.folder / "val").iterdir()])
    inside = slice(8, 24)  # a film twice as high as wide
    assert not films[..., :8].any()
    assert not films[..., 24:].any()
    with torch.no_grad():
        mu, logvar = model.encode(films)
        draws = [model.decode(mu + (0.5 * logvar).exp() * torch.randn_like(mu)) - films for _ in range(200)]
        error = torch.stack(draws)[..., inside].square().mean().sqrt()
        shown = model.reconstruct(films)[..., inside]
    assert float(model.sigma) == pytest.approx(float(error), rel=0.05)
    best = max(rows(tiny.folder / "run"), key=lambda row: float(row["val/psnr"]))
    ssim = structural_similarity(shown, films[..., inside]).mean()
    assert float(best["val/ssim"]) == pytest.approx(float(ssim), abs=0.001)


def test_heat_maps_of_validation_films_can_be_seen(tiny):
    tiny.workflow(max_epochs=1).run()
    (event,) = EventAccumulator(str(tiny.folder / "run" / "tensorboard" / "scores")).Reload().Images("heat maps")
    shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert shown.shape == (16, 8 * 16, 3)
    films = [np.asarray(Image.open(path)) for path in sorted((tiny.folder / "val").iterdir())[:8]]
    grey = np.ptp(shown.astype(int), axis=-1) == 0
    assert 0.3 < grey.mean() < 1
    # The films are smaller than what scores look at: made larger for it, and smaller again to be seen.
    assert np.abs(shown[..., 0].astype(int) - np.concatenate(films, axis=1))[grey].max() <= 12


def test_the_average_of_the_weights_is_that_of_every_so_manyth_step():
    network = torch.nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def step(engine: Engine, _: int) -> None:
        torch.nn.init.constant_(network.weight, engine.state.iteration)

    engine = Engine(step)
    UpdateAverage(averaged, network, interval=3).attach(engine)
    engine.run(range(5), max_epochs=2)  # counted over epochs: after steps 3, 6 and 9
    expected = 0.9 * (0.9 * 3 + 0.1 * 6) + 0.1 * 9
    assert float(averaged.module.weight) == pytest.approx(expected)


def test_the_best_validation_is_kept(tiny):
    tiny.workflow(max_epochs=6, val_interval=2).run()
    best = max(float(row["val/psnr"]) for row in rows(tiny.folder / "run") if row["val/psnr"])
    model = load_model(tiny.folder / "run" / "model.pt")
    films = images(tiny.folder / "val")
    with torch.no_grad():
        error = (model.reconstruct(films).clamp(0, 1) - films).square().flatten(1).mean(1)
    assert float((-10 * error.log10()).mean()) == pytest.approx(best, abs=0.01)


def test_a_weight_that_must_collapse_is_announced_and_collapses(tiny, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "monai_cxr_vae"):
        tiny.workflow("auto").run()
        assert "must collapse" not in caplog.text
        tiny.workflow("plain", kl_weight=1.0, max_epochs=40, learning_rate=0.03).run()
    assert "kl_weight 1 must collapse: on these films the latents are used only below" in caplog.text
    # No pixel of [0, 1] varies by more than 0.25, so at weight 1 no film is worth 0.25 nats.
    assert float(rows(tiny.folder / "plain")[-1]["val/kl"]) < 0.25
    assert float(rows(tiny.folder / "auto")[-1]["val/kl"]) > 1


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_checkpoint(tiny, monkeypatch: pytest.MonkeyPatch):
    tiny.workflow(max_epochs=4, patience=1, learning_rate=1e-12).run()
    last = tiny.folder / "run" / "checkpoints" / "last.pt"
    before, weights = last.read_bytes(), (tiny.folder / "run" / "model.pt").read_bytes()
    monkeypatch.setattr(Augmentation, "__call__", lambda self, batch: batch * float("nan"))
    with pytest.raises(Exception, match=r".") as error:
        tiny.workflow(max_epochs=4, patience=None, learning_rate=1e-12, resume=True).run()
    assert "the loss is not finite in epoch" in str(input_error(error.value))
    assert last.read_bytes() == before
    assert (tiny.folder / "run" / "model.pt").read_bytes() == weights


@pytest.mark.parametrize("epochs", [2, 5])
def test_epochs_are_those_of_the_trainer_wherever_they_are_set(tiny, epochs: int):
    """MONAI's own id, by an override or by the workflow's property, is worth what ``max_epochs`` is."""
    tiny.workflow("plain", max_epochs=epochs).run()
    tiny.workflow("override", **{"train#trainer#max_epochs": epochs}).run()
    workflow = tiny.workflow("property")
    workflow.max_epochs = epochs
    workflow.initialize()
    workflow.run()
    plain = (tiny.folder / "plain" / "metrics.csv").read_text()
    assert len(plain.splitlines()) == 1 + epochs
    for other in ("override", "property"):
        assert (tiny.folder / other / "metrics.csv").read_text() == plain
        assert load_model(tiny.folder / other / "model.pt").settings["training"]["max_epochs"] == epochs


def test_fine_tuning_starts_from_the_weights(tiny):
    tiny.workflow("first").run()
    settings = {"weights": str(tiny.folder / "first" / "model.pt"), "learning_rate": 1e-12, "max_epochs": 1}
    network = {"image_size": None, "latent_size": None, "channels": None, "width": None}
    tiny.workflow("second", **settings, **network).run()
    first, second = (load_model(tiny.folder / name / "model.pt") for name in ("first", "second"))
    films = images(tiny.folder / "val")
    torch.testing.assert_close(first(films), second(films), atol=1e-4, rtol=0)


def test_a_folder_may_mix_png_dicom_and_nifti(tiny):
    folder = tiny.folder / "mixed"
    write_phantoms(folder, 6, format="dicom", size=64)
    write_phantoms(folder / "png", 6, seed=1, format="png", size=64)
    film = np.asarray(Image.open(next((folder / "png").glob("*.png")))).T
    nibabel.save(nibabel.Nifti1Image(film.astype(np.float32), np.diag([-1, -1, 1, 1])), folder / "film.nii.gz")
    tiny.workflow(dataset_dir=str(folder), max_epochs=1, fit="letterbox").run()
    assert len(rows(tiny.folder / "run")) == 1


def test_two_processes_train_as_one(tiny):
    """torchrun with two gloo ranks: one run folder, and the metrics that one process finds on the same weights."""
    tiny.two_processes("two", max_epochs=2)
    log = rows(tiny.folder / "two")
    assert [row["epoch"] for row in log] == ["1", "2"]
    best = max(float(row["val/psnr"]) for row in log)
    model = load_model(tiny.folder / "two" / "model.pt")
    films = images(tiny.folder / "val")
    with torch.no_grad():
        error = (model.reconstruct(films).clamp(0, 1) - films).square().flatten(1).mean(1)
    assert float((-10 * error.log10()).mean()) == pytest.approx(best, abs=0.01)


def test_evaluation_overlay_measures_and_draws(tiny):
    tiny.workflow(max_epochs=1).run()
    overlay = Path(tiny.config).with_name("evaluate.json")
    create_workflow(
        config_file=[tiny.config, str(overlay)],
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(tiny.folder / "val"),
        train_dataset_dir=str(tiny.folder / "train"),
        weights=str(tiny.folder / "run" / "model.pt"),
        metrics_csv=str(tiny.folder / "run" / "metrics.csv"),
        output_dir=str(tiny.folder / "evaluation"),
        cache_dir=str(tiny.folder / "cache"),
    ).run()
    report = json.loads((tiny.folder / "evaluation" / "evaluation.json").read_text())
    assert report["n"] == 10
    assert report["psnr"]["mean"] == pytest.approx(float(rows(tiny.folder / "run")[0]["val/psnr"]), abs=0.01)
    assert report["baselines_fitted_on"] == "training films"
    for name in ("reconstructions.png", "curves.png"):
        assert np.asarray(Image.open(tiny.folder / "evaluation" / name)).std() > 10
