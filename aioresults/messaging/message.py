"""A message that was received, and what is to become of it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Final

from aioresults.errors import MessageStateError
from aioresults.messaging.content import Content, default_content
from aioresults.transport.base import Channel, Delivery, Properties

_UNREAD: Final = object()


class Written:
    """What ``ack`` and the like return: it is done, so awaiting it takes no time, and not awaiting it is no bug."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


WRITTEN: Final = Written()


class Message:
    """One received message, to be acknowledged, rejected or returned, once.

    ``ack``, ``nack``, ``reject`` and ``requeue`` write at once, without waiting for anything: call them from plain
    callbacks, or ``await`` them, as you like. They are void when the channel is gone, because the broker has returned
    the message to its queue by then. The second of them raises ``MessageStateError``: sent, it would close the channel.

    Args:
        content: how the body is read; None means every serializer that is known.
        no_ack: the broker forgot it when it was sent: ``ack`` does nothing, the others raise.
    """

    __slots__ = ("_content", "_delivery", "_payload", "_state")

    def __init__(self, delivery: Delivery, content: Content | None = None, *, no_ack: bool = False) -> None:
        self._delivery = delivery
        self._content = content
        self._state = "no_ack" if no_ack else ""
        self._payload: Any = _UNREAD

    def __repr__(self) -> str:
        # No body and no headers: they may hold a result, and this ends in logs.
        return f"<Message {self.delivery_tag} {self._delivery.routing_key!r}{self._state and ' ' + self._state}>"

    @property
    def body(self) -> bytes:
        """The bytes as they came; ``decode`` decompresses. (kombu's ``body`` is decompressed.)"""
        return self._delivery.body

    @property
    def channel(self) -> Channel:
        """The channel it was received on."""
        return self._delivery.channel

    @property
    def properties(self) -> Properties:
        """The message's properties."""
        return self._delivery.properties

    @property
    def headers(self) -> Mapping[str, Any]:
        """The message's headers; empty when it has none."""
        return self._delivery.properties.headers or {}

    @property
    def content_type(self) -> str | None:
        """What is in the body."""
        return self._delivery.properties.content_type

    @property
    def content_encoding(self) -> str | None:
        """The charset of the body, or ``binary``."""
        return self._delivery.properties.content_encoding

    @property
    def delivery_tag(self) -> int:
        """Its number on its channel."""
        return self._delivery.delivery_tag

    @property
    def consumer_tag(self) -> str | None:
        """The consumer it was delivered to; None when it was fetched."""
        return self._delivery.consumer_tag

    @property
    def delivery_info(self) -> dict[str, Any]:
        """How it came: by which consumer, with which tag, whether again, from where; after a get ``message_count``."""
        its = self._delivery
        came: dict[str, Any] = (
            {"message_count": its.message_count} if its.consumer_tag is None else {"consumer_tag": its.consumer_tag}
        )
        return {
            **came,
            "delivery_tag": its.delivery_tag,
            "redelivered": its.redelivered,
            "exchange": its.exchange,
            "routing_key": its.routing_key,
        }

    @property
    def acknowledged(self) -> bool:
        """Whether its fate is sealed: acknowledged, rejected or requeued, or consumed with ``no_ack``."""
        return self._state != ""

    def decode(self) -> Any:
        """Return the value in the body; read once, then remembered, whatever it is.

        Raises:
            ContentDisallowed: its content type is not accepted here; nothing of it was decoded.
            DecodeError: it cannot be read.
        """
        if self._payload is _UNREAD:
            self._payload = (self._content or default_content()).read(self._delivery.body, self._delivery.properties)
        return self._payload

    @property
    def payload(self) -> Any:
        """The value in the body; raises as ``decode``."""
        return self.decode()

    def ack(self, multiple: bool = False) -> Written:
        """Take the message off its queue; with ``multiple`` also all that were received before it on its channel.

        Raises:
            MessageStateError: its fate is sealed already.
        """
        if self._state == "no_ack":
            return WRITTEN
        self._settle("acknowledged")
        self._delivery.channel.basic_ack(self._delivery.delivery_tag, multiple=multiple)
        return WRITTEN

    def nack(self, multiple: bool = False, requeue: bool = True) -> Written:
        """Return the message to its queue, or take it off unread; raises as ``ack``."""
        self._settle("requeued" if requeue else "rejected")
        self._delivery.channel.basic_nack(self._delivery.delivery_tag, multiple=multiple, requeue=requeue)
        return WRITTEN

    def reject(self, requeue: bool = False) -> Written:
        """Take the message off its queue unread: dropped, or dead-lettered where the queue or a policy says so."""
        return self.nack(requeue=requeue)

    def requeue(self) -> Written:
        """Return the message to its queue; raises as ``ack``.

        With ``basic.nack``: a quorum queue counts ``basic.reject`` and drops a message after 20 of them.
        """
        return self.nack()

    def _settle(self, state: str) -> None:
        if self._state:
            raise MessageStateError(self._state)
        self._state = state
