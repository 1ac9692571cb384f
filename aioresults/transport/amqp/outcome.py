"""How an operation on aiormq ends, in the words of this package.

When a connection dies, aiormq ends pending calls with a bare ``CancelledError`` although nobody cancelled them; here
that is told from a real cancellation by ``Task.cancelling()`` and becomes ``BrokerUnavailable``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from aiormq import spec
from aiormq.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelInvalidStateError,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionClosed,
    ConnectionNotAllowed,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from aiormq.exceptions import ChannelClosed as AiormqChannelClosed

from aioresults.errors import (
    AioResultsError,
    BrokerRefused,
    BrokerUnavailable,
    ChannelClosed,
)
from aioresults.transport.replies import channel_error, connect_error

T = TypeVar("T")

#: Closing is bounded: aiormq waits up to a heartbeat for the broker's answer, without limit when heartbeats are off.
CLOSE_TIMEOUT: Final = 3.0

_CHANNEL_CODES: dict[type[BaseException], int] = {
    ChannelAccessRefused: 403,
    ChannelNotFoundEntity: 404,
    ChannelLockedResource: 405,
    ChannelPreconditionFailed: 406,
}
_CONNECTION_CODES: dict[type[BaseException], int] = {ConnectionNotAllowed: 530}


async def detached(operation: Coroutine[Any, Any, T], is_lost: Callable[[], bool]) -> T:
    """Run ``operation`` as a task of its own: whoever cancels the caller does not cancel it."""
    task = asyncio.get_running_loop().create_task(translated(operation, is_lost))
    task.add_done_callback(_retrieve)
    return await asyncio.shield(task)


async def translated(operation: Coroutine[Any, Any, T], is_lost: Callable[[], bool]) -> T:
    """Await ``operation``, and raise its errors as ours."""
    try:
        return await operation
    except AioResultsError:
        raise
    except asyncio.CancelledError as error:
        if is_cancelled_by_caller(error):
            raise
        raise BrokerUnavailable("the connection to the broker was lost") from error
    except (AMQPError, ChannelInvalidStateError, OSError) as error:
        raise translate(error, connection_lost=is_lost()) from error
    except RuntimeError as error:
        # "Connection was not opened", "... closed"
        if not is_lost():
            raise
        raise translate(error, connection_lost=True) from error


def _retrieve(task: asyncio.Task[Any]) -> None:
    # The outcome of an operation whose caller left is nobody's; asyncio would log it.
    if not task.cancelled():
        task.exception()


def is_cancelled_by_caller(error: BaseException) -> bool:
    """Whether ``error`` is the cancellation of the current task, not aiormq's way to report a dead connection."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def translate(error: BaseException | None, *, connection_lost: bool) -> AioResultsError:
    """Return what ``error``, raised by an operation or given as the reason of a close, is in this package."""
    match error:
        case AiormqChannelClosed() if not connection_lost:
            return channel_error(_CHANNEL_CODES.get(type(error)), str(error.args[-1] or "") if error.args else "")
    if connection_lost or isinstance(error, (AMQPConnectionError, OSError)):
        text = "the connection to the broker was lost"
        return BrokerUnavailable(f"{text}: {error}" if error is not None and str(error) else text)
    return ChannelClosed()


def _close_frame(error: BaseException) -> spec.Connection.Close | None:
    """Return what the broker answered to Connection.Open: no such vhost, for example.

    aiormq 7.2 drops it, and says only that it was not Connection.OpenOk; the call that raised still has it.
    """
    trace = error.__traceback__
    while trace is not None:
        for value in trace.tb_frame.f_locals.values():
            if isinstance(value, spec.Connection.Close):
                return value
        trace = trace.tb_next
    return None


def translate_connect(error: BaseException) -> BrokerUnavailable:
    """Return what ``error``, raised while connecting, is in this package."""
    match error:
        case BrokerUnavailable():
            return error
        case ProbableAuthenticationError():
            return BrokerRefused(str(error.args[0]) if error.args else "403 ACCESS_REFUSED")
        case AuthenticationError():
            return BrokerRefused("the broker offers none of the authentication mechanisms known here")
        case ConnectionClosed():
            code = error.args[0] if len(error.args) > 1 else _CONNECTION_CODES.get(type(error))
            return connect_error(code, str(error.args[-1]) if error.args else "")
        case InvalidFrameError() if (close := _close_frame(error)) is not None:
            return connect_error(close.reply_code, close.reply_text or "")
    if isinstance(error.__cause__, ssl.SSLError) or isinstance(error, ssl.SSLError):
        return BrokerRefused(f"TLS: {error.__cause__ or error}")
    if isinstance(error, asyncio.IncompleteReadError):
        return BrokerUnavailable("the broker closed the connection while it was opened")
    return BrokerUnavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
