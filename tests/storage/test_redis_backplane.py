"""Nodes that share a Redis: leases, routes, lanes and burials, with nodes stopped and connections cut.

Nothing here depends on how fast it runs: what must happen is waited for, and what must not happen before something else
is looked at when that has happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic, time
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from mqttcluster.mqtt.packets import Subscription
from mqttcluster.storage import redis_lanes, redis_readers
from mqttcluster.storage.envelopes import encode, pack
from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.redis_members import NodeKeys, Timing, heartbeat
from mqttcluster.storage.redis_readers import ChannelReader
from mqttcluster.storage.redis_scripts import script
from mqttcluster.storage.redis_wire import Wire
from mqttcluster.storage.shared import Given, NodeInterest, SessionChange, Take
from tests.cluster.redis_server import RedisServer
from tests.storage.nodes import LASTING, PATIENCE, Cluster, Node, Side, World, forward, reads
from tests.storage.redis_nodes import CuttingProxy

#: For tests in which nobody is to be found dead, however slow the machine.
PATIENT = Timing(lease=0.6, dead_after=60.0, beat=0.1, stale=0.25)
#: For tests in which all leases run out and nobody is to be found dead: as long as the pauses between two attempts to
#: reach Redis are, and some more, before one node may miss another.
SLOW = Timing(lease=0.6, dead_after=4.0, beat=0.1, stale=0.25)


@pytest.fixture
def cluster(world: World, redis: RedisServer) -> Iterator[Cluster]:
    """An empty Redis, and nodes that are stopped at the end."""
    redis.empty()
    cluster = Cluster(world, redis.url, "mc:")
    yield cluster
    cluster.close()


@pytest.fixture
def client(redis: RedisServer) -> Iterator[Any]:
    with redis.client() as client:
        yield client


def fired(deferred: Deferred[Any]) -> Callable[[], bool]:
    """Whether it has a result by now."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    return lambda: bool(results)


def numbers(node: Node, sender: str | None = None) -> list[int]:
    return [int(payload.rstrip(b".")) for payload in node.events.payloads(sender)]


def beats(world: World, client: Any, node: Node, number: int = 3) -> None:
    """Wait until the node has given so many signs of life."""
    for _ in range(number):
        before = client.hget("mc:{c}:nodes", node.id)
        world.until(lambda before=before: client.hget("mc:{c}:nodes", node.id) != before)


class TestScripts:
    """What Redis answers, without a node: the rules that a cluster shows only when timing is bad."""

    KEYS = NodeKeys("mc:")
    TIMING = Timing(lease=0.2, dead_after=0.4, beat=0.1, stale=60.0)

    @pytest.fixture(autouse=True)
    def _empty(self, client: Any) -> None:
        client.flushall()
        client.hset(self.KEYS.config, "run", "r")
        for name in ("beat", "announce", "bury", "link"):
            client.script_load(script(name).text)

    def beat(self, client: Any, node: str, applied: int = 0, join: bool = True, timing: Timing = TIMING) -> Any:
        command = self.KEYS.beat("r", node, timing, join, True, applied)
        return heartbeat(client.execute_command(*command))

    def bury(self, client: Any, node: str, claimer: str, finished: bool = False, at_once: bool = False) -> bytes:
        answer: bytes = client.execute_command(
            *self.KEYS.bury("r", node, self.TIMING, claimer, at_once, finished)
        )
        return answer

    def test_a_lapsed_node_is_live_again_only_when_it_has_applied_everything(self, client: Any) -> None:
        """Even a change of this very moment, and whatever its lease is then [G5]."""
        assert self.beat(client, "a").live
        client.hset(self.KEYS.nodes, "a", "1 live 0 v1")
        client.hset(self.KEYS.config, "rn", 1)
        client.xadd(self.KEYS.routes, {"o": "b", "t": 10**14, "b": "x"}, id="1-0")
        assert not self.beat(client, "a").live
        assert not self.beat(client, "a").live
        assert self.beat(client, "a", applied=1).live

    def test_a_grave_has_one_claimer(self, client: Any) -> None:
        """Two nodes that see the same node dead do not both clean up, and only the claimer ends it."""
        for node in ("a", "b"):
            self.beat(client, node, timing=LASTING)
        client.hset(self.KEYS.nodes, "dead", "1 live 0 v1")
        assert self.bury(client, "a", "b") == b"ALIVE"
        assert self.bury(client, "dead", "a") == b"CLAIMED"
        assert self.bury(client, "dead", "b") == b"NO"
        assert self.bury(client, "dead", "a") == b"CLAIMED"
        assert self.bury(client, "dead", "b", finished=True) == b"NO"
        client.hset(self.KEYS.nodes, "a", "1 live 0 v1")
        assert self.bury(client, "dead", "b") == b"CLAIMED"
        assert self.bury(client, "dead", "a", finished=True) == b"NO"
        assert self.bury(client, "dead", "b", finished=True) == b"OK"
        assert self.bury(client, "dead", "b") == b"NO"
        assert client.xlen(self.KEYS.routes) == 1

    def test_the_dead_stay_dead(self, client: Any) -> None:
        """A node that was buried can neither come back under its name nor announce anything."""
        self.beat(client, "a")
        assert self.bury(client, "a", "b", at_once=True) == b"CLAIMED"
        assert self.beat(client, "a") == "DEAD"
        assert self.beat(client, "a", join=False) == "DEAD"
        client.delete(self.KEYS.config)
        assert self.beat(client, "b") == "LOST"

    def test_old_graves_are_levelled(self, client: Any) -> None:
        """Nodes that died long ago do not fill Redis."""
        client.hset(self.KEYS.graves, mapping={"old": "1 done", "open": "1 b", "dead": "1 a"})
        assert self.bury(client, "dead", "a", finished=True) == b"OK"
        assert sorted(client.hkeys(self.KEYS.graves)) == [b"dead", b"open"]


class TestRoutes:
    def test_a_change_is_known_everywhere_when_the_announcement_is_done(self, cluster: Cluster) -> None:
        """SUBACK is sent after this: a publish on another node then reaches the subscriber [G5]."""
        a, b, c = cluster.node(timing=LASTING), cluster.node(timing=LASTING), cluster.node(timing=LASTING)
        kept = SessionChange("c", 7, {"k/+": Subscription(2, identifier=9)}, ["old"])
        a.announce(NodeInterest("x/#", 3), kept)
        for other in (b, c):
            assert other.events.interest == {(a.id, "x/#"): 3}
            assert other.events.sessions == [kept]
        a.announce(NodeInterest("x/#", 0))
        assert c.events.interest == {(a.id, "x/#"): 0}

    def test_changes_are_applied_in_the_order_of_the_calls(self, world: World, cluster: Cluster) -> None:
        """A filter that is dropped and taken again is not lost, whichever node hears of it."""
        a, b, c = (cluster.node(timing=LASTING) for _ in range(3))
        waiting = []
        for number in range(300):
            for node in (a, b):
                waiting.append(node.backplane.announce([NodeInterest("f", number % 251), SessionChange("s", number)]))
            if number % 7 == 0:
                world.turn()
        for done in waiting:
            world.wait(done)
        for node in (a, b):
            bits = [change.bits for origin, change in c.events.named("route")
                    if origin == node.id and isinstance(change, NodeInterest)]
            assert bits == [number % 251 for number in range(300)]
        world.until(lambda: all(len(node.events.sessions) == 600 for node in (a, b, c)))
        assert a.events.sessions == b.events.sessions == c.events.sessions

    def test_a_stopped_node_is_waited_for_until_its_lease_has_run_out(self, world: World, cluster: Cluster) -> None:
        """SUBACK is late but never wrong: until then the stopped node might wake and publish by old routes [G5]."""
        a, b = cluster.node(timing=PATIENT), cluster.node(timing=PATIENT)
        b.side.stop()
        done = fired(a.backplane.announce([NodeInterest("x", 1)]))
        world.until(lambda: done() or not b.backplane.valid())
        assert not b.backplane.valid()
        world.until(done)
        assert b.events.interest == {}
        assert b.id in a.backplane.members()

    def test_a_node_that_does_not_keep_up_gets_no_longer_lease(self, world: World, cluster: Cluster) -> None:
        """A node that gives signs of life but reads no routes may not delay every SUBACK, nor act on old ones."""
        a, b = cluster.node(timing=PATIENT), cluster.node(timing=PATIENT)
        b.side.hold = reads
        world.wait(a.backplane.announce([NodeInterest("x", 1)]))
        assert not b.backplane.valid()
        world.until(lambda: b.events.named("fenced")[-1] == (True,))
        world.rest(3 * PATIENT.beat)
        assert not b.backplane.valid()
        assert b.events.interest == {}
        b.side.resume()
        world.until(b.backplane.valid)
        assert b.events.interest == {(a.id, "x"): 1}
        assert b.events.named("fenced")[-1] == (False,)

    def test_a_woken_node_hears_first_that_it_is_late(self, world: World, cluster: Cluster) -> None:
        """Before it has read what it missed it acts on nothing [G5]."""
        a, b = cluster.node(timing=PATIENT), cluster.node(timing=PATIENT)
        b.side.stop()
        a.announce(NodeInterest("x", 1))
        assert not b.backplane.valid()
        b.side.resume()
        world.until(lambda: (a.id, "x") in b.events.interest or b.backplane.valid())
        assert b.events.interest == {(a.id, "x"): 1}
        world.until(b.backplane.valid)

    def test_routes_that_were_trimmed_are_read_from_the_state(
        self, world: World, cluster: Cluster, client: Any
    ) -> None:
        """A node that was too slow for the stream of routes loses none of them, and keeps its connections."""
        a, b = cluster.node(timing=PATIENT), cluster.node(timing=PATIENT)
        a.announce(NodeInterest("dropped", 1))
        b.side.stop()
        # The reader has one batch in hand at most, and keeps still while that is not dealt with.
        for number in range(20):
            a.announce(NodeInterest(f"f{number}", 1), NodeInterest("dropped", 0))
        client.xtrim("mc:{c}:routes", maxlen=1, approximate=False)
        b.side.resume()
        world.until(b.backplane.valid)
        world.until(lambda: b.events.interest.get((a.id, "f19")))
        there = {name for (_, name), bits in b.events.interest.items() if bits}
        assert there == {f"f{number}" for number in range(20)}
        assert not b.events.named("evicted")


class TestJoining:
    @pytest.mark.parametrize("at", range(0, 60, 6))
    def test_a_joining_node_misses_nothing(self, world: World, cluster: Cluster, at: int) -> None:
        """A node that joins while others subscribe knows every subscription whose SUBACK was sent before it serves
        clients, and every later one before its SUBACK is sent."""
        a = cluster.node("a", timing=LASTING)
        b = cluster.node("b", start=False, timing=LASTING)
        live: list[None] = []
        for number in range(90):
            done = fired(a.backplane.announce([NodeInterest(f"f{number}", 1), NodeInterest(f"f{number - 5}", 0)]))
            if number == at:
                b.backplane.start(b.events).addCallback(live.append)
            world.until(done)
            if live:
                assert b.events.interest.get((a.id, f"f{number}")) == 1
                assert not b.events.interest.get((a.id, f"f{number - 5}"))
        world.until(lambda: live)
        there = {name for (_, name), bits in b.events.interest.items() if bits}
        assert there == {f"f{number}" for number in range(85, 90)}

    def test_changes_during_the_load_come_after_it(self, world: World, cluster: Cluster, client: Any) -> None:
        """What is announced while the store's state is being read may be missing there."""
        a = cluster.node(timing=LASTING)
        b = cluster.node(start=False, timing=LASTING)
        b.events.loading = Deferred()
        live = fired(b.backplane.start(b.events))
        world.until(lambda: b.events.named("load"))
        world.until(lambda: a.backplane.members() == [b.id])
        # It is not waited for: it acts on nothing before it has applied this.
        change = SessionChange("c", 1, {}, [])
        a.announce(change)
        beats(world, client, b)
        assert not b.events.sessions
        assert not live()
        b.events.loading.callback(None)
        world.until(live)
        assert b.events.sessions == [change]

    def test_a_load_that_fails_is_done_again(self, world: World, cluster: Cluster) -> None:
        """A store that is away for a moment does not keep a node out."""
        a = cluster.node(start=False)
        a.events.loading = fail(StoreError("away"))
        live = fired(a.backplane.start(a.events))
        world.until(lambda: a.events.named("load"))
        assert not live()
        a.events.loading = Deferred()
        a.events.loading.callback(None)
        world.until(live)
        assert len(a.events.named("load")) >= 2


class TestChannel:
    def test_casts(self, world: World, cluster: Cluster) -> None:
        """What is cast reaches one node, or all others, in order."""
        a, b, c = (cluster.node(timing=LASTING) for _ in range(3))
        for number in range(200):
            a.backplane.cast(b.id, forward(number, 1000))
        a.backplane.cast_all(Take("c", 5))
        a.backplane.cast(c.id, Given("c", 6))
        world.until(lambda: len(b.events.named("received")) == 201 and len(c.events.named("received")) == 2)
        assert numbers(b) == list(range(200))
        assert [envelope for _, envelope in c.events.named("received")] == [Take("c", 5), Given("c", 6)]
        assert not a.events.named("received")

    def test_what_redis_does_not_take_is_bounded(
        self, world: World, cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While Redis is slow messages at QoS 0 are dropped and counted, and not kept in memory [G9]. When it takes
        them again they flow again."""
        monkeypatch.setattr(redis_lanes, "BACKLOG", 100_000)
        a, b = (cluster.node(timing=LASTING) for _ in range(2))
        redis.pause()
        for number in range(1000):
            a.backplane.cast(b.id, forward(number, 1000))
        a.backplane.cast(b.id, Given("c", 6))
        dropped = a.backplane.counts.casts_dropped
        assert 850 < dropped < 950
        redis.resume()
        world.until(lambda: len(b.events.named("received")) == 1001 - dropped)
        assert numbers(b) == list(range(1000 - dropped))

        def taken() -> bool:
            before = a.backplane.counts.casts_dropped
            a.backplane.cast(b.id, forward(0, 1000))
            return a.backplane.counts.casts_dropped == before

        # Redis tells the receiver first, and then the sender that there is room.
        world.until(taken)
        dropped = a.backplane.counts.casts_dropped
        for number in range(2000, 2050):
            a.backplane.cast(b.id, forward(number, 1000))
        world.until(lambda: numbers(b)[-50:] == list(range(2000, 2050)))
        assert a.backplane.counts.casts_dropped == dropped

    def test_a_cut_channel_is_taken_up_again(self, world: World, cluster: Cluster, client: Any) -> None:
        """A lost connection loses at most what was under way, and nothing comes twice."""
        a, b = cluster.node(timing=LASTING), cluster.node(timing=LASTING)
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        number = 0

        def came() -> bool:
            nonlocal number
            number += 1
            a.backplane.cast(b.id, forward(number))
            return bool(b.events.named("received"))

        world.until(came)
        world.until(lambda: numbers(b)[-1] == number)
        assert sorted(set(numbers(b))) == numbers(b)
        assert b.backplane.counts.channel_gaps >= 1  # type: ignore[attr-defined]


    def test_a_node_that_stood_still_keeps_its_channel(
        self, world: World, cluster: Cluster, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that gets no time for some seconds has not lost its channel: it asks first. What is published while
        a channel is made anew would be lost for nothing."""
        clock = [0.0]
        monkeypatch.setattr(redis_readers, "monotonic", lambda: clock[0])
        monkeypatch.setattr(redis_readers, "PATIENCE", 0.02)
        a, b = cluster.node(timing=LASTING), cluster.node(timing=LASTING)

        def pings() -> int:
            return int(client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"])

        before = pings()
        clock[0] += 10 * redis_readers.SILENCE
        world.until(lambda: pings() >= before + 2)
        a.backplane.cast(b.id, forward(1))
        world.until(lambda: numbers(b) == [1])
        assert not b.backplane.counts.channel_gaps  # type: ignore[attr-defined]

    def test_an_announcement_is_not_done_before_the_channel_is_heard(
        self, world: World, cluster: Cluster, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever is told that he is subscribed gets what is published from then on, also at QoS 0, and also if the
        node's connection was cut a moment ago [G5]."""
        back = Event()
        back.set()
        serve = ChannelReader._serve

        def late(self: ChannelReader, wire: Wire) -> None:
            back.wait(PATIENCE)
            serve(self, wire)

        monkeypatch.setattr(ChannelReader, "_serve", late)
        a, b = cluster.node(timing=LASTING), cluster.node(timing=LASTING)
        back.clear()
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        world.until(lambda: b.backplane.counts.channel_gaps)  # type: ignore[attr-defined]
        done = fired(b.backplane.announce([NodeInterest("t", 1)]))
        world.until(lambda: a.events.interest.get((b.id, "t")))
        beats(world, client, b)
        assert not done()
        back.set()
        world.until(done)
        a.backplane.cast(b.id, forward(1))
        world.until(lambda: numbers(b) == [1])


class TestLink:
    def test_in_order_nothing_lost_nothing_twice_while_connections_are_cut(
        self, world: World, cluster: Cluster, client: Any
    ) -> None:
        """QoS 1 and 2 between nodes survive a Redis that closes connections all the time [G1, G2]."""
        a, b = cluster.node(timing=LASTING), cluster.node(timing=LASTING)
        accepted: list[bool] = []
        sent = 0
        cut = monotonic()
        kills = 0
        while len(accepted) < 2000 or len(b.events.named("received")) < 2000:
            if sent < min(2000, 100 * (kills + 1)):
                for _ in range(5):
                    a.backplane.link(b.id, forward(sent)).addCallback(accepted.append)
                    sent += 1
            world.turn()
            if monotonic() - cut > 0.05:
                cut = monotonic()
                kills += 1
                client.execute_command("CLIENT", "KILL", "TYPE", ("normal", "pubsub")[kills % 2], "SKIPME", "yes")
        assert kills > 10
        assert all(accepted)
        assert numbers(b) == list(range(2000))
        assert not b.events.named("gap")

    def test_a_full_link_waits(self, world: World, cluster: Cluster, client: Any) -> None:
        """A node that reads slowly is neither flooded nor robbed: who sends to it pauses [G9]."""
        a = cluster.node(timing=LASTING, bound=3)
        b = cluster.node(timing=LASTING)
        b.side.hold = reads
        accepted: list[bool] = []
        for number in range(12):  # each a parcel of its own, as long as there is room
            a.backplane.link(b.id, forward(number)).addCallback(accepted.append)
            world.until(lambda number=number: len(accepted) > number or a.backplane.congested())  # type: ignore[misc]
        assert a.backplane.congested()
        assert len(accepted) < 12
        assert client.xlen(NodeKeys("mc:").link(b.id)) <= 3
        b.side.resume()
        world.until(lambda: len(accepted) == 12)
        assert all(accepted)
        world.until(lambda: not a.backplane.congested())
        world.until(lambda: numbers(b) == list(range(12)))

    def test_the_reader_trims_what_it_has_dealt_with(self, world: World, cluster: Cluster, client: Any) -> None:
        """A link does not grow for ever in Redis."""
        a, b = cluster.node(timing=LASTING), cluster.node(timing=LASTING)
        for number in range(50):
            assert world.wait(a.backplane.link(b.id, forward(number, 3000)))
        world.until(lambda: client.xlen(NodeKeys("mc:").link(b.id)) == 0)
        world.until(lambda: numbers(b) == list(range(50)))

    def test_a_link_to_a_node_that_is_gone(self, world: World, cluster: Cluster) -> None:
        """Nobody waits for a node that has left."""
        a, b = cluster.node(), cluster.node()
        assert world.wait(a.backplane.link(b.id, forward(0)))
        gone = b.id
        world.wait(b.backplane.stop())
        assert world.wait(a.backplane.link(gone, forward(1))) is False

    def test_what_comes_twice_is_read_once_and_what_is_missing_is_told(
        self, world: World, cluster: Cluster, client: Any
    ) -> None:
        """After an answer that was lost a parcel is sent again [G2]. If Redis loses one, a node looks at its queues."""
        b = cluster.node(timing=LASTING)
        for number in (1, 1, 2, 1, 4, 5, 4):
            parcel = pack("ghost", [encode(forward(number))])
            client.xadd(NodeKeys("mc:").link(b.id), {"n": number, "b": parcel})
        world.until(lambda: numbers(b)[-1:] == [5])
        client.xadd(NodeKeys("mc:").link(b.id), {"n": 6, "b": b"nonsense"})
        client.xadd(NodeKeys("mc:").link(b.id), {"n": 6, "b": pack("ghost", [encode(forward(6))])})
        world.until(lambda: numbers(b) == [1, 2, 4, 5, 6])
        assert [entry[0] for entry in b.events.log[-6:]] == ["received"] * 2 + ["gap"] + ["received"] * 3

    def test_large_envelopes(self, world: World, cluster: Cluster) -> None:
        """A message larger than a parcel goes through whole."""
        a, b = cluster.node(timing=LASTING), cluster.node(timing=LASTING)
        for number in range(3):
            assert world.wait(a.backplane.link(b.id, forward(number, 300_000)))
        world.until(lambda: numbers(b) == [0, 1, 2])


class TestDeath:
    def test_one_of_the_others_cleans_up(self, world: World, cluster: Cluster, client: Any) -> None:
        """When a node dies, its sessions are released once, and everybody forgets its routes."""
        a, b, c, d = (cluster.node() for _ in range(4))
        d.announce(NodeInterest("x", 1))
        cluster.abandon(d)
        world.until(lambda: client.hget("mc:{c}:graves", d.id) or False)
        world.until(lambda: client.hget("mc:{c}:graves", d.id).endswith(b" done"))
        world.until(lambda: all(node.events.named("gone") == [(d.id,)] for node in (a, b, c)))
        reaped = [entry for node in (a, b, c) for entry in node.events.named("reap")]
        assert reaped == [(d.id,)]
        for node in (a, b, c):
            assert d.id not in node.backplane.members()
            assert (d.id, "x") not in node.events.interest
        keys = NodeKeys("mc:")
        assert not client.exists(keys.alive(d.id), keys.link(d.id), keys.want(d.id))

    def test_another_goes_on_where_the_claimer_has_died(self, world: World, cluster: Cluster, client: Any) -> None:
        """Wills are published even if the node that cleans up dies, too [G7]."""
        nodes = [cluster.node() for _ in range(4)]
        dead, others = nodes[3], nodes[:3]
        never: Deferred[None] = Deferred()
        for node in others:
            node.events.reaping = lambda _: never
        cluster.abandon(dead)
        world.until(lambda: any(node.events.named("reap") for node in others))
        claimer = next(node for node in others if node.events.named("reap"))
        survivors = [node for node in others if node is not claimer]
        assert not any(node.events.named("reap") for node in survivors)
        healthy: Deferred[None] = Deferred()
        healthy.callback(None)
        for node in survivors:
            node.events.reaping = lambda _: healthy
        cluster.abandon(claimer)
        graves = "mc:{c}:graves"

        def done() -> bool:
            found = client.hgetall(graves)
            return len(found) == 2 and all(grave.endswith(b" done") for grave in found.values())

        world.until(done)
        reaped = sorted(entry for node in survivors for entry in node.events.named("reap"))
        assert reaped == sorted([(dead.id,), (claimer.id,)])

    def test_a_clean_up_that_fails_is_done_again(self, world: World, cluster: Cluster, client: Any) -> None:
        """A store that is away for a moment does not leave sessions with a dead owner."""
        a, b = cluster.node(), cluster.node()
        a.events.reaping = lambda node: fail(StoreError("away"))
        cluster.abandon(b)
        world.until(lambda: len(a.events.named("reap")) >= 2)
        healthy: Deferred[None] = Deferred()
        healthy.callback(None)
        a.events.reaping = lambda node: healthy
        world.until(lambda: client.hget("mc:{c}:graves", b.id).endswith(b" done"))

    def test_nobody_is_buried_by_one_who_was_away_himself(self, world: World, cluster: Cluster, client: Any) -> None:
        """After a pause of Redis everybody gets time to come back [G8]."""
        now = [1000.0]
        a = cluster.node(timing=LASTING, boottime=lambda: now[0])
        client.hset("mc:{c}:nodes", "ghost-1", "1 live 0 v1")
        beats(world, client, a)
        assert client.hexists("mc:{c}:nodes", "ghost-1")
        for _ in range(3):
            now[0] += 0.8 * LASTING.lease
            beats(world, client, a)
        world.until(lambda: a.events.named("reap") == [("ghost-1",)])

    def test_who_was_taken_for_dead_comes_back_as_another(self, world: World, cluster: Cluster) -> None:
        """A node that slept too long closes its connections, and serves again [G3]."""
        a, b = cluster.node(), cluster.node()
        b.announce(NodeInterest("x", 1))
        old = b.id
        b.side.stop()
        world.until(lambda: (old,) in a.events.named("gone"))
        b.events.evicting = Deferred()
        b.side.resume()
        world.until(lambda: b.events.named("evicted"))
        lost = b.backplane.link(a.id, forward(1))
        assert not b.backplane.valid()
        assert b.id == old
        b.events.evicting.callback(None)
        world.until(b.backplane.valid)
        assert b.id != old
        assert world.wait(lost) is False
        assert b.events.named("fenced")[-2:] == [(True,), (False,)]
        b.announce(NodeInterest("y", 1))
        world.until(lambda: a.events.interest == {(b.id, "y"): 1})
        assert world.wait(a.backplane.link(b.id, forward(2)))
        assert world.wait(b.backplane.link(a.id, forward(3)))
        world.until(lambda: numbers(b) == [2] and numbers(a) == [3])

    def test_a_starting_node_buries_its_former_self(self, world: World, cluster: Cluster) -> None:
        """After a crash and a quick restart nobody waits for the old process to be found dead [G7]."""
        a = cluster.node("a", timing=LASTING)
        old = cluster.node("b", timing=LASTING)
        other = cluster.node("b-c", timing=LASTING)
        cluster.abandon(old)
        new = cluster.node("b", timing=LASTING)
        world.until(lambda: new.events.named("reap"))
        assert new.events.named("reap") == [(old.id,)]
        world.until(lambda: a.events.named("gone") == [(old.id,)])
        assert sorted(a.backplane.members()) == sorted([new.id, other.id])

    def test_a_leaving_node_is_gone_at_once(self, world: World, cluster: Cluster) -> None:
        """A rolling restart does not wait for leases; what was left behind is looked after."""
        a, b = cluster.node(), cluster.node()
        gone = b.id
        accepted = b.backplane.link(a.id, forward(1))
        world.wait(b.backplane.stop())
        assert world.wait(accepted) is True
        world.until(lambda: a.events.named("gone") == [(gone,)])
        assert a.backplane.members() == []
        world.until(lambda: a.events.named("reap") == [(gone,)])


class TestRedisAway:
    def test_a_restart_with_the_data_buries_nobody(self, world: World, cluster: Cluster, redis: RedisServer) -> None:
        """A Redis that is away for longer than any lease is a pause: everybody is there again after it, nothing that
        was accepted is lost, what was said meanwhile arrives [G8]."""
        a, b = cluster.node(timing=SLOW), cluster.node(timing=SLOW)
        a.announce(NodeInterest("x", 1))
        ids = a.id, b.id
        assert world.wait(a.backplane.link(b.id, forward(0)))
        redis.stop()
        world.until(lambda: not a.backplane.valid() and not b.backplane.valid())
        waiting = [a.backplane.link(b.id, forward(number)) for number in range(1, 20)]
        announced = fired(a.backplane.announce([NodeInterest("y", 1)]))
        world.rest(SLOW.dead_after + SLOW.lease)
        assert not announced()
        redis.start()
        world.until(lambda: a.backplane.valid() and b.backplane.valid())
        assert all(world.wait(accepted) for accepted in waiting)
        world.until(announced)
        world.until(lambda: numbers(b) == list(range(20)))
        world.rest(SLOW.dead_after + SLOW.lease)
        assert (a.id, b.id) == ids
        world.until(lambda: {name for (_, name), bits in b.events.interest.items() if bits} == {"x", "y"})
        for node in (a, b):
            for event in ("evicted", "reap"):
                assert not node.events.named(event)

    def test_a_pause_is_survived(self, world: World, cluster: Cluster, redis: RedisServer) -> None:
        """The same for a Redis that does not answer and keeps its connections."""
        a, b = cluster.node(timing=SLOW), cluster.node(timing=SLOW)
        redis.pause()
        world.until(lambda: not a.backplane.valid() and not b.backplane.valid())
        world.rest(SLOW.dead_after)
        redis.resume()
        world.until(lambda: a.backplane.valid() and b.backplane.valid())
        a.announce(NodeInterest("x", 1))
        world.until(lambda: b.events.interest == {(a.id, "x"): 1})
        assert not a.events.named("evicted")
        assert not b.events.named("evicted")

    def test_a_redis_that_was_emptied_is_filled_again(self, world: World, cluster: Cluster, client: Any) -> None:
        """Nodes find each other again, and know what the others want."""
        slow = Timing(lease=1.5, dead_after=60.0, beat=0.1, stale=1.0)
        a, b = cluster.node(timing=slow), cluster.node(timing=slow)
        a.announce(NodeInterest("x", 1))
        b.announce(NodeInterest("y", 2))
        loads = [len(node.events.named("load")) for node in (a, b)]
        client.flushall()
        accepted = a.backplane.link(b.id, forward(0))
        world.until(lambda: all(len(n.events.named("load")) > count for n, count in zip((a, b), loads, strict=True)))
        world.until(lambda: a.backplane.valid() and b.backplane.valid())
        world.until(lambda: a.events.interest.get((b.id, "y")) == 2 and b.events.interest.get((a.id, "x")) == 1)
        assert world.wait(accepted)
        assert world.wait(a.backplane.link(b.id, forward(1)))
        world.until(lambda: numbers(b) == [0, 1])
        assert not a.events.named("evicted")
        assert not b.events.named("evicted")

    def test_a_node_that_an_emptied_redis_does_not_know_is_waited_for(
        self, world: World, cluster: Cluster, client: Any
    ) -> None:
        """It may still act by its old routes until its lease has run out [G5]."""
        slow = Timing(lease=1.5, dead_after=60.0, beat=0.1, stale=1.0)
        a, b = cluster.node(timing=slow), cluster.node(timing=slow)
        b.side.stop()
        client.flushall()
        world.until(lambda: a.events.named("fenced")[-1] == (True,))
        a.announce(NodeInterest("x", 1))
        assert not b.backplane.valid()
        b.side.resume()
        world.until(lambda: b.events.interest.get((a.id, "x")) == 1 and b.backplane.valid())

    def test_a_link_whose_ids_go_back(self, world: World, cluster: Cluster, client: Any) -> None:
        """A replica on a machine whose clock is behind has taken over: what is put into the link from then on has lower
        ids than what was read before. It is read, and what is still there from before is not read twice."""
        a, b = cluster.node(timing=LASTING), cluster.node(timing=LASTING)
        link = b.backplane._keys.link(b.id)
        ahead = int(time() * 1000) + 3_600_000
        for number in range(2):
            client.xadd(link, {"n": number + 1, "b": pack("other", [encode(forward(number))])}, id=f"{ahead}-{number}")
            world.until(lambda number=number: numbers(b) == list(range(number + 1)))
        world.until(lambda: client.xlen(link) == 0)
        client.delete(link)
        client.xadd(link, {"n": 2, "b": pack("other", [encode(forward(1))])})
        assert world.wait(a.backplane.link(b.id, forward(2)))
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        world.until(lambda: len(numbers(b)) >= 3)
        assert world.wait(a.backplane.link(b.id, forward(3)))
        world.until(lambda: numbers(b)[-1] == 3)
        assert numbers(b) == [0, 1, 2, 3]

    def test_a_node_that_reads_from_an_old_master(self, world: World, redis: RedisServer, tmp_path: Path) -> None:
        """A replica has taken over, the address leads there, and the old master is still there: a node whose writing
        connection has moved reads no more from the old one, though that connection is not cut."""
        replica = RedisServer(tmp_path, fsync="no")
        proxy = CuttingProxy(redis.port)
        cluster = Cluster(world, proxy.url, "mc:")
        replica.start()
        try:
            with redis.client() as old, replica.client() as new:
                old.flushall()
                a, b = cluster.node(timing=PATIENT), cluster.node(timing=PATIENT)
                assert world.wait(a.backplane.link(b.id, forward(0)))
                old.execute_command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
                new.execute_command("REPLICAOF", "127.0.0.1", redis.port)
                world.until(lambda: a.id.encode() in new.hkeys("mc:{c}:nodes"))
                new.execute_command("REPLICAOF", "NO", "ONE")
                proxy.lead_to(replica.port)
                writers: list[str] = []

                def seen() -> bool:  # by what each has said last
                    writers[:] = [each["id"] for each in old.client_list() if each["cmd"].startswith("evalsha")]
                    return len(writers) == 2

                world.until(seen)
                for writer in writers:
                    old.execute_command("CLIENT", "KILL", "ID", writer)
                world.until(lambda: all(len(node.events.named("load")) >= 2 for node in (a, b)))
                assert world.wait(a.backplane.link(b.id, forward(1)))
                world.until(lambda: numbers(b) == [0, 1])

                def heard() -> bool:  # while the channels are changed what goes by them is lost
                    a.backplane.cast(b.id, forward(2))
                    return 2 in numbers(b)

                world.until(heard)
        finally:
            cluster.close()
            proxy.close()
            replica.stop()

    def test_a_redis_that_forgot_the_last_second(self, world: World, cluster: Cluster, redis: RedisServer) -> None:
        """Routes that were lost are announced again by those who have them."""
        a, b = cluster.node(timing=PATIENT), cluster.node(timing=PATIENT)
        a.announce(NodeInterest("x", 1))
        snapshot = redis.snapshot()
        a.announce(NodeInterest("y", 1), NodeInterest("x", 0))
        redis.go_back_to(snapshot)
        world.until(lambda: len(a.events.named("load")) >= 2 and len(b.events.named("load")) >= 2)
        world.until(lambda: a.backplane.valid() and b.backplane.valid())
        c = cluster.node(timing=PATIENT)
        for node in (b, c):
            world.until(lambda node=node: node.events.interest.get((a.id, "y")) == 1)
            assert not node.events.interest.get((a.id, "x"))

    def test_starts_when_redis_comes(self, world: World, cluster: Cluster, redis: RedisServer) -> None:
        """Nodes and Redis may be started in any order."""
        redis.stop()
        a = cluster.node(start=False)
        live = fired(a.backplane.start(a.events))
        world.rest(0.3)
        assert not live()
        redis.start()
        world.until(live)

    def test_stops_while_redis_is_away(self, world: World, cluster: Cluster, redis: RedisServer) -> None:
        """A node can be ended without a Redis."""
        a = cluster.node()
        redis.stop()
        try:
            world.wait(a.backplane.stop())
        finally:
            redis.start()

    def test_data_of_another_release(self, world: World, cluster: Cluster, client: Any) -> None:
        """A node refuses to start on keys that it does not understand, and says why."""
        client.hset("mc:{c}:cfg", "format", "99")
        a = cluster.node(start=False)
        with pytest.raises(StoreError, match="format 99"):
            world.wait(a.backplane.start(a.events))
        assert client.hgetall("mc:{c}:cfg") == {b"format": b"99"}


class TestClock:
    def test_the_lease_is_counted_from_when_it_was_asked_for(self, world: World, cluster: Cluster) -> None:
        """A lease that Redis granted while this machine slept is worth nothing when it wakes."""
        now = [1000.0]
        a = cluster.node(boottime=lambda: now[0], timing=LASTING)
        assert a.backplane.valid()
        now[0] += LASTING.lease - 0.001
        assert a.backplane.valid()
        now[0] += 0.002
        assert not a.backplane.valid()
        world.until(a.backplane.valid)
        assert a.events.named("fenced") == [(False,), (True,), (False,)]


def test_a_stopped_side_runs_nothing(world: World) -> None:
    """The tests above rely on it."""
    side = Side(world)
    ran: list[int] = []
    side.stop()
    side.callFromThread(ran.append, 1)
    side.callLater(0, ran.append, 2)
    world.rest(0.05)
    assert not ran
    side.resume()
    world.until(lambda: sorted(ran) == [1, 2])
