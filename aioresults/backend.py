"""``AMQPBackend``: task results over RabbitMQ, stored by one process and awaited by another.

Names and meanings are those of Celery's ``AMQPBackend``, made awaitable. Where this one differs: a timeout is one
deadline for the whole call, in float seconds, with 0 for one look; failures are raised unless ``propagate=False``;
every call may be cancelled without losing a result; and a wait outlasts any outage of the broker.
"""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Self, TypeVar, overload

from aioresults import states, validation
from aioresults.app_settings import app_settings
from aioresults.background.lifetime import Lifetime
from aioresults.background.lookup import DEFAULT_BACKLOG_LIMIT
from aioresults.errors import BacklogLimitExceeded
from aioresults.events import OnEvent
from aioresults.extension import Extension
from aioresults.grouping import Grouping
from aioresults.limits import Limits
from aioresults.many_results import ManyResults, OnMessage
from aioresults.observer import Observer
from aioresults.results import ResultMeta
from aioresults.retry import RetryPolicy
from aioresults.routing import QueuePerTask, Routing, RoutingOptions, configured
from aioresults.serialization import ReportCodec, Serializers
from aioresults.serialization.conversion import convert
from aioresults.storing import Storing
from aioresults.transport import transport_for
from aioresults.waiting.waiters import Waiter
from aioresults.watch import Watch

T = TypeVar("T")


class AMQPBackend(Extension, Storing, Grouping):
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
    persistent: bool = True
    supports_autoexpire: ClassVar = True
    retry_policy: RetryPolicy | Mapping[str, Any] = RetryPolicy()

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
        self._transport = transport_for(
            url, connection=connection, heartbeat=validation.count("heartbeat", heartbeat), ssl_context=ssl_context
        )
        limits = Limits(
            max_cached_results,
            max_unclaimed_results,
            max_unclaimed_bytes,
            max_result_size,
            connect_timeout,
            rpc_timeout,
        )
        self._rpc_timeout = limits.rpc_timeout
        kept = validation.expires(expires)
        options = RoutingOptions(exchange, exchange_type, auto_delete, self.persistent, kept)
        self._routing = configured(QueuePerTask() if routing is None else routing, options)
        self._reports = ReportCodec(
            serializers=serializers, serializer=serializer, compression=compression, accept=accept,
            signing_key=signing_key, persistent=self.persistent, dated=self._routing.stream() is not None,
            max_size=max_result_size, max_body_size=max_body_size, max_decompressed_size=max_decompressed_size,
            max_depth=max_depth,
        )  # fmt: skip
        unroutable = validation.intervals("unroutable_policy", unroutable_policy)
        self._lifetime = Lifetime(
            self._transport, self._routing, self._reports, self, limits,
            retry_policy=self.retry_policy, unroutable=unroutable, expires=kept, store_only=store_only,
            on_event=validation.optional_callable("on_event", on_event),
        )  # fmt: skip
        self._waiters = self._lifetime.waiters
        self._lookup = self._lifetime.lookup

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
        return f"<{type(self).__name__} {self.as_uri()} {type(self._routing).__name__}>"

    # Lifetime

    async def open(self) -> Self:
        """Connect, and return when the backend can be used: everything declared, ``reply_to`` valid.

        Raises:
            BrokerUnavailable: not within ``connect_timeout``.
            BrokerRefused: wrong credentials, no such vhost, TLS: trying on would not help.
            ChannelError: the broker refused a declaration, or a reader of a stream to write to it.
            ConfigurationError, NotSupported: it has another queue of a stream's name, or no streams.
            BackendClosed: closed before; make a new one.

        Cancelled, it leaves nothing behind. ``close`` may be called from another task.
        """
        await self._lifetime.open()
        return self

    async def close(self) -> None:
        """Publish what is waiting, within 5 seconds, then end every call that waits with ``BackendClosed``.

        Safe at any time, twice, and from several tasks. Cancelled, it goes on to its end.
        """
        await self._lifetime.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @property
    def routing(self) -> Routing:
        """Where results go, with the options of this backend filled in."""
        return self._routing

    @property
    def reply_to(self) -> str | None:
        """The address to put into a task message; None when the routing needs none.

        Raises:
            ConfigurationError: the backend is ``store_only``.
            BackendClosed: it is not open, and so the address not valid.
        """
        self._lifetime.check_reads()
        return self._routing.reply_to

    # Waiting

    def _check_wait(self, task_id: str, timeout: float | None) -> float | None:
        self._lifetime.check_reads()
        self.rkey(task_id)
        return validation.timeout(timeout)

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
        limit = self._check_wait(task_id, timeout)
        if cache and (known := self._waiters.ready(task_id)) is not None:
            return _outcome(known, propagate, type)
        if limit == 0:
            return _outcome(await self._lookup.take(task_id), propagate, type)
        waiter = Waiter(self._waiters, task_id, limit)
        try:
            meta = await waiter
            waiter.take()
        finally:
            waiter.leave()
        return _outcome(meta, propagate, type)

    async def consume(self, task_id: str, timeout: float | None = None) -> ResultMeta:
        """Wait for the ready report of a task and take it, a failure as well; otherwise as ``wait_for``, uncached."""
        # Not shared with wait_for: one more coroutine would cost each wait 230 bytes.
        limit = self._check_wait(task_id, timeout)
        if limit == 0:
            return await self._lookup.take(task_id)
        waiter = Waiter(self._waiters, task_id, limit)
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
        self._lifetime.check_reads()
        ids = list(task_ids)
        for task_id in ids:
            self.rkey(task_id)
        limit = validation.timeout(timeout)
        return ManyResults(self._waiters, ids, timeout=limit, on_message=on_message, take_ready=self._lookup.take_ready)

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
        return Watch(self._waiters, self._lookup, task_id, self._check_wait(task_id, timeout), take)

    async def drain_events(self, timeout: float | None = None) -> dict[str, ResultMeta]:
        """Wait until at least one ready report arrives here, and return ``{task_id: meta}`` of those that did.

        Observes what other calls wait for: it subscribes to nothing and takes nothing.

        Raises:
            ResultTimeout: nothing arrived within ``timeout`` seconds.
            BrokerRefused, ChannelError, BackendClosed: nothing more will come.

        Cancelling is safe: it disturbs nobody.
        """
        self._lifetime.check_reads()
        return await Observer(self._waiters).next(validation.timeout(timeout))

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
        self._lifetime.check()
        self.rkey(task_id)
        limit = validation.count("backlog_limit", backlog_limit, 1)
        return await self._lookup.latest(task_id, limit) or ResultMeta(task_id, states.PENDING)

    poll = get_task_meta

    async def reload_task_result(self, task_id: str) -> ResultMeta:
        """Forget the cached meta of a task, and return what the broker holds now; raises as ``get_task_meta``."""
        self._lifetime.check()
        self._waiters.discard(task_id)
        return await self.get_task_meta(task_id)

    async def forget(self, task_id: str) -> None:
        """Delete what the broker and this process hold of a task; those who wait for it get ``ResultForgotten``.

        The id may then start anew. Cancelled, the deletion goes on to its end.

        Raises:
            BrokerUnavailable: not known to be deleted, within ``rpc_timeout``; with a ``ResultStream`` as a store.
            ChannelError: the broker refused it.
        """
        self._lifetime.check()
        self.rkey(task_id)
        self._waiters.forget(task_id)
        await self._lifetime.to_its_end(self._lookup.delete(task_id))

    # Describing

    def as_uri(self, include_password: bool = False) -> str:
        """Return the broker's URL, without the password unless asked for."""
        return self._transport.as_uri(include_password)

    def stats(self) -> dict[str, int | bool | str]:
        """Return figures for logs and health checks; plain values, cheap."""
        return self._lifetime.stats()


def _outcome(meta: ResultMeta, propagate: bool, type: Any) -> Any:
    """Return the value of a ready report, as a ``type`` if it is a success and one was asked for."""
    value = meta.value(propagate)
    return value if type is None or meta.is_failure else convert(value, type)
