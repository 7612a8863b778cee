"""One client id, several connections: the last one stays, and what the others still do has no effect.

The scenarios 11 and 12 of the table in this package.
"""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import Connack, Connect, Puback, Publish, Pubrel, Subscribe, Subscription
from tests.cluster.scenarios.stage import CALM, FAST, PATIENT, Stage


def owner(stage: Stage, client_id: str) -> list[str]:
    """The nodes that own it, as Redis sees it."""
    with stage.redis.client() as client:
        found = [client.hget(f"mc:{{p{number}}}:own", client_id) for number in range(16)]
    return [node.decode() for node in found if node is not None]


@pytest.mark.parametrize("channel", ["up", "lost"])
@pytest.mark.parametrize("first", [0, 1], ids=["in order", "out of order"])
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
def test_two_connect_at_once_and_a_third_later(stage: Stage, clean: bool, first: int, channel: str) -> None:
    """Two nodes open one client id at once, in whatever order their answers come, a third one later: in the end one
    connection remains, the last. All others are closed, also if no word gets through by channel."""
    nodes = stage.start("a", "b", "c")
    for node in nodes:
        node.lanes.channel_lost = channel == "lost"
    gates = [node.store.keep_answer("open") for node in nodes[:2]]
    peers = [node.peer() for node in nodes]
    for peer in peers[:2]:
        peer.send(Connect("only", 4, clean_start=clean))
    stage.until(lambda: all(gate.reached for gate in gates))
    gates[first].open()
    gates[1 - first].open()
    stage.until(lambda: any(peer.closed or peer.peek() for peer in peers[:2]))
    peers[2].send(Connect("only", 4, clean_start=clean))
    peers[2].expect(Connack(not clean))
    for peer in peers[:2]:
        assert peer.until_closed() in ([], [Connack(False)], [Connack(True)])
    peers[2].subscribe("t", 1)
    for node in nodes:
        node.connect(f"writer-{node.name}").publish("t", node.name.encode())
        assert peers[2].take().payload == node.name.encode()
    assert owner(stage, "only") == [nodes[2].id]


@pytest.mark.parametrize("moment", ["within its lease", "after its lease", "after its burial"])
def test_old_owner_is_stopped_and_wakes(stage: Stage, moment: str) -> None:
    """A client moves away from a node that is stopped, with packets of its in the old socket. When that node goes on,
    none of them has an effect and the connection is closed. Other clients of that node stay, unless it was buried."""
    dead = moment == "after its burial"
    timing = {"within its lease": CALM, "after its lease": PATIENT, "after its burial": FAST}[moment]
    a, b = stage.start("a", "b", timing=timing)
    watcher = b.connect("watcher").subscribe("#")
    writer = b.connect("writer")
    old = a.connect("mover", clean=False).subscribe("t", 1)
    neighbour = a.connect("neighbour").subscribe("n")
    writer.publish("t", b"1")
    assert old.receive().packet_id == 1
    a.stop()
    a_was = a.id
    old.send(Puback(1), Publish("stolen", b"", 2, packet_id=9), Subscribe(2, [("stolen", Subscription(1))]), Pubrel(9))
    new = b.connect("mover", clean=False, present=True)
    new.expect(Publish("t", b"1", 1, dup=True, packet_id=1))
    if moment == "after its lease":
        stage.until(lambda: stage.lease_is_over(a))
    elif dead:
        stage.until(lambda: stage.is_buried(a_was))
    a.resume()
    assert old.until_closed() == []
    if dead:
        assert neighbour.until_closed() == []
        stage.until(lambda: a.id != a_was and a.lanes.valid())
        neighbour = a.connect("neighbour").subscribe("n")
    else:
        stage.until(a.lanes.valid)
    stage.end("n")
    assert neighbour.take_rest() == []
    assert watcher.take_rest() == [b"1"]
    writer.publish("stolen", b"")
    assert new.silent()
    new.drop()
    again = a.connect("mover", clean=False, present=True)
    assert again.take() == Publish("t", b"1", 1, dup=True, packet_id=1)
    stage.end("t")
    assert again.take_rest() == []


def test_a_client_that_connects_to_a_node_that_was_asleep(stage: Stage) -> None:
    """The node's lease has run out while it slept; Redis is there, so it is live again in a moment, and so long CONNECT
    waits."""
    [a] = stage.start("a", timing=PATIENT)
    a.stop()
    stage.until(lambda: stage.lease_is_over(a))
    peer = a.peer()
    peer.send(Connect("early", 4, clean_start=False))
    a.resume()
    peer.expect(Connack(False))


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("newer", [b"newer", b""], ids=["set", "removed"])
def test_old_owner_retains_nothing_any_more(stage: Stage, newer: bytes, qos: int) -> None:
    """A retained message is on its way to Redis at a node that is stopped. Its publisher says it again elsewhere, and
    then something newer. When the old node goes on, the newer one stays."""
    a, b = stage.start("a", "b", timing=PATIENT)
    old = a.connect("mover", clean=False)
    gate = a.store.keep_request("publish")
    old.send(Publish("t", b"older", qos, True, packet_id=qos))
    stage.until(lambda: gate.reached)
    a.stop()
    new = b.connect("mover", clean=False, present=True)
    new.publish("t", b"older", 1, retain=True)
    new.publish("t", newer, 1, retain=True)
    stage.until(lambda: stage.lease_is_over(a))
    gate.open()
    a.resume()
    assert old.until_closed() == []
    stage.until(a.lanes.valid)
    for node in (a, b):
        reader = node.connect(f"reader-{node.name}").subscribe("t")
        if newer:
            assert reader.take().payload == newer
        assert reader.silent()
