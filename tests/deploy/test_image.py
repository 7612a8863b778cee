"""deploy/Dockerfile without a container engine: linted, and its instructions followed step by step on this machine.

The image itself is not built. What it would hold is: the files that it copies are installed into an environment of
their own, and its entry point and health check run from there, under the user of the image, as process 1.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.files import COMPOSE, DEPLOY, Image
from tests.support.brokers import ROOT
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.wire import Wire


def test_the_linter(tmp_path: Path) -> None:
    """hadolint has nothing to say."""
    program = shutil.which("hadolint", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [program, str(DEPLOY / "Dockerfile")], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_plain_images() -> None:
    """Everything is made of images that any engine finds by their name."""
    named = [rest.split()[0] for word, rest in Image().instructions if word == "FROM"]
    named += [line.split()[1] for line in COMPOSE.read_text().splitlines() if line.strip().startswith("image:")]
    for name in named:
        repository, _, tag = name.partition(":")
        assert "/" not in repository
        assert "." not in repository
        assert tag not in ("", "latest") or repository == "mqttcluster", name


def ignored(path: str) -> bool:
    """Whether the build does not get this file of the repository. The last pattern that matches decides."""
    verdict = False
    for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.lstrip("!")
        parts = [path, *(str(parent) for parent in Path(path).parents)]
        plain = pattern.removeprefix("**/")
        if any(fnmatch.fnmatch(each, pattern) for each in parts) or (
            plain != pattern and any(fnmatch.fnmatch(name, plain) for name in Path(path).parts)
        ):
            verdict = not line.startswith("!")
    return verdict


class Built:
    """The image in a directory: what its build copies and installs."""

    def __init__(self, directory: Path) -> None:
        self.image = Image()
        self.source, self.venv, self.state = directory / "src", directory / "venv", directory / "state"
        self._copy(directory)
        [build] = [rest for word, rest in self.image.instructions if word == "RUN" and "pip install" in rest]
        steps = build.replace("/opt/mqttcluster", str(self.venv)).replace("pip install", "pip install --no-deps")
        first, _, rest = steps.partition(" && ")
        self._run(first)
        # What the broker needs is taken from the environment of the tests, not from the network.
        [packages] = self.venv.glob("lib/*/site-packages")
        (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
        script = f"#!{self.venv}/bin/python\nfrom twisted.scripts.twistd import run\nrun()\n"
        (self.venv / "bin" / "twistd").write_text(script)
        (self.venv / "bin" / "twistd").chmod(0o755)
        self._run(rest)
        self.state.mkdir()

    def _copy(self, directory: Path) -> None:
        self.source.mkdir()
        self.config = directory / "mqttcluster.toml"
        for word, rest in self.image.instructions:
            if word != "COPY" or rest.startswith("--from"):
                continue
            *names, target = rest.split()
            for name in names:
                files = [ROOT / name] if (ROOT / name).is_file() else sorted((ROOT / name).rglob("*"))
                for file in files:
                    relative = str(file.relative_to(ROOT))
                    if not file.is_file() or ignored(relative):
                        continue
                    there = self.config if target.startswith("/etc") else self.source / relative
                    there.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, there)
        assert self.config.exists()

    def _run(self, steps: str) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MQTTCLUSTER"))}
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        done = subprocess.run(
            ["sh", "-euc", steps], cwd=self.source, env=env, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def environment(self, **more: str) -> list[str]:
        env = {**self.image.env, "MQTTCLUSTER_CONFIG": str(self.config), **more}
        env["PATH"] = env["PATH"].replace("/opt/mqttcluster", str(self.venv)).replace("$PATH", os.environ["PATH"])
        return ["env", "-i", *(f"{name}={value}" for name, value in env.items())]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    made = Built(tmp_path_factory.mktemp("image"))
    yield made
    shutil.rmtree(made.venv)


def test_what_the_build_leaves(built: Built) -> None:
    """The broker is installed from the copied files alone, twistd has its list of plugins beside them, and there is no
    pip in the image."""
    [packages] = built.venv.glob("lib/*/site-packages")
    assert (packages / "mqttcluster" / "tap.py").exists()
    assert (packages / "twisted" / "plugins" / "dropin.cache").exists()
    assert not (packages / "pip").exists()
    assert not (built.source / "tests").exists()


def test_what_it_refuses(built: Built) -> None:
    """A container that is started without a word listens to the net, so it ends with a line that says what it needs."""
    command = [*built.environment(), *built.image.entrypoint]
    done = subprocess.run(command, cwd=built.state, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "--allow-anonymous" in done.stderr or "allow-anonymous" in done.stderr
    assert not list(built.state.iterdir())


def test_process_1(built: Built) -> None:
    """As process 1, under the user of the image, with a root that is read-only but for its state: it starts, the
    health check is content, clients are served, and SIGTERM ends it in order."""
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make namespaces and mounts")
    port, admin = free_port(), free_port()
    user, _, group = built.image.one("USER").partition(":")
    changes = {
        "MQTTCLUSTER_LISTEN": f"tcp:{port}:interface=127.0.0.1",
        "MQTTCLUSTER_WEBSOCKET": "none",
        "MQTTCLUSTER_ADMIN": f"tcp:{admin}:interface=127.0.0.1",
    }
    environment = built.environment(**changes)
    state = str(built.state)
    # Files of the user who runs the tests belong, inside, to the user of the image.
    as_user = ["unshare", "--user", f"--map-user={user}", f"--map-group={group}", "setpriv", "--no-new-privs"]
    mounts = 'mount --bind "$0" "$0"; mount -o remount,bind,ro /; cd "$0"; exec "$@"'
    inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", mounts, state, *as_user]
    process = Process([*environment, *inside, *built.image.entrypoint], built.state)
    try:
        process.log.wait_for("listening for MQTT")
        check = [part.replace("8080", str(admin)) for part in built.image.healthcheck]
        healthy = subprocess.run([*environment, *as_user, *check], cwd=state, timeout=60, check=False)
        assert healthy.returncode == 0
        with Wire(("127.0.0.1", port)).connect("in-a-container") as client:
            [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            status = Path(f"/proc/{child}/status").read_text()
            assert re.search(r"^NSpid:.*\t1$", status, re.MULTILINE), "it is process 1"
            assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
            os.kill(int(child), signal.SIGTERM)
            client.expect_closed()
        process.wait()
    finally:
        process.kill()
    lines = process.log.since(0)
    assert any("has stopped" in line for line in lines), str(process.log)
    assert not any("Traceback" in line or "plugin cache" in line for line in lines), str(process.log)
    sick = subprocess.run([*environment, *check], capture_output=True, cwd=state, timeout=60, check=False)
    assert sick.returncode != 0
    assert {path.name for path in built.state.iterdir()} == {"mqttcluster.sqlite"}, "and no pid file or log"
