"""Reads the frames of one channel that carry messages and confirms; the others are aiormq's (AMQP 0-9-1, 4.2)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from aioresults.transport.amqp.properties import read_properties, read_short_string
from aioresults.transport.base import Properties

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3

_ACK: Final = b"\x00\x3c\x00\x50"
_NACK: Final = b"\x00\x3c\x00\x78"
_DELIVER: Final = b"\x00\x3c\x00\x3c"
_RETURN: Final = b"\x00\x3c\x00\x32"
_GET_OK: Final = b"\x00\x3c\x00\x47"
_GET_EMPTY: Final = b"\x00\x3c\x00\x48"

_TAG_AND_BITS: Final = struct.Struct(">QB").unpack_from
_COUNT: Final = struct.Struct(">I").unpack_from
_CODE: Final = struct.Struct(">H").unpack_from
_BODY_SIZE: Final = struct.Struct(">Q").unpack_from


class Handler(Protocol):
    """What is told of what arrived, in order."""

    def delivered(
        self,
        consumer_tag: str,
        delivery_tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        properties: Properties,
        body: bytes,
    ) -> None:
        """A consumer was sent a message."""
        ...

    def fetched(
        self,
        delivery_tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        message_count: int,
        properties: Properties,
        body: bytes,
    ) -> None:
        """A get found a message."""
        ...

    def fetched_nothing(self) -> None:
        """A get found its queue empty."""
        ...

    def returned(
        self, reply_code: int, reply_text: str, exchange: str, routing_key: str, properties: Properties, body: bytes
    ) -> None:
        """A mandatory message found no queue."""
        ...

    def confirmed(self, delivery_tag: int, *, multiple: bool, ack: bool) -> None:
        """The broker has answered publishes."""
        ...


class Arrivals:
    """Puts messages together from their frames, and hands each to ``handler`` when it is whole."""

    __slots__ = ("_chunks", "_fields", "_finish", "_handler", "_missing", "_properties")

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        #: What is told of the message that is being received, and the fields of its method; None between messages.
        self._finish: Callable[..., None] | None = None
        self._fields: tuple[Any, ...] = ()
        self._properties: Properties | None = None
        self._chunks: list[bytes] = []
        #: Bytes of the body that are still to come.
        self._missing = 0

    def take(self, kind: int, data: bytes, start: int, stop: int) -> bool:
        """Take in a frame whose payload is ``data[start:stop]``; return False where it is not for here.

        Raises:
            ValueError, IndexError, struct.error: it cannot be read, or does not come where it may.
        """
        if kind == METHOD:
            return self._take_method(data, start)
        if kind == HEADER:
            self._take_header(data, start)
        elif kind == BODY:
            self._take_body(data[start:stop])
        else:
            return False
        return True

    def _take_method(self, data: bytes, start: int) -> bool:
        method, at = data[start : start + 4], start + 4
        if method == _DELIVER:
            consumer_tag, at = read_short_string(data, at)
            self._expect(self._handler.delivered, (consumer_tag, *_origin(data, at)))
        elif method in (_ACK, _NACK):
            delivery_tag, bits = _TAG_AND_BITS(data, at)
            self._handler.confirmed(delivery_tag, multiple=bool(bits & 1), ack=method == _ACK)
        elif method == _GET_OK:
            self._expect(self._handler.fetched, _origin(data, at, counted=True))
        elif method == _GET_EMPTY:
            self._handler.fetched_nothing()
        elif method == _RETURN:
            (reply_code,) = _CODE(data, at)
            reply_text, at = read_short_string(data, at + 2)
            exchange, at = read_short_string(data, at)
            routing_key, at = read_short_string(data, at)
            self._expect(self._handler.returned, (reply_code, reply_text, exchange, routing_key))
        else:
            return False
        return True

    def _expect(self, finish: Callable[..., None], fields: tuple[Any, ...]) -> None:
        if self._finish is not None:
            raise ValueError("a message began within another one")
        self._finish, self._fields, self._properties = finish, fields, None

    def _take_header(self, data: bytes, start: int) -> None:
        if self._finish is None or self._properties is not None:
            raise ValueError("a content header without its method")
        (self._missing,) = _BODY_SIZE(data, start + 4)
        self._properties = read_properties(data, start + 12)
        if not self._missing:
            self._hand_over(b"")

    def _take_body(self, chunk: bytes) -> None:
        if self._properties is None:
            raise ValueError("a body without its content header")
        self._missing -= len(chunk)
        if self._missing < 0:
            raise ValueError("a body longer than its content header said")
        if not self._missing and not self._chunks:
            self._hand_over(chunk)
            return
        self._chunks.append(chunk)
        if not self._missing:
            body, self._chunks = b"".join(self._chunks), []
            self._hand_over(body)

    def _hand_over(self, body: bytes) -> None:
        finish, properties = self._finish, self._properties
        assert finish is not None
        self._finish = self._properties = None
        finish(*self._fields, properties, body)


def _origin(data: bytes, at: int, *, counted: bool = False) -> tuple[Any, ...]:
    """Return what the method of a message says: tag, redelivered, exchange, routing key, and how many are left."""
    delivery_tag, bits = _TAG_AND_BITS(data, at)
    exchange, at = read_short_string(data, at + 9)
    routing_key, at = read_short_string(data, at)
    return delivery_tag, bool(bits & 1), exchange, routing_key, *(_COUNT(data, at) if counted else ())
