"""The receiving side of a node: C-STORE and C-ECHO from known peers, answered when the film is on the disk."""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from monai_cxr_vae.dicom.files import DEFLATED, open_dataset
from monai_cxr_vae.dicom.select import SOP_CLASSES
from monai_cxr_vae.dicom.uids import is_safe_uid, uid_from
from monai_cxr_vae.errors import FilmError, InputError, NoPixels, OutputError
from monai_cxr_vae.files import MAX_FILE_BYTES
from monai_cxr_vae.service.spool import Received, Spool

logger = logging.getLogger(__name__)

# What monai_cxr_vae.dicom.decode reads. JPEG, JPEG-LS, JPEG 2000 and HTJ2K share a root.
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DEFLATED,
    RLELossless,
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 57, 70, 80, 81, 90, 91, 201, 202, 203)),
)
# PS3.4 B.2.3
SUCCESS, OUT_OF_RESOURCES, MISMATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
MAX_ASSOCIATIONS = 10
# Beyond these nobody is even told why.
MAX_CONNECTIONS = 50
MAX_PDU = 2**17
# Association requests have no limit of their own.
_MAX_ANY_PDU = 2**20
# Seconds: for the TLS handshake and again for the association request, and without a word within an association.
GREETING_TIMEOUT, NETWORK_TIMEOUT = 10, 60
_REJECTED = (0x01, 0x01, 0x03)  # permanently, by the service user: calling AE title not recognised (PS3.8 9.3.4)
IMPLEMENTATION_UID, IMPLEMENTATION_NAME = UID(uid_from("monai_cxr_vae", "node")), "MONAI_CXR_VAE"


@dataclass(frozen=True)
class Peer:
    """Who may send: an AE title, and where it calls from (address or name of a host)."""

    aet: str
    host: str


class Receiver:
    """Listens while its ``with`` block lasts.

    Args:
        spool: where films go.
        aet: AE title that callers must name.
        address: to listen to, and the port.
        peers: the only callers; others are rejected.
        on_film: called with the number of each film that is to be run.
        tls: for TLS and nothing else; see :func:`monai_cxr_vae.service.tls.server_context`.

    Raises:
        InputError: on entering, if the address cannot be listened to or a peer's host has no address.
    """

    def __init__(
        self,
        spool: Spool,
        aet: str,
        address: tuple[str, int],
        peers: tuple[Peer, ...],
        on_film: Callable[[], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._spool, self._on_film, self._tls, self._address = spool, on_film, tls, address
        self._peers = {(peer.aet, host) for peer in peers for host in _addresses(peer.host)}
        self._checking = threading.Lock()
        # Also of the library's own warnings, which quote what callers send.
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
        self._ae = AE(aet)
        self._ae.require_called_aet = True
        self._ae.maximum_associations = MAX_ASSOCIATIONS
        self._ae.maximum_pdu_size = MAX_PDU
        self._ae.acse_timeout, self._ae.network_timeout = GREETING_TIMEOUT, NETWORK_TIMEOUT
        self._ae.implementation_class_uid = IMPLEMENTATION_UID
        self._ae.implementation_version_name = IMPLEMENTATION_NAME
        self._ae.add_supported_context(Verification, ALL_TRANSFER_SYNTAXES)
        for sop_class in SOP_CLASSES:
            self._ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))

    def __enter__(self) -> Receiver:
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, _bound_messages),
            (evt.EVT_REQUESTED, self._check_caller),
            (evt.EVT_C_STORE, self._store),
        ]
        try:
            server: Any = self._ae.make_server(
                self._address, ssl_context=self._tls, evt_handlers=handlers, server_class=_Server
            )
        except OSError as error:
            raise InputError(
                f"{self._address[0]}:{self._address[1]} cannot be listened to: {error.strerror}"
            ) from error
        self._server: _Server = server
        self._server.hosts = {host for _, host in self._peers}
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for association in self._server.active_associations:
            association.abort()
        self._server.shutdown()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port that is listened to."""
        return int(self._server.server_address[1])

    def _check_caller(self, event: Any) -> None:
        caller, host = event.assoc.requestor.primitive.calling_ae_title.strip(), _host(event)
        if (caller, host) not in self._peers:
            logger.warning("rejected a caller from %s: unknown AE title", host)
            event.assoc.acse.send_reject(*_REJECTED)
            event.assoc.kill()

    def _store(self, event: Any) -> int:
        peer = event.assoc.requestor.ae_title
        try:
            if not self._spool.has_room():
                raise OutputError("there is no room left on the disk")
            uid, data = str(event.request.AffectedSOPInstanceUID), _file(event)
            with self._checking:  # deflated data grow in memory
                dataset = open_dataset(data)
            if str(dataset.get("SOPClassUID")) != str(event.request.AffectedSOPClassUID):
                logger.warning("refused an object from %s: its SOP class is not the one it was announced with", peer)
                return MISMATCH
            if not is_safe_uid(uid) or str(dataset.get("SOPInstanceUID")) != uid:
                logger.warning("refused an object from %s: its SOP Instance UID is malformed or not as announced", peer)
                return NOT_UNDERSTOOD
            if "PixelData" not in dataset:
                raise NoPixels("an image without pixels")
            del dataset
            received = self._spool.receive(uid, data, peer)
        except FilmError as error:
            logger.warning("refused an object from %s: %s", peer, error.reason)
            return NOT_UNDERSTOOD
        except OutputError as error:
            logger.error("could not take an object from %s: %s", peer, error)
            return OUT_OF_RESOURCES
        _tell(received, peer, len(data))
        if received.is_new:
            self._on_film()
        return SUCCESS


class _Server(ThreadedAssociationServer):
    """Accepts connections of known hosts; one that is slow with its TLS handshake holds up nobody."""

    hosts: set[str] = set()  # noqa: RUF012
    request_queue_size = 100

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = self.socket.accept()  # type: ignore[union-attr]
        connection.settimeout(GREETING_TIMEOUT)
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if client_address[0] not in self.hosts:
            logger.warning("turned away a connection from %s: unknown address", client_address[0])
            return False
        if len(self.active_associations) >= MAX_CONNECTIONS:
            logger.warning("turned away a connection from %s: too many", client_address[0])
            return False
        return True

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.ssl_context:
            request.do_handshake()
        request.settimeout(NETWORK_TIMEOUT)
        super().finish_request(request, client_address)

    def shutdown(self) -> None:
        socketserver.TCPServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.warning("turned away a connection from %s: the TLS handshake failed", client_address[0])


def _bound_messages(event: Any) -> None:
    """Give up a connection whose PDU or object is too large before it has been taken into memory."""
    association = event.assoc
    connection = association.dul.socket
    receive = connection.recv

    def recv(count: int) -> bytearray:
        message = association.dimse.message
        held = message.data_set.tell() if message and message.data_set else 0
        if count > _MAX_ANY_PDU or held + count > MAX_FILE_BYTES:
            logger.warning(
                "dropped the connection of %s: its object is beyond %d MiB", _host(event), MAX_FILE_BYTES >> 20
            )
            raise OSError("too large")
        return receive(count)

    connection.recv = recv


def _file(event: Any) -> bytes:
    """The object as a file (PS3.10): the bytes that came behind a header that is the same each time they come."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = event.request.AffectedSOPClassUID
    meta.MediaStorageSOPInstanceUID = event.request.AffectedSOPInstanceUID
    meta.TransferSyntaxUID = event.context.transfer_syntax
    meta.ImplementationClassUID, meta.ImplementationVersionName = IMPLEMENTATION_UID, IMPLEMENTATION_NAME
    return b"\0" * 128 + b"DICM" + encode_file_meta(meta) + event.encoded_dataset(include_meta=False)


def _tell(received: Received, peer: str, size: int) -> None:
    if not received.is_new:
        logger.info("film %d came again from %s, unchanged", received.film, peer)
        return
    logger.info("film %d came from %s, %.1f MB", received.film, peer, size / 1e6)
    if received.replaces:
        logger.warning("film %d replaces film %d, whose results are withdrawn", received.film, received.replaces)
    for uid, destination in received.withdrawn:
        logger.warning("withdrawn, but already at %s: %s", destination, uid)


def _host(event: Any) -> str:
    return str(event.assoc.requestor.address)


def _addresses(host: str) -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise InputError(f"the peer {host} has no address: {error.strerror}") from error
