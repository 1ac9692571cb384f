"""The broker's reply codes and texts as errors: pure, and the same for every transport (AMQP 0-9-1, 1.4 and 4.2)."""

from __future__ import annotations

import re

from aioresults.errors import (
    AccessRefused,
    BrokerRefused,
    BrokerUnavailable,
    ChannelClosed,
    ChannelError,
    InequivalentArgument,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)

ACCESS_REFUSED = 403
NOT_FOUND = 404
RESOURCE_LOCKED = 405
PRECONDITION_FAILED = 406
NOT_ALLOWED = 530

#: What the broker calls the exchange without a name.
DEFAULT_EXCHANGE = "amq.default"

_BY_CODE: dict[int, type[ChannelError]] = {
    ACCESS_REFUSED: AccessRefused,
    NOT_FOUND: NotFound,
    RESOURCE_LOCKED: ResourceLocked,
    PRECONDITION_FAILED: PreconditionFailed,
}

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)' for (?P<entity>\w+) '(?P<name>.*)' in vhost '.*': "
    r"received (?P<declared>.+?) but current is (?P<existing>.+)",
    re.DOTALL,
)

_MESSAGE_SIZE = re.compile(r"message size (?P<size>\d+) is larger")
_NOT_A_PUBLISH = re.compile(r"delivery tag|queue '|exchange type|x-match|prefetch|(in use|not empty)$")
_TOO_LARGE = re.compile(r"message size \d+ is larger than (configured )?max size (?P<limit>\d+)")

_NODE_DOWN = "is down or inaccessible"
_NOT_READY = re.compile(r"does not have a (running )?replica on the local node")


def channel_error(reply_code: int | None, reply_text: str) -> ChannelError:
    """Return the error for a Channel.Close with this code and text."""
    if reply_code == PRECONDITION_FAILED and (match := _INEQUIVALENT.search(reply_text)):
        return InequivalentArgument(reply_text, **match.groupdict())
    if _NODE_DOWN in reply_text:
        # A 404 for a queue that exists, and will be there again. RabbitMQ 3.10 says it of a healthy single node, too,
        # when a queue is declared in the moment of its deletion.
        return ChannelClosed(reply_code or 504, reply_text)
    if _NOT_READY.search(reply_text):
        # A 406 for a stream that another client declares at this moment, or, RabbitMQ 4.3 ("running"), whose leader
        # is being elected.
        return ChannelClosed(reply_code or 504, reply_text)
    known = _BY_CODE.get(reply_code or 0)
    if known is not None:
        return known(reply_code or 0, reply_text)
    return ChannelClosed(reply_code or 504, reply_text or "the channel is closed")


def connect_error(reply_code: int | None, reply_text: str) -> BrokerUnavailable:
    """Return the error for a connection that the broker closed while it was opened.

    Credentials (403) and vhosts (530) are refused for good; a connection limit, also a 530, may pass.
    """
    refused = reply_code == ACCESS_REFUSED or (reply_code == NOT_ALLOWED and "limit" not in reply_text)
    return (BrokerRefused if refused else BrokerUnavailable)(f"{reply_code} {reply_text}")


def message_size_limit(reply_text: str) -> int | None:
    """Return the broker's limit in bytes, when ``reply_text`` says that a message was larger; else None."""
    match = _TOO_LARGE.search(reply_text)
    return int(match["limit"]) if match else None


def is_of_queue(error: NotFound, name: str) -> bool:
    """Whether it is the queue of this name that was not found."""
    return f"no queue '{name}'" in error.reply_text


def is_of_publish(error: ChannelError, body: bytes, exchange: str) -> bool:
    """Whether ``error``, which closed a channel, may be the answer to a publish of ``body`` to ``exchange``.

    A publish has no answer of its own: whatever closes the channel ends all that wait for their confirms, and only
    the text tells what was refused. Two publishes may be refused for the same reason; the first takes both along.
    """
    text = error.reply_text
    match error:
        case NotFound():
            return f"no exchange '{exchange}'" in text
        case InequivalentArgument() | ResourceLocked() | ChannelClosed():
            return False
        case AccessRefused():
            return f"exchange '{exchange or DEFAULT_EXCHANGE}'" in text
        case PreconditionFailed():
            size = _MESSAGE_SIZE.search(text)
            return int(size["size"]) == len(body) if size else not _NOT_A_PUBLISH.search(text)
    return True
