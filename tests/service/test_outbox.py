"""Results go where they should: once, whatever a destination answers, and none holds up another."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path

import pydicom
import pytest

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.service import outbox
from monai_cxr_vae.service.outbox import Sender, StorageSCP, StowService, judge, judge_answer, pause
from monai_cxr_vae.service.spool import Spool
from tests.dicom.sources import film, to_bytes
from tests.service.peers import HERE, archive, stow_answer, until, web

UID = "2.25.1"


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool")
    yield spool
    spool.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(outbox, "pause", lambda tries: 0.05)
    monkeypatch.setattr(outbox, "LOOK", 0.05)


def queue(spool, destination, count):
    """Results that are to go to a destination; their UIDs."""
    uids = [f"2.25.{i + 1}" for i in range(count)]
    outputs = []
    for i, uid in enumerate(uids):
        result = film("cr_mono1")
        result.SOPClassUID, result.SOPInstanceUID, result.Modality = "1.2.840.10008.5.1.4.1.1.7", uid, "OT"
        path = spool.results / f"{i}.dcm"
        path.write_bytes(to_bytes(result))
        outputs.append({"kind": "sc", "uid": uid, "path": path.name})
    number = spool.receive("1.1", b"film", "SENDER").film
    spool.finish(number, {"status": "done", "reason": None, "warnings": [], "outputs": outputs}, (destination.name,))
    return uids


@contextlib.contextmanager
def sending(spool, destination):
    sender = Sender(spool, destination)
    sender.start()
    try:
        yield sender
    finally:
        sender.stop()


def state(spool):
    (counts,) = spool.summary()["destinations"].values()
    return counts["waiting"], counts["delivered"], counts["refused"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(status, "delivered") for status in (0x0000, 0xB000, 0xB006, 0xB007, 0x0111)],
        *[(status, "postponed") for status in (0xA700, 0xA7FF, 0x0110, 0x0213, 0x0124)],
        *[(status, "refused") for status in (0xA900, 0xC000, 0xCFFF, 0x0122, 0x0117)],
    ],
)
def test_statuses(status, kind):
    assert judge(status).kind == kind


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, stow_answer(UID), "delivered"),
        (200, stow_answer(UID, 0xA900), "refused"),
        (202, stow_answer(UID, 0x0110), "postponed"),
        (409, stow_answer(UID, 0xA700), "postponed"),
        (409, stow_answer(UID, 0x0122), "refused"),
        (200, b"", "delivered"),
        (200, b'<NativeDicomModel><DicomAttribute tag="00081198" vr="SQ"/></NativeDicomModel>', "postponed"),
        (200, stow_answer("2.25.2"), "delivered"),
        (202, b"", "postponed"),
        (202, stow_answer("2.25.2"), "postponed"),
        (302, b"", "postponed"),
        (401, b"<html>", "postponed"),
        (409, b"", "postponed"),
        (413, b"", "refused"),
        (415, b"{}", "refused"),
        (503, b"[]", "postponed"),
        (503, b'{"00081199": 7}', "postponed"),
    ],
)
def test_stow_answers(status, body, kind):
    assert judge_answer(status, body, UID).kind == kind


def test_a_warning_is_kept():
    answer = json.loads(stow_answer(UID))
    answer["00081199"]["Value"][0]["00081196"] = {"vr": "US", "Value": [0xB000]}
    outcome = judge_answer(202, json.dumps(answer).encode(), UID)
    assert outcome.kind == "delivered"
    assert "0xB000" in outcome.text


def test_pauses_grow_to_a_limit_and_differ(monkeypatch):
    monkeypatch.undo()
    for tries in (*range(9), 10**6):
        longest = min(2.0**tries, outbox.LONGEST_PAUSE) if tries < 99 else outbox.LONGEST_PAUSE
        drawn = {pause(tries) for _ in range(20)}
        assert len(drawn) > 1
        assert longest / 2 <= min(drawn) <= max(drawn) <= longest


def test_results_arrive_as_they_are(spool):
    with archive() as there, sending(spool, there.destination()):
        uids = queue(spool, there.destination(), 3)
        until(lambda: state(spool) == (0, 3, 0))
        assert there.uids == uids
        for i, stored in enumerate(there.stored):
            assert stored == pydicom.dcmread(spool.results / f"{i}.dcm")


@pytest.mark.parametrize(("status", "left"), [(0xC000, (0, 4, 1)), (0xA700, (1, 4, 0)), (None, (1, 4, 0))])
def test_one_result_that_is_not_taken_holds_up_no_other(spool, status, left):
    """Whether it is refused for good, fails again and again, or ends the connection each time."""
    with archive(lambda uid: status if uid == "2.25.2" else 0) as there, sending(spool, there.destination()):
        uids = queue(spool, there.destination(), 5)
        until(lambda: len(there.uids) == 4 and there.asked.count("2.25.2") >= (1 if status == 0xC000 else 3))
        assert sorted(there.uids) == sorted(set(uids) - {"2.25.2"})
        until(lambda: state(spool) == left)  # the archive has the last one before its answer is written down
        there.status = lambda uid: 0
        spool.requeue()
        until(lambda: state(spool) == (0, 5, 0))
        assert sorted(there.uids) == sorted(uids)


def test_a_sop_class_that_is_not_taken_is_set_aside(spool):
    with archive() as there, sending(spool, there.destination()):
        queue(spool, there.destination(), 3)
        result = pydicom.dcmread(spool.results / "0.dcm")
        until(lambda: state(spool) == (0, 3, 0))
        result.SOPClassUID = result.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.30"
        result.save_as(spool.results / "0.dcm")
        spool._db.execute("UPDATE deliveries SET status = 'waiting' WHERE uid = '2.25.1'")
        until(lambda: state(spool) == (0, 2, 1))
        (entry,) = spool.outbox()
        assert "1.2.840.10008.5.1.4.1.1.30" in entry["error"]


def test_a_destination_that_is_away_is_called_until_it_is_back(spool):
    with archive() as there:
        there.stop()
        with sending(spool, there.destination()) as sender:
            uids = queue(spool, there.destination(), 4)
            until(lambda: sender.last_error)
            assert "no connection" in sender.last_error["text"]
            there.start()
            until(lambda: state(spool) == (0, 4, 0))
            assert there.uids == uids


def test_a_destination_that_rejects_the_node_keeps_nothing_from_arriving_later(spool):
    """A wrong AE title is a setting that somebody will mend."""
    with archive() as there:
        destination = there.destination("NOBODY")
        with sending(spool, destination) as sender:
            queue(spool, destination, 2)
            until(lambda: sender.last_error)
            assert "rejects" in sender.last_error["text"]
        assert state(spool) == (2, 0, 0)
        destination._peer = "ARCHIVE"
        with sending(spool, destination):
            until(lambda: state(spool) == (0, 2, 0))


def test_a_result_that_is_lost_is_told(spool):
    with archive() as there:
        queue(spool, there.destination(), 3)
        (spool.results / "0.dcm").unlink()
        (spool.results / "1.dcm").write_bytes(b"no DICOM")
        with sending(spool, there.destination()):
            until(lambda: state(spool) == (0, 1, 2))


def test_a_killed_sender_delivers_again_and_not_twice(spool):
    """A duplicate is the same result, since a UID means its bytes."""
    with archive(lambda uid: 0x0111) as there, sending(spool, there.destination()):
        queue(spool, there.destination(), 2)
        until(lambda: state(spool) == (0, 2, 0))


def test_a_fault_of_the_program_does_not_end_the_sender(spool):
    class Faulty:
        name = "faulty"
        faults = itertools.chain([KeyError("secret")], itertools.repeat(None))

        def send(self, deliveries):
            fault = next(self.faults)
            if fault:
                raise fault
            for delivery in deliveries:
                yield delivery, outbox.Outcome("delivered")

    queue(spool, Faulty(), 2)
    with sending(spool, Faulty()) as sender:
        until(lambda: state(spool) == (0, 2, 0))
        assert sender.last_error["text"] == "internal: KeyError"


@pytest.mark.parametrize(("status", "failure"), [(200, 0x0110), (202, 0xA700), (409, 0x0110), (503, None)])
def test_an_answer_with_failures_is_no_delivery(spool, status, failure):
    answers = [(status, stow_answer(UID, failure) if failure else b"")] * 3

    def answer(uid, headers):
        return answers.pop() if uid == UID and answers else (200, stow_answer(uid))

    with web(answer) as there, sending(spool, StowService(there.url)):
        queue(spool, StowService(there.url), 4)
        until(lambda: state(spool) == (0, 4, 0))
        assert there.asked.count(UID) == 4
        assert len(there.asked) == 7


def test_a_web_service_that_is_away_is_called_until_it_is_back(spool):
    with web(lambda uid, headers: (200, b"")) as there:
        port = there._server.server_port
    destination = StowService(f"http://{HERE}:{port}/dicom-web")
    with sending(spool, destination) as sender:
        queue(spool, destination, 2)
        until(lambda: sender.last_error)
        assert sender.last_error["text"] == "no connection"
        assert state(spool) == (2, 0, 0)


def credentials(path: Path, line: str, mode: int = 0o600) -> Path:
    path.write_text(line)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("line", "header"),
    [
        ("machine 127.0.0.1 login anna password word", "Basic YW5uYTp3b3Jk"),
        ("machine 127.0.0.1 password to-ken", "Bearer to-ken"),
        ("machine elsewhere login anna password word", None),
    ],
)
def test_log_in(spool, tmp_path, line, header):
    seen = []
    with web(lambda uid, headers: (seen.append(headers["Authorization"]), (200, b""))[1]) as there:
        destination = StowService(there.url, credentials(tmp_path / "netrc", line))
        with sending(spool, destination):
            queue(spool, destination, 1)
            until(lambda: state(spool) == (0, 1, 0))
    assert seen == [header]


def test_a_wrong_password_loses_nothing_and_is_read_anew(spool, tmp_path):
    def answer(uid, headers):
        return (200, b"") if headers["Authorization"] == "Bearer right" else (401, b"")

    with web(answer) as there:
        file = credentials(tmp_path / "netrc", "machine 127.0.0.1 password wrong")
        destination = StowService(there.url, file)
        with sending(spool, destination) as sender:
            queue(spool, destination, 3)
            until(lambda: sender.last_error and len(there.asked) > 6)
            assert sender.last_error["text"] == "HTTP 401"
            credentials(file, "machine 127.0.0.1 password right")
            until(lambda: state(spool) == (0, 3, 0))


@pytest.mark.parametrize(
    ("url", "line", "mode", "message"),
    [
        ("http://pacs.example/dicom-web", "machine pacs.example password x", 0o600, "https only"),
        ("https://pacs.example/dicom-web", "machine pacs.example password x", 0o640, "read by others"),
        ("https://pacs.example/dicom-web", "machine", 0o600, "netrc"),
        ("https://anna:word@pacs.example/dicom-web", "", 0o600, "without users"),
        ("ftp://pacs.example", "", 0o600, "https://"),
        ("pacs.example/dicom-web", "", 0o600, "https://"),
    ],
)
def test_unsafe_credentials_and_addresses_are_refused(tmp_path, url, line, mode, message):
    with pytest.raises(InputError, match=message):
        StowService(url, credentials(tmp_path / "netrc", line, mode))


def test_the_name_of_a_destination_tells_where_it_is():
    assert StorageSCP("CXRVAE", "ARCHIVE", "10.0.0.9", 104).name == "ARCHIVE@10.0.0.9:104"
    assert StowService("https://pacs.example/dicom-web/").name == "https://pacs.example/dicom-web"
