"""Publishes on one channel, and the broker's answers to them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from aioresults.errors import BrokerUnavailable, MessageNacked, MessageReturned
from aioresults.transport.amqp.channel import AMQPChannel
from aioresults.transport.base import Properties


def channel_with_confirms() -> AMQPChannel:
    """Return a channel whose socket takes everything and answers nothing."""
    underlay = SimpleNamespace(closing=asyncio.get_running_loop().create_future(), number=1)
    socket: Any = SimpleNamespace(channels={}, closing=set(), frame_max=0, write=lambda data: None)
    connection: Any = SimpleNamespace(is_closed=False)
    return AMQPChannel(connection, None, underlay, socket, confirms=True)


async def publishes(channel: AMQPChannel, *message_ids: str) -> list[asyncio.Task[None]]:
    """Publish a message for each id, in order."""
    tasks = [asyncio.create_task(channel.basic_publish(b"", Properties(message_id=each))) for each in message_ids]
    await asyncio.sleep(0)
    return tasks


async def outcomes(tasks: list[asyncio.Task[None]]) -> list[type[BaseException] | str]:
    def outcome(task: asyncio.Task[None]) -> type[BaseException] | str:
        if not task.done():
            return "pending"
        if task.cancelled():
            return "cancelled"
        error = task.exception()
        return "confirmed" if error is None else type(error)

    for _ in range(3):
        await asyncio.sleep(0)
    return [outcome(task) for task in tasks]


async def end(channel: AMQPChannel, tasks: list[asyncio.Task[None]]) -> None:
    channel.ended(BrokerUnavailable("lost"))
    await asyncio.wait(tasks)


async def test_answers_of_one_and_of_many() -> None:
    channel = channel_with_confirms()
    tasks = await publishes(channel, *"abcdef")
    channel.confirmed(2, multiple=False, ack=True)
    assert await outcomes(tasks) == ["pending", "confirmed", "pending", "pending", "pending", "pending"]
    channel.confirmed(4, multiple=True, ack=True)
    assert await outcomes(tasks) == ["confirmed"] * 4 + ["pending"] * 2
    channel.confirmed(6, multiple=True, ack=False)
    assert await outcomes(tasks) == ["confirmed"] * 4 + [MessageNacked] * 2
    channel.confirmed(6, multiple=False, ack=True)  # once more: nobody waits for it
    (later,) = await publishes(channel, "g")
    channel.confirmed(7, multiple=False, ack=True)
    assert await outcomes([later]) == ["confirmed"]


async def test_a_message_that_comes_back_is_known_by_its_id() -> None:
    channel = channel_with_confirms()
    tasks = await publishes(channel, "a", "b", "c", "b")
    error = MessageReturned("", "q")
    channel.returned("b", error)
    assert await outcomes(tasks) == ["pending", MessageReturned, "pending", "pending"]
    channel.returned("b", error)
    channel.returned("of somebody else", error)
    channel.returned(None, error)
    assert await outcomes(tasks) == ["pending", MessageReturned, "pending", MessageReturned]
    channel.confirmed(4, multiple=True, ack=True)
    assert await outcomes(tasks) == ["confirmed", MessageReturned, "confirmed", MessageReturned]


async def test_who_left_is_not_told() -> None:
    channel = channel_with_confirms()
    tasks = await publishes(channel, *"abc")
    for task in tasks:
        task.cancel()
    assert await outcomes(tasks) == ["cancelled"] * 3
    channel.returned("a", MessageReturned("", "q"))
    channel.confirmed(2, multiple=True, ack=False)
    await end(channel, tasks)
    assert await outcomes(tasks) == ["cancelled"] * 3


async def test_what_was_not_answered_fails() -> None:
    channel = channel_with_confirms()
    tasks = await publishes(channel, *"ab")
    channel.confirmed(1, multiple=False, ack=True)
    await end(channel, tasks)
    assert await outcomes(tasks) == ["confirmed", BrokerUnavailable]
