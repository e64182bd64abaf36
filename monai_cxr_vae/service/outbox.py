"""The sending side of a node: results to C-STORE and STOW-RS destinations, tried until they are there or refused."""

from __future__ import annotations

import ipaddress
import json
import logging
import netrc
import random
import ssl
import stat
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pydicom
import requests
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from monai_cxr_vae.errors import InputError, OutputError
from monai_cxr_vae.service.receiver import IMPLEMENTATION_NAME, IMPLEMENTATION_UID, MAX_PDU
from monai_cxr_vae.service.spool import Delivery, Spool
from monai_cxr_vae.service.tls import Certificates

logger = logging.getLogger(__name__)

# Results sent in one association or session, and seconds to wait for a connection, an association and an answer.
BATCH, CONNECT_TIMEOUT, ACSE_TIMEOUT, ANSWER_TIMEOUT = 50, 10, 30, 60
# Seconds: the longest pause between two tries, and between two looks into the journal, which others may requeue in.
LONGEST_PAUSE, LOOK = 300.0, 5.0
# PS3.7 annex C and PS3.4 B.2.3: processing failure, resource limitation and not authorised may pass; a duplicate is
# there already, with the same bytes, since a UID of ours means its bytes.
_PASSING_STATUS, _DUPLICATE = (0x0110, 0x0213, 0x0124, 0xFE00), 0x0111
_REFUSING_HTTP = (400, 406, 411, 413, 415, 422)
# Attributes of a STOW-RS answer (PS3.18 10.5.3), which says them in JSON or in XML
_FAILED_SEQUENCE = "00081198"
_LOST = "the result is not in the spool any more, or cannot be read"


@dataclass(frozen=True)
class Outcome:
    """What a destination said of one result: ``delivered``, ``refused`` for good, or ``postponed``; and why."""

    kind: str
    text: str | None = None


class Away(Exception):
    """A destination cannot be reached at all; the message is for a person."""


class Destination(Protocol):
    """Where results go."""

    name: str

    def send(self, deliveries: Sequence[Delivery]) -> Iterator[tuple[Delivery, Outcome]]:
        """Send some results and tell the outcome of each; it may stop early, behind one that ended the connection.

        Raises:
            Away: there is no connection.
        """
        ...


def pause(tries: int) -> float:
    """Seconds before the next try: doubled each time up to :data:`LONGEST_PAUSE`, with jitter."""
    return min(LONGEST_PAUSE, 2.0 ** min(tries, 20)) * random.uniform(0.5, 1.0)


def judge(status: int) -> Outcome:
    """What a status of the storage service class says of a result (PS3.4 B.2.3, PS3.7 annex C)."""
    known = STORAGE_SERVICE_CLASS_STATUS.get(status, ("", ""))[1]  # what the peer writes beside it may name a patient
    words = f"status 0x{status:04X}{f' ({known})' if known else ''}"
    if status == 0 or status == _DUPLICATE:
        return Outcome("delivered")
    if status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116):
        return Outcome("delivered", f"{words}, a warning")
    if status >> 8 == 0xA7 or status in _PASSING_STATUS:
        return Outcome("postponed", words)
    return Outcome("refused", words)


class StorageSCP:
    """A destination by C-STORE.

    Args:
        aet: our own AE title.
        peer: the destination's AE title.
        host, port: where it listens.
        tls: None sends in the clear.
    """

    def __init__(self, aet: str, peer: str, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.name = f"{peer}@{host}:{port}"
        self._aet, self._peer, self._host, self._port, self._tls = aet, peer, host, port, tls

    def send(self, deliveries: Sequence[Delivery]) -> Iterator[tuple[Delivery, Outcome]]:
        """See :class:`Destination`."""
        results = []
        for delivery in deliveries:
            try:
                results.append((delivery, pydicom.dcmread(delivery.path)))
            except Exception:  # the parser raises what it pleases
                yield delivery, Outcome("refused", _LOST)
        if not results:
            return
        association = self._associate({str(result.SOPClassUID) for _, result in results})
        try:
            for delivery, result in results:
                outcome = self._store(association, result)
                yield delivery, outcome or Outcome("postponed", "the connection was lost")
                if outcome is None:
                    return
        finally:
            if association.is_established:
                association.release()

    def _associate(self, sop_classes: set[str]) -> Any:
        ae = AE(self._aet)
        ae.maximum_pdu_size = MAX_PDU
        ae.implementation_class_uid, ae.implementation_version_name = IMPLEMENTATION_UID, IMPLEMENTATION_NAME
        ae.connection_timeout, ae.acse_timeout = CONNECT_TIMEOUT, ACSE_TIMEOUT
        ae.dimse_timeout = ae.network_timeout = ANSWER_TIMEOUT
        ae.add_requested_context(Verification)  # which all accept, so that none of the others is no reason to hang up
        for sop_class in sorted(sop_classes):
            for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):  # as it is, and what everybody must take
                ae.add_requested_context(sop_class, syntax)
        association = ae.associate(
            self._host, self._port, ae_title=self._peer, tls_args=(self._tls, self._host) if self._tls else None
        )
        if association.is_established:
            return association
        if association.is_rejected:
            raise Away(f"it rejects the association: {association.acceptor.primitive.reason_str}")  # type: ignore[union-attr]
        raise Away("no connection")

    @staticmethod
    def _store(association: Any, result: Dataset) -> Outcome | None:
        """None if the connection was lost."""
        try:
            answer = association.send_c_store(result)
        except ValueError:
            return Outcome("refused", f"it does not take the SOP class {result.SOPClassUID}")
        except RuntimeError:  # the association has ended
            return None
        return judge(answer.Status) if "Status" in answer else None


class StowService:
    """A destination by STOW-RS (PS3.18 10.5), one result per request.

    Args:
        url: of the service; ``/studies`` is added.
        credentials: file of the form of netrc, read anew for each batch: ``machine HOST login USER password PASSWORD``,
            or without ``login`` for a bearer token.
        certificates: for https.

    Raises:
        InputError: the address or the file cannot be used.
    """

    def __init__(self, url: str, credentials: Path | None = None, certificates: Certificates | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise InputError(f"--stow takes an address as https://HOST/dicom-web, without users in it, not {url}")
        self.name = url.rstrip("/")
        self._host, self._credentials = parts.hostname, credentials
        self._certificates = certificates or Certificates()
        self._certificates.client()
        if self._login() and parts.scheme == "http" and not _is_loopback(self._host):
            raise InputError(f"credentials are sent over https only, or to this computer; {self.name} is neither")

    def send(self, deliveries: Sequence[Delivery]) -> Iterator[tuple[Delivery, Outcome]]:
        """See :class:`Destination`."""
        with requests.Session() as session:
            session.trust_env = False  # neither a proxy nor a password that nobody has named
            certificates = self._certificates
            session.verify = str(certificates.authority) if certificates.authority else True
            if certificates.certificate:
                session.cert = (str(certificates.certificate), str(certificates.key or certificates.certificate))
            try:
                login = self._login()
            except InputError as error:
                raise Away(str(error)) from error
            if login and login[0]:
                session.auth = login
            elif login:
                session.headers["Authorization"] = f"Bearer {login[1]}"
            for delivery in deliveries:
                try:
                    data = delivery.path.read_bytes()
                except OSError:
                    yield delivery, Outcome("refused", _LOST)
                    continue
                yield delivery, self._store(session, data, delivery.uid)

    def _store(self, session: requests.Session, data: bytes, uid: str) -> Outcome:
        limit = uuid.uuid4().hex
        body = f"--{limit}\r\nContent-Type: application/dicom\r\n\r\n".encode() + data + f"\r\n--{limit}--\r\n".encode()
        headers = {
            "Accept": "application/dicom+json",
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={limit}',
        }
        timeout = (CONNECT_TIMEOUT, ANSWER_TIMEOUT)
        try:
            answer = session.post(f"{self.name}/studies", body, headers=headers, timeout=timeout, allow_redirects=False)
        except requests.exceptions.SSLError as error:
            raise Away("TLS fails: its certificate or ours is not accepted") from error
        except requests.exceptions.RequestException as error:
            if isinstance(error, requests.exceptions.ConnectTimeout) or isinstance(
                getattr(error.args[0] if error.args else None, "reason", None), NewConnectionError | ConnectTimeoutError
            ):
                raise Away("no connection") from error
            return Outcome("postponed", f"no answer: {type(error).__name__}")
        return judge_answer(answer.status_code, answer.content, uid)

    def _login(self) -> tuple[str, str] | None:
        """User and password, or an empty word and a token."""
        if self._credentials is None:
            return None
        try:
            if stat.S_IMODE(self._credentials.stat().st_mode) & 0o077:
                raise InputError(f"{self._credentials} can be read by others; chmod 600 it")
            found = netrc.netrc(self._credentials).authenticators(self._host)
        except (OSError, netrc.NetrcParseError, UnicodeError) as error:
            raise InputError(f"{self._credentials} cannot be read as a netrc file") from error
        return (found[0], found[2]) if found else None


def judge_answer(status: int, body: bytes, uid: str) -> Outcome:
    """What a STOW-RS answer says of the one result that was sent.

    Args:
        status: of HTTP; 200 with a failure in the body, and 409 with one that may pass, are met.
        body: DICOM JSON model, or something else, or nothing.
        uid: of the result.
    """
    try:
        answer = Dataset.from_json(json.loads(body))
    except Exception:  # XML, HTML, nothing: what it is does not matter
        answer = None
    if answer is not None:
        for item in answer.get("FailedSOPSequence") or ():
            if str(item.get("ReferencedSOPInstanceUID", uid)) == uid:
                return judge(int(item.get("FailureReason") or 0x0110))
        for item in answer.get("ReferencedSOPSequence") or ():
            if str(item.get("ReferencedSOPInstanceUID")) == uid and status < 300:
                return judge(int(item.get("WarningReason") or 0))
    if status == 200 and _FAILED_SEQUENCE.encode() not in body:
        return Outcome("delivered")
    return Outcome("refused" if status in _REFUSING_HTTP else "postponed", f"HTTP {status}")


class Sender:
    """Sends what is due to one destination, in a thread of its own, until it is stopped.

    A result that is refused or fails again and again holds up no other; a destination that is away is called with
    growing pauses, without end.
    """

    def __init__(self, spool: Spool, destination: Destination) -> None:
        self.destination = destination
        self.last_error: dict[str, Any] | None = None
        self._spool = spool
        self._news, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=destination.name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There may be something to send."""
        self._news.set()

    def stop(self) -> None:
        """Finish the result at hand and end."""
        self._stopping.set()
        self._news.set()
        self._thread.join()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._news.clear()
            try:
                due = self._spool.due(self.destination.name, BATCH)
                if not due:
                    self._news.wait(LOOK)
                    continue
                for delivery, outcome in self.destination.send(due):
                    self._settle(delivery, outcome)
                    failures = 0
                    if self._stopping.is_set():
                        break
            except (Away, OutputError) as error:
                self._complain(str(error), always=failures == 0)
                self._stopping.wait(pause(failures))
                failures += 1
            except Exception as error:  # a fault of this program must not end the thread
                self._complain(f"internal: {type(error).__name__}", always=True)
                logger.debug("", exc_info=True)
                self._stopping.wait(pause(failures))
                failures += 1

    def _settle(self, delivery: Delivery, outcome: Outcome) -> None:
        name = self.destination.name
        if outcome.kind == "delivered":
            if not self._spool.delivered(delivery.number, outcome.text):
                logger.warning("withdrawn, but already at %s: %s", name, delivery.uid)
            logger.info(
                "result %d delivered to %s%s", delivery.number, name, f", {outcome.text}" if outcome.text else ""
            )
            return
        text = outcome.text or ""
        if outcome.kind == "refused":
            self._spool.refused(delivery.number, text)
            logger.error("result %d refused by %s and set aside: %s", delivery.number, name, text)
        else:
            self._spool.postponed(delivery.number, text, pause(delivery.tries + 1))
            if text != delivery.error:
                logger.warning("result %d not taken by %s, will be tried again: %s", delivery.number, name, text)
        self.last_error = {"time": time.time(), "text": text}

    def _complain(self, text: str, always: bool) -> None:
        if always or not self.last_error or self.last_error["text"] != text:
            logger.warning("%s is away, will be tried again: %s", self.destination.name, text)
        self.last_error = {"time": time.time(), "text": text}


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
