"""Batches of fixed size: no film's result depends on another film, and what goes wrong costs one film."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.inference import FolderRun
from monai_cxr_vae.inference.batches import FixedBatches
from tests.inference.standins import (
    BOMB,
    BUG,
    CRASH,
    HANG,
    LATE,
    Convolutions,
    Refusing,
    evaluator,
    rows,
    run,
    tree,
    write_film,
    write_folder,
)

PROGRAM = [sys.executable, "-c", "from tests.inference.standins import main; main()"]


def films(count: int, size: int = 32) -> list[np.ndarray]:
    return list(np.random.default_rng(0).random((count, 1, size, size), np.float32))


@pytest.fixture
def batches() -> FixedBatches:
    return FixedBatches(Convolutions(), SimpleInferer(), "cpu", 5)


def test_a_film_has_the_same_result_in_every_company(batches: FixedBatches):
    some = films(5)
    together = batches(some)
    np.testing.assert_allclose(together, Convolutions()(torch.tensor(np.array(some))).detach(), atol=1e-5)
    for i in range(5):
        assert np.array_equal(batches([some[i]])[0], together[i])
        assert np.array_equal(batches(some[i:] + some[:i])[0], together[i])
        assert np.array_equal(batches([films(9)[8], some[i]])[1], together[i])


def test_the_network_sees_one_shape_only_and_is_left_alone():
    shapes = []

    class Spy(Convolutions):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shapes.append((tuple(x.shape), self.training, torch.is_grad_enabled(), torch.get_num_threads()))
            return super().forward(x)

    network, threads = Spy().train(), torch.get_num_threads()
    run_batch = FixedBatches(network, SimpleInferer(), "cpu", 4)
    for count in (4, 1, 3):
        assert len(run_batch(films(count))) == count
    assert shapes == [((4, 1, 32, 32), False, False, 1)] * 3
    assert network.training
    assert torch.get_num_threads() == threads


def test_a_film_that_the_network_refuses_costs_no_other():
    run_batch = FixedBatches(Refusing(), SimpleInferer(), "cpu", 4)
    some = [film / 2 for film in films(4)]
    some[1] = np.ones_like(some[1])
    some[2] = some[2][:, :16]  # stacks with no other
    first, bright, narrow, last = run_batch(some)
    assert isinstance(bright, ValueError)
    assert [film.shape for film in (first, narrow, last)] == [(1, 32, 32), (1, 16, 32), (1, 32, 32)]


def test_a_failing_device_is_no_fault_of_a_film():
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.AcceleratorError("device lost")

    with pytest.raises(torch.AcceleratorError):
        FixedBatches(Broken(), SimpleInferer(), "cpu", 4)(films(2))


def test_an_accelerator_gets_batches_and_the_cpu_only_when_asked(tmp_path):
    assert evaluator(tmp_path, tmp_path / "out").batches is None
    assert evaluator(tmp_path, tmp_path / "out", batch_size=3).batches.size == 3
    batches = evaluator(tmp_path, tmp_path / "out", device="cuda:1").batches
    assert (batches.size, batches.device) == (32, torch.device("cuda:1"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_told_once_and_costs_no_film(tmp_path):
    folder = write_folder(tmp_path / "in", 2)
    with pytest.raises(InputError, match="cannot run on cuda:0"):
        run(folder, tmp_path / "out", device="cuda:0")
    assert run(folder, tmp_path / "out")["exit code"] == 0


def test_order_number_and_processes_do_not_change_a_byte(tmp_path):
    """The same films under other names come in another order; some of them alone leave other batches."""
    results = {}
    for name, numbers, workers in (("whole", range(7), 1), ("turned", range(6, -1, -1), 3), ("some", (5, 2), 2)):
        for place, number in enumerate(numbers):
            write_film(tmp_path / f"{name} in" / str(place), number)
        options = {"network": Convolutions(), "num_workers": workers, "batch_size": 4}
        assert run(tmp_path / f"{name} in", tmp_path / name, **options)["exit code"] == 0
        results[name] = {path: digest for path, digest in tree(tmp_path / name).items() if path != "manifest.csv"}
    assert len(results["whole"]) == 7
    assert results["turned"] == results["whole"]
    assert len(results["some"]) == 2
    assert results["some"].items() <= results["whole"].items()


def test_bad_films_cost_one_row_each_before_and_behind_the_network(tmp_path):
    tails = [b"", CRASH, HANG, BOMB, BUG, LATE + CRASH, LATE + HANG, LATE + BOMB, LATE + BUG, b""]
    for i, tail in enumerate(tails):
        write_film(tmp_path / "in" / str(i), i, tail=tail)
    result = run(tmp_path / "in", tmp_path / "out", timeout=6, num_workers=2, batch_size=3)
    assert result.pop("exit code") == 8
    faults = [("failed", reason) for reason in ("crashed", "timeout", "out_of_memory", "internal")]
    expected = [("done", None), *faults, *faults, ("done", None)]
    assert [(result[str(i)]["status"], result[str(i)]["reason"]) for i in range(10)] == expected
    assert all(row["input_sha256"] for row in result.values())


def test_a_film_that_the_network_refuses_is_a_row(tmp_path):
    for i in range(5):
        write_film(tmp_path / "in" / str(i), i)
    pixels = np.full((60, 50), 4095, np.uint16)
    film = tmp_path / "in" / "2"
    content = film.read_bytes()
    film.write_bytes(content[: -pixels.nbytes] + pixels.tobytes())
    result = run(tmp_path / "in", tmp_path / "out", network=Refusing(), batch_size=4)
    assert result.pop("exit code") == 8
    assert {name: row["status"] for name, row in result.items()} == {
        name: "failed" if name == "2" else "done" for name in "01234"
    }
    assert result["2"]["warnings"][-1].startswith("ValueError@")


@pytest.mark.parametrize("after", [0, 1, 5])
def test_abandoned_run_is_completed(tmp_path, after: int):
    folder = write_folder(tmp_path / "in", 8)
    options = {"network": Convolutions(), "batch_size": 3}
    run(folder, tmp_path / "whole", **options)
    engine = evaluator(folder, tmp_path / "out", **options)
    job = FolderRun(engine.dataset, tmp_path / "out", engine.chain, engine.provenance, engine.options, engine.batches)
    job.__enter__()
    for _, row in zip(range(after), job, strict=False):
        job.record(row)
    job._cleanup.close()
    run(folder, tmp_path / "out", **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.slow
def test_killed_program_goes_on(tmp_path):
    folder, output = write_folder(tmp_path / "in", 100), tmp_path / "out"
    run(folder, tmp_path / "undisturbed", network=Convolutions(), batch_size=8)
    for goal in (1, 40, 80):
        process = subprocess.Popen([*PROGRAM, str(folder), str(output), "8"], stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(output.rglob("*.dcm"))) < goal:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert run(folder, output, network=Convolutions(), batch_size=8)["exit code"] == 0
    assert tree(output) == tree(tmp_path / "undisturbed")
    assert len(rows(folder, output)) == 103
