"""NVFLARE's simulator runs the federated example, and what its sites send is read off their sockets."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_cxr_vae.data import datalist
from monai_cxr_vae.model import load_model
from monai_cxr_vae.training import shared_weights

pytestmark = pytest.mark.interop
EXAMPLE = Path(__file__).parents[2] / "examples" / "federated"
SITES, ROUNDS = ("north", "south", "west"), 3
SETTINGS = {"image_size": 32, "latent_size": 8, "count": 32, "rounds": ROUNDS, "local_epochs": 2, "batch_size": 8}
# Python runs this when it starts: each process writes what it sends over the network into a file of its own.
RECORDER = """
import os, socket, sys
file = open(os.path.join(os.environ["SENT"], str(os.getpid())), "ab", buffering=0)
file.write(repr(sys.orig_argv).encode() + b"\\n")
def record(name):
    original = getattr(socket.socket, name)
    def method(self, data, *rest):
        count = original(self, data, *rest)
        file.write((b"".join(map(bytes, data)) if name == "sendmsg" else bytes(data))[:count])
        return count
    setattr(socket.socket, name, method)
for name in ("send", "sendall", "sendto", "sendmsg"):
    record(name)
"""


@dataclass(frozen=True)
class Simulation:
    """What a run of the example has left, and the bytes that each site has sent."""

    returncode: int
    output: str
    folder: Path
    sent: dict[str, bytes]


def simulate(tmp_path: Path, *words: str) -> Simulation:
    environment = Path(os.environ.get("FEDERATED_ENV", EXAMPLE.parents[1] / ".venv-federated"))
    if not (environment / ".installed").exists():
        message = f"no NVFLARE in {environment}: examples/federated/install.sh makes it"
        pytest.fail(message) if os.environ.get("CXR_VAE_REQUIRE_INTEROP") == "1" else pytest.skip(message)
    for name in ("hook", "sent"):
        (tmp_path / name).mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(RECORDER)
    words = tuple(f"--{name}={value}" for name, value in SETTINGS.items()) + words
    search = f"{tmp_path / 'hook'}{os.pathsep}{EXAMPLE.parents[1]}"  # the environment may know another checkout
    result = subprocess.run(
        [environment / "bin" / "python", EXAMPLE / "federate.py", tmp_path / "out", *words],
        env=os.environ | {"PYTHONPATH": search, "SENT": str(tmp_path / "sent"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    sent = {}
    for file in (tmp_path / "sent").iterdir():
        command, _, traffic = file.read_bytes().partition(b"\n")
        words_of_process = ast.literal_eval(command.decode())
        if "--client" in words_of_process:
            sent[words_of_process[words_of_process.index("--client") + 1]] = traffic
    return Simulation(result.returncode, result.stdout, tmp_path / "out", sent)


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    done = simulate(tmp_path_factory.mktemp("federation"))
    assert done.returncode == 0, done.output[-5000:]
    return done


def arrays(traffic: bytes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Type and shape of each array in what NVFLARE sends, which has them in NumPy's own format."""
    for header in re.findall(rb"\x93NUMPY.{4}(\{'descr'[^}]*\})", traffic, re.DOTALL):
        told: dict[str, Any] = ast.literal_eval(header.decode())
        yield told["descr"], told["shape"]


def test_sites_send_changes_of_shared_weights_and_nothing_else(simulation: Simulation) -> None:
    weights = shared_weights(simulation.folder / "start.pt").state_dict()
    rest = load_model(simulation.folder / "start.pt").state_dict().keys() - weights.keys()
    assert {"sigma", "latent_mean", "_extra_state"} <= rest
    size = sum(4 * value.numel() for value in weights.values())
    shapes = Counter({("<f4", tuple(value.shape)): 0 for value in weights.values()})
    shapes.update(("<f4", tuple(value.shape)) for value in weights.values() for _ in range(ROUNDS))
    assert simulation.sent.keys() == set(SITES)
    for site, traffic in simulation.sent.items():
        assert Counter(arrays(traffic)) == shapes
        assert 0 < len(traffic) - ROUNDS * size < 500_000  # NVFLARE's own words
        for name in weights:
            assert traffic.count(name.encode()) == ROUNDS * sum(name in other for other in weights), name
        for name in rest:
            assert name.encode() not in traffic, name
        assert str(simulation.folder).encode() not in traffic
        for film in datalist(simulation.folder / "films" / "train" / site):
            path = Path(film["image"])
            assert path.stem.encode() not in traffic
            assert path.read_bytes()[64:96] not in traffic


def test_average_is_better_than_each_site_alone(simulation: Simulation) -> None:
    figures = json.loads((simulation.folder / "figures.json").read_text())
    means = {name: values["mean"] for name, values in figures.items()}
    assert means["average"] > max(means["start"], *(means[f"{site} alone"] for site in SITES)), means
    for name, values in figures.items():
        assert re.search(
            rf"^{name} +{' +'.join(f'{value:.2f}' for value in values.values())}$", simulation.output, re.M
        )


def test_server_ends_with_a_weights_file_without_statistics(simulation: Simulation) -> None:
    whole = load_model(simulation.folder / "global.pt")
    (file,) = simulation.folder.rglob("FL_global_model.pt")
    average = torch.load(file, weights_only=True)["model"]
    assert average.keys() == shared_weights(simulation.folder / "global.pt").state_dict().keys()
    assert all(torch.equal(whole.get_parameter(name), value) for name, value in average.items())
    assert whole.sigma.isnan()


@pytest.mark.slow
def test_what_fails_at_a_site_is_told_there_alone(simulation: Simulation, tmp_path: Path) -> None:
    films = tmp_path / "films"
    (films / "train").mkdir(parents=True)
    (films / "test").symlink_to(simulation.folder / "films" / "test")
    for site in SITES:
        folder = films / "train" / site
        folder.mkdir()
        for film in (simulation.folder / "films" / "train" / site).iterdir():
            (folder / film.name).write_bytes(film.read_bytes())
    whole = next((films / "train" / "south").iterdir())
    (films / "train" / "south" / "Miller_Anna.png").write_bytes(whole.read_bytes()[:-2000])
    failed = simulate(tmp_path, f"--films={films}")
    assert failed.returncode != 0
    assert "films cannot be read" in failed.output
    assert "Miller_Anna" in (failed.folder / "sites" / "south" / "unreadable.csv").read_text()
    assert failed.sent["south"]
    for traffic in failed.sent.values():
        for word in ("Miller", "cannot be read", str(tmp_path)):
            assert word.encode() not in traffic
