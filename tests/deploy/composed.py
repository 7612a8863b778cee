"""The services of deploy/docker-compose.yml as plain processes: Redis, three nodes and the balancer.

Everything is taken from that file, from the Dockerfile and from haproxy.cfg, but for addresses and ports: those are
moved to free ones of the loopback interface.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.cluster.redis_server import RedisServer
from tests.cluster.test_haproxy import ADMIN, MQTT, WEB, Balanced
from tests.deploy.files import DEPLOY, Container, Image, compose
from tests.support.certificates import Certificates
from tests.support.process import Broker

NETWORK = "10.83.0."


class Composed(Balanced):
    """Redis, nodes and balancer, as `docker compose up` would start them."""

    def __init__(self, program: str, directory: Path, certificates: Certificates) -> None:
        super().__init__(program, directory, certificates)
        services = compose()["services"]
        [_, *options] = services["redis"]["command"]
        directory = directory / "composed-redis"
        directory.mkdir()
        self.redis = RedisServer(directory, options)
        for name, node in self.nodes.items():
            self.nodes[name] = Broker(Container(self._environment(services[name])), node.run, ())

    def _environment(self, service: dict[str, object]) -> dict[str, str]:
        env = service["environment"]
        networks = service["networks"]
        assert isinstance(env, dict)
        assert isinstance(networks, dict)
        image = {name: value for name, value in Image().env.items() if name.startswith("MQTTCLUSTER_")}
        env = {**image, **env}
        address = networks["cluster"]["ipv4_address"].replace(NETWORK, self._net)
        for option, port in (("LISTEN", MQTT), ("WEBSOCKET", WEB), ("ADMIN", ADMIN)):
            name = f"MQTTCLUSTER_{option}"
            moved, count = re.subn(rf"tcp:{port}$", f"tcp:{self._ports[port]}:interface={address}", env[name])
            assert count == 1, env[name]
            env[name] = moved
        env["MQTTCLUSTER_STORE"] = env["MQTTCLUSTER_STORE"].replace("redis:6379", f"127.0.0.1:{self.redis.port}")
        env["MQTTCLUSTER_CONFIG"] = str(DEPLOY / Path(env["MQTTCLUSTER_CONFIG"]).name)
        return env
