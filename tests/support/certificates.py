"""A certificate authority for one test run: itself, a server on loopback, and a client."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, ca: bool, days: int = 7
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * _DAY)
        .not_valid_after(now + days * _DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )


def make(directory: Path, days: int = 7) -> Certificates:
    """Write a fresh set into `directory`. That of the server ends in so many days."""

    def write(name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> tuple[Path, Path]:
        key_path, path = directory / f"{name}.key", directory / f"{name}.pem"
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path, key_path

    authority, server, client = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    hash_ = hashes.SHA256()
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    root = _builder("test authority", "test authority", authority, ca=True).add_extension(usage, critical=True)
    leaf = _builder("localhost", "test authority", server, ca=False, days=days).add_extension(names, critical=False)
    user = _builder("test client", "test authority", client, ca=False)
    root_path, _ = write("authority", authority, root.sign(authority, hash_))
    return Certificates(
        root_path,
        *write("server", server, leaf.sign(authority, hash_)),
        *write("client", client, user.sign(authority, hash_)),
    )
