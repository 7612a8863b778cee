"""`mqttcluster-passwd` as its user meets it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from mqttcluster.broker.passwords import line, read_passwords

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "mqttcluster.passwd"]


def run(*arguments: str, told: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], input=told, capture_output=True, text=True, cwd=ROOT, timeout=60)


def at_a_terminal(*arguments: str, typed: list[str]) -> tuple[int, str]:
    """Run it at a terminal, and type a line whenever a prompt waits. Returns the status and what was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [*COMMAND, *arguments])
    shown = b""
    lines = iter(typed)
    try:
        while chunk := os.read(terminal, 1000):
            shown += chunk
            if shown.endswith(b": "):
                os.write(terminal, next(lines).encode() + b"\n")
    except OSError:  # the other end of a terminal that is gone
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def fits(path: Path, name: str, password: str) -> bool:
    return read_passwords(str(path))[name].fits(password.encode())


def test_add_change_verify_delete(tmp_path: Path) -> None:
    """The life of a user; what else is in the file stays as it is, and where it is."""
    path = tmp_path / "passwords"
    assert run("add", str(path), "alice", told="one\n").returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("# users\n" + path.read_text() + line("a:b", "x") + "\n")
    path.chmod(0o640)
    assert run("add", str(path), "alice", told="two words\n").returncode == 0
    assert path.stat().st_mode & 0o777 == 0o640
    assert [text.split("$")[0] for text in path.read_text().splitlines()] == ["# users", "alice:", "a:b:"]
    assert fits(path, "alice", "two words")
    assert fits(path, "a:b", "x")
    assert run("verify", str(path), "alice", told="two words\n").returncode == 0
    for name, password in (("alice", "one"), ("bob", "two words")):
        assert run("verify", str(path), name, told=password).returncode == 1
    assert run("delete", str(path), "alice").returncode == 0
    assert [text.split("$")[0] for text in path.read_text().splitlines()] == ["# users", "a:b:"]
    assert run("delete", str(path), "alice").returncode == 1
    assert sorted(os.listdir(tmp_path)) == ["passwords"]


def test_at_a_terminal_it_asks_twice(tmp_path: Path) -> None:
    """What is typed is not shown; two that differ change nothing."""
    path = tmp_path / "passwords"
    status, shown = at_a_terminal("add", str(path), "alice", typed=["one", "one"])
    assert status == 0
    assert "one" not in shown
    assert fits(path, "alice", "one")
    status, shown = at_a_terminal("add", str(path), "alice", typed=["two", "three"])
    assert status == 1
    assert "differ" in shown
    assert fits(path, "alice", "one")
    assert at_a_terminal("verify", str(path), "alice", typed=["one"])[0] == 0


def test_on_the_command_line_only_with_a_warning(tmp_path: Path) -> None:
    """Others on the machine see the arguments of a process."""
    path = tmp_path / "passwords"
    done = run("add", str(path), "alice", "--password", "one")
    assert done.returncode == 0
    assert "can be seen by others" in done.stderr
    assert fits(path, "alice", "one")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("add", "no/such/directory/file", "alice"), "No such file or directory"),
        (("delete", "none", "alice"), "none: No such file or directory"),
        (("verify", "none", "alice"), "cannot read none"),
        (("add", "passwords", "# x"), "a name is one line"),
        (("add", "passwords", ""), "a name is one line"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: tuple[str, ...], problem: str) -> None:
    """What cannot be done is told without a traceback."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input="secret\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert done.returncode == 1
    (told,) = done.stderr.splitlines()
    assert problem in told
    assert "secret" not in done.stdout + done.stderr
    assert os.listdir(tmp_path) == []
