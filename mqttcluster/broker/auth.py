"""Who may connect, and what a client may publish and subscribe.

The broker asks an `Authenticator` once for each connection, and an `Authorizer` for each topic and filter (it may keep
the answers for as long as the connection lives). `mqttcluster.broker.passwords` and `mqttcluster.broker.acl` read both
from files; `AnonymousOnly` and `AllowAll` are what a broker has without such files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred, succeed

from mqttcluster.mqtt.reasons import Reason


@dataclass(slots=True)
class Credentials:
    """What a CONNECT said about who is connecting.

    `username` and `password` are None if the packet had none. `anonymous_allowed` belongs to the listener the client
    came through: clients without a user name are welcome there. `peer` is the client's address, for the log.
    """

    client_id: str
    username: str | None
    password: bytes | None = field(repr=False)
    anonymous_allowed: bool
    peer: str


@dataclass(slots=True)
class Identity:
    """Who a connection belongs to, after its CONNECT was accepted. `username` is None for an anonymous client."""

    client_id: str
    username: str | None


class Authenticator(Protocol):
    """Decides whether a client may connect."""

    def authenticate(self, credentials: Credentials) -> Deferred[Reason]:
        """Fires with SUCCESS, BAD_USER_NAME_OR_PASSWORD, NOT_AUTHORIZED, or SERVER_BUSY when too many are waiting for
        an answer. It does not fail."""


class Authorizer(Protocol):
    """Decides what a connected client may do. The answers depend on the arguments only."""

    def may_publish(self, client: Identity, topic: str) -> bool:
        """Whether `client` may publish to this topic name, as a will too."""

    def may_subscribe(self, client: Identity, filter: str) -> bool:
        """Whether `client` may have every topic that this topic filter brings."""


class AnonymousOnly:
    """Without a password file: whoever comes through a listener that takes anonymous clients is welcome.

    A user name is not checked, so nothing may depend on it; an ACL that names users needs a password file.
    """

    def authenticate(self, credentials: Credentials) -> Deferred[Reason]:
        return succeed(Reason.SUCCESS if credentials.anonymous_allowed else Reason.NOT_AUTHORIZED)


class AllowAll:
    """Without an ACL file: everybody may publish and subscribe everything."""

    def may_publish(self, client: Identity, topic: str) -> bool:
        return True

    def may_subscribe(self, client: Identity, filter: str) -> bool:
        return True
