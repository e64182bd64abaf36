"""The documents: short, current, without a dead link; the tutorial runs."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "examples" / "tutorial.ipynb"
PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "bundle/docs/*.md") for path in ROOT.glob(pattern)
)


def links(text: str) -> list[str]:
    """Targets of Markdown links, pictures and download roles, without code."""
    downloads = re.findall(r"\{download\}`[^`]*<([^<>]+)>`", text)
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    return downloads + re.findall(r"\]\(([^()\s]+)\)", prose)


def headings(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_local_links_lead_somewhere(page: Path):
    for target in links(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in headings(file), target


def test_generated_pages_are_current():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, text in generate.pages().items():
        assert path.read_text() == text, f"{path.name}: run python docs/generate.py"


def test_the_model_card_has_the_numbers_of_the_readme():
    rows = re.findall(r"^\| .*(?:dB|AUROC).*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 6
    card = (ROOT / "bundle" / "docs" / "README.md").read_text()
    for number in re.findall(r"\d+\.\d{2,}", " ".join(row.rsplit("|", 2)[0] for row in rows)):
        assert number in card, number


def test_the_pages_build_without_a_warning(tmp_path: Path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    result = subprocess.run([*command, str(ROOT / "docs"), str(tmp_path / "html")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    api = (tmp_path / "html" / "reference" / "api.html").read_text()
    for name in ("model.load_model", "radiograph.read_radiograph", "losses.VAELoss", "scoring.score"):
        assert f'id="monai_cxr_vae.{name}' in api


def test_the_tutorial_is_committed_as_it_ran():
    notebook = nbformat.read(TUTORIAL, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert sum("image/jpeg" in json.dumps(cell.outputs) for cell in code) == 7
    assert TUTORIAL.stat().st_size < 300_000


@pytest.mark.training
def test_the_tutorial_runs(tmp_path: Path):
    notebook = nbformat.read(TUTORIAL, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    before, after = map(float, re.search(r"neither has seen: ([\d.]+) dB before, ([\d.]+) after", text).groups())
    assert after > before + 1
    assert not list(tmp_path.iterdir())
