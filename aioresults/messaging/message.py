"""Received messages: what is in one, and what is to become of it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Final

from aioresults.errors import MessageStateError
from aioresults.messaging.body_codec import BodyCodec
from aioresults.transport.base import Delivery

_UNREAD: Final = object()


class Written:
    """What ``ack`` and its siblings return: awaiting it takes no time, and not awaiting it is no mistake."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


WRITTEN: Final = Written()


class Message:
    """One received message. Acknowledge, reject or requeue it exactly once.

    ``ack``, ``nack``, ``reject`` and ``requeue`` write to the connection at once and wait for nothing. Call them from
    plain functions, or ``await`` them, as you prefer. On a closed channel they do nothing, because the broker has
    already returned the message to its queue. A second call raises ``MessageStateError``: if it were sent, the broker
    would close the channel.

    Example::

        async for message in consumer:
            print(message.payload)
            message.ack()
            break

    Args:
        codec: reads the body; None means every serializer that is known.
        queue: the name of the queue that the message came from.
        no_ack: the broker forgot the message when it sent it. ``ack`` then does nothing, and the others raise.
    """

    __slots__ = (
        "_codec", "_delivery", "_payload", "_state",
        "body", "channel", "consumer_tag", "delivery_tag", "properties", "queue",
    )  # fmt: skip

    def __init__(
        self,
        delivery: Delivery,
        codec: BodyCodec | None = None,
        *,
        queue: str | None = None,
        no_ack: bool = False,
    ) -> None:
        #: The bytes as they came; only ``decode`` decompresses them. (kombu's ``body`` is decompressed.)
        self.body: Final = delivery.body
        #: The properties of the message.
        self.properties: Final = delivery.properties
        #: The channel on which the message was received.
        self.channel: Final = delivery.channel
        #: The number of the delivery on its channel.
        self.delivery_tag: Final = delivery.delivery_tag
        #: The tag of the consumer that received the message; None for a message that was fetched with ``Queue.get``.
        self.consumer_tag: Final = delivery.consumer_tag
        #: The name of the queue from which the message was received; None if it came through neither ``Consumer`` nor
        #: ``Queue.get``.
        self.queue: Final = queue
        self._delivery: Final = delivery
        self._codec: Final = codec
        self._state = "no_ack" if no_ack else ""
        self._payload: Any = _UNREAD

    def __repr__(self) -> str:
        # Neither body nor headers: they may hold a result, and a repr ends in logs.
        return f"<Message {self.delivery_tag} {self._delivery.routing_key!r}{self._state and ' ' + self._state}>"

    # What it is

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers of the message; empty if it has none."""
        return self.properties.headers or {}

    @property
    def content_type(self) -> str | None:
        """The content type of the body."""
        return self.properties.content_type

    @property
    def content_encoding(self) -> str | None:
        """The charset of the body, or ``binary``."""
        return self.properties.content_encoding

    @property
    def delivery_info(self) -> dict[str, Any]:
        """How the message came: ``delivery_tag``, ``redelivered``, ``exchange`` and ``routing_key``.

        Also the ``consumer_tag``, or after ``Queue.get`` the ``message_count`` of what was left in the queue.
        """
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

    def decode(self) -> Any:
        """Return the value in the body. The body is read once; later calls return the same value.

        Example::

            value = message.decode()

        Raises:
            ContentDisallowed: the content type is not accepted here; nothing was decoded.
            DecodeError: the body cannot be read.
        """
        if self._payload is _UNREAD:
            self._payload = (self._codec or BodyCodec()).read(self.body, self.properties)
        return self._payload

    @property
    def payload(self) -> Any:
        """The value in the body; raises as ``decode`` does."""
        return self.decode()

    # What becomes of it

    @property
    def acknowledged(self) -> bool:
        """Whether the message is settled: acknowledged, rejected, requeued, or consumed with ``no_ack``."""
        return self._state != ""

    def ack(self, multiple: bool = False) -> Written:
        """Remove the message from its queue.

        Example::

            message.ack()

        Args:
            multiple: also remove every message that was received earlier on the same channel.

        Raises:
            MessageStateError: the message is already settled.
        """
        if self._state == "no_ack":
            return WRITTEN
        self._settle("acknowledged")
        self.channel.basic_ack(self.delivery_tag, multiple=multiple)
        return WRITTEN

    def nack(self, multiple: bool = False, requeue: bool = True) -> Written:
        """Return the message to its queue, or remove it from there unread; raises as ``ack`` does.

        Example::

            message.nack(requeue=False)

        Args:
            multiple: the same for every message that was received earlier on the same channel.
            requeue: False removes the message, as ``reject`` does.
        """
        self._settle("requeued" if requeue else "rejected")
        self.channel.basic_nack(self.delivery_tag, multiple=multiple, requeue=requeue)
        return WRITTEN

    def reject(self, requeue: bool = False) -> Written:
        """Remove the message from its queue unread; raises as ``ack`` does.

        The message is dropped, or dead-lettered if the queue or a policy says so.

        Example::

            message.reject()
        """
        return self.nack(requeue=requeue)

    def requeue(self) -> Written:
        """Return the message to its queue; raises as ``ack`` does.

        This sends ``basic.nack``: a quorum queue counts each ``basic.reject``, and drops a message after 20 of them.

        Example::

            message.requeue()
        """
        return self.nack()

    def _settle(self, state: str) -> None:
        if self._state:
            raise MessageStateError(self._state)
        self._state = state
