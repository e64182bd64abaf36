"""Files are read once and whole, written whole or not at all, and found whatever their folders look like."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import fire
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle.__main__ import __file__ as bundle_main

from monai_cxr_vae import files
from monai_cxr_vae.errors import Changed, EmptyFile, InputError, NotAFile, OutputError, ReadFailed, TooLarge
from monai_cxr_vae.files import (
    Entry,
    Identity,
    bundle_root,
    cache_folder,
    check_size,
    file_sha256,
    open_file,
    option,
    read_file,
    walk,
    write_whole,
)


def test_bytes_and_identity_belong_together(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"film")
    data, identity = read_file(path)
    status = path.stat()
    assert data == b"film"
    assert identity == (status.st_dev, status.st_ino, 4, status.st_mtime_ns, status.st_ctime_ns)


def overwrite(path):
    with path.open("r+b") as file:
        file.write(b"X")


def overwrite_and_hide(path):
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def lengthen(path):
    with path.open("ab") as file:
        file.write(b"X")


@pytest.mark.parametrize("change", [overwrite, overwrite_and_hide, lengthen])
def test_a_file_written_to_while_it_is_read_is_not_taken(tmp_path, change):
    path = tmp_path / "f"
    path.write_bytes(b"film")

    def read():
        with open_file(path) as file:
            file.stream.read(2)
            change(path)

    with pytest.raises(Changed):
        read()


def test_a_file_that_loses_its_name_is_read_to_its_end(tmp_path):
    path, other = tmp_path / "f", tmp_path / "g"
    path.write_bytes(b"film")
    other.write_bytes(b"another")
    with open_file(path) as file:
        other.replace(path)
        assert file.stream.read() == b"film"
    assert read_file(path)[0] == b"another"


def test_a_pipe_or_a_device_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(NotAFile):
            read_file(path)
    with pytest.raises(ReadFailed):
        read_file(tmp_path / "absent")


def test_empty_and_huge_files_are_refused_by_their_size(tmp_path):
    (tmp_path / "empty").touch()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)
    with pytest.raises(EmptyFile):
        read_file(tmp_path / "empty")
    with pytest.raises(TooLarge):
        read_file(tmp_path / "huge")


def test_the_largest_file_and_the_smallest_are_taken():
    for size in (1, files.MAX_FILE_BYTES):
        check_size(Identity(0, 0, size, 0, 0))
    with pytest.raises(TooLarge, match=f" {files.MAX_FILE_BYTES // 2**20} MiB"):
        check_size(Identity(0, 0, files.MAX_FILE_BYTES + 1, 0, 0))


def test_a_hash_is_that_of_the_whole_file_wherever_it_has_been_read_to(tmp_path):
    (tmp_path / "f").write_bytes(b"film")
    with open_file(tmp_path / "f") as file:
        assert file.stream.read(2) == b"fi"
        assert file.sha256() == file_sha256(tmp_path / "f") == hashlib.sha256(b"film").hexdigest()


def test_a_file_is_written_with_its_folders_and_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "a" / "b" / "x", lambda file: file.write(b"new"), tmp_path / "c" / "d")
        write_whole(tmp_path / "a" / "b" / "private", b"new", mode=0o600)
    finally:
        os.umask(before)
    found = {path.name: path for path in (tmp_path / "a" / "b").iterdir()}
    assert {name: path.stat().st_mode & 0o777 for name, path in found.items()} == {"x": 0o644, "private": 0o600}
    assert {path.read_bytes() for path in found.values()} == {b"new"}


def test_why_a_file_cannot_be_written_is_told_without_a_name_inside_of_the_output(tmp_path, monkeypatch):
    def fail(*error):
        def refused(*_):
            raise OSError(*error)

        monkeypatch.setattr(os, "open", refused)

    target = tmp_path / "x"
    fail(13, "Permission denied")
    for scratch, line in ((None, f"{target} cannot be written: "), (tmp_path, "the output cannot be written: ")):
        with pytest.raises(OutputError) as caught:
            write_whole(target, b"new", scratch)
        assert str(caught.value) == f"{line}Permission denied"
    fail()
    with pytest.raises(OutputError, match="written: OSError"):
        write_whole(target, b"new")


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    target = tmp_path / "out" / "x"
    write_whole(target, b"old", tmp_path / "scratch")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_whole(target, b"new", tmp_path / "scratch")
    assert target.read_bytes() == b"old"
    assert not list((tmp_path / "scratch").iterdir())


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path):
    """Each of the files is all zeros or all ones, whenever the kill comes."""
    target = tmp_path / "x"
    code = (
        "import sys; from pathlib import Path; from monai_cxr_vae.files import write_whole\n"
        "print('ready', flush=True)\n"
        "while True:\n    for byte in b'01': write_whole(Path(sys.argv[1]), bytes([byte]) * 3_000_000)"
    )
    for pause in (0.0, 0.03, 0.07):
        writer = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE)
        assert writer.stdout.readline()
        while not target.exists():
            pass
        threading.Event().wait(pause)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        data = target.read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1


def relative(entries, root):
    return [(os.path.relpath(entry.path, root), entry.identity is not None, entry.listed) for entry in entries]


def test_folders_are_entered_once_by_their_own_path(tmp_path):
    root = tmp_path / "in"
    (root / "b").mkdir(parents=True)
    (root / "b" / "film").write_bytes(b"x")
    (root / "a").symlink_to(root / "b")
    (root / "b" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "film").write_bytes(b"x")
    (root / "z").symlink_to(tmp_path / "shelf")
    (root / "y").symlink_to(tmp_path / "shelf")
    (root / ".hidden").write_bytes(b"x")
    assert relative(walk(root), root) == [
        (".hidden", True, True),
        ("b/film", True, True),
        ("self", False, True),
        ("y/film", True, True),
    ]
    assert relative(walk(root, without=[tmp_path / "shelf"]), root)[-1] == ("self", False, True)


def test_what_cannot_be_looked_at_is_told(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "film").write_bytes(b"x")
    (tmp_path / "locked").mkdir()
    for name in ("film", "other"):
        (tmp_path / "locked" / name).write_bytes(b"x")
    looked_at = os.lstat

    def lstat(path):
        if "locked/" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return looked_at(path)

    monkeypatch.setattr(os, "lstat", lstat)
    hidden = [("locked/film", False, False), ("locked/other", False, False)]
    assert relative(walk(tmp_path), tmp_path) == [*hidden, ("open/film", True, True)]


def test_a_folder_that_cannot_be_listed_hides_no_other(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "film").write_bytes(b"x")
    listed = os.scandir

    def scandir(path):
        if Path(path).name in ("a", "c"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    entries = [("a", False, False), ("b/film", True, True), ("c", False, False)]
    assert relative(walk(tmp_path), tmp_path) == entries


def test_one_file_is_found_and_what_is_none_has_no_identity(tmp_path):
    (tmp_path / "film").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    (entry,) = walk(tmp_path / "film")
    assert entry == Entry(str(tmp_path / "film"), read_file(tmp_path / "film")[1], listed=True)
    assert walk(tmp_path / "pipe") == [Entry(str(tmp_path / "pipe"), None, listed=True)]
    assert walk(tmp_path, without=[tmp_path / "absent"]) == [entry, *walk(tmp_path / "pipe")]


def test_a_folder_that_two_links_lead_to_is_entered_by_the_first_in_the_order_of_bytes(tmp_path):
    """A byte that is no text comes after every character, but its stand-in before some."""
    root, shelf = tmp_path / "in", tmp_path / "shelf"
    root.mkdir()
    shelf.mkdir()
    (shelf / "film").write_bytes(b"x")
    names = [os.fsdecode(name) for name in ("\N{SKULL AND CROSSBONES}".encode(), "\N{SKULL}".encode(), b"\xff")]
    for name in reversed(names):
        (root / name).symlink_to(shelf)
    assert relative(walk(root), root) == [(f"{names[0]}/film", True, True)]
    (root / names[0]).unlink()
    assert relative(walk(root), root) == [(f"{names[1]}/film", True, True)]
    for name in names[1:]:
        (root / name).unlink()
        (root / name).mkdir()
        (root / name / "film").write_bytes(b"x")
    assert relative(walk(root), root) == [(f"{name}/film", True, True) for name in names[1:]]


def test_a_path_beyond_the_limit_of_the_system_is_told(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(22):
        os.mkdir("x" * 200, dir_fd=folder)
        inner = os.open("x" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    try:
        [entry] = walk(tmp_path)
        assert (entry.identity, entry.listed) == (None, False)
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / ("x" * 200))], check=True)


def test_there_is_no_such_folder(tmp_path):
    with pytest.raises(InputError, match="there is no"):
        walk(tmp_path / "absent")


@given(
    st.lists(
        st.binary(min_size=1, max_size=20).filter(lambda n: not set(n) & set(b"/\0") and n.strip(b".")), unique=True
    )
)
def test_every_name_is_found_in_the_order_of_its_bytes(names):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / os.fsdecode(name)).write_bytes(b"x")
        found = [os.fsencode(os.path.relpath(entry.path, os.path.realpath(folder))) for entry in walk(folder)]
    assert found == sorted(names)


@pytest.mark.parametrize("base", ["of the user", "named", "named by nothing"])
def test_the_cache_is_the_users_own(base, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if base != "of the user":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other" / "cache") if base == "named" else "")
    folder = cache_folder()
    assert folder == tmp_path / ("other/cache" if base == "named" else "home/.cache") / "monai_cxr_vae"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == folder


@pytest.mark.parametrize(
    "words",
    [
        ["--config_file", "a.json"],
        ["--config-file", "a.json"],
        ["--config_file=a=b.json=c"],
        ["--config-file=a.json"],
        ["--other", "x", "--config_file", "a.json", "--others", "y"],
        ["--config_file", "['a b.json','b.json']"],
        ["--config_file", '["a.json", "b.json"]'],
        ["--other=1"],
    ],
)
def test_an_option_is_what_the_command_line_of_monai_takes_it_for(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["monai", "run", *words])
    taken = fire.Fire(lambda config_file=(), other=None, others=None: [config_file], command=words)[0]
    assert option("config_file") == ([taken] if isinstance(taken, str) else list(taken))


def test_an_option_without_a_value_has_none(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["monai", "run", "config_file", "--config_file"])
    assert option("config_file") == []


def test_an_option_may_stand_in_a_file(tmp_path, monkeypatch):
    (tmp_path / "args.json").write_text(json.dumps({"config_file": ["a.json", "b.json"], "weights": "w.pt"}))
    monkeypatch.setattr(sys, "argv", ["monai", "run", "--args_file", str(tmp_path / "args.json")])
    assert [option(name) for name in ("config_file", "weights", "absent")] == [["a.json", "b.json"], ["w.pt"], []]
    sys.argv += ["--weights", "other.pt"]
    assert option("weights") == ["other.pt"]


def test_the_bundle_is_that_of_the_config_when_monai_runs_it(tmp_path, monkeypatch):
    beside = bundle_root()
    assert (Path(beside) / "configs" / "train.json").is_file()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copy" / "configs").mkdir(parents=True)
    words = ["run", "--config_file", "copy/configs/train.json"]
    monkeypatch.setattr(sys, "argv", [bundle_main, *words])
    assert bundle_root() == beside  # a folder of configs alone has no weights
    (tmp_path / "copy" / "models").mkdir()
    assert bundle_root() == str(tmp_path / "copy")
    for program in ("cxr-vae", bundle_main.replace("__main__", "main")):
        monkeypatch.setattr(sys, "argv", [program, *words])
        assert bundle_root() == beside


def test_the_bundle_is_inside_of_the_package_or_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "package" / "files.py"))
    assert bundle_root() == str(tmp_path / "bundle")
    (tmp_path / "package" / "bundle" / "configs").mkdir(parents=True)
    assert bundle_root() == str(tmp_path / "package" / "bundle")
