"""Publishers and subscribers at full speed, in one thread.

At QoS 0 publishers send whatever the broker reads; what the broker drops then is lost, and is counted. At QoS 1 and 2
a publisher keeps a window of messages that are not acknowledged, and does not run far ahead of its subscriber, so that
no broker's queue has to overflow: loss would be a defect.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import wire
from benchmarks.clients import RING, Publisher, Subscriber, joined, numbered
from benchmarks.links import TCP, Entry, Link, Refused, enter
from benchmarks.programs import Usage

#: Shapes: who publishes to whom.
PAIRS, OUT, IN, MANY = "pairs", "out", "in", "many"
#: Topics of a load with the shape `MANY`, and the wildcard subscriptions that they match.
MANY_TOPICS, MANY_FILTERS = 10_000, 1_000
#: Bytes of frames that are encoded beforehand, for all publishers, where their number does not matter.
MOST = 1 << 25
#: A broker that has neither sent nor done anything for so long, in seconds, has lost what is still due.
SILENCE = {0: 0.5, 1: 10.0, 2: 10.0}
#: After a look at the sockets that has brought fewer messages and acknowledgements, the load rests for so long, in
#: seconds: a broker that sends in small pieces shall not make the load the limit.
LITTLE, REST = 24, 0.0001
#: Seconds to wait for the first message; and, at QoS 0, for what has not come at the end.
PATIENCE = 10.0


@dataclass(slots=True)
class Load:
    """What is offered. `shape`: pairs; one publisher to all subscribers; all publishers to one subscriber by a
    wildcard; one publisher with many topics, and ten subscribers with a hundred wildcards each.

    `held_subscriptions` and `held_connections` are there all the time and get nothing. `ports` are the publishers' and
    the subscribers' node. `run` makes names that no other load has.
    """

    ports: Sequence[int]
    run: str
    shape: str = PAIRS
    qos: int = 0
    publishers: int = 1
    subscribers: int = 1
    size: int = 100
    transport: str = TCP
    version: int = 4
    persistent: bool = False
    window: int = 100
    ahead: int = 0
    numbered: bool = False
    held_subscriptions: int = 0
    held_connections: int = 0
    warm: float = 0.4
    seconds: float = 1.0
    pids: Sequence[int] = field(default_factory=list)


@dataclass(slots=True)
class Clients:
    """The connections of a load."""

    publishers: list[Publisher]
    subscribers: list[Subscriber]
    others: list[Link]
    each: int  # subscribers that get a message


def topics(load: Load) -> tuple[list[list[str]], list[list[str]]]:
    """Each publisher's topics, each subscriber's filters."""
    base = f"bench/{load.run}"
    if load.shape == MANY:
        per = MANY_TOPICS // MANY_FILTERS
        names = [f"{base}/{at % MANY_FILTERS:04}/{at // MANY_FILTERS % per}" for at in range(MANY_TOPICS)]
        share = MANY_FILTERS // load.subscribers
        filters = [[f"{base}/{n * share + at:04}/+" for at in range(share)] for n in range(load.subscribers)]
        return [names] * load.publishers, filters
    single = [[f"{base}/{at:04}"] for at in range(load.publishers)]
    if load.shape == IN:
        return single, [[f"{base}/+"]] * load.subscribers
    if load.shape == OUT:
        return single, single * load.subscribers
    return single, single


def hold(load: Load) -> list[Link]:
    """The subscriptions and connections that are there and get nothing."""
    others: list[Link] = []
    if load.held_subscriptions:
        clients = max(1, load.held_subscriptions // 1000)
        share = load.held_subscriptions // clients
        # Every other one is a wildcard.
        names = [[f"held/{load.run}/{n}/{'+/' if at % 2 else ''}{at}" for at in range(share)] for n in range(clients)]
        entries = [Entry(f"h-{load.run}-{n}", load.ports[-1], filters=names[n]) for n in range(clients)]
        others += enter(entries, TCP, load.version)
    if load.held_connections:
        idle = (Entry(f"i-{load.run}-{n}", load.ports[-1]) for n in range(load.held_connections))
        others += enter(idle, TCP, load.version)
    return others


def meet(load: Load) -> Clients:
    """Connect and subscribe."""
    names, filters = topics(load)
    subscribing = [
        Entry(f"s-{load.run}-{n}", load.ports[-1], not load.persistent, filters[n], load.qos)
        for n in range(load.subscribers)
    ]
    publishing = [Entry(f"p-{load.run}-{n}", load.ports[0]) for n in range(load.publishers)]
    to_subscribers = enter(subscribing, load.transport, load.version)
    to_publishers = enter(publishing, load.transport, load.version)

    topic = names[0][0]
    before = 2 + len(topic) + (2 if load.qos else 0) + (load.version == 5)
    head = len(wire.packet(0, bytes(before + load.size))) - load.size
    size = head + load.size
    identifier = head - 2 - (load.version == 5)
    number = head if load.numbered or load.qos else None
    first = 0x30 | load.qos << 1
    subscribers = [Subscriber(link, size, first, load.qos, number, identifier) for link in to_subscribers]

    batch = max(4096, (1 << 18) // load.publishers)
    publishers = []
    for link, entry, own in zip(to_publishers, publishing, names):
        frames = [link.framed(wire.publish(name, b"." * load.size, load.qos, load.version)) for name in own]
        if len(frames) > 1:
            ring = joined(frames)
        else:
            # No two payloads in a row are the same, whether anybody looks at the numbers or not.
            length = len(frames[0])
            count = RING if number is not None else max(16, min(RING, MOST // length // load.publishers))
            ring = numbered(frames[0], length - load.size, identifier if load.qos else None, count)
        window = min(load.window, entry.window)
        publishers.append(Publisher(link, ring, len(frames[0]), load.qos, window, load.ahead, batch))
    if load.shape == PAIRS:
        for publisher, subscriber in zip(publishers, subscribers):
            publisher.subscriber = subscriber
            if publisher.limited:
                subscriber.pump_after = publisher
    for link in to_publishers:
        link.ready(max(batch, load.window * size if load.qos else 0))
    for link in to_subscribers:
        link.ready()
    return Clients(publishers, subscribers, hold(load), load.subscribers if load.shape == OUT else 1)


class Loop:
    """Calls publishers and subscribers when their sockets are ready."""

    def __init__(self, clients: Clients) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[int], int]] = {}
        self._publishers = clients.publishers
        for publisher in clients.publishers:
            # Without limits, a publisher is always waiting for room.
            both = select.EPOLLIN | (0 if publisher.limited else select.EPOLLOUT)
            self._add(publisher.link, both, self._publisher(publisher))
        for subscriber in clients.subscribers:
            self._add(subscriber.link, select.EPOLLIN, self._subscriber(subscriber))

    def _add(self, link: Link, events: int, handler: Callable[[int], int]) -> None:
        self._handlers[link.socket.fileno()] = handler
        self._poll.register(link.socket.fileno(), events)

    def _publisher(self, publisher: Publisher) -> Callable[[int], int]:
        def handle(event: int) -> int:
            count = publisher.read() if event & ~select.EPOLLOUT else 0
            if not publisher.stopped:
                publisher.pump()
            return count

        return handle

    def _subscriber(self, subscriber: Subscriber) -> Callable[[int], int]:
        return lambda event: subscriber.read()

    def quiet(self) -> None:
        """Publishers do not wait for room any more."""
        for publisher in self._publishers:
            self._poll.modify(publisher.link.socket.fileno(), select.EPOLLIN)

    def turn(self, wait: float) -> bool:
        """Whether anything has come."""
        ready = self._poll.poll(wait)
        handlers = self._handlers
        count = 0
        for descriptor, event in ready:
            count += handlers[descriptor](event)
        if count < LITTLE:
            time.sleep(REST)
        return bool(ready)

    def close(self) -> None:
        self._poll.close()


def received(clients: Clients) -> int:
    return sum(subscriber.received for subscriber in clients.subscribers)


def run(load: Load) -> dict[str, Any]:
    """Offer the load: `warm` seconds, then `seconds` that count, then until everything has come."""
    clients = meet(load)
    loop = Loop(clients)
    usage = Usage(load.pids)
    usage.settle()

    def go_on(until: float) -> None:
        heard = time.monotonic()
        while (now := time.monotonic()) < until:
            if loop.turn(0.02):
                heard = now
            else:
                for publisher in clients.publishers:
                    if now - heard > SILENCE[0] and not load.qos:
                        publisher.forgive()
                    publisher.pump()

    for publisher in clients.publishers:
        publisher.pump()
    go_on(time.monotonic() + load.warm)
    late = time.monotonic() + PATIENCE
    while not received(clients) and time.monotonic() < late:
        go_on(time.monotonic() + 0.05)
    count, began = received(clients), time.monotonic()
    usage.begin()
    go_on(began + load.seconds)
    # The time may be short, and somebody else may have had the processor.
    while received(clients) == count and time.monotonic() < began + load.seconds + PATIENCE:
        go_on(time.monotonic() + 0.05)
    took = time.monotonic() - began
    used = usage.end()
    count = received(clients) - count
    result: dict[str, Any] = {"rate": count / took, "messages": count, **used.per(count, took)}
    result.update(drain(load, clients, loop, usage))
    loop.close()
    links = [publisher.link for publisher in clients.publishers]
    links += [subscriber.link for subscriber in clients.subscribers]
    for link in [*links, *clients.others]:
        link.close()
    if load.persistent:
        forget = [Entry(f"s-{load.run}-{n}", load.ports[-1]) for n in range(load.subscribers)]
        for link in enter(forget, load.transport, load.version):
            link.close()
    return result


def drain(load: Load, clients: Clients, loop: Loop, usage: Usage) -> dict[str, Any]:
    """Publish nothing more, and wait for what is under way. What was lost, repeated and out of order."""
    for publisher in clients.publishers:
        publisher.stop()
    loop.quiet()
    silence = SILENCE[load.qos]
    ended = heard = time.monotonic()

    def due() -> int:
        return sum(publisher.sent for publisher in clients.publishers) * clients.each - received(clients)

    def pending() -> bool:
        return any(p.blocked or p.due for p in clients.publishers) or due() > 0

    used = usage.total()
    while pending():
        if time.monotonic() - heard > silence:
            if usage.total() - used < 0.03 and usage.waiting():
                break
            heard, used = time.monotonic(), usage.total()
        if not load.qos and time.monotonic() - ended > PATIENCE:
            return {"lost": None, "repeated": 0, "reordered": 0}
        for publisher in clients.publishers:
            publisher.finish()
        for subscriber in clients.subscribers:
            subscriber.reply()
        if loop.turn(0.01):
            heard, used = time.monotonic(), usage.total()
    if any(publisher.due for publisher in clients.publishers):
        raise Refused("a broker has not acknowledged everything")
    if not all(subscriber.whole() for subscriber in clients.subscribers):
        raise Refused("a broker has sent something else than messages")
    subscribers = clients.subscribers
    repeated = sum(subscriber.repeated for subscriber in subscribers)
    # A message that came twice does not make up for another one.
    lost = due() + repeated
    return {"lost": lost, "repeated": repeated, "reordered": sum(subscriber.reordered for subscriber in subscribers)}
