"""Backup and restore as docs/operations.md tells, by its own commands, while the node is at work."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.cluster.nodes import Node
from tests.cluster.redis_server import RedisServer
from tests.deploy.files import DOCS
from tests.support.brokers import Mqttcluster
from tests.support.certificates import Certificates
from tests.support.process import TCP, Broker, Process
from tests.support.wire import Wire


def commands() -> list[str]:
    section = (DOCS / "operations.md").read_text().split("## Back up\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)\n```", section, re.DOTALL)


def run(command: str, directory: Path) -> None:
    done = subprocess.run(["bash", "-ec", command], cwd=directory, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def fill(connect: Callable[[], Wire]) -> None:
    """A session with a message in its queue, and a retained message."""
    with connect().connect("kept", clean=False) as kept:
        kept.subscribe(("queue", 1))
        kept.disconnect()
    with connect().connect("filling") as client:
        client.publish("queue", b"waits", qos=1)
        client.publish("state", b"then", qos=1, retain=True)
        client.disconnect()


def spoil(connect: Callable[[], Wire]) -> None:
    """What happens after the backup."""
    with connect().connect("spoiling") as client:
        client.publish("queue", b"later", qos=1)
        client.publish("state", b"now", qos=1, retain=True)
        client.disconnect()


def as_it_was(connect: Callable[[], Wire]) -> None:
    """Queue and retained message are those of `fill`, and nothing else is there."""
    with connect().connect("kept", clean=False, present=True) as kept:
        message = kept.expect_published()
        assert message.payload == b"waits"
        kept.acknowledge(message)
        kept.subscribe(("state", 1))
        message = kept.expect_published()
        assert (message.payload, message.retain) == (b"then", True)
        kept.acknowledge(message)
        kept.expect_silence()


def test_sqlite(tmp_path: Path, certificates: Certificates) -> None:
    """A copy made under a running node brings back what was there then, and the node goes on."""
    backup, restore, *_ = commands()
    store = f"sqlite:{tmp_path / 'mqttcluster.sqlite'}"
    broker = Broker(Mqttcluster(certificates, store=store), tmp_path, (TCP,))
    broker.start()
    try:
        (tmp_path / "twistd.pid").write_text(f"{broker.pid}\n")
        fill(broker.wire)
        run(backup, tmp_path)
        spoil(broker.wire)
        broker.kill()  # so that its write-ahead log is there
        run(restore, tmp_path)
        broker.start()
        as_it_was(broker.wire)
        broker.stop()
    finally:
        broker.kill()
    assert not broker.faults()


def test_redis(tmp_path: Path, certificates: Certificates) -> None:
    """A snapshot of a cluster's Redis brings back what was there then, and the new Redis keeps a log again."""
    _, _, backup, restore, keep = commands()
    (tmp_path / "redis").mkdir()
    (tmp_path / "node").mkdir()
    redis = RedisServer(tmp_path / "redis", fsync="no")
    here = str(redis.port)
    redis.start()
    node = Node("n0", Mqttcluster(certificates, ["--drain-timeout", "2"], redis.url, "n0"), tmp_path / "node")
    again: Process | None = None
    try:
        node.start()
        fill(node.wire)
        run(backup.replace("6379", here), tmp_path)
        spoil(node.wire)
        node.stop()
        redis.stop()
        first, _, last = restore.replace("6379", here).rpartition(" && ")
        again = Process(["bash", "-ec", f"{first} && exec {last}"], tmp_path)
        again.log.wait_for("Ready to accept connections")
        run(keep.replace("6379", here), tmp_path)
        node.start()
        as_it_was(node.wire)
        assert (tmp_path / "restored" / "appendonlydir").is_dir()
        node.stop()
    finally:
        node.kill()
        redis.stop()
        if again is not None:
            again.terminate()
    assert not node.faults(), str(node.log)
