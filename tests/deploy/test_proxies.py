"""Browsers behind the real nginx and the real HAProxy, with the files that are shipped: deploy/nginx.conf, haproxy.cfg.

The files are used as they are, but for addresses, ports, paths and how long they wait for a word.
"""

from __future__ import annotations

import random
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.nodes import at_once, until
from tests.cluster.test_haproxy import haproxy
from tests.deploy.chromium import Chromium
from tests.deploy.files import DEPLOY, DOCS
from tests.deploy.tab import Tab
from tests.interop.test_mqttjs import mqttjs
from tests.support.brokers import Mqttcluster
from tests.support.certificates import Certificates
from tests.support.ports import free_port
from tests.support.process import Broker, Process
from tests.support.wire import PATIENCE, Wire

__all__ = ["haproxy", "mqttjs"]

GUIDE = (DOCS / "browsers.md").read_text()

#: Seconds: for how long the proxies stand silence, and how often the node pings, which is also how long it waits for an
#: answer. Nobody here is to be without a processor for as long.
SILENCE, PING = 12.0, 5.0


@pytest.fixture(scope="module")
def nginx() -> str:
    """The program."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        pytest.skip("nginx is not installed")
    return program


def replaced(text: str, *changes: tuple[str, str, int]) -> str:
    """`text` without its comments and with all these changes; each must apply so often."""
    text = re.sub(r"(?m)^\s*#.*\n", "", text)
    for pattern, replacement, times in changes:
        text, count = re.subn(pattern, replacement, text)
        assert count == times, f"{pattern} is there {count} times"
    return text


class Proxies:
    """One node, and in front of it both. The other two nodes that their files name are down."""

    def __init__(self, nginx: str, haproxy: str, directory: Path, certificates: Certificates) -> None:
        self._net = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}."
        self._ports = {name: free_port() for name in ("mqtt", "plain", "proxied", "admin", "https", "http", "tcp")}
        self._certificates = certificates
        self._directory = directory
        self.context = ssl.create_default_context(cafile=str(certificates.authority))
        at = f"interface={self._net}12"
        listeners = [
            *("--listen", f"tcp:{self._ports['mqtt']}:{at}", "--listen", f"haproxy:tcp:{self._ports['tcp']}:{at}"),
            *("--websocket", f"tcp:{self._ports['plain']}:{at}"),
            *("--websocket", f"haproxy:tcp:{self._ports['proxied']}:{at}"),
            *("--admin", f"tcp:{self._ports['admin']}:{at}", "--allow-anonymous", "--websocket-ping", str(PING)),
        ]
        self.node = Broker(Mqttcluster(certificates, listeners, "memory:"), directory, ())
        self.page = directory / "page"
        self.page.mkdir()
        (self.page / "index.html").write_text("the page")
        (directory / "nginx.conf").write_text(self._nginx())
        (directory / "haproxy.cfg").write_text(self._haproxy())
        #: Debian's nginx writes to a log of its own before it has read the file.
        self.nginx = [nginx, "-e", "stderr", "-c", str(directory / "nginx.conf"), "-g", "daemon off; user root;"]
        self.haproxy = [haproxy, "-db", "-f", str(directory / "haproxy.cfg")]
        self.started: list[Process] = []

    def _nginx(self) -> str:
        return replaced(
            (DEPLOY / "nginx.conf").read_text(),
            (r"10\.83\.0\.(\d+):8083", rf"{self._net}\1:{self._ports['plain']}", 3),
            ("listen 443 ssl", f"listen {self._net}10:{self._ports['https']} ssl", 1),
            ("/etc/nginx/mqtt/tls.crt", str(self._certificates.server), 1),
            ("/etc/nginx/mqtt/tls.key", str(self._certificates.server_key), 1),
            ("/run/nginx.pid", str(self._directory / "nginx.pid"), 1),
            (r"/var/log/nginx/\w+\.log", "/dev/stdout", 2),
            ("/var/www/mqtt", str(self.page), 1),
            (r"timeout 60s", f"timeout {SILENCE:g}s", 2),
        )

    def _haproxy(self) -> str:
        return replaced(
            (DEPLOY / "haproxy.cfg").read_text(),
            (r"10\.83\.0\.(\d+):1883", rf"{self._net}\1:{self._ports['tcp']}", 3),
            (r"10\.83\.0\.(\d+):8083", rf"{self._net}\1:{self._ports['proxied']}", 3),
            ("port 8080", f"port {self._ports['admin']}", 1),
            ("bind :1883", f"bind {self._net}10:{free_port()}", 1),
            ("bind :8083", f"bind {self._net}10:{self._ports['http']}", 1),
            ("timeout tunnel 2m", f"timeout tunnel {SILENCE:g}s", 1),
        )

    def start(self) -> None:
        self.node.start()
        until(lambda: sum("listening for WebSocket" in line for line in self.node.log.since(0)) == 2)
        self.started = [Process(command, self._directory) for command in (self.nginx, self.haproxy)]
        for process, port in zip(self.started, ("https", "http"), strict=True):
            until(lambda process=process, port=port: self._accepts(process, port))  # type: ignore[misc]
        self.started[1].log.wait_for("Server websocket/node1 is DOWN")

    def _accepts(self, process: Process, port: str) -> bool:
        assert process.running, f"it has ended:\n{process.log}"
        try:
            socket.create_connection(self._address(port), 1).close()
        except OSError:
            return False
        return True

    def _address(self, port: str) -> tuple[str, int]:
        return f"{self._net}10", self._ports[port]

    def address(self, port: str) -> str:
        """As in a URL."""
        host, number = self._address(port)
        return f"{host}:{number}"

    def tab(self, proxy: str, path: str = "/mqtt") -> Tab:
        """A tab behind one of them; behind nginx the connection is wss."""
        if proxy == "nginx":
            return Tab(self._address("https"), self.context, path=path)
        return Tab(self._address("http"), path=path)

    def get(self, path: str) -> bytes:
        """What a browser's address bar gets from nginx, head and all."""
        plain = socket.create_connection(self._address("https"), PATIENCE)
        with self.context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            return b"".join(iter(lambda: connection.recv(4096), b""))

    def client(self) -> Wire:
        """Past all proxies."""
        return Wire((f"{self._net}12", self._ports["mqtt"])).connect("past")

    def stop(self) -> None:
        try:
            for process in self.started:
                process.terminate()  # the workers of an nginx that is killed live on
            self.node.stop()
        finally:
            self.node.kill()
        assert not self.node.faults(), f"the log tells of faults:\n{self.node.log}"


@pytest.fixture(scope="module")
def proxies(
    nginx: str, haproxy: str, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Proxies]:
    made = Proxies(nginx, haproxy, tmp_path_factory.mktemp("proxies"), certificates)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_nginx_has_nothing_against_the_file(proxies: Proxies) -> None:
    """The file is read without an error or a warning."""
    checked = subprocess.run([*proxies.nginx[:-1], "user root;", "-t"], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr.replace("could not open error log file", "")


def test_the_page_and_the_broker_have_one_origin() -> None:
    """The file puts both under one server, so that no list of origins is needed."""
    text = (DEPLOY / "nginx.conf").read_text()
    assert text.count("server {") == 1
    assert "X-Forwarded" not in text, "nodes do not look at it"


def test_the_page(proxies: Proxies) -> None:
    """What is no WebSocket is the page, by the same nginx."""
    assert proxies.get("/").endswith(b"the page")


def test_quiet_tabs_stay(proxies: Proxies) -> None:
    """Tabs without a word for longer than their proxies stand silence are still there, and get the next message."""
    with ExitStack() as stack:
        tabs = [stack.enter_context(proxies.tab(proxy).connect(f"quiet-{proxy}")) for proxy in ("nginx", "haproxy")]
        for tab in tabs:
            tab.subscribe("quiet")
        at_once(lambda tab=tab: tab.until(lambda: tab.pings > SILENCE / PING) for tab in tabs)  # type: ignore[misc]
        with proxies.client() as other:
            other.publish("quiet", b"x" * 100_000, qos=1)
        for tab in tabs:
            assert tab.packet().published.payload == b"x" * 100_000


def test_dead_tabs_are_noticed(proxies: Proxies) -> None:
    """Tabs that have gone without a word have their wills published, although their proxies hold the connections."""
    with proxies.client() as other, ExitStack() as stack:
        other.subscribe(("gone/+", 1))
        for proxy in ("nginx", "haproxy"):
            tab = stack.enter_context(proxies.tab(proxy))
            tab.connect(f"dead-{proxy}", will=(f"gone/{proxy}", b"bye", 1, False))
        assert {other.expect_published().topic for _ in range(2)} == {"gone/nginx", "gone/haproxy"}
    for proxy in ("nginx", "haproxy"):
        proxies.node.log.wait_for(f"client dead-{proxy} .*not answered a ping for {PING:g} s")


def test_a_quiet_page_in_chromium(proxies: Proxies, mqttjs: Path) -> None:
    """A real page, from nginx, connected to where it came from as docs/browsers.md tells: it is quiet for longer than
    nginx stands silence, then gets a message, over the connection that it has had from the beginning."""
    [connect] = re.findall(r"^(const client = mqtt.connect\(`wss://.*\))$", GUIDE, re.MULTILINE)
    # MQTT's own keep alive would be a word now and then.
    connect = connect[:-1] + ', { clientId: "chromium", keepalive: 0 })'
    shutil.copy(mqttjs / "dist" / "mqtt.min.js", proxies.page)
    (proxies.page / "quiet.html").write_text(
        f"""<!doctype html><title>waiting</title><script src="mqtt.min.js"></script><script>{connect}
        client.on("connect", () => client.subscribe("chromium", () => {{ document.title = "subscribed" }}))
        client.on("message", (topic, payload) => {{ document.title = payload.toString() }})</script>"""
    )
    chromium = Chromium(f"https://{proxies.address('https')}/quiet.html", certificates=False)
    try:
        chromium.until(lambda: chromium.title() == "subscribed")
        with proxies.tab("nginx").connect("clock") as tab:
            tab.until(lambda: tab.pings > SILENCE / PING)
        with proxies.client() as other:
            other.publish("chromium", b"still here", qos=1)
        chromium.until(lambda: chromium.title() == "still here")
    finally:
        chromium.terminate()
    connected = [line for line in proxies.node.log.since(0) if "client chromium connected" in line]
    assert len(connected) == 1


def test_another_path(proxies: Proxies) -> None:
    """Only /mqtt goes to the nodes; what else there is under the name is the page's."""
    with proxies.tab("nginx", "/mqtt/other") as tab:
        assert tab.refused == 404


def test_a_plain_request_at_the_path(proxies: Proxies) -> None:
    """An address bar at /mqtt gets the node's answer, through nginx as well."""
    answer = proxies.get("/mqtt")
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"MQTT" in answer
