"""The port: what a broker must do for the rest of the package.

Method names and flags are those of AMQP 0-9-1. Two implementations stand behind it: ``amqp`` (RabbitMQ over aio-pika)
and ``memory`` (a broker inside this process); one conformance suite runs over both.

Rules that both keep, and that the layers above rely on:

- Every failure is an error of ``aioresults.errors``: ``BrokerUnavailable`` when the connection is or was lost
  (also for a call that was waiting at that moment), ``BrokerRefused`` when the broker will not have us,
  a ``ChannelError`` when it refused the operation and closed the channel, ``ChannelClosed`` for every other call that
  was pending on that channel and every later one. A ``CancelledError`` is only ever the caller's own cancellation.
- Cancelling a call, or letting it time out, never closes the channel and never disturbs another call: the operation
  runs to its end in the background and its outcome is dropped. The one exception is ``basic_get``: see there.
- Callbacks (``on_message``, ``on_cancel``, ``on_close``) are plain functions, run in the event loop, and do not wait.
  They are called in order, never from inside a call of the port, and not after their channel or connection is closed.
- No timeouts in here: those who call set them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Arguments = Mapping[str, Any] | None

TRANSIENT = 1
PERSISTENT = 2


@dataclass(slots=True)
class Properties:
    """The properties of a message (AMQP 0-9-1, Basic class); None means: not sent."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    #: 1 transient, 2 persistent.
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    #: Milliseconds, as a decimal string.
    expiration: str | None = None
    #: Unique per publish; the transport makes one where there is none, because returns are matched by it.
    message_id: str | None = None
    #: Seconds since the epoch.
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


class OutgoingMessage(NamedTuple):
    """A body and its properties, as they go over the wire; ``Producer.publish`` sends it as it is."""

    body: bytes
    properties: Properties


@dataclass(slots=True)
class Delivery:
    """One message as it was delivered or fetched on ``channel``."""

    channel: Channel
    body: bytes
    properties: Properties
    #: Names this delivery on its channel for ``basic_ack`` and ``basic_nack``.
    delivery_tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    #: The consumer that got it; None when it was fetched with ``basic_get``.
    consumer_tag: str | None = None
    #: Messages left in the queue, for ``basic_get`` only.
    message_count: int | None = None


@dataclass(frozen=True, slots=True)
class DeclareOk:
    """The answer to ``queue_declare``."""

    queue: str
    message_count: int
    consumer_count: int


OnMessage = Callable[[Delivery], None]
#: Called with the consumer tag when the broker cancels a consumer: queue deleted, node lost.
OnCancel = Callable[[str], None]
#: Called once with the reason when a channel or connection is gone.
OnClose = Callable[[BaseException], None]
#: Called with the broker's reason when it blocks publishers (an alarm), and with None when it takes messages again.
OnBlocked = Callable[[str | None], None]


class Channel(Protocol):
    """One AMQP channel. Raises as the module docstring says."""

    @property
    def is_closed(self) -> bool:
        """Whether calls on this channel can only fail."""

    @property
    def connection(self) -> Connection:
        """The connection it is on."""

    def on_close(self, callback: OnClose) -> Callable[[], object]:
        """Have ``callback`` called once when this channel is closed: by the broker, its owner, or its connection.

        Returns what takes that back.
        """

    async def exchange_declare(
        self,
        exchange: str,
        type: str = "direct",
        *,
        durable: bool = True,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Arguments = None,
    ) -> None: ...

    async def exchange_delete(self, exchange: str, *, if_unused: bool = False) -> None: ...

    async def exchange_bind(
        self, destination: str, source: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None: ...

    async def exchange_unbind(
        self, destination: str, source: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None: ...

    async def queue_declare(
        self,
        queue: str = "",
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Arguments = None,
    ) -> DeclareOk:
        """Declare a queue; an empty name lets the broker choose one (``amq.gen-...``)."""

    async def queue_bind(
        self, queue: str, exchange: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None: ...

    async def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", *, arguments: Arguments = None
    ) -> None: ...

    async def queue_purge(self, queue: str) -> int:
        """Drop the messages that are ready; return how many."""

    async def queue_delete(self, queue: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue, and return how many messages went with it; a queue that is not there counts 0."""

    async def basic_publish(
        self, body: bytes, properties: Properties, exchange: str = "", routing_key: str = "", *, mandatory: bool = False
    ) -> None:
        """Publish one message; on a channel with confirms, return when the broker has confirmed it.

        Raises:
            MessageReturned: ``mandatory`` and there is no queue for it (with confirms only).
            MessageNacked: the broker answered with a negative confirm.
            ChannelClosed: what closed the channel before the confirm was about something else.
            BrokerUnavailable, ChannelError: not known to be stored; publish again.

        Cancellation: the message may or may not be sent; the channel stays usable.
        """

    async def basic_consume(
        self,
        queue: str,
        on_message: OnMessage,
        *,
        on_cancel: OnCancel | None = None,
        no_ack: bool = False,
        exclusive: bool = False,
        consumer_tag: str | None = None,
        arguments: Arguments = None,
    ) -> str:
        """Start a consumer and return its tag.

        Raises:
            NotSupported: ``consumer_tag`` is in use on this channel; RabbitMQ closes the connection for that (530).
        """

    async def basic_cancel(self, consumer_tag: str) -> None:
        """Stop a consumer; what was delivered to it before stays unacknowledged. An unknown tag is no error."""

    async def basic_get(self, queue: str, *, no_ack: bool = False) -> Delivery | None:
        """Fetch one message, or None when the queue is empty.

        Cancellation: a message fetched meanwhile stays unacknowledged until the channel closes; use a channel of
        its own for gets that may be cancelled.
        """

    def basic_ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Acknowledge; written without waiting. Silently void on a closed channel: the broker requeued by then."""

    def basic_nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        """Return to the queue (or drop, with ``requeue=False``); written without waiting, void on a closed channel."""

    async def basic_qos(self, prefetch_count: int) -> None:
        """Limit what is unacknowledged per consumer started after this call; 0 means no limit."""

    async def basic_recover(self) -> None:
        """Have everything that is unacknowledged on this channel redelivered (``requeue=True``)."""

    async def close(self) -> None:
        """Close the channel; what is unacknowledged on it returns to its queues. Safe to call twice."""


class Connection(Protocol):
    """One live connection; it never reconnects by itself."""

    @property
    def is_closed(self) -> bool: ...

    def on_close(self, callback: OnClose) -> None:
        """Have ``callback`` called once when the connection is lost (not when ``close`` was called)."""

    def on_blocked(self, callback: OnBlocked) -> None:
        """Have ``callback`` called when the broker blocks this connection, and when that ends.

        RabbitMQ says so to connections that publish, at their first publish after the alarm; from then on it reads
        nothing from them.
        """

    async def channel(self, *, confirms: bool = False) -> Channel:
        """Open a channel, with publisher confirms where asked for."""

    async def close(self) -> None:
        """Close the connection and everything on it, within a few seconds at most. Safe to call twice."""


class Transport(Protocol):
    """Where connections come from."""

    @property
    def nodes(self) -> int:
        """How many addresses are tried in turn."""

    def skip(self) -> None:
        """Have the next address tried next: the last one took a connection, and was of no use."""

    async def connect(self) -> Connection:
        """Open one connection.

        Raises:
            BrokerUnavailable: nobody there, or no answer; trying again may help.
            BrokerRefused: wrong credentials, no such vhost, TLS refused; trying again does not help.
        """

    def as_uri(self, include_password: bool = False) -> str:
        """Return where this leads; the password, if any, is ``**`` unless asked for."""
