"""The spool keeps what it has acknowledged, whatever ends the program, and knows which results still count."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from monai_cxr_vae.errors import InputError, OutputError, Reason
from monai_cxr_vae.service import spool as module
from monai_cxr_vae.service.spool import FILM_TRIES, Spool

DONE = {"status": "done", "reason": None, "warnings": []}


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool")
    yield spool
    spool.close()


def done(spool, film, *uids, to=("A",)):
    """Record results of a film, which are written as the writer does."""
    outputs = []
    for uid in uids:
        path = spool.results / "1.2" / "1.3" / f"{uid}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(uid.encode())
        outputs.append({"kind": "sc", "uid": uid, "path": f"1.2/1.3/{uid}.dcm"})
    return spool.finish(film, {**DONE, "outputs": outputs}, to)


def due(spool, destination="A"):
    return [delivery.uid for delivery in spool.due(destination, 100)]


def test_a_film_is_kept_as_it_came(spool):
    received = spool.receive("1.1", b"film", "SENDER")
    (film,) = spool.waiting_films((), 10)
    assert (received.film, received.is_new) == (film.number, True)
    assert Path(film.path).read_bytes() == b"film"
    assert film.sha256 == hashlib.sha256(b"film").hexdigest()


def test_what_comes_again_unchanged_is_not_run_again(spool):
    film = spool.receive("1.1", b"film", "SENDER").film
    assert spool.receive("1.1", b"film", "OTHER") == module.Received(film, False)
    done(spool, film, "2.1")
    assert not spool.receive("1.1", b"film", "SENDER").is_new
    assert spool.waiting_films((), 10) == []
    assert len(list((spool.folder / "films").iterdir())) == 1


def test_a_correction_withdraws_what_was_made_before(spool):
    film = spool.receive("1.1", b"wrong patient", "SENDER").film
    done(spool, film, "2.1", "2.2", to=("A", "B"))
    first = spool.due("A", 1)[0]
    assert spool.delivered(first.number)
    newer = spool.receive("1.1", b"right patient", "SENDER")
    assert newer.is_new
    assert newer.replaces == film
    assert newer.withdrawn == (("2.1", "A"),)  # the others have not left the house, and never will
    assert due(spool) == due(spool, "B") == []
    done(spool, newer.film, "3.1")
    assert due(spool) == ["3.1"]
    (told,) = [entry for entry in spool.outbox() if entry["status"] == "withdrawn"]
    assert (told["uid"], told["destination"], told["replaced_by"]) == ("2.1", "A", newer.film)
    assert spool.summary()["withdrawn"] == 2


def test_a_result_that_was_under_way_when_its_film_was_corrected_is_told(spool):
    film = spool.receive("1.1", b"wrong", "SENDER").film
    done(spool, film, "2.1")
    (under_way,) = spool.due("A", 10)
    assert spool.receive("1.1", b"right", "SENDER").withdrawn == ()
    assert not spool.delivered(under_way.number)
    assert [entry["uid"] for entry in spool.outbox() if entry["status"] == "withdrawn"] == ["2.1"]


def test_a_film_that_is_corrected_while_it_is_run_gives_nothing(spool):
    film = spool.receive("1.1", b"wrong", "SENDER").film
    newer = spool.receive("1.1", b"right", "SENDER").film
    assert done(spool, film, "2.1") == "replaced"
    assert due(spool) == []
    assert [waiting.number for waiting in spool.waiting_films((), 10)] == [newer]


def test_a_correction_that_is_taken_back_counts(spool):
    film = spool.receive("1.1", b"first", "SENDER").film
    done(spool, film, "2.1")
    spool.receive("1.1", b"second", "SENDER")
    assert due(spool) == []
    back = spool.receive("1.1", b"first", "SENDER")
    assert back.is_new
    done(spool, back.film, "2.1")
    assert due(spool) == ["2.1"]
    spool.delivered(spool.due("A", 1)[0].number)
    assert [entry for entry in spool.outbox() if entry["status"] == "withdrawn"] == []


@pytest.mark.parametrize(("reason", "tries"), [(Reason.TIMEOUT, FILM_TRIES), (Reason.CORRUPT, 1)])
def test_what_the_machine_may_be_to_blame_for_is_tried_again(spool, monkeypatch, reason, tries):
    monkeypatch.setattr(module, "FILM_PAUSE", 0.0)
    film = spool.receive("1.1", b"film", "SENDER").film
    row = {"status": "failed", "reason": reason, "warnings": [], "outputs": []}
    outcomes = []
    while spool.waiting_films((), 10):
        outcomes.append(spool.finish(film, row, ("A",)))
    assert outcomes == ["waiting"] * (tries - 1) + ["failed"]
    assert spool.summary()["failed"] == {str(reason): 1}
    assert spool.receive("1.1", b"film", "SENDER").is_new  # whoever sends it again wants it tried again
    assert len(list((spool.folder / "films").iterdir())) == 1


def test_a_pause_before_the_next_try_is_kept(spool):
    film = spool.receive("1.1", b"film", "SENDER").film
    spool.finish(film, {"status": "failed", "reason": Reason.CRASHED, "warnings": [], "outputs": []}, ("A",))
    assert spool.waiting_films((), 10) == []
    assert spool.summary()["waiting"] == 1


def test_requeue(spool):
    film = spool.receive("1.1", b"film", "SENDER").film
    done(spool, film, "2.1", "2.2")
    broken = spool.receive("1.2", b"film", "SENDER").film
    spool.finish(broken, {"status": "failed", "reason": Reason.CORRUPT, "warnings": [], "outputs": []}, ("A",))
    first, second = spool.due("A", 10)
    for delivery in (first, second):
        spool.refused(delivery.number, "no")
    assert due(spool) == []
    assert spool.requeue([second.number]) == 1
    assert due(spool) == ["2.2"]
    assert spool.requeue() == 2
    assert due(spool) == ["2.1", "2.2"]
    assert [waiting.number for waiting in spool.waiting_films((), 10)] == [broken]


def test_tidying_spares_what_has_not_been_delivered_and_forgets_nothing(spool):
    films = [spool.receive(f"1.{i}", b"film", "SENDER").film for i in range(4)]
    for i in range(3):
        done(spool, films[i], f"2.{i}")
    delivered, refused, _ = spool.due("A", 10)
    spool.delivered(delivered.number)
    spool.refused(refused.number, "no")
    assert spool.tidy(keep=3600) == 0
    assert spool.tidy(keep=-1) == 1
    assert sorted(path.stem for path in spool.results.rglob("*.dcm")) == ["2.1", "2.2"]
    assert len(list((spool.folder / "films").iterdir())) == 3
    assert not spool.receive("1.0", b"film", "SENDER").is_new
    assert spool.receive("1.0", b"corrected", "SENDER").withdrawn == (("2.0", "A"),)


def test_two_nodes_do_not_share_a_spool(spool):
    with contextlib.ExitStack() as stack:
        spool.take(stack)
        with contextlib.ExitStack() as other, pytest.raises(InputError, match="another node is at work"):
            spool.take(other)
    with contextlib.ExitStack() as stack:
        spool.take(stack)


def test_taking_a_spool_removes_what_no_journal_knows(spool):
    film = spool.receive("1.1", b"film", "SENDER").film
    done(spool, film, "2.1")
    (spool.folder / "films" / "half").write_bytes(b"f")
    (spool.results / "1.2" / "1.3" / "unknown.dcm").write_bytes(b"r")
    with contextlib.ExitStack() as stack:
        spool.take(stack)
    assert len(list((spool.folder / "films").iterdir())) == 1
    assert [path.stem for path in spool.results.rglob("*.dcm")] == ["2.1"]


def test_a_disk_that_is_full_leaves_no_half_film(spool, monkeypatch):
    real, full = module.os.fsync, True

    def fsync(handle):
        if full:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr("monai_cxr_vae.files.os.fsync", fsync)
    with pytest.raises(OutputError, match="No space left"):
        spool.receive("1.1", b"film", "SENDER")
    assert [path for name in ("films", "tmp") for path in (spool.folder / name).iterdir()] == []
    assert spool.summary()["received"] == 0
    full = False
    assert spool.receive("1.1", b"film", "SENDER").is_new


def test_a_journal_that_is_full_acknowledges_nothing(spool):
    spool._db.execute("PRAGMA max_page_count = 1")
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count = {pages}")
    kept = []

    def fill():
        for i in range(1000):
            kept.append(spool.receive(f"1.{i}", f"film {i}".encode(), "S" * 16).film)

    with pytest.raises(OutputError, match="full"):
        fill()
    assert [film.number for film in spool.waiting_films((), 2000)] == kept
    assert len(list((spool.folder / "films").iterdir())) == len(kept)


def test_what_was_acknowledged_survives_a_kill(tmp_path):
    program = """
        import sys
        from monai_cxr_vae.service.spool import Spool
        spool = Spool(sys.argv[1])
        for i in range(100000):
            film = spool.receive(f"1.{i}", f"film {i}".encode() * 1000, "SENDER").film
            print(i, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "spool")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    acknowledged = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().split("\n")[:-1]]
    process.wait()
    spool = Spool(tmp_path / "spool")
    with contextlib.ExitStack() as stack:
        spool.take(stack)
        films = spool.waiting_films((), 10**6)
        assert len(films) - len(acknowledged) in (0, 1)
        for i, film in enumerate(films):
            assert Path(film.path).read_bytes() == f"film {i}".encode() * 1000
        assert len(list((spool.folder / "films").iterdir())) == len(films)
    spool.close()
