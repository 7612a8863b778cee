"""The brokers, and how each is started: on loopback, on free ports, with one set of limits as far as they have them.

A `Peer` says whether it is there and what it can do. `start` gives a `Broker`: its processes, its ports by transport.
Unacknowledged messages towards a client: `INFLIGHT`. Queues: as long as it takes.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import wire
from benchmarks.programs import Program, free_port

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
AEDES = HERE / "aedes"
AMQTT = HERE / "amqtt"
AMQTT_VERSION = "0.12.1"
INFLIGHT, QUEUE, CONNECTIONS = 100, 1_000_000, 15_000
TCP, TLS, WEBSOCKET = "tcp", "tls", "ws"


@dataclass(slots=True)
class Broker:
    """A broker that runs: `ports` by transport, for each node."""

    programs: list[Program]
    ports: dict[str, list[int]]

    def stop(self) -> None:
        for program in self.programs:
            program.stop()

    def last_words(self) -> str:
        return "\n".join(f"-- {program.name}:\n{program.last_words()}" for program in self.programs)


@dataclass(slots=True)
class Site:
    """Where brokers run: a directory for one of them, and a certificate with its key."""

    run: Path
    key: Path
    certificate: Path
    durable: bool = False


@dataclass(frozen=True)
class Peer:
    """A broker. `missing` says what it lacks, `version` what it is; `cluster` starts two nodes of it on one Redis."""

    name: str
    missing: Callable[[], str]
    version: Callable[[], str]
    start: Callable[[Site], Broker]
    cluster: Callable[[Site], Broker] | None = None
    transports: frozenset[str] = frozenset({TCP, TLS, WEBSOCKET})
    versions: frozenset[int] = frozenset({4})
    qos: int = 2
    remarks: str = ""


def answers(port: int) -> Callable[[], bool]:
    """Whether a broker takes a client on this port."""

    def ask() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 2) as client:
                client.sendall(wire.connect("ready", 4, True))
                answer = client.recv(4)
                client.sendall(wire.DISCONNECT)
            return answer[:1] == b"\x20"
        except OSError:
            return False

    return ask


def make_certificate(run: Path) -> tuple[Path, Path]:
    """A key and a certificate for loopback, that has signed itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_path, path = run / "key.pem", run / "certificate.pem"
    private = serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key_path, path


def _ports(*transports: str) -> dict[str, int]:
    return {transport: free_port() for transport in transports}


def _broker(program: Program, ports: dict[str, int]) -> Broker:
    return Broker([program], {transport: [port] for transport, port in ports.items()})


def _absent(program: str) -> str:
    return "" if shutil.which(program) else f"there is no {program}"


def _first_number(*command: str) -> str:
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", output.stdout + output.stderr)
    return found[0] if found else "unknown"


# mqttcluster


def _node(root: Path, site: Site, name: str, ports: dict[str, int], store: str) -> Program:
    acl = site.run / f"{name}.acl"
    acl.write_text("deny everyone to publish closed/#\nallow everyone to publish and subscribe #\n")
    # The checkout, and not a copy that may be installed.
    twistd = f"import sys; sys.path.insert(0, {str(root)!r}); from twisted.scripts.twistd import run; run()"
    loopback = "interface=127.0.0.1"
    command = [sys.executable, "-c", twistd, "--nodaemon", "--pidfile=", "mqttcluster", "--node", name]
    command += ["--listen", f"tcp:{ports[TCP]}:{loopback}", "--admin", f"tcp:{free_port()}:{loopback}"]
    if TLS in ports:
        files = f"privateKey={site.key}:certKey={site.certificate}"
        command += ["--listen", f"ssl:{ports[TLS]}:{loopback}:{files}"]
    command += ["--websocket", f"tcp:{ports[WEBSOCKET]}:{loopback}" if WEBSOCKET in ports else "none"]
    command += ["--store", store, "--acl", str(acl), "--max-inflight", str(INFLIGHT)]
    command += ["--max-queued", str(QUEUE), "--max-connections", str(CONNECTIONS)]
    return Program(name, command, site.run, answers(ports[TCP]))


def own(name: str, root: Path) -> Peer:
    """This broker, as it is in a checkout of the project."""

    def start(site: Site) -> Broker:
        ports = _ports(TCP, TLS, WEBSOCKET)
        return _broker(_node(root, site, name, ports, f"sqlite:{site.run / 'store.sqlite'}"), ports)

    def cluster(site: Site) -> Broker:
        def node(name: str, port: int, redis: int) -> Program:
            return _node(root, site, name, {TCP: port}, f"redis://127.0.0.1:{redis}/0")

        return _on_redis(site, node)

    def version() -> str:
        found = re.search(r'__version__ = "(.+)"', (root / "mqttcluster" / "__init__.py").read_text())
        describe = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(describe, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
        return f"{found[1] if found else '?'} ({commit or 'no git'}), Python {sys.version.split()[0]}"

    remarks = "its SQLite store on disk, a file of ACL rules, the admin listener on"
    return Peer(name, lambda: "", version, start, cluster, versions=frozenset({4, 5}), remarks=remarks)


def _on_redis(site: Site, start: Callable[[str, int, int], Program]) -> Broker:
    """Two nodes, and the Redis they share; it keeps nothing on disk."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]

    def ready() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 2) as client:
                client.sendall(b"PING\r\n")
                return client.recv(7).startswith(b"+PONG")
        except OSError:
            return False

    broker = Broker([], {TCP: [free_port(), free_port()]})
    redis = Program("redis", command, site.run, ready)
    try:
        broker.programs += [start(f"node-{n}", own, port) for n, own in enumerate(broker.ports[TCP], 1)]
    finally:
        broker.programs.append(redis)
        if len(broker.programs) < 3:
            broker.stop()
    # Two nodes have to have found each other.
    time.sleep(1)
    return broker


def redis_version() -> str:
    return _first_number("redis-server", "--version")


# Mosquitto


def _start_mosquitto(site: Site) -> Broker:
    ports = _ports(TCP, TLS, WEBSOCKET)
    lines = ["user root", "log_dest stderr", "log_type error", "allow_anonymous true"]
    lines += ["max_queued_messages 0", f"max_inflight_messages {INFLIGHT}"]
    lines += [f"persistence {'true' if site.durable else 'false'}", f"persistence_location {site.run}/"]
    lines += [f"listener {ports[TCP]} 127.0.0.1", f"listener {ports[WEBSOCKET]} 127.0.0.1", "protocol websockets"]
    lines += [f"listener {ports[TLS]} 127.0.0.1", f"certfile {site.certificate}", f"keyfile {site.key}"]
    path = site.run / "mosquitto.conf"
    path.write_text("\n".join(lines) + "\n")
    return _broker(Program("mosquitto", [_MOSQUITTO, "-c", str(path)], site.run, answers(ports[TCP])), ports)


_MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"


# aedes


def _start_aedes(site: Site) -> Broker:
    ports = _ports(TCP, WEBSOCKET, TLS)
    command = ["node", str(AEDES / "node.mjs"), *map(str, ports.values()), str(site.key), str(site.certificate)]
    return _broker(Program("aedes", command, site.run, answers(ports[TCP])), ports)


def _cluster_aedes(site: Site) -> Broker:
    def node(name: str, port: int, redis: int) -> Program:
        command = ["node", str(AEDES / "node.mjs"), str(port)]
        return Program(name, command, site.run, answers(port), {"REDIS": str(redis)})

    return _on_redis(site, node)


def _aedes_stamp() -> bool:
    stamp = AEDES / "node_modules" / ".installed"
    return stamp.exists() and stamp.read_bytes() == (AEDES / "package.json").read_bytes()


def _aedes_missing() -> str:
    return _absent("node") or ("" if _aedes_stamp() else "it is not installed; --install does it")


def _aedes_version() -> str:
    asked = re.findall(r'"([\w-]+)": "([\d.]+)"', (AEDES / "package.json").read_text())
    words = [version if name == "aedes" else f"{name} {version}" for name, version in asked]
    return ", ".join([*words, f"Node {_first_number('node', '--version')}"])


# NATS


def _start_nats(site: Site) -> Broker:
    # It has one listener for MQTT on a stream: either TCP or TLS.
    ports = _ports(TCP, WEBSOCKET)
    lines = ["server_name: benchmark", f"listen: 127.0.0.1:{free_port()}"]
    lines += [f'jetstream {{ store_dir: "{site.run}/nats" }}', "max_connections: 65536"]
    lines += [f"mqtt {{ listen: 127.0.0.1:{ports[TCP]}, max_ack_pending: {INFLIGHT} }}"]
    lines += [f"websocket {{ listen: 127.0.0.1:{ports[WEBSOCKET]}, no_tls: true }}"]
    path = site.run / "nats.conf"
    path.write_text("\n".join(lines) + "\n")
    return _broker(Program("nats", ["nats-server", "-c", str(path)], site.run, answers(ports[TCP])), ports)


# amqtt


def _start_amqtt(site: Site) -> Broker:
    ports = _ports(TCP, WEBSOCKET, TLS)
    lines = ["listeners:", "  default:", "    type: tcp", f"    bind: 127.0.0.1:{ports[TCP]}"]
    lines += ["  ws:", "    type: ws", f"    bind: 127.0.0.1:{ports[WEBSOCKET]}"]
    lines += ["  tls:", "    type: tcp", f"    bind: 127.0.0.1:{ports[TLS]}", "    ssl: true"]
    lines += [f"    certfile: {site.certificate}", f"    keyfile: {site.key}"]
    lines += ["plugins:", "  amqtt.plugins.authentication.AnonymousAuthPlugin:", "    allow_anonymous: true"]
    path = site.run / "amqtt.yaml"
    path.write_text("\n".join(lines) + "\n")
    command = [str(AMQTT / "venv" / "bin" / "amqtt"), "-c", str(path)]
    return _broker(Program("amqtt", command, site.run, answers(ports[TCP])), ports)


def install() -> None:
    """Install what comes from package registries, into this directory: aedes and amqtt."""
    if not _absent("npm") and not _aedes_stamp():
        command = ["npm", "install", "--no-package-lock", "--ignore-scripts", "--silent"]
        subprocess.run(command, cwd=AEDES, check=True)
        (AEDES / "node_modules" / ".installed").write_bytes((AEDES / "package.json").read_bytes())
    if not (AMQTT / "venv" / "bin" / "amqtt").exists():
        AMQTT.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(AMQTT / "venv")], check=True)
        pip: Sequence[str] = [str(AMQTT / "venv" / "bin" / "pip"), "install", "-q", f"amqtt=={AMQTT_VERSION}"]
        subprocess.run(pip, check=True)


PEERS = (
    own("mqttcluster", ROOT),
    Peer(
        "mosquitto",
        lambda: "" if Path(_MOSQUITTO).exists() else "there is no mosquitto",
        lambda: _first_number(_MOSQUITTO, "-h"),
        _start_mosquitto,
        versions=frozenset({4, 5}),
        remarks="no ACL; persistence is on where sessions are to be kept, and then writes its file every half hour",
    ),
    Peer(
        "aedes",
        _aedes_missing,
        _aedes_version,
        _start_aedes,
        _cluster_aedes,
        remarks="alone it keeps everything in memory",
    ),
    Peer(
        "nats",
        lambda: _absent("nats-server"),
        lambda: _first_number("nats-server", "--version"),
        _start_nats,
        transports=frozenset({TCP, WEBSOCKET}),
        qos=1,
        remarks="several threads; sessions and retained messages in JetStream's files; no QoS 2",
    ),
    Peer(
        "amqtt",
        lambda: "" if (AMQTT / "venv" / "bin" / "amqtt").exists() else "it is not installed; --install does it",
        lambda: AMQTT_VERSION,
        _start_amqtt,
        remarks="in memory",
    ),
)
BY_NAME = {peer.name: peer for peer in PEERS}
