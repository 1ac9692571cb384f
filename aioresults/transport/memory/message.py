"""A message at rest: what was published, copied so that nobody can change it afterwards, and its place in a queue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aioresults.errors import PreconditionFailed
from aioresults.transport.base import PERSISTENT, Properties


class Message:
    """One message in one queue; ``next`` is its successor there, so that a queue needs no container of its own.

    ``position`` is its place: numbers are handed out once per broker and only grow, so a message that comes back
    (nack, channel closed) knows where it stood. ``expires_at`` is on the broker's clock.
    """

    __slots__ = ("body", "exchange", "expires_at", "next", "position", "properties", "redelivered", "routing_key")

    def __init__(self, body: bytes, properties: Properties, exchange: str, routing_key: str) -> None:
        self.body = body
        self.properties = properties
        self.exchange = exchange
        self.routing_key = routing_key
        self.position = 0
        self.redelivered = False
        self.expires_at: float | None = None
        self.next: Message | None = None

    def __lt__(self, other: Message) -> bool:
        return self.position < other.position

    def copy(self) -> Message:
        """The same message for another queue; its properties are shared, because nobody outside ever gets them."""
        return Message(self.body, self.properties, self.exchange, self.routing_key)

    @property
    def persistent(self) -> bool:
        return self.properties.delivery_mode == PERSISTENT


def copy_value(value: Any) -> Any:
    """Copy the containers of an AMQP field value; the rest of it is immutable."""
    if isinstance(value, dict):
        return {key: copy_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [copy_value(item) for item in value]
    return value


def copy_properties(source: Properties) -> Properties:
    """Copy, as the wire would: what a publisher or a consumer changes later must not reach the queue."""
    headers = source.headers
    return Properties(
        source.content_type,
        source.content_encoding,
        copy_value(headers) if headers is not None else None,
        source.delivery_mode,
        source.priority,
        source.correlation_id,
        source.reply_to,
        source.expiration,
        source.message_id,
        source.timestamp,
        source.type,
        source.user_id,
        source.app_id,
    )


def milliseconds(expiration: str) -> int:
    """Read the ``expiration`` property as RabbitMQ does: a decimal string, or 406."""
    try:
        value = int(expiration)
    except ValueError:
        raise PreconditionFailed(406, f"PRECONDITION_FAILED - invalid expiration '{expiration}': no_integer") from None
    if value < 0:
        text = f"PRECONDITION_FAILED - invalid expiration '{expiration}': {{value_negative,{value}}}"
        raise PreconditionFailed(406, text)
    return value


def dead_letter(message: Message, reason: str, queue: str, exchange: str, routing_key: str, now: float) -> Message:
    """Make the message that goes to the dead-letter exchange, with the history RabbitMQ keeps in ``x-death``.

    One entry per (queue, reason), the latest first, with a count; the expiration is taken off, or the message could
    never rest in the queue it is meant for.
    """
    properties = copy_properties(message.properties)
    headers = properties.headers if properties.headers is not None else {}
    properties.headers = headers
    deaths = headers.get("x-death")
    deaths = deaths if isinstance(deaths, list) else []
    entry = next((one for one in deaths if one.get("queue") == queue and one.get("reason") == reason), None)
    if entry is None:
        entry = {
            "count": 0,
            "reason": reason,
            "queue": queue,
            "time": datetime.fromtimestamp(int(now), UTC),
            "exchange": message.exchange,
            "routing-keys": [message.routing_key],
        }
        if properties.expiration is not None:
            entry["original-expiration"] = properties.expiration
    entry["count"] += 1
    headers["x-death"] = [entry, *(one for one in deaths if one is not entry)]
    if "x-first-death-reason" not in headers:
        headers["x-first-death-exchange"] = message.exchange
        headers["x-first-death-queue"] = queue
        headers["x-first-death-reason"] = reason
    properties.expiration = None
    return Message(message.body, properties, exchange, routing_key)


def died_in_a_circle(message: Message, queue: str) -> bool:
    """Whether a dead letter came round to ``queue`` with nobody ever rejecting it: RabbitMQ drops it there."""
    deaths = (message.properties.headers or {}).get("x-death")
    if not isinstance(deaths, list) or any(one.get("reason") == "rejected" for one in deaths):
        return False
    return any(one.get("queue") == queue for one in deaths)
