"""An exchange: its name and type, and how it is declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aioresults.transport.base import Channel


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange; the empty name is the default exchange, which routes to the queue named by the routing key.

    Args:
        type: ``direct``, ``fanout``, ``topic``, ``headers``, or one of the broker's own.
        durable: survives a restart of the broker.
        auto_delete: deleted when the last queue is unbound from it.
    """

    name: str = ""
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    arguments: Mapping[str, Any] | None = field(default=None, hash=False)

    async def declare(self, channel: Channel) -> None:
        """Create the exchange, or check that it is there as described.

        The default exchange and the broker's own (``amq.*``) always exist and are left alone.

        Raises:
            InequivalentArgument: it exists with other properties.
            ChannelError, BrokerUnavailable: as every operation.
        """
        if not self.name or self.name.startswith("amq."):
            return
        await channel.exchange_declare(
            self.name, self.type, durable=self.durable, auto_delete=self.auto_delete, arguments=self.arguments
        )
