"""mosquitto_pub and mosquitto_sub, the tools everybody has at hand."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import until
from tests.support.certificates import Certificates
from tests.support.process import TCP, TLS, UNIX, Broker, Process
from tests.support.wire import PATIENCE

VERSIONS = ["mqttv31", "mqttv311", "mqttv5"]
DEADLINE = PATIENCE


class Tools:
    """The two commands, pointed at one broker."""

    def __init__(self, broker: Broker, certificates: Certificates, run: Path) -> None:
        self._broker, self._certificates, self._run = broker, certificates, run
        self.started: list[Process] = []

    def _where(self, listener: str) -> list[str]:
        port = str(self._broker.ports[listener])
        if listener == UNIX:
            return ["--unix", port]
        where = ["-h", self._broker.host, "-p", port]
        return [*where, "--cafile", str(self._certificates.authority)] if listener == TLS else where

    def pub(self, *arguments: str, listener: str = TCP) -> None:
        """Publish and wait until mosquitto_pub is satisfied."""
        command = ["mosquitto_pub", *self._where(listener), *arguments]
        subprocess.run(command, input="", text=True, check=True, timeout=DEADLINE, capture_output=True)

    def pub_numbers(self, count: int, *arguments: str) -> None:
        """Start to publish the numbers below `count`, line by line over one connection.

        Whoever hears them knows when it is done; mosquitto_pub does not always. It reads in one thread and sends in
        another, and waits for ever when the last line has gone before it finds that there is no other (2.0.11, once in
        150 times)."""
        (self._run / "numbers").write_text("".join(f"{n}\n" for n in range(count)))
        command = ["mosquitto_pub", *self._where(TCP), *arguments, "-l"]
        self.started.append(Process(["sh", "-c", 'exec "$@" <numbers', "sh", *command], self._run))

    def sub(self, *arguments: str, listener: str = TCP, shown: str = "%t %q %r %p") -> Process:
        """Start mosquitto_sub; its log tells what it does, messages as lines with MESSAGE and what is to be `shown`."""
        options = ["-d", "-F", f"MESSAGE {shown}"]
        process = Process(["stdbuf", "-oL", "mosquitto_sub", *self._where(listener), *options, *arguments], self._run)
        self.started.append(process)
        return process

    def subscribed(self, *arguments: str, listener: str = TCP, shown: str = "%t %q %r %p") -> Process:
        """As `sub`, and wait for SUBACK."""
        process = self.sub(*arguments, listener=listener, shown=shown)
        process.log.wait_for("^Subscribed")
        return process


def messages(process: Process) -> list[str]:
    """What it received, once it has ended by itself: topic, QoS, retain flag, payload."""
    assert process.wait(DEADLINE) == 0
    return [line.removeprefix("MESSAGE ") for line in process.log.since(0) if line.startswith("MESSAGE ")]


@pytest.fixture
def tools(shared_broker: Broker, certificates: Certificates, tmp_path: Path) -> Iterator[Tools]:
    for name in ("mosquitto_pub", "mosquitto_sub", "stdbuf"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    tools = Tools(shared_broker, certificates, tmp_path)
    yield tools
    for process in tools.started:
        if process.running:
            process.kill()


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_hundred_lines(tools: Tools, version: str, qos: int) -> None:
    """What is published line by line arrives in order at the QoS agreed."""
    topic = f"mosquitto/{version}/{qos}"
    sub = tools.subscribed("-V", version, "-q", str(qos), "-t", topic, "-C", "100")
    tools.pub_numbers(100, "-V", version, "-q", str(qos), "-t", topic)
    assert messages(sub) == [f"{topic} {qos} 0 {n}" for n in range(100)]


@pytest.mark.parametrize("version", VERSIONS)
def test_retained(tools: Tools, version: str) -> None:
    """Retained messages greet later subscribers until they are cleared."""
    topic = f"mosquitto/retained/{version}"
    for qos in (0, 1, 2):
        tools.pub("-V", version, "-q", str(qos), "-t", f"{topic}/{qos}", "-m", "here", "-r")
    found = messages(tools.sub("-V", version, "-q", "2", "-t", f"{topic}/#", "-C", "3"))
    assert sorted(found) == [f"{topic}/{qos} {qos} 1 here" for qos in (0, 1, 2)]
    for qos in (0, 1):
        tools.pub("-V", version, "-t", f"{topic}/{qos}", "-q", "1", "-n", "-r")
    assert messages(tools.sub("-V", version, "-q", "2", "-t", f"{topic}/#", "-C", "1")) == [f"{topic}/2 2 1 here"]


@pytest.mark.parametrize("version", VERSIONS)
def test_will(tools: Tools, version: str) -> None:
    """A killed subscriber's will is published, live and retained."""
    topic = f"mosquitto/will/{version}"
    watcher = tools.subscribed("-V", version, "-q", "1", "-t", topic, "-C", "1")
    will = ["--will-topic", topic, "--will-payload", "gone", "--will-qos", "1", "--will-retain"]
    tools.subscribed("-V", version, "-t", "mosquitto/other", *will).kill()
    assert messages(watcher) == [f"{topic} 1 0 gone"]
    assert messages(tools.sub("-V", version, "-q", "1", "-t", topic, "-C", "1")) == [f"{topic} 1 1 gone"]


@pytest.mark.parametrize("version", VERSIONS)
def test_persistent_session(tools: Tools, version: str) -> None:
    """A subscriber with -c finds, in order, what was published at QoS 1 and 2 while it was away."""
    topic = f"mosquitto/away/{version}"
    session = ["-V", version, "-c", "-i", f"away-{version}", "-q", "2", "-t", topic]
    session += ["-x", "300"] if version == "mqttv5" else []
    # -E: leave after the subscription was acknowledged.
    assert messages(tools.sub(*session, "-E")) == []
    tools.pub("-V", version, "-q", "1", "-t", topic, "-m", "one")
    for text in ("two", "three"):
        tools.pub("-V", version, "-q", "2", "-t", topic, "-m", text)
    assert messages(tools.sub(*session, "-C", "3")) == [f"{topic} 1 0 one", f"{topic} 2 0 two", f"{topic} 2 0 three"]


@pytest.mark.parametrize("listener", [TLS, UNIX])
def test_other_listeners(tools: Tools, listener: str) -> None:
    """Over TLS, with our authority trusted and the host name checked, and over a UNIX socket."""
    topic = f"mosquitto/{listener}"
    sub = tools.subscribed("-q", "2", "-t", topic, "-C", "1", listener=listener)
    tools.pub("-q", "2", "-t", topic, "-m", "x" * 50_000, listener=listener)
    assert messages(sub) == [f"{topic} 2 0 {'x' * 50_000}"]


def test_larger_than_a_packet_buffer(tools: Tools, tmp_path: Path) -> None:
    """A file of nearly one megabyte arrives as it was."""
    content = "0123456789abcdef" * 60_000
    (tmp_path / "file").write_text(content)
    sub = tools.subscribed("-q", "1", "-t", "mosquitto/file", "-C", "1")
    tools.pub("-q", "1", "-t", "mosquitto/file", "-f", str(tmp_path / "file"))
    assert messages(sub) == [f"mosquitto/file 1 0 {content}"]


SAID = [
    *("-D", "publish", "content-type", "text/plain"),
    *("-D", "publish", "response-topic", "answers"),
    *("-D", "publish", "correlation-data", "question-7"),
    *("-D", "publish", "payload-format-indicator", "1"),
    *("-D", "publish", "message-expiry-interval", "1000"),
    *("-D", "publish", "user-property", "k", "2"),
    *("-D", "publish", "user-property", "k", "1"),
]
SHOWN = "%C|%R|%D|%F|%P|%S|%p"


@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_properties(tools: Tools, qos: str, retain: bool) -> None:
    """All that MQTT 5.0 lets a publisher say arrives, with the identifier of the subscription that brought it."""
    topic = f"mosquitto/properties/{qos}/{retain}"
    wanted = ["-V", "mqttv5", "-q", "2", "-t", topic, "-C", "1", "-D", "subscribe", "subscription-identifier", "77"]
    said = ["-V", "mqttv5", "-q", qos, "-t", topic, "-m", "here", *SAID]
    if retain:
        tools.pub(*said, "-r")
        sub = tools.sub(*wanted, shown=SHOWN)
    else:
        sub = tools.subscribed(*wanted, shown=SHOWN)
        tools.pub(*said)
    assert messages(sub) == ["text/plain|answers|question-7|1|k:2 k:1|77|here"]


def test_properties_of_a_will(tools: Tools) -> None:
    """A will carries them as well, and comes after its delay, here the end of its session."""
    topic = "mosquitto/will/properties"
    watcher = tools.subscribed("-V", "mqttv5", "-q", "1", "-t", topic, "-C", "1", shown=SHOWN)
    will = ["--will-topic", topic, "--will-payload", "gone", "--will-qos", "1", "-D", "will", "content-type", "text"]
    will += ["-D", "will", "user-property", "k", "v", "-D", "will", "will-delay-interval", "60"]
    tools.subscribed("-V", "mqttv5", "-t", "mosquitto/other", *will).kill()
    assert messages(watcher) == ["text||||k:v||gone"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_versions_hear_each_other(tools: Tools, version: str, qos: str) -> None:
    """What MQTT 5.0 says with properties reaches clients of each version, and theirs reaches it."""
    topic = f"mosquitto/versions/{version}/{qos}"
    older = tools.subscribed("-V", version, "-q", "2", "-t", topic, "-C", "2")
    newer = tools.subscribed("-V", "mqttv5", "-q", "2", "-t", topic, "-C", "2")
    tools.pub("-V", "mqttv5", "-q", qos, "-t", topic, "-m", "new", *SAID)
    tools.pub("-V", version, "-q", qos, "-t", topic, "-m", "old")
    expected = [f"{topic} {qos} 0 new", f"{topic} {qos} 0 old"]
    assert messages(older) == messages(newer) == expected


def test_a_shared_subscription(tools: Tools) -> None:
    """Two subscribers share what is published; together they get all of it, once."""
    wanted = [
        "-V",
        "mqttv5",
        "-q",
        "1",
        "-t",
        "$share/group/mosquitto/shared",
        "-t",
        "mosquitto/shared/end",
    ]
    subs = [tools.subscribed(*wanted) for _ in range(2)]
    tools.pub_numbers(50, "-V", "mqttv5", "-q", "1", "-t", "mosquitto/shared")

    def found() -> list[str]:
        lines = [line for sub in subs for line in sub.log.since(0)]
        return [line.split()[-1] for line in lines if line.startswith("MESSAGE mosquitto/shared ")]

    # A slow one may have some of them still to come when the end is published, by somebody else.
    until(lambda: len(found()) >= 50)
    tools.pub("-q", "1", "-t", "mosquitto/shared/end", "-m", "end")
    for sub in subs:
        sub.log.wait_for("^MESSAGE mosquitto/shared/end")
    assert sorted(found(), key=int) == [str(n) for n in range(50)]


def test_a_message_that_expires(tools: Tools) -> None:
    """A retained message that has had its time greets nobody; one that has time left says how much."""
    topic = "mosquitto/expiry"
    tools.pub(
        "-V", "mqttv5", "-t", f"{topic}/long", "-m", "here", "-r", "-D", "publish", "message-expiry-interval", "500"
    )
    tools.pub(
        "-V", "mqttv5", "-t", f"{topic}/none", "-m", "gone", "-r", "-D", "publish", "message-expiry-interval", "0"
    )
    [seen] = messages(tools.sub("-V", "mqttv5", "-t", f"{topic}/#", "-C", "1", shown="%t %E"))
    name, left = seen.split()
    assert name == f"{topic}/long"
    assert 400 < int(left) <= 500
