"""The cast: who publishes, reads, shares, or dies with a will, and what each of them does at random."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from tests.cluster.soak.books import Book, Sent
from tests.cluster.soak.packets import NEVER, Will
from tests.cluster.soak.peer import Peer
from tests.cluster.soak.world import World
from tests.support import wire
from tests.support.wire import Packet, Published

#: What a client does while there is a storm, and how often beside each other.
RESTLESS = {"cut": 4, "leave_for_a_while": 3, "move": 5, "both": 1, "pause": 3, "nothing": 6}
FICKLE = {"unsubscribe_one": 5, "subscribe_one": 7, "again": 2}


class Weather:
    """`storm` is true while clients publish and move about."""

    storm = False


class Client(Peer):
    """A peer that does this and that, by the weights of its `habits`."""

    habits = RESTLESS
    #: Filters, with a QoS, of which it has some or all.
    filters: Sequence[tuple[str, int]] = ()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: (topic, number) of what came at QoS 0 -> on which connection.
        self.zero: dict[tuple[str, int], int] = {}

    async def live(self, weather: Weather) -> None:
        acts, weights = list(self.habits), list(self.habits.values())
        for topic_filter, qos in self.filters:
            if "subscribe_one" not in self.habits or self.chance.random() < 0.6:
                self.wanted[topic_filter] = qos
        while True:
            await self.come()
            end = time.monotonic() + self.chance.uniform(0.3, 5)
            while time.monotonic() < end and self.line is not None:
                await asyncio.sleep(0.1)
            if weather.storm and self.line is not None:
                await getattr(self, self.chance.choices(acts, weights)[0])()

    def will(self) -> Will | None:
        return None

    async def come(self, clean: bool = False) -> None:
        """Connect somewhere, if it is not connected."""
        while self.line is None:
            node = self.chance.randrange(len(self.world.nodes))
            if not await self.connect(node, clean or self.doubtful, self.will()):
                await asyncio.sleep(self.chance.uniform(0.05, 0.5))

    async def away(self) -> None:
        await asyncio.sleep(self.chance.choice([0, 0.3, 2, 5]) * self.chance.random())

    async def nothing(self) -> None:
        pass

    async def cut(self) -> None:
        if self.line is not None:
            line = self.line
            line.cut()
            await line.closed.wait()
            await self.away()

    async def leave_for_a_while(self) -> None:
        await self.leave()
        await self.away()

    async def move(self) -> None:
        """To another node, or the same, while the old connection is open."""
        await self.connect(self.chance.randrange(len(self.world.nodes)), False, self.will())

    async def both(self) -> None:
        """Two connections at once."""
        await asyncio.gather(self.move(), self.move())

    async def pause(self) -> None:
        if (line := self.line) is not None:
            line.read_on(False)
            await asyncio.sleep(self.chance.uniform(0.5, 4))
            line.read_on(True)

    async def start_anew(self) -> None:
        if self.chance.random() < 0.5:
            await self.cut()
        if self.line is None:
            await self.come(clean=True)
        else:
            await self.connect(self.chance.randrange(len(self.world.nodes)), True, self.will())

    async def expire(self) -> None:
        await self.leave()
        await asyncio.sleep(self.expiry + 3 if self.level == 5 and self.expiry < 10 else 0)

    async def unsubscribe_one(self) -> None:
        if self.wanted:
            self.unsubscribe(self.chance.choice(list(self.wanted)))

    async def subscribe_one(self) -> None:
        missing = [(name, qos) for name, qos in self.filters if name not in self.wanted]
        if missing:
            self.subscribe(*self.chance.choice(missing))

    async def again(self) -> None:
        """Subscribe to what it has."""
        if self.wanted:
            self.subscribe(*self.chance.choice(list(self.wanted.items())))

    # What an application sees.

    def shown(self, message: Published) -> None:
        number = int(message.payload.split()[0])
        seen = self.life.seen.setdefault(message.topic, {})
        connection = self.line.number if self.line is not None else 0
        if message.qos == 0 and self.zero.get((message.topic, number)) != connection:
            # As a client moves both nodes may give it the same message of QoS 0.
            self.zero[message.topic, number] = connection
        elif number in seen and (message.qos != 1 or not message.dup):
            seen[number] += 1
            if message.qos != 1 and message.topic[0] != "s":
                self.wrong(f"{message.topic} {number} came {seen[number]} times at QoS {message.qos}")
        seen.setdefault(number, 1)
        if message.topic[0] == "s":
            self._shared(message, number)
        elif message.topic[0] == "t":
            self._in_order(message, number)

    def _in_order(self, message: Published, number: int) -> None:
        sent = self.book.sent.get((message.topic, number))
        if sent is None:
            self.wrong(f"{message.topic} {number} was never sent")
            return
        spans = self.life.subscriptions.get(f"t/{message.topic.split('/')[1]}/#")
        if not spans or sent.began < spans[-1][0] or sent.lost:
            return  # said before, and here only because it was said once more; or nobody waits for it any more
        last = self.life.last.get(message.topic, 0)
        if self.life.seen[message.topic][number] == 1 and number < last and not message.dup:
            before = self.book.sent[message.topic, last]
            if message.qos or before.connection == sent.connection:
                self.wrong(f"{message.topic} {number} came after {last} {ages(sent, before)}")
        self.life.last[message.topic] = max(number, last)

    def _shared(self, message: Published, number: int) -> None:
        who = self.book.shared.setdefault((message.topic, number), [])
        who.append((self.name, message.qos))
        if message.qos == 2 and len(who) > 1:
            self.wrong(f"{message.topic} {number} came to {who}")


def ages(*messages: Sent) -> str:
    now = time.monotonic()
    return " ".join(f"(sent {now - each.began:.2f} s ago on connection {each.connection})" for each in messages)


class Publisher(Client):
    """Has topics of its own; the numbers in each count up."""

    retains = False
    rate = 10.0

    async def live(self, weather: Weather) -> None:
        await asyncio.gather(super().live(weather), self._publish(weather))

    async def _publish(self, weather: Weather) -> None:
        while True:
            await asyncio.sleep(self.chance.expovariate(self.rate))
            if not weather.storm or self.line is None or len(self.open) >= 15:
                continue
            qos = self.chance.randrange(3)
            kind = self.chance.random()
            if self.retains and kind < 0.2:
                number = self.chance.randrange(4)
                self.publish(f"r/{self.name}/{number}", 1 + number % 2, True, self.chance.random() < 0.2)
            elif qos and kind < 0.5:
                self.publish(f"s/{self.name}/{qos}", qos)
            else:
                for _ in range(1 if kind < 0.95 else 10):
                    self.publish(f"t/{self.name}/{qos}", qos)


class Mortal(Client):
    """Each of its connections has a will."""

    def will(self) -> Will:
        topic = f"w/{self.name}"
        payload = b"%d" % self.book.next_number(topic)
        delay = self.chance.choice([0, 0, 1, 3]) if self.level == 5 else 0
        return Will(topic, payload, self.chance.choice([1, 2]), delay)


class Prober(Peer):
    """Subscribes to all retained messages, once."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.found: dict[str, list[tuple[int, bool]]] = {}
        self.complete = asyncio.Event()

    def shown(self, message: Published) -> None:
        number = int(message.payload.split()[0]) if message.payload else 0
        self.found.setdefault(message.topic, []).append((number, message.retain))

    def _answered(self, packet: Packet) -> None:
        super()._answered(packet)
        assert self.line is not None
        self.line.send(wire.PINGREQ_PACKET)

    def pong(self) -> None:
        self.complete.set()

    async def look(self, node: int) -> bool:
        """Whether it got to see everything; the connection is closed then."""
        if not await self.connect(node):
            return False
        line = self.line
        assert line is not None
        line.send(wire.subscribe(1, ("r/#", 1), level=self.level))
        self._requests[1] = "r/#", False
        waits = [asyncio.create_task(event.wait()) for event in (self.complete, line.closed)]
        await asyncio.wait(waits, timeout=15, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        line.left = True
        line.cut()
        return self.complete.is_set()


def cast(world: World, book: Book, seed: int) -> list[Client]:
    """Everybody, versions and kinds of session mixed."""
    clients: list[Client] = []
    publishers = [f"p{number}" for number in range(6)]
    topics = [f"t/{name}/#" for name in publishers]
    for number, name in enumerate(publishers):
        level = 4 + number % 2
        publisher = Publisher(world, book, seed, name, level, NEVER if number != 5 else 0)
        publisher.retains = number < 3
        if number == 4:
            publisher.habits = {**RESTLESS, "start_anew": 1}
        clients.append(publisher)
    for number in range(8):
        level = 5 if number % 2 else 4
        expiry = [NEVER, NEVER, NEVER, 4, NEVER, 60, 0, 0][number]
        reader = Client(world, book, seed, f"d{number}" if expiry else f"c{number}", level, expiry, number % 4 * 2)
        reader.filters = [(topic, 1 if number == 4 else 2) for topic in topics]
        reader.habits = {**RESTLESS, **FICKLE}
        if number in (2, 3):
            reader.habits = {**reader.habits, "start_anew": 1, "expire": 1}
        if number in (4, 6):
            reader.habits = {"nothing": 5, "pause": 1, "again": 1}  # these miss nothing
        clients.append(reader)
    for number in range(7):
        qos = 1 if number < 4 else 2
        member = Client(world, book, seed, f"m{number}", 5, 0 if number in (2, 3) else NEVER, number % 3)
        member.filters = [(f"$share/{qos}/s/+/{qos}", qos)]
        if number in (1, 2, 5):
            member.habits = {**RESTLESS, **FICKLE}
        if number == 1:
            member.habits = {**member.habits, "start_anew": 1}
        clients.append(member)
    for number in range(6):
        expiry = [NEVER, NEVER, 0, 0, NEVER, 2][number]
        mortal = Mortal(world, book, seed, f"w{number}", 4 + number % 2, expiry)
        if number in (4, 5):
            mortal.habits = {**RESTLESS, "start_anew": 2}
        clients.append(mortal)
    for number in range(2):
        watcher = Client(world, book, seed, f"watcher{number}", 4 + number, NEVER)
        watcher.filters = [("w/#", 2)]
        clients.append(watcher)
    return clients
