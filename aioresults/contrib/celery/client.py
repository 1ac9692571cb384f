"""``CeleryClient``: sends tasks to unmodified Celery workers, and awaits what they return. No Celery, no thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self, TypeVar, Unpack, cast, overload

from aioresults import validation
from aioresults.backend import AMQPBackend
from aioresults.contrib.celery.canvas import Chain, Signature
from aioresults.contrib.celery.client_settings import client_settings
from aioresults.contrib.celery.control import Control, revocation
from aioresults.contrib.celery.group import Chord, Group
from aioresults.contrib.celery.message import Writer
from aioresults.contrib.celery.options import TaskOptions, checked, text
from aioresults.contrib.celery.publisher import Publisher
from aioresults.contrib.celery.routes import Router, Routes
from aioresults.contrib.celery.sender import Sender
from aioresults.contrib.celery.task import Task
from aioresults.handles import AsyncResult
from aioresults.messaging.body_codec import BodyCodec
from aioresults.messaging.exchange import mode_of
from aioresults.retry import RetryPolicy
from aioresults.serialization import Serializers
from aioresults.serialization.compression import find_compression
from aioresults.transport.base import PERSISTENT

T = TypeVar("T")

#: Celery's ``task_publish_retry_policy``.
PUBLISH_POLICY: Final = RetryPolicy(max_retries=3, interval_start=0, interval_step=0.2, interval_max=1)


class CeleryClient:
    """Calls the tasks of Celery workers; their results come back through ``backend``.

    With workers whose ``result_backend`` is ``rpc://`` the backend's routing is ``ReplyQueue``; ``from_app`` chooses
    the right one. ``async with client`` opens and closes the backend; where it is open anyway, just use the client.

    Args:
        backend: awaits the results.
        queue: of tasks that have no route.
        routes: Celery's ``task_routes``: which queue a task goes to by its name.
        serializer: ``json``, ``msgpack`` or a name that ``serializers`` knows; workers must accept it.
        compression: ``zlib``, ``bz2``, ``lzma``, ``zstd``, or None.
        serializers: a registry of your own.
        delivery_mode: ``persistent`` or ``transient``, of tasks that do not say.
        priority: 0 to 255, of tasks that do not say.
        retry_policy: how often a task is published again that is not known to be sent; Celery's by default.
        send_timeout: seconds that sending one task may take, attempts and confirm together.
        control_exchange: Celery's setting of that name, the same as the workers'.

    Raises:
        ConfigurationError: a parameter that cannot work, named.

    A task is published mandatory and with a confirm: what no queue takes is an error at once. When a confirm is lost
    with its connection, the task is sent again, and may then run twice, as with Celery.
    """

    def __init__(
        self,
        backend: AMQPBackend,
        *,
        queue: str = "celery",
        routes: Router | Sequence[Router] | None = None,
        # Task messages
        serializer: str = "json",
        compression: str | None = None,
        serializers: Serializers | None = None,
        delivery_mode: int | str = "persistent",
        priority: int = 0,
        # Behaviour
        retry_policy: RetryPolicy | Mapping[str, Any] = PUBLISH_POLICY,
        send_timeout: float = 10,
        control_exchange: str = "celery",
    ) -> None:
        registry = Serializers() if serializers is None else serializers
        registry.find(validation.non_empty("serializer", serializer))
        if compression is not None:
            find_compression(compression)
        checked({"priority": priority, "queue": validation.non_empty("queue", queue)})
        self.backend = backend
        self._sender = Sender(
            backend,
            queue,
            Routes(routes),
            Writer(BodyCodec(registry), serializer, compression, mode_of(delivery_mode) or PERSISTENT, priority),
            Publisher(backend, RetryPolicy.of(retry_policy), validation.seconds("send_timeout", send_timeout)),
        )
        self._control = Control(backend, validation.non_empty("control_exchange", control_exchange))

    @classmethod
    def from_app(cls, app: Any, backend: AMQPBackend | None = None, **overrides: Any) -> Self:
        """Return a client that sends as a Celery application does.

        Args:
            app: a Celery application, or anything with its ``conf``: ``task_default_queue``, ``task_routes``,
                ``task_serializer``, ``task_compression``, ``task_default_delivery_mode``, ``task_default_priority``,
                ``task_publish_retry`` and its policy, and ``control_exchange`` are followed.
            backend: None for ``AMQPBackend.from_app(app)``.
            overrides: parameters of ``CeleryClient`` that count instead.

        Raises:
            ConfigurationError: a setting that cannot be followed, named.
        """
        settings = {**client_settings(app), **overrides}
        return cls(AMQPBackend.from_app(app) if backend is None else backend, **settings)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.backend.as_uri()}>"

    async def __aenter__(self) -> Self:
        await self.backend.open()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.backend.close()

    # Tasks

    @overload
    async def send(
        self, name: str, /, *args: Any, kwargs: Mapping[str, Any] | None = None, **options: Unpack[TaskOptions]
    ) -> AsyncResult[Any]: ...

    @overload
    async def send(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        result_type: type[T],
        **options: Unpack[TaskOptions],
    ) -> AsyncResult[T]: ...

    async def send(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        result_type: Any = None,
        **options: Unpack[TaskOptions],
    ) -> AsyncResult[Any]:
        """Send a task, and return a handle on its result when the broker has the message in a queue.

        Args:
            name: as the worker knows the task, ``proj.tasks.add``.
            args: the task's arguments.
            kwargs: the task's keyword arguments; all other keywords are options.
            result_type: what the value is converted to, as in ``AMQPBackend.wait_for``.
            options: see ``TaskOptions``.

        Raises:
            MessageReturned: there is no such queue: no worker has ever listened to it.
            NotFound: there is no such exchange.
            EncodeError: the serializer cannot write the arguments; nothing was sent.
            ConfigurationError: an option that cannot work, named; nothing was sent.
            BrokerUnavailable: not known to be sent, for ``send_timeout`` seconds or ``retry_policy``.

        Cancelled: the task is sent, or it is not.
        """
        return await self._signature(name, args, kwargs, options, result_type).send()

    @overload
    async def call(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        **options: Unpack[TaskOptions],
    ) -> Any: ...

    @overload
    async def call(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        result_type: type[T],
        **options: Unpack[TaskOptions],
    ) -> T: ...

    async def call(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        result_type: Any = None,
        **options: Unpack[TaskOptions],
    ) -> Any:
        """Send a task, and return its value.

        Args:
            timeout: seconds for sending and waiting together; None for no limit.
            others: as in ``send``.

        Raises:
            ResultTimeout: the deadline passed; the task may still run.
            RemoteError, TaskRevoked, or the task's own exception: it failed, or was revoked.
            MessageReturned, ...: as ``send``.

        Cancelled: a task that was sent runs on; ``revoke`` takes it back if it has not started.
        """
        return await self._signature(name, args, kwargs, options, result_type).call(timeout)

    def _signature(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        options: TaskOptions,
        result_type: Any,
        immutable: bool = False,
    ) -> Signature[Any]:
        given = cast("Mapping[str, Any]", options)
        return Signature(self._sender, name, args, kwargs or {}, given, immutable, result_type)

    @overload
    def task(self, name: str, *, timeout: float | None = None, **options: Unpack[TaskOptions]) -> Task[Any]: ...

    @overload
    def task(
        self, name: str, *, timeout: float | None = None, result_type: type[T], **options: Unpack[TaskOptions]
    ) -> Task[T]: ...

    def task(
        self, name: str, *, timeout: float | None = None, result_type: Any = None, **options: Unpack[TaskOptions]
    ) -> Task[Any]:
        """Return a handle on the task ``name``: ``await handle(2, 2)`` passes all its arguments to the task.

        Args:
            timeout: seconds that each of its calls may take; None for no limit.
            result_type: what its values are converted to.
            options: of each message; see ``TaskOptions``.
        """
        checked(options)
        return Task(self._sender, text("the name of a task", name), validation.timeout(timeout), result_type, options)

    def result(self, task_id: str, result_type: type[T] | None = None) -> AsyncResult[T]:
        """Return a handle on the result of a task that was sent before."""
        return AsyncResult(task_id, self.backend, result_type)

    # What is put together

    @overload
    def signature(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        immutable: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Signature[Any]: ...

    @overload
    def signature(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        immutable: bool = False,
        result_type: type[T],
        **options: Unpack[TaskOptions],
    ) -> Signature[T]: ...

    def signature(
        self,
        name: str,
        /,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        immutable: bool = False,
        result_type: Any = None,
        **options: Unpack[TaskOptions],
    ) -> Signature[Any]:
        """Return a call that is still to be made; arguments as in ``send``.

        Args:
            immutable: it does not take the result of the task before it as an argument.
        """
        checked(cast("Mapping[str, Any]", options))
        return self._signature(name, args, kwargs, options, result_type, immutable)

    def chain(self, *members: Signature[Any] | Chain[Any]) -> Chain[Any]:
        """Return tasks that follow each other, also written ``one | another``; see ``Chain``."""
        return Chain(self._sender, members)

    def group(self, members: Iterable[Signature[Any]]) -> Group:
        """Return tasks that run side by side; see ``Group``."""
        return Group(self._sender, members)

    def chord(self, header: Iterable[Signature[Any]], body: Signature[T]) -> Chord[T]:
        """Return a group, and a task that gets the list of its values, joined here; see ``Chord``."""
        return Chord(self.group(header), body)

    # Workers

    async def revoke(
        self,
        task_ids: str | Iterable[str],
        *,
        terminate: bool = False,
        signal: str = "SIGTERM",
        destination: str | Iterable[str] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Tell workers not to run these tasks; those who wait for them get ``TaskRevoked`` when a worker meets them.

        A task with an ``eta`` or ``countdown`` answers only when it is due.

        Args:
            terminate: end those that run already, too (prefork only).
            signal: what they are ended with.
            destination: the names of the nodes that are meant; None for all.
            timeout: seconds to wait for their answers; None to wait for none.

        Raises:
            as ``control``.
        """
        arguments = revocation(task_ids, terminate, signal)
        return await self._control.send("revoke", arguments, destination, timeout, None)

    async def ping(
        self,
        timeout: float | None = 1.0,
        *,
        destination: str | Iterable[str] | None = None,
        limit: int | None = None,
    ) -> dict[str, Any]:
        """Return ``{node: {"ok": "pong"}}`` of the workers that answer within ``timeout`` seconds; see ``control``."""
        return await self._control.send("ping", {}, destination, timeout, limit)

    async def control(
        self,
        method: str,
        /,
        *,
        timeout: float | None = 1.0,
        destination: str | Iterable[str] | None = None,
        limit: int | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Send a command of Celery's remote control to workers, and return ``{node: answer}`` of those who answer.

        Args:
            method: ``active``, ``reserved``, ``scheduled``, ``revoked``, ``stats``, ``registered``, ``active_queues``,
                ``query_task``, ``rate_limit``, ``time_limit``, ``add_consumer``, ``pool_grow``, ``shutdown``, ...
            timeout: seconds to wait for answers; None to wait for none, and return nothing.
            destination: the names of the nodes that are meant; None for all.
            limit: how many answers are enough; by itself as many as there are destinations.
            arguments: of the command.

        Answers are as the workers send them; ``{"error": ...}`` is a command that failed there. When no worker listens
        there is nothing to wait for.

        Raises:
            BrokerUnavailable: not sent, or the connection was lost while answers were awaited.
            EncodeError: arguments that cannot be written.
            ConfigurationError: a parameter that cannot work, named.
        """
        return await self._control.send(method, arguments, destination, timeout, limit)
