"""Publishes task messages: confirmed, mandatory, and again when a connection was lost meanwhile."""

from __future__ import annotations

import asyncio

from aioresults.backend import AMQPBackend
from aioresults.messaging import OutgoingMessage
from aioresults.retry import RetryPolicy, retrying
from aioresults.timing import fail_after
from aioresults.transport import Channel


class Publisher:
    """One channel for all that is published, on the connection that the backend keeps for work of its users.

    Args:
        policy: how often a message is tried again that is not known to be sent. Sent twice, a task runs twice.
        timeout: seconds for one message, attempts and confirm together.
    """

    def __init__(self, backend: AMQPBackend, policy: RetryPolicy, timeout: float) -> None:
        self._backend = backend
        self._policy = policy
        self._timeout = timeout
        self._producer = backend.Producer()
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()

    async def publish(
        self, message: OutgoingMessage, exchange: str, routing_key: str, timeout: float | None = None
    ) -> None:
        """Publish one message, and return when the broker has it in a queue.

        Args:
            timeout: seconds, where they are fewer than this publisher's own.

        Raises:
            MessageReturned: there is no queue for it.
            NotFound: there is no such exchange.
            BrokerUnavailable: not known to be sent within the policy and the time; the last error is its cause.
            ChannelError: the broker refused it.

        Cancelled: sent or not sent, nothing else is disturbed.
        """

        async def attempt() -> None:
            channel = self._channel
            if channel is None or channel.is_closed:
                channel = await self._open()
            await self._producer.publish(message, routing_key, exchange=exchange, mandatory=True)

        async with fail_after(
            self._timeout if timeout is None else min(timeout, self._timeout), "not confirmed by the broker"
        ):
            await retrying(attempt, self._policy)

    async def _open(self) -> Channel:
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                channel = await self._backend.channel()
                await self._producer.revive(channel)
                self._channel = channel
            return self._channel
