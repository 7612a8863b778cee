"""deploy/docker-compose.yml and the balancers' files fit together. `test_rolling` runs them."""

from __future__ import annotations

import re

from mqttcluster.loading import load
from tests.deploy.files import DEPLOY, VARIABLES, compose
from tests.support.brokers import ROOT

SERVICES = compose()["services"]
NODES = {name: service for name, service in SERVICES.items() if name.startswith("node")}


def test_what_refers_to_what() -> None:
    """Services, networks and volumes that are named are there, and so are files."""
    whole = compose()
    for service in SERVICES.values():
        assert set(service.get("depends_on", [])) <= set(SERVICES)
        assert set(service["networks"]) <= set(whole["networks"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in whole["volumes"]
        if "build" in service:
            assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).exists()


def test_the_nodes() -> None:
    """Each node has a name and an address of its own, and an environment that the broker understands."""
    assert len(NODES) == 3
    names = [service["environment"]["MQTTCLUSTER_NODE"] for service in NODES.values()]
    assert names == list(NODES)
    for service in NODES.values():
        assert set(service["environment"]) <= set(VARIABLES)
        assert not load({}, service["environment"], "/").problems
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "ports" not in service, "only the balancer reaches a node"


def test_the_balancers_know_the_nodes() -> None:
    """haproxy.cfg and nginx.conf name exactly the nodes of the compose file."""
    addresses = {name: service["networks"]["cluster"]["ipv4_address"] for name, service in NODES.items()}
    haproxy = (DEPLOY / "haproxy.cfg").read_text()
    found = re.findall(r"^ +server (\w+) ([\d.]+):(\d+)$", haproxy, re.MULTILINE)
    assert found == [(name, address, port) for port in ("1883", "8083") for name, address in addresses.items()]
    nginx = (DEPLOY / "nginx.conf").read_text()
    assert re.findall(r"^ +server ([\d.]+):8083 ", nginx, re.MULTILINE) == list(addresses.values())


def test_only_this_machine_is_let_in() -> None:
    """Where nobody is asked for a name, only loopback is published."""
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_redis_forgets_nothing() -> None:
    """Redis keeps a log, in a volume, and evicts nothing: here, and in the overlay for development."""
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]
    overlay = (DEPLOY / "kubernetes" / "overlays" / "development" / "redis.yaml").read_text()
    assert SERVICES["redis"]["command"] == re.sub(r'"', "", re.findall(r"args: \[(.*)\]", overlay)[0]).split(", ")
