"""The list of reasons and warning codes is whole and the only one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import monai_cxr_vae
from monai_cxr_vae.errors import FilmError, Reason, WarningCode

PACKAGE = Path(monai_cxr_vae.__file__).parent


def kinds(base: type) -> list[type]:
    return [base, *(kind for child in base.__subclasses__() for kind in kinds(child))]


def test_the_page_has_every_word():
    page = (PACKAGE.parent / "docs" / "reference" / "reasons.md").read_text()
    for word in (*Reason, *WarningCode):
        assert f"`{word}" in page


@pytest.mark.parametrize("word", [*Reason, *WarningCode], ids=str)
def test_every_word_has_one_sentence(word: Reason | WarningCode):
    assert re.fullmatch("[a-z_]+", word)
    assert word.sentence[0].isupper()
    assert word.sentence.endswith(".")


@pytest.mark.parametrize("kind", kinds(FilmError))
def test_every_refusal_has_a_reason_of_the_list(kind: type[FilmError]):
    assert isinstance(kind.reason, Reason)


def test_no_other_code_spells_them_out():
    """Words that stand for a reason or a warning alone; some others are also names of views, settings and columns."""
    ambiguous = {"lateral", "timeout", "duplicate", "empty", "internal", "colour", "modality", "conflict", "corrupt"}
    words = {*Reason, *WarningCode} - ambiguous
    for file in PACKAGE.rglob("*.py"):
        if file.name == "errors.py":
            continue
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in words, f"{file.name}:{node.lineno} {node.value}"
            if isinstance(node, ast.Dict):
                keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
                for key, value in zip(keys, node.values, strict=True):
                    said = isinstance(value, ast.Constant) and value.value is not None
                    assert not (key == "reason" and said), f"{file.name}:{node.lineno}"
