"""The wheel carries the bundle, and the installed package finds it."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import monai_cxr_vae
from monai_cxr_vae.cli import main

ROOT = Path(__file__).parents[1]


@pytest.mark.training
def test_a_wheel_is_complete_without_the_checkout(tmp_path: Path):
    source = tmp_path / "source"
    names = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "monai_cxr_vae", "bundle")
    source.mkdir()
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    shutil.rmtree(source)

    shipped = {path.relative_to(ROOT / "bundle") for path in (ROOT / "bundle").rglob("*") if path.is_file()}
    installed = site / "monai_cxr_vae" / "bundle"
    assert shipped <= {path.relative_to(installed) for path in installed.rglob("*")}
    assert (site / "monai_cxr_vae" / "py.typed").exists()
    assert {path.name for path in (site / "monai_cxr_vae" / "inference" / "templates").iterdir()} == {
        f"report.{kind}" for kind in ("html", "css", "js")
    }
    code = "import monai_cxr_vae as p; print(p.files.bundle_root()); p.load_model()"
    # -P and an own path: the checkout that the tests run in must not answer
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(site)}
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == str(installed)


def test_no_copy_of_the_bundle_lies_in_the_package():
    """A leftover of a build would be taken for the installed bundle."""
    assert not (ROOT / "monai_cxr_vae" / "bundle").exists()


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]):
    assert re.fullmatch(r"\d+\.\d+\.\d+", monai_cxr_vae.__version__)
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"cxr-vae {monai_cxr_vae.__version__}\n"


def test_one_version():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    metadata = json.loads((ROOT / "bundle" / "configs" / "metadata.json").read_text())
    (cited,) = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    latest, *_ = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    versions = [metadata["version"], metadata["required_packages_version"]["monai-cxr-vae"], cited, latest]
    assert versions == [setup["metadata"]["version"]] * 4


def test_one_licence_text():
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "bundle" / "LICENSE").read_bytes()
