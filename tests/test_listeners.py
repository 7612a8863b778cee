"""Endpoint strings: who can reach a listener, who is welcome there, and mistakes that are found before it listens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.testing import MemoryReactorClock

from mqttcluster import listeners
from mqttcluster.listeners import Listener, address, local, parse
from mqttcluster.loading import load
from tests.support.certificates import Certificates


class TestListeners:
    """Endpoint strings."""

    @pytest.mark.parametrize(
        ("description", "expected"),
        [
            ("tcp:1883:interface=127.0.0.1", True),
            ("tcp:1883:127.0.0.1", True),
            ("tcp:1883:interface=127.9.9.9", True),
            ("tcp:port=1883:interface=localhost", True),
            (r"tcp6:1883:interface=\:\:1", True),
            ("ssl:8883:interface=127.0.0.1", True),
            ("unix:/run/mqtt.sock", True),
            ("systemd:domain=UNIX:index=0", True),
            ("tcp:1883", False),
            ("tcp:1883:interface=0.0.0.0", False),
            ("tcp:1883:interface=10.0.0.1", False),
            ("tcp6:1883", False),
            (r"tcp6:1883:interface=\:\:", False),
            ("ssl:8883", False),
            ("systemd:domain=INET:index=0", False),
            ("haproxy:tcp:1883:interface=127.0.0.1", False),
            ("haproxy:unix:/run/mqtt.sock", False),
            ("TCP:1883:interface=127.0.0.1", True),
            ("onion:1883", False),
        ],
    )
    def test_who_can_reach_it(self, description: str, expected: bool) -> None:
        """Only what this machine alone can reach takes anonymous clients by itself."""
        assert local(parse(description)) is expected

    def build(self, **given: Sequence[str]) -> tuple[list[Listener], str]:
        arguments = {name.replace("_", "-"): list(texts) for name, texts in given.items()}
        loaded = load(arguments | {"websocket": ["none"]}, {}, "/")
        built = listeners.build(loaded, MemoryReactorClock(), "/")
        return built, "\n".join(str(problem) for problem in loaded.problems)

    def test_anonymous(self, certificates: Certificates, tmp_path: Path) -> None:
        """Who is welcome without a user name follows from the listener, passwords and certificates."""
        home, world = "tcp:1:interface=127.0.0.1", "tcp:1"
        secure = f"ssl:1:privateKey={certificates.server_key}:certKey={certificates.server}"
        ca = {"tls_client_ca": [str(certificates.authority)]}
        some = {"passwords": [str(tmp_path / "p")]}
        anybody = {"allow_anonymous": ["true"]}

        def welcome(**given: Sequence[str]) -> list[bool]:
            built, problems = self.build(**given)
            assert problems == ""
            return [listener.anonymous for listener in built]

        assert welcome(listen=[home]) == [True]
        assert welcome(listen=[home, world], **some) == [False, False]
        assert welcome(listen=[home, world], **anybody) == [True, True]
        assert welcome(listen=[home, world], **anybody, **some) == [True, True]
        assert welcome(listen=[home, secure], **ca) == [True, True]
        assert welcome(listen=[secure], **some) == [False]
        for given in ({}, {**ca, "tls_client_certificates": ["optional"]}):
            _, problems = self.build(listen=[secure], **given)
            assert "other machines can reach it" in problems

    @pytest.mark.parametrize(
        ("description", "problem"),
        [
            ("tcp:70000:interface=127.0.0.1", "'70000' is no port"),
            ("tcp:-1:interface=127.0.0.1", "'-1' is no port"),
            ("tcp", "'' is no port"),
            ("unix", "it has no path"),
            ("haproxy", "haproxy: needs an endpoint"),
            ("haproxy:tcp:x", "'x' is no port"),
            ("haproxy:haproxy:tcp:1", "haproxy: cannot stand before haproxy:"),
            ("haproxy:tls:/etc:1", "haproxy: cannot stand before tls:"),
            ("stdio:", "this is no listener"),
            ("a=b", "this is no listener"),
            ("tcp:1:interface=127.0.0.1:colour=red", "unexpected keyword argument 'colour'"),
            ("systemd:domain=UNIX:index=7", "no such socket"),
            ("ssl:1:interface=127.0.0.1:privateKey=/etc/hostname", "the key and the certificate cannot be used"),
            ("ssl:1:interface=127.0.0.1:privateKey={server_key}:certKey={client}", "do not match; give the"),
            ("ssl:1:interface=127.0.0.1:privateKey={server_key}:certKey=/x", "cannot read certKey /x: No such file"),
            ("tls:/no/directory", "/no/directory is no directory"),
        ],
    )
    def test_mistakes(self, certificates: Certificates, description: str, problem: str) -> None:
        """Each mistake is found before anything listens, and said in words."""
        description = description.format(server_key=certificates.server_key, client=certificates.client)
        built, problems = self.build(listen=[description], allow_anonymous=["true"])
        assert problem in problems
        assert built == []

    def test_a_key_with_a_passphrase(
        self, certificates: Certificates, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """It is refused. Nobody is asked for the passphrase: a node that is told to read it anew has no one to ask."""
        key = serialization.load_pem_private_key(certificates.server_key.read_bytes(), None)
        sealed = tmp_path / "sealed.pem"
        sealed.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        description = f"ssl:1:interface=127.0.0.1:privateKey={sealed}:certKey={certificates.server}"
        built, problems = self.build(listen=[description])
        assert built == []
        assert "without a passphrase" in problems
        assert "pass" not in capfd.readouterr().err

    def test_behind_a_balancer(self, certificates: Certificates) -> None:
        """haproxy: asks for a header, and in front of TLS: what listens takes plain bytes first."""
        files = f"privateKey={certificates.server_key}:certKey={certificates.server}"
        descriptions = ["tcp:1", "haproxy:tcp:1", f"haproxy:ssl:1:interface=127.0.0.1:{files}"]
        built, problems = self.build(listen=descriptions, allow_anonymous=["true"])
        assert problems == ""
        assert [(listener.proxied, listener.inside is not None, listener.secure) for listener in built] == [
            (False, False, False),
            (True, False, False),
            (True, True, True),
        ]

    def test_authorities(self, certificates: Certificates, tmp_path: Path) -> None:
        """--tls-client-ca that cannot work is refused rather than left without effect."""
        empty = tmp_path / "empty.pem"
        empty.write_text("nothing")
        home = "tcp:1:interface=127.0.0.1"
        _, problems = self.build(listen=[home], tls_client_ca=[str(empty)])
        assert "holds no certificate" in problems
        _, problems = self.build(listen=[home], tls_client_ca=[str(certificates.authority)])
        assert "no listener asks for certificates" in problems
        tls = f"tls:{tmp_path}:1:interface=127.0.0.1"
        _, problems = self.build(listen=[tls], tls_client_ca=[str(certificates.authority)])
        assert "does not reach tls:" in problems

    def test_nothing_to_listen_on(self) -> None:
        """A broker that nobody can reach is a mistake."""
        _, problems = self.build(listen=["none"])
        assert "nothing to listen on" in problems

    def test_addresses_as_people_write_them(self) -> None:
        """The log names what a client has to be given."""
        assert address(IPv4Address("TCP", "127.0.0.1", 1883)) == "127.0.0.1:1883"
        assert address(IPv6Address("TCP", "::1", 1883)) == "[::1]:1883"
        assert address(UNIXAddress("/run/mqtt.sock")) == "/run/mqtt.sock"
