"""Who may connect, and what a client may publish and subscribe: the words that are used for it.

`IAuthenticator` and `IAuthorizer` are for code from outside, named in the configuration; docs/authentication.md has an
example of each. `authentication.Chain` and `authorization.Rules` ask them one after the other, and are what the broker
knows: `Authenticator` and `Authorizer`. `passwords` and `acl` read both from files; `AnonymousOnly` and `AllowAll` are
what a broker has without any of this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from zope.interface import Interface

from mqttcluster.mqtt.reasons import Reason


@dataclass(slots=True)
class Credentials:
    """What a CONNECT said about who is connecting.

    `username` and `password` are None if the packet had none. `anonymous_allowed` belongs to the listener the client
    came through: clients without a user name are welcome there. `peer` is the client's address, for the log.
    `certificate_name` is the name in the client's certificate, None without `tls-identity` or without a certificate.

    Once the client was allowed in, `username` is who it is taken for.
    """

    client_id: str
    username: str | None
    password: bytes | None = field(repr=False)
    anonymous_allowed: bool
    peer: str
    certificate_name: str | None = None


@dataclass(slots=True)
class Identity:
    """Who a connection belongs to, after its CONNECT was accepted. `username` is None for an anonymous client."""

    client_id: str
    username: str | None


@dataclass(slots=True)
class Allow:
    """An authenticator's answer: the client may connect, and is the user `username` from now on."""

    username: str | None


#: What an authenticator answers; None: no opinion, ask the next one.
Verdict = bool | Allow | Reason | None


class IAuthenticator(Interface):
    """Decides whether a client may connect."""

    def authenticate(credentials):  # type: ignore[no-untyped-def]
        """Whether the client with these `Credentials` may connect.

        Returns, or has a Deferred fire with, or is a coroutine that returns:

        * None for no opinion: the next authenticator is asked;
        * True, or `Allow` with the user name that the client has from now on;
        * False, which is Reason.BAD_USER_NAME_OR_PASSWORD, or another `Reason` of 0x80 or more.
        """


class IAuthorizer(Interface):
    """Decides what a connected client may do. The answers are remembered for a client until its connection ends or the
    rules are read again (SIGHUP)."""

    def may_publish(client, topic):  # type: ignore[no-untyped-def]
        """Whether this client (an `Identity`) may publish to a topic name, as a will too.

        Returns, or has a Deferred fire with, or is a coroutine that returns True, False, or None for no opinion.
        """

    def may_subscribe(client, filter):  # type: ignore[no-untyped-def]
        """Whether this client may have every topic that a topic filter brings. Answers like `may_publish`."""


class Authenticator(Protocol):
    """Decides whether a client may connect."""

    def authenticate(self, credentials: Credentials) -> Deferred[Reason]:
        """Fires with SUCCESS, BAD_USER_NAME_OR_PASSWORD, NOT_AUTHORIZED, or another reason to refuse, such as
        SERVER_BUSY when too many are waiting for an answer. It does not fail."""


#: Whether something is allowed; None: nobody could say, so it is refused, and asked again the next time.
Permission = bool | None


class Authorizer(Protocol):
    """Decides what a connected client may do. The answers depend on the arguments, and on rules that change rarely.
    A Deferred does not fail."""

    def may_publish(self, client: Identity, topic: str) -> Permission | Deferred[Permission]:
        """Whether `client` may publish to this topic name, as a will too."""

    def may_subscribe(self, client: Identity, filter: str) -> Permission | Deferred[Permission]:
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
