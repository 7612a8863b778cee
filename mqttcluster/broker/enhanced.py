"""Enhanced authentication of MQTT 5.0: who a client is comes out in a conversation of AUTH packets.

An `IAuthenticationMethod` is one way to have it; `broker.scram` is one that is built in, others can be named in the
configuration. The broker (`broker.dialogue`) carries the data to and fro, and knows nothing of what they mean. The same
method serves a client that authenticates again while it is connected.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zope.interface import Attribute, Interface

from mqttcluster.mqtt.reasons import Reason


@dataclass(slots=True)
class Claim:
    """Who begins to authenticate. `username` is that of CONNECT, which nobody has checked, `certificate_name` as in
    `Credentials`."""

    client_id: str
    username: str | None
    peer: str
    certificate_name: str | None = None


@dataclass(slots=True)
class Challenge:
    """The client is to answer this."""

    data: bytes = field(repr=False)


@dataclass(slots=True)
class Finish:
    """The client is the user `username`. `data` is told to it with the good news."""

    username: str | None
    data: bytes = field(default=b"", repr=False)


#: What an exchange answers; a reason of 0x80 or more refuses the client.
Answer = Challenge | Finish | Reason


class IExchange(Interface):
    """One conversation with one client."""

    def step(data):  # type: ignore[no-untyped-def]
        """The client has said `data` (bytes; empty if its packet had none). Called once for each of its packets.

        Returns, or has a Deferred fire with, or is a coroutine that returns `Challenge`, `Finish`, or a `Reason` to
        refuse: BAD_USER_NAME_OR_PASSWORD, NOT_AUTHORIZED, or another one of 0x80 or more.
        """


class IAuthenticationMethod(Interface):
    """One Authentication Method."""

    name = Attribute("The name by which clients ask for it, a str.")

    def begin(claim):  # type: ignore[no-untyped-def]
        """An `IExchange` for a client that begins to authenticate, or does so again. `claim` is a `Claim`."""
