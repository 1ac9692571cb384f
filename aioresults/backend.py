"""``AMQPBackend``: one process stores the result of a task over RabbitMQ, and another process awaits it.

Names and meanings are those of Celery's ``AMQPBackend``, made awaitable. This class differs from Celery's in four ways:

- a timeout is one deadline for the whole call, in float seconds; 0 means one look;
- failures are raised unless ``propagate=False``;
- every call may be cancelled without losing a result;
- a wait outlasts any outage of the broker.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl as ssl_module
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Self, TypeVar, overload

from aioresults import errors, messaging, states, validation
from aioresults.app_settings import app_settings
from aioresults.errors import (
    AioResultsError,
    BackendClosed,
    ConfigurationError,
    DecodeError,
    TaskRevoked,
    WrongEventLoop,
)
from aioresults.events import Events, OnEvent
from aioresults.handles import GroupResult
from aioresults.many_results import ManyResults, OnMessage
from aioresults.recording import Recording
from aioresults.results import ResultMeta
from aioresults.retry import RetryPolicy
from aioresults.routing import QueuePerTask, Routing, RoutingOptions
from aioresults.routing.base import DEFAULT_BACKLOG_LIMIT, checked
from aioresults.runtime import Runtime, own_queue
from aioresults.serialization import ReportCodec, Serializers, convert
from aioresults.sessions.outbox import PendingStore
from aioresults.settings import BackendSettings
from aioresults.transport import Channel, transport_for
from aioresults.waiting.waiters import Waiter
from aioresults.watch import Observer, Watch

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


def _coroutine_function(function: F) -> F:
    """Mark a function that returns a ``PendingStore`` as a coroutine function, which it is to its callers.

    Mocks, and frameworks that run plain functions in a thread, ask ``iscoroutinefunction``.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return function


class AMQPBackend:
    """Stores and awaits task results over RabbitMQ.

    Example::

        async with AMQPBackend("memory://example") as backend:
            await backend.store_result("task", {"answer": 42})
            assert await backend.wait_for("task", timeout=5) == {"answer": 42}

    Nothing is connected before ``open`` (or ``async with``). A backend belongs to the event loop that opens it.

    Args:
        url: ``amqp://`` or ``amqps://``; a sequence of such URLs for the nodes of one cluster; or ``memory://NAME``, a
            broker inside this process.
        connection: a callable that opens an aio-pika connection, instead of ``url``.
        exchange, exchange_type, auto_delete: as in Celery; None means what the routing prefers.
        persistent: whether results survive a restart of the broker; False sends transient messages (delivery mode 1).
        serializer: the format of what is written: ``json``, ``msgpack``, or a name that ``serializers`` knows.
        compression: ``zlib``, ``bz2``, ``lzma``, ``zstd``, or None.
        accept: names or content types that are read besides the one of ``serializer``; any other is refused.
        serializers: a registry of your own, with further serializers and exceptions.
        signing_key: bytes, or several for rotation (the first one signs). Unsigned results are then refused.
        expires: seconds, or a ``timedelta``, that an unread result is kept; None for ever.
        routing: where results go and where to look for them.
        retry_policy: how a failed store is tried again; a ``RetryPolicy`` or a mapping of its fields.
        unroutable_policy: seconds between attempts to reach an inbox that is not there; after the last one the store
            fails with ``ResultNotRouted``.
        store_only: for workers: nothing is consumed, and calls that wait raise ``ConfigurationError``.
        max_cached_results: how many reports are remembered; the least recently used go first; 0 for none. A
            ``ResultStream`` has bounds of its own.
        max_unclaimed_results, max_unclaimed_bytes: count and bytes of the results that a ``ReplyQueue`` keeps before
            anybody asks for them. The oldest go first; a call that asks for one of those raises ``ResultEvicted``.
        max_result_size: bytes; a larger result fails with ``ResultTooLarge`` before anything is sent.
        max_body_size, max_decompressed_size, max_depth: bytes, bytes, and nested containers. A received message beyond
            these limits is refused unread.
        connect_timeout: seconds that ``open`` may take. Each later round of attempts, one for every URL, may take as
            long.
        rpc_timeout: seconds that one round trip to the broker may take.
        heartbeat: seconds between signs of life, where the URL does not say.
        ssl_context: for ``amqps://``.
        on_event: called with each event (``aioresults.events``): a lost or blocked connection, a result that is late or
            not routed, a message that cannot be read. It runs in the event loop and must not block.

    Raises:
        ConfigurationError: an argument cannot work; the message names the value and what is allowed.

    Celery: ``celery.backends.amqp.AMQPBackend``.
    """

    # For subclasses to replace, as in Celery: the classes of AMQP's nouns, and defaults
    BacklogLimitExceeded: ClassVar[type[errors.BacklogLimitExceeded]] = errors.BacklogLimitExceeded
    Consumer: type[messaging.Consumer] = messaging.Consumer
    Exchange: type[messaging.Exchange] = messaging.Exchange
    Producer: type[messaging.Producer] = messaging.Producer
    Queue: type[messaging.Queue] = messaging.NoCacheQueue
    persistent: bool = True
    retry_policy: RetryPolicy | Mapping[str, Any] = RetryPolicy()
    supports_autoexpire: ClassVar[bool] = True

    def __init__(
        self,
        url: str | Sequence[str] = "amqp://guest:guest@localhost/",
        *,
        connection: Callable[[], Awaitable[Any]] | None = None,
        exchange: str | None = None,
        exchange_type: str | None = None,
        auto_delete: bool | None = None,
        persistent: bool | None = None,
        # Wire format
        serializer: str = "json",
        compression: str | None = None,
        accept: Iterable[str] = ("json", "msgpack"),
        serializers: Serializers | None = None,
        signing_key: bytes | Sequence[bytes] | None = None,
        # Behaviour
        expires: float | timedelta | None = 86400,
        routing: Routing | None = None,
        retry_policy: RetryPolicy | Mapping[str, Any] | None = None,
        unroutable_policy: Sequence[float] = (0.01, 0.05, 0.2, 1, 2, 5),
        store_only: bool = False,
        # Limits
        max_cached_results: int = 10_000,
        max_unclaimed_results: int = 100_000,
        max_unclaimed_bytes: int = 256 * 2**20,
        max_result_size: int = 16 * 2**20,
        max_body_size: int = 16 * 2**20,
        max_decompressed_size: int = 64 * 2**20,
        max_depth: int = 100,
        connect_timeout: float = 10,
        rpc_timeout: float = 5,
        heartbeat: int = 10,
        ssl_context: ssl_module.SSLContext | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        if persistent is not None:
            self.persistent = persistent
        self.retry_policy = RetryPolicy.of(self.retry_policy if retry_policy is None else retry_policy)
        kept = validation.expires(expires)
        options = RoutingOptions(exchange, exchange_type, auto_delete, self.persistent, kept)
        self._routing = checked(QueuePerTask() if routing is None else routing).configured(options)
        self._settings = BackendSettings(
            transport=transport_for(
                url, connection=connection, heartbeat=validation.count("heartbeat", heartbeat), ssl_context=ssl_context
            ),
            codec=ReportCodec(
                serializers=serializers, serializer=serializer, compression=compression, accept=accept,
                signing_key=signing_key, persistent=self.persistent, dated=self._routing.dated, max_age=kept,
                max_size=validation.count("max_result_size", max_result_size, 1),
                max_body_size=max_body_size, max_decompressed_size=max_decompressed_size, max_depth=max_depth,
            ),
            events=Events(validation.optional_callable("on_event", on_event)),
            retry_policy=self.retry_policy,
            unroutable_policy=validation.intervals("unroutable_policy", unroutable_policy),
            expires=kept,
            store_only=store_only,
            max_cached_results=max_cached_results,
            max_unclaimed_results=max_unclaimed_results,
            max_unclaimed_bytes=max_unclaimed_bytes,
            connect_timeout=connect_timeout,
            rpc_timeout=rpc_timeout,
        )  # fmt: skip
        #: The current lifetime, or the last one. ``open`` makes it, because a subclass is complete by then.
        self._runtime: Runtime | None = None

    @classmethod
    def from_app(cls, app: Any, **overrides: Any) -> Self:
        """Return a backend that reads and stores where the workers of a Celery application do.

        Example::

            from celery import Celery

            app = Celery("tasks", broker="amqp://localhost", backend="rpc://")
            backend = AMQPBackend.from_app(app, expires=3600)

        Args:
            app: a Celery application, or any object with its ``conf``. Its settings:

                - ``result_backend`` decides the routing: ``rpc://``, ``amqp://``,
                  ``celery_amqp_backend.AMQPBackend://``, or this package's plug-in with its
                  ``result_backend_transport_options``;
                - ``broker_url`` decides the broker;
                - ``accept_content`` and the other ``result_*`` settings mean what their names say.

            overrides: parameters of ``AMQPBackend`` that replace what the application says.

        Raises:
            ConfigurationError: a setting cannot be followed; the message names it.
        """
        return cls(**app_settings(app, overrides))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.as_uri()} {type(self.routing).__name__}>"

    # Opening and closing

    async def open(self) -> Self:
        """Connect, and return when the backend can be used: everything is declared, and ``reply_to`` is valid.

        Example::

            backend = await AMQPBackend("memory://example").open()
            try:
                await backend.store_result("task", 42)
            finally:
                await backend.close()

        A closed backend may be opened again, also in another event loop.

        Raises:
            BrokerUnavailable: there was no connection within ``connect_timeout``.
            BrokerRefused: the credentials, the vhost or TLS are wrong; trying again would not help.
            ChannelError: the broker refused a declaration, or this user may not write to the stream (readers publish a
                marker).
            ConfigurationError: the broker has another queue of the stream's name.
            NotSupported: the broker has no streams.
            BackendClosed: another task closed the backend meanwhile.

        Cancelling is safe: a cancelled ``open`` leaves nothing behind. Another task may call ``close``.
        """
        while (runtime := self._runtime) is None or runtime.is_closed:
            if runtime is not None:
                await runtime.closed()
            if self._runtime is runtime:  # else another call has begun the next lifetime meanwhile
                self._runtime = self._new_runtime()
        await runtime.open()
        return self

    async def close(self) -> None:
        """Publish the waiting reports, within 5 seconds, then end every call that waits with ``BackendClosed``.

        Example::

            await backend.close()
            await backend.close()  # no error

        Closing is safe at any time, twice, and from several tasks. A cancelled ``close`` goes on to its end.
        """
        if self._runtime is not None:
            await self._runtime.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _opened(self) -> Runtime:
        """Return the current lifetime.

        Raises:
            BackendClosed: there is none.
            WrongEventLoop: it belongs to another event loop or process.
        """
        if self._runtime is None:
            raise BackendClosed("the backend was not opened yet")
        self._runtime.check()
        return self._runtime

    def _reading(self) -> Runtime:
        """Return the current lifetime for a call that waits; a refused connection is then tried again."""
        if self._settings.store_only:
            raise ConfigurationError("this backend is store_only: it cannot wait for results, and has no reply_to")
        runtime = self._opened()
        if runtime.sessions.refusal is not None:
            runtime.sessions.ask()
        return runtime

    # Describing

    @property
    def routing(self) -> Routing:
        """Where results go, with the options of this backend filled in."""
        return self._routing

    @property
    def reply_to(self) -> str | None:
        """The address to put into a task message; None when the routing needs none.

        Example::

            async with AMQPBackend("memory://example", routing=ReplyQueue()) as caller:
                task = {"id": "task", "reply_to": caller.reply_to}

        Raises:
            ConfigurationError: the backend is ``store_only``.
            BackendClosed: the backend is not open, so there is no address yet.
        """
        return self._reading().reader.reply_to

    def as_uri(self, include_password: bool = False) -> str:
        """Return the broker's URL, without the password unless ``include_password`` is true.

        Example::

            assert AMQPBackend("amqp://me:secret@host/").as_uri() == "amqp://me:**@host/"

        Celery: ``Backend.as_uri``.
        """
        return self._settings.transport.as_uri(include_password)

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures for logs and health checks: plain values, cheap to get.

        Example::

            figures = backend.stats()
            assert figures["connected"] and not figures["blocked"]
        """
        return (self._runtime or self._new_runtime()).stats()

    # Storing

    @_coroutine_function
    def store_result(
        self,
        task_id: str,
        result: Any,
        status: str = states.SUCCESS,
        traceback: str | None = None,
        request: Any | None = None,
        **extra: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Store one state report about a task; awaited, return ``result`` when the broker has confirmed the report.

        Example::

            await backend.store_result(task_id, {"answer": 42}, request=request)
            await backend.store_result(task_id, {"percent": 50}, "PROGRESS", request=request)
            await asyncio.gather(*(backend.store_result(each, 1) for each in task_ids))

        The report is on its way when the call returns. The call returns a future, so many stores may be awaited
        together without a task for each. The future is a coroutine as well, for task groups; ``asyncio.wait`` alone
        refuses it: use ``asyncio.gather``, or wrap it in ``asyncio.create_task``.

        Args:
            result: the return value, an exception for FAILURE, RETRY and REVOKED, or any report.
            status: a known state, or your own, such as ``PROGRESS``.
            traceback: the text of a traceback.
            request: a ``Request``, or any object with some of its attributes.
            extra: further fields of the report.

        Raises, when it is awaited:
            EncodeError: the serializer cannot write the report; nothing was sent.
            StoreError: the report cannot be stored: it is too large, or not routed.
            BrokerUnavailable: the report was not confirmed within the retry policy; the last error is the cause.
            ChannelError: the broker refused the queue, for example one that exists with other arguments.
            BackendClosed: the backend is not open.
            WrongEventLoop: the backend belongs to another event loop.
            ConfigurationError: an argument cannot work, or ``request`` has no ``reply_to`` where the routing needs one.

        Cancelling is safe: an unsent report is withdrawn; a sent one is stored or not, but never in part.

        Celery: ``Backend.store_result``.
        """
        try:
            runtime = self._opened()
            routing_key, correlation_id = self.destination_for(task_id, request)
            validation.non_empty("a status", status)
            meta = ResultMeta.of(task_id, result, status, traceback, request, extra)
            document = self._settings.codec.write(meta, correlation_id)
        except WrongEventLoop:
            # Not a future but a coroutine, which the caller may hand over to the event loop of the backend.
            return self._store_there(task_id, result, status, traceback, request, **extra)
        except AioResultsError as error:
            stored = PendingStore(task_id, "", b"")
            stored.set_exception(error)
            return stored
        stored = PendingStore(task_id, correlation_id, document, result, is_ready=meta.is_ready)
        runtime.outbox.put(routing_key, stored)
        return stored

    async def _store_there(self, *args: Any, **extra: Any) -> Any:
        self._opened()
        return await self.store_result(*args, **extra)

    def recording(self, task_id: str, request: Any | None = None) -> Recording:
        """Return an async context manager that stores STARTED, and then the outcome of its body.

        Example::

            async with backend.recording(task_id, request) as recording:
                await recording.progress({"percent": 50})
                recording.result = 42

        Errors and cancellation: see ``Recording``.
        """
        return Recording(self, self._settings.events, task_id, request)

    async def mark_as_started(self, task_id: str, request: Any | None = None, **meta: Any) -> None:
        """Store STARTED.

        Example::

            await backend.mark_as_started(task_id, request, pid=1234, hostname="worker-1")

        Args:
            meta: the content of the report; Celery's workers send ``pid`` and ``hostname``.

        Errors and cancellation: as ``store_result``. Celery: ``Backend.mark_as_started``.
        """
        await self.store_result(task_id, meta, states.STARTED, request=request)

    async def mark_as_done(
        self, task_id: str, result: Any, request: Any | None = None, state: str = states.SUCCESS
    ) -> None:
        """Store SUCCESS with the return value.

        Example::

            await backend.mark_as_done(task_id, 42, request)

        Errors and cancellation: as ``store_result``. Celery: ``Backend.mark_as_done``.
        """
        await self.store_result(task_id, result, state, request=request)

    async def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any | None = None,
        state: str = states.FAILURE,
    ) -> None:
        """Store FAILURE with the exception and the text of its traceback.

        Example::

            try:
                1 / 0
            except ZeroDivisionError as error:
                await backend.mark_as_failure(task_id, error, traceback.format_exc(), request)

        Errors and cancellation: as ``store_result``. Celery: ``Backend.mark_as_failure``.
        """
        await self.store_result(task_id, exc, state, traceback, request)

    async def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException | None,
        traceback: str | None = None,
        request: Any | None = None,
        state: str = states.RETRY,
    ) -> None:
        """Store RETRY with the exception that made the task try again, if there was one.

        Example::

            await backend.mark_as_retry(task_id, ConnectionError("no answer"), request=request)

        Errors and cancellation: as ``store_result``. Celery: ``Backend.mark_as_retry``.
        """
        await self.store_result(task_id, exc, state, traceback, request)

    async def mark_as_revoked(
        self, task_id: str, reason: str = "revoked", request: Any | None = None, state: str = states.REVOKED
    ) -> None:
        """Store REVOKED with the reason: ``revoked``, ``expired`` or ``terminated``.

        Example::

            await backend.mark_as_revoked(task_id, "expired", request)

        Errors and cancellation: as ``store_result``. Celery: ``Backend.mark_as_revoked``.
        """
        await self.store_result(task_id, TaskRevoked(reason), state, request=request)

    # Waiting

    @overload
    async def wait_for(
        self, task_id: str, timeout: float | None = None, cache: bool = True, propagate: bool = True
    ) -> Any: ...

    @overload
    async def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        cache: bool = True,
        propagate: bool = True,
        *,
        type: type[T],
    ) -> T: ...

    async def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        cache: bool = True,
        propagate: bool = True,
        *,
        type: Any = None,
    ) -> Any:
        """Wait for the result of a task, take it, and return its value.

        Example::

            answer = await backend.wait_for(task_id, timeout=5, type=int)
            assert answer == 42

        Args:
            timeout: seconds; None for no limit, 0 for one look.
            cache: whether a result that was taken before in this process will do.
            propagate: whether the error of a failed or revoked task is raised; False returns it.
            type: the type that the value is converted to: a dataclass, TypedDict, pydantic model, container of these,
                ...

        Raises:
            ResultTimeout: the deadline passed.
            DecodeError: the result cannot be read, or is not of ``type``. A result of the wrong type is taken all the
                same.
            RemoteError, TaskRevoked, or the task's own exception: the task failed, and ``propagate`` is true.
            ResultForgotten: the result was deleted meanwhile, or taken by another process.
            BrokerRefused, ChannelError: the broker will not let this process wait.
            BackendClosed: the backend was closed meanwhile.

        Cancelling is safe: the result stays with the broker for the next caller.

        Celery: ``AMQPBackend.wait_for``.
        """
        reader, limit = self._reading().reader, validation.timeout(timeout)
        self.rkey(task_id)
        if cache and (known := reader.ready(task_id)) is not None:
            return _outcome(known, propagate, type)
        if limit == 0:
            return _outcome(await reader.take_one(task_id), propagate, type)
        waiter = Waiter(reader.waiters, task_id, limit)
        try:
            meta = await waiter
            waiter.take()
        finally:
            waiter.leave()
        return _outcome(meta, propagate, type)

    async def consume(self, task_id: str, timeout: float | None = None) -> ResultMeta:
        """Wait for the ready report of a task, take it, and return it; a failure is returned as well.

        Example::

            meta = await backend.consume(task_id, timeout=5)
            assert (meta.status, meta.result) == ("SUCCESS", 42)

        Args:
            timeout: seconds; None for no limit, 0 for one look.

        A result that this process took before does not count. Errors and cancellation: as ``wait_for``, but an error of
        the task is not raised. Celery: ``AMQPBackend.consume``.
        """
        # Not shared with wait_for: one more coroutine would cost each wait 230 bytes.
        reader, limit = self._reading().reader, validation.timeout(timeout)
        self.rkey(task_id)
        if limit == 0:
            return await reader.take_one(task_id)
        waiter = Waiter(reader.waiters, task_id, limit)
        try:
            meta = await waiter
            waiter.take()
        finally:
            waiter.leave()
        return meta

    def get_many(
        self, task_ids: Iterable[str], timeout: float | None = None, on_message: OnMessage | None = None
    ) -> ManyResults:
        """Wait for many tasks: await it for ``{task_id: meta}``, or iterate over ``(task_id, meta)`` as they arrive.

        Example::

            async for task_id, meta in backend.get_many(task_ids, timeout=30):
                print(task_id, meta.value())

        Args:
            task_ids: any iterable, read once.
            timeout: seconds for all of them together; None for no limit, 0 for one look each.
            on_message: called with every report that counts, ready or not.

        Errors and cancellation: see ``ManyResults``. Celery: ``AMQPBackend.get_many``.
        """
        reader, ids = self._reading().reader, list(task_ids)
        for task_id in ids:
            self.rkey(task_id)
        return ManyResults(reader, ids, timeout=validation.timeout(timeout), on_message=on_message)

    def watch(self, task_id: str, timeout: float | None = None, take: bool = True) -> Watch:
        """Iterate over the state reports of a task, until the ready one.

        Example::

            async for meta in backend.watch(task_id, timeout=30):
                print(meta.status, meta.result)

        Up to 1,000 reports are buffered for a slow consumer; the oldest are dropped first, never the final one. A
        report that is not ready is gone once a watch has seen it, except in a ``ResultStream``, where every watch sees
        every report.

        Args:
            timeout: seconds for all of it together; None for no limit, 0 for one look.
            take: whether the ready report is taken; False leaves it where it is, for the next caller.

        Raises:
            ResultTimeout: there was no ready report in time.
            DecodeError, ResultForgotten, BrokerRefused, ChannelError, BackendClosed: as ``wait_for``.

        Cancelling is safe, and so is leaving the loop; after a cancelled ``anext`` the next one continues.
        """
        reader = self._reading().reader
        self.rkey(task_id)
        return Watch(reader, task_id, validation.timeout(timeout), take)

    async def drain_events(self, timeout: float | None = None) -> dict[str, ResultMeta]:
        """Wait for the next ready reports to arrive in this process, and return them as ``{task_id: meta}``.

        Example::

            waiting = asyncio.create_task(backend.wait_for(task_id, timeout=5))
            metas = await backend.drain_events(timeout=5)
            assert metas[task_id].result == await waiting

        It observes what other calls wait for: it subscribes to nothing and takes nothing.

        Args:
            timeout: seconds; None for no limit.

        Raises:
            ResultTimeout: nothing arrived in time.
            BrokerRefused, ChannelError, BackendClosed: nothing more will come.

        Cancelling is safe: it disturbs no other call.

        Celery: ``AMQPBackend.drain_events``.
        """
        return await Observer(self._reading().reader.waiters).next(validation.timeout(timeout))

    # Looking

    async def get_task_meta(self, task_id: str, backlog_limit: int = DEFAULT_BACKLOG_LIMIT) -> ResultMeta:
        """Return the latest report about a task without consuming it; PENDING when there is none.

        Example::

            meta = await backend.get_task_meta(task_id)
            assert meta.is_ready

        The answer comes from memory for a task that this process waits for, and with a ``ResultStream`` for every task.
        Otherwise the task's queue is read to its end, and its latest report is returned to it. Nothing is declared.

        Args:
            backlog_limit: reports that may be read.

        Raises:
            BacklogLimitExceeded: the queue holds ``backlog_limit`` reports or more.
            DecodeError: no report there can be read.
            BrokerUnavailable: there was no session within ``rpc_timeout``, or a ``ResultStream`` was not read to its
                end in that time.
            ConfigurationError: the routing is a ``ResultStream``, which a ``store_only`` backend does not read.

        Cancelling is safe: every report stays in its queue.

        Celery: ``AMQPBackend.get_task_meta``, also called ``poll``.
        """
        reader = self._opened().reader
        self.rkey(task_id)
        limit = validation.count("backlog_limit", backlog_limit, 1)
        return await reader.peek(task_id, limit) or ResultMeta(task_id, states.PENDING)

    poll = get_task_meta

    async def reload_task_result(self, task_id: str) -> ResultMeta:
        """Forget the cached report of a task, and return the one that the broker holds now.

        Example::

            meta = await backend.reload_task_result(task_id)

        Errors and cancellation: as ``get_task_meta``. Celery: ``Backend.reload_task_result``.
        """
        self._opened().reader.discard(task_id)
        return await self.get_task_meta(task_id)

    async def forget(self, task_id: str) -> None:
        """Delete what the broker and this process hold of a task; calls that wait for it raise ``ResultForgotten``.

        Example::

            await backend.forget(task_id)
            assert (await backend.get_task_meta(task_id)).status == "PENDING"

        The task id may then be used again.

        Raises:
            BrokerUnavailable: the deletion was not confirmed within ``rpc_timeout``; in a ``ResultStream``, within the
                retry policy.
            ChannelError: the broker refused the deletion.

        A cancelled deletion goes on to its end. Celery: ``Backend.forget``.
        """
        runtime = self._opened()
        self.rkey(task_id)
        runtime.reader.forget(task_id)
        await runtime.to_its_end(runtime.reader.delete(task_id))

    # Groups: each has a durable queue of its own, which expires ``expires`` seconds after its last use

    async def save_group(self, group_id: str, result: Any) -> None:
        """Store which members a group has, in place of what was stored before under this id.

        Example::

            group = GroupResult("group", [AsyncResult(each, backend) for each in task_ids])
            await backend.save_group("group", group)

        Args:
            result: a ``GroupResult``, any object whose ``as_tuple()`` is Celery's form of a group, or that form.

        Raises:
            ConfigurationError: ``result`` is no group, or has another id.
            StoreError, BrokerUnavailable, EncodeError, ChannelError: as ``store_result``.

        Cancelling is safe: an unsent group is withdrawn; a sent one is stored or not. Celery: ``Backend.save_group``.
        """
        runtime = self._opened()
        form = result.as_tuple() if hasattr(result, "as_tuple") else result
        try:
            group = GroupResult.from_tuple(form, self)
        except DecodeError as error:
            raise ConfigurationError(f"a group is a GroupResult, or Celery's form of one, not {result!r}") from error
        if group.id != group_id:
            raise ConfigurationError(f"the id of the group is {group.id!r}, so it cannot be saved as {group_id!r}")
        await runtime.groups.save(group_id, form)

    async def restore_group(self, group_id: str, cache: bool = True) -> GroupResult | None:
        """Return a group that this process or another one saved; None when there is none.

        Example::

            group = await backend.restore_group("nightly")
            assert group is None  # nobody has saved it

        Args:
            cache: whether the group will do as this process last saw it.

        Raises:
            DecodeError: the saved group cannot be read; it stays with the broker.
            BrokerUnavailable: there was no session within ``rpc_timeout``.

        Cancelling is safe: the group stays with the broker. Celery: ``Backend.restore_group``.
        """
        form = await self._opened().groups.restore(group_id, cache=cache)
        return None if form is None else GroupResult.from_tuple(form, self)

    async def reload_group_result(self, group_id: str) -> GroupResult | None:
        """Return a group as the broker holds it now, and remember it.

        Example::

            group = await backend.reload_group_result("nightly")

        Errors and cancellation: as ``restore_group``. Celery: ``Backend.reload_group_result``.
        """
        self._opened().groups.discard(group_id)
        return await self.restore_group(group_id)

    async def delete_group(self, group_id: str) -> None:
        """Delete a saved group; the results of its members stay. A group that is not there is no error.

        Example::

            await backend.delete_group("nightly")

        Raises:
            BrokerUnavailable: the deletion was not confirmed within ``rpc_timeout``.
            ChannelError: the broker refused the deletion.

        A cancelled deletion goes on to its end. Celery: ``Backend.delete_group``.
        """
        runtime = self._opened()
        await runtime.to_its_end(runtime.groups.delete(group_id))

    # For subclasses to override: names, queues, and which report counts

    def rkey(self, task_id: str) -> str:
        """Return the routing key of a task's reports.

        Example::

            class Tenant(AMQPBackend):
                def rkey(self, task_id: str) -> str:
                    return super().rkey(f"tenant-7.{task_id}")

            assert Tenant("memory://example").rkey("task") == "aioresults.task.tenant-7.task"

        Two tasks must not share a key where the routing gives each a queue of its own. Celery: ``AMQPBackend.rkey``.

        Raises:
            ConfigurationError: the routing cannot hold a task of this id.
        """
        return self.routing.rkey(task_id)

    def destination_for(self, task_id: str, request: Any | None = None) -> tuple[str, str]:
        """Return the routing key and the correlation id of a report about ``task_id``.

        Example::

            assert backend.destination_for("t", Request(correlation_id="c")) == ("aioresults.task.t", "c")

        Args:
            request: a ``Request``, or any object with some of its attributes.

        Raises:
            ConfigurationError: ``request`` lacks the ``reply_to`` that the routing needs.

        Celery: ``AMQPBackend.destination_for``.
        """
        return self.routing.destination_for(self.rkey(task_id), task_id, request)

    def on_reply_declare(self, task_id: str) -> list[messaging.Queue]:
        """Return the queues to declare when a report about ``task_id`` finds none.

        Example::

            class Archived(AMQPBackend):
                def on_reply_declare(self, task_id: str) -> list[Queue]:
                    return [*super().on_reply_declare(task_id), Queue("archive")]

            assert len(Archived("memory://example").on_reply_declare("task")) == 2

        Defaults to the task's own queue and the queues that the routing shares with its readers. Celery:
        ``AMQPBackend.on_reply_declare``.
        """
        queue = self.queue_for(task_id)
        shared = [entity for entity in self.routing.topology() if isinstance(entity, messaging.Queue)]
        return [*([queue] if queue else []), *(own_queue(each, self) for each in shared)]

    def queue_for(self, task_id: str) -> messaging.Queue | None:
        """Return the queue that holds the reports of a task; None when the routing gives a task no queue of its own.

        Example::

            queue = backend.queue_for("task")
            assert queue is not None and queue.name == "aioresults.task.task"
        """
        queue = self.routing.queue(self.rkey(task_id))
        return None if queue is None else own_queue(queue, self)

    def inbox(self) -> messaging.Queue | None:
        """Return the one queue that this process reads for all tasks, an inbox or a stream; None when there is none.

        Example::

            class Priority(AMQPBackend):
                def inbox(self) -> Queue | None:
                    queue = super().inbox()
                    return queue and queue.copy(consumer_arguments={"x-priority": 5})

            assert Priority("memory://example", routing=ReplyQueue()).inbox().consumer_arguments == {"x-priority": 5}

        ``open`` asks once.
        """
        queue = self.routing.inbox()
        return None if queue is None else own_queue(queue, self)

    def supersedes(self, new: str, old: str) -> bool:
        """Return whether a report in state ``new`` replaces one in state ``old`` that came before it.

        Example::

            class LatestCounts(AMQPBackend):
                def supersedes(self, new: str, old: str) -> bool:
                    return new in states.READY_STATES or super().supersedes(new, old)

            assert LatestCounts("memory://example").supersedes("FAILURE", "SUCCESS")

        Defaults to ``states.supersedes``, which assumes that a task id is used once. Override it identically in every
        process that reads these results. A report that is not ready must not replace a ready one: a wait may have ended
        with it.

        A wait ends with the first ready report in any case. In a ``ResultStream`` that is the oldest one that is kept;
        ``get_task_meta`` returns the one that counts.
        """
        return states.supersedes(new, old)

    # The broker, for code of your own

    async def channel(self) -> Channel:
        """Open a channel, with confirms, for producers, consumers and declarations of your own.

        Example::

            channel = await backend.channel()
            producer = Producer(channel, routing_key="audit")
            await producer.publish({"event": "login"}, declare=[Queue("audit")(channel)])

        The channel is on a connection apart from the backend's, opened on first use: nothing done there disturbs a
        result. It lasts as long as the session. After a loss ask for another one, or override ``revive``.

        Raises:
            BrokerUnavailable: there was no session within ``rpc_timeout``, or no channel within the same time.
            BackendClosed: the backend is not open.

        Cancelling is safe: a channel that opens afterwards is closed.
        """
        session = await self._opened().sessions.wait(self._settings.rpc_timeout)
        return await session.channel()

    async def revive(self, channel: Channel) -> None:
        """Declare what your own code needs; awaited at the start of every session. Does nothing by default.

        Example::

            class Audited(AMQPBackend):
                async def revive(self, channel: Channel) -> None:
                    await Queue("audit")(channel).declare()

            async with Audited("memory://example") as backend:
                await backend.store_result("task", 42)  # the queue is there

        Args:
            channel: a channel as ``channel()`` returns it.

        A ``ChannelError`` or ``ConfigurationError`` that it raises counts as a refusal by the broker. Celery:
        ``AMQPBackend.revive``.
        """

    def _new_runtime(self) -> Runtime:
        revives = type(self).revive is not AMQPBackend.revive
        return Runtime(self._settings, self._routing, self, revives=revives)


def _outcome(meta: ResultMeta, propagate: bool, type: Any) -> Any:
    """Return the value of a ready report; the value of a success is converted to ``type`` if one was asked for."""
    value = meta.value(propagate)
    return value if type is None or meta.is_failure else convert(value, type)
