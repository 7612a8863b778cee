"""Enhanced authentication with a real node: its options, its files, and the example of docs/authentication.md."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mqttcluster.access import Access
from mqttcluster.loading import load
from mqttcluster.mqtt.packets import Auth, Connack, Connect
from mqttcluster.mqtt.properties import Prop
from mqttcluster.mqtt.readers import read
from mqttcluster.mqtt.reasons import Reason
from mqttcluster.mqtt.writers import encode
from tests.broker.v5.scram_client import ScramClient
from tests.support.wire import Wire
from tests.test_access import LISTEN, ROOT, Node, examples, hang_up, node

__all__ = ["node"]


def write_verifiers(path: Path, **users: str) -> None:
    """The file, by the command that the documentation names."""
    made = []
    for name, password in users.items():
        command = [sys.executable, "-m", "mqttcluster.broker.scram", name, "4096"]
        run = subprocess.run(command, input=f"{password}\n", cwd=ROOT, capture_output=True, text=True, check=True)
        made.append(run.stdout)
    path.write_text("".join(made))


def answer(wire: Wire) -> Any:
    """The next packet of MQTT 5.0."""
    raw = wire.packet()
    return read(raw[0] >> 4, raw[0] & 0x0F, bytes(raw[2:]), 5)


def properties(method: str, data: bytes) -> dict[int, Any]:
    return {Prop.AUTHENTICATION_METHOD: method, Prop.AUTHENTICATION_DATA: data}


def talk(started: Node, method: str, first: bytes, then: Callable[[bytes], bytes]) -> Connack:
    """CONNECT, one round of AUTH, and what comes of it."""
    with started.wire() as wire:
        wire.send(encode(Connect("c", 5, properties=properties(method, first)), 5))
        challenge = answer(wire)
        assert isinstance(challenge, Auth), challenge
        data = then(challenge.properties[Prop.AUTHENTICATION_DATA])  # type: ignore[arg-type]
        wire.send(encode(Auth(Reason.CONTINUE_AUTHENTICATION, properties(method, data)), 5))
        connack = answer(wire)
        assert isinstance(connack, Connack)
        return connack


def scram(started: Node, name: str, password: str) -> Reason:
    client = ScramClient(name, password)
    connack = talk(started, "SCRAM-SHA-256", client.first(), client.final)
    if connack.reason is Reason.SUCCESS:
        assert client.believes(connack.properties[Prop.AUTHENTICATION_DATA])  # type: ignore[arg-type]
    return connack.reason


def test_scram(node: Callable[..., Node], tmp_path: Path) -> None:
    """Who is in the file gets in, without a method nobody does; SIGHUP brings new users, a broken file changes
    nothing."""
    users = tmp_path / "users"
    write_verifiers(users, alice="one")
    started = node(*LISTEN, "--scram", "users")
    assert scram(started, "alice", "one") is Reason.SUCCESS
    assert scram(started, "alice", "two") is Reason.BAD_USER_NAME_OR_PASSWORD
    assert scram(started, "bob", "one") is Reason.BAD_USER_NAME_OR_PASSWORD
    with started.wire() as wire:
        wire.send(encode(Connect("c", 5, username="alice", password=b"one"), 5))
        assert answer(wire).reason is Reason.BAD_USER_NAME_OR_PASSWORD
    with started.wire() as wire:
        wire.send(encode(Connect("c", 5, properties=properties("PLAIN", b"alice")), 5))
        assert answer(wire).reason is Reason.BAD_AUTHENTICATION_METHOD
    write_verifiers(users, alice="one", bob="one")
    hang_up(started)
    assert scram(started, "bob", "one") is Reason.SUCCESS
    users.write_text("alice\n")
    hang_up(started)
    assert "users, line 1: this is no verifier" in str(started.log)
    assert scram(started, "bob", "one") is Reason.SUCCESS


def test_the_example(node: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The method that docs/authentication.md shows lets in who gives the right answer."""
    (tmp_path / "knock.py").write_text(examples()["knock.py"])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = node(*LISTEN, "--authentication-method", "knock.Knock")
    heard = []
    for said, reason in ((b"It's Fred", Reason.SUCCESS), (b"It's Wilma", Reason.NOT_AUTHORIZED)):
        connack = talk(started, "KNOCK", b"knock knock", lambda data, said=said: heard.append(data) or said)  # type: ignore[misc]
        assert connack.reason is reason
    assert heard == [b"Who is there?"] * 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"scram": ["/no/such/file"]}, "cannot read /no/such/file"),
        ({"authentication-method": ["os.getcwd"]}, "it does not provide mqttcluster.broker.enhanced.IAuthentication"),
    ],
)
def test_mistakes(options: dict[str, list[str]], problem: str) -> None:
    """They are found before anything listens."""
    loaded = load(options, {}, "/")
    Access.read(loaded)
    (told,) = [str(problem) for problem in loaded.problems]
    assert told.startswith(f"mqttcluster: --{next(iter(options))} (command line): ")
    assert problem in told
