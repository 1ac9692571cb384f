"""``wait_or_202``: the result if it comes soon, else where to ask for it."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.routing import NoMatchFound

from aioresults import (
    AioResultsError,
    AMQPBackend,
    ConfigurationError,
    RemoteError,
    ResultTimeout,
    TaskRevoked,
    states,
)
from aioresults.contrib.fastapi.dependencies import get_settings
from aioresults.contrib.fastapi.errors import answer
from aioresults.contrib.fastapi.models import Accepted, plain

#: The name of the route that ``status_url`` leads to.
STATUS_ROUTE: Final = "aioresults_task_status"

#: For ``responses=`` of path functions that return what `wait_or_202` does.
ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": Accepted, "description": "Not ready yet: ask again at `status_url`"}
}


async def wait_or_202(
    results: AMQPBackend, task_id: str, request: Request, timeout: float = 5.0, *, retry_after: int = 1
) -> Any:
    """Return the value of a task that ends within ``timeout`` seconds, else a 202 that says where to ask again.

    The value is as JSON has it, the same as in a status: bytes are base64, say.

    Args:
        request: the one that is answered; ``status_url`` is made with its application's ``router``.
        retry_after: seconds, for the header of this name.

    Raises:
        HTTPException: 502, the task failed.
        ConfigurationError: ``router`` is not included, or the id cannot be part of a URL.
        AioResultsError: any other of ``wait_for``; `Results` makes an answer of it.

    With a `ResultStream`, where an unknown id is a 404, a task of which there is no report yet is announced to all
    processes (RECEIVED) before the 202. Cancelled, or after a 202, the result is there for whoever asks next.
    """
    url = status_url(request, task_id)
    try:
        return plain(await results.wait_for(task_id, timeout))
    except ResultTimeout:
        if knows_all(results) and (await results.get_task_meta(task_id)).status == states.PENDING:
            await results.store_result(task_id, None, states.RECEIVED)
        accepted = Accepted(task_id=task_id, status_url=url)
        headers = {"Location": url, "Retry-After": str(retry_after)}
        return JSONResponse(accepted.model_dump(), 202, headers=headers)
    except Exception as error:
        if isinstance(error, AioResultsError) and not isinstance(error, (RemoteError, TaskRevoked)):
            raise
        settings = await get_settings(request)
        raise answer(502, error, task_id, traceback=settings.tracebacks) from error


def knows_all(results: AMQPBackend) -> bool:
    """Whether a task without a report is none: the routing sees every report."""
    return results.routing.knows_absence


def status_url(request: Request, task_id: str) -> str:
    """Return the path at which this application tells the status of a task.

    Raises:
        ConfigurationError: ``router`` is not included, or the id cannot be part of a URL.
    """
    if "/" in task_id or task_id in (".", ".."):
        raise ConfigurationError(f"task id {task_id!r} cannot be part of a URL: it has a slash, or is a dot or two")
    try:
        return request.url_for(STATUS_ROUTE, task_id=quote(task_id)).path
    except NoMatchFound:
        raise ConfigurationError(
            "there is no route for the status of a task: app.include_router(aioresults.contrib.fastapi.router)"
        ) from None
