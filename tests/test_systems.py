"""What the package does without: modules that a system lacks, versions of libraries, versions of Python."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A system without these modules, and whose processes are started by spawning alone, as on Windows.
WITHOUT_POSIX = """
import multiprocessing, sys
if __name__ == "__main__":
    sys.modules["fcntl"] = sys.modules["resource"] = None
    multiprocessing.get_all_start_methods = lambda: ["spawn"]
    import monai_cxr_vae.{module}
"""


def run(code: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(code)
    # A cache of its own: where locks are only files, one that others have left would be waited for.
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, str(script), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["training", "evaluation", "inference.embed", "cli"])
def test_imports_without_modules_that_windows_lacks(module: str, tmp_path: Path):
    result = run(WITHOUT_POSIX.format(module=module), folder=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.training
def test_films_are_read_without_modules_that_windows_lacks(tmp_path: Path):
    code = WITHOUT_POSIX.format(module="cli") + "    sys.exit(monai_cxr_vae.cli.main(sys.argv[1:]))\n"
    assert run(code, "phantom", "films", "--count", "2", folder=tmp_path).returncode == 0
    result = run(code, "embed", "films", "--output", "out", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "latents of 2 films" in result.stdout
    result = run(code, "reconstruct", "films", "--output", "derived", folder=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: folder runs need Linux or macOS")


def test_the_lowest_versions_are_those_that_are_tested():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    bounds = dict(re.findall(r"^([\w-]+)>=([\w.]+)", setup["options"]["install_requires"], re.MULTILINE))
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    # PyTorch's older versions are gigabytes; the bound is MONAI's own.
    assert bounds.pop("torch") == "2.8"
    assert {name: pins[name] for name in bounds} == bounds
