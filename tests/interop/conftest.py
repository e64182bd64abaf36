"""A network of their own for the servers that tests start, and an Orthanc in it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.interop.servers import running

_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Orthanc:
    """A running server and the folder of its own files."""

    folder: Path
    url: str
    dicom_port: int


@pytest.fixture(scope="module")
def own_network(tool: Callable[[str], str]) -> Iterator[None]:
    """A network namespace with nothing but a loopback, for this thread and the processes that it starts."""
    ip, libc = tool("ip"), ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as outside:
        if libc.unshare(_CLONE_NEWNET):
            message = f"no network namespace: {os.strerror(ctypes.get_errno())}"
            pytest.fail(message) if os.environ.get("CXR_VAE_REQUIRE_INTEROP") == "1" else pytest.skip(message)
        subprocess.run([ip, "link", "set", "lo", "up"], check=True)
        yield
        libc.setns(outside.fileno(), _CLONE_NEWNET)


@pytest.fixture(scope="module")
def orthanc(
    own_network: None, tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Orthanc]:
    """The server of the PACS example."""
    with orthanc_server(tool, tmp_path_factory.mktemp("orthanc"), 18042, 14242) as server:
        yield server


@contextmanager
def orthanc_server(
    tool: Callable[[str], str], folder: Path, http: int, dicom: int, **changes: Any
) -> Iterator[Orthanc]:
    """The server of the PACS example, its storage and ports apart, with changes to its settings."""
    example = Path(__file__).parents[2] / "examples" / "pacs"
    settings = json.loads((example / "orthanc.json").read_text())
    settings |= {"HttpPort": http, "DicomPort": dicom}
    settings["LuaScripts"] = [str(example / script) for script in settings["LuaScripts"]]
    settings |= dict.fromkeys(("StorageDirectory", "IndexDirectory"), str(folder / "storage"))
    (folder / "orthanc.json").write_text(json.dumps(settings | changes))
    url = f"http://127.0.0.1:{http}"
    tool("Orthanc"), tool("cc")
    with running(["bash", str(example / "archive.sh"), str(folder / "orthanc.json")], f"{url}/system", folder / "log"):
        yield Orthanc(folder, url, dicom)
