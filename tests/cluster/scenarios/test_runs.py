"""Runs of publishes between nodes: several PUBLISH of one topic in one chunk, which go to store and nodes as one."""

from __future__ import annotations

import pytest

from mqttcluster.mqtt.packets import Puback, Publish, Pubrec, Pubrel
from mqttcluster.storage.shared import Envelope, RunForward
from tests.cluster.scenarios.stage import FAST, PATIENT, Node, Peer, Stage

#: Publishes in one chunk, and chunks.
LONG, MANY = 50, 20


def payload(number: int) -> bytes:
    return b"%05d" % number


def run(topic: str, qos: int, start: int, count: int = LONG) -> list[Publish]:
    return [Publish(topic, payload(n), qos, packet_id=1 + n if qos else 0) for n in range(start, start + count)]


def warm(writer: Peer, *topics: str) -> None:
    """From here on it is known that the client may publish there."""
    for topic in topics:
        writer.publish(topic, b"first")


def runs_of(node: Node) -> list[int]:
    """How long the runs are that it sends to others, from now on."""
    lengths: list[int] = []

    def fate(envelope: Envelope) -> int:
        if isinstance(envelope, RunForward):
            lengths.append(envelope.run.count)
        return 1

    node.lanes.fate = fate
    return lengths


def take_all(reader: Peer, wanted: set[bytes]) -> list[bytes]:
    """Messages in the order of their first arrival, until all that are wanted were there."""
    taken: dict[bytes, None] = {}
    while not wanted <= taken.keys():
        taken[reader.take().payload] = None
    return list(taken)


@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
@pytest.mark.parametrize("qos", [1, 2])
def test_in_order_and_nothing_lost_while_redis_connections_are_cut(stage: Stage, clean: bool, qos: int) -> None:
    """Clean sessions by link, kept ones by their queue; QoS 2 comes once."""
    a, b = stage.start("a", "b")
    reader = b.connect("neighbour" if clean else "kept", clean=clean).subscribe("t")
    writer = a.connect("writer")
    warm(writer, "t")
    assert reader.take().payload == b"first"
    lengths = runs_of(a)
    answers: list[bytes] = []
    with stage.redis.client() as client:
        for turn in range(MANY):
            writer.send(*run("t", qos, turn * LONG))
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            for _ in range(LONG):
                answer = writer.packet()
                assert isinstance(answer, (Puback, Pubrec))
                answers.append(payload(answer.packet_id - 1))
            if qos == 2:
                writer.send(*[Pubrel(1 + number) for number in range(turn * LONG, turn * LONG + LONG)])
                for _ in range(LONG):
                    writer.packet()
    wanted = [payload(number) for number in range(MANY * LONG)]
    assert answers == wanted
    assert max(lengths) == LONG, "these are no runs"
    if qos == 1:
        assert take_all(reader, set(wanted)) == wanted
    else:
        assert [reader.take().payload for _ in wanted] == wanted
        assert reader.silent()


def test_word_of_a_run_is_lost_and_that_of_the_next_one_doubled(stage: Stage) -> None:
    """The reader gets all from its queue, once, in order."""
    a, b = stage.start("a", "b")
    reader = b.connect("reader", clean=False).subscribe("t", 1)
    writer = a.connect("writer")
    warm(writer, "t")
    for start, times in ((0, 0), (LONG, 2), (2 * LONG, 1)):
        a.lanes.fate = lambda envelope, times=times: times  # type: ignore[misc]
        writer.send(*run("t", 1, start))
        writer.expect(*[Puback(1 + number) for number in range(start, start + LONG)])
    a.lanes.fate = lambda envelope: 1
    writer.publish("t", b"end")
    assert reader.take_until(b"end") == [b"first", *map(payload, range(3 * LONG))]


def test_the_session_moves_while_word_of_a_run_goes_to_its_old_node(stage: Stage) -> None:
    """The new node has it from the queue, once; the old one gives it to nobody. The acknowledgement of what came before
    may be under way when the session moves."""
    a, b, c = stage.start("a", "b", "c")
    old = b.connect("reader", clean=False).subscribe("t", 1)
    writer = a.connect("writer")
    warm(writer, "t")
    assert old.take().payload == b"first"
    a.lanes.fate = lambda envelope: None if isinstance(envelope, RunForward) else 1
    writer.send(*run("t", 1, 0))
    writer.expect(*[Puback(1 + number) for number in range(LONG)])
    new = c.connect("reader", clean=False, present=True)
    a.lanes.release()
    assert old.until_closed() == []
    writer.publish("t", b"end")
    taken = new.take_until(b"end")
    assert [one for one in taken if one != b"first"] == [payload(number) for number in range(LONG)]
    assert taken.count(b"first") <= 1


def test_a_node_dies_before_it_rings_for_a_run(stage: Stage) -> None:
    """It comes when the publisher's node is found dead, to the session that is connected elsewhere."""
    a, b = stage.start("a", "b", timing=FAST)
    reader = b.connect("reader", clean=False).subscribe("t", 1)
    writer = a.connect("writer")
    warm(writer, "t")
    assert reader.take().payload == b"first"
    a.lanes.fate = lambda envelope: None
    writer.send(*run("t", 1, 0))
    writer.expect(*[Puback(1 + number) for number in range(LONG)])
    a.die()
    assert [reader.take().payload for _ in range(LONG)] == [payload(number) for number in range(LONG)]


@pytest.mark.parametrize("gone", [False, True], ids=["publisher stays", "publisher goes"])
def test_the_lease_runs_out_before_the_store_has_answered_for_a_run(stage: Stage, gone: bool) -> None:
    """It is given to its receivers, and acknowledged, when the node may act again; also if its publisher does not wait
    for that."""
    [a] = stage.start("a", timing=PATIENT)
    kept = a.connect("kept", clean=False).subscribe("t", 1)
    clean = a.connect("neighbour").subscribe("t", 1)
    writer = a.connect("writer")
    warm(writer, "t")
    for reader in (kept, clean):
        assert reader.take().payload == b"first"
    answer = a.store.keep_answer("publish_run")
    writer.send(*run("t", 1, 0))
    stage.until(lambda: answer.reached)
    fenced = [True]
    may_act = a.broker.cluster._backplane.valid  # type: ignore[attr-defined]
    a.lanes.valid = lambda: not fenced[0] and may_act()  # type: ignore[attr-defined]
    answer.open()
    if gone:
        writer.drop()
    stage.world.rest(0.2)
    assert not writer.arrived()
    fenced[0] = False
    if not gone:
        writer.expect(*[Puback(1 + number) for number in range(LONG)])
    for reader in (kept, clean):
        assert [reader.take().payload for _ in range(LONG)] == [payload(number) for number in range(LONG)]
    stage.until(lambda: not a.broker.unfinished)
