"""``get_many``: the results of many tasks, awaited all together or iterated as they arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Self

from aioresults.errors import ResultTimeout
from aioresults.iteration import Iteration, Wait
from aioresults.results import ResultMeta
from aioresults.routing import Reader
from aioresults.waiting.waiters import Waiters

OnMessage = Callable[[ResultMeta], object]


class Collector(Wait):
    """One wait for many tasks, which keeps what arrives until its caller takes it; a context manager.

    Args:
        done: receives the results, by task id.
        on_message: called with every report.
    """

    def __init__(
        self,
        waiters: Waiters,
        task_ids: Sequence[str],
        done: dict[str, ResultMeta],
        *,
        timeout: float | None,
        on_message: OnMessage | None,
    ) -> None:
        super().__init__(waiters, task_ids, timeout)
        self._pending = set(task_ids)
        self._done = done
        self._on_message = on_message
        self._arrived: deque[ResultMeta] = deque()

    def __enter__(self) -> Self:
        self.join()
        return self

    def __exit__(self, *exception: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Stop waiting; a report that the caller has not seen arrives again after the next ``join``."""
        super().leave()
        for meta in self._arrived:
            del self._done[meta.task_id]
            self._pending.add(meta.task_id)
        self._arrived.clear()

    def on_report(self, meta: ResultMeta) -> None:
        """Keep a ready report, and pass every report to ``on_message``. If that raises, only this wait ends."""
        if self._on_message is not None:
            try:
                self._on_message(meta)
            except Exception as error:
                self._fail(error)
        if meta.is_ready and meta.task_id in self._pending:
            self._pending.discard(meta.task_id)
            self._done[meta.task_id] = meta
            self._arrived.append(meta)
            self._wake.set()

    def _is_pending(self, task_id: str) -> bool:
        return task_id in self._pending

    def _expire(self, timeout: float) -> None:
        if self._pending:
            pending = list(filter(self._is_pending, self._task_ids))
            self._fail(ResultTimeout(timeout, pending, self._done, self._waiters.refused(pending)))

    async def next(self) -> ResultMeta | None:
        """Return the next report, or None after the last. A cancelled call leaves it for the next call."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if not self._pending:
                return None
            await self._woken()
        return self._arrived.popleft()

    async def all(self) -> None:
        """Wait until every result is here, and take them; raise the error that ends the wait before."""
        while self._pending and self._error is None:
            await self._woken()
        if self._error is not None:  # even if it arrived with the last report
            raise self._error
        self._arrived.clear()
        self.take(self._task_ids)
        self._task_ids = ()  # there is nothing left to leave


class ResultIterator(Iteration[tuple[str, ResultMeta]]):
    """One iteration over ``results``: first what is known in this process, then what arrives."""

    def __init__(self, results: ManyResults) -> None:
        super().__init__()
        self._results = results
        self._known: deque[ResultMeta] | None = None
        self._collector: Collector | None = None
        #: The task whose result the caller has; it is taken when the caller asks for the next one.
        self._yielded: str | None = None
        self._timed_out: ResultTimeout | None = None

    async def _next(self) -> tuple[str, ResultMeta]:
        if self._known is None:
            await self._begin()
        if self._yielded is not None and self._collector is not None:
            self._collector.take([self._yielded])
            self._yielded = None
        if self._known:
            meta = self._known.popleft()
        elif self._timed_out is not None:
            raise self._timed_out
        elif self._collector is None:
            raise StopAsyncIteration
        else:
            meta = await self._arrival(self._collector)
        return meta.task_id, meta

    async def _arrival(self, collector: Collector) -> ResultMeta:
        self._join(collector)
        meta = await collector.next()
        if meta is None:
            raise StopAsyncIteration
        self._yielded = meta.task_id
        return meta

    async def _begin(self) -> None:
        done = self._results.known()
        if self._results._timeout == 0:
            try:
                await self._results._look(done)
            except ResultTimeout as error:
                self._timed_out = error
            self._known = deque(done.values())
        else:
            self._known = deque(done.values())  # before the collector adds what other waits have not taken
            self._collector = self._results._collector(done)
            self._join(self._collector)


class ManyResults:
    """The results of many tasks: await it for all of them, or iterate over each as it arrives.

    Example::

        metas = await backend.get_many(task_ids, timeout=30)
        assert [meta.value() for meta in metas.values()] == [1, 2]

    Made by ``AMQPBackend.get_many``. The deadline counts from the first use. A failure is a report like any other: it
    is not raised.

    - Awaited, it returns ``{task_id: meta}`` in the order asked. No result is taken off the broker before all are
      there.
    - Iterated, it yields ``(task_id, meta)``, each task once: first what is known in this process, then in order of
      arrival. A result is taken when the caller asks for the next one: a caller that ends before it has dealt with
      what it was given leaves that for the next caller.

    Raises:
        ResultTimeout: the deadline passed; it has ``done`` and ``pending``.
        ResultForgotten, DecodeError, ...: the first task whose result cannot come.

    Cancelling is safe, and so is leaving the loop: what was not taken returns to its queue.
    """

    def __init__(
        self,
        reader: Reader,
        task_ids: Iterable[str],
        *,
        timeout: float | None,
        on_message: OnMessage | None,
    ) -> None:
        self._reader = reader
        self._task_ids = list(dict.fromkeys(task_ids))
        self._timeout = timeout
        self._on_message = on_message

    def __await__(self) -> Generator[object, None, dict[str, ResultMeta]]:
        return self._all().__await__()

    def __aiter__(self) -> ResultIterator:
        return ResultIterator(self)

    def known(self) -> dict[str, ResultMeta]:
        """Return the results that this process has taken already, in the order asked.

        Example::

            many = backend.get_many(task_ids)
            assert many.known() == {}
        """
        return {task_id: meta for task_id in self._task_ids if (meta := self._reader.ready(task_id)) is not None}

    def _collector(self, done: dict[str, ResultMeta]) -> Collector:
        """Return a wait for the tasks that are not in ``done``; it adds their results there."""
        pending = [task_id for task_id in self._task_ids if task_id not in done]
        return Collector(self._reader.waiters, pending, done, timeout=self._timeout, on_message=self._on_message)

    async def _all(self) -> dict[str, ResultMeta]:
        done = self.known()
        if self._timeout == 0:
            await self._look(done)
        else:
            with self._collector(done) as collector:
                try:
                    await collector.all()
                except ResultTimeout as timed_out:
                    collector.take(timed_out.done)
                    raise
        return {task_id: done[task_id] for task_id in self._task_ids}

    async def _look(self, done: dict[str, ResultMeta]) -> None:
        """Look once for the tasks that are not in ``done``, and add their results there.

        Raises:
            ResultTimeout: a result is still missing.
        """
        pending = [task_id for task_id in self._task_ids if task_id not in done]
        for meta in await self._reader.take(pending) if pending else ():
            done[meta.task_id] = meta
            if self._on_message is not None:
                self._on_message(meta)
        missing = [task_id for task_id in self._task_ids if task_id not in done]
        if missing:
            raise ResultTimeout(0, missing, done, self._reader.refused(missing))
