"""The configuration: one table of options.

`Config` is the table: each field is an option, with its kind, default, bounds and help. From it come the command line
of ``twistd mqttcluster``, the keys of the TOML file, the environment variables (all read by `loading`) and
docs/configuration.md (`configdoc`).
"""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass
from typing import Any

from mqttcluster import kinds
from mqttcluster.core.shares import SharePolicy
from mqttcluster.kinds import Kind
from mqttcluster.storage.interfaces import NEVER

PREFIX = "MQTTCLUSTER_"


@dataclass(frozen=True)
class Option:
    """One line of the table. `group` is the heading it stands under; `others` says what other brokers default to.

    `in_file`: whether it is a key of the TOML file. `shown` is the default as documented, where that is not the value.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    group: str = ""
    repeatable: bool = False
    others: str = ""
    in_file: bool = True
    shown: str = ""

    @property
    def flag(self) -> bool:
        return self.kind is kinds.FLAG

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper().replace("-", "_")


_WHERE, _LOGS, _WHO, _TLS, _LIMITS = "Where it listens and stores", "Logs", "Who may do what", "TLS", "Limits"


def _option(kind: Kind, default: Any, help: str, **more: Any) -> Any:
    """A field of `Config` that is an option; `load` gives it its name."""
    factory = default if callable(default) else None
    metadata = {"option": Option("", kind, default, help, **more)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every option with its value. Times are seconds, sizes bytes, paths absolute once `load` made it."""

    config: str = _option(
        kinds.FILE, "", "a TOML file with these options as keys", group=_WHERE, in_file=False, shown="none"
    )
    node: str = _option(
        kinds.NODE,
        socket.gethostname,
        "name of this node, in logs and $SYS topics; each node of a cluster has its own",
        group=_WHERE,
        shown="the host's name",
    )
    listen: tuple[str, ...] = _option(
        kinds.ENDPOINT,
        ("tcp:1883:interface=127.0.0.1",),
        "Twisted endpoint for MQTT on a byte stream; none for no such listener",
        group=_WHERE,
        repeatable=True,
    )
    websocket: tuple[str, ...] = _option(
        kinds.ENDPOINT,
        ("tcp:8083:interface=127.0.0.1",),
        "Twisted endpoint for MQTT over WebSocket; none for no such listener",
        group=_WHERE,
        repeatable=True,
    )
    websocket_path: str = _option(kinds.URL_PATH, "/mqtt", "path of the WebSocket", group=_WHERE)
    websocket_origins: tuple[str, ...] = _option(
        kinds.ORIGIN,
        (),
        "origin of web pages that may open a WebSocket, as https://example.org; clients that are no browsers send none",
        group=_WHERE,
        repeatable=True,
        shown="any",
    )
    websocket_ping: float = _option(
        kinds.seconds(0, 3600),
        25.0,
        "time between two pings to each WebSocket client, so that proxies do not cut a quiet one; 0 for none. A client"
        " that has not answered one when the next is due is disconnected",
        group=_WHERE,
    )
    websocket_deflate: bool = _option(
        kinds.FLAG, False, "agree to permessage-deflate when a WebSocket client asks for it", group=_WHERE
    )
    admin: str = _option(
        kinds.ENDPOINT,
        "",
        "Twisted endpoint for /healthz, /readyz and /metrics, as tcp:8080:interface=127.0.0.1; there is no such"
        " listener without it",
        group=_WHERE,
        shown="none",
    )
    store: str = _option(
        kinds.STORE,
        "sqlite:mqttcluster.sqlite",
        "where sessions and retained messages are kept: sqlite:PATH, memory: to forget them at exit, or"
        " redis://[USER:PASSWORD@]HOST:PORT/DB; nodes that name the same Redis are one broker. rediss:// is the same"
        " with TLS; ?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE behind it names the authority of its"
        " certificate, if the system does not know it, and a certificate of the nodes, if it wants one",
        group=_WHERE,
    )

    advertise: str = _option(
        kinds.REFERENCE,
        "",
        "where MQTT 5.0 clients may go instead when this node stops, as HOST:PORT, or several with spaces between",
        group=_WHERE,
        shown="none",
    )
    response_topic_prefix: str = _option(
        kinds.TOPIC,
        "",
        "what MQTT 5.0 clients that ask for response information are told to begin their response topics with; their"
        " client id is added behind a slash",
        group=_WHERE,
        shown="none",
    )

    passwords: str = _option(
        kinds.FILE,
        "",
        "file with user names and password hashes, as mqttcluster-passwd and mosquitto_passwd write it; read again on"
        " SIGHUP",
        group=_WHO,
        shown="none",
    )
    acl: str = _option(
        kinds.FILE,
        "",
        "file with rules of who may publish and subscribe what; read again on SIGHUP",
        group=_WHO,
        shown="none",
    )
    administrators: tuple[str, ...] = _option(
        kinds.USER,
        (),
        "user who may subscribe to $SYS topics, beside the group administrators of the ACL file. Without passwords,"
        " authenticators and tls-identity everybody may",
        group=_WHO,
        repeatable=True,
        shown="none",
    )
    authenticator: tuple[str, ...] = _option(
        kinds.OBJECT,
        (),
        "Python object that decides who may connect, as package.module.object; asked before the password file",
        group=_WHO,
        repeatable=True,
        shown="none",
    )
    authorizer: tuple[str, ...] = _option(
        kinds.OBJECT,
        (),
        "Python object that decides what clients may do, as package.module.object; asked before the ACL file",
        group=_WHO,
        repeatable=True,
        shown="none",
    )
    scram: str = _option(
        kinds.FILE,
        "",
        "file with SCRAM-SHA-256 verifiers, for MQTT 5.0 clients that authenticate so; read again on SIGHUP",
        group=_WHO,
        shown="none",
    )
    authentication_method: tuple[str, ...] = _option(
        kinds.OBJECT,
        (),
        "Python object that is an authentication method of MQTT 5.0, as package.module.object",
        group=_WHO,
        repeatable=True,
        shown="none",
    )
    auth_timeout: float = _option(
        kinds.seconds(0.1, 60),
        5.0,
        "how long an authenticator, authorizer or authentication method may take for an answer; then it is taken for a"
        " no",
        group=_WHO,
    )
    allow_anonymous: bool = _option(kinds.FLAG, False, "take clients without a user name on every listener", group=_WHO)

    tls_client_ca: str = _option(
        kinds.FILE,
        "",
        "PEM file with the authorities whose client certificates every ssl: listener accepts",
        group=_TLS,
        shown="none",
    )
    tls_client_certificates: str = _option(
        kinds.choice("require", "optional"),
        "require",
        "with tls-client-ca: whether a client must show a certificate",
        group=_TLS,
    )
    tls_identity: str = _option(
        kinds.choice("none", "cn", "san"),
        "none",
        "with tls-client-ca: the name in a client's certificate that is its user name, whatever CONNECT says. cn is the"
        " common name, san the first alternative name (DNS before mail before URI)",
        group=_TLS,
    )

    log_format: str = _option(
        kinds.choice("text", "json"), "text", "text as Twisted writes it, or one JSON object a line", group=_LOGS
    )
    log_level: str = _option(
        kinds.choice("debug", "info", "warn", "error", "critical"), "info", "least level that is logged", group=_LOGS
    )

    max_packet_size: int = _option(
        kinds.size(128, 268_435_460),
        1024 * 1024,
        "largest packet a client may send; a larger one closes the connection",
        group=_LIMITS,
        others="mosquitto 2.0: no limit; EMQX 5: 1 MiB",
    )
    max_connections: int = _option(
        kinds.count(1, 10_000_000),
        10_000,
        "connections of this node; one more is closed at once. Lowered at start, with a warning, to what the limit of"
        " open files allows",
        group=_LIMITS,
        others="mosquitto: no limit; EMQX 5: no limit",
    )
    connect_timeout: float = _option(
        kinds.seconds(0.1, 3600),
        10.0,
        "time a connection has until its CONNECT is complete",
        group=_LIMITS,
        others="EMQX 5: 15 s",
    )
    max_queued: int = _option(
        kinds.count(1, 10_000_000),
        1000,
        "messages kept for one session, in flight ones included; those of a clean session come on top",
        group=_LIMITS,
        others="mosquitto: 1000; EMQX 5: 1000",
    )
    queue_policy: str = _option(
        kinds.choice("drop-newest", "drop-oldest"),
        "drop-newest",
        "what a full queue loses, if nothing in it has expired. drop-oldest is for sessions that are offline, and"
        " spares what may have been sent",
        group=_LIMITS,
        others="mosquitto: the newest; EMQX 5: the oldest",
    )
    max_inflight: int = _option(
        kinds.count(1, 65_535),
        256,
        "messages sent to one client and not yet acknowledged, QoS 1 and 2",
        group=_LIMITS,
        others="mosquitto: 20; EMQX 5: 32",
    )
    max_receiving: int = _option(
        kinds.count(1, 65_535),
        256,
        "publishes of one connection that wait for the store; with more, reading from it pauses",
        group=_LIMITS,
    )
    receive_buffer: int = _option(
        kinds.size(1024, 1 << 31),
        1024 * 1024,
        "payloads of one connection that wait for the store; with more, reading from it pauses",
        group=_LIMITS,
    )
    send_buffer: int = _option(
        kinds.size(1024, 1 << 31),
        1024 * 1024,
        "unsent output of one connection; beyond it QoS 0 messages for it are dropped and reading from it pauses",
        group=_LIMITS,
        others="EMQX 5: 1 MiB",
    )
    session_expiry: int = _option(
        kinds.EXPIRY,
        NEVER,
        "how long a session with CleanSession=0 is kept after its connection ended, and the longest expiry that a"
        " client of MQTT 5.0 may have",
        group=_LIMITS,
        others="mosquitto: never ends; EMQX 5: 2 h",
        shown="never",
    )
    max_keep_alive: int = _option(
        kinds.count(0, 65_535),
        0,
        "longest keep-alive in seconds, told to MQTT 5.0 clients that ask for a longer one or for none; 0 for no limit",
        group=_LIMITS,
        others="mosquitto: 65,535 s; EMQX 5: none",
    )
    max_topic_aliases: int = _option(
        kinds.count(0, 65_535),
        32,
        "topic aliases of one connection, for each direction; MQTT 5.0",
        group=_LIMITS,
        others="mosquitto: 10; EMQX 5: 65,535",
    )
    max_qos: int = _option(
        kinds.count(0, 2),
        2,
        "highest QoS; subscriptions are granted no more, and a client that publishes at a higher one is disconnected",
        group=_LIMITS,
        others="mosquitto: 2; EMQX 5: 2",
    )
    no_retain: bool = _option(
        kinds.FLAG, False, "keep no retained messages; MQTT 5.0 clients that ask for it are disconnected", group=_LIMITS
    )
    no_wildcard_subscriptions: bool = _option(
        kinds.FLAG, False, "refuse topic filters with + or #", group=_LIMITS
    )
    no_fast_lane: bool = _option(
        kinds.FLAG, False, "deal with every packet by itself, for finding faults: it is slower", group=_LIMITS
    )
    no_shared_subscriptions: bool = _option(kinds.FLAG, False, "refuse shared subscriptions", group=_LIMITS)
    shared_subscription_policy: str = _option(
        kinds.choice(*(policy.value for policy in SharePolicy)),
        SharePolicy.ROUND_ROBIN.value,
        "who of a group gets the next message of their shared subscription: each in his turn, anybody, members"
        " connected to the same node before all others, or the same one as long as he has room",
        group=_LIMITS,
        others="mosquitto: round-robin; EMQX 5: round-robin",
    )
    no_subscription_identifiers: bool = _option(
        kinds.FLAG, False, "refuse subscriptions with a subscription identifier; MQTT 5.0", group=_LIMITS
    )
    check_payload_format: bool = _option(
        kinds.FLAG,
        False,
        "refuse messages that say that their payload is UTF-8 when it is not; MQTT 5.0",
        group=_LIMITS,
    )
    drain_timeout: float = _option(
        kinds.seconds(0, 3600),
        20.0,
        "how long a node that is told to stop waits for what is in flight before it closes its connections",
        group=_LIMITS,
    )
    max_subscriptions: int = _option(
        kinds.count(1, 10_000_000),
        10_000,
        "subscriptions of one session, of eight topic levels on average; one more is refused",
        group=_LIMITS,
        others="mosquitto: no limit; EMQX 5: no limit",
    )
    max_topic_levels: int = _option(
        kinds.count(1, 65_535),
        200,
        "levels of a topic name or filter",
        group=_LIMITS,
        others="mosquitto: 200; EMQX 5: 128",
    )
    client_id_max_length: int = _option(
        kinds.count(23, 65_535),
        1024,
        "characters of a client identifier",
        group=_LIMITS,
        others="mosquitto: 65,535; EMQX 5: 65,535",
    )
    max_retained: int = _option(
        kinds.count(0, 100_000_000),
        1_000_000,
        "topics with a retained message; on one more the message is delivered and not retained",
        group=_LIMITS,
        others="mosquitto: no limit; EMQX 5: no limit",
    )
    sys_interval: float = _option(
        kinds.seconds(0, 86_400),
        10.0,
        "time between two rounds of $SYS topics, 0 for none",
        group=_LIMITS,
        others="mosquitto: 10 s; EMQX 5: 60 s",
    )

    @property
    def has_users(self) -> bool:
        """Whether somebody checks who a client is."""
        checked = self.passwords or self.authenticator or self.scram or self.authentication_method
        return bool(checked or self.tls_identity != "none")


def _table() -> tuple[Option, ...]:
    return tuple(
        dataclasses.replace(field.metadata["option"], name=field.name.replace("_", "-"))
        for field in dataclasses.fields(Config)
    )


OPTIONS = _table()
