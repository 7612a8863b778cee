"""The harness can fail: what it is there to notice, it notices."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support import wire
from tests.support.brokers import ROOT
from tests.support.ports import free_port
from tests.support.process import TCP, Broker


class Script:
    """A broker that is a few lines of Python."""

    offers = frozenset({TCP})

    def __init__(self, script: str) -> None:
        self._script = script

    def command(self, run: Path, ports: Mapping[str, int | str]) -> Sequence[str]:
        return [sys.executable, "-c", self._script]

    def ready(self, line: str) -> Mapping[str, int | str]:
        return {TCP: 1234} if line == "ready" else {}


def test_a_broker_that_ends_at_once(tmp_path: Path) -> None:
    """The failure shows what the broker had to say."""
    broker = Broker(Script("print('no such store'); exit(1)"), tmp_path, [TCP])
    with pytest.raises(AssertionError, match=r"(?s)ended before it opened.*no such store"):
        broker.start()


def test_a_broker_that_does_not_open(tmp_path: Path) -> None:
    """A broker that never listens is ended after the deadline."""
    broker = Broker(Script("__import__('signal').pause()"), tmp_path, [TCP])
    with pytest.raises(AssertionError, match="has not opened"):
        broker.start(deadline=0.2)


def test_a_port_stays_free() -> None:
    """Nobody answers at it or can have it by chance; a server that names it gets it, as often as it is started."""
    port = free_port()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(OSError, match="in use"):
            socket.socket().bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)):
            socket.create_connection(("127.0.0.1", port)).close()


def test_faults_in_the_log(tmp_path: Path) -> None:
    """A traceback in the log is found, from the line on that a test began at."""
    broker = Broker(Script("print('ready\\nUnhandled Error\\nlast'); __import__('signal').pause()"), tmp_path, [TCP])
    broker.start()
    broker.log.wait_for("^last$")
    broker.stop()
    assert broker.faults() == ["Unhandled Error"]
    assert broker.faults(since=2) == []


@pytest.mark.parametrize(("ci", "outcome"), [("true", "1 failed"), ("", "1 skipped")])
@pytest.mark.parametrize(
    "skip", ["def test(): pytest.skip('no tool')", "pytest.skip('no tool', allow_module_level=True)"]
)
def test_nothing_is_skipped_in_ci(tmp_path: Path, skip: str, ci: str, outcome: str) -> None:
    """With CI=true a skipped test, or a skipped module, is a failure that tells the reason."""
    (tmp_path / "test_skip.py").write_text(f"import pytest\n{skip}\n")
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "tests.conftest", "--rootdir", str(tmp_path), str(tmp_path)]
    env = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert outcome in done.stdout.replace("1 error", "1 failed"), done.stdout
    assert "no tool" in done.stdout


def test_framer_cuts_at_any_byte() -> None:
    """The test client finds the same packets however the bytes are cut."""
    packets = [wire.publish("a", b"x" * size, 1, 7) for size in (0, 121, 122, 123, 20_000)] + [wire.PINGRESP_PACKET]
    stream = b"".join(packets)
    for size in (1, 2, 3, 7, 1000, len(stream)):
        framer = wire.Framer()
        found = [packet for at in range(0, len(stream), size) for packet in framer.feed(stream[at : at + size])]
        assert found == packets
        assert framer.buffer == b""
