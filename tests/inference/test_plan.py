"""What is to be done follows from the files, the journals and the options alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_cxr_vae.files import Entry, Identity
from monai_cxr_vae.inference.plan import (
    FolderOptions,
    alias_rows,
    gone,
    input_row,
    pending_groups,
    settled,
    take_stock,
    to_look_at,
)

OPTIONS = FolderOptions()


def entry(path="/in/a", inode=1, **changes):
    return Entry(path, Identity(9, inode, 100, 5, 5)._replace(**changes))


def header(**known):
    return {
        "status": None,
        "reason": None,
        "input_sha256": None,
        "sop_uid": "1.2",
        "view": "PA",
        "warnings": [],
    } | known


def known(found, said=None):
    return {0: input_row(0, found, header() if said is None else said)}


def done(**changes):
    return {"status": "done", "reason": None, "input_sha256": "d", "outputs": [], "warnings": []} | changes


def to_run(found, inputs, rows, options=OPTIONS, whole=True):
    stock = take_stock(found, inputs, rows)
    return pending_groups(stock, inputs, rows, options, lambda row: whole)


def test_an_unchanged_film_that_is_done_is_left_alone():
    stock = take_stock([entry()], known(entry()), {0: done()})
    assert (stock.new, stock.changed) == ([], set())
    assert to_look_at(stock, known(entry()), {0: done()}, OPTIONS) == []
    assert to_run([entry()], known(entry()), {0: done()}) == []


@pytest.mark.parametrize("field", Identity._fields)
def test_any_part_of_the_identity_has_the_digest_decide(field):
    changed = entry(**{field: 77})
    stock = take_stock([changed], known(entry()), {0: done()})
    assert stock.changed == {0}
    assert to_look_at(stock, known(entry()), {0: done()}, OPTIONS) == [0]
    for digest, groups in (("d", []), ("other", [[0]])):
        inputs = known(changed, header(input_sha256=digest))
        assert to_run([changed], inputs, {0: done()}) == groups


def test_an_input_of_an_older_release_is_looked_at_again():
    old = {0: {"index": 0, "path": "/in/a", "size": 100, "mtime_ns": 5, "inode": 1, "header": header()}}
    assert take_stock([entry()], old, {0: done()}).changed == {0}


@given(st.lists(st.integers(0, 9), max_size=8), st.lists(st.integers(0, 30), max_size=8))
def test_no_number_is_given_twice(inputs, rows):
    """Not even that of a row whose input was lost."""
    journal = {i: input_row(i, entry(f"/in/{i}", i + 1), None) for i in inputs}
    found = [entry(f"/in/{name}", 100 + number) for number, name in enumerate("abc")]
    new = [row["index"] for row in take_stock(found, journal, dict.fromkeys(rows, done())).new]
    assert len(set(new)) == 3
    assert not set(new) & {*inputs, *rows}


@pytest.mark.parametrize(
    ("row", "options", "again"),
    [
        ({"status": "failed", "reason": "corrupt"}, {}, False),
        ({"status": "failed", "reason": "corrupt"}, {"retry_failed": True}, True),
        ({"status": "failed", "reason": "changed"}, {}, True),
        ({"status": "failed", "reason": "crashed"}, {}, False),
        ({}, {"force": True}, True),
    ],
)
def test_what_is_tried_again(row, options, again):
    assert bool(to_run([entry()], known(entry()), {0: done(**row)}, FolderOptions(**options))) == again


def test_a_damaged_result_is_made_again():
    assert to_run([entry()], known(entry()), {0: done()}, whole=False) == [[0]]


def test_a_film_that_changed_under_the_run_is_looked_at_again():
    row = done(status="failed", reason="changed")
    assert to_look_at(take_stock([entry()], known(entry()), {0: row}), known(entry()), {0: row}, OPTIONS) == [0]


def test_several_names_of_a_file_are_one():
    found = [entry("/in/a"), entry("/in/b"), entry("/in/c", 2)]
    stock = take_stock(found, {}, {})
    assert stock.aliases == {0: [1]}
    assert list(stock.leaders) == [0, 2]
    [row] = alias_rows(0, [1], {0: done()})
    assert (row["index"], row["reason"], row["duplicate_of"], row["input_sha256"]) == (1, "duplicate", 0, "d")
    assert alias_rows(0, [1], {0: done(), 1: row}) == []


def test_names_are_told_apart_by_device_and_inode_alone():
    """Not by what a file being written to changes; and not at all where the file system has no inodes."""
    found = [entry("/in/a"), entry("/in/b", size=101, mtime_ns=6), entry("/in/c", device=8)]
    assert take_stock(found, {}, {}).aliases == {0: [1]}
    found = [entry("/in/a", 0), entry("/in/b", 0), Entry("/in/c", None), Entry("/in/d", None)]
    assert take_stock(found, {}, {}).aliases == {}


def test_an_input_has_the_identity_that_its_header_was_read_at():
    read_at = Identity(9, 1, 50, 4, 4)
    row = input_row(3, entry(), header(identity=list(read_at)))
    assert (row["index"], row["path"], row["identity"]) == (3, "/in/a", list(read_at))
    assert row["header"] == header(identity=list(read_at))
    assert take_stock([entry()], {3: row}, {}).changed == {3}  # it grew since
    for unsaid in (None, header(), header(identity=None)):
        assert input_row(3, entry(), unsaid)["identity"] == list(entry().identity)
    assert input_row(3, Entry("/in/a", None), None)["identity"] is None


@pytest.mark.parametrize(
    ("said", "options", "again"),
    [
        ({"view": "unknown"}, {}, False),
        ({"view": "unknown"}, {"strict_view": True}, True),
        ({"view": "PA"}, {"strict_view": True}, False),
        ({"status": "skipped", "reason": "lateral", "view": "unknown"}, {"strict_view": True}, False),
        ({"status": "skipped", "reason": "view_unknown"}, {"strict_view": True}, False),
        ({"status": "skipped", "reason": "view_unknown"}, {}, True),
        ({"status": "skipped", "reason": "lateral"}, {}, False),
        ({"status": "skipped", "reason": "lateral"}, {"retry_failed": True}, False),
        ({"status": "skipped", "reason": "lateral"}, {"force": True}, True),
        ({"status": "failed", "reason": "corrupt"}, {}, False),
        ({"status": "failed", "reason": "corrupt"}, {"retry_failed": True}, True),
        ({"status": "failed", "reason": "corrupt"}, {"force": True}, True),
        ({"status": "failed", "reason": "changed"}, {}, True),
        ({}, {"retry_failed": True}, False),
        ({}, {"force": True}, True),
    ],
)
def test_a_header_is_read_again_where_it_may_say_something_else(said, options, again):
    inputs = known(entry(), header(**said))
    stock = take_stock([entry()], inputs, {})
    assert to_look_at(stock, inputs, {}, FolderOptions(**options)) == ([0] if again else [])


def test_what_is_no_film_is_told_once():
    said = header(status="skipped", reason="lateral", input_sha256="d")
    inputs = known(entry(), said)
    stock = take_stock([entry()], inputs, {})
    [row] = settled([0], stock, inputs, {}, OPTIONS)
    assert row == {**said, "index": 0, "outputs": []}
    for looked_at in ([], [0]):
        assert settled(looked_at, stock, inputs, {0: row}, OPTIONS) == []
    assert settled([], stock, inputs, {0: row}, FolderOptions(force=True)) == []
    assert settled([0], stock, inputs, {0: row}, FolderOptions(force=True)) == [row]


def test_what_is_no_film_is_told_beside_films_and_what_nobody_has_looked_at():
    said = header(status="skipped", reason="lateral", input_sha256="d")
    found = [entry(f"/in/{inode}", inode) for inode in (1, 2, 3)]
    inputs = {i: input_row(i, e, said) for i, (e, said) in enumerate(zip(found, (None, header(), said), strict=True))}
    assert [row["index"] for row in settled([], take_stock(found, inputs, {}), inputs, {}, OPTIONS)] == [2]


def test_an_input_that_is_away_says_so_until_it_is_back():
    inputs = known(entry())
    away, back = take_stock([], inputs, {}), take_stock([entry()], inputs, {})
    [row] = gone(away, inputs, {0: done()}, lambda path: True)
    assert (row["status"], row["warnings"]) == ("done", ["input_gone"])
    assert gone(away, inputs, {0: row}, lambda path: True) == []
    [again] = gone(back, inputs, {0: row}, lambda path: True)
    assert again["warnings"] == []
    assert gone(away, inputs, {0: done()}, lambda path: False) == []


def test_an_input_that_is_away_before_anything_was_said_of_it_could_not_be_read():
    found = [entry("/elsewhere/a"), entry("/in/b", 2), entry("/in/c", 3)]
    inputs = {i: input_row(i, e, None) for i, e in enumerate(found)}
    [row] = gone(take_stock(found[2:], inputs, {}), inputs, {}, lambda path: path.startswith("/in/"))
    assert (row["index"], row["status"], row["reason"]) == (1, "failed", "read_error")
    assert row["warnings"] == ["input_gone"]


def test_files_that_claim_to_be_one_film_are_one_task():
    found = [entry("/in/a", 1), entry("/in/b", 2), entry("/in/c", 3)]
    inputs = {i: input_row(i, e, header(sop_uid="1.2" if i < 2 else "1.3")) for i, e in enumerate(found)}
    assert to_run(found, inputs, {0: done(), 2: done()}) == [[0, 1]]


def test_a_file_without_an_instance_uid_is_one_film_with_its_equals():
    found = [entry(f"/in/{inode}", inode) for inode in (1, 2, 3)]
    said = [header(sop_uid=None, input_sha256=digest) for digest in "aba"]
    inputs = {i: input_row(i, e, said) for i, (e, said) in enumerate(zip(found, said, strict=True))}
    assert to_run(found, inputs, {}) == [[0, 2], [1]]


def test_neither_what_is_no_film_nor_what_nobody_has_looked_at_is_run():
    found = [entry(f"/in/{inode}", inode) for inode in (1, 2)]
    inputs = {
        i: input_row(i, e, said)
        for i, (e, said) in enumerate(zip(found, (None, header(status="skipped")), strict=True))
    }
    assert to_run(found, inputs, {}) == []


def test_a_film_that_was_refused_for_its_view_is_run_once_its_header_passes():
    row = done(status="skipped", reason="view_unknown")
    assert to_run([entry()], known(entry()), {0: row}) == [[0]]


def test_whether_results_are_whole_is_asked_of_the_row_that_names_them():
    asked = []
    inputs, row = known(entry()), done()
    stock = take_stock([entry()], inputs, {0: row})
    assert pending_groups(stock, inputs, {0: row}, OPTIONS, lambda row: asked.append(row) or True) == []
    assert asked == [row]


@pytest.mark.parametrize(
    ("first", "uid", "found", "again"),
    [
        (done(), "1.2", "ab", False),
        (done(), "1.2", "b", False),  # its result is there all the same
        (done(), "1.3", "ab", True),  # it is another film by now
        (done(), None, "b", True),  # the journal has lost it
        (done(status="failed", reason="corrupt"), "1.2", "ab", True),
        (done(status="failed", reason="corrupt"), "1.2", "b", True),
        (done(status="skipped", reason="lateral"), "1.2", "ab", True),
        (None, "1.2", "ab", True),
        (None, "1.2", "b", True),
    ],
)
def test_a_duplicate_is_run_unless_the_film_that_it_doubles_was_done(first, uid, found, again):
    """File b was a duplicate of file a, which by its row was done, and by its header is film 1.2."""
    found = [entry(f"/in/{name}", ord(name)) for name in found]
    inputs = {1: input_row(1, entry("/in/b", ord("b")), header())}
    rows = {1: done(status="skipped", reason="duplicate", duplicate_of=0)}
    if uid is not None:
        inputs[0] = input_row(0, entry("/in/a", ord("a")), header(sop_uid=uid))
    if first is not None:
        rows[0] = first
    assert any(1 in group for group in to_run(found, inputs, rows)) == again
