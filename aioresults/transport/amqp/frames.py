"""Frames as they are written (AMQP 0-9-1, 4.2).

Those that name a queue are pamqp's, for any name that RabbitMQ takes: pamqp checks names twice, when a frame is made
and when it is written, and refuses those with characters other than ``a-zA-Z0-9-_.:@#,/+`` and space. RabbitMQ takes
any UTF-8, and a task id may be any text. Those that go with each message are written here, in one step.
"""

from __future__ import annotations

import struct
from typing import Final

from aiormq import spec

from aioresults.errors import EncodeError
from aioresults.transport.amqp.properties import write_properties, write_short_string
from aioresults.transport.base import Properties


class _AnyName:
    """Leaves the check of names to the broker."""

    def validate(self) -> None:
        """Accept everything."""


class QueueDeclare(_AnyName, spec.Queue.Declare):
    """``queue.declare``."""


class QueueBind(_AnyName, spec.Queue.Bind):
    """``queue.bind``."""


class QueueUnbind(_AnyName, spec.Queue.Unbind):
    """``queue.unbind``."""


class QueuePurge(_AnyName, spec.Queue.Purge):
    """``queue.purge``."""


class QueueDelete(_AnyName, spec.Queue.Delete):
    """``queue.delete``."""


class BasicConsume(_AnyName, spec.Basic.Consume):
    """``basic.consume``."""


class BasicGet(_AnyName, spec.Basic.Get):
    """``basic.get``."""


_HEAD: Final = struct.Struct(">BHI").pack
_END: Final = b"\xce"
#: Bytes of a frame that are not its payload.
_AROUND: Final = 8
_METHOD, _HEADER, _BODY = 1, 2, 3
_PUBLISH: Final = b"\x00\x3c\x00\x28\x00\x00"
_CONTENT: Final = struct.Struct(">HHQ").pack
_BASIC: Final = 60
_ACK, _NACK = 80, 120
_SETTLE: Final = struct.Struct(">BHIHHQBB").pack
_SETTLE_SIZE: Final = 13


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
    most = (max_size or len(header) + len(body) + _AROUND) - _AROUND
    if len(header) > most:
        # RabbitMQ closes the connection over it (501).
        raise EncodeError(f"a message cannot have properties of {len(header)} bytes; the broker takes {most}")
    parts = [_HEAD(_METHOD, channel, len(method)), method, _END, _HEAD(_HEADER, channel, len(header)), header, _END]
    for start in range(0, len(body), most):
        chunk = body[start : start + most]
        parts += (_HEAD(_BODY, channel, len(chunk)), chunk, _END)
    return b"".join(parts)


def ack(channel: int, delivery_tag: int, *, multiple: bool) -> bytes:
    """Return ``basic.ack``."""
    return _SETTLE(_METHOD, channel, _SETTLE_SIZE, _BASIC, _ACK, delivery_tag, multiple, _END[0])


def nack(channel: int, delivery_tag: int, *, multiple: bool, requeue: bool) -> bytes:
    """Return ``basic.nack``."""
    return _SETTLE(_METHOD, channel, _SETTLE_SIZE, _BASIC, _NACK, delivery_tag, multiple | requeue << 1, _END[0])
