"""Celery's own client, which blocks, in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from celery import Celery

P = ParamSpec("P")
T = TypeVar("T")


def make_app(broker_url: str, **settings: Any) -> Celery:
    """A Celery app with these settings and Celery's defaults."""
    app = Celery("interop", set_as_current=False)
    app.conf.update(broker_url=broker_url, **settings)
    return app


class CeleryClient:
    """One app, used from one thread: Celery keeps a backend and a connection for each thread."""

    def __init__(self, broker_url: str, **settings: Any) -> None:
        self.app = make_app(broker_url, **settings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="celery")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    def result(self, task_id: str) -> Any:
        """A fresh ``AsyncResult``, with nothing cached; to be used in the thread."""
        return self.app.AsyncResult(task_id)

    async def state(self, task_id: str) -> str:
        return await self.run(lambda: str(self.result(task_id).state))

    async def get(self, task_id: str, timeout: float = 60) -> Any:
        """Return what the task returned, or raise what it raised."""
        return await self.run(lambda: self.result(task_id).get(timeout=timeout))

    async def store(self, task_id: str, result: Any, state: str = "SUCCESS", traceback: str | None = None) -> None:
        """Store a result as a worker with these settings would."""
        await self.run(self.app.backend.store_result, task_id, result, state, traceback)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.run(self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        """Close the app. Its connections go back to kombu's pool, which all apps of a process share, but for one."""
        consumer = getattr(self.app.backend, "result_consumer", None)  # of rpc://; a group starts it when it is sent
        if consumer is not None and consumer._consumer is not None:
            consumer.stop()
        self.app.close()
