"""The real haproxy with the file that is shipped, deploy/haproxy.cfg, in front of three real nodes on one Redis.

The file is used as it is, but for its addresses and ports: those are moved to free ones of the loopback interface.
"""

from __future__ import annotations

import random
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.nodes import until
from tests.cluster.redis_server import RedisServer
from tests.interop.test_paho import DEADLINE, Client
from tests.support.brokers import ROOT, Mqttcluster
from tests.support.certificates import Certificates
from tests.support.ports import free_port
from tests.support.process import WEBSOCKET, Broker, Process
from tests.support.wire import Wire

CONFIG = ROOT / "deploy" / "haproxy.cfg"
NODES = ("node1", "node2", "node3")
MQTT, WEB, ADMIN = "1883", "8083", "8080"


@pytest.fixture(scope="module")
def haproxy() -> str:
    """The program."""
    program = shutil.which("haproxy") or shutil.which("/usr/sbin/haproxy")
    if program is None:
        pytest.skip("haproxy is not installed")
    return program


class Balanced:
    """Three nodes, and the balancer in front of them."""

    def __init__(self, program: str, directory: Path, certificates: Certificates) -> None:
        # An address for the balancer and one for each node, with the same ports, as in the file.
        self._net = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}."
        self._ports = {name: str(free_port()) for name in (MQTT, WEB, ADMIN)}
        self._program = program
        self._directory = directory
        (directory / "redis").mkdir()
        self.redis = RedisServer(directory / "redis", fsync="no")
        self.nodes = {}
        for number, name in enumerate(NODES, 11):
            run = directory / name
            run.mkdir()
            where = f"interface={self._net}{number}"
            options = ["--listen", f"haproxy:tcp:{self._ports[MQTT]}:{where}", "--allow-anonymous"]
            options += ["--websocket", f"haproxy:tcp:{self._ports[WEB]}:{where}"]
            options += ["--admin", f"tcp:{self._ports[ADMIN]}:{where}"]
            self.nodes[name] = Broker(Mqttcluster(certificates, options, self.redis.url, name), run, ())
        self.balancer: Process | None = None

    def config(self) -> str:
        """The file, with the addresses and ports of this test."""
        text = CONFIG.read_text()
        for pattern, replacement, times in (
            (r"10\.83\.0\.(?=\d)", self._net, 6),
            (r"(?<=bind ):", f"{self._net}10:", 2),
            (r"(?<=\d:)1883\b", self._ports[MQTT], 4),
            (r"(?<=\d:)8083\b", self._ports[WEB], 4),
            (r"(?<=port )8080\b", self._ports[ADMIN], 1),
        ):
            text, count = re.subn(f"(?m)^(?![ ]*#)(.*?){pattern}", rf"\g<1>{replacement}", text)
            assert count == times, f"{pattern} is {count} times in {CONFIG}"
        return text

    def address(self, port: str) -> tuple[str, int]:
        """Of the balancer."""
        return f"{self._net}10", int(self._ports[port])

    def start_node(self, name: str) -> None:
        node = self.nodes[name]
        seen = sum("listening for WebSocket" in line for line in node.log.lines)
        node.start()
        until(lambda: sum("listening for WebSocket" in line for line in node.log.lines) > seen)

    def start(self) -> None:
        self.redis.start()
        for name in NODES:
            self.start_node(name)
        config = self._directory / "haproxy.cfg"
        config.write_text(self.config())
        self.balancer = Process([self._program, "-db", "-f", str(config)], self._directory)
        until(lambda: self._accepts(MQTT) and self._accepts(WEB))

    def _accepts(self, port: str) -> bool:
        assert self.balancer is not None
        assert self.balancer.running, f"haproxy has ended:\n{self.balancer.log}"
        try:
            socket.create_connection(self.address(port), 1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        try:
            if self.balancer is not None:
                self.balancer.kill()
            for node in self.nodes.values():
                node.stop()
        finally:
            for node in self.nodes.values():
                node.kill()
            self.redis.stop()
        for name, node in self.nodes.items():
            assert not node.faults(), f"the log of {name} tells of faults:\n{node.log}"

    def connect(self, client_id: str) -> Wire:
        """An MQTT client through the balancer."""
        return Wire(self.address(MQTT)).connect(client_id)

    def connect_to(self, node: str, client_id: str, stack: ExitStack) -> Wire:
        """A client of this node. The balancer chooses; a node that it has taken for down comes back in a moment."""
        clients: list[Wire] = []

        def there() -> bool:
            name = f"{client_id}{len(clients) or ''}"
            clients.append(stack.enter_context(self.connect(name)))
            return self.where(name, clients[-1].socket) == node

        until(there)
        return clients[-1]

    def where(self, client_id: str, connection: socket.socket) -> str:
        """The node that has this client, by its log, under the address that the client has."""
        host, port = connection.getsockname()
        line = f"client {client_id} connected from {host}:{port}: "
        found: list[str] = []

        def logged() -> bool:
            found[:] = [name for name, node in self.nodes.items() if any(line in each for each in node.log.since(0))]
            return bool(found)

        until(logged)
        [name] = found
        return name


@pytest.fixture(scope="module")
def balanced(
    haproxy: str, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Balanced]:
    made = Balanced(haproxy, tmp_path_factory.mktemp("balanced"), certificates)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_the_file_is_valid(haproxy: str) -> None:
    """haproxy has nothing to say against the file as it is shipped."""
    checked = subprocess.run([haproxy, "-c", "-f", str(CONFIG)], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


def test_clients_are_spread(balanced: Balanced) -> None:
    """MQTT clients come to all nodes, which know their addresses, and are clients of one broker nevertheless."""
    with ExitStack() as stack:
        clients = [balanced.connect_to(node, f"spread-{node}-{n}-", stack) for node in NODES for n in range(2)]
        for client in clients:
            client.subscribe(("spread", 1))
        clients[0].send(b"\x32\x0c\x00\x06spread\x00\x01hi")
        for client in clients[1:]:
            assert client.expect_published().payload == b"hi"


def test_websocket(balanced: Balanced) -> None:
    """The same over WebSocket, to and from an MQTT client, with the address of the browser's side in the log."""
    client = Client("web", transport=WEBSOCKET)
    client.connect(*balanced.address(WEB))
    connection = client.paho.socket()
    plain = getattr(connection, "_socket", connection)
    balanced.where("web", plain)
    client.subscribe("web/#", 1)
    with balanced.connect("notweb") as other:
        other.publish("web/a", b"x" * 100_000, qos=1)
        assert client.messages.get(timeout=DEADLINE).payload == b"x" * 100_000
        other.subscribe(("plain", 1))
        client.publish("plain", b"y", 1)
        assert other.expect_published().payload == b"y"
    client.leave()


def test_a_node_is_taken_out(balanced: Balanced) -> None:
    """While a node is stopped its clients find another, at once and with their sessions; back again it gets clients."""
    with ExitStack() as stack:
        leaver = balanced.connect_to("node1", "leaver", stack)
        kept = stack.enter_context(Wire(balanced.address(MQTT)))
        kept.connect("out-kept", clean=False)
        kept.subscribe(("out", 1))
        kept.disconnect()

        assert balanced.balancer is not None
        log = balanced.balancer.log
        seen = len(log.lines)

        def said(line: str) -> bool:
            return any(line in each for each in log.since(seen))

        balanced.nodes["node1"].stop()
        leaver.expect_closed()
        others = [stack.enter_context(balanced.connect(f"others{number}")) for number in range(4)]
        for number, client in enumerate(others):
            assert balanced.where(f"others{number}", client.socket) in ("node2", "node3")
        others[0].publish("out", b"kept", qos=1)
        back = stack.enter_context(Wire(balanced.address(MQTT)))
        back.connect("out-kept", clean=False, present=True)
        assert back.expect_published().payload == b"kept"

        until(lambda: said("Server mqtt/node1 is DOWN") and said("Server websocket/node1 is DOWN"))
        balanced.start_node("node1")
        until(lambda: said("Server mqtt/node1 is UP") and said("Server websocket/node1 is UP"))
        balanced.connect_to("node1", "again", stack).expect_silence()


@pytest.mark.parametrize("what", ["nothing", "garbage"])
def test_who_is_no_client(balanced: Balanced, what: str) -> None:
    """Bytes that are no MQTT, and none at all, come to an end through the balancer as well."""
    said: Callable[[socket.socket], None] = {
        "nothing": lambda connection: connection.shutdown(socket.SHUT_WR),
        "garbage": lambda connection: connection.sendall(b"GET / HTTP/1.0\r\n\r\n"),
    }[what]
    with socket.create_connection(balanced.address(MQTT), DEADLINE) as connection:
        said(connection)
        assert connection.recv(100) == b""
