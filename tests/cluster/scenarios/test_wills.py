"""Wills whose publisher dies while it is at it, or whose client comes back in that very moment.

The scenarios 17 and 18 of the table in this package.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred

from mqttcluster.broker.broker import GRACE
from mqttcluster.mqtt.packets import Connack, Connect, Disconnect, Will
from mqttcluster.storage import redis_rounds
from mqttcluster.storage.interfaces import StoreError
from mqttcluster.storage.redis_pipeline import Request
from mqttcluster.storage.redis_rounds import WILL_LEASE
from mqttcluster.storage.shared import Forward
from tests.cluster.scenarios.stage import FAST, Node, Peer, Stage

WILLS = 1000
#: Clients that connect before the nodes have a turn: with many, a slow machine lets the lease of a node run out.
AT_ONCE = 20


def connect_all(stage: Stage, node: Node, names: list[str], clean: bool) -> list[Peer]:
    """Clients with a will for ``will/NAME``."""
    peers = [node.peer() for _ in names]
    for at in range(0, len(names), AT_ONCE):
        for number, name in enumerate(names[at : at + AT_ONCE], at):
            will = Will(f"will/{name}", name.encode(), 1 + number % 2)
            peers[number].send(Connect(name, 4, clean_start=clean, will=will))
        for peer in peers[at : at + AT_ONCE]:
            peer.expect(Connack(False))
    return peers


def die_before(node: Node, operation: str, passing: int = 0) -> None:
    """It is killed when its store is about to send Redis a batch with this operation, after so many that may pass."""
    pipeline = node.store.inner._backend.pipeline
    run, left, killed = pipeline.run, [passing], [False]

    def limited(node_id: str, requests: Sequence[Request]) -> None:
        left[0] -= any(request.script == "partition" and operation in request.command for request in requests)
        if left[0] >= 0:
            return run(node_id, requests)
        if not killed[0]:
            killed[0] = node.reactor.stopped = True
        raise StoreError("killed")

    pipeline.run = limited  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("at", ["cleaning up", "publishing"])
def test_node_with_wills_dies_and_then_the_one_that_cleans_up(
    stage: Stage, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node with 1,000 wills is killed, and so is the node that cleans up after it, half-way: each will comes once,
    for a durable watcher and for a connected one. Those who came back before had theirs then, those who said goodbye
    have none."""
    monkeypatch.setattr(redis_rounds, "PAGE", 100)
    a, b, c = stage.start("a", "b", "c", timing=FAST)
    b.connect("watcher", clean=False).subscribe("will/#").send(Disconnect()).until_closed()
    connected = {node: node.connect(f"watcher-{node.name}").subscribe("will/#") for node in (b, c)}
    names = [f"client{number}" for number in range(WILLS)]
    connect_all(stage, a, names[: WILLS // 2], True)
    connect_all(stage, a, names[WILLS // 2 :], False)
    for peer in connect_all(stage, a, [f"polite{number}" for number in range(10)], False):
        peer.send(Disconnect()).until_closed()
    back = [f"back{number}" for number in range(10)]
    connect_all(stage, a, back, False)
    for name in back:
        c.connect(name, clean=False, present=True)

    if at == "cleaning up":
        gates = {node: node.store.keep_request("reap") for node in (b, c)}
    else:
        gates = {node: node.store.keep_request("publish", passing=150) for node in (b, c)}
        for gate in gates.values():
            gate.passing += len(back)
    a.die()
    stage.until(lambda: any(gate.reached for gate in gates.values()))
    claimer, survivor = (b, c) if gates[b].reached else (c, b)
    gates[survivor].open()
    # it has dealt with 300 of its clients, or told everybody of a hundred wills and not yet struck them off
    die_before(claimer, *(("d", 3) if at == "cleaning up" else ("v",)))
    gates[claimer].open()
    stage.until(lambda: claimer.reactor.stopped)
    claimer.die()
    stage.until(lambda: stage.is_buried(claimer.id) and stage.is_buried(a.id))
    survivor.reactor.advance(WILL_LEASE)  # what the dead node had taken is due again
    nothing_is_due(stage)
    stage.end("will/end")
    wanted = sorted(name.encode() for name in [*names, *back])
    assert sorted(survivor.connect("watcher", clean=False, present=True).take_rest()) == wanted
    assert sorted(connected[survivor].take_rest()) == wanted


def nothing_is_due(stage: Stage) -> None:
    with stage.redis.client() as client:
        stage.until(lambda: not any(client.exists(f"mc:{{p{number}}}:wills") for number in range(16)))


def test_node_dies_while_it_publishes_a_will(stage: Stage) -> None:
    """It has stored the will for durable sessions and not yet told another node's connections: they get it all the
    same, from the node that cleans up."""
    a, b = stage.start("a", "b", timing=FAST)
    b.connect("kept", clean=False).subscribe("will").send(Disconnect()).until_closed()
    watcher = b.connect("watcher").subscribe("will")
    mortal = a.connect("mortal", will=Will("will", b"gone", 1))
    a.lanes.fate = lambda envelope: None if isinstance(envelope, Forward) else 1
    mortal.drop()
    stage.until(lambda: a.lanes.held)
    a.die()
    stage.until(lambda: stage.is_buried(a.id))
    b.reactor.advance(WILL_LEASE)
    nothing_is_due(stage)
    b.connect("marker").publish("will", b"end")
    kept = b.connect("kept", clean=False, present=True)
    assert kept.take_until(b"end") == [b"gone"]
    assert watcher.take_until(b"end") == [b"gone"]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_node_dies_when_it_has_published_a_will(stage: Stage, qos: int) -> None:
    """It has told everybody and not yet noted that it did. Another node publishes the will once more: nobody, connected
    where he may, gets it twice."""
    a, b, c = stage.start("a", "b", "c", timing=FAST)
    b.connect("kept", clean=False).subscribe("will").send(Disconnect()).until_closed()
    watchers = [node.connect(f"watcher-{node.name}").subscribe("will") for node in (b, c)]
    mortal = a.connect("mortal", will=Will("will", b"gone", qos))
    gate = a.store.keep_request("will_published")
    mortal.drop()
    stage.until(lambda: gate.reached)
    assert [watcher.take().payload for watcher in watchers] == [b"gone", b"gone"]
    again = [node.store.keep_answer("will_published") for node in (b, c)]
    a.die()
    stage.until(lambda: stage.is_buried(a.id))
    for node in (b, c):
        node.reactor.advance(WILL_LEASE)
    stage.until(lambda: any(each.reached for each in again))
    for each in again:
        each.open()
    nothing_is_due(stage)
    stage.end("will")
    assert [watcher.take_rest() for watcher in watchers] == [[], []]
    assert b.connect("kept", clean=False, present=True).take_rest() == ([b"gone"] if qos else [])


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
@pytest.mark.parametrize("first", ["the will", "the client", "nobody"])
def test_will_falls_due_as_its_client_comes_back(stage: Stage, first: str, clean: bool) -> None:
    """A node is told to stop and sends its clients away; one comes back elsewhere in the moment in which its will falls
    due. Either the will is published, once, or it is cancelled; the session goes on in any case."""
    a, b, c = stage.start("a", "b", "c")
    watcher = b.connect("watcher").subscribe("will")
    mortal = a.connect("mortal", clean=clean, will=Will("will", b"gone", 1))
    if not clean:
        mortal.subscribe("t")
    stage.leave(a)

    back = c.peer()
    opening = c.store.keep_request("open")
    back.send(Connect("mortal", 4, clean_start=clean))
    stage.until(lambda: opening.reached)  # from here on it is said to have come back in time
    due, others = b.store.keep_request("due"), c.store.keep_request("due")
    for node in (b, c):
        node.reactor.advance(GRACE)
    stage.until(lambda: due.reached)
    if first == "the will":
        taken = b.store.keep_answer("due")
        due.open()
        stage.until(lambda: taken.reached)
        due = taken
    elif first == "nobody":
        due.open()
    opening.open()
    back.expect(Connack(not clean))
    due.open()
    others.open()

    if clean:
        back.subscribe("t")
    b.connect("writer").publish("t", b"1")
    assert back.take().payload == b"1"
    nothing_is_due(stage)
    stage.end("will")
    came = watcher.take_rest()
    if first == "nobody":
        assert came in ([], [b"gone"])
    else:
        assert came == ([b"gone"] if first == "the will" else [])
    assert back.silent()


@pytest.mark.parametrize("version", [4, 5])
def test_a_client_that_is_sent_away_comes_at_once(stage: Stage, version: int) -> None:
    """A node that stops lets go of a client when Redis knows that: as soon as the client hears of it, it may connect
    elsewhere, and has no will published."""
    a, b = stage.start("a", "b")
    watcher = b.connect("watcher").subscribe("will")
    mortal = a.connect("mortal", will=Will("will", b"gone", 1), version=version)
    closing = a.store.keep_request("close")
    stopping = a.broker.stop()
    stage.until(lambda: closing.reached)
    assert watcher.silent()
    assert not mortal.closed
    assert mortal.goodbye is None
    closing.open()
    mortal.until_closed()
    assert (mortal.goodbye is not None) == (version == 5)
    b.connect("mortal", version=version)
    stage.world.wait(stopping)
    stage.nodes.remove(a)
    nothing_is_due(stage)
    stage.end("will")
    assert watcher.take_rest() == []


def test_client_says_goodbye_and_is_faster_at_another_node(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """DISCONNECT at one node, CONNECT at another before the first has told the store: nobody sees the will
    [MQTT-3.14.4-3]."""
    a, b = stage.start("a", "b")
    watcher = b.connect("watcher").subscribe("will")
    mortal = a.connect("mortal", clean=False, will=Will("will", b"gone", 1))
    closing = a.store.keep_request("close")
    mortal.send(Disconnect()).until_closed()
    stage.until(lambda: closing.reached)
    asked: list[Deferred[None]] = []
    give_way = a.broker.sessions.give_way

    def notice(client_id: str, epoch: int) -> Deferred[None]:
        asked.append(give_way(client_id, epoch))
        return asked[-1]

    monkeypatch.setattr(a.broker.sessions, "give_way", notice)
    again = b.peer()
    again.send(Connect("mortal", 4, clean_start=False))
    stage.until(lambda: asked)
    assert not asked[0].called, "it lets go when the store knows"
    closing.open()
    again.expect(Connack(True))
    nothing_is_due(stage)
    stage.end("will")
    assert watcher.take_rest() == []
