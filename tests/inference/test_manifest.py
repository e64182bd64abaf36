"""The journal survives being cut anywhere; the table shows what counts."""

from __future__ import annotations

import csv
import json

import pytest

from monai_cxr_vae.inference.manifest import Journal, write_csv

ROWS = [{"index": i % 3, "status": "done", "n": i} for i in range(5)]


def opened(path):
    journal = Journal(path)
    journal.close()
    return journal.current


def test_last_line_of_an_index_counts(tmp_path):
    journal = Journal(tmp_path / "j")
    for row in ROWS:
        journal.add(row)
    assert opened(tmp_path / "j") == journal.current == {0: ROWS[3], 1: ROWS[4], 2: ROWS[2]}


def test_journal_cut_at_any_byte_keeps_its_whole_lines(tmp_path):
    whole = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
    for cut in range(len(whole)):
        (tmp_path / "j").write_bytes(whole[:cut])
        lines = whole[:cut].count(b"\n")
        assert opened(tmp_path / "j") == {row["index"]: row for row in ROWS[:lines]}
        assert (tmp_path / "j").read_bytes().count(b"\n") == lines
        assert (tmp_path / "j").read_bytes() == whole[: (tmp_path / "j").stat().st_size]


@pytest.mark.parametrize("rubbish", [b"\x00\x00\x00", b"[1]\n", b"{}\n", b"\xff\xfe\n"])
def test_rubbish_at_the_end_is_cut_off(tmp_path, rubbish):
    (tmp_path / "j").write_bytes(b'{"index":0}\n' + rubbish)
    journal = Journal(tmp_path / "j")
    journal.add({"index": 1})
    journal.close()
    assert (tmp_path / "j").read_bytes() == b'{"index":0}\n{"index":1}\n'


def test_private_journal_is_private(tmp_path):
    Journal(tmp_path / "j", mode=0o600).close()
    assert (tmp_path / "j").stat().st_mode & 0o077 == 0


def test_table_is_ordered_and_holds_lists_as_json(tmp_path):
    rows = [
        {"index": 2, "status": "failed"},
        {"index": 0, "status": "done", "outputs": [{"kind": "sc"}], "warnings": []},
    ]
    write_csv(tmp_path, rows)
    table = list(csv.DictReader((tmp_path / "manifest.csv").open()))
    assert [row["index"] for row in table] == ["0", "2"]
    assert json.loads(table[0]["outputs"]) == [{"kind": "sc"}]
    assert "path" not in table[0]
    assert "anomaly" not in table[0]
