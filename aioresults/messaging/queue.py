"""A queue: its name, properties and binding, and how it is declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aioresults.messaging.exchange import Exchange
from aioresults.transport.base import Channel, DeclareOk


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue and its binding to ``exchange`` by ``routing_key``.

    Args:
        durable: survives a restart of the broker.
        exclusive: usable by the declaring connection only, and deleted with it.
        auto_delete: deleted when its last consumer is cancelled.
        queue_arguments: ``x-queue-type``, ``x-expires`` (integer milliseconds) and the like.
    """

    name: str
    exchange: Exchange = field(default_factory=Exchange)
    routing_key: str = ""
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    queue_arguments: Mapping[str, Any] | None = field(default=None, hash=False)

    async def declare(self, channel: Channel) -> DeclareOk:
        """Create the exchange, the queue and its binding, or check that they are there as described.

        Every queue is bound to the default exchange by itself.

        Raises:
            InequivalentArgument: it exists with other properties.
            ChannelError, BrokerUnavailable: as every operation.
        """
        await self.exchange.declare(channel)
        ok = await channel.queue_declare(
            self.name,
            durable=self.durable,
            exclusive=self.exclusive,
            auto_delete=self.auto_delete,
            arguments=self.queue_arguments,
        )
        if self.exchange.name:
            await channel.queue_bind(self.name, self.exchange.name, self.routing_key)
        return ok

    async def delete(self, channel: Channel) -> int:
        """Delete the queue; return how many messages went with it."""
        return await channel.queue_delete(self.name)
