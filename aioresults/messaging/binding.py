"""A binding: from an exchange, by a routing key, to whatever it is applied to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioresults.transport.base import Channel

if TYPE_CHECKING:
    from aioresults.messaging.exchange import Exchange
    from aioresults.messaging.queue import Queue


@dataclass(frozen=True, slots=True)
class Binding:
    """Where messages come from; made by ``Exchange.binding``, and given to a queue or applied to a bound entity.

    Args:
        arguments: for the bind; with a headers exchange, what must match.
        unbind_arguments: for the unbind; None means ``arguments``, because a binding is told from others by them too.
            (kombu then sends none, and the binding stays.)
    """

    exchange: Exchange
    routing_key: str = ""
    arguments: Mapping[str, Any] | None = field(default=None, hash=False)
    unbind_arguments: Mapping[str, Any] | None = field(default=None, compare=False)

    async def declare(self, channel: Channel, nowait: bool = False) -> None:
        """Declare the exchange on ``channel``; raises as ``Exchange.declare``."""
        await self.exchange(channel).declare(nowait)

    async def bind(self, entity: Exchange | Queue, nowait: bool = False) -> None:
        """Bind a queue, or another exchange, that is bound to a channel; raises as its ``bind_to``."""
        await entity.bind_to(self.exchange, self.routing_key, self.arguments, nowait)

    async def unbind(self, entity: Exchange | Queue, nowait: bool = False) -> None:
        """Take the binding off a queue, or another exchange, that is bound to a channel."""
        arguments = self.arguments if self.unbind_arguments is None else self.unbind_arguments
        await entity.unbind_from(self.exchange, self.routing_key, nowait=nowait, arguments=arguments)
