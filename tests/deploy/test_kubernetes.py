"""The manifests: made by kubectl's kustomize, held against the schemas of Kubernetes, and a container run from them."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import ssl
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mqttcluster.config import Config
from tests.cluster.nodes import until
from tests.cluster.redis_server import RedisServer
from tests.deploy.files import COMPOSE, DEPLOY, Container, Image
from tests.support import wire
from tests.support.brokers import ROOT
from tests.support.certificates import Certificates
from tests.support.process import Broker
from tests.support.wire import Wire

OVERLAYS = ("development", "production")
#: The versions that a cluster may have today; the schemas come with the package.
VERSIONS = ("1.29.0", "1.37.0")
#: Her password is "secret".
ALICE = "alice:$argon2id$v=19$m=65536,t=3,p=4$5g5BjqM3wS5jM47elh1xWg$1+qg5Boq7mWWOabswe54kCrTFmVSSeRl0lt/AgGoNTY"


@pytest.fixture(scope="module")
def kubectl() -> str:
    """A kubectl whose kustomize reads today's files (Debian 12 has one of 2019)."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed")
    said = subprocess.run([program, "version", "--client"], capture_output=True, text=True, timeout=60).stdout
    version = re.search(r"Kustomize Version: v(\d+)", said)
    if version is None or int(version[1]) < 4:
        pytest.skip("kubectl is too old; 1.22 or newer is needed")
    return program


class Manifests:
    """What an overlay makes."""

    def __init__(self, kubectl: str, overlay: str, directory: Path) -> None:
        shutil.copytree(DEPLOY / "kubernetes", directory / "kubernetes")
        where = directory / "kubernetes" / "overlays" / overlay
        if (where / "secret.example").exists():  # as the file says
            shutil.copytree(where / "secret.example", where / "secret")
            with (where / "secret" / "passwords").open("a") as file:
                file.write(f"{ALICE}\n")
        made = subprocess.run([kubectl, "kustomize", str(where)], capture_output=True, text=True, timeout=60)
        assert made.returncode == 0, made.stderr
        assert "deprecated" not in made.stderr
        self.all: list[dict[str, Any]] = list(yaml.safe_load_all(made.stdout))

    def one(self, kind: str, name: str = "mqttcluster") -> dict[str, Any]:
        """By its name, without the hash."""
        [found] = [each for each in self.all if each["kind"] == kind and self._name(each) == name]
        return found

    @staticmethod
    def _name(each: Mapping[str, Any]) -> str:
        name = str(each["metadata"]["name"])
        return re.sub(r"-[a-z0-9]{10}$", "", name) if each["kind"] in ("ConfigMap", "Secret") else name

    @property
    def pod(self) -> dict[str, Any]:
        return dict(self.one("Deployment")["spec"]["template"]["spec"])

    @property
    def container(self) -> dict[str, Any]:
        [container] = self.pod["containers"]
        return dict(container)


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest, kubectl: str, tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    return Manifests(kubectl, request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas(manifests: Manifests, version: str) -> None:
    """The API server of that version would take every object, with no field that it does not know."""
    for each in manifests.all:
        kubernetes_validate.validate(each, version, strict=True)


def test_what_refers_to_what(manifests: Manifests) -> None:
    """Selectors select the pods, ports have the names of the container's, mounts are of volumes, and the secrets and
    config maps that the pod wants are there."""
    labels = manifests.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in manifests.container["ports"]}
    for each in manifests.all:
        if each["kind"] == "Service" and not each["metadata"]["name"].startswith("redis"):
            assert each["spec"]["selector"].items() <= labels.items()
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= set(ports)
            assert "sessionAffinity" not in each["spec"]
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        selector = manifests.one(kind)["spec"]["selector" if kind == "PodDisruptionBudget" else "podSelector"]
        assert selector["matchLabels"].items() <= labels.items()
    assert manifests.one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "mqttcluster"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert manifests.container[probe]["httpGet"]["port"] in ports
    made = {each["metadata"]["name"] for each in manifests.all if each["kind"] in ("ConfigMap", "Secret")}
    volumes = {volume["name"]: volume for volume in manifests.pod["volumes"]}
    assert {mount["name"] for mount in manifests.container["volumeMounts"]} == set(volumes)
    wanted = {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume}
    wanted |= {volume["secret"]["secretName"] for volume in volumes.values() if "secret" in volume}
    assert wanted - made <= {"mqttcluster-tls"}, "that one is made by cert-manager, or by hand"


def test_a_node_has_time_to_stop(manifests: Manifests) -> None:
    """The pod is killed only after preStop, the drain and the sending away of everybody. The compose file and the
    service of systemd give as much."""
    pod, drain = manifests.pod, Config().drain_timeout
    [_, before] = manifests.container["lifecycle"]["preStop"]["exec"]["command"]
    everybody = Config().max_connections / 200 * 0.05
    assert pod["terminationGracePeriodSeconds"] > float(before) + drain + everybody + 5
    unit = (DEPLOY / "systemd" / "mqttcluster.service").read_text()
    for text, pattern in ((unit, r"TimeoutStopSec=(\d+)s"), (COMPOSE.read_text(), r"stop_grace_period: (\d+)s")):
        [given] = re.findall(pattern, text)
        assert float(given) > drain + everybody + 5


def test_nothing_may_do_more_than_it_needs(manifests: Manifests) -> None:
    """No container is root, writes to its image, gains privileges, or has a token of the cluster."""
    for each in manifests.all:
        if each["kind"] != "Deployment":
            continue
        pod = each["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
    assert str(manifests.pod["securityContext"]["runAsUser"]) == Image().one("USER").partition(":")[0]


def test_an_update_keeps_enough_nodes(manifests: Manifests) -> None:
    """The new node comes first, and only one goes at a time."""
    spec = manifests.one("Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in spec, "the autoscaler decides, and an apply must not set it back"
    assert manifests.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_secrets_do_not_go_into_git() -> None:
    """The real secrets of the production overlay stay out of the repository."""
    where = DEPLOY / "kubernetes" / "overlays" / "production"
    assert (where / ".gitignore").read_text() == "/secret/\n"
    assert "PASSWORD" in (where / "secret.example" / "store").read_text()
    assert not re.search(r"\$argon2|\$6\$|\$7\$", (where / "secret.example" / "passwords").read_text())


class Pod:
    """The container of the manifests as a process: its files in a directory, its environment, ports moved."""

    def __init__(self, manifests: Manifests, directory: Path, redis: RedisServer, certificates: Certificates) -> None:
        self.manifests = manifests
        self._files = directory / "files"
        for mount in manifests.container["volumeMounts"]:
            self._mount(mount, certificates)
        env = {name: value for name, value in Image().env.items() if name.startswith("MQTTCLUSTER_")}
        for entry in manifests.container["env"]:
            env[entry["name"]] = self._value(entry, redis)
        env = {name: value.replace("/etc/mqttcluster", str(self._files)) for name, value in env.items()}
        directory.chmod(stat.S_IRUSR | stat.S_IXUSR)
        self.broker = Broker(Container(env), directory, ())

    @property
    def knows_its_users(self) -> bool:
        return "allow-anonymous" not in self.manifests.one("ConfigMap")["data"]["mqttcluster.toml"]

    def _mount(self, mount: Mapping[str, str], certificates: Certificates) -> None:
        [volume] = [each for each in self.manifests.pod["volumes"] if each["name"] == mount["name"]]
        where = self._files / mount["mountPath"].removeprefix("/etc/mqttcluster").lstrip("/")
        if "configMap" in volume:
            text = self.manifests.one("ConfigMap")["data"][mount["subPath"]]
            text = text.replace("/etc/mqttcluster", str(self._files))
            text = re.sub(r'"(tcp|ssl):(\d+)', r'"\1:0:interface=127.0.0.1', text)
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_text(text)
        elif volume["name"] == "tls":
            where.mkdir(parents=True)
            (where / "tls.crt").write_bytes(certificates.server.read_bytes() + certificates.authority.read_bytes())
            (where / "tls.key").write_bytes(certificates.server_key.read_bytes())
        elif "secret" in volume:
            where.mkdir(parents=True)
            for item in volume["secret"]["items"]:
                content = self.manifests.one("Secret")["data"][item["key"]]
                (where / item["path"]).write_bytes(base64.b64decode(content))

    def _value(self, entry: Mapping[str, Any], redis: RedisServer) -> str:
        if "value" in entry:
            return str(entry["value"])
        source = entry["valueFrom"]
        if "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] == "metadata.name"
            return "mqttcluster-6b7f9c5d4-x2x7z"
        reference = source["secretKeyRef"]
        assert self.manifests.one("Secret")["metadata"]["name"] == reference["name"]
        assert re.match(
            r"rediss?://", base64.b64decode(self.manifests.one("Secret")["data"][reference["key"]]).decode()
        )
        return redis.url

    def address(self, what: str) -> tuple[str, int]:
        line = self.broker.log.wait_for(rf"listening for {what} (at \S+ )?on ")
        host, _, port = json.loads(line)["address"].rpartition(":")
        return host, int(port)


def answers(host: str, port: int, path: str) -> int:
    """What a probe gets."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_pod(manifests: Manifests, tmp_path: Path, certificates: Certificates) -> None:
    """A node starts from the environment and the files that the manifests give it, with a working directory in which
    nothing can be written, and under the name of the pod. The probes are answered, and clients are."""
    (tmp_path / "redis").mkdir()
    (tmp_path / "pod").mkdir()
    redis = RedisServer(tmp_path / "redis", fsync="no")
    redis.start()
    pod = Pod(manifests, tmp_path / "pod", redis, certificates)
    try:
        pod.broker.start()
        host, port = pod.address("probes")
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = manifests.container[probe]["httpGet"]["path"]
            until(lambda path=path: answers(host, port, path) == 200)  # type: ignore[misc]
        pod.broker.log.wait_for(r"node mqttcluster-6b7f9c5d4-x2x7z, store redis://")
        with Wire(pod.address("MQTT")) as client:
            client.send(wire.connect("a"))
            assert client.packet() == (b"\x20\x02\x00\x05" if pod.knows_its_users else b"\x20\x02\x00\x00")
        if pod.knows_its_users:
            with Wire(pod.address("MQTT over TLS")) as client:
                context = ssl.create_default_context(cafile=str(certificates.authority))
                client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
                client.send(wire.connect("b", username="alice", password=b"secret"))
                assert client.packet() == b"\x20\x02\x00\x00"
        pod.broker.stop()
    finally:
        pod.broker.kill()
        redis.stop()
        (tmp_path / "pod").chmod(0o700)
    assert not pod.broker.faults(), str(pod.broker.log)


def test_the_autoscaler_and_the_policy_of_development_are_small(kubectl: str, tmp_path: Path) -> None:
    """The overlay for trying it out fits on a laptop, and its Redis lets nobody in but the nodes."""
    manifests = Manifests(kubectl, "development", tmp_path)
    assert manifests.one("HorizontalPodAutoscaler")["spec"]["maxReplicas"] <= 3
    [rule] = manifests.one("NetworkPolicy", "redis")["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "mqttcluster"}}}]


def test_the_guide_names_the_overlays() -> None:
    """docs/operations.md says how to apply what there is."""
    guide = (ROOT / "docs" / "operations.md").read_text()
    there = {path.name for path in (DEPLOY / "kubernetes" / "overlays").iterdir()}
    assert set(re.findall(r"deploy/kubernetes/overlays/(\w+)", guide)) == there == set(OVERLAYS)
