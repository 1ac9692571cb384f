"""The setting of the tests of the nouns: connections and channels on one broker, and names that are cleaned up."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from aioresults import ChannelError, Message, Queue
from aioresults.messaging import OutgoingMessage
from aioresults.transport import Channel, transport_for
from aioresults.transport.base import Connection, Properties
from aioresults.transport.memory import MemoryBroker


class Bench:
    """A broker, connected to twice: once for what is tested, once to look at it. Ends and deletes what it made."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stack = AsyncExitStack()
        self._names: list[str] = []

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self.connection = await self.connect()
        self.channel = await self.connection.channel(confirms=True)
        self._aside = await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self._names:
            channel = await self._aside.channel()
            await channel.exchange_delete(name)
            try:
                await channel.queue_delete(name)
                await channel.close()
            except ChannelError:
                pass  # another connection's own
        await self._stack.__aexit__(kind, error, trace)
        scheme, _, name = self.url.partition("://")
        if scheme == "memory":
            MemoryBroker.forget(name)

    async def connect(self) -> Connection:
        """Open a further connection."""
        connection = await transport_for(self.url).connect()
        self._stack.push_async_callback(connection.close)
        return connection

    async def aside(self) -> Channel:
        """Open a channel with confirms on the connection that nothing is tested on."""
        return await self._aside.channel(confirms=True)

    def name(self) -> str:
        """Return a name that no other test has; what bears it at the end is deleted."""
        name = f"test.{secrets.token_hex(6)}"
        self._names.append(name)
        return name

    async def queue(self, *bodies: bytes) -> Queue:
        """Declare a queue, with these messages in it; bound to the channel that is tested."""
        queue = Queue(self.name(), expires=60)(self.channel)
        await queue.declare()
        await self.put(queue, *bodies)
        return queue

    async def put(self, queue: Queue, *bodies: bytes) -> None:
        """Put messages into a queue."""
        channel = await self.aside()
        for body in bodies:
            await channel.basic_publish(body, Properties(), "", queue.name, mandatory=True)
        await channel.close()

    async def send(self, queue: Queue, message: OutgoingMessage) -> None:
        """Put a message with its properties into a queue."""
        channel = await self.aside()
        await channel.basic_publish(message.body, message.properties, "", queue.name, mandatory=True)
        await channel.close()

    async def ready(self, queue: Queue) -> int:
        """Return how many messages are ready in a queue."""
        channel = await self.aside()
        ok = await channel.queue_declare(queue.name, passive=True)
        await channel.close()
        return ok.message_count

    async def consumers(self, queue: Queue) -> int:
        """Return how many consumers a queue has."""
        channel = await self.aside()
        ok = await channel.queue_declare(queue.name, passive=True)
        await channel.close()
        return ok.consumer_count

    async def exists(self, queue: Queue) -> bool:
        """Whether there is such a queue."""
        try:
            await self.ready(queue)
        except ChannelError:
            return False
        return True

    async def delete(self, queue: Queue) -> None:
        """Delete a queue, as somebody else would."""
        channel = await self.aside()
        await channel.queue_delete(queue.name)
        await channel.close()

    async def bodies(self, queue: Queue, count: int) -> list[bytes]:
        """Take so many messages out of a queue."""
        channel = await self.aside()
        found = [await channel.basic_get(queue.name, no_ack=True) for _ in range(count)]
        await channel.close()
        return [delivery.body for delivery in found if delivery is not None]


class Received(list[Message]):
    """Callbacks that keep what they get."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[object] = []
        self._arrived = asyncio.Event()

    def message(self, message: Message) -> None:
        """For ``on_message``."""
        self.append(message)
        self._arrived.set()

    def value(self, body: object, message: Message) -> None:
        """For ``callbacks``."""
        self.values.append(body)
        self.message(message)

    async def wait(self, count: int) -> list[bytes]:
        """Return the bodies when so many are there."""
        async with asyncio.timeout(10):
            while len(self) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return [message.body for message in self]
