"""The benchmarks run, on next to nothing, and give rows that a table and a JSON file can take."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor

from monai_cxr_vae.data.phantom import write_phantoms

FOLDER = Path(__file__).parents[1] / "examples" / "benchmarks"
TINY_NETWORK = {"image_size": 16, "latent_size": 4, "channels": [8]}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports a benchmark as its script does, and leaves modules and thread settings as they were."""
    modules, threads, cv2_threads = set(sys.modules), torch.get_num_threads(), cv2.getNumThreads()
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv2_threads)


def check(rows: list[dict], count: int) -> None:
    assert len(rows) == count
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    for row in rows:
        assert row["name"]
        assert row["unit"]
        assert row["n"] > 0
        assert min(row["ratio"], row["ours"], row["theirs"]) > 0
        assert row["limit"] is None or row["limit"] > 0


def test_decode(benchmark: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch):
    decode = benchmark("decode")
    monkeypatch.setattr(decode, "ROWS", 600)
    monkeypatch.setattr(decode, "COLUMNS", 500)
    check(decode.measure(rounds=1, syntaxes=("native", "JPEG Lossless")), 4)


def test_inference(benchmark: Callable[[str], Any]):
    check(benchmark("inference").measure(count=2, rounds=1, shape=(300, 250)), 1)


def test_scaling(benchmark: Callable[[str], Any]):
    check(benchmark("scaling").measure(count=20, workers=1), 3)


@pytest.mark.slow
def test_memory(benchmark: Callable[[str], Any]):
    check(benchmark("memory").measure(counts=(300, 1200)), 3)


@pytest.mark.slow
def test_serve(benchmark: Callable[[str], Any]):
    check(benchmark("serve").measure(count=4, single=2), 2)


@pytest.mark.training
def test_overhead(benchmark: Callable[[str], Any], tmp_path: Path):
    for seed, (part, count) in enumerate((("train", 8), ("val", 2))):
        write_phantoms(tmp_path / part, count, seed, "png", 64)
    folders = {"dataset_dir": str(tmp_path / "train"), "val_dataset_dir": str(tmp_path / "val")}
    settings = folders | {"cache_dir": str(tmp_path / "cache"), "latent_size": 4, "channels": [8]}
    check(benchmark("overhead").measure(pairs=2, sizes=(16,), batch_size=4, **settings), 4)


@pytest.mark.slow
@pytest.mark.training
def test_ranks(benchmark: Callable[[str], Any]):
    check(benchmark("ranks").measure(rounds=1, steps=1, cases=[(4, TINY_NETWORK), (8, TINY_NETWORK)]), 2)


@pytest.mark.training
def test_peers(benchmark: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch):
    peers = benchmark("peers")
    contestants = peers.contestants

    def all_but_the_heavy(size: int) -> list:
        return [c for c in contestants(size, 8) if "torchxrayvision" not in c.name]

    def random_films(folder: str, size: int, section: str = "all") -> Tensor:
        return torch.rand(12, 1, size, size, generator=torch.Generator().manual_seed(len(folder)))

    monkeypatch.setattr(peers, "contestants", all_but_the_heavy)
    monkeypatch.setattr(peers, "films", random_films)
    rows = peers.measure("train", "test", minutes=0.005, size=16)
    check(rows, 5)
    assert {row["latents"] for row in rows} == {8}
    assert len(peers.table(rows).splitlines()) == 6


@pytest.mark.training
def test_spatial(benchmark: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch):
    peers, spatial = benchmark("peers"), benchmark("spatial")
    generator = torch.Generator().manual_seed(0)
    contestants = spatial.contestants
    monkeypatch.setattr(
        peers, "films", lambda folder, size, section="all": torch.rand(12, 1, 16, 16, generator=generator)
    )
    monkeypatch.setattr(spatial, "contestants", lambda size: contestants(size, 8, (8, 8, 8, 8), 8))
    rows = spatial.measure("train", "test", minutes=0.005, size=16)
    check(rows, 2)
    assert {row["latents"] for row in rows} == {8}


@pytest.mark.training
def test_residuals(benchmark: Callable[[str], Any], tmp_path: Path):
    for part, count in (("train", 12), ("val", 6)):
        write_phantoms(tmp_path / part, count, 0, "png", 128)
    rows = list(benchmark("residuals").measure(str(tmp_path / "train"), str(tmp_path / "val"), 0.005, ["compact"]))
    assert len({name for name, *_ in rows}) == 4
    assert all(0 < value < 1 for _, *values in rows for value in values)


def test_steps_run_in_turns(benchmark: Callable[[str], Any]):
    order: list[str] = []
    ticks = iter(range(100))
    times = benchmark("side_by_side").in_turns(
        lambda: order.append("a"), lambda: order.append("b"), rounds=3, clock=lambda: next(ticks)
    )
    assert order == ["a", "b"] * 3
    assert times == [[1000.0] * 3] * 2
