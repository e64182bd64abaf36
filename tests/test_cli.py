"""The command line as its user meets it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from monai_cxr_vae import load_model, read_radiograph
from monai_cxr_vae.cli import main
from monai_cxr_vae.data.phantom import write_phantoms
from monai_cxr_vae.model import RadiographVAE, save_model
from monai_cxr_vae.scoring import detail_films, fit_scorer
from tests.networks.test_hierarchical import TINY as TINY_LEVELS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = RadiographVAE(image_size=16, latent_size=4, channels=(8,), width=16)
    model.latent_mean.zero_()
    model.latent_covariance.copy_(torch.eye(4))
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_model(model, path)
    return path


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: the following arguments are required: COMMAND"),
        (["reconstruct"], "error: the following arguments are required: IN, --output"),
        (["scan", "here", "--fast"], "error: unknown argument --fast"),
        (["phantom", "out", "--count", "0"], "error: argument --count: must be a whole number from 1, not '0'"),
        (["phantom", "out", "--seed", "-5"], "error: argument --seed: must be a whole number from 0, not '-5'"),
        (["calibrate", "in", "--output", "."], "error: . is a folder"),
        (["train", "--max_epoch", "3"], "error: unknown setting --max_epoch; nearest is --max_epochs"),
        (["train", "--batch_size", "0"], "error: --batch_size must be a whole number above 0, not 0"),
        (["score", "here"], "error: the following arguments are required: --output"),
        (["reconstruct", "in", "--output", "out", "--objects", "png"], "error: argument --objects: invalid choice"),
        (["sample", "--output", "out", "--weights", "absent.pt"], "error: no weights file absent.pt"),
        (["sample", "--output", "out", "--like", "absent.png"], "error: the file cannot be found"),
        (["evaluate", "in", "--output", "out", "--samples", "20"], "error: samples are measured beside the films of"),
        (["scan", "nowhere"], "error: "),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_exit_code_1(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as error:
        code = error.code
    assert code == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(line)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "sample_0000.png").mkdir(parents=True)
    for words, line in (
        (["phantom", "file"], "error: file: File exists"),
        (["sample", "--output", "file", "--weights", str(weights)], "error: file: File exists"),
        (["sample", "--output", "taken", "--weights", str(weights)], "error: taken/sample_0000.png cannot be written"),
    ):
        assert main(words) == 1
        assert capsys.readouterr().err.strip().splitlines()[-1] == line


def test_scan_tells_a_line_per_file_whatever_its_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    for name in (b"\xff", b"two\nlines", "Größe".encode()):
        (tmp_path / os.fsdecode(name)).write_text("text")
    assert main(["scan", str(tmp_path)]) == 0
    told = [line.rsplit("/", 1)[1] for line in capfd.readouterr().out.splitlines()]
    assert told == ["Größe", "two\\nlines", "\\udcff"]


def test_a_reader_that_has_seen_enough_ends_the_listing(tmp_path: Path):
    for i in range(3):
        (tmp_path / str(i)).write_text("text")
    command = [sys.executable, "-m", "monai_cxr_vae.cli", "scan", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 141


def test_phantoms_of_a_seed_are_the_same_films(tmp_path: Path):
    for name in ("a", "b"):
        assert main(["phantom", str(tmp_path / name), "--count", "2", "--seed", "7", "--format", "both"]) == 0
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 4
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_sample_writes_sixteen_bit_films(tmp_path: Path, weights: Path):
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        words = [
            "sample",
            "--output",
            str(tmp_path / folder),
            "--count",
            "3",
            "--seed",
            seed,
            "--weights",
            str(weights),
        ]
        assert main(words) == 0
    films = {name: [np.asarray(Image.open(f)) for f in sorted((tmp_path / name).iterdir())] for name in "abc"}
    assert [film.shape for film in films["a"]] == [(16, 16)] * 3
    assert all(film.max() > 255 for film in films["a"])
    assert np.array_equal(films["a"], films["b"])
    assert not np.array_equal(films["a"], films["c"])


def test_sample_draws_films_like_another_as_dicom_of_nobody(tmp_path: Path):
    torch.manual_seed(0)
    save_model(RadiographVAE("hierarchical", **TINY_LEVELS), tmp_path / "levels.pt")
    write_phantoms(tmp_path, 1, size=80)
    words = ["sample", "--weights", str(tmp_path / "levels.pt"), "--count", "2", "--format", "dicom"]
    words += ["--like", str(tmp_path / "phantom_0000.dcm"), "--keep", "film", "--output"]
    for folder in ("a", "b"):
        assert main([*words, str(tmp_path / folder)]) == 0
    files = sorted((tmp_path / "a").iterdir())
    assert [file.name for file in files] == ["sample_0000.dcm", "sample_0001.dcm"]
    assert all(file.read_bytes() == (tmp_path / "b" / file.name).read_bytes() for file in files)
    first, second = films = [pydicom.dcmread(file) for file in files]
    assert first.PatientID != second.PatientID
    for ds in films:
        assert ds.PatientID.startswith("SYNTHETIC-")
        assert "hantom" not in str(ds)  # the patient of the film that they are like
    # of the same film at a quarter of the size, and drawn apart below that
    small = [cv2.resize(ds.pixel_array[:64].astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA) for ds in films]
    assert np.abs(small[0] - small[1]).mean() < 0.25 * np.abs(small[0] - small[0].mean()).mean()
    assert not np.array_equal(first.pixel_array, second.pixel_array)


def test_embed_gives_each_films_own_latents(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    films = write_phantoms(tmp_path / "films", 3, format="dicom", size=48)
    words = ["embed", str(tmp_path / "films"), "--output", str(tmp_path / "out"), "--weights", str(weights)]
    assert main(words) == 0
    arrays = np.load(tmp_path / "out" / "latents.npz")
    assert "path" not in arrays
    model = load_model(weights)
    for film, digest, mu in zip(sorted(films), arrays["input_sha256"], arrays["mu"], strict=True):
        assert digest == hashlib.sha256(film.read_bytes()).hexdigest()
        with torch.no_grad():
            expected = model.encode(model.preprocess(read_radiograph(film)))[0][0]
        np.testing.assert_allclose(mu, expected.numpy(), atol=1e-4)
    with (tmp_path / "out" / "latents.csv").open() as lines:
        table = list(csv.DictReader(lines))
    np.testing.assert_allclose([float(row["mu_3"]) for row in table], arrays["mu"][:, 3])
    assert main([*words, "--paths"]) == 0
    assert [str(f) for f in sorted(films)] == np.load(tmp_path / "out" / "latents.npz")["path"].tolist()


def test_scan_tells_what_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_phantoms(tmp_path, 2, format="dicom", size=48)
    (tmp_path / "notes.txt").write_text("no film")
    assert main(["scan", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert sorted(line.split("\t")[0] for line in out.splitlines()) == ["eligible", "eligible", "skipped not_dicom"]
    assert "2 eligible, 1 skipped not_dicom" in err


@pytest.fixture(scope="module")
def scoring_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring")
    films = [{"image": str(path)} for path in write_phantoms(folder, 24, format="png", size=48)]
    torch.manual_seed(0)
    model = RadiographVAE(image_size=16, latent_size=4, channels=(8,), width=16).eval()
    fit_scorer(model, *(detail_films(model, part, folder / "cache") for part in (films[:12], films[12:])))
    save_model(model, folder / "tiny.pt")
    return folder / "tiny.pt"


def test_score_writes_heat_maps_reports_and_a_page(tmp_path: Path, scoring_weights: Path):
    write_phantoms(tmp_path / "films", 2, format="both", size=48)
    words = ["score", str(tmp_path / "films"), "--output", str(tmp_path / "out"), "--weights", str(scoring_weights)]
    assert main([*words, "--workers", "1"]) == 0
    with (tmp_path / "out" / "manifest.csv").open() as lines:
        table = list(csv.DictReader(lines))
    kinds = sorted(output["kind"] for row in table for output in json.loads(row["outputs"]))
    assert kinds == ["overlay"] * 4 + ["sr"] * 2
    assert all(0 < float(row["anomaly_p"]) <= 1 and row["quality_part"] for row in table)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('"strip": "') == 4
    assert str(tmp_path) not in page


@pytest.mark.parametrize(
    ("words", "weights"),
    [([], "spatial"), (["--weights", "vector.pt"], "vector.pt"), (["--objects", "sc", "overlay"], None)],
)
def test_reconstruct_takes_the_spatial_weights_unless_scores_are_wanted(
    words: list[str], weights: str | None, monkeypatch: pytest.MonkeyPatch
):
    seen: list[dict] = []
    monkeypatch.setattr("monai_cxr_vae.cli._run_config", lambda names, kind, settings: seen.append(settings))
    assert main(["reconstruct", "in", "--output", "out", *words]) == 0
    assert seen[0].get("weights") == weights
    assert load_model("spatial").latent_shape == (192, 8, 8)


def test_score_with_weights_that_give_none_says_so(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]):
    write_phantoms(tmp_path / "films", 1, format="dicom", size=48)
    words = [str(tmp_path / "films"), "--output", str(tmp_path / "out"), "--weights", str(weights)]
    assert main(["score", *words]) == 1
    assert "not calibrated" in capsys.readouterr().err.splitlines()[-1]
    assert main(["reconstruct", *words, "--objects", "sr"]) == 1
    assert "needs scores" in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "out").rglob("*.dcm"))
