"""Tables as people and public collections have them, and which film a row means."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_cxr_vae.data.tables import Row, match, read_table


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("first", ["", "sep={}\r\n"])
def test_manifests_as_spreadsheets_save_them(tmp_path: Path, encoding: str, separator: str, first: str):
    rows = [
        ("file", "patient", "Größe"),
        ("images\\a.png", "Müller", "1"),
        ("sub/b.png", " 17 ", "2"),
        ("c.png", "", ""),
    ]
    text = first.format(separator) + "".join(separator.join(row) + "\r\n" for row in rows)
    (tmp_path / "manifest.csv").write_bytes(text.encode(encoding))
    assert read_table(tmp_path / "manifest.csv") == [
        Row("images/a.png", "Müller"),
        Row("sub/b.png", "17"),
        Row("c.png"),
    ]


@pytest.mark.parametrize(
    ("column", "value", "lateral"),
    [
        ("view", "PA", False),
        ("View Position", "AP", False),
        ("ViewPosition", "LL", True),
        ("ViewPosition", "LATERAL", True),
        ("Frontal/Lateral", "Lateral", True),
        ("Frontal/Lateral", "Frontal", False),
        ("Projection", "L", True),
        ("Projection", "AP_horizontal", False),
        ("view", "", None),
    ],
)
def test_views_in_the_words_of_public_collections(tmp_path: Path, column: str, value: str, lateral: bool | None):
    (tmp_path / "list.csv").write_text(f"path,{column}\na.png,{value}\n")
    assert read_table(tmp_path / "list.csv") == [Row("a.png", lateral=lateral)]


def test_rows_of_one_film_are_one(tmp_path: Path):
    (tmp_path / "list.csv").write_text("image,patient,view\nx/../a.png,1,\na.png,,PA\n./a.png,1,PA\n")
    assert read_table(tmp_path / "list.csv") == [Row("a.png", "1", False)]


@pytest.mark.parametrize(
    ("films", "rows", "found"),
    [
        (["a/1.png", "b/1.png"], ["b/1.png", "a/1.png"], {0: 1, 1: 0}),  # the path
        (["a/1.png", "b/1.png"], ["set/b/1.png", "C:/films/a/1.png"], {0: 1, 1: 0}),  # folders in front of the row's
        (["set/a/1.png", "set/b/1.png"], ["b/1.png", "a/1.png"], {0: 1, 1: 0}),  # folders in front of the film's
        (["x/1.png", "y/2.png"], ["2.png", "other/1.png"], {0: 1, 1: 0}),  # the base name
        (["a/1.png", "b/1.png"], ["1.png"], {}),  # of two films
        (["a/1.png"], ["b/1.png", "c/1.png"], {}),  # of two rows
        (["a/1.png"], ["b/1.png", "a/1.png"], {0: 1}),  # the path before the base name
        (["a/1.png", "a/2.jpg"], ["1", "a/2"], {0: 0, 1: 1}),  # without endings
        (["a/1.png", "a/1.jpg"], ["a/1"], {}),
        (["1.2.840.1.dcm", "1.2.840.2.dcm"], ["1.2.840.2", "1.2.840.1"], {0: 1, 1: 0}),  # dots are no endings
        (["a/1.png"], ["2.png"], {}),
        (["1.png"], ["a/1.png"], {0: 0}),
    ],
)
def test_which_film_a_row_means(films: list[str], rows: list[str], found: dict[int, int]):
    listed = [Row(name) for name in rows]
    assert match(listed, films) == {film: listed[row] for film, row in found.items()}
