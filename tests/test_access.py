"""Users, certificates and rules of a real node, the examples of docs/authentication.md, and SIGHUP."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from argon2 import PasswordHasher

from mqttcluster.access import Access
from mqttcluster.loading import load
from tests.support import certificates as authority
from tests.support.certificates import Certificates
from tests.support.process import Process
from tests.support.wire import Wire, connect, puback, publish, subscribe

ROOT = Path(__file__).resolve().parents[1]
TWISTD = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from twisted.scripts.twistd import run; run()"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
ACCEPTED = b"\x20\x02\x00\x00"


def refusal(code: int) -> bytes:
    return bytes((0x20, 2, 0, code))


def write_users(path: Path, **users: str) -> None:
    path.write_text("".join(f"{name}:{CHEAP.hash(password)}\n" for name, password in users.items()))


def hang_up(broker: Node) -> None:
    """SIGHUP, and wait until the node has dealt with it."""
    seen = len(broker.log.lines)
    os.kill(broker.pid, signal.SIGHUP)
    broker.log.wait_for("read again", since=seen)


def log_in(broker: Node, name: str | None, password: bytes | None, client_id: str = "") -> bytes:
    """What CONNECT is answered with."""
    with broker.wire() as client:
        client.send(connect(client_id, username=name, password=password))
        return client.packet()


class Node:
    """A node with whatever listeners its options say. It is ended by its process id."""

    def __init__(self, run: Path, *options: str) -> None:
        command = [sys.executable, "-c", TWISTD, "--nodaemon", "--pidfile=", "mqttcluster", "--store", "memory:"]
        self._process = Process([*command, *options], run)
        self.pid = self._process.pid
        self.log = self._process.log

    def port(self, what: str) -> int:
        return int(self.log.wait_for(rf"listening for {what} on ").rpartition(":")[2])

    def wire(self) -> Wire:
        return Wire(("127.0.0.1", self.port("MQTT")))

    def end(self) -> None:
        assert self._process.running, str(self.log)
        self._process.terminate()
        assert not re.search(r"Traceback|Unhandled", str(self.log)), str(self.log)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def start(*options: str) -> Node:
        nodes.append(Node(tmp_path, *options))
        return nodes[-1]

    yield start
    for started in nodes:
        started.end()


LISTEN = ("--listen", "tcp:0:interface=127.0.0.1", "--websocket", "none")


class TestPasswords:
    """A password file, and its changes."""

    def test_codes(self, node: Callable[..., Node], tmp_path: Path) -> None:
        """Each refusal has the code that the standard names, in both versions of it."""
        write_users(tmp_path / "users", alice="one")
        started = node(*LISTEN, "--passwords", "users")
        assert log_in(started, "alice", b"one") == ACCEPTED
        assert log_in(started, "alice", b"two") == refusal(4)
        assert log_in(started, "bob", b"one") == refusal(4)
        assert log_in(started, None, None) == refusal(5)
        for name, code in ((b"\x00\x05alice\x00\x03two", 0x86), (b"", 0x87)):
            with started.wire() as client:
                flags = 0xC2 if name else 0x02
                body = b"\x00\x04MQTT\x05" + bytes((flags,)) + b"\x00\x00\x00\x00\x01c" + name
                client.send(bytes((0x10, len(body))) + body)
                assert client.packet()[:4][3] == code

    def test_hangup(self, node: Callable[..., Node], tmp_path: Path) -> None:
        """New users are known and old ones are not, nobody is disconnected, and a broken file changes nothing."""
        users = tmp_path / "users"
        write_users(users, alice="one", bob="one")
        started = node(*LISTEN, "--passwords", "users")
        with started.wire() as bob:
            bob.connect("b", username="bob", password=b"one")
            write_users(users, alice="two", carol="one")
            hang_up(started)
            assert log_in(started, "alice", b"one") == refusal(4)
            assert log_in(started, "alice", b"two") == ACCEPTED
            assert log_in(started, "carol", b"one") == ACCEPTED
            assert log_in(started, "bob", b"one") == refusal(4)
            users.write_text("alice\n")
            hang_up(started)
            assert "users, line 1: write name:hash" in str(started.log)
            assert log_in(started, "alice", b"two") == ACCEPTED
            users.unlink()
            hang_up(started)
            assert log_in(started, "alice", b"two") == ACCEPTED
            bob.expect_silence()


class TestRules:
    """An ACL file, and its changes."""

    def test_hangup(self, node: Callable[..., Node], tmp_path: Path) -> None:
        """The rules of now hold for clients that stay connected; a broken file leaves the old ones in force."""
        acl = tmp_path / "acl"
        acl.write_text("allow everyone to publish and subscribe #\n")
        started = node(*LISTEN, "--acl", "acl")
        with started.wire().connect("r", clean=False) as reader, started.wire().connect("w") as writer:
            reader.subscribe(("a", 1), ("b", 1))

            def arrives(number: int) -> list[str]:
                for topic in ("a", "b"):
                    writer.publish(topic, b"%d" % number, 1)
                topics = []
                while topics[-1:] != ["b"]:
                    message = reader.expect_published()
                    assert message.payload == b"%d" % number
                    reader.send(puback(message.packet_id))
                    topics.append(message.topic)
                return topics

            assert arrives(1) == ["a", "b"]
            acl.write_text("deny everyone to subscribe a\nallow everyone to publish and subscribe #\n")
            hang_up(started)
            assert arrives(2) == ["b"]
            acl.write_text("allow everybody everything\n")
            hang_up(started)
            assert arrives(3) == ["b"]
            acl.write_text("allow everyone to publish and subscribe #\n")
            hang_up(started)
            assert arrives(4) == ["a", "b"]

    def test_a_file_that_takes_long(self, node: Callable[..., Node], tmp_path: Path) -> None:
        """While the rules are read again the old ones hold, and everybody is served."""
        acl = tmp_path / "acl"
        acl.write_text("allow everyone to publish and subscribe a\n")
        started = node(*LISTEN, "--acl", "acl")
        with started.wire().connect("c") as client:
            acl.unlink()
            os.mkfifo(acl)
            os.kill(started.pid, signal.SIGHUP)
            with acl.open("w") as pipe:  # comes back when the node has it open, too, and waits for a line
                client.subscribe(("a", 0))
                client.expect_silence()
                pipe.write("allow everyone to publish and subscribe b\n")
            started.log.wait_for("acl read again")
            client.subscribe(("b", 0))


class TestCertificates:
    """TLS: whom a certificate names, and new ones."""

    @pytest.fixture
    def secured(self, node: Callable[..., Node], tmp_path: Path, certificates: Certificates) -> Callable[..., Node]:
        """A node with TLS on both kinds of listeners, that asks for certificates."""
        files = {"key.pem": certificates.server_key, "cert.pem": certificates.server, "ca.pem": certificates.authority}
        for name, source in files.items():
            (tmp_path / name).write_bytes(source.read_bytes())
        door = "ssl:0:interface=127.0.0.1:privateKey=key.pem:certKey=cert.pem"

        def start(*options: str) -> Node:
            return node("--listen", door, "--websocket", door, "--tls-client-ca", "ca.pem", *options)

        return start

    def wire(self, node: Node, certificates: Certificates, known: bool = True, before: bytes = b"") -> Wire:
        plain = Wire(("127.0.0.1", node.port("MQTT over TLS")))
        plain.send(before)
        context = ssl.create_default_context(cafile=str(certificates.authority))
        if known:
            context.load_cert_chain(certificates.client, certificates.client_key)
        plain.socket = context.wrap_socket(plain.socket, server_hostname="localhost")
        return plain

    def test_common_name_is_the_user_name(
        self, secured: Callable[..., Node], tmp_path: Path, certificates: Certificates
    ) -> None:
        """Whatever CONNECT says, the rules are asked about the name in the certificate."""
        (tmp_path / "acl").write_text('allow user "test client" to publish and subscribe #\n')
        started = secured("--tls-identity", "cn", "--acl", "acl")
        with self.wire(started, certificates) as client:
            client.connect("c", username="mallory", password=b"whatever")
            client.subscribe(("a", 0))
            client.send(publish("a", b"1"))
            assert client.expect_published().payload == b"1"

    def test_over_websocket(self, secured: Callable[..., Node], tmp_path: Path, certificates: Certificates) -> None:
        """The same for a client over wss."""
        (tmp_path / "acl").write_text('allow user "test client" to publish and subscribe #\n')
        started = secured("--tls-identity", "cn", "--acl", "acl")
        granted: list[Any] = []
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="c", transport="websockets")
        client.tls_set(str(certificates.authority), str(certificates.client), str(certificates.client_key))
        client.ws_set_options(path="/mqtt")
        client.on_connect = lambda client, *_: client.subscribe("a", 1)
        client.on_subscribe = lambda client, data, mid, reasons, properties: granted.extend(reasons)
        port = int(started.log.wait_for("listening for WebSocket over TLS").rpartition(":")[2])
        client.connect("localhost", port)
        end = time.monotonic() + 30
        while not granted and time.monotonic() < end:
            client.loop(0.1)
        client.disconnect()
        assert [reason.value for reason in granted] == [1]

    def test_behind_a_balancer(self, node: Callable[..., Node], tmp_path: Path, certificates: Certificates) -> None:
        """The same behind a balancer that passes TLS on: the certificate is the client's own."""
        (tmp_path / "acl").write_text('allow user "test client" to publish and subscribe #\n')
        key, shown = certificates.server_key, certificates.server
        door = f"haproxy:ssl:0:interface=127.0.0.1:privateKey={key}:certKey={shown}"
        options = ("--tls-client-ca", str(certificates.authority), "--tls-identity", "cn", "--acl", "acl")
        started = node("--listen", door, "--websocket", "none", *options)
        with self.wire(started, certificates, before=b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n") as client:
            client.connect("c")
            client.subscribe(("a", 0))

    def test_without_a_name_nobody_gets_in(
        self, secured: Callable[..., Node], tmp_path: Path, certificates: Certificates
    ) -> None:
        """A certificate without an alternative name does not name anybody; a password may still do."""
        write_users(tmp_path / "users", alice="one")
        started = secured("--tls-identity", "san", "--passwords", "users")
        for sent, answer in (
            (connect("c"), refusal(5)),
            (connect("c", username="test client"), refusal(4)),
            (connect("c", username="alice", password=b"one"), ACCEPTED),
        ):
            with self.wire(started, certificates) as client:
                client.send(sent)
                assert client.packet() == answer

    def test_optional(self, secured: Callable[..., Node], tmp_path: Path, certificates: Certificates) -> None:
        """Who shows no certificate is asked for a password, and is not welcome without one."""
        write_users(tmp_path / "users", alice="one")
        options = ("--tls-identity", "cn", "--tls-client-certificates", "optional", "--passwords", "users")
        started = secured(*options)
        for known, sent, answer in (
            (True, connect("c"), ACCEPTED),
            (False, connect("c"), refusal(5)),
            (False, connect("c", username="test client"), refusal(4)),
            (False, connect("c", username="alice", password=b"one"), ACCEPTED),
        ):
            with self.wire(started, certificates, known) as client:
                client.send(sent)
                assert client.packet() == answer

    def test_one_that_has_ended(self, secured: Callable[..., Node], tmp_path: Path, certificates: Certificates) -> None:
        """The log says so at the start, for clients only go away; and no more once there is another."""
        (tmp_path / "old").mkdir()
        old = authority.make(tmp_path / "old", days=-1)
        ended = r"--listen \(command line\), ssl:.*: the certificate has ended at "
        (tmp_path / "key.pem").write_bytes(old.server_key.read_bytes())
        (tmp_path / "cert.pem").write_bytes(old.server.read_bytes())
        started = secured()
        started.log.wait_for(ended)
        started.log.wait_for("listening for WebSocket over TLS")
        seen = len(started.log.lines)
        for name, path in (("key.pem", certificates.server_key), ("cert.pem", certificates.server)):
            (tmp_path / name).write_bytes(path.read_bytes())
        hang_up(started)
        with self.wire(started, certificates) as client:
            client.connect("c")
        assert not [line for line in started.log.since(seen) if "has ended" in line]

    def test_hangup(self, secured: Callable[..., Node], tmp_path: Path, certificates: Certificates) -> None:
        """New certificates and authorities are shown and asked for from then on; who is connected stays; a key that
        does not fit leaves the old pair in force."""
        (tmp_path / "other").mkdir()
        other = authority.make(tmp_path / "other")
        started = secured()
        with self.wire(started, certificates).connect("c") as client:
            (tmp_path / "cert.pem").write_bytes(other.server.read_bytes())
            hang_up(started)
            assert "certificates not read again" in str(started.log)
            with self.wire(started, certificates) as again:
                again.connect("d")
            (tmp_path / "key.pem").write_bytes(other.server_key.read_bytes())
            (tmp_path / "ca.pem").write_bytes(other.authority.read_bytes())
            hang_up(started)
            with self.wire(started, other) as again:
                again.connect("e")
            with pytest.raises(ssl.SSLCertVerificationError):
                self.wire(started, certificates)
            client.expect_silence()


def examples() -> dict[str, str]:
    """The Python modules in the documentation, by the file name in their first line."""
    text = (ROOT / "docs" / "authentication.md").read_text()
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL)
    return dict(blocks)


class TestExamples:
    """What docs/authentication.md shows."""

    def test_they_run(self, node: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The authenticator lets in who has a token, beside the password file; the authorizer keeps tenants apart."""
        assert examples().keys() == {"tokens.py", "tenants.py", "knock.py"}
        for name, source in examples().items():
            (tmp_path / name).write_text(source)
        with sqlite3.connect(tmp_path / "tenants.sqlite") as database:
            database.execute("CREATE TABLE members (user TEXT, tenant TEXT)")
            database.execute("INSERT INTO members VALUES ('alice', 'acme')")
        write_users(tmp_path / "users", bob="one")
        (tmp_path / "acl").write_text("allow users to publish and subscribe public/#\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        started = node(
            *LISTEN,
            *("--authenticator", "tokens.Tokens", "--passwords", "users"),
            *("--authorizer", "tenants.Tenants", "--acl", "acl"),
        )
        token = subprocess.run(
            [sys.executable, "-c", "import time, tokens; print(tokens.token('alice', int(time.time()) + 600))"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert log_in(started, "token:alice", b"1:abc") == refusal(4)
        assert log_in(started, "token:alice", token.replace(":", ":x").encode()) == refusal(4)
        assert log_in(started, "bob", b"two") == refusal(4)
        with started.wire() as alice, started.wire() as bob:
            alice.connect("a", username="token:alice", password=token.encode())
            bob.connect("b", username="bob", password=b"one")
            alice.subscribe(("tenants/acme/#", 0), ("public/#", 0))
            bob.send(subscribe(1, ("tenants/acme/x", 0), ("public/#", 0), ("#", 0)))
            assert bob.packet().body == b"\x00\x01\x80\x00\x80"
            bob.send(publish("tenants/acme/x", b"from bob"), publish("public/x", b"from bob"))
            assert alice.expect_published().topic == "public/x"
            alice.send(publish("tenants/acme/x", b"from alice"), publish("tenants/other/x", b"from alice"))
            assert alice.expect_published().topic == "tenants/acme/x"
            alice.expect_silence()


class TestMistakes:
    """What is found before anything listens."""

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"authenticator": ["no_such_module.thing"]}, "no_such_module.thing cannot be used (ModuleNotFoundError"),
            ({"authenticator": ["os.path.nothing"]}, "os.path.nothing cannot be used (AttributeError"),
            ({"authorizer": ["os.getcwd"]}, "os.getcwd cannot be used (TypeError: it does not provide"),
            ({"authorizer": ["noting"]}, "'noting' is no name of a Python object"),
            ({"administrators": ["alice"]}, "anybody can give any name"),
        ],
    )
    def test_access(self, options: dict[str, list[str]], problem: str) -> None:
        """The key, what is wrong, and what to do."""
        loaded = load(options, {}, "/")
        Access.read(loaded)
        (told,) = [str(problem) for problem in loaded.problems]
        assert told.startswith(f"mqttcluster: --{next(iter(options))} (command line): ")
        assert problem in told
