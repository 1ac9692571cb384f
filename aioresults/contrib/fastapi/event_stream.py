"""The response that is a stream of events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from aioresults.contrib.fastapi.until import until

#: Seconds in which a stream ends by itself when the server stops.
_GRACE: Final = 1.0


class EventStream(EventSourceResponse):
    """Server-sent events, up to their end, the server's, or the client's: one that goes, or reads nothing.

    When the server stops, the stream ends as streams do, and the client comes back.

    Args:
        heartbeat: seconds between comments while there is no event; 0 for none.
        send_timeout: seconds that the client may leave what it is sent unread. The server then closes the connection,
            and says in its log that the response is not complete.
    """

    def __init__(self, events: AsyncGenerator[ServerSentEvent, None], *, heartbeat: float, send_timeout: float) -> None:
        stop = anyio.Event()
        super().__init__(
            until(stop, events),
            ping=heartbeat,
            send_timeout=send_timeout,
            shutdown_event=stop,
            shutdown_grace_period=_GRACE,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)
