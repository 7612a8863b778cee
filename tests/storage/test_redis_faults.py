"""Redis goes away, comes back, is another process, has forgotten something, or everything [G8]."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import capturedLogs, formatEvent

from mqttcluster.core.message import packet_id
from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage.interfaces import (
    GONE,
    NEVER,
    Closed,
    Opened,
    Publication,
    PublishedRun,
    QueueLimits,
    StoredWill,
    StoreError,
    Target,
)
from mqttcluster.storage.redis_calls import Publish, PublishRun
from tests.cluster.redis_server import RedisServer
from tests.storage.contract import payloads
from tests.storage.driver import PATIENCE, message, outcome, to
from tests.storage.redis_nodes import CuttingProxy, Node, Nodes

CLIENTS = [f"c{number}" for number in range(12)]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """One of each test's own, which is told to write everything down at once."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def proxy(redis: RedisServer) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(redis.port)
    yield proxy
    proxy.close()


def until_away(node: Node) -> None:
    """Until the store has noticed; only a test that has failed waits for long."""
    end = monotonic() + PATIENCE
    while node.store.ready():
        assert monotonic() < end
        sleep(0.01)


class Load:
    """300 calls of all kinds on one node, without waiting, and what they must have led to."""

    def __init__(self, node: Node, seed: int) -> None:
        self.node = node
        self.random = random.Random(seed)
        self.opened: dict[str, Opened] = {name: node.open(name, clean=True, limit=0) for name in CLIENTS}
        self.publisher = node.open("publisher", clean=True)
        self.number = 0
        self.expected: dict[str, list[tuple[int, bytes]]] = {name: [] for name in CLIENTS}
        self.last = dict.fromkeys(CLIENTS, 0)
        self.asked: list[Deferred[Any]] = []
        self.answers: list[tuple[int, Any]] = []

    def ask(self, deferred: Deferred[Any], answer: Any) -> None:
        number = len(self.asked)

        def answered(result: Any) -> None:
            self.answers.append((number, result))
            if isinstance(result, PublishedRun):
                assert set(result.owners) <= {("a", opened.epoch) for opened in self.opened.values()}
                result = result.queued
            assert (result.sequences if hasattr(result, "sequences") else result) == answer

        self.asked.append(deferred.addCallback(answered))

    def publish(self, number: int, exchange: tuple[str, int, int] | None = None) -> None:
        names = self.random.sample(CLIENTS, self.random.randint(1, 4))
        text = b"%d" % number
        for name in names:
            self.last[name] += 1
            self.expected[name].append((self.last[name], text))
        targets = [to(self.opened[name], name) for name in names]
        publication = Publication(message(text), targets, exchange=exchange)
        self.ask(self.node.store.publish(publication), [self.last[name] for name in names])

    def publish_run(self, number: int) -> None:
        names = self.random.sample(CLIENTS, self.random.randint(1, 4))
        texts = [b"%d.%d" % (number, part) for part in range(self.random.randint(1, 30))]
        answer = [(self.last[name] + 1, len(texts)) for name in names]
        for name in names:
            for text in texts:
                self.last[name] += 1
                self.expected[name].append((self.last[name], text))
        targets = [to(self.opened[name], name) for name in names]
        self.ask(self.node.store.publish_run([message(text) for text in texts], targets, 0.0), answer)

    def acknowledge(self) -> None:
        name = self.random.choice(CLIENTS)
        done = [sequence for sequence, _ in self.expected[name][:2]]
        del self.expected[name][:2]
        self.ask(self.node.store.acknowledge(name, self.opened[name].epoch, done), True)

    def run(self, calls: int = 300) -> None:
        for number in range(self.number, self.number + calls):
            kind = self.random.random()
            if kind < 0.5:
                self.publish(number)
            elif kind < 0.6:
                self.publish_run(number)
            elif kind < 0.7:
                self.publish(number, ("publisher", self.publisher.epoch, 1 + number))
            elif kind < 0.75:
                released = self.node.store.release("publisher", self.publisher.epoch, [number])
                self.ask(released, True)
            elif kind < 0.95:
                self.acknowledge()
            else:
                name = f"other{number}"
                opening = self.node.store.open(name, True, 0, StoredWill(message(name)), 0.0, 0)
                self.asked.append(opening.addCallback(lambda _: self.answers.append((len(self.answers), None))))

        self.number += calls

    def check(self) -> None:
        outcome(gatherResults(self.asked, consumeErrors=True), self.node.reactor)
        assert [number for number, _ in self.answers] == list(range(len(self.asked)))
        for name in CLIENTS:
            assert payloads(self.node.read(name, self.opened[name].epoch)) == self.expected[name]


class TestCutConnections:
    @pytest.fixture
    def redis(self, tmp_path: Path) -> Iterator[RedisServer]:
        """One that is never restarted need not write to the disk at once."""
        with RedisServer(tmp_path, fsync="no") as server:
            yield server

    def test_300_calls_cut_anywhere(self, nodes: Nodes, proxy: CuttingProxy) -> None:
        """Sent again: no gap, no double, order kept; wherever the connection broke, on the way there or back."""
        node = nodes.make("a", url=proxy.url)
        sizes = {}
        for requests in (True, False):
            proxy.cut_after(1 << 40, requests)
            load = Load(node, 0)
            start = proxy.passed
            load.run()
            load.check()
            sizes[requests] = proxy.passed - start
        chance = random.Random(1)
        seed = 0
        while proxy.cuts < 35:  # a load whose calls go out in larger batches may end before it is cut
            seed += 1
            load = Load(node, seed)
            requests = bool(seed % 2)
            proxy.cut_after(chance.randint(1, sizes[requests]), requests)
            load.run()
            load.check()

    def test_opening_and_closing_are_done_once(self, nodes: Nodes, proxy: CuttingProxy) -> None:
        """A close whose answer was lost is not "stale" when it is sent again, and a will is left once."""
        node = nodes.make("a", url=proxy.url)
        for count in range(1, 60, 3):
            opened = node.open(f"c{count}", expiry=0, will=StoredWill(message("gone")))
            proxy.cut_after(count, requests=False)
            assert node.close(f"c{count}", opened.epoch) is Closed.ENDED
            assert [each[0] for each in node.due(0.0).wills] == [f"c{count}"]
            node.publish(message("gone"), will=(f"c{count}", opened.epoch))
            node.will_published(f"c{count}", opened.epoch)
        for count in range(1, 60, 3):
            proxy.cut_after(count, requests=False)
            first = node.open(f"d{count}")
            assert (first.present, first.previous) == (False, None)
            proxy.cut_after(count, requests=False)
            second = node.open(f"d{count}", clean=True)
            assert (second.wiped, second.previous) == (first.generation, ("a", first.epoch))
        assert proxy.cuts > 30

    def test_a_run_that_finds_little_room_is_answered_once(self, nodes: Nodes, proxy: CuttingProxy) -> None:
        """For how many of its messages there was room is what it was, though the answer was lost on the way and the
        queue has been full or has got room since."""
        node = nodes.make("a", url=proxy.url, limits=QueueLimits(5))
        for count in range(1, 1500, 60):
            opened, other = node.open("c", clean=True), node.open("d", clean=True)
            node.publish(message("before"), to(opened))
            proxy.cut_after(count, requests=False)
            texts = [message(str(number)) for number in range(7)]
            run = node.store.publish_run(texts, [to(opened), to(other, "d"), Target("e", 1, 1)], 0.0)
            acknowledged = node.store.acknowledge("c", opened.epoch, [1, 2])
            again = node.store.publish_run(texts[:4], [to(opened)], 0.0)
            answer = outcome(run, node.reactor)
            assert answer.queued == [(2, 4), (1, 5), (GONE, 0)]
            assert answer.owners == (("a", opened.epoch), ("a", other.epoch), ("", 0))
            assert outcome(acknowledged, node.reactor)
            assert outcome(again, node.reactor).queued == [(6, 2)]
            assert [sequence for sequence, _ in payloads(node.read("c", opened.epoch))] == [3, 4, 5, 6, 7]
            assert len(node.read("d", other.epoch)) == 5
        assert proxy.cuts > 15

    def test_an_expired_session_is_told(self, nodes: Nodes, proxy: CuttingProxy) -> None:
        """The other nodes are told that it has ended, though the answer was lost on the way."""
        node = nodes.make("a", url=proxy.url)
        for count in range(100, 2000, 100):
            opened = node.open("c", expiry=1)
            node.close("c", opened.epoch)
            proxy.cut_after(count, requests=False)
            assert node.due(5.0).expired == [("c", opened.generation)]

    def test_an_old_connection_brings_what_was_answered_long_ago(
        self, nodes: Nodes, proxy: CuttingProxy, redis: RedisServer
    ) -> None:
        """Redis was stopped with a batch unread; the batch was sent again on a new connection, and others after it.
        When Redis comes to the old connection, it must not queue those messages a second time."""
        node = nodes.make("a", url=proxy.url)
        opened = node.open()
        node.publish(message("1"), to(opened))
        late = proxy.last_requests
        node.publish(message("2"), to(opened))
        with socket.create_connection(("127.0.0.1", redis.port)) as old:
            old.sendall(late)
            assert b"OLD" in old.recv(1000)
        node.publish(message("3"), to(opened))
        assert payloads(node.read("c", opened.epoch)) == [(1, b"1"), (2, b"2"), (3, b"3")]

    def test_the_connection_is_killed_by_the_server(self, nodes: Nodes, redis: RedisServer) -> None:
        node = nodes.make("a")
        for seed in range(10):
            load = Load(node, seed)
            load.run(100)
            with redis.client() as client:
                client.client_kill_filter(_type="normal", skipme=True)
            load.run(100)
            load.check()


class TestAway:
    def test_calls_wait(self, nodes: Nodes, redis: RedisServer) -> None:
        """A lost Redis is a pause: nothing fails, and everything is answered in order when it is back."""
        node = nodes.make("a")
        opened = node.open()
        redis.kill()
        answers: list[int] = []
        asked = [
            node.store.publish(Publication(message(str(number)), [to(opened)])).addCallback(
                lambda published: answers.append(published.sequences[0])
            )
            for number in range(100)
        ]
        until_away(node)
        assert node.store.backlog == 100
        redis.start()
        outcome(gatherResults(asked), nodes.reactor)
        assert answers == list(range(answers[0], answers[0] + 100))
        assert [text for _, text in payloads(node.read("c", opened.epoch))] == [b"%d" % n for n in range(100)]
        assert node.store.backlog == 0
        assert node.store.ready()

    def test_a_redis_that_hangs(self, nodes: Nodes, redis: RedisServer) -> None:
        """It is given up after the timeout and asked again; when it wakes it finds the same batch twice, and does it
        once."""
        node = nodes.make("a", timeout=1.0)
        load = Load(node, 2)
        redis.pause()
        load.run(100)
        until_away(node)
        redis.resume()
        load.check()

    def test_scripts_forgotten(self, nodes: Nodes, redis: RedisServer) -> None:
        node = nodes.make("a")
        load = Load(node, 3)
        for _ in range(3):
            load.run(50)
            with redis.client() as client:
                client.script_flush()
        load.check()

    def test_a_replica_that_refuses_writes(self, nodes: Nodes, redis: RedisServer) -> None:
        """During a failover the old address may answer and refuse: that is away, too."""
        node = nodes.make("a")
        opened = node.open()
        with redis.client() as client:
            client.replicaof("127.0.0.1", 1)
            asked = node.store.publish(Publication(message("x"), [to(opened)]))
            until_away(node)
            client.replicaof("NO", "ONE")
        assert outcome(asked, nodes.reactor).sequences == [1]

    def test_a_redis_without_memory(self, nodes: Nodes, redis: RedisServer) -> None:
        """What needs room waits until somebody has made some."""
        node = nodes.make("a")
        opened = node.open()
        with redis.client() as client:
            client.config_set("maxmemory", "1")
            asked = node.store.publish(Publication(message("x"), [to(opened)]))
            until_away(node)
            client.config_set("maxmemory", "0")
        assert outcome(asked, nodes.reactor).sequences == [1]

    def test_damaged_data_fails_what_touches_it(self, nodes: Nodes, redis: RedisServer) -> None:
        """Somebody has overwritten a key. What needs it fails; others, also in the same partition, go on."""
        node = nodes.make("a")
        partition = node.store._backend.pipeline.keys.partition
        name = next(f"n{n}" for n in range(1000) if partition(f"n{n}") == partition("broken"))
        broken, other = node.open("broken"), node.open(name)
        with redis.client() as client:
            [key] = client.keys("mc:*:s:broken")
            client.set(key, "not a hash")
        exchange = Publication(message("x", qos=2), [to(other, name)], exchange=("broken", broken.epoch, 1))
        asked = [
            node.store.publish(each)
            for number in range(20)
            for each in (
                Publication(message(str(number)), [to(other, name)]),
                Publication(message("y"), [to(broken, "broken")]),
                exchange,
            )
        ]
        for at, deferred in enumerate(asked):
            if at % 3 == 0:
                assert outcome(deferred, nodes.reactor).sequences == [at // 3 + 1]
            else:
                with pytest.raises(StoreError, match="refused"):
                    outcome(deferred, nodes.reactor)
        assert [text for _, text in payloads(node.read(name, other.epoch))] == [b"%d" % n for n in range(20)]

    def test_each_reason_is_in_the_log_once(self, nodes: Nodes, redis: RedisServer) -> None:
        """A Redis that cuts its connections and then asks for a password: the log says both, and when it is over."""
        node = nodes.make("a")
        opened = node.open()
        with capturedLogs() as events:  # type: ignore[no-untyped-call]

            def told(text: str) -> int:
                return sum(text in (formatEvent(event) or "") for event in list(events))

            with redis.client() as client:
                client.config_set("requirepass", "secret")
                try:
                    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                    asked = [node.store.publish(Publication(message("x"), [to(opened)])) for _ in range(3)]
                    end = monotonic() + PATIENCE
                    while not told("what needs it waits: Authentication required"):
                        assert monotonic() < end
                        sleep(0.01)
                finally:
                    client.config_set("requirepass", "")
            for deferred in asked:
                outcome(deferred, nodes.reactor)
        assert told("what needs it waits: Authentication required") == 1
        assert told("Redis answers") == 1

    def test_stop_ends_the_waiting(self, nodes: Nodes, redis: RedisServer) -> None:
        """A broker can be stopped while Redis is away; what was asked fails."""
        node = nodes.make("a")
        opened = node.open()
        redis.kill()
        asked = [node.store.publish(Publication(message("x"), [to(opened)])) for _ in range(10)]
        outcome(node.store.stop(), nodes.reactor)
        for deferred in asked:
            with pytest.raises(StoreError):
                outcome(deferred, nodes.reactor)


class TestAnotherProcess:
    def test_restarted_with_its_data(self, nodes: Nodes, redis: RedisServer) -> None:
        """All sessions go on, with their queues; numbers jump by a multiple of 65535, so packet ids go on, too."""
        node = nodes.make("a")
        opened = node.open()
        node.subscribe("c", opened.epoch, {"t": Subscription(1)})
        node.publish(message("1"), to(opened))
        redis.stop()
        redis.start()
        [sequence] = node.publish(message("2"), to(opened)).sequences
        assert sequence > 2
        assert packet_id(sequence) == 2
        assert payloads(node.read("c", opened.epoch)) == [(1, b"1"), (sequence, b"2")]
        assert node.publish(message("3"), to(opened)).sequences == [sequence + 1]
        again = node.open()
        assert (again.present, again.generation, list(again.subscriptions)) == (True, opened.generation, ["t"])

    def test_restarted_without_its_last_second(self, nodes: Nodes, redis: RedisServer) -> None:
        """No number comes back: no new delivery, exchange, connection or retained message is taken for an old one."""
        node, other = nodes.make("a"), nodes.make("b")
        opened, publisher = node.open(), node.open("p")
        node.publish(message("1"), to(opened))
        first = node.publish(message("x", qos=2), to(opened), exchange=("p", publisher.epoch, 1))
        retained = node.publish(message("r", "r", retain=True), retain=True)
        snapshot = redis.snapshot()
        lost = [node.publish(message("lost"), to(opened)).sequences[0] for _ in range(5)]
        second = node.publish(message("y", qos=2), to(opened), exchange=("p", publisher.epoch, 2))
        newer = node.publish(message("s", "r", retain=True), retain=True)
        forgotten = node.open("new")
        redis.go_back_to(snapshot)

        published = other.publish(message("2"), to(opened))
        assert published.owners == (("a", opened.epoch),)
        assert published.sequences[0] > max(lost) + 2
        third = node.publish(message("z", qos=2), to(opened), exchange=("p", publisher.epoch, 3))
        assert first.exchange is not None
        assert second.exchange is not None
        assert third.exchange is not None
        assert third.exchange[1] > second.exchange[1] > first.exchange[1]
        assert third.sequences == [published.sequences[0] + 1]
        partition = node.store.retained_partition("r")
        version, [whole, change] = node.wait(node.store.retained_since(partition, newer.version))
        assert version > newer.version > retained.version
        assert (whole.version, change.message) == (0, message("r", "r", retain=True))
        assert node.release("new", forgotten.epoch) is False
        assert node.open("new").epoch > forgotten.epoch

    def test_a_batch_that_was_answered_and_forgotten_is_not_repeated(self, nodes: Nodes, redis: RedisServer) -> None:
        node = nodes.make("a")
        opened = node.open()
        for number in range(5):
            node.publish(message(str(number)), to(opened))
            snapshot = redis.snapshot()
            redis.go_back_to(snapshot)
        assert [text for _, text in payloads(node.read("c", opened.epoch))] == [b"%d" % number for number in range(5)]

    def test_emptied(self, nodes: Nodes, redis: RedisServer) -> None:
        """What is asked at that moment fails; then the cluster is founded anew, and no epoch comes back."""
        node, other = nodes.make("a"), nodes.make("b")
        opened = node.open()
        redis.empty()
        with pytest.raises(StoreError, match="lost"):
            node.open("d")
        again = node.open()
        assert not again.present
        assert again.epoch > opened.epoch
        with pytest.raises(StoreError, match="lost"):
            other.read("c", 1)
        assert other.publish(message("x"), to(opened), to(again)).sequences == [GONE, 1]
        assert node.release("c", opened.epoch) is False

    def test_the_founding_deleted(self, nodes: Nodes, redis: RedisServer) -> None:
        """Somebody has deleted one key by hand. The sessions are still there, and go on."""
        node = nodes.make("a")
        opened = node.open()
        node.publish(message("1"), to(opened))
        with redis.client() as client:
            client.delete("mc:{c}:cfg")
        later = nodes.make("b")
        assert payloads(later.open().queue) == [(1, b"1")]
        with pytest.raises(StoreError, match="lost"):
            node.open("d")
        assert node.open("d").epoch

    def test_started_and_stopped_again(self, nodes: Nodes) -> None:
        node = nodes.make("a")
        opened = node.open(expiry=NEVER)
        outcome(node.store.stop(), nodes.reactor)
        outcome(node.store.start(), nodes.reactor)
        node.recover()
        assert node.release("c", opened.epoch) is False, "a connection of an earlier life"
        assert node.open().present


def test_a_run_weighs_as_much_as_its_messages() -> None:
    """What goes to Redis at one stroke is bounded by the weight of the calls: many short messages for many sessions
    keep Redis busy, however they come."""
    targets = [Target(f"c{number}", 1, 1) for number in range(100)]
    messages = [message(str(number)) for number in range(50)]
    one_by_one = sum(Publish(Publication(each, targets)).size for each in messages)
    assert PublishRun(messages, targets, 0.0).size >= one_by_one
