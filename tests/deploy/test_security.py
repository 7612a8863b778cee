"""What docs/security.md tells to do does not lock the broker out of what it needs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cluster.nodes import Node
from tests.cluster.redis_server import RedisServer
from tests.deploy.files import DOCS
from tests.support.brokers import Mqttcluster
from tests.support.certificates import Certificates


def test_the_user_of_redis(tmp_path: Path, certificates: Certificates) -> None:
    """Two nodes under the user that the guide tells to make are one broker, and Redis has refused them nothing."""
    guide = (DOCS / "security.md").read_text()
    [command] = re.findall(r"`(ACL SETUSER .*?)`", guide)
    (tmp_path / "redis").mkdir()
    redis = RedisServer(tmp_path / "redis", fsync="no")
    redis.start()
    [url] = re.findall(r"`(redis://mqttcluster:PASSWORD@HOST:6379/0)`", guide)
    url = url.replace("HOST:6379", f"127.0.0.1:{redis.port}")
    nodes = []
    for name in ("n0", "n1"):
        (tmp_path / name).mkdir()
        nodes.append(Node(name, Mqttcluster(certificates, ["--drain-timeout", "2"], url, name), tmp_path / name))
    try:
        with redis.client() as client:
            client.execute_command(*command.split())
            for node in nodes:
                node.start()
            with nodes[0].wire().connect("kept", clean=False) as reader, nodes[1].wire().connect("other") as other:
                reader.subscribe(("a/#", 2))
                for qos in (0, 1, 2):
                    other.publish("a/b", b"x", qos=qos, retain=True)
                    heard = reader.expect_published()
                    assert heard.payload == b"x"
                    reader.acknowledge(heard)
            for node in nodes:
                node.stop()
            assert client.execute_command("ACL", "LOG") == []
    finally:
        for node in nodes:
            node.kill()
        redis.stop()
    for node in nodes:
        assert not node.faults(), str(node.log)
