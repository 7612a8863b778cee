"""Password files: who gets in, what a wrong line says, and that unknown names cost as much as wrong passwords."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock

from mqttcluster.broker import passwords
from mqttcluster.broker.auth import AnonymousOnly, Credentials
from mqttcluster.broker.authentication import Chain
from mqttcluster.broker.metrics import Metrics
from mqttcluster.broker.passwords import PasswordFile, PasswordFileError, read_passwords
from mqttcluster.mqtt.reasons import Reason

#: The least work, so that the tests are quick.
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
ALICE = f"alice:{CHEAP.hash('open sesame')}"


def _pbkdf2(name: str, password: bytes) -> str:
    """A line as mosquitto_passwd writes it."""
    salt = b"123456789012"
    digest = hashlib.pbkdf2_hmac("sha512", password, salt, 101)
    return f"{name}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


BOB = _pbkdf2("bob", b"open sesame")


def at_once(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    return execute(function, *args)


def write(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "users"
    path.write_text("\n".join(lines))
    return str(path)


def ask(file: PasswordFile, name: str | None, password: bytes | None, anonymous: bool = False) -> Reason:
    """What a broker answers that has this file and nothing else."""
    answers: list[Reason] = []
    chain = Chain([file], Metrics(0.0), Clock())
    chain.authenticate(Credentials("c", name, password, anonymous, "peer")).addCallback(answers.append)
    (answer,) = answers
    return answer


@pytest.mark.parametrize(
    ("name", "password", "expected"),
    [
        ("alice", b"open sesame", Reason.SUCCESS),
        ("alice", b"open", Reason.BAD_USER_NAME_OR_PASSWORD),
        ("alice", b"", Reason.BAD_USER_NAME_OR_PASSWORD),
        ("alice", None, Reason.BAD_USER_NAME_OR_PASSWORD),
        ("Alice", b"open sesame", Reason.BAD_USER_NAME_OR_PASSWORD),
        ("mallory", b"open sesame", Reason.BAD_USER_NAME_OR_PASSWORD),
        ("", b"open sesame", Reason.BAD_USER_NAME_OR_PASSWORD),
        (None, b"open sesame", Reason.NOT_AUTHORIZED),
        (None, None, Reason.NOT_AUTHORIZED),
    ],
)
def test_who_gets_in(tmp_path: Path, name: str | None, password: bytes | None, expected: Reason) -> None:
    """Only a known name with its password."""
    file = PasswordFile(read_passwords(write(tmp_path, "# users", "", ALICE)), at_once)
    assert ask(file, name, password) is expected


def test_anonymous_clients_where_they_are_welcome(tmp_path: Path) -> None:
    """With --allow-anonymous a client may leave the name out, but not give a wrong password."""
    file = PasswordFile(read_passwords(write(tmp_path, ALICE)), at_once)
    assert ask(file, None, None, anonymous=True) is Reason.SUCCESS
    assert ask(file, "alice", b"wrong", anonymous=True) is Reason.BAD_USER_NAME_OR_PASSWORD
    answers: list[Reason] = []
    for allowed in (True, False):
        AnonymousOnly().authenticate(Credentials("c", None, None, allowed, "p")).addCallback(answers.append)
    assert answers == [Reason.SUCCESS, Reason.NOT_AUTHORIZED]


def test_an_empty_password_that_was_set_counts(tmp_path: Path) -> None:
    """No password is not the same as an empty one."""
    file = PasswordFile(read_passwords(write(tmp_path, f"eve:{CHEAP.hash('')}")), at_once)
    assert ask(file, "eve", b"") is Reason.SUCCESS
    assert ask(file, "eve", None) is Reason.BAD_USER_NAME_OR_PASSWORD


def test_files_of_mosquitto(tmp_path: Path) -> None:
    """A file made by mosquitto_passwd can be used as it is."""
    path = tmp_path / "users"
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(path), "bob", "open sesame"], check=True, capture_output=True)
    file = PasswordFile(read_passwords(str(path)), at_once)
    assert ask(file, "bob", b"open sesame") is Reason.SUCCESS
    assert ask(file, "bob", b"open sesam") is Reason.BAD_USER_NAME_OR_PASSWORD


@pytest.mark.parametrize("line", [ALICE, BOB], ids=["argon2id", "pbkdf2"])
def test_unknown_names_cost_the_same_work(tmp_path: Path, line: str) -> None:
    """The time of a refusal does not tell which names there are: the same kind of hash is computed, with its cost."""
    hashes = read_passwords(write(tmp_path, line))
    asked: list[Any] = []

    def run(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        asked.append(function.__self__)  # type: ignore[attr-defined]
        return execute(function, *args)

    file = PasswordFile(hashes, run)
    ask(file, next(iter(hashes)), b"wrong")
    ask(file, "mallory", b"wrong")
    known, unknown = asked
    assert type(known) is type(unknown)
    assert known is not unknown
    for cost in ("_parameters", "_iterations"):
        assert getattr(known, cost, None) == getattr(unknown, cost, None)
    assert not unknown.fits(b"open sesame")


def test_unknown_names_are_spread_over_the_kinds_of_hashes(tmp_path: Path) -> None:
    """In a file with two kinds of hashes, the time of a refusal does not tell an unknown name from a known one either:
    an unknown name takes the time of this kind or that, each time the same."""
    asked: list[type] = []

    def run(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        asked.append(type(function.__self__))  # type: ignore[attr-defined]
        return execute(function, *args)

    file = PasswordFile(read_passwords(write(tmp_path, ALICE, BOB)), run)
    for _ in range(2):
        for number in range(40):
            ask(file, f"mallory {number}", b"wrong")
    assert asked[:40] == asked[40:]
    assert len(set(asked)) == 2


def test_pbkdf2_line(tmp_path: Path) -> None:
    """PBKDF2 with SHA-512, salt and hash in base64."""
    file = PasswordFile(read_passwords(write(tmp_path, BOB)), at_once)
    assert ask(file, "bob", b"open sesame") is Reason.SUCCESS
    assert ask(file, "bob", b"open") is Reason.BAD_USER_NAME_OR_PASSWORD


def test_few_at_once_and_not_too_many_waiting(tmp_path: Path) -> None:
    """A storm of logins takes a bounded share: some side by side, some waiting, the rest is told to come again."""
    running: list[Deferred[bool]] = []

    def run(function: Callable[[bytes], bool], password: bytes) -> Deferred[bool]:
        running.append(Deferred())
        return running[-1]

    file = PasswordFile(read_passwords(write(tmp_path, ALICE)), run, at_once=2)
    answers: list[Any] = []
    asked = []
    for _ in range(passwords.MAX_WAITING + 3):
        asked.append(file.authenticate(Credentials("c", "alice", b"x", False, "p")).addBoth(answers.append))
    assert len(running) == 2
    assert answers == [Reason.SERVER_BUSY] * 3
    running[0].callback(True)
    assert answers[3:] == [True]
    assert len(running) == 3
    asked[2].cancel()  # who gave up does not make room for one more thread
    assert len(running) == 3
    file.authenticate(Credentials("c", "alice", b"x", False, "p")).addBoth(answers.append)
    assert len(answers) == 5
    file.authenticate(Credentials("c", "alice", b"x", False, "p")).addBoth(answers.append)
    assert answers[5:] == [Reason.SERVER_BUSY]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("alice", "line 2: write name:hash"),
        (":hash", "line 2: write name:hash"),
        ("alice:open sesame", "line 2: the hash is neither"),
        ("alice:$argon2id$nonsense", "line 2: this is no Argon2 hash"),
        ("alice:$argon2id$v=19$m=99999999,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo", "line 2: its memory cost"),
        ("alice:$6$abc$def", "line 2: the hash is neither"),
        ("alice:$7$101$salt", "line 2: this is no hash of mosquitto_passwd"),
        ("alice:$7$x$c2FsdA==$aGFzaA==", "line 2: this is no hash of mosquitto_passwd"),
        ("alice:$7$101$c2FsdA==$aGFzaA==", "line 2: this is no hash of mosquitto_passwd"),
        (f"{ALICE}\n{ALICE}", "line 3: the name is there twice"),
        ("", "holds no user"),
    ],
)
def test_mistakes_name_the_line_and_no_secret(tmp_path: Path, line: str, problem: str) -> None:
    """A file that cannot be used is refused with the number of the line, and without what stands there."""
    with pytest.raises(PasswordFileError) as caught:
        read_passwords(write(tmp_path, "# users", line))
    assert problem in str(caught.value)
    assert "sesame" not in str(caught.value)
    assert "$7$101" not in str(caught.value)


def test_secrets_are_not_in_representations() -> None:
    """A log line with credentials in it has no password."""
    assert "sesame" not in repr(Credentials("c", "alice", b"open sesame", False, "peer"))
