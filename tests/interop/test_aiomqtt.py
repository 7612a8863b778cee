"""aiomqtt: an asyncio client with a context manager for a connection."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes

from tests.interop.test_paho import properties
from tests.support.process import Broker
from tests.support.wire import PATIENCE

COUNT = 100
V311, V5 = aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5

BY_VERSION = pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5.0"])


def client(
    broker: Broker, name: str, version: aiomqtt.ProtocolVersion = V311, *, keep: bool = False, **options: Any
) -> aiomqtt.Client:
    """A client of this version; `keep` keeps its session, with MQTT 5.0 for five minutes."""
    if version == V5:
        options.update(clean_start=not keep)
        if keep:
            options.update(properties=properties(PacketTypes.CONNECT, SessionExpiryInterval=300))
    else:
        options.update(clean_session=not keep)
    return aiomqtt.Client(broker.host, broker.port, identifier=name, protocol=version, timeout=PATIENCE, **options)


async def take(connection: aiomqtt.Client, count: int) -> list[aiomqtt.Message]:
    found: list[aiomqtt.Message] = []
    async for message in connection.messages:
        found.append(message)
        if len(found) == count:
            break
    return found


@BY_VERSION
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_hundred_messages(shared_broker: Broker, qos: int, version: aiomqtt.ProtocolVersion) -> None:
    """Messages arrive in order, whole, at the QoS agreed."""
    topic, name = f"aiomqtt/{version}/{qos}", f"er{version}{qos}"
    expected = [b"%d" % n for n in range(COUNT)]

    async def conversation() -> list[aiomqtt.Message]:
        reading, writing = (client(shared_broker, each + name, version) for each in ("read", "writ"))
        async with reading as reader, writing as writer:
            await reader.subscribe(topic, qos)
            for payload in expected:
                await writer.publish(topic, payload, qos)
            return await asyncio.wait_for(take(reader, COUNT), PATIENCE)

    messages = asyncio.run(conversation())
    assert [message.payload for message in messages] == expected
    assert {message.qos for message in messages} == {qos}


@BY_VERSION
def test_persistent_session(shared_broker: Broker, version: aiomqtt.ProtocolVersion) -> None:
    """A session that was left with a subscription collects messages until its client is back."""
    topic, name = f"aiomqtt/away/{version}", f"aio-away-{version}"

    async def conversation() -> list[aiomqtt.Message]:
        async with client(shared_broker, name, version, keep=True) as away:
            await away.subscribe(topic, 1)
        async with client(shared_broker, f"aio-writer-{version}", version) as writer:
            await writer.publish(topic, b"one", 1)
            await writer.publish(topic, b"two", 2)
        async with client(shared_broker, name, version, keep=True) as back:
            return await asyncio.wait_for(take(back, 2), PATIENCE)

    messages = asyncio.run(conversation())
    assert [(message.payload, message.qos) for message in messages] == [(b"one", 1), (b"two", 1)]


@BY_VERSION
def test_retained_and_will(shared_broker: Broker, version: aiomqtt.ProtocolVersion) -> None:
    """A will left with retain greets those who come later."""
    topic = f"aiomqtt/will/{version}"

    async def conversation() -> aiomqtt.Message:
        will = aiomqtt.Will(topic, b"gone", qos=1, retain=True)
        async with client(shared_broker, f"aio-watcher-{version}", version) as watcher:
            await watcher.subscribe(topic, 1)
            lost = client(shared_broker, f"aio-lost-{version}", version, will=will)
            await lost.__aenter__()
            sock = lost._client.socket()
            assert isinstance(sock, socket.socket)
            sock.shutdown(socket.SHUT_RDWR)
            [live] = await asyncio.wait_for(take(watcher, 1), PATIENCE)
            assert (live.payload, live.retain) == (b"gone", False)
        async with client(shared_broker, f"aio-late-{version}", version) as late:
            await late.subscribe(topic, 1)
            [message] = await asyncio.wait_for(take(late, 1), PATIENCE)
            return message

    message = asyncio.run(conversation())
    assert (message.payload, message.retain) == (b"gone", True)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_properties_of_a_message(shared_broker: Broker, qos: int) -> None:
    """What a publisher of MQTT 5.0 says beside the payload reaches its subscriber unchanged."""
    topic = f"aiomqtt/properties/{qos}"
    said = properties(
        PacketTypes.PUBLISH,
        ContentType="text",
        ResponseTopic="answers",
        CorrelationData=bytes(range(256)),
        UserProperty=[("k", "2"), ("k", "1")],
    )

    async def conversation() -> aiomqtt.Message:
        async with client(shared_broker, f"aio-p{qos}", V5) as both:
            await both.subscribe(topic, qos, properties=properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=9))
            await both.publish(topic, b"x", qos, properties=said)
            [message] = await asyncio.wait_for(take(both, 1), PATIENCE)
            return message

    found = asyncio.run(conversation()).properties
    assert found is not None
    assert (found.ContentType, found.ResponseTopic, found.CorrelationData) == ("text", "answers", bytes(range(256)))
    assert found.UserProperty == [("k", "2"), ("k", "1")]
    assert found.SubscriptionIdentifier == [9]
