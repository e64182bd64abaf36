"""A node from the film to the result: what comes is run, what is made is sent, and what goes wrong costs one film."""

from __future__ import annotations

import json
import logging
import threading
import urllib.error
import urllib.request

import pydicom
import pytest

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.service import outbox, server
from tests.inference.standins import BUG, CRASH, HANG, write_film
from tests.service.peers import HERE, archive, node, send, until


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(outbox, "pause", lambda tries: 0.05)
    monkeypatch.setattr(server, "pause", lambda tries: 0.05)
    monkeypatch.setattr(server, "LOOK", 0.1)
    monkeypatch.setattr(server, "REPORT", 0.1)
    monkeypatch.setattr("monai_cxr_vae.service.spool.FILM_PAUSE", 0.05)


def sources(there):
    """The films that stored results were made of, by the last part of their UIDs, as the senders number them."""
    return sorted(int(ds.SourceImageSequence[0].ReferencedSOPInstanceUID.rsplit(".", 1)[1]) - 1 for ds in there.stored)


def test_every_film_gives_its_result(tmp_path):
    with archive() as there, node(tmp_path / "spool", [there.destination()]) as made:
        films = [write_film(tmp_path / f"{i}", i, PatientID=f"P{i}") for i in range(5)]
        assert send(made.receiver.port, *films) == [0] * 5
        until(lambda: len(there.stored) == 5)
        assert sources(there) == list(range(5))
        for ds in there.stored:
            assert ds.PatientID == f"P{int(ds.StudyInstanceUID.rsplit('.', 1)[1]) - 1}"
        until(lambda: made.status()["destinations"][there.destination().name]["waiting"] == 0)
    status = json.loads((tmp_path / "spool" / "status.json").read_text())
    assert (status["received"], status["done"], status["waiting"], status["failed"]) == (5, 5, 0, {})


@pytest.mark.parametrize("vice", [CRASH, HANG, BUG])
def test_a_film_that_ends_its_process_costs_itself(tmp_path, vice):
    reason = {CRASH: "crashed", HANG: "timeout", BUG: "internal"}[vice]
    with archive() as there, node(tmp_path / "spool", [there.destination()], timeout=6) as made:
        films = [write_film(tmp_path / "bad", 0, tail=vice), *[write_film(tmp_path / f"{i}", i) for i in (1, 2)]]
        assert send(made.receiver.port, *films) == [0] * 3
        until(lambda: len(there.stored) == 2)
        assert sources(there) == [1, 2]
        until(lambda: made.status()["failed"] == {reason: 1})
        failed = [entry["error"] for entry in made.spool.outbox() if entry["status"] == "failed"]
        assert failed == [reason]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": "CT"}, "modality"),
        ({"ViewPosition": "LL"}, "lateral"),
        ({"BodyPartExamined": "KNEE"}, "body_part"),
    ],
)
def test_what_is_no_film_is_acknowledged_and_holds_up_nothing(tmp_path, changes, reason):
    with archive() as there, node(tmp_path / "spool", [there.destination()]) as made:
        films = [write_film(tmp_path / "other", 0, **changes), write_film(tmp_path / "film", 1)]
        assert send(made.receiver.port, *films) == [0, 0]
        until(lambda: len(there.stored) == 1)
        assert sources(there) == [1]
        assert made.spool.summary()["skipped"] == 1
        assert reason in [row["reason"] for row in made.spool._db.execute("SELECT reason FROM films")]


def test_an_instance_without_modality_holds_up_nothing(tmp_path):
    with archive() as there, node(tmp_path / "spool", [there.destination()]) as made:
        film = pydicom.dcmread(write_film(tmp_path / "0", 0))
        del film.Modality
        assert send(made.receiver.port, film, write_film(tmp_path / "1", 1)) == [0, 0]
        until(lambda: 1 in sources(there))
        until(lambda: made.spool.summary()["waiting"] == 0)


def test_a_corrected_patient_gets_the_result_and_the_old_one_is_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with archive() as there, node(tmp_path / "spool", [there.destination()]) as made:
        assert send(made.receiver.port, write_film(tmp_path / "a", 0, PatientID="WRONG")) == [0]
        until(lambda: len(there.stored) == 1)
        until(lambda: made.spool.due(there.destination().name, 1) == [])
        assert send(made.receiver.port, write_film(tmp_path / "b", 0, PatientID="RIGHT")) == [0]
        until(lambda: len(there.stored) == 2)
        wrong, right = there.stored
        assert (wrong.PatientID, right.PatientID) == ("WRONG", "RIGHT")
        assert wrong.SOPInstanceUID != right.SOPInstanceUID
        (told,) = [entry for entry in made.spool.outbox() if entry["status"] == "withdrawn"]
        assert told["uid"] == wrong.SOPInstanceUID
        assert made.status()["withdrawn"] == 1
        lines = [record.getMessage() for record in caplog.records]
        assert any(str(wrong.SOPInstanceUID) in line and "withdrawn" in line for line in lines)


def test_several_destinations_each_get_everything(tmp_path):
    with archive() as there, archive(lambda uid: 0xC000) as refusing, archive() as away:
        away.stop()
        destinations = [each.destination() for each in (there, refusing, away)]
        with node(tmp_path / "spool", destinations) as made:
            films = [write_film(tmp_path / f"{i}", i) for i in range(3)]
            assert send(made.receiver.port, *films) == [0] * 3
            until(lambda: len(there.stored) == 3 and len(refusing.asked) == 3)
            away.start()
            until(lambda: len(away.stored) == 3)
            names = [destination.name for destination in destinations]
            until(lambda: made.status()["destinations"][names[2]]["delivered"] == 3)
            told = made.status()["destinations"]
            assert [told[name]["delivered"] for name in names] == [3, 0, 3]
            assert [told[name]["refused"] for name in names] == [0, 3, 0]
            assert "0xC000" in told[names[1]]["last_error"]["text"]


def test_what_a_node_had_to_do_the_next_one_does(tmp_path):
    """And what has been acknowledged is not run twice."""
    with archive() as there:
        there.stop()
        with node(tmp_path / "spool", [there.destination()]) as made:
            films = [write_film(tmp_path / f"{i}", i) for i in range(6)]
            assert send(made.receiver.port, *films[:3]) == [0] * 3
            until(lambda: made.spool.summary()["done"] == 3)
            send(made.receiver.port, *films[3:])
        there.start()
        with node(tmp_path / "spool", [there.destination()]) as made:
            assert send(made.receiver.port, *films) == [0] * 6
            until(lambda: len(there.stored) == 6)
            until(lambda: made.status()["destinations"][there.destination().name]["delivered"] == 6)
            assert made.status()["received"] == 6
        assert sources(there) == list(range(6))
        assert len(set(there.uids)) == 6


def test_a_disk_that_is_full_costs_no_film(tmp_path, monkeypatch):
    """The results cannot be written for a while."""
    results = tmp_path / "spool" / "results"
    with archive() as there, node(tmp_path / "spool", [there.destination()]) as made:
        results.rename(tmp_path / "elsewhere")
        results.write_text("a file where the folder should be")
        films = [write_film(tmp_path / f"{i}", i) for i in range(3)]
        assert send(made.receiver.port, *films) == [0] * 3
        until(lambda: made.status()["error"])
        health = f"http://{HERE}:{made.health.port}/health"
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(health)
        results.unlink()
        (tmp_path / "elsewhere").rename(results)
        until(lambda: len(there.stored) == 3)
        assert made.status()["error"] is None
        assert made.status()["failed"] == {}


def test_health_is_for_this_computer(tmp_path):
    with node(tmp_path / "spool") as made:
        url = f"http://{HERE}:{made.health.port}"
        with urllib.request.urlopen(f"{url}/health") as answer:
            told = json.load(answer)
        assert told["received"] == 0
        assert told["error"] is None
        for path, host, status in (("/", "localhost", 404), ("/health", "elsewhere.example", 403)):
            with pytest.raises(urllib.error.HTTPError, match=str(status)):
                urllib.request.urlopen(urllib.request.Request(url + path, headers={"Host": host}))


def test_requeueing_from_outside_is_noticed(tmp_path):
    with archive(lambda uid: 0xC000) as there, node(tmp_path / "spool", [there.destination()]) as made:
        assert send(made.receiver.port, write_film(tmp_path / "film")) == [0]
        until(lambda: made.status()["destinations"][there.destination().name]["refused"] == 1)
        there.status = lambda uid: 0
        other = server.Spool.existing(tmp_path / "spool")
        assert other.requeue() == 1
        other.close()
        until(lambda: len(there.stored) == 1)


def test_an_archive_that_was_renewed_gets_the_films_that_come(tmp_path):
    with archive() as there, archive() as renewed:
        with node(tmp_path / "spool", [there.destination()]) as made:
            send(made.receiver.port, write_film(tmp_path / "0", 0))
            until(lambda: len(there.stored) == 1)
        there.stop()
        renewed.stop()
        renewed.port = there.port
        renewed.start()
        with node(tmp_path / "spool", [there.destination()]) as made:
            send(made.receiver.port, write_film(tmp_path / "1", 1))
            until(lambda: len(renewed.stored) == 1)
        assert sources(renewed) == [1]


def test_a_second_node_ends_with_a_line(tmp_path):
    message = "another node is at work"
    with node(tmp_path / "spool") as made, pytest.raises(InputError, match=message), node(tmp_path / "spool"):
        pass
    assert not any(thread.name in ("receiver", "health", "housekeeper") for thread in threading.enumerate())
    assert made.status()


def test_what_was_delivered_is_tidied(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "TIDY", 0.1)
    with archive() as there, node(tmp_path / "spool", [there.destination()], keep=0.0) as made:
        film = write_film(tmp_path / "film")
        assert send(made.receiver.port, film) == [0]
        until(lambda: len(there.stored) == 1)
        until(lambda: list((tmp_path / "spool" / "films").iterdir()) == [])
        assert list(made.spool.results.rglob("*.dcm")) == []
        assert send(made.receiver.port, film) == [0]
        assert made.spool.summary()["waiting"] == 0


def test_the_shipped_weights_make_what_is_asked_for(tmp_path):
    chain, provenance = server.film_chain(tmp_path / "results", ("sc", "overlay", "sr"))
    row = chain(write_film(tmp_path / "film"))
    assert row["status"] == "done"
    assert [output["kind"] for output in row["outputs"]] == ["sc", "overlay", "sr"]
    made = pydicom.dcmread(tmp_path / "results" / row["outputs"][0]["path"])
    assert provenance.model_sha256 in str(made)
