"""Shared subscriptions: who of a group gets a message [MQTT-4.8.2].

A *group* is one shared subscription, `$share/NAME/FILTER`, whoever has it, wherever he is connected. `Group.order` says
whom to try first: connected members that have room, then connected ones that have none, then those that are offline.
Within these a *policy* decides.
"""

from __future__ import annotations

from enum import Enum
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mqttcluster.core.routing import Subscriber
    from mqttcluster.mqtt.packets import Subscription

#: Members with room that are named for one message; with so many nobody looks for more.
ENOUGH = 16
#: Up to so many members are shuffled; of more, a random one is the first and his neighbours follow.
SHUFFLED = 64
#: A member at another node for whom so many messages wait is passed over. As his node does not tell when he has taken
#: them, each time counts as one less; so he is tried again, the later the more there is.
MUCH = 64

_random = Random()


class SharePolicy(str, Enum):
    """Who is next. ROUND_ROBIN: each in his turn. RANDOM: anybody. LOCAL_FIRST: each in his turn, members connected to
    the node where the message was published before all others. STICKY: the one before, as long as he has room."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    LOCAL_FIRST = "local-first"
    STICKY = "sticky"


class Member:
    """A session in a group, and what it asked for."""

    __slots__ = ("share", "subscriber", "subscription")

    def __init__(self, share: str, subscriber: Subscriber, subscription: Subscription) -> None:
        self.share = share
        self.subscriber = subscriber
        self.subscription = subscription

    @property
    def local(self) -> bool:
        """Whether the client is connected to this node."""
        return self.subscriber.outlet is not None

    @property
    def online(self) -> bool:
        """Whether the client is connected, as far as it is known here."""
        return self.subscriber.outlet is not None or bool(self.subscriber.node)

    @property
    def ready(self) -> bool:
        """Whether the client is connected and can take a message now, as far as it is known here."""
        subscriber = self.subscriber
        if subscriber.outlet is not None:
            return subscriber.outlet.room > subscriber.promised
        return bool(subscriber.node) and subscriber.backlog + subscriber.promised < MUCH


class Group:
    """The members of one shared subscription; `share` is its whole filter."""

    __slots__ = ("_members", "_ring", "_turn", "share")

    def __init__(self, share: str) -> None:
        self.share = share
        self._members: dict[Subscriber, Member] = {}
        self._ring: tuple[Member, ...] = ()
        self._turn = 0

    def __len__(self) -> int:
        return len(self._members)

    def join(self, subscriber: Subscriber, subscription: Subscription) -> None:
        """Add a member, or change what it asked for."""
        self._members[subscriber] = Member(self.share, subscriber, subscription)
        self._ring = tuple(self._members.values())

    def leave(self, subscriber: Subscriber) -> None:
        del self._members[subscriber]
        self._ring = tuple(self._members.values())

    def order(self, policy: SharePolicy = SharePolicy.ROUND_ROBIN, random: Random = _random) -> list[Member]:
        """The members in the order in which they are to be tried for one message; the first one counts as chosen."""
        ring = self._ring
        size = len(ring)
        start = random.randrange(size) if policy is SharePolicy.RANDOM and size else self._turn
        if policy is SharePolicy.RANDOM and size <= SHUFFLED:
            ring, start = tuple(random.sample(ring, size)), 0
        ready: list[Member] = []
        busy: list[Member] = []
        offline: list[Member] = []
        far: list[Member] = []
        for at in range(size):
            member = ring[(start + at) % size]
            if not member.online:
                offline.append(member)
            elif not member.ready:
                member.subscriber.backlog -= not member.local
                busy.append(member)
            elif policy is SharePolicy.LOCAL_FIRST and not member.local:
                far.append(member)
            else:
                ready.append(member)
                if len(ready) == ENOUGH:
                    break
        found = ready + far + busy + offline
        if found and policy is not SharePolicy.RANDOM:
            self._turn = (ring.index(found[0]) + (policy is not SharePolicy.STICKY)) % size
        return found
