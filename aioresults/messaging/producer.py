"""Publishes messages on one channel."""

from __future__ import annotations

from aioresults.transport.base import Channel, Properties


class Producer:
    """Publishes on ``channel``, by default to the default exchange.

    On a channel with confirms, ``publish`` returns when the broker has the message.
    """

    __slots__ = ("channel",)

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    async def publish(
        self,
        body: bytes,
        properties: Properties,
        routing_key: str,
        *,
        exchange: str = "",
        mandatory: bool = False,
    ) -> None:
        """Publish one message.

        Raises:
            MessageReturned: it is ``mandatory`` and there is no queue for it.
            MessageNacked: the broker did not take it.
            ChannelError, BrokerUnavailable: it is not known to be stored; publish it again.

        Cancellation: the message may or may not be sent; nothing else is disturbed.
        """
        await self.channel.basic_publish(body, properties, exchange, routing_key, mandatory=mandatory)
