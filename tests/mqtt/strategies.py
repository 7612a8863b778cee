"""Hypothesis strategies: any legal packet of any version."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mqttcluster.mqtt import packets, topics
from mqttcluster.mqtt.packets import V5, V31, V311, Packet, PacketType
from mqttcluster.mqtt.properties import TABLE, WILL, Kind, Prop
from mqttcluster.mqtt.readers import REASONS
from mqttcluster.mqtt.reasons import CONNACK_V3, Reason

versions = st.sampled_from([V31, V311, V5])

# Surrogates are no characters, and U+0000 is forbidden.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
level = st.sampled_from(["", "a", "b", "ab", "$x", "é", "\ufeff", " "])
names = st.lists(level, min_size=1, max_size=5).map("/".join).filter(bool)
ids = st.integers(1, 0xFFFF)
payloads = st.binary(max_size=300)


@st.composite
def filters(draw: st.DrawFn) -> str:
    """A valid filter, not shared."""
    parts = draw(st.lists(st.one_of(level, st.just("+")), min_size=0, max_size=5))
    if draw(st.booleans()) or not "/".join(parts):
        parts.append("#")
    return "/".join(parts)


shared = st.tuples(st.sampled_from(["g", "$", "é g"]), filters()).map(lambda pair: f"$share/{pair[0]}/{pair[1]}")


def _values(identifier: int, place: int) -> st.SearchStrategy[Any]:
    row = TABLE[identifier]
    most = {Kind.BYTE: 0xFF, Kind.TWO_BYTES: 0xFFFF, Kind.FOUR_BYTES: 0xFFFFFFFF, Kind.VARINT: 268_435_455}
    if identifier == Prop.RESPONSE_TOPIC:
        return names
    if identifier == Prop.USER_PROPERTY:
        return st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
    if row.kind in most:
        number = st.integers(row.least, most[row.kind] if row.most is None else row.most)
        if identifier == Prop.SUBSCRIPTION_IDENTIFIER:
            return st.lists(number, min_size=1, max_size=1 if place == PacketType.SUBSCRIBE else 3)
        return number
    return texts if row.kind is Kind.STRING else st.binary(max_size=12)


def property_sets(place: int) -> st.SearchStrategy[dict[int, Any]]:
    """Any legal set of properties for `place`, in any order."""
    allowed = [identifier for identifier, row in TABLE.items() if place in row.places]
    must = {Prop.AUTHENTICATION_METHOD} if place == PacketType.AUTH else set()

    def build(chosen: list[int]) -> st.SearchStrategy[dict[int, Any]]:
        found = {int(identifier): _values(identifier, place) for identifier in [*chosen, *must - set(chosen)]}
        if Prop.AUTHENTICATION_DATA in found:
            found[int(Prop.AUTHENTICATION_METHOD)] = texts
        return st.fixed_dictionaries(found)

    return st.lists(st.sampled_from(allowed), unique=True, max_size=len(allowed)).flatmap(build)


@st.composite
def any_packet(draw: st.DrawFn, version: int) -> Packet:
    """Any packet that can be written for `version` and read back as it is."""
    kinds = [kind for kind in PacketType if kind != PacketType.AUTH or version == V5]
    return draw(packet_of(draw(st.sampled_from(kinds)), version))


@st.composite
def packet_of(draw: st.DrawFn, kind: PacketType, version: int) -> Packet:
    """Any packet of one kind."""
    five = version == V5

    def extra(place: int) -> dict[int, Any]:
        return draw(property_sets(place)) if five else {}

    def reason() -> Reason:
        return draw(st.sampled_from(list(REASONS[kind].values()))) if five else Reason.SUCCESS

    if kind == PacketType.CONNECT:
        will = None
        if draw(st.booleans()):
            will = packets.Will(draw(names), draw(payloads), draw(st.integers(0, 2)), draw(st.booleans()), extra(WILL))
        username = draw(st.none() | texts)
        password = draw(st.none() | payloads) if username is not None or five else None
        return packets.Connect(
            draw(texts),
            version,
            draw(st.booleans()),
            draw(st.integers(0, 0xFFFF)),
            will,
            username,
            password,
            extra(kind),
        )
    if kind == PacketType.CONNACK:
        if five:
            code = reason()
        else:
            one_each = {code: reason for reason, code in reversed(CONNACK_V3.items())}
            code = Reason(draw(st.sampled_from(list(one_each.values()))))
        present = draw(st.booleans()) and not code and version != V31
        return packets.Connack(present, code, extra(kind))
    if kind == PacketType.PUBLISH:
        qos = draw(st.integers(0, 2))
        found = extra(kind)
        topic = draw(names)
        if Prop.TOPIC_ALIAS in found and draw(st.booleans()):
            topic = ""
        return packets.Publish(
            topic,
            draw(payloads),
            qos,
            draw(st.booleans()),
            qos > 0 and draw(st.booleans()),
            draw(ids) if qos else 0,
            found,
        )
    if kind == PacketType.SUBSCRIBE:
        found = extra(kind)
        identifier = found.get(Prop.SUBSCRIPTION_IDENTIFIER, [0])[0]
        asked: list[tuple[str, packets.Subscription]] = []
        for text in draw(st.lists(filters() | shared if five else filters(), min_size=1, max_size=4)):
            options = packets.Subscription(draw(st.integers(0, 2)))
            if five:
                options = packets.Subscription(
                    options.qos,
                    not topics.split_share(text)[0] and draw(st.booleans()),
                    draw(st.booleans()),
                    draw(st.integers(0, 2)),
                    identifier,
                )
            asked.append((text, options))
        return packets.Subscribe(draw(ids), asked, found)
    if kind == PacketType.SUBACK:
        old = [Reason.SUCCESS, Reason.GRANTED_QOS_1, Reason.GRANTED_QOS_2, Reason.UNSPECIFIED_ERROR]
        codes = list(REASONS[kind].values()) if five else old
        return packets.Suback(draw(ids), draw(st.lists(st.sampled_from(codes), min_size=1, max_size=4)), extra(kind))
    if kind == PacketType.UNSUBSCRIBE:
        unwanted = st.lists(filters() | shared if five else filters(), min_size=1, max_size=4)
        return packets.Unsubscribe(draw(ids), draw(unwanted), extra(kind))
    if kind == PacketType.UNSUBACK:
        codes = list(REASONS[kind].values())
        reasons = draw(st.lists(st.sampled_from(codes), min_size=1, max_size=4)) if five else []
        return packets.Unsuback(draw(ids), reasons, extra(kind))
    if kind == PacketType.PINGREQ:
        return packets.Pingreq()
    if kind == PacketType.PINGRESP:
        return packets.Pingresp()
    if kind == PacketType.DISCONNECT:
        return packets.Disconnect(reason(), extra(kind))
    if kind == PacketType.AUTH:
        return packets.Auth(reason(), extra(kind))
    make: dict[PacketType, Any] = {
        PacketType.PUBACK: packets.Puback,
        PacketType.PUBREC: packets.Pubrec,
        PacketType.PUBREL: packets.Pubrel,
        PacketType.PUBCOMP: packets.Pubcomp,
    }
    acknowledgement: Packet = make[kind](draw(ids), reason(), extra(kind))
    return acknowledgement
