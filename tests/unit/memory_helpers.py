"""What the tests of the memory transport share."""

from __future__ import annotations

import asyncio

from aioresults.transport.base import Delivery, Properties
from aioresults.transport.memory.connection import MemoryChannel


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Inbox(list[Delivery]):
    """A consumer that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.append(delivery)
        self._arrived.set()

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self]

    async def wait(self, count: int) -> None:
        while len(self) < count:
            self._arrived.clear()
            await self._arrived.wait()


async def turns(count: int = 5) -> None:
    """Let the loop do what it has to do: nothing here takes longer than a few turns of it."""
    for _ in range(count):
        await asyncio.sleep(0)


async def publish(channel: MemoryChannel, queue: str, *messages: bytes, mode: int | None = None) -> None:
    for body in messages:
        await channel.basic_publish(body, Properties(delivery_mode=mode), "", queue, mandatory=True)


async def drain(channel: MemoryChannel, queue: str, count: int) -> list[Delivery]:
    """Get that many messages, and acknowledge none."""
    found = [await channel.basic_get(queue) for _ in range(count)]
    return [delivery for delivery in found if delivery is not None]


async def bodies(channel: MemoryChannel, queue: str) -> list[bytes]:
    """Take everything that is ready."""
    found = []
    while (delivery := await channel.basic_get(queue, no_ack=True)) is not None:
        found.append(delivery.body)
    return found
