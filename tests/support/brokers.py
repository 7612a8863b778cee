"""How to start mqttcluster; and mosquitto, to see that a test asks nothing that only we would do."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.certificates import Certificates
from tests.support.process import TCP, TLS, UNIX, WEBSOCKET

ROOT = Path(__file__).resolve().parents[2]


class Mqttcluster:
    """A node of mqttcluster, with its embedded store in the run directory unless `store` names another."""

    offers = frozenset({TCP, WEBSOCKET, TLS, UNIX})

    def __init__(
        self, certificates: Certificates, options: Sequence[str] = (), store: str = "", node: str = "test"
    ) -> None:
        self._certificates = certificates
        self._options = list(options)
        self._store = store
        self._node = node

    def command(self, run: Path, ports: Mapping[str, int | str]) -> Sequence[str]:
        listeners: list[str] = []
        for name, port in ports.items():
            if name == TCP:
                listeners += ["--listen", f"tcp:{port}:interface=127.0.0.1"]
            elif name == WEBSOCKET:
                listeners += ["--websocket", f"tcp:{port}:interface=127.0.0.1"]
            elif name == UNIX:
                listeners += ["--listen", f"unix:{port}"]
            elif name == TLS:
                files = f"privateKey={self._certificates.server_key}:certKey={self._certificates.server}"
                listeners += ["--listen", f"ssl:{port}:interface=127.0.0.1:{files}"]
        # Without a word about it, each kind would listen on its well-known port.
        for option in ("--listen", "--websocket"):
            if option not in listeners and option not in self._options:
                listeners += [option, "none"]
        # This checkout, and not a copy that may be installed.
        start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from twisted.scripts.twistd import run; run()"
        twistd = [sys.executable, "-c", start, "--nodaemon", "--pidfile="]
        store = ["--store", self._store or f"sqlite:{run / 'store.sqlite'}", "--node", self._node]
        return [*twistd, "mqttcluster", *listeners, *store, *self._options]

    def ready(self, line: str) -> Mapping[str, int | str]:
        found = re.search(r"listening for (MQTT over TLS|MQTT|WebSocket)\b.* on (\S+)", line)
        if found is None:
            return {}
        what, where = found.groups()
        if where.startswith("/"):
            return {UNIX: where}
        name = {"MQTT": TCP, "MQTT over TLS": TLS, "WebSocket": WEBSOCKET}[what]
        return {name: int(where.rpartition(":")[2])}


class Mosquitto:
    """Eclipse Mosquitto, saving its database at every change."""

    offers = frozenset({TCP, TLS, UNIX})

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self._ports: dict[str, int | str] = {}

    def command(self, run: Path, ports: Mapping[str, int | str]) -> Sequence[str]:
        self._ports = dict(ports)
        lines = ["user root", "allow_anonymous true", "persistence true", f"persistence_location {run}/"]
        lines += ["autosave_on_changes true", "autosave_interval 1", "log_dest stderr", "max_queued_messages 0"]
        for name, port in self._ports.items():
            if name == UNIX:
                lines.append(f"listener 0 {port}")
            elif name == TCP:
                lines.append(f"listener {port} 127.0.0.1")
            elif name == TLS:
                lines += [f"listener {port} 127.0.0.1", f"cafile {self._certificates.authority}"]
                lines += [f"certfile {self._certificates.server}", f"keyfile {self._certificates.server_key}"]
        (run / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        return ["mosquitto", "-c", str(run / "mosquitto.conf")]

    def ready(self, line: str) -> Mapping[str, int | str]:
        return self._ports if re.search(r"mosquitto version \S+ running", line) else {}

