"""A message that was received, and what is to become of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aioresults.transport.base import Delivery, Properties


class Message:
    """One received message, to be acknowledged, rejected or returned, once.

    ``ack``, ``reject`` and ``requeue`` only write: they are plain functions, and void when the channel is gone, because the broker
    has returned the message to its queue by then.
    """

    __slots__ = ("_acknowledged", "_delivery")

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._acknowledged = False

    @property
    def body(self) -> bytes:
        """The bytes as they came."""
        return self._delivery.body

    @property
    def properties(self) -> Properties:
        """The message's properties."""
        return self._delivery.properties

    @property
    def headers(self) -> Mapping[str, Any]:
        """The message's headers; empty when it has none."""
        return self._delivery.properties.headers or {}

    @property
    def consumer_tag(self) -> str | None:
        """The consumer it was delivered to; None when it was fetched."""
        return self._delivery.consumer_tag

    @property
    def acknowledged(self) -> bool:
        """Whether its fate is sealed: acknowledged, rejected or requeued."""
        return self._acknowledged

    def ack(self) -> None:
        """Take the message off its queue."""
        self._acknowledged = True
        self._delivery.channel.basic_ack(self._delivery.delivery_tag)

    def reject(self) -> None:
        """Take the message off its queue unread: it is dropped, or dead-lettered where the queue or a policy says so."""
        self._acknowledged = True
        self._delivery.channel.basic_nack(self._delivery.delivery_tag, requeue=False)

    def requeue(self) -> None:
        """Return the message to its queue.

        With ``basic.nack``: a quorum queue counts ``basic.reject`` and drops a message after 20 of them.
        """
        self._acknowledged = True
        self._delivery.channel.basic_nack(self._delivery.delivery_tag, requeue=True)
