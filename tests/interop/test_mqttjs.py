"""MQTT.js, in Node over TCP and WebSocket, and in a headless Chromium over WebSocket.

The conversation itself is js/conversation.mjs; here it is started, and what it saw is compared.
"""

from __future__ import annotations

import fcntl
import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.deploy.chromium import Chromium
from tests.support.process import TCP, WEBSOCKET, Broker

JS = Path(__file__).with_name("js")
COUNT = 100
#: Seconds; only a test that has failed waits as long, for another program to start and to do a lot.
LONG = 120


def require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@pytest.fixture(scope="session")
def mqttjs() -> Path:
    """The directory with MQTT.js, installed as its lock file says. Several test processes wait for each other."""
    require("node", "npm")
    modules, lock = JS / "node_modules", JS / "package-lock.json"
    stamp = modules / ".installed"
    with lock.open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
            command = ["npm", "ci", "--ignore-scripts", "--silent"]
            done = subprocess.run(command, cwd=JS, capture_output=True, text=True, timeout=LONG, check=False)
            assert done.returncode == 0, f"npm ci failed:\n{done.stdout}{done.stderr}"
            stamp.write_bytes(lock.read_bytes())
    return modules / "mqtt"


def check(result: dict[str, Any], name: str) -> None:
    """What any MQTT client sees in this conversation."""
    assert result["granted"] == [2]
    for qos in (0, 1, 2):
        topic = f"{name}/qos/{qos}"
        assert [m for m in result["live"] if m[0] == topic] == [[topic, str(n), qos, False] for n in range(COUNT)]
    assert result["retained"] == [[f"{name}/retained", "kept", 1, True]]
    assert [m[1] for m in result["away"] if m[2] == 1] == [str(n) for n in range(1, COUNT, 2)]
    assert [m[1] for m in result["away"] if m[2] == 2] == [str(n) for n in range(0, COUNT, 2)]
    assert result["large"] == [[f"{name}/large", 300_000, 1, False]]
    assert result["will"] == [[f"{name}/will", "gone", 1, False]]


def check_properties(result: dict[str, Any], name: str) -> None:
    """What a client of MQTT 5.0 sees beside that."""
    said = {"contentType": "text", "responseTopic": "answers", "correlationData": "0,255,7"}
    assert result["properties"] == {**said, "userProperties": [["k", "2"], ["k", "1"]], "subscriptionIdentifier": 5}
    assert result["assigned"] > 0
    assert result["removed"] == [0, 17]
    assert result["refused"] == ["sent away", 142]


def url_of(broker: Broker, transport: str) -> str:
    if transport not in broker.ports:
        pytest.skip(f"this broker does not offer {transport}")
    scheme, path = ("ws", "/mqtt") if transport == WEBSOCKET else ("mqtt", "")
    return f"{scheme}://{broker.host}:{broker.ports[transport]}{path}"


@pytest.mark.parametrize("version", [3, 4, 5], ids=["3.1", "3.1.1", "5.0"])
@pytest.mark.parametrize("transport", [TCP, WEBSOCKET])
def test_node(shared_broker: Broker, mqttjs: Path, transport: str, version: int) -> None:
    """MQTT.js in Node publishes, subscribes, leaves, returns and vanishes, and sees what it should."""
    name = f"node-{transport}-{version}"
    command = ["node", str(JS / "node.mjs"), url_of(shared_broker, transport), name, str(version)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    check(result, name)
    if version == 5:
        check_properties(result, name)


class Page(http.server.BaseHTTPRequestHandler):
    """Serves the page and its two scripts, and takes its result."""

    def __init__(self, results: queue.Queue[dict[str, Any]], mqttjs: Path, *args: Any) -> None:
        self.results = results
        self.files = {
            "/": (JS / "browser.html", "text/html"),
            "/conversation.mjs": (JS / "conversation.mjs", "text/javascript"),
            "/mqtt.min.js": (mqttjs / "dist" / "mqtt.min.js", "text/javascript"),
        }
        super().__init__(*args)

    def do_GET(self) -> None:
        path, kind = self.files.get(self.path.partition("?")[0], (None, ""))
        if path is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(path.read_bytes())

    def do_POST(self) -> None:
        self.results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def page(mqttjs: Path) -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    """The address of the page, and where its results arrive."""
    results: queue.Queue[dict[str, Any]] = queue.Queue()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Page, results, mqttjs))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", results
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5.0"])
def test_browser(shared_broker: Broker, page: tuple[str, queue.Queue[dict[str, Any]]], version: int) -> None:
    """A page in Chromium does the same over WebSocket: browsers check the subprotocol and mask their frames."""
    address, results = page
    name = f"browser-{version}"
    query = urlencode({"url": url_of(shared_broker, WEBSOCKET), "name": name, "version": version})
    chromium = Chromium(f"{address}?{query}")
    try:
        result = results.get(timeout=LONG)
    except queue.Empty:
        pytest.fail(f"the page reported nothing; chromium wrote:\n{chromium.process.log}")
    finally:
        chromium.terminate()
    assert "error" not in result, result
    check(result, name)
    if version == 5:
        check_properties(result, name)
