"""Films are decoded once, whoever asks, and a killed writer harms nobody."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from PIL import Image

from monai_cxr_vae import load_model, pool, read_radiograph
from monai_cxr_vae.data import FilmDataset, film_transforms
from monai_cxr_vae.data.cache import FilmStore
from monai_cxr_vae.errors import InputError, OutputError
from monai_cxr_vae.transforms import fit_to_square


def preprocessing(size: int = 16, fit: str = "stretch") -> Compose:
    return film_transforms(size, fit)


@pytest.fixture
def films(tmp_path: Path) -> list[dict[str, str]]:
    (tmp_path / "films").mkdir()
    data = []
    for i in range(6):
        path = tmp_path / "films" / f"{i}.png"
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 24 + i), dtype=np.uint8)).save(path)
        data.append({"image": str(path)})
    return data


class Signing:
    """A transform that leaves the number of its process, and of its threads, in a folder, once for each call."""

    def __init__(self, folder: Path, seconds: float = 0) -> None:
        self.transform, self.folder, self.seconds = preprocessing(), str(folder), seconds

    def __call__(self, item: dict[str, str]) -> dict[str, Any]:
        time.sleep(self.seconds)  # so that no process has done all before another has started
        (Path(self.folder) / f"{os.getpid()} {torch.get_num_threads()} {uuid.uuid4()}").touch()
        return self.transform(item)


def test_a_film_is_decoded_once_even_under_another_name(films: list[dict[str, str]], tmp_path: Path):
    (tmp_path / "signed").mkdir()
    first = FilmDataset(films, Signing(tmp_path / "signed"), tmp_path / "cache")
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(films[2]["image"]).read_bytes())
    second = FilmDataset([*films[::-1], {"image": str(copy)}], Signing(tmp_path / "signed"), tmp_path / "cache")
    assert len(list((tmp_path / "signed").iterdir())) == 6
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


def test_a_transform_whose_code_has_changed_has_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []
    for factor in (1, 2, 1):
        (tmp_path / "darker.py").write_text(
            f"class Darker:\n    def __call__(self, item): return item | {{'image': item['image'] / {factor}}}\n"
        )
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "darker", raising=False)
        transform = Compose([preprocessing(), importlib.import_module("darker").Darker()])
        names.append(FilmStore(tmp_path / "cache", transform).folder.name)
    assert names[0] == names[2] != names[1]


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
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        both = list(processes.map(fill, [(films, tmp_path / "shared"), (films[::-1], tmp_path / "shared")]))
    assert torch.equal(both[0], expected)
    assert torch.equal(both[1], expected.flip(0))
    store = FilmStore(tmp_path / "shared", preprocessing()).folder
    assert (store / "films.u16").stat().st_size == 6 * 16 * 16 * 2


def test_many_films_are_decoded_on_all_cores_under_a_progress_bar(
    films: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    many = []
    for i in range(64):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((20, 20), i, np.uint8)).save(path)
        many.append({"image": str(path)})
    (tmp_path / "signed").mkdir()
    monkeypatch.setattr(pool, "cpu_count", lambda: 3)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    filled = FilmDataset(many, Signing(tmp_path / "signed", 0.05), tmp_path / "cache").images()
    assert (filled * 255).round().int()[:, 0, 0, 0].tolist() == list(range(64))
    processes = {tuple(file.name.split()[:2]) for file in (tmp_path / "signed").iterdir()}
    assert len(processes) == 3
    assert str(os.getpid()) not in dict(processes)
    assert {threads for _, threads in processes} == {"1"}
    assert re.search(r"reading films:  [ 1-9]\d%.* \d+/64 ", capsys.readouterr().err)


def test_a_script_needs_no_main_guard_unless_it_defines_the_transform(films: list[dict[str, str]], tmp_path: Path):
    script = tmp_path / "script.py"
    for transform, ends in (("preprocessing()", ""), ("Own()", "processes that import the script")):
        script.write_text(
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from test_cache import preprocessing; from monai_cxr_vae.data import FilmDataset\n"
            "class Own:\n    def __call__(self, item): return preprocessing()(item)\n"
            f"FilmDataset([{{'image': path}} for path in sys.argv[3:]], {transform}, sys.argv[2])\n"
        )
        words = [script, Path(__file__).parent, tmp_path / "cache", *(film["image"] for film in films)]
        ended = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=240)
        assert ended.returncode == bool(ends)
        assert ends in ended.stderr


ABORTS = b"ABORT"


class Aborting:
    """A transform whose decoder takes the process along."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["film"].data.endswith(ABORTS):
            os.abort()
        return preprocessing()(item)


def test_films_that_cannot_be_read_are_listed_and_may_be_left_out(films: list[dict[str, str]], tmp_path: Path):
    paths = [Path(film["image"]) for film in films]
    paths[0].write_bytes(paths[0].read_bytes() + ABORTS)
    paths[3].write_bytes(paths[3].read_bytes()[:60])
    paths[4].unlink()
    listed, line = tmp_path / "out" / "unreadable.csv", "3 of 6 films cannot be read"
    with pytest.raises(InputError, match=line) as refused:
        FilmDataset(films, Aborting(), tmp_path / "cache", listed)
    assert str(paths[0].parent) not in str(refused.value)
    rows = sorted(row.split(",", 1) for row in listed.read_text().splitlines()[1:])
    assert rows == [["corrupt", str(paths[3])], ["crashed", str(paths[0])], ["read_error", str(paths[4])]]
    assert listed.stat().st_mode & 0o077 == 0
    left = FilmDataset(films, Aborting(), tmp_path / "cache", listed, skip_unreadable=True)
    whole = FilmDataset([films[i] for i in (1, 2, 5)], Aborting(), tmp_path / "cache")
    assert left.data == whole.data
    assert left.digests == whole.digests
    assert torch.equal(left.images(), whole.images())


def test_nothing_is_left_when_no_film_can_be_read(films: list[dict[str, str]], tmp_path: Path):
    for film in films:
        Path(film["image"]).write_bytes(b"")
    with pytest.raises(InputError, match=r"6 of 6 films cannot be read \(6 empty\)"):
        FilmDataset(films, preprocessing(), tmp_path / "cache", skip_unreadable=True)


class Replacing:
    """A transform during which the next film becomes another one."""

    def __init__(self, films: list[dict[str, str]]) -> None:
        self.films = films

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        for film in self.films:
            if film["image"] != item["image"]:
                Image.fromarray(np.full((20, 20), 7, np.uint8)).save(film["image"])
        return preprocessing()(item)


def test_a_film_replaced_since_its_digest_was_taken_is_not_stored(
    films: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pool, "cpu_count", lambda: 1)
    with pytest.raises(InputError, match=r"5 of 6 films cannot be read \(5 changed\)"):
        FilmDataset(films, Replacing(films), tmp_path / "cache")


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


def test_a_view_reads_what_is_sliced(films: list[dict[str, str]], tmp_path: Path):
    dataset = FilmDataset(films, preprocessing(16, "letterbox"), tmp_path / "cache")
    whole = dataset.__getitems__(range(6))
    for name in ("image", "mask"):
        view = dataset.view(name)
        assert len(view) == 6
        assert torch.equal(view[:], whole[name])
        assert torch.equal(view[4:9], whole[name][4:])
        assert torch.equal(view[np.array([3, 0])], whole[name][[3, 0]])
    assert torch.equal(torch.cat([batch["mask"] for batch in dataset.batches(size=4)]), whole["mask"])
    os.truncate(dataset.films.filename, 0)  # masks need no pixels
    assert torch.equal(dataset.view("mask")[:], whole["mask"])


def test_the_size_of_the_store_is_told_before_it_is_filled(
    films: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level("INFO")
    monkeypatch.setattr("monai_cxr_vae.data.cache._MUCH", 1000)
    FilmDataset(films, preprocessing(), tmp_path / "cache")
    assert re.search(rf"decoded films take 3\.1 kB in {tmp_path}/cache/\w+$", caplog.text, re.MULTILINE)
    caplog.clear()
    FilmDataset(films, preprocessing(), tmp_path / "cache")
    assert "decoded films" not in caplog.text


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_read(
    films: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 2000, 2000))
    with pytest.raises(
        OutputError, match=r"kept in .*/cache/\w+: they take 3\.1 kB, .*; --cache_dir, or XDG_CACHE_HOM"
    ):
        FilmDataset(films, preprocessing(), tmp_path / "cache")


def test_a_folder_that_cannot_hold_films_is_named(films: list[dict[str, str]], tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=rf"cannot be kept in {tmp_path}/file.*: Not a directory; --cache_dir"):
        FilmDataset(films, preprocessing(), tmp_path / "file" / "cache")
