"""TLS certificates: those of this node, which can be replaced while it runs, and the names in those of clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions
from zope.interface import implementer


@implementer(IOpenSSLServerConnectionCreator)
class Renewable:
    """What a TLS listener shows and asks for. `make` reads it from files; it raises ValueError if they cannot be used.
    A connection keeps what it has begun with."""

    def __init__(self, make: Callable[[], CertificateOptions]) -> None:
        self._make = make
        self.options = make()

    def renew(self) -> None:
        """Read the files again, for connections from now on. Raises ValueError, and then nothing has changed."""
        self.options = self._make()

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return self.options.serverConnectionForTLS(protocol)

    @property
    def ends(self) -> float:
        """When the certificate ends, seconds since 1970."""
        return self._shown.not_valid_after_utc.timestamp()

    def trouble(self, now: float) -> str:
        """Why clients are going to refuse the certificate at `now`, seconds since 1970; '' if its time is right."""
        shown = self._shown
        if now > self.ends:
            return f"the certificate has ended at {shown.not_valid_after_utc}"
        if now < shown.not_valid_before_utc.timestamp():
            return f"the certificate begins at {shown.not_valid_before_utc}, or the clock of this machine is behind"
        return ""

    @property
    def _shown(self) -> x509.Certificate:
        certificate: Any = self.options.certificate
        shown: x509.Certificate = certificate.to_cryptography()
        return shown


def renew_all(certificates: Sequence[Renewable]) -> None:
    """All of them, or none. Raises ValueError."""
    before = [certificate.options for certificate in certificates]
    try:
        for certificate in certificates:
            certificate.renew()
    except ValueError:
        for certificate, options in zip(certificates, before, strict=True):
            certificate.options = options
        raise


def client_name(transport: Any, kind: str) -> str | None:
    """The name in the certificate that the other side of a TLS connection has shown: its common name (``cn``), or the
    first of its alternative names (``san``; DNS before mail before URI). None if there is no certificate or name."""
    ask = getattr(transport, "getPeerCertificate", None)
    shown = ask() if ask is not None else None
    if shown is None:
        return None
    certificate = shown.to_cryptography()
    names = _common_names(certificate) if kind == "cn" else _alternative_names(certificate)
    return next((name for name in names if name and "\0" not in name), None)


def _common_names(certificate: x509.Certificate) -> list[str]:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return [name.value for name in names if isinstance(name.value, str)]


def _alternative_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    kinds = (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier)
    return [name for kind in kinds for name in names.get_values_for_type(kind)]
