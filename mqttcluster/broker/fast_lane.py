"""The fast lane: plain publishes and acknowledgements, dealt with in runs.

Most traffic is PUBLISH without properties and RETAIN on a topic seen a moment ago, and its acknowledgements. Such
frames need no packet objects: frames in a row that differ only in identifier and payload are one `Run`
(`core.run`), looked up, authorised, counted, handed on and acknowledged as one. The rules are those of every publish;
what needs more (a shared subscription, a QoS 2 exchange on record) is left to the packets' way, a run that has to wait
for the store or its turn is a step (`run_plan`), and one option turns all of this off.

A *lane* is what is known of frames that begin with the same bytes: topic, QoS, receivers. Lanes are forgotten when any
subscription changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqttcluster.broker.alone import Alone
from mqttcluster.broker.metrics import Metrics
from mqttcluster.broker.metrics import lane as column
from mqttcluster.broker.run_plan import RunPlan
from mqttcluster.broker.settings import Settings
from mqttcluster.broker.steps import Step
from mqttcluster.core.interest import LINKED, LIVE
from mqttcluster.core.routing import Receiver, Routing
from mqttcluster.core.run import Run
from mqttcluster.mqtt import readers
from mqttcluster.mqtt.frames import PUBLISH_FIRST_BYTES, acknowledgements, publish, row
from mqttcluster.mqtt.packets import V5, V311
from mqttcluster.mqtt.reasons import MQTTError
from mqttcluster.storage.interfaces import IStore

if TYPE_CHECKING:
    from mqttcluster.broker.client import Client

#: Lanes that are remembered, and how long the beginning of a frame may be.
LANES = 50_000
LONGEST_HEAD = 300
#: Deliveries made for one client before the clock is looked at, counted in runs; finding the receivers of a topic
#: counts as many.
EFFORT = 1000
SEARCH = 100
#: Frames of QoS 0 in one run.
MOST = 65_535
#: About how many messages of one run are delivered one by one, to receivers that need something of their own [G9].
SINGLES = 2000

_PUBACK, _PUBREC, _PUBREL, _PUBCOMP = _ACKNOWLEDGEMENTS = 0x40, 0x50, 0x62, 0x70


class Lane:
    """What is known of the frames that begin with the same bytes. `slow`: they are not for the fast lane. `live` and
    `linked` are the other nodes to be told at QoS 0, and at QoS 1 and 2. `most` is how long a run was to be last."""

    __slots__ = ("linked", "live", "most", "no_local", "receivers", "slow", "stored", "topic")

    def __init__(self, routing: Routing, topic: str, qos: int) -> None:
        matched = routing.matched(topic)
        self.topic = topic
        self.receivers: tuple[Receiver, ...] = matched.receivers
        self.no_local = any(receiver.no_local for receiver in matched.receivers)
        self.stored = any(qos and receiver.qos and receiver.subscriber.durable for receiver in matched.receivers)
        self.slow = bool(matched.groups)
        self.most = MOST
        nodes = routing.nodes(topic)
        self.live = tuple(node for node, bits in nodes if bits & LIVE)
        self.linked = tuple(node for node, bits in nodes if bits & LINKED)


class FastLane:
    """The runs of all clients of a node."""

    def __init__(
        self, store: IStore, routing: Routing, metrics: Metrics, cluster: Alone, settings: Settings
    ) -> None:
        self._store = store
        self._routing = routing
        self._metrics = metrics
        self._cluster = cluster
        self._settings = settings
        self._lanes: dict[tuple[bytes, bool], Lane] = {}
        self._revision = -1
        self._searches = 0

    def take(self, client: Client) -> int:
        """Deal with what stands first in what the client has sent. Returns how many packets that were; 0 is for the
        decoder. Raises `MQTTError` when the connection cannot go on."""
        decoder = client.connection.decoder
        chunk, at = decoder.window()
        size, start = len(chunk), at
        packets = effort = 0
        v5 = decoder.version == V5
        while at < size and effort < EFFORT:
            first = chunk[at]
            if first in PUBLISH_FIRST_BYTES:
                found = publish(chunk, at, size, v5)
                if found is None:
                    break
                stride, id_at = found
                searches = self._searches
                lane = self._lane(chunk, at, stride, id_at, decoder.version)
                effort += SEARCH * (self._searches - searches)
                most = self._most(client, lane, first >> 1 & 3, v5)
                if lane is None or not most:
                    break
                count = row(chunk, at, size, stride, id_at, v5, min(most, lane.most))
                if count * len(lane.receivers) > SINGLES or lane.most < MOST:
                    count = min(count, _share(lane, stride))
                end = at + stride * count
                data = chunk if end == size and not at else chunk[at:end]
                run = Run(lane.topic, client.client_id, first >> 1 & 3, v5, data, stride, id_at)
                if run.qos and not self._identified(client, run):
                    break
                effort += len(lane.receivers) + 1 + self._publish(client, lane, run)
                at = end
                packets += run.count
            elif first in _ACKNOWLEDGEMENTS:
                identifiers = acknowledgements(chunk, at, size)
                if not identifiers or not self._acknowledged(client, first, identifiers):
                    break
                at += 4 * len(identifiers)
                packets += len(identifiers)
                effort += 1
            else:
                break
            decoder.skip(at)
            if client.blocked or client.ended:
                break
        if at > start:
            self._metrics.messages_received += packets
        return packets

    # -- publishes

    def _lane(self, chunk: bytes, at: int, stride: int, id_at: int, version: int) -> Lane | None:
        if self._revision != self._routing.revision:
            self._lanes.clear()
            self._revision = self._routing.revision
        key = (chunk[at : at + id_at], version == V5)
        lane = self._lanes.get(key)
        if lane is None:
            if stride > self._settings.max_packet_size or id_at > LONGEST_HEAD:
                return None
            body = at + 2 if chunk[at + 1] < 0x80 else at + 3 if chunk[at + 2] < 0x80 else at + 4
            try:
                packet = readers.publish(chunk[at] & 0x0F, chunk, body, at + stride, version or V311)
            except MQTTError:
                return None  # whoever reads packets says what is wrong
            if not packet.topic:
                return None
            if len(self._lanes) >= LANES:
                self._lanes.clear()
            self._searches += 1
            lane = self._lanes[key] = Lane(self._routing, packet.topic, packet.qos)
        return lane

    def _most(self, client: Client, lane: Lane | None, qos: int, v5: bool) -> int:
        """How many frames in a row may be taken now; 0: these are not for the fast lane."""
        if lane is None or lane.slow or not client.may_publish(lane.topic):
            return 0
        steps, settings = client.steps, self._settings
        if not qos:
            return 0 if steps.at_most_once else MOST
        if qos > settings.max_qos:
            return 0
        if v5 and (lane.no_local or not (lane.receivers or lane.linked)):
            return 0  # the acknowledgement may say that there are no subscribers
        if (lane.linked or lane.stored) and self._cluster.congested():
            return 0
        if qos == 2 and client.session.durable:
            return 0
        return max(settings.max_receiving - steps.unacknowledged - len(client.session.inbound), 0)

    def _identified(self, client: Client, run: Run) -> bool:
        """Whether the run's packet identifiers are new. At QoS 2 they are in use from here on."""
        session = client.session
        if run.qos == 1 and not session.inbound:
            return True
        identifiers = set(run.identifiers())
        if session.unreleased or not session.inbound.isdisjoint(identifiers):
            return False
        if run.qos == 2:
            if len(identifiers) < run.count:
                return False
            session.take_in(identifiers)
        return True

    def _publish(self, client: Client, lane: Lane, run: Run) -> int:
        """Returns how many deliveries were made one by one."""
        singles = 0
        metrics, figure = self._metrics, column(client.version) + run.qos
        metrics.publish_received_by[figure] += run.count
        metrics.publish_bytes_received_by[figure] += run.count * run.payload_size
        if not run.qos:
            singles = self._hand_on(client, lane, run)
            if lane.live:
                self._cluster.cast_run(run, lane.live)
        elif lane.stored or not client.steps.delivered:
            self._in_turn(client, lane, run)
        else:
            singles = self._hand_on(client, lane, run)
            accepting = self._cluster.link_run(run, lane.linked, {}) if lane.linked else None
            client.steps.take_run(run.acknowledgements(), run.count, len(run.data), accepting)
        return singles

    def _in_turn(self, client: Client, lane: Lane, run: Run) -> None:
        """Behind what the client has sent before, and when the store has it."""
        plan = RunPlan(run, self._receivers(lane, run), lane.linked, self._cluster, self._metrics)
        step = Step(plan, run.acknowledgements(), stored=not lane.stored)
        client.steps.take(step)
        if lane.stored:
            client.receiving.wait_for(plan.store(self._store, client.broker.clock.seconds()), step)

    def _receivers(self, lane: Lane, run: Run) -> tuple[Receiver, ...]:
        return self._routing.match(lane.topic, run.publisher) if lane.no_local else lane.receivers

    def _hand_on(self, client: Client, lane: Lane, run: Run) -> int:
        """To the receivers that are connected here. Returns how many deliveries were made one by one."""
        full, singles = None, 0
        for receiver in self._receivers(lane, run):
            outlet = receiver.subscriber.outlet
            if outlet is not None:
                singles += outlet.deliver_run(run, min(run.qos, receiver.qos), receiver.identifiers)
                if outlet.full:
                    full = outlet
        if full is not None and not run.qos:
            client.wait_for(full)
        return singles

    # -- acknowledgements

    def _acknowledged(self, client: Client, first: int, identifiers: tuple[int, ...]) -> bool:
        """False: these are not for the fast lane."""
        outlet, session = client.outlet, client.session
        assert outlet is not None
        if first == _PUBACK:
            outlet.receipts.pubacks(identifiers)
            return True
        if session.stored:
            return False
        inflight = session.inflight
        if first == _PUBREC:
            if not inflight.unacknowledged.keys() >= set(identifiers):
                return False
            inflight.pubrecs(identifiers)
            client.sender.send(_answers(b"\x62\x02", identifiers), len(identifiers))
        elif first == _PUBREL:
            new = set(identifiers)
            if len(new) < len(identifiers) or not session.inbound >= new or len(client.steps):
                return False
            session.let_go(identifiers)
            client.sender.send(_answers(b"\x70\x02", identifiers), len(identifiers))
        else:
            if not inflight.received.keys() >= set(identifiers):
                return False
            outlet.receipts.pubcomps(identifiers)
        return True


def _share(lane: Lane, size: int) -> int:
    """How many frames of `size` bytes may be dealt with at one stroke, which holds up everybody else."""
    outlets = [(receiver.subscriber.outlet, receiver.identifiers) for receiver in lane.receivers]
    apart = sum(outlet is not None and not outlet.takes_runs(identifiers, size) for outlet, identifiers in outlets)
    lane.most = max(SINGLES // apart, 1) if apart else MOST
    return lane.most


def _answers(head: bytes, identifiers: tuple[int, ...]) -> bytes:
    return b"".join([head + identifier.to_bytes(2, "big") for identifier in identifiers])
