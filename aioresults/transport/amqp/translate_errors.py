"""What aiormq raises, as errors of this package."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from aiormq import exceptions

from aioresults.errors import AioResultsError, BrokerRefused, BrokerUnavailable, ChannelClosed
from aioresults.transport.broker_errors import channel_error, connect_error

_CODES: Final[dict[type[BaseException], int]] = {
    exceptions.ChannelAccessRefused: 403,
    exceptions.ChannelNotFoundEntity: 404,
    exceptions.ChannelLockedResource: 405,
    exceptions.ChannelPreconditionFailed: 406,
    exceptions.ConnectionNotAllowed: 530,
}


def translate(error: BaseException | None, *, connection_lost: bool) -> AioResultsError:
    """Return what ``error``, raised by an operation or given as the reason of a close, is in this package."""
    if isinstance(error, exceptions.ChannelClosed) and not connection_lost:
        return channel_error(_CODES.get(type(error)), str(error.args[-1] or "") if error.args else "")
    if connection_lost or isinstance(error, (exceptions.AMQPConnectionError, OSError)):
        text = "the connection to the broker was lost"
        return BrokerUnavailable(f"{text}: {error}" if error is not None and str(error) else text)
    return ChannelClosed()


def translate_connect(error: BaseException) -> BrokerUnavailable:
    """Return what ``error``, raised while connecting, is in this package."""
    match error:
        case BrokerUnavailable():
            return error
        case exceptions.ProbableAuthenticationError():
            return BrokerRefused(str(error.args[0]) if error.args else "403 ACCESS_REFUSED")
        case exceptions.AuthenticationError():
            return BrokerRefused("the broker offers none of the authentication mechanisms known here")
        case exceptions.ConnectionClosed():
            code = error.args[0] if len(error.args) > 1 else _CODES.get(type(error))
            return connect_error(code, str(error.args[-1]) if error.args else "")
    if isinstance(error.__cause__, ssl.SSLError) or isinstance(error, ssl.SSLError):
        return BrokerRefused(f"TLS: {error.__cause__ or error}")
    if isinstance(error, asyncio.IncompleteReadError):
        return BrokerUnavailable("the broker closed the connection while it was opened")
    return BrokerUnavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
