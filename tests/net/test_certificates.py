"""Names in the certificates of clients."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL.crypto import X509, PKey
from twisted.internet.ssl import CertificateOptions

from mqttcluster.net.certificates import Renewable, client_name, renew_all
from tests.support.certificates import Certificates

DNS, MAIL, URI = (
    x509.DNSName("dev.example.org"),
    x509.RFC822Name("dev@example.org"),
    x509.UniformResourceIdentifier("urn:d"),
)


class Transport:
    """One over which the other side has shown a certificate with these names."""

    def __init__(self, common: tuple[str, ...] = (), alternative: tuple[x509.GeneralName, ...] = ()) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in common])
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=1))
        )
        if alternative:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        self._certificate = X509.from_cryptography(builder.sign(key, hashes.SHA256()))

    def getPeerCertificate(self) -> X509:
        return self._certificate


class Anonymous:
    """TLS, and no certificate."""

    def getPeerCertificate(self) -> None:
        return None


@pytest.mark.parametrize(
    ("transport", "common", "alternative"),
    [
        (Transport(("sensor 7",)), "sensor 7", None),
        (Transport(("sensor 7",), (DNS,)), "sensor 7", "dev.example.org"),
        (Transport((), (URI, MAIL, DNS)), None, "dev.example.org"),
        (Transport((), (URI, MAIL)), None, "dev@example.org"),
        (Transport((), (URI,)), None, "urn:d"),
        (Transport(("a\0b", "c")), "c", None),
        (Anonymous(), None, None),
        (object(), None, None),
    ],
    ids=["cn", "both", "dns first", "mail second", "uri", "no nul", "no certificate", "no tls"],
)
def test_names(transport: object, common: str | None, alternative: str | None) -> None:
    """The name that is asked for, or none; never half of one."""
    assert client_name(transport, "cn") == common
    assert client_name(transport, "san") == alternative


def test_all_are_renewed_or_none() -> None:
    """One pair that cannot be used leaves the certificates of all listeners as they were."""
    broken = [False]

    def make() -> CertificateOptions:
        if broken[0]:
            raise ValueError("the key does not fit")
        return CertificateOptions()

    good, bad = Renewable(CertificateOptions), Renewable(make)
    before = good.options, bad.options
    renew_all([good, bad])
    assert good.options is not before[0]
    assert bad.options is not before[1]
    before = good.options, bad.options
    broken[0] = True
    with pytest.raises(ValueError, match="does not fit"):
        renew_all([good, bad])
    assert (good.options, bad.options) == before


def test_a_certificate_whose_time_is_not_now(certificates: Certificates) -> None:
    """The operator is told what clients will not say."""
    certificate = x509.load_pem_x509_certificate(certificates.server.read_bytes())
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    key = PKey.from_cryptography_key(load_pem_private_key(certificates.server_key.read_bytes(), None))
    shown = Renewable(lambda: CertificateOptions(certificate=X509.from_cryptography(certificate), privateKey=key))
    assert (shown.ends, shown.trouble(begins), shown.trouble(ends)) == (ends, "", "")
    assert "has ended at" in shown.trouble(ends + 1)
    assert "begins at" in shown.trouble(begins - 1)
