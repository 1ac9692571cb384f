"""Frames as they are written and read (AMQP 0-9-1, 4.2): those of messages, and those that close a channel."""

from __future__ import annotations

import struct
from typing import Any, Final, Protocol

from aioresults.errors import EncodeError, MessageReturned
from aioresults.transport.amqp.properties import (
    read_properties,
    read_short_string,
    write_properties,
    write_short_string,
    write_table,
)
from aioresults.transport.base import Channel, Delivery, Properties

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
#: Bytes of a frame before its payload, and all that are not its payload.
HEAD_SIZE: Final = 7
AROUND: Final = 8
END: Final = 0xCE
#: No RabbitMQ can be told to take larger messages (its ``max_message_size``).
MAX_BODY: Final = 2**29

OPEN: Final = b"\x00\x14\x00\x0a"
CLOSE: Final = b"\x00\x14\x00\x28"
CLOSE_OK: Final = b"\x00\x14\x00\x29"
_CANCEL: Final = b"\x00\x3c\x00\x1e"
_CANCEL_OK: Final = b"\x00\x3c\x00\x1f"
_PUBLISH: Final = b"\x00\x3c\x00\x28\x00\x00"
_RETURN: Final = b"\x00\x3c\x00\x32"
_DELIVER: Final = b"\x00\x3c\x00\x3c"
_GET: Final = b"\x00\x3c\x00\x46\x00\x00"
_GET_OK: Final = b"\x00\x3c\x00\x47"
_GET_EMPTY: Final = b"\x00\x3c\x00\x48"
_ACK: Final = b"\x00\x3c\x00\x50"
_NACK: Final = b"\x00\x3c\x00\x78"

_HEAD: Final = struct.Struct(">BHI").pack
_END: Final = b"\xce"
_CONTENT: Final = struct.Struct(">HHQ").pack
_BASIC: Final = 60
_SETTLE: Final = struct.Struct(">BHI4sQBB").pack
_SETTLE_SIZE: Final = 13
_TAG_AND_BITS: Final = struct.Struct(">QB").unpack_from
_COUNT: Final = struct.Struct(">I").unpack_from
_CODE: Final = struct.Struct(">H").unpack_from
_BODY_SIZE: Final = struct.Struct(">Q").unpack_from


# Written


def publish(
    channel: int,
    body: bytes,
    properties: Properties,
    exchange: str,
    routing_key: str,
    *,
    mandatory: bool,
    max_size: int,
) -> bytes:
    """Return the frames of one message, none longer than ``max_size`` bytes; 0 for any length.

    Raises:
        EncodeError: AMQP cannot carry its properties, exchange or routing key.
    """
    try:
        method = b"".join(
            (_PUBLISH, write_short_string(exchange), write_short_string(routing_key), b"\x01" if mandatory else b"\x00")
        )
    except ValueError as error:
        raise EncodeError(
            f"a message cannot go to exchange {exchange!r}, routing key {routing_key!r}: {error}"
        ) from error
    header = _CONTENT(_BASIC, 0, len(body)) + write_properties(properties)
    most = (max_size or len(header) + len(body) + AROUND) - AROUND
    if len(header) > most:
        # RabbitMQ closes the connection over it (501).
        raise EncodeError(f"a message cannot have properties of {len(header)} bytes; the broker takes {most}")
    parts = [_HEAD(METHOD, channel, len(method)), method, _END, _HEAD(HEADER, channel, len(header)), header, _END]
    for start in range(0, len(body), most):
        chunk = body[start : start + most]
        parts += (_HEAD(BODY, channel, len(chunk)), chunk, _END)
    return b"".join(parts)


def ack(channel: int, delivery_tag: int, *, multiple: bool) -> bytes:
    """Return ``basic.ack``."""
    return _SETTLE(METHOD, channel, _SETTLE_SIZE, _ACK, delivery_tag, multiple, END)


def nack(channel: int, delivery_tag: int, *, multiple: bool, requeue: bool) -> bytes:
    """Return ``basic.nack``."""
    return _SETTLE(METHOD, channel, _SETTLE_SIZE, _NACK, delivery_tag, multiple | requeue << 1, END)


def get(channel: int, queue: str, *, no_ack: bool) -> bytes:
    """Return ``basic.get``."""
    return _method(channel, _GET + write_short_string(queue) + (b"\x01" if no_ack else b"\x00"))


def cancel_ok(channel: int, consumer_tag: str) -> bytes:
    """Return ``basic.cancel-ok``."""
    return _method(channel, _CANCEL_OK + write_short_string(consumer_tag))


def close(channel: int) -> bytes:
    """Return ``channel.close``, which says that all is well (200)."""
    return _method(channel, CLOSE + b"\x00\xc8\x00\x00\x00\x00\x00")


def _method(channel: int, payload: bytes) -> bytes:
    return _HEAD(METHOD, channel, len(payload)) + payload + _END


def call(method: type[Any], **fields: Any) -> Any:
    """Return a call for aiormq to send, with any names that RabbitMQ takes.

    pamqp checks names when a call is made and when it is written, and refuses characters other than
    ``a-zA-Z0-9-_.:@#,/+`` and space. RabbitMQ takes any UTF-8, and a task id may be any text.

    Args:
        method: the class of the call, in ``aiormq.spec``.
    """
    made = method()
    for name, value in fields.items():
        setattr(made, name, value)
    made.marshal = lambda: _arguments(made)
    return made


def _arguments(made: Any) -> bytes:
    """Return what follows the number of the method: a ticket, names, at most eight bits, and a table."""
    values: dict[str, list[Any]] = {"short": [], "shortstr": [], "bit": [], "table": []}
    for name in made.attributes():
        values[made.amqp_type(name)].append(getattr(made, name))
    bits = [bytes((sum(bit << place for place, bit in enumerate(values["bit"])),))] if values["bit"] else []
    return b"".join(
        (b"\x00\x00", *map(write_short_string, values["shortstr"]), *bits, *map(write_table, values["table"]))
    )


# Read


class ReceivingChannel(Channel, Protocol):
    """The channel that is told what arrived on it, in order."""

    def delivered(self, delivery: Delivery) -> None: ...
    def fetched(self, delivery: Delivery | None) -> None: ...
    def returned(self, message_id: str | None, error: MessageReturned) -> None: ...
    def confirmed(self, delivery_tag: int, *, multiple: bool, ack: bool) -> None: ...
    def cancelled(self, consumer_tag: str) -> None: ...
    def refused(self, reply_code: int, reply_text: str) -> None: ...


_NOT_YET: Final = Properties()


class FrameAssembler:
    """Puts messages together from the frames of one channel, and hands each to the channel when it is whole."""

    __slots__ = ("_began", "_channel", "_chunks", "_missing", "_properties")

    def __init__(self, channel: ReceivingChannel) -> None:
        self._channel = channel
        #: What the method of the incoming message said; None between messages.
        self._began: Delivery | MessageReturned | None = None
        self._properties: Properties | None = None
        self._chunks: list[bytes] = []
        #: Bytes of the body that are still to come.
        self._missing = 0

    def take(self, kind: int, payload: bytes) -> bool:
        """Take in a frame; return False if aiormq is to have it.

        Raises:
            ValueError, IndexError, struct.error: the frame cannot be read, or does not come where it may.
        """
        if kind == METHOD:
            return self._take_method(payload)
        if kind == HEADER:
            self._take_header(payload)
        elif kind == BODY:
            self._take_body(payload)
        else:
            raise ValueError("a heartbeat on a channel")
        return True

    def _take_method(self, payload: bytes) -> bool:
        if self._began is not None:
            raise ValueError("a method within a message")
        method = payload[:4]
        if method == _DELIVER:
            consumer_tag, at = read_short_string(payload, 4)
            self._began, _ = self._delivery(payload, at, consumer_tag)
        elif method in (_ACK, _NACK):
            delivery_tag, bits = _TAG_AND_BITS(payload, 4)
            self._channel.confirmed(delivery_tag, multiple=bool(bits & 1), ack=method == _ACK)
        elif method == _GET_OK:
            self._began, at = self._delivery(payload, 4, None)
            (self._began.message_count,) = _COUNT(payload, at)
        elif method == _GET_EMPTY:
            self._channel.fetched(None)
        elif method == _RETURN:
            code, text, at = read_code_and_text(payload)
            exchange, at = read_short_string(payload, at)
            self._began = MessageReturned(exchange, read_short_string(payload, at)[0], code, text)
        elif method == _CANCEL:
            self._channel.cancelled(read_short_string(payload, 4)[0])
        else:
            if method == CLOSE:
                self._channel.refused(*read_code_and_text(payload)[:2])
            return False
        return True

    def _delivery(self, payload: bytes, at: int, consumer_tag: str | None) -> tuple[Delivery, int]:
        delivery_tag, bits = _TAG_AND_BITS(payload, at)
        exchange, at = read_short_string(payload, at + 9)
        routing_key, at = read_short_string(payload, at)
        redelivered = bool(bits & 1)
        return (
            Delivery(self._channel, b"", _NOT_YET, delivery_tag, redelivered, exchange, routing_key, consumer_tag),
            at,
        )

    def _take_header(self, payload: bytes) -> None:
        if self._began is None or self._properties is not None:
            raise ValueError("a content header without its method")
        (self._missing,) = _BODY_SIZE(payload, 4)
        if self._missing > MAX_BODY:
            raise ValueError(f"a message of {self._missing} bytes")
        self._properties = read_properties(payload, 12)
        if not self._missing:
            self._hand_over(b"")

    def _take_body(self, chunk: bytes) -> None:
        if self._properties is None:
            raise ValueError("a body without its content header")
        self._missing -= len(chunk)
        if self._missing < 0:
            raise ValueError("a body longer than its content header said")
        if chunk:
            self._chunks.append(chunk)
        if not self._missing:
            body = chunk if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks = []
            self._hand_over(body)

    def _hand_over(self, body: bytes) -> None:
        began, properties = self._began, self._properties
        assert properties is not None
        self._began = self._properties = None
        if isinstance(began, MessageReturned):
            self._channel.returned(properties.message_id, began)
        elif began is not None:
            began.body, began.properties = body, properties
            (self._channel.fetched if began.consumer_tag is None else self._channel.delivered)(began)


def read_code_and_text(payload: bytes) -> tuple[int, str, int]:
    """Return the reply code and text that a method begins with, and where they end."""
    (code,) = _CODE(payload, 4)
    return code, *read_short_string(payload, 6)
