"""Films are taken from known peers alone, whole or not at all, and acknowledged when they are on the disk."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE

from monai_cxr_vae.dicom import decode
from monai_cxr_vae.dicom.select import SOP_CLASSES
from monai_cxr_vae.errors import InputError, OutputError
from monai_cxr_vae.service import receiver as module
from monai_cxr_vae.service.receiver import Peer, Receiver
from monai_cxr_vae.service.spool import Spool
from tests.inference.standins import write_film
from tests.service.peers import HERE, send, until

PEER = Peer("SENDER", HERE)


@contextlib.contextmanager
def listening(spool, *peers, **options):
    rung = []
    with Receiver(spool, "CXRVAE", (HERE, 0), peers or (PEER,), lambda: rung.append(1), **options) as receiver:
        receiver.rung = rung
        yield receiver


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool")
    yield spool
    spool.close()


@pytest.fixture
def receiver(spool):
    with listening(spool) as receiver:
        yield receiver


def kept(spool):
    return [Path(film.path) for film in spool.waiting_films((), 1000)]


def files(spool):
    return sorted(path for path in (spool.folder / "films").iterdir())


def test_a_film_is_kept_bit_for_bit(spool, receiver, tmp_path):
    film = write_film(tmp_path / "film", variant="japanese")
    assert send(receiver.port, film) == [0]
    (path,) = kept(spool)
    sent, stored = pydicom.dcmread(film), pydicom.dcmread(path)
    assert stored == sent
    assert stored.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert receiver.rung == [1]


def test_the_same_film_gives_the_same_file_again(spool, receiver, tmp_path):
    film = write_film(tmp_path / "film")
    assert send(receiver.port, film, film) == [0, 0]
    assert send(receiver.port, film) == [0]
    assert len(kept(spool)) == 1
    assert receiver.rung == [1]


def test_all_classes_and_syntaxes_that_are_read_are_accepted(receiver):
    syntaxes = [*decode._NATIVE, *decode._FAMILY]
    for sop_class in SOP_CLASSES:
        ae = AE("SENDER")
        for syntax in syntaxes:
            ae.add_requested_context(sop_class, syntax)
        ae.add_requested_context("1.2.840.10008.5.1.4.1.1.2")  # CT
        association = ae.associate(HERE, receiver.port, ae_title="CXRVAE")
        accepted = [context.transfer_syntax[0] for context in association.accepted_contexts]
        assert sorted(accepted) == sorted(syntaxes)
        association.release()


def test_echo(receiver):
    ae = AE("SENDER")
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate(HERE, receiver.port, ae_title="CXRVAE")
    assert association.send_c_echo().Status == 0
    association.release()


@pytest.mark.parametrize(
    ("caller", "called", "peers"),
    [
        ("SOMEBODY", "CXRVAE", (PEER,)),
        ("SENDER", "OTHER", (PEER,)),
        ("SENDER", "CXRVAE", (Peer("SENDER", "127.0.0.2"), Peer("OTHER", HERE))),  # each known, not together
        ("SENDER", "CXRVAE", (Peer("SENDER", "127.0.0.2"),)),
    ],
)
def test_others_are_rejected(spool, tmp_path, caller, called, peers):
    film = write_film(tmp_path / "film")
    with listening(spool, *peers) as receiver:
        assert send(receiver.port, film, caller=caller, called=called) == [None]
    assert files(spool) == []


def raw(film, **announced):
    """A data set that is sent as the bytes it is, under what is announced."""
    ds = pydicom.dcmread(film)
    data = film.read_bytes()[132:]
    length = struct.unpack_from("<L", data, 8)[0]
    return ds, data[12 + length :]


def send_raw(port, ds, data, **announced):
    """Status of bytes that are sent as a data set."""
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_STORE

    ae = AE("SENDER")
    sop_class = announced.get("sop_class", ds.SOPClassUID)
    ae.add_requested_context(sop_class, ds.file_meta.TransferSyntaxUID)
    association = ae.associate(HERE, port, ae_title="CXRVAE")
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = announced.get("uid", ds.SOPInstanceUID)
    request.DataSet = BytesIO(data)
    association._reactor_checkpoint.clear()
    until(lambda: association._is_paused)
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.abort()
    return answer and answer.Status


def test_what_cannot_be_understood_is_refused_and_the_next_film_is_taken(spool, receiver, tmp_path):
    ds, data = raw(write_film(tmp_path / "film"))
    assert send_raw(receiver.port, ds, data[: len(data) // 2]) == 0xC000
    assert send_raw(receiver.port, ds, data[:100]) == 0xC000
    assert send_raw(receiver.port, ds, b"\0" * 1000) == 0xC000
    assert send_raw(receiver.port, ds, data, uid="1.2.3.99") == 0xC000
    assert send_raw(receiver.port, ds, data, sop_class="1.2.840.10008.5.1.4.1.1.1") == 0xA900
    assert files(spool) == []
    assert send_raw(receiver.port, ds, data) == 0
    assert len(kept(spool)) == 1


def test_without_room_films_are_refused_as_the_senders_may_try_again(spool, receiver, tmp_path, monkeypatch):
    film = write_film(tmp_path / "film")
    monkeypatch.setattr("monai_cxr_vae.service.spool.RESERVE", 2**70)
    assert send(receiver.port, film) == [0xA700]
    monkeypatch.undo()

    def full(*_):
        raise OutputError("the output cannot be written: No space left on device")

    monkeypatch.setattr("monai_cxr_vae.service.spool.write_whole", full)
    assert send(receiver.port, film) == [0xA700]
    monkeypatch.undo()
    assert files(spool) == []
    assert send(receiver.port, film) == [0]


def test_a_fault_of_the_program_is_no_success(spool, receiver, tmp_path, monkeypatch):
    def fault(*_):
        raise KeyError("secret")

    monkeypatch.setattr(spool, "receive", fault)
    (status,) = send(receiver.port, write_film(tmp_path / "film"))
    assert status >> 12 == 0xC
    monkeypatch.undo()
    assert send(receiver.port, write_film(tmp_path / "film")) == [0]


def test_an_object_that_is_too_large_is_dropped_while_it_comes(spool, receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 2**20)
    large = pydicom.dcmread(write_film(tmp_path / "large"))
    large.Rows = large.Columns = 2000
    large.PixelData = bytes(2000 * 2000 * 2)
    assert send(receiver.port, large) == [None]
    assert files(spool) == []
    assert send(receiver.port, write_film(tmp_path / "film")) == [0]


@pytest.mark.parametrize("kind", [1, 4, 9])
def test_a_pdu_that_claims_to_be_endless_is_not_waited_for(receiver, tmp_path, kind):
    with socket.create_connection((HERE, receiver.port)) as connection:
        connection.settimeout(60)
        connection.sendall(struct.pack(">BBL", kind, 0, 2**32 - 1))
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1000):  # an abort may come first
                pass
    assert send(receiver.port, write_film(tmp_path / "film")) == [0]


def test_more_callers_than_there_is_room_for(spool, receiver, tmp_path):
    """Those beyond are turned away, and those within are served."""
    ae = AE("SENDER")
    ae.add_requested_context("1.2.840.10008.1.1")
    associations = []
    lock = threading.Lock()

    def call():
        association = ae.associate(HERE, receiver.port, ae_title="CXRVAE")
        with lock:
            associations.append(association)

    threads = [threading.Thread(target=call) for _ in range(2 * module.MAX_ASSOCIATIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    established = [association for association in associations if association.is_established]
    assert 1 <= len(established) <= module.MAX_ASSOCIATIONS
    assert all(association.send_c_echo().Status == 0 for association in established)
    assert send(receiver.port, write_film(tmp_path / "film")) in ([None], [0])
    for association in established:
        association.release()
    until(lambda: send(receiver.port, write_film(tmp_path / "film")) == [0])


def test_idle_connections_have_an_end(spool, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(module, "GREETING_TIMEOUT", 3)
    with listening(spool) as receiver:
        idle = [socket.create_connection((HERE, receiver.port)) for _ in range(6)]
        for connection in idle[3:]:
            connection.settimeout(60)
            assert connection.recv(1) == b""
        until(lambda: send(receiver.port, write_film(tmp_path / "film")) == [0])
        for connection in idle:
            connection.close()


def test_a_port_that_is_taken(spool, receiver):
    with (
        pytest.raises(InputError, match="cannot be listened to"),
        Receiver(spool, "CXRVAE", (HERE, receiver.port), (PEER,), lambda: None),
    ):
        pass


def test_a_peer_without_an_address(spool):
    with pytest.raises(InputError, match="has no address"):
        Receiver(spool, "CXRVAE", (HERE, 0), (Peer("SENDER", "nowhere.invalid"),), lambda: None)


def test_the_log_names_no_patient(spool, receiver, tmp_path, caplog):
    film = write_film(tmp_path / "film", PatientName="ZZNAME^CANARY", PatientID="ZZID77")
    caplog.set_level("DEBUG")
    ds, data = raw(film)
    assert send(receiver.port, film, film) == [0, 0]
    send_raw(receiver.port, ds, data[: len(data) // 2])
    ds.PatientID = "ZZID78"
    assert send(receiver.port, ds) == [0]
    told = [record.getMessage() for record in caplog.records if record.name.startswith("monai_cxr_vae")]
    assert any("replaces film 1" in line for line in told)
    assert any("came again" in line for line in told)
    assert any("refused" in line for line in told)
    assert "ZZ" not in " ".join(told)
