"""The walk of docs/operations.md, "A cluster of three behind a balancer, on this machine", by its own words.

Its commands, and its page in a headless Chromium that stays subscribed while its node is stopped.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.nodes import until
from tests.cluster.test_readme import gone
from tests.deploy.chromium import Chromium
from tests.deploy.files import DEPLOY, DOCS
from tests.support.brokers import ROOT
from tests.support.ports import free_port
from tests.support.process import FAULTS, Process

TITLE = "## A cluster of three behind a balancer, on this machine\n"
REDIS, MQTT, WEB, ADMIN, PAGE = "6379", "1883", "8083", "8080", "8000"
PROGRAMS = ("redis-server", "haproxy", "npm", "chromium", "mosquitto_pub")
PATH = f"{os.environ['PATH']}:/usr/sbin"
NODES = ("n1", "n2", "n3")


def blocks() -> dict[str, list[str]]:
    """What the section tells to type and to save, by the language of the block."""
    section = (DOCS / "operations.md").read_text().split(TITLE)[1].split("\n## ")[0]
    found: dict[str, list[str]] = {}
    for language, text in re.findall(r"```(\w+)\n(.*?)\n```", section, re.DOTALL):
        found.setdefault(language, []).append(text)
    return found


def the_end() -> str:
    """What the section tells to type at last."""
    section = (DOCS / "operations.md").read_text().split(TITLE)[1].split("\n## ")[0]
    [command] = re.findall(r"`([^`\n]+)` ends the nodes that are left", section)
    return str(command)


class Walk:
    """A directory in which the walk is done. Ports move when one of them is taken."""

    def __init__(self, directory: Path, move: bool) -> None:
        self.directory = directory
        self.ports = {port: str(free_port()) if move else port for port in (REDIS, MQTT, WEB, ADMIN, PAGE)}
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("MQTTCLUSTER_")}
        self.env["PATH"] = PATH
        # The virtual environment of the walk has an installed mqttcluster; this one has this checkout.
        twistd = directory / ".venv" / "bin" / "twistd"
        twistd.parent.mkdir(parents=True)
        here = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        twistd.write_text(f"#!{sys.executable}\n{here}from twisted.scripts.twistd import run\nrun()\n")
        twistd.chmod(0o755)
        (directory / "deploy").mkdir()
        (directory / "deploy" / "haproxy.cfg").write_text(self.moved((DEPLOY / "haproxy.cfg").read_text()))

    def moved(self, text: str) -> str:
        for port, now in self.ports.items():
            if port != now:
                text = re.sub(rf"(?<!\d){port}(?!\d)", now, text)
        if self.ports[MQTT] != MQTT:
            text = text.replace("mosquitto_pub ", f"mosquitto_pub -p {self.ports[MQTT]} ")
        return text

    def run(self, command: str, deadline: float = 60) -> None:
        done = subprocess.run(
            ["bash", "-ec", self.moved(command)],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=deadline,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def terminal(self, command: str) -> Process:
        """A terminal of its own. The last command is not a child of a shell that would outlive it."""
        first, _, last = self.moved(command).rpartition(" && ")
        line = f"{first} && exec {last}" if first else f"exec {last}"
        return Process(["env", f"PATH={PATH}", "bash", "-c", line], self.directory)

    def pid(self, name: str) -> int:
        return int((self.directory / f"{name}.pid").read_text())

    def log(self, name: str) -> str:
        path = self.directory / f"{name}.log"
        return path.read_text() if path.exists() else ""


def all_free() -> bool:
    """Whether nobody listens on a port of the walk."""
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=False).stdout
    return not set(re.findall(r":(\d+)\s", listening)) & {REDIS, MQTT, WEB, ADMIN, PAGE}


def test_the_walk(tmp_path: Path) -> None:
    """Who follows the section word by word sees on the page what it says, while the node of the page is stopped."""
    for program in PROGRAMS:
        if shutil.which(program, path=PATH) is None:
            pytest.skip(f"{program} is not installed")
    _, redis, nodes, balancer, page, server, publish, stop, again = blocks()["sh"]
    [html] = blocks()["html"]
    with (ROOT / "README.md").open() as lock:
        try:
            # Against the test of the README's commands, which has the port of Redis, too; it takes the same lock.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            move = shutil.which("ss") is None or not all_free()
        except OSError:
            move = True
        walk = Walk(tmp_path, move)
        walk.run(page, 250)
        (tmp_path / "page" / "index.html").write_text(walk.moved(html))
        started: list[Process | Chromium] = []
        try:
            started.append(data := walk.terminal(redis))
            data.log.wait_for("Ready to accept connections")
            walk.run(nodes)
            until(lambda: all("listening for WebSocket" in walk.log(name) for name in NODES))
            started.append(walk.terminal(balancer))
            started.append(pages := walk.terminal(server))
            pages.log.wait_for("Serving HTTP")
            chromium = Chromium(f"http://127.0.0.1:{walk.ports[PAGE]}/")
            started.append(chromium)
            chromium.until(lambda: any("client page connected" in walk.log(name) for name in NODES))
            walk.run(publish)
            chromium.until(lambda: chromium.title() == "sensors/kitchen 21.5")
            [first] = [name for name in NODES if "client page connected" in walk.log(name)]
            stopped = walk.pid(first)
            walk.run(stop)
            until(lambda: gone(stopped))
            walk.run(again)
            chromium.until(lambda: chromium.title() == "sensors/kitchen 22.0")
            assert [name for name in NODES if "client page connected" in walk.log(name)] != [first]
            pids = [walk.pid(name) for name in NODES if name != first]
            walk.run(the_end())
            until(lambda: all(gone(pid) for pid in pids))
        finally:
            left = [walk.pid(name) for name in NODES if (tmp_path / f"{name}.pid").exists()]
            for pid in left:
                if not gone(pid):
                    os.kill(pid, signal.SIGTERM)
            for pid in left:
                until(lambda pid=pid: gone(pid))  # type: ignore[misc]
            for process in reversed(started):
                process.terminate()
    for name in NODES:
        assert not FAULTS.search(walk.log(name)), walk.log(name)


def test_the_installation_is_the_one_of_the_readme() -> None:
    """The first command is the beginning of README's, which the whole check of a change runs."""
    readme = (ROOT / "README.md").read_text()
    assert blocks()["sh"][0] in readme


def test_the_links_of_the_guides() -> None:
    """Headings that the guides point at are there."""
    for guide in sorted(DOCS.glob("*.md")):
        for name, anchor in re.findall(r"\]\(([\w.-]*\.md)?#([\w-]+)\)", guide.read_text()):
            target = DOCS / name if name else guide
            heads = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, (guide.name, name, anchor)
