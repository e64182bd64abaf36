"""Several processes share a folder run: every film once, the same bytes, whatever becomes of a process."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_cxr_vae.inference.manifest import Journal
from monai_cxr_vae.inference.ranks import Ranks
from tests.inference.standins import Convolutions, add_lines, rows, run, tree, write_film, write_folder

PROGRAM = [sys.executable, "-c", "from tests.inference.standins import main; main()"]


def start(folder: Path, output: Path, size: int = 2) -> list[subprocess.Popen]:
    """What torchrun does, but that no process is told of another's death."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        subprocess.Popen(
            [*PROGRAM, str(folder), str(output)],
            env=os.environ
            | {"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(size)
    ]


def end(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    said = [process.communicate(timeout=120)[0] for process in processes]
    return [process.returncode for process in processes], said


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "manifest.jsonl").read_bytes().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with a film that fails, and what one process makes of it."""
    base = tmp_path_factory.mktemp("alone")
    folder = write_folder(base / "in", 12)
    broken = write_film(folder / "broken", 50)
    broken.write_bytes(broken.read_bytes()[:-1000])
    write_film(folder / "copy", 3)
    assert run(folder, base / "out", network=Convolutions())["exit code"] == 8
    return folder, base / "out"


def test_two_processes_do_what_one_does(alone, tmp_path):
    folder, output = alone
    codes, said = end(start(folder, tmp_path / "out"))
    assert codes == [8, 8], said
    assert tree(tmp_path / "out") == tree(output)
    assert sorted(line["index"] for line in lines(tmp_path / "out")) == list(range(17))
    assert "13 done, 3 skipped, 1 failed" in said[0]
    assert "done" not in said[1]
    assert not list((tmp_path / "out").rglob("*tmp*"))
    before = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    codes, said = end(start(folder, tmp_path / "out"))
    assert (codes, "nothing to do" in said[0]) == ([8, 8], True)
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == before


def test_every_film_belongs_to_one_process():
    films = list(range(10))
    shares = [Ranks(i, 3).share(films) for i in range(3)]
    assert sorted(film for share in shares for film in share) == films
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_run_and_any_number_goes_on(tmp_path, killed: int):
    folder, output = write_folder(tmp_path / "in", 60), tmp_path / "out"
    processes = start(folder, output)
    while not (output / "manifest.jsonl").exists() or len(lines_so_far(output)) < 10:
        assert processes[killed].poll() is None
        time.sleep(0.01)
    processes[killed].kill()
    codes, said = end(processes)
    assert codes[killed] == -9
    assert codes[1 - killed] != 0, said  # it finished its share and found itself alone
    assert run(folder, output, network=Convolutions())["exit code"] == 0
    run(folder, tmp_path / "undisturbed", network=Convolutions())
    assert tree(output) == tree(tmp_path / "undisturbed")
    assert len(rows(folder, output)) == 63


def lines_so_far(output: Path) -> list[bytes]:
    return (output / "manifest.jsonl").read_bytes().splitlines()


def test_what_is_wrong_is_told_by_all(alone, tmp_path):
    folder, _ = alone
    codes, said = end(start(folder, folder / "out"))
    assert codes == [1, 1]
    assert all("must not lie within each other" in text for text in said)


def test_a_journal_takes_lines_of_many_processes(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=add_lines, args=(tmp_path / "journal", i, 300)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with (tmp_path / "journal").open("ab") as file:
        file.write(b'{"index":')
    journal = Journal(tmp_path / "journal")
    assert sorted(journal.current) == list(range(1200))
    assert all(journal.current[i] == {"index": i, "text": "x" * (i % 300)} for i in range(1200))
    journal.close()
