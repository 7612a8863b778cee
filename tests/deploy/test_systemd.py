"""deploy/systemd/mqttcluster.service: read by systemd itself, and started as it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mqttcluster.loading import load
from tests.deploy.files import DEPLOY, twistd

UNIT = DEPLOY / "systemd" / "mqttcluster.service"


@pytest.fixture(scope="module")
def analyze() -> str:
    """The program."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return program


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that is there and a user that exists."""
    text = UNIT.read_text()
    program = shutil.which("true")
    for old, new in (("/opt/mqttcluster/bin/twistd", str(program)), ("User=mqttcluster", "User=root")):
        assert text.count(old) == 1 + (old in text.split("[Unit]")[0])
        text = text.replace(old, new)
    path = tmp_path / UNIT.name
    path.write_text(text)
    return path


def test_systemd_has_nothing_against_it(analyze: str, unit: Path) -> None:
    """Every line is known to systemd and has a value that it can use."""
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    about = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert not about
    assert done.returncode == 0, done.stderr


def test_how_much_it_may_do(analyze: str, unit: Path) -> None:
    """systemd's own measure of what a service could do to its machine: below 2 of 10."""
    command = [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    unit.write_text(unit.read_text().replace("User=root", "User=nobody"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_what_it_starts(tmp_path: Path) -> None:
    """The command line and the environment of the unit are a configuration without problems but the ones of a machine
    on which nothing is installed yet: its files are not there."""
    text = UNIT.read_text()
    [command] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    program, *arguments = command.split()
    assert program == "/opt/mqttcluster/bin/twistd"
    pairs = [
        pair.partition("=") for line in re.findall(r"^Environment=(.*)$", text, re.MULTILINE) for pair in line.split()
    ]
    env = {name: value.replace("/etc/mqttcluster", str(tmp_path)) for name, _, value in pairs}
    shutil.copy(DEPLOY / "mqttcluster.toml", tmp_path)
    loaded = load({}, env, str(tmp_path))
    assert not loaded.problems
    assert loaded.config.passwords == str(tmp_path / "passwords")
    assert loaded.config.listen == ("tcp:1883",)
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in env.items()), *twistd(arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 1, "without its password file it does not listen to the net"
    problems = [line for line in done.stderr.splitlines() if line.startswith("mqttcluster: ")]
    assert problems
    assert all("passwords" in line for line in problems), done.stderr
