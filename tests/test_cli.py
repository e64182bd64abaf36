"""The command line as its user meets it."""

from __future__ import annotations

import csv
import datetime
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
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigWorkflow
from PIL import Image

from monai_cxr_vae import load_model, read_radiograph
from monai_cxr_vae.cli import main
from monai_cxr_vae.data.phantom import write_phantoms
from monai_cxr_vae.data.pictures import BAND
from monai_cxr_vae.files import bundle_root
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
        (["scan", "here", "--fast"], "error: unknown setting --fast"),
        (["scan", "here", "there"], "error: unknown argument there"),
        (["scan", "here", "--timeot", "3"], "error: unknown setting --timeot; nearest is --timeout"),
        (["phantom", "out", "--count", "0"], "error: argument --count: must be a whole number from 1, not '0'"),
        (["phantom", "out", "--seed", "-5"], "error: --seed must be a whole number from 0, not -5"),
        (["calibrate", "in", "--output", "."], "error: . is a folder"),
        (["train", "--max_epoch", "3"], "error: unknown setting --max_epoch; nearest is --max_epochs"),
        (["train", "--batch_size", "0"], "error: --batch_size must be a whole number above 0, not 0"),
        (["score", "here"], "error: the following arguments are required: --output"),
        (["reconstruct", "in", "--output", "out", "--objects", "png"], "error: --objects must be a list of sc"),
        (["sample", "--output", "out", "--weights", "absent.pt"], "error: no weights file absent.pt"),
        (
            ["traverse", "film.png", "--output", "x.png", "--reach", "-1"],
            "error: argument --reach: must be a number above",
        ),
        (["traverse", "absent.png", "--output", "x.png"], "error: 1 of 1 films cannot be read (1 read_error)"),
        (
            ["traverse", "film.png", "--output", "x.png", "--weights", "spatial", "--directions", "2"],
            "error: a grid of",
        ),
        (["sample", "--output", "out", "--like", "absent.png"], "error: 1 of 1 films cannot be read (1 read_error)"),
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
        (["sample", "--output", "file", "--weights", str(weights)], "error: file/sample_0000.png cannot be written: "),
        (
            ["sample", "--output", "taken", "--weights", str(weights)],
            "error: taken/sample_0000.png cannot be written: ",
        ),
    ):
        assert main(words) == 1
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith(line)


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
        # with a caption below that can be read
        assert (ds.Rows, ds.Columns) == (256 + round(BAND * 256), 256)
        assert 0.02 < (ds.pixel_array[258:] > 2048).mean() < 0.5
    # of the same film at a quarter of the size, and drawn apart below that
    small = [
        cv2.resize(ds.pixel_array[:256].astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA) for ds in films
    ]
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


def test_traverse_draws_directions_and_the_way_to_another_film(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    film, other = write_phantoms(tmp_path / "films", 2, format="png", size=48)
    words = ["traverse", str(film), "--output", str(tmp_path / "walk.png"), "--weights", str(weights)]
    heights = []
    for more in ([], ["--directions", "2"], ["--directions", "2", "--to", str(other)]):
        assert main([*words, *more]) == 0
        heights.append(cv2.imread(str(tmp_path / "walk.png")).shape[0])
    assert heights[0] > heights[2] > heights[1]  # four rows (of as many latents), two, and three


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


@pytest.mark.parametrize(("count", "range_", "warned"), [(20, "0 to 18", True), (50, "0 to 12", False)])
def test_calibrate_tells_what_so_many_films_can_tell(
    count: int,
    range_: str,
    warned: bool,
    tmp_path: Path,
    scoring_weights: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_phantoms(tmp_path / "films", count, format="png", size=48)
    output = tmp_path / "own.pt"
    words = [str(tmp_path / "films"), "--weights", str(scoring_weights), "--output", str(output)]
    assert main(["calibrate", *words]) == 0
    said = capsys.readouterr()
    assert f"{count} films" in said.out
    assert f"of the next 100 normal films like these, {range_} will have p < 0.05" in said.out
    assert ("warning" in said.err) == warned
    told = load_model(output).settings["calibration"]
    assert told["films"] == count
    assert abs((datetime.date.today() - datetime.date.fromisoformat(told["date"])).days) <= 1


hostile_names = st.one_of(
    st.sampled_from(
        ["$x", "@output_dir", "%run", "@", "#", "@##", "None", "True", "2024", "[a]", "a@::b", "${HOME}", "~"]
    ),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12),
)


@given(hostile_names, hostile_names, hostile_names)
def test_no_path_becomes_an_expression(folder: str, output: str, weights: str):
    """What the configs make of a path is that path, in every command that goes through them."""
    seen: list[tuple] = []

    class Workflow(ConfigWorkflow):
        def initialize(self) -> None:
            names = ("dataset_dir", "output_dir", "weights")
            seen.append(tuple(self.parser.get_parsed_content(name) for name in names))

        def run(self) -> None: ...
        def finalize(self) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monai.bundle.ConfigWorkflow", Workflow)
        patch.setattr("monai_cxr_vae.cli.print", lambda *_: None, raising=False)
        for command in ("reconstruct", "score", "train"):
            folder_word = folder if not folder.startswith("-") else f"./{folder}"
            output_words = [f"--output={output}", f"--weights={weights}"]
            assert main([command, folder_word, *output_words]) == 0
            assert seen.pop() == (Path(folder_word), Path(output), Path(weights))


def test_score_with_weights_that_give_none_says_so(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]):
    write_phantoms(tmp_path / "films", 1, format="dicom", size=48)
    words = [str(tmp_path / "films"), "--output", str(tmp_path / "out"), "--weights", str(weights)]
    assert main(["score", *words]) == 1
    assert "not calibrated" in capsys.readouterr().err.splitlines()[-1]
    assert main(["reconstruct", *words, "--objects", "sr"]) == 1
    assert "needs scores" in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "out").rglob("*.dcm"))


@pytest.mark.training
@pytest.mark.parametrize(
    ("words", "settings", "weights"),
    [
        ("reconstruct", "--scores False", "spatial"),
        ("score", "--scores True --report True --objects [overlay,sr]", "model"),
        (
            "reconstruct --scores --bits-stored 16 --batch_size 2",
            "--bits_stored 16 --batch_size 2 --scores True",
            "model",
        ),
    ],
)
def test_both_faces_write_the_same_bytes(tmp_path: Path, words: str, settings: str, weights: str):
    films = tmp_path / "films"
    write_phantoms(films, 2, format="both", size=48)
    # One process, since the journal has the films in the order in which they are done.
    created = ["--created", "2026-01-31T09:30:00+01:00"]
    assert main([*words.split(), str(films), "--output", str(tmp_path / "ours"), "--workers", "1", *created]) == 0
    config = Path(bundle_root()) / "configs" / "inference.json"
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "inference",
        "--config_file",
        str(config),
        *settings.split(),
        *created,
    ]
    folders = ["--dataset_dir", str(films), "--output_dir", str(tmp_path / "theirs"), "--num_workers", "1"]
    subprocess.run([*command, *folders], check=True, capture_output=True)

    def files(out: Path) -> dict[Path, bytes]:
        found = (path for path in out.rglob("*") if path.is_file() and ".run" not in path.parts)
        return {path.relative_to(out): path.read_bytes() for path in found}

    ours = files(tmp_path / "ours")
    assert len(ours) >= 6
    assert ours == files(tmp_path / "theirs")
    assert hashlib.sha256((config.parents[1] / "models" / f"{weights}.pt").read_bytes()).hexdigest() in str(
        ours[Path("manifest.csv")]
    )
