"""The time of a film's first result is told once and for all, by whichever process asks first."""

from __future__ import annotations

import datetime
import multiprocessing
import re
from pathlib import Path

import pytest

from monai_cxr_vae.data.created import CreationTimes
from monai_cxr_vae.errors import OutputError

FILMS = [f"{i:032x}" * 2 for i in range(1, 9)]
EARLY = "2001-02-03T04:05:06+01:00"


def kept(folder: Path) -> Path:
    return folder / ".run" / "created"


def test_it_is_now_and_stays(tmp_path: Path):
    before = datetime.datetime.now().astimezone().replace(microsecond=0)
    first = CreationTimes(tmp_path).of(FILMS[0])
    assert before <= first <= datetime.datetime.now().astimezone()
    assert first.utcoffset() is not None
    text = kept(tmp_path).read_text()
    kept(tmp_path).write_text(re.sub(r" .*", f" {EARLY}", text))
    assert kept(tmp_path).stat().st_mode & 0o077 == 0
    times = CreationTimes(tmp_path)
    assert times.of(FILMS[0]).isoformat() == times.of(FILMS[0]).isoformat() == EARLY
    assert times.of(FILMS[1]) >= before
    assert len(kept(tmp_path).read_text().splitlines()) == 2


def test_one_that_is_given_is_kept_nowhere(tmp_path: Path):
    time = datetime.datetime(2026, 1, 1)
    assert CreationTimes(tmp_path, time).of(FILMS[0]) is time
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_is_removed(tmp_path: Path, cut: int):
    times = CreationTimes(tmp_path)
    told = [times.of(film) for film in FILMS[:2]]
    whole = kept(tmp_path).read_bytes()
    torn = whole + whole[:cut].replace(b"0", b"7")
    kept(tmp_path).write_bytes(torn)
    again = CreationTimes(tmp_path)
    assert [again.of(film) for film in FILMS[:2]] == told
    again.of(FILMS[2])
    assert kept(tmp_path).read_bytes().startswith(whole)
    assert len(kept(tmp_path).read_bytes().splitlines()) == 3


def _ask(folder: Path) -> list[str]:
    times = CreationTimes(folder)
    return [times.of(film).isoformat() for film in FILMS]


def test_processes_agree(tmp_path: Path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        answers = pool.map(_ask, [tmp_path] * 16)
    assert len({tuple(answer) for answer in answers}) == 1
    assert len(kept(tmp_path).read_text().splitlines()) == len(FILMS)


def test_another_process_is_heard(tmp_path: Path):
    one, other = CreationTimes(tmp_path), CreationTimes(tmp_path)
    one.of(FILMS[0])
    kept(tmp_path).write_text(kept(tmp_path).read_text() + f"{FILMS[1][:32]} {EARLY}\n")
    assert one.of(FILMS[1]).isoformat() == EARLY
    assert other.of(FILMS[1]).isoformat() == EARLY


def test_what_cannot_be_kept_is_not_told(tmp_path: Path):
    (tmp_path / ".run").write_text("no folder")
    with pytest.raises(OutputError, match="cannot be written"):
        CreationTimes(tmp_path).of(FILMS[0])
