"""``AMQPBackend``: task results over RabbitMQ, stored by one process and awaited by another.

Names and meanings are those of Celery's ``AMQPBackend``, made awaitable. Where this one differs: a timeout is one
deadline for the whole call, in float seconds, with 0 for one look; failures are raised unless ``propagate=False``;
every call may be cancelled without losing a result; and a wait outlasts any outage of the broker.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl as ssl_module
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Self, TypeVar, overload

from aioresults import messaging, states, validation
from aioresults.app_settings import app_settings
from aioresults.errors import (
    AioResultsError,
    BackendClosed,
    BacklogLimitExceeded,
    ConfigurationError,
    DecodeError,
    TaskRevoked,
    WrongEventLoop,
)
from aioresults.events import Events, OnEvent
from aioresults.group_result import GroupResult
from aioresults.many_results import ManyResults, OnMessage
from aioresults.recording import Recording
from aioresults.results import ResultMeta
from aioresults.retry import RetryPolicy
from aioresults.routing import QueuePerTask, Routing, RoutingOptions
from aioresults.routing.base import DEFAULT_BACKLOG_LIMIT, checked
from aioresults.runtime import Runtime, Settings
from aioresults.serialization import ReportCodec, Serializers
from aioresults.serialization.conversion import convert
from aioresults.sessions.outbox import PendingStore
from aioresults.sessions.sessions import Session
from aioresults.transport import Channel, transport_for
from aioresults.waiting.waiters import Waiter
from aioresults.watch import Observer, Watch

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


def _coroutine_function(function: F) -> F:
    """Mark a function that returns a ``PendingStore`` as what it is to its callers.

    Mocks, and frameworks that would run other functions in a thread, ask ``iscoroutinefunction``.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return function


class AMQPBackend:
    """Stores and awaits task results over RabbitMQ.

    Args:
        url: ``amqp://`` or ``amqps://``; a sequence of such for the nodes of one cluster; or ``memory://NAME``, a
            broker inside this process.
        connection: instead of ``url``, a callable that opens an aio-pika connection.
        exchange, exchange_type, auto_delete: as in Celery; None means what the routing prefers.
        persistent: results survive a restart of the broker; False sends transient messages (delivery mode 1).
        serializer: what is written: ``json``, ``msgpack``, or a name that ``serializers`` knows.
        compression: ``zlib``, ``bz2``, ``lzma``, ``zstd``, or None.
        accept: names or content types of what is read besides what ``serializer`` writes; anything else is refused.
        serializers: a registry of your own, with further serializers and exceptions.
        signing_key: bytes, or several for rotation (the first one signs): unsigned results are then refused.
        expires: seconds, or a ``timedelta``, that an unread result is kept; None for ever.
        routing: where results go and where to look for them.
        retry_policy: how a failed store is tried again; a ``RetryPolicy`` or a mapping of its fields.
        unroutable_policy: seconds between attempts to reach an inbox that is not there; then ``ResultNotRouted``.
        store_only: for workers: nothing is consumed, and calls that wait raise ``ConfigurationError``.
        max_cached_results: how many metas are remembered; the least recently used go first; 0 for none. A
            ``ResultStream`` has bounds of its own.
        max_unclaimed_results, max_unclaimed_bytes: how much a ``ReplyQueue`` keeps of what nobody has asked for; the
            oldest go first, and asking for one of those raises ``ResultEvicted``.
        max_result_size: bytes; a larger result fails with ``ResultTooLarge`` before anything is sent.
        max_body_size, max_decompressed_size, max_depth: bytes, bytes and nested containers; what is received beyond
            them is refused unread.
        connect_timeout: seconds that ``open`` may take, and each round of attempts to connect, one for every URL.
        rpc_timeout: seconds that one round trip to the broker may take.
        heartbeat: seconds between signs of life, where the URL does not say.
        ssl_context: for ``amqps://``.
        on_event: called with what happens (``aioresults.events``): lost and blocked connections, results that are
            late or not routed, messages that cannot be read, ... In the event loop; it must not block.

    Nothing is connected before ``open`` (or ``async with``). A backend belongs to the event loop that opens it.
    Raises ``ConfigurationError``, naming the value and what is allowed.
    """

    BacklogLimitExceeded: ClassVar = BacklogLimitExceeded
    Consumer: type[messaging.Consumer] = messaging.Consumer
    Exchange: type[messaging.Exchange] = messaging.Exchange
    Producer: type[messaging.Producer] = messaging.Producer
    Queue: type[messaging.Queue] = messaging.NoCacheQueue
    persistent: bool = True
    retry_policy: RetryPolicy | Mapping[str, Any] = RetryPolicy()
    supports_autoexpire: ClassVar = True

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
        chosen = checked(QueuePerTask() if routing is None else routing).configured(options)
        codec = ReportCodec(
            serializers=serializers, serializer=serializer, compression=compression, accept=accept,
            signing_key=signing_key, persistent=self.persistent, dated=chosen.dated,
            max_size=validation.count("max_result_size", max_result_size, 1),
            max_body_size=max_body_size, max_decompressed_size=max_decompressed_size, max_depth=max_depth,
        )  # fmt: skip
        self._settings = Settings(
            transport_for(
                url, connection=connection, heartbeat=validation.count("heartbeat", heartbeat), ssl_context=ssl_context
            ),
            chosen,
            codec,
            Events(validation.optional_callable("on_event", on_event)),
            retry_policy=self.retry_policy,
            unroutable_policy=validation.intervals("unroutable_policy", unroutable_policy),
            expires=kept,
            store_only=store_only,
            max_cached_results=max_cached_results,
            max_unclaimed_results=max_unclaimed_results,
            max_unclaimed_bytes=max_unclaimed_bytes,
            connect_timeout=connect_timeout,
            rpc_timeout=rpc_timeout,
        )
        #: The current lifetime, or the last one. Made by ``open``, so that a subclass is complete by then.
        self._runtime: Runtime | None = None

    @classmethod
    def from_app(cls, app: Any, **overrides: Any) -> Self:
        """Return a backend that reads and stores where the workers of a Celery application do.

        Args:
            app: a Celery application, or anything with its ``conf``: ``result_backend`` (``rpc://``, ``amqp://``,
                ``celery_amqp_backend.AMQPBackend://``, or this package's plug-in, with its
                ``result_backend_transport_options``) decides the routing; ``broker_url``, ``accept_content`` and the
                other ``result_*`` settings what their names say.
            overrides: parameters of ``AMQPBackend`` that count instead.

        Raises:
            ConfigurationError: a setting that cannot be followed, named.
        """
        return cls(**app_settings(app, overrides))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.as_uri()} {type(self.routing).__name__}>"

    # Opening and closing

    async def open(self) -> Self:
        """Connect, and return when the backend can be used: everything declared, ``reply_to`` valid.

        A backend that was closed may be opened again, in another event loop, too.

        Raises:
            BrokerUnavailable: not within ``connect_timeout``.
            BrokerRefused: wrong credentials, no such vhost, TLS: trying on would not help.
            ChannelError: the broker refused a declaration, or this user may not write to the stream (readers publish
                a marker).
            ConfigurationError, NotSupported: it has another queue of a stream's name, or no streams.
            BackendClosed: closed by another task meanwhile.

        Cancelled, it leaves nothing behind. ``close`` may be called from another task.
        """
        while (runtime := self._runtime) is None or runtime.is_closed:
            if runtime is not None:
                await runtime.closed()
            if self._runtime is runtime:  # else another call has begun the next lifetime meanwhile
                self._runtime = Runtime(self._settings, self)
        await runtime.open()
        return self

    async def close(self) -> None:
        """Publish what is waiting, within 5 seconds, then end every call that waits with ``BackendClosed``.

        Safe at any time, twice, and from several tasks. Cancelled, it goes on to its end.
        """
        if self._runtime is not None:
            await self._runtime.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _opened(self) -> Runtime:
        """Return the current lifetime; raises ``BackendClosed`` and ``WrongEventLoop`` where there is none here."""
        if self._runtime is None:
            raise BackendClosed("the backend was not opened yet")
        self._runtime.check()
        return self._runtime

    def _reading(self) -> Runtime:
        """Return the current lifetime, for a call that waits, and have a refused connection tried again."""
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
        return self._settings.routing

    @property
    def reply_to(self) -> str | None:
        """The address to put into a task message; None when the routing needs none.

        Raises:
            ConfigurationError: the backend is ``store_only``.
            BackendClosed: it is not open, and so there is no address yet.
        """
        return self._reading().reader.reply_to

    def as_uri(self, include_password: bool = False) -> str:
        """Return the broker's URL, without the password unless asked for."""
        return self._settings.transport.as_uri(include_password)

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures for logs and health checks; plain values, cheap."""
        return (self._runtime or Runtime(self._settings, self)).stats()

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
        """Store one state report; awaited, return ``result`` when the broker has confirmed it.

        The report is on its way when the call returns, and what is returned is a future: many stores may be awaited
        together without a task for each. ``asyncio.wait`` alone refuses it, because it is a coroutine as well, for
        task groups: give it ``asyncio.create_task(...)`` of it, or use ``asyncio.gather``.

        Args:
            result: the return value, an exception for FAILURE, RETRY and REVOKED, or any report.
            status: a known state, or your own, such as ``PROGRESS``.
            traceback: the text of a traceback.
            request: a ``Request``, or anything with some of its attributes.
            extra: further fields of the report.

        Raises, when it is awaited:
            EncodeError: the serializer cannot write it; nothing was sent.
            StoreError: it cannot be stored: too large, or not routed.
            BrokerUnavailable: not stored within the retry policy, or nobody knows; the last error is the cause.
            ChannelError: the broker refused the queue, for example one that exists with other arguments.
            BackendClosed: the backend is not open.
            WrongEventLoop: the backend belongs to another event loop.
            ConfigurationError: an argument cannot be, or ``request`` has no ``reply_to`` where the routing needs one.

        Cancelled: withdrawn if it was not sent yet, else stored or unknown, never half.
        """
        try:
            runtime = self._opened()
            routing_key, correlation_id = self.destination_for(task_id, request)
            validation.non_empty("a status", status)
            meta = ResultMeta.of(task_id, result, status, traceback, request, extra)
            document = self._settings.codec.write(meta, correlation_id)
        except WrongEventLoop:
            # No future here, but a coroutine that may be handed over to where the backend belongs.
            return self._store_there(task_id, result, status, traceback, request, **extra)
        except AioResultsError as error:
            stored = PendingStore(task_id, "", b"")
            stored.set_exception(error)
            return stored
        stored = PendingStore(task_id, correlation_id, document, result)
        runtime.outbox.put(routing_key, stored)
        return stored

    async def _store_there(self, *args: Any, **extra: Any) -> Any:
        self._opened()
        return await self.store_result(*args, **extra)

    def recording(self, task_id: str, request: Any | None = None) -> Recording:
        """Return an async context manager that stores STARTED, and then what came of its body."""
        return Recording(self, task_id, request)

    async def mark_as_started(self, task_id: str, request: Any | None = None, **meta: Any) -> None:
        """Store STARTED; ``meta`` is what it reports, by Celery's custom ``pid`` and ``hostname``."""
        await self.store_result(task_id, meta, states.STARTED, request=request)

    async def mark_as_done(
        self, task_id: str, result: Any, request: Any | None = None, state: str = states.SUCCESS
    ) -> None:
        """Store SUCCESS."""
        await self.store_result(task_id, result, state, request=request)

    async def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any | None = None,
        state: str = states.FAILURE,
    ) -> None:
        """Store FAILURE with the exception, and the text of its traceback."""
        await self.store_result(task_id, exc, state, traceback, request)

    async def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException | None,
        traceback: str | None = None,
        request: Any | None = None,
        state: str = states.RETRY,
    ) -> None:
        """Store RETRY with the exception that made the task try again, if one did."""
        await self.store_result(task_id, exc, state, traceback, request)

    async def mark_as_revoked(
        self, task_id: str, reason: str = "revoked", request: Any | None = None, state: str = states.REVOKED
    ) -> None:
        """Store REVOKED with the reason: ``revoked``, ``expired`` or ``terminated``."""
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

        Args:
            timeout: seconds; None for no limit, 0 for one look.
            cache: whether a result that was taken before in this process will do.
            propagate: raise the task's error when it failed or was revoked, instead of returning it.
            type: what the value is converted to: a dataclass, TypedDict, pydantic model, container of these, ...

        Raises:
            ResultTimeout: the deadline passed.
            DecodeError: the result cannot be read, or is not of ``type``; it is taken all the same.
            RemoteError, TaskRevoked, or the task's own exception: with ``propagate``.
            ResultForgotten: deleted meanwhile, or taken by another process.
            BrokerRefused, ChannelError: the broker will not let us wait.
            BackendClosed: closed meanwhile.

        Cancelling is safe: the result stays with the broker for whoever asks next.
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
        """Wait for the ready report of a task and take it, a failure as well; otherwise as ``wait_for``, uncached."""
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

        Args:
            task_ids: any iterable, read once.
            timeout: seconds for all of them together; None for no limit, 0 for one look each.
            on_message: called with every report that counts, ready or not.

        Errors and cancellation: see ``ManyResults``.
        """
        reader, ids = self._reading().reader, list(task_ids)
        for task_id in ids:
            self.rkey(task_id)
        return ManyResults(reader, ids, timeout=validation.timeout(timeout), on_message=on_message)

    def watch(self, task_id: str, timeout: float | None = None, take: bool = True) -> Watch:
        """Iterate over the state reports of a task, until the ready one.

        Args:
            timeout: seconds for all of it together; None for no limit, 0 for one look.
            take: take the ready report; False leaves it where it is, for whoever asks next.

        Raises:
            ResultTimeout: no ready report by then.

        Leaving the loop, or cancelling it, is safe; after a cancelled ``anext`` the next one goes on. For one who is
        slow 1,000 reports are kept; the oldest go first, and the ready one never. Reports that are not ready are
        consumed by who sees them, except with a ``ResultStream``, where each one who watches sees all of them.
        """
        reader = self._reading().reader
        self.rkey(task_id)
        return Watch(reader, task_id, validation.timeout(timeout), take)

    async def drain_events(self, timeout: float | None = None) -> dict[str, ResultMeta]:
        """Wait until at least one ready report arrives here, and return ``{task_id: meta}`` of those that did.

        Observes what other calls wait for: it subscribes to nothing and takes nothing.

        Raises:
            ResultTimeout: nothing arrived within ``timeout`` seconds.
            BrokerRefused, ChannelError, BackendClosed: nothing more will come.

        Cancelling is safe: it disturbs nobody.
        """
        return await Observer(self._reading().reader.waiters).next(validation.timeout(timeout))

    # Looking

    async def get_task_meta(self, task_id: str, backlog_limit: int = DEFAULT_BACKLOG_LIMIT) -> ResultMeta:
        """Return the latest report about a task without consuming it; PENDING when there is none.

        What this process has seen of a task it waits for is answered from memory, and with a ``ResultStream`` every id.
        Otherwise the task's queue is read to its end, and its latest report returned to it. Nothing is declared.

        Raises:
            BacklogLimitExceeded: the queue holds ``backlog_limit`` reports or more.
            DecodeError: all that is there cannot be read.
            BrokerUnavailable: there is no session, and none within ``rpc_timeout``; or a ``ResultStream`` was not read
                to its end within that.
            ConfigurationError: a ``ResultStream``, and the backend is ``store_only``: it does not read it.
        """
        reader = self._opened().reader
        self.rkey(task_id)
        limit = validation.count("backlog_limit", backlog_limit, 1)
        return await reader.peek(task_id, limit) or ResultMeta(task_id, states.PENDING)

    poll = get_task_meta

    async def reload_task_result(self, task_id: str) -> ResultMeta:
        """Forget the cached meta of a task, and return what the broker holds now; raises as ``get_task_meta``."""
        self._opened().reader.discard(task_id)
        return await self.get_task_meta(task_id)

    async def forget(self, task_id: str) -> None:
        """Delete what the broker and this process hold of a task; those who wait for it get ``ResultForgotten``.

        The id may then start anew. Cancelled, the deletion goes on to its end.

        Raises:
            BrokerUnavailable: not known to be deleted, within ``rpc_timeout``; with a ``ResultStream`` as a store.
            ChannelError: the broker refused it.
        """
        runtime = self._opened()
        self.rkey(task_id)
        runtime.reader.forget(task_id)
        await runtime.to_its_end(runtime.reader.delete(task_id))

    # Groups: each is kept in a durable queue of its own, which expires ``expires`` seconds after it was last used

    async def save_group(self, group_id: str, result: Any) -> None:
        """Store which members a group has, in place of what was stored before under this id.

        Args:
            result: a ``GroupResult``, or anything whose ``as_tuple()`` is Celery's form of a group; or that form.

        Raises:
            ConfigurationError: it is no group, or of another id.
            StoreError, BrokerUnavailable, EncodeError, ChannelError: as ``store_result``.

        Cancelled: withdrawn if it was not sent yet, else stored or unknown.
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
        """Return a group that was saved, in this process or another; None when there is none.

        Args:
            cache: whether what this process has seen before will do.

        Raises:
            DecodeError: what is there cannot be read; it stays there.
            BrokerUnavailable: there is no session, and none within ``rpc_timeout``.
        """
        form = await self._opened().groups.restore(group_id, cache=cache)
        return None if form is None else GroupResult.from_tuple(form, self)

    async def reload_group_result(self, group_id: str) -> GroupResult | None:
        """Return a group as the broker holds it now, and remember that; raises as ``restore_group``."""
        self._opened().groups.discard(group_id)
        return await self.restore_group(group_id)

    async def delete_group(self, group_id: str) -> None:
        """Delete a saved group; the results of its members stay. One that is not there is no error.

        Cancelled, the deletion goes on to its end.

        Raises:
            BrokerUnavailable: not known to be deleted, within ``rpc_timeout``.
            ChannelError: the broker refused it.
        """
        runtime = self._opened()
        await runtime.to_its_end(runtime.groups.delete(group_id))

    # To be overridden: the names, and which report counts

    def rkey(self, task_id: str) -> str:
        """Return the routing key of a task's reports."""
        return self.routing.rkey(task_id)

    def destination_for(self, task_id: str, request: Any | None = None) -> tuple[str, str]:
        """Return routing key and correlation id of a report about ``task_id``."""
        return self.routing.destination_for(self.rkey(task_id), task_id, request)

    def on_reply_declare(self, task_id: str) -> list[messaging.Queue]:
        """Return the queues that are declared when a report about ``task_id`` finds none.

        By itself the task's own queue, and whatever else the routing shares with the readers.
        """
        queue = self.queue_for(task_id)
        shared = [entity for entity in self.routing.topology() if isinstance(entity, messaging.Queue)]
        return [*([queue] if queue else []), *map(self._own_queue, shared)]

    def queue_for(self, task_id: str) -> messaging.Queue | None:
        """Return the queue that holds the reports of a task; None when the routing gives it none of its own."""
        queue = self.routing.queue(self.rkey(task_id))
        return None if queue is None else self._own_queue(queue)

    def inbox(self) -> messaging.Queue | None:
        """Return the one queue that this process reads for all tasks, an inbox or a stream; None when there is none.

        Asked once, by ``open``.
        """
        queue = self.routing.inbox()
        return None if queue is None else self._own_queue(queue)

    def own(self, entity: messaging.Exchange | messaging.Queue) -> messaging.Exchange | messaging.Queue:
        """Return an exchange or a queue of the routing as one of this backend's classes."""
        return self._own_queue(entity) if isinstance(entity, messaging.Queue) else self.Exchange.of(entity)

    def _own_queue(self, queue: messaging.Queue) -> messaging.Queue:
        if type(queue.exchange) is not self.Exchange:
            return self.Queue(**{**queue.as_dict(), "exchange": self.Exchange.of(queue.exchange)})
        return self.Queue.of(queue)

    def supersedes(self, new: str, old: str) -> bool:
        """Return whether a report in state ``new`` replaces one in state ``old`` that came before it.

        Defaults to ``states.supersedes``, which assumes that a task id is used once. Override it identically in every
        process that reads these results. A report that is not ready must not replace one that is: a wait may have
        ended with that.

        A wait ends with the first ready report all the same. In a ``ResultStream`` that is the oldest one that is kept:
        ``get_task_meta`` returns the one that counts.
        """
        return states.supersedes(new, old)

    # The broker, for code of your own

    async def channel(self) -> Channel:
        """Open a channel, with confirms, for producers, consumers and declarations of your own.

        It is on a connection apart from the backend's, opened on first use: nothing done there disturbs a result.
        It lasts as long as the session; after a loss, ask for another one, or have ``revive`` called with it.

        Raises:
            BrokerUnavailable: there is no session, and none within ``rpc_timeout``; or no channel within that.
            BackendClosed: it is not open.

        Cancelling is safe: a channel that comes then is closed.
        """
        session = await self._opened().sessions.wait(self._settings.rpc_timeout)
        return await session.channel()

    async def revive(self, channel: Channel) -> None:
        """Declare what your own code needs; awaited at the start of every session. Does nothing by itself.

        ``channel`` is one as ``channel()`` returns.
        """

    async def on_session(self, session: Session) -> None:
        """Have ``revive`` called; awaited at the start of every session, before it is used."""
        if type(self).revive is not AMQPBackend.revive:
            await self.revive(await session.channel())  # opens a connection of its own, so only where it is wanted


def _outcome(meta: ResultMeta, propagate: bool, type: Any) -> Any:
    """Return the value of a ready report, as a ``type`` if it is a success and one was asked for."""
    value = meta.value(propagate)
    return value if type is None or meta.is_failure else convert(value, type)
