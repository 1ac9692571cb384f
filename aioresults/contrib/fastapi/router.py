"""The routes: a task's status, its reports as they come, and the health of it all.

What is answered for a task of which there is no report depends on what its routing can know:

| routing        | no report yet, or never a task | forgotten | had to make room            | taken elsewhere |
|----------------|--------------------------------|-----------|-----------------------------|-----------------|
| `QueuePerTask` | PENDING                        | PENDING   |                             | PENDING         |
| `ReplyQueue`   | PENDING                        | PENDING   | PENDING; waiting for it 410 |                 |
| `ResultStream` | 404, after ``unknown_after``   | 404       |                             | its result      |

An id that the routing cannot hold (too long, say) is unknown to all of them: 404.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated, Any, Final

import anyio
from fastapi import APIRouter, Depends, Header, HTTPException, Response, WebSocket, WebSocketDisconnect
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.websockets import WebSocketState

from aioresults import (
    AioResultsError,
    AMQPBackend,
    ConfigurationError,
    ResultTimeout,
    states,
)
from aioresults.contrib.fastapi.dependencies import CurrentSettings, Results, Settings, get_backend
from aioresults.contrib.fastapi.errors import ERRORS, answer, http_error
from aioresults.contrib.fastapi.event_stream import EventStream
from aioresults.contrib.fastapi.models import ErrorResponse, Health, Problem, TaskStatus
from aioresults.contrib.fastapi.waiting import STATUS_ROUTE, knows_all

router: Final = APIRouter(prefix="/tasks", tags=["tasks"])
health_router: Final = APIRouter(tags=["health"])

_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": ErrorResponse, "description": "There is no such task"}}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Events with a TaskStatus each", "content": {"text/event-stream": {}}},
    204: {"description": "The report of `Last-Event-ID` was the last"},
}


@router.get("/{task_id}", name=STATUS_ROUTE, summary="Task Status", responses=_UNKNOWN | ERRORS)
async def task_status(task_id: str, results: Results, settings: CurrentSettings, response: Response) -> TaskStatus:
    """The latest report about a task. It is not taken: it can be asked for again."""
    status = await _look(results, task_id, settings)
    response.headers["Cache-Control"] = "no-store"
    if not status.ready:
        response.headers["Retry-After"] = "1"
    return status


@router.get("/{task_id}/events", responses=_EVENTS | _UNKNOWN | ERRORS, response_class=EventSourceResponse)
async def task_events(
    task_id: str, results: Results, settings: CurrentSettings, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    """The reports of a task as server-sent events, until it has ended.

    The data of each event is a TaskStatus, its id the `report_id`. A client that comes back with `Last-Event-ID` does
    not get that report again, and a 204 when it was the last. An event `problem` (a Problem) ends the stream early.
    """
    first = await _look(results, task_id, settings)
    if first.ready and first.report_id == last_event_id:
        return Response(status_code=204)  # which tells an EventSource to stop coming back
    return EventStream(
        _events(results, first, last_event_id, settings),
        heartbeat=settings.heartbeat,
        send_timeout=settings.send_timeout,
    )


@router.websocket("/{task_id}/events")
async def task_socket(
    websocket: WebSocket, task_id: str, results: Results, settings: CurrentSettings, last_event_id: str | None = None
) -> None:
    """The same over a WebSocket, a TaskStatus in each message.

    Closed with 1000 after the last one; otherwise with 4000 and the HTTP status of what went wrong, such as 4404.
    """
    await websocket.accept()
    code: int | None = 1000
    reason = ""
    async with anyio.create_task_group() as group:
        group.start_soon(_cancel_when_gone, websocket, group.cancel_scope)
        try:
            first = await _look(results, task_id, settings)
            async with aclosing(_reports(results, first, last_event_id, settings)) as reports:
                async for report in reports:
                    await _send(websocket, report, settings.send_timeout)
        except WebSocketDisconnect:
            code = None  # found out while sending
        except (HTTPException, AioResultsError) as error:
            what = error if isinstance(error, HTTPException) else http_error(error, traceback=False)
            code = 4000 + (500 if what is None else what.status_code)
            reason = type(error).__name__ if what is None else Problem.model_validate(what.detail).message
        group.cancel_scope.cancel()
    if code is not None and websocket.client_state is not WebSocketState.DISCONNECTED:
        with suppress(WebSocketDisconnect):  # at this moment
            await websocket.close(code, _close_reason(reason))


async def _send(websocket: WebSocket, report: TaskStatus, timeout: float) -> None:
    """Send a report; one that is not read within ``timeout`` seconds has no reader any more."""
    with anyio.move_on_after(timeout) as limit:
        await websocket.send_text(report.model_dump_json())
    if limit.cancelled_caught:
        raise WebSocketDisconnect


def _close_reason(text: str) -> str:
    """Return what fits into a close frame: 123 bytes of UTF-8 (RFC 6455, 5.5)."""
    return text.encode()[:123].decode(errors="ignore")


async def _cancel_when_gone(websocket: WebSocket, scope: anyio.CancelScope) -> None:
    """Cancel ``scope`` when the client has gone; what it says is not listened to."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
    scope.cancel()


async def _look(results: AMQPBackend, task_id: str, settings: Settings) -> TaskStatus:
    """Return the latest report; 404 for an id that no task has, as far as the routing can know."""
    try:
        meta = await results.get_task_meta(task_id)
    except ConfigurationError as error:
        raise answer(404, error, task_id) from None
    if knows_all(results) and meta.status == states.PENDING:
        await _first_report(results, task_id, settings.unknown_after)
        meta = await results.get_task_meta(task_id)
    return TaskStatus.of(meta, traceback=settings.tracebacks)


async def _first_report(results: AMQPBackend, task_id: str, timeout: float) -> None:
    """Return when there is a report, which another process may just have stored; 404 when none comes in time."""
    try:
        async with aclosing(results.watch(task_id, timeout=timeout)) as metas:
            await anext(metas)
    except ResultTimeout:
        raise answer(404, LookupError("there is no report of such a task"), task_id) from None


async def _reports(
    results: AMQPBackend, first: TaskStatus, last_seen: str | None, settings: Settings
) -> AsyncGenerator[TaskStatus, None]:
    """Yield what is known, and what is then reported, each once, until the ready report.

    A `ResultStream` begins with all that was ever reported: of that, what came after ``last_seen``.
    """
    behind = knows_all(results)
    if not behind:
        if first.report_id != last_seen:
            yield first
        if first.ready:  # looked at, and left where it is
            return
        last_seen = first.report_id
    async with aclosing(results.watch(first.task_id)) as metas:
        async for meta in metas:
            status = TaskStatus.of(meta, traceback=settings.tracebacks)
            if behind and not status.ready and status.report_id not in (last_seen, first.report_id):
                continue
            behind = False
            if status.report_id != last_seen:
                last_seen = status.report_id
                yield status


async def _events(
    results: AMQPBackend, first: TaskStatus, last_seen: str | None, settings: Settings
) -> AsyncGenerator[ServerSentEvent, None]:
    try:
        async with aclosing(_reports(results, first, last_seen, settings)) as reports:
            async for report in reports:
                yield ServerSentEvent(report.model_dump_json(), id=report.report_id)
    except AioResultsError as error:  # after the status line: nobody makes an answer of it
        yield ServerSentEvent(Problem.of(error, first.task_id).model_dump_json(exclude_none=True), event="problem")


@health_router.get("/health", responses={503: {"model": Health, "description": "The broker cannot be reached"}})
async def health(backend: Annotated[AMQPBackend, Depends(get_backend)], response: Response) -> Health:
    """Whether the service has its broker; answered from what this process knows, so it may be asked often."""
    stats = backend.stats()
    connected = bool(stats["open"] and stats["connected"])
    response.status_code = 200 if connected else 503
    return Health(
        status="ok" if connected else "unavailable",
        sessions=int(stats["sessions"]),
        waiting=int(stats["waiting"]),
        unconfirmed=int(stats["unconfirmed"]),
    )
