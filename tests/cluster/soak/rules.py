"""What docs/cluster.md promises, asked of the books once everything is quiet.

What can be seen at once is checked where it is seen, in ``peer`` and ``clients``: order, QoS 2 once, one owner.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.cluster.soak.books import Book, Sent, Testament
from tests.cluster.soak.clients import Client, Prober
from tests.cluster.soak.world import World

#: How long a stopped node lets a client come back before its will is published, seconds.
GRACE = 10.0
#: Clocks of the broker and of this program see the end of a connection at different times.
BLUR = 1.0


class Rules:
    """What was complained of, or found in order, is not looked at again."""

    def __init__(self, world: World, book: Book, clients: list[Client], seed: int) -> None:
        self._world, self._book, self._clients, self._seed = world, book, clients, seed
        self._done: set[tuple[object, ...]] = set()
        self._probes = 0

    def missing(self) -> list[tuple[tuple[object, ...], str]]:
        """What is still to come, each with a key for `close`."""
        found: list[tuple[tuple[object, ...], str]] = []
        for client in self._clients:
            if client.line is None:
                found.append(((), f"{client.name} is away"))
            elif client.open:
                found.append(((), f"{client.name} waits for {len(client.open)} acknowledgements"))
            for line in client.retired:
                if not line.closed.is_set():
                    found.append(((line,), f"{client.name}: its old connection {line.number} is still open"))
            if client.line is not None:
                for sent, where in self._missed(client):
                    found.append(((client.name, sent), f"{client.name} misses {sent.topic} {sent.number}, {where}"))
        for sent in self._book.sent.values():
            shared = sent.topic[0] == "s" and (sent.topic, sent.number) in self._book.shared
            if (
                sent.topic[0] == "s"
                and sent.acked
                and not shared
                and self._open(sent, "group")
                and self._has_member(sent)
            ):
                found.append((("group", sent), f"the group misses {sent.topic} {sent.number}, {self._at(sent)}"))
        for will in self._book.wills:
            least, _ = self._expected(will)
            for name, came in self._came(will):
                if came < least and (name, will) not in self._done:
                    found.append(((name, will), f"{name} misses the will {self._tell(will)}"))
        return found

    def close(self) -> None:
        """Complain of what is missing, and of wills that came too often; what is older than now is done."""
        for key, text in self.missing():
            self._world.violation(text)
            self._done.add(key)
        for will in self._book.wills:
            _, most = self._expected(will)
            for name, came in self._came(will):
                if came > most and ("often", name, will) not in self._done:
                    self._done.add(("often", name, will))
                    self._world.violation(f"{name} got a will {came} times, not {most}: {self._tell(will)}")

    # -- messages ------------------------------------------------------------------------------------------------

    def _open(self, sent: Sent, name: str) -> bool:
        return (name, sent) not in self._done

    def _at(self, sent: Sent) -> str:
        return f"sent at {sent.began - self._world.began:.2f}, acknowledged at {sent.acked - self._world.began:.2f}"

    def _missed(self, client: Client) -> Iterator[tuple[Sent, str]]:
        """Acknowledged messages that this session should have, and has not."""
        life = client.life
        for topic_filter, spans in life.subscriptions.items():
            if not topic_filter.startswith("t/"):
                continue
            for qos in (1, 2):
                topic = topic_filter.replace("#", str(qos))
                seen = life.seen.get(topic, {})
                for sent in self._book.topic(topic):
                    if sent.acked and sent.number not in seen and self._open(sent, client.name):
                        for start, end in spans:
                            if start < sent.began and sent.acked < end:
                                span = f"{start - self._world.began:.2f} to {end - self._world.began:.2f}"
                                yield sent, f"{self._at(sent)}, subscribed from {span}"

    def _has_member(self, sent: Sent) -> bool:
        """Whether the group had somebody all the time who is still there."""
        name = f"$share/{sent.qos}/s/+/{sent.qos}"
        for client in self._clients:
            if name in client.wanted and client.durable and client.lives:
                spans = client.life.subscriptions.get(name, [])
                if spans and spans[-1][0] < sent.began:
                    return True
        return False

    # -- wills ---------------------------------------------------------------------------------------------------

    def _tell(self, will: Testament) -> str:
        times = {"began": will.began, "accepted": will.accepted, "waived": will.waived, "ended": will.ended}
        times |= {"tried": will.tried, "resumed": will.resumed}
        text = " ".join(f"{name} {when - self._world.began:.2f}" for name, when in times.items() if when)
        node = self._world.nodes[will.node].name
        return (
            f"{will.will.topic} {will.will.payload.decode()} QoS {will.will.qos} delay {will.will.delay} at {node}: "
            f"{text} present {will.present}"
        )

    def _came(self, will: Testament) -> Iterator[tuple[str, int]]:
        for client in self._clients:
            if "w/#" in client.wanted and client.lives:
                seen = client.life.seen.get(will.will.topic, {})
                yield client.name, seen.get(int(will.will.payload), 0)

    def _expected(self, will: Testament) -> tuple[int, int]:
        """How often a will has to come, at the least and at the most."""
        disturbed, now = self._world.disturbed, time.monotonic()
        if not will.accepted:
            return 0, 1
        if will.waived:
            return 0, int(not will.ended or disturbed(will.node, will.waived - 3, will.ended + 2))
        if not will.ended:
            return 0, 0
        delay = min(will.will.delay, will.expiry) if will.will.delay else 0
        drained = disturbed(will.node, will.ended - 25, will.ended, "drain")
        if drained:
            # Whether the connection ended by the drain, and when, is known to the node only.
            gone = now if not will.tried else will.tried
            return int(gone > will.ended + GRACE + delay + 3 * BLUR), 1
        if not delay:
            return 1, 1
        if disturbed(will.node, will.ended - 12, will.ended + delay + BLUR) or not will.tried:
            return int(not will.tried and now > will.ended + delay + GRACE), 1
        if will.tried < will.ended + delay - BLUR and will.resumed < will.ended + delay - BLUR and will.resumed:
            return (0, 0) if will.present else (1, 1)
        return 0, 1

    # -- retained messages ---------------------------------------------------------------------------------------

    async def probe(self, node: int, strict: bool = False) -> bool:
        """Subscribe to all retained messages. Each has to be as new as the last that was acknowledged before; if
        `strict`, exactly that. Whether an answer came."""
        acked = {
            topic: max((s.number for s in self._book.topic(topic) if s.acked), default=0)
            for topic in list(self._book.topics)
            if topic.startswith("r/")
        }
        self._probes += 1
        prober = Prober(self._world, self._book, self._seed, f"probe{self._probes}", 4 + self._probes % 2, 0)
        if not await prober.look(node):
            return False
        for topic, number in acked.items():
            current = [sent for sent in self._book.topic(topic) if sent.number >= number]
            allowed = {0 if sent.empty else sent.number for sent in current} or {0}
            if strict:
                allowed = {0 if sent.empty else sent.number for sent in current[:1]} or {0}
            found = prober.found.get(topic, [])
            got = [seen for seen, retained in found if retained] or [0]
            live = [seen for seen, retained in found if not retained and (seen in allowed or not seen)]
            if not (set(got) <= allowed or live) or (strict and len(got) > 1):
                name = self._world.nodes[node].name
                self._world.violation(f"retained {topic} at {name} is {got}, not one of {allowed}; live {live}")
                for line in prober.trace:
                    self._world.say(f"    {prober.name} {line}")
        return True
