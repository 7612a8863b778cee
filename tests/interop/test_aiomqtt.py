"""aiomqtt: an asyncio client with a context manager for a connection."""

from __future__ import annotations

import asyncio
import socket

import aiomqtt
import pytest

from tests.support.process import Broker

COUNT = 100


def client(broker: Broker, name: str, **options: object) -> aiomqtt.Client:
    return aiomqtt.Client(
        broker.host,
        broker.port,
        identifier=name,
        protocol=aiomqtt.ProtocolVersion.V311,
        timeout=20,
        **options,  # type: ignore[arg-type]
    )


async def take(connection: aiomqtt.Client, count: int) -> list[aiomqtt.Message]:
    found: list[aiomqtt.Message] = []
    async for message in connection.messages:
        found.append(message)
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_hundred_messages(shared_broker: Broker, qos: int) -> None:
    """Messages arrive in order, whole, at the QoS agreed."""
    topic = f"aiomqtt/{qos}"
    expected = [b"%d" % n for n in range(COUNT)]

    async def conversation() -> list[aiomqtt.Message]:
        async with client(shared_broker, f"reader{qos}") as reader, client(shared_broker, f"writer{qos}") as writer:
            await reader.subscribe(topic, qos)
            for payload in expected:
                await writer.publish(topic, payload, qos)
            return await asyncio.wait_for(take(reader, COUNT), 20)

    messages = asyncio.run(conversation())
    assert [message.payload for message in messages] == expected
    assert {message.qos for message in messages} == {qos}


def test_persistent_session(shared_broker: Broker) -> None:
    """A session that was left with a subscription collects messages until its client is back."""

    async def conversation() -> list[aiomqtt.Message]:
        async with client(shared_broker, "aio-away", clean_session=False) as away:
            await away.subscribe("aiomqtt/away", 1)
        async with client(shared_broker, "aio-writer") as writer:
            await writer.publish("aiomqtt/away", b"one", 1)
            await writer.publish("aiomqtt/away", b"two", 2)
        async with client(shared_broker, "aio-away", clean_session=False) as back:
            return await asyncio.wait_for(take(back, 2), 20)

    messages = asyncio.run(conversation())
    assert [(message.payload, message.qos) for message in messages] == [(b"one", 1), (b"two", 1)]


def test_retained_and_will(shared_broker: Broker) -> None:
    """A will left with retain greets those who come later."""

    async def conversation() -> aiomqtt.Message:
        will = aiomqtt.Will("aiomqtt/will", b"gone", qos=1, retain=True)
        async with client(shared_broker, "aio-watcher") as watcher:
            await watcher.subscribe("aiomqtt/will", 1)
            lost = client(shared_broker, "aio-lost", will=will)
            await lost.__aenter__()
            sock = lost._client.socket()
            assert isinstance(sock, socket.socket)
            sock.shutdown(socket.SHUT_RDWR)
            [live] = await asyncio.wait_for(take(watcher, 1), 20)
            assert (live.payload, live.retain) == (b"gone", False)
        async with client(shared_broker, "aio-late") as late:
            await late.subscribe("aiomqtt/will", 1)
            [message] = await asyncio.wait_for(take(late, 1), 20)
            return message

    message = asyncio.run(conversation())
    assert (message.payload, message.retain) == (b"gone", True)
