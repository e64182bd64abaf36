"""Files are read once and whole, written whole or not at all, and found whatever their folders look like."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_cxr_vae import files
from monai_cxr_vae.errors import Changed, EmptyFile, InputError, NotAFile, OutputError, ReadFailed, TooLarge
from monai_cxr_vae.files import open_file, read_file, walk, write_whole


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
    (tmp_path / "locked" / "film").write_bytes(b"x")
    looked_at = os.lstat

    def lstat(path):
        if "locked/" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return looked_at(path)

    monkeypatch.setattr(os, "lstat", lstat)
    assert relative(walk(tmp_path), tmp_path) == [("locked/film", False, False), ("open/film", True, True)]


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
