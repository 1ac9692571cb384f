"""From Celery's threads to an event loop: one thread for each process, made when needed, and anew after a fork."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from aioresults.backend import AMQPBackend

T = TypeVar("T")


class Bridge:
    """Runs what is asked of backends in one event loop, in a thread of its own.

    Every thread of the process may call. A process that was forked off shares nothing with this one: neither the
    thread, which the fork did not take along, nor the connections, which are the parent's.
    """

    def __init__(self) -> None:
        self._inherited: list[Any] = []
        self._reset()
        os.register_at_fork(after_in_child=self._reset_after_fork)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._running: AbstractContextManager[BlockingPortal] | None = None
        self._portal: BlockingPortal | None = None
        self._backends: dict[Hashable, AMQPBackend] = {}
        self._opened: set[Hashable] = set()

    def _reset_after_fork(self) -> None:
        # Kept, because to be collected here would be to close what the parent uses.
        self._inherited += [self._running, self._portal, self._backends]
        self._reset()

    def call(
        self, owner: Hashable, make: Callable[[], AMQPBackend], operation: Callable[[AMQPBackend], Awaitable[T]]
    ) -> T:
        """Run ``operation`` with the backend of ``owner``, and return what it returns or raise what it raises.

        Args:
            make: makes that backend, when it has none here yet.
        """
        portal, backend = self._started(owner, make)

        async def run() -> T:
            if owner not in self._opened:  # later it outlasts outages by itself
                await backend.open()
                self._opened.add(owner)
            return await operation(backend)

        return portal.call(run)

    def _started(self, owner: Hashable, make: Callable[[], AMQPBackend]) -> tuple[BlockingPortal, AMQPBackend]:
        with self._lock:
            if self._portal is None:
                self._running = start_blocking_portal("asyncio", name="aioresults")
                self._portal = self._running.__enter__()
                atexit.register(self.close)
            if owner not in self._backends:
                self._backends[owner] = make()
            return self._portal, self._backends[owner]

    def close(self) -> None:
        """Close the backends and end the thread, if there is one; what is asked later starts another."""
        with self._lock:
            running, portal, backends = self._running, self._portal, self._backends
            self._running, self._portal, self._backends, self._opened = None, None, {}, set()
        if running is not None and portal is not None:
            for backend in backends.values():
                portal.call(backend.close)
            running.__exit__(None, None, None)
            atexit.unregister(self.close)


#: The bridge of this process. Celery makes a backend for each thread, and they must share it.
BRIDGE = Bridge()
