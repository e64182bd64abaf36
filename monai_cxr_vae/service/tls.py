"""TLS for both sides of a node: its own certificate, and the authority that the certificates of others come from."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from monai_cxr_vae.errors import InputError


@dataclass(frozen=True)
class Certificates:
    """Files in PEM form.

    Attributes:
        certificate: of this node, with its chain.
        key: that belongs to it, without a passphrase.
        authority: whose certificates are trusted; None trusts those of the operating system as a client.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    def server(self) -> ssl.SSLContext | None:
        """For callers; with an authority they need a certificate of it. None without a certificate of our own.

        Raises:
            InputError: a file cannot be used.
        """
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context)
        if self.authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> ssl.SSLContext:
        """For destinations, whose certificate must be valid and bear the name of their host.

        Raises:
            InputError: a file cannot be used.
        """
        context = ssl.create_default_context()
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")
            if self.authority is not None:
                context.load_verify_locations(self.authority)
        except OSError as error:  # ssl.SSLError is one
            raise InputError(f"a certificate, key or authority cannot be used: {error.strerror or error}") from error
