"""The limits of a broker. docs/configuration.md gives them beside those of other brokers."""

from __future__ import annotations

from dataclasses import dataclass

from mqttcluster.core.shares import SharePolicy
from mqttcluster.storage.interfaces import NEVER


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are seconds, sizes bytes."""

    node: str = "node"
    #: Largest packet a client may send, fixed header included.
    max_packet_size: int = 1024 * 1024
    #: Connections of this node, whatever their state.
    max_connections: int = 10_000
    #: Time for CONNECT to arrive, and for a closed connection to take what is still to be sent.
    connect_timeout: float = 10.0
    #: Messages queued for one session.
    max_queued: int = 1000
    #: Deliveries at QoS 1 and 2 in flight towards one client.
    max_inflight: int = 256
    #: Publishes of one connection that wait for the store before reading pauses.
    max_receiving: int = 256
    #: Their payloads, likewise.
    receive_buffer: int = 1024 * 1024
    #: Output of one connection that waits for the network before QoS 0 is dropped and reading pauses.
    send_buffer: int = 1024 * 1024
    #: How long a session with CleanSession=0 is kept after its connection ended, and the longest that MQTT 5.0 clients
    #: may ask for; `NEVER` keeps it for ever.
    session_expiry: int = NEVER
    #: Longest keep-alive, also for clients that ask for none; 0 for no limit. MQTT 5.0 only.
    max_keep_alive: int = 0
    #: Topic aliases of one connection, for each direction. MQTT 5.0 only.
    max_topic_aliases: int = 32
    #: Highest QoS of what clients publish, and of what subscriptions are granted.
    max_qos: int = 2
    no_retain: bool = False
    no_wildcard_subscriptions: bool = False
    no_shared_subscriptions: bool = False
    #: Who of a group gets the next message that comes through their shared subscription.
    shared_subscription_policy: str = SharePolicy.ROUND_ROBIN.value
    no_subscription_identifiers: bool = False
    #: Whether payloads that say that they are UTF-8 are looked at.
    check_payload_format: bool = False
    #: What clients that ask for it are told to begin their response topics with, followed by their client id.
    response_topic_prefix: str = ""
    #: Where clients are sent when this node stops: a Server Reference, '' for nowhere.
    advertise: str = ""
    #: How long a method of enhanced authentication may take for an answer.
    auth_timeout: float = 5.0
    #: How long a node that is told to stop finishes what is in flight.
    drain_timeout: float = 20.0
    #: Deal with every packet by itself, and not with plain publishes and acknowledgements in runs.
    no_fast_lane: bool = False
    max_subscriptions: int = 10_000
    max_topic_levels: int = 200
    client_id_max_length: int = 1024
    #: Topics that may have a retained message.
    max_retained: int = 1_000_000
    #: Time between two rounds of $SYS topics, 0 for none.
    sys_interval: float = 10.0
