"""One backend per application, and the way to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends
from starlette.requests import HTTPConnection

from aioresults import AMQPBackend, ConfigurationError, validation
from aioresults.contrib.fastapi.errors import http_error

_STATE: Final = "aioresults"  # the name in the state of the lifespan, which mounted applications share


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``lifespan`` was told."""

    #: Whether errors show the worker's traceback.
    tracebacks: bool = False
    #: Seconds between comments that keep an idle stream of events open.
    heartbeat: float = 15.0
    #: Seconds that a client may leave unread what it is sent.
    send_timeout: float = 60.0
    #: Seconds without a report after which there is no such task, where the routing can know it.
    unknown_after: float = 1.0


@dataclass(frozen=True, slots=True)
class _State:
    backend: AMQPBackend
    settings: Settings


def lifespan(
    make: Callable[[], AMQPBackend],
    *,
    tracebacks: bool = False,
    heartbeat: float = 15.0,
    send_timeout: float = 60.0,
    unknown_after: float = 1.0,
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """Return a lifespan for ``FastAPI(lifespan=...)`` that opens one backend and closes it at the end.

    Args:
        make: returns a backend that is not open; called at each start of the application.
        tracebacks: have errors and statuses show the worker's tracebacks.
        heartbeat: seconds between signs of life on idle streams of events; 0 for none.
        send_timeout: seconds after which a client that reads nothing loses its stream of events or WebSocket.
        unknown_after: seconds that an id is given before it is a 404 for want of a report. A report that one process
            of the service has stored is read by the others a moment later.

    Raises:
        ConfigurationError: seconds that cannot work, or ``make`` cannot be called.

    A lifespan of your own enters it and yields what it yields::

        async with lifespan(make)(app) as state, connect() as database:
            yield {**state, "database": database}
    """
    if not callable(make):
        raise ConfigurationError(f"make must be a callable that returns a backend, not {make!r}")
    settings = Settings(
        tracebacks,
        validation.delay("heartbeat", heartbeat),
        validation.seconds("send_timeout", send_timeout),
        validation.delay("unknown_after", unknown_after),
    )

    @asynccontextmanager
    async def open_backend(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with make() as backend:
            yield {_STATE: _State(backend, settings)}

    return open_backend


async def get_backend(connection: HTTPConnection) -> AMQPBackend:
    """Return the application's backend: the dependency to override in tests.

    Raises:
        ConfigurationError: the application was not started with ``lifespan``.
    """
    state: _State | None = getattr(connection.state, _STATE, None)
    if state is None:
        raise ConfigurationError(
            "there is no backend: pass lifespan=aioresults.contrib.fastapi.lifespan(...) to FastAPI and have it run "
            "(`with TestClient(app)`), or override get_backend"
        )
    return state.backend


async def get_settings(connection: HTTPConnection) -> Settings:
    """Return what ``lifespan`` was told, or the defaults where it did not run."""
    state: _State | None = getattr(connection.state, _STATE, None)
    return Settings() if state is None else state.settings


async def _results(
    connection: HTTPConnection,
    backend: Annotated[AMQPBackend, Depends(get_backend)],
    settings: Annotated[Settings, Depends(get_settings)],
) -> AsyncIterator[AMQPBackend]:
    try:
        yield backend
    except Exception as error:
        answer = http_error(error, traceback=settings.tracebacks) if connection.scope["type"] == "http" else None
        if answer is None:
            raise
        raise answer from error


Results = Annotated[AMQPBackend, Depends(_results)]
"""The application's backend, as a parameter of path functions and WebSockets; see ``errors`` for what they raise."""

CurrentSettings = Annotated[Settings, Depends(get_settings)]
