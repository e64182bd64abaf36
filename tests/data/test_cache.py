"""Films are decoded once, whoever asks, and a killed writer harms nobody."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged
from PIL import Image

from monai_cxr_vae import load_model, read_radiograph
from monai_cxr_vae.data import FilmDataset, cache
from monai_cxr_vae.data.cache import FilmStore
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.transforms import FitToSquared, fit_to_square


def preprocessing(size: int = 16, fit: str = "stretch") -> Compose:
    reader = "monai_cxr_vae.data.RadiographReader"
    load = LoadImaged("image", reader=reader, image_only=True, ensure_channel_first=True)
    return Compose([load, FitToSquared("image", size, fit)])


@pytest.fixture
def films(tmp_path: Path) -> list[dict[str, str]]:
    (tmp_path / "films").mkdir()
    data = []
    for i in range(6):
        path = tmp_path / "films" / f"{i}.png"
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 24 + i), dtype=np.uint8)).save(path)
        data.append({"image": str(path)})
    return data


class Counting:
    """A transform that says how often it ran."""

    calls = 0

    def __init__(self) -> None:
        self.transform = preprocessing()

    def __call__(self, item: dict[str, str]) -> dict[str, Any]:
        type(self).calls += 1
        return self.transform(item)


def test_a_film_is_decoded_once_even_under_another_name(films: list[dict[str, str]], tmp_path: Path):
    Counting.calls = 0
    first = FilmDataset(films, Counting(), tmp_path / "cache")
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(films[2]["image"]).read_bytes())
    second = FilmDataset([*films[::-1], {"image": str(copy)}], Counting(), tmp_path / "cache")
    assert Counting.calls == 6
    assert torch.equal(second.images()[:6], first.images().flip(0))
    assert torch.equal(second[6]["image"], first[2]["image"])


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_cached_films_equal_direct_reading_to_half_a_sixteen_bit_step(
    films: list[dict[str, str]], tmp_path: Path, fit: str
):
    batch = FilmDataset(films, preprocessing(16, fit), tmp_path / "cache").__getitems__([4, 1])
    assert batch["image"].shape == batch["mask"].shape == (2, 1, 16, 16)
    for row, index in enumerate([4, 1]):
        direct, geometry = fit_to_square(read_radiograph(films[index]["image"]).pixels, 16, fit)
        assert np.abs(batch["image"][row, 0].numpy() - direct).max() <= 0.5 / 65535 + 1e-7
        top, left, height, width = geometry["box"]
        assert batch["mask"][row].sum() == height * width
        assert batch["mask"][row, 0, top : top + height, left : left + width].all()
        assert (batch["image"][row][~batch["mask"][row]] == 0).all()


def test_another_preprocessing_is_another_store(films: list[dict[str, str]], tmp_path: Path):
    assert FilmDataset(films, preprocessing(16), tmp_path)[0]["image"].shape == (1, 16, 16)
    assert FilmDataset(films, preprocessing(8), tmp_path)[0]["image"].shape == (1, 8, 8)


def test_the_store_of_a_preprocessing_is_the_same_in_another_process(tmp_path: Path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_cache import preprocessing;"
        "from monai_cxr_vae.data.cache import FilmStore; print(FilmStore(sys.argv[2], preprocessing()).folder.name)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    assert other == FilmStore(tmp_path, preprocessing()).folder.name


def test_what_a_killed_writer_left_is_overwritten(films: list[dict[str, str]], tmp_path: Path):
    expected = FilmDataset(films, preprocessing(), tmp_path / "whole").images()
    FilmDataset(films[:3], preprocessing(), tmp_path / "torn")
    store = FilmStore(tmp_path / "torn", preprocessing()).folder
    with (store / "films.u16").open("ab") as file:
        file.write(b"\xff" * 300)  # a record cut off
    with (store / "index.jsonl").open("ab") as file:
        file.write(b'{"digest": "00", "rec')
    torn = FilmDataset(films, preprocessing(), tmp_path / "torn").images()
    assert torch.equal(torn, expected)


def fill(arguments: tuple[list[dict[str, str]], Path]) -> torch.Tensor:
    films, folder = arguments
    return FilmDataset(films, preprocessing(), folder).images()


def test_two_processes_fill_one_store(films: list[dict[str, str]], tmp_path: Path):
    expected = FilmDataset(films, preprocessing(), tmp_path / "alone").images()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        both = pool.map(fill, [(films, tmp_path / "shared"), (films[::-1], tmp_path / "shared")])
    assert torch.equal(both[0], expected)
    assert torch.equal(both[1], expected.flip(0))
    store = FilmStore(tmp_path / "shared", preprocessing()).folder
    assert (store / "films.u16").stat().st_size == 6 * 16 * 16 * 2


class Signing:
    """A transform that leaves the number of its process, and of its threads, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.transform, self.folder = preprocessing(), str(folder)

    def __call__(self, item: dict[str, str]) -> dict[str, Any]:
        time.sleep(0.05)  # so that no process has done all before another has started
        (Path(self.folder) / f"{os.getpid()} {torch.get_num_threads()}").touch()
        return self.transform(item)


def test_many_films_are_decoded_on_all_cores_under_a_progress_bar(
    films: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    many = []
    for i in range(64):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((20, 20), i, np.uint8)).save(path)
        many.append({"image": str(path)})
    (tmp_path / "signed").mkdir()
    monkeypatch.setattr(cache, "POOL_FROM", 10)
    monkeypatch.setattr(cache, "cpu_count", lambda: 3)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    filled = FilmDataset(many, Signing(tmp_path / "signed"), tmp_path / "cache").images()
    assert (filled * 255).round().int()[:, 0, 0, 0].tolist() == list(range(64))
    processes = [file.name.split() for file in (tmp_path / "signed").iterdir()]
    assert len(processes) == 3
    assert str(os.getpid()) not in dict(processes)
    assert {threads for _, threads in processes} == {"1"}
    assert re.search(r"reading films:  [ 1-9]\d%.* \d+/64 ", capsys.readouterr().err)


def test_a_script_without_a_main_guard_is_an_error_and_not_a_hang(films: list[dict[str, str]], tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_cache import preprocessing; from monai_cxr_vae.data import FilmDataset, cache\n"
        "cache.POOL_FROM, cache.cpu_count = 2, lambda: 2\n"
        "FilmDataset([{'image': path} for path in sys.argv[3:]], preprocessing(), sys.argv[2])\n"
    )
    command = [sys.executable, script, Path(__file__).parent, tmp_path / "cache", *(film["image"] for film in films)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(
        "monai_cxr_vae.errors.InputError: a process that reads films has died; many films are read by"
    )


def test_unreadable_films_are_counted_and_the_first_named(films: list[dict[str, str]], tmp_path: Path):
    Path(films[3]["image"]).write_bytes(Path(films[3]["image"]).read_bytes()[:60])
    with pytest.raises(InputError, match=r"1 of 6 films cannot be read; the first: .*3\.png: "):
        FilmDataset(films, preprocessing(), tmp_path / "cache")


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Path:
    from monai_cxr_vae.model import RadiographVAE, save_model

    save_model(
        RadiographVAE(image_size=16, latent_size=4, channels=(8,), width=16, fit="letterbox"), tmp_path / "tiny.pt"
    )
    return tmp_path / "tiny.pt"


def test_models_preprocessing_is_the_configs(films: list[dict[str, str]], tiny_weights: Path):
    model = load_model(tiny_weights)
    transform: Callable[[dict[str, str]], dict[str, Any]] = preprocessing(16, "letterbox")
    for item in films:
        assert torch.equal(model.preprocess(read_radiograph(item["image"]))[0], transform(item)["image"].as_tensor())
