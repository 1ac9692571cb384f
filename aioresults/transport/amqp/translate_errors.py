"""What aiormq raises, as errors of this package.

When a connection dies, aiormq ends pending calls with a bare ``CancelledError`` although nobody cancelled them; here
that is told from a real cancellation by ``Task.cancelling()`` and becomes ``BrokerUnavailable``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from aiormq import exceptions

from aioresults.errors import AioResultsError, BrokerRefused, BrokerUnavailable, ChannelClosed
from aioresults.transport.base import Connection
from aioresults.transport.broker_errors import channel_error, connect_error

T = TypeVar("T")

_CODES: Final[dict[type[BaseException], int]] = {
    exceptions.ChannelAccessRefused: 403,
    exceptions.ChannelNotFoundEntity: 404,
    exceptions.ChannelLockedResource: 405,
    exceptions.ChannelPreconditionFailed: 406,
    exceptions.ConnectionNotAllowed: 530,
}


async def translated(operation: Coroutine[Any, Any, T], connection: Connection) -> T:
    """Await an operation on ``connection``, and raise its errors as ours."""
    try:
        return await operation
    except AioResultsError:
        raise
    except asyncio.CancelledError as error:
        if is_cancelled_by_caller(error):
            raise
        raise translate(error, connection_lost=True) from error
    except (exceptions.AMQPError, exceptions.ChannelInvalidStateError, OSError) as error:
        raise translate(error, connection_lost=connection.is_closed) from error
    except RuntimeError as error:
        # "Connection was not opened", "... closed"
        if not connection.is_closed:
            raise
        raise translate(error, connection_lost=True) from error


def is_cancelled_by_caller(error: BaseException) -> bool:
    """Whether ``error`` is the cancellation of the current task, not aiormq's way to report a dead connection."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


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
