"""``QueuePerTask``: the queue of each task, in this package's layout or one of Celery's."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from aioresults import validation
from aioresults.errors import ConfigurationError
from aioresults.messaging import Exchange, NoCacheQueue, Queue
from aioresults.routing.base import OURS, Reader, ReaderParts, Routing, RoutingOptions
from aioresults.routing.queue_per_task.reader import QueuePerTaskReader

#: RabbitMQ's types of queues from which a message can be taken; None leaves the choice to the broker, as Celery does.
QUEUE_TYPES: Final = ("classic", "quorum", None)


@dataclass(frozen=True)
class QueuePerTask(Routing):
    """One durable queue per task, ``aioresults.task.<task_id>``, on the default exchange.

    Example::

        async with AMQPBackend("memory://example", routing=QueuePerTask()) as backend:
            await backend.store_result("task", 42)
            assert await backend.wait_for("task", timeout=5) == 42

    The reader that takes the ready result deletes the queue; an unread queue expires. For each task the broker spends a
    few milliseconds of CPU and, while the result is unread, about 50 KiB of memory and a file descriptor.

    Args:
        last_value: whether only the newest report of each task is kept (``x-max-length=1``). A look is then one get,
            and no backlog can grow; but a reader may miss reports in between, and a late STARTED hides a result.
        prefix: the beginning of each queue's name; the task id follows.
        strip_dashes: whether the dashes of task ids are left out of the names.
        uuid_only: whether task ids other than UUIDs are refused. Needed with ``strip_dashes``, where two other ids
            could share a queue.
        exchange_name: the exchange to which results are published; empty for the default exchange.
        exchange_type: ``direct``, ``topic``, ``fanout``, ``headers``, or one of the broker's own.
        auto_delete: whether the broker deletes a queue when its last consumer is cancelled.
        durable: whether queues and exchange survive a restart of the broker.
        queue_type: ``classic`` or ``quorum``; None to declare no type, as Celery does.
        expires: seconds without use after which the broker deletes a queue; None for never. The backend sets it.

    ``celery()`` and ``celery_amqp_backend()`` return the layouts of Celery 4 and of the package of that name, declared
    byte for byte as they do. Their queues are auto_delete, which loses confirmed results whenever a waiter leaves or a
    connection drops during a store. Use them to talk to Celery, not among your own processes.
    """

    last_value: bool = False
    prefix: str = OURS + "task."
    strip_dashes: bool = False
    uuid_only: bool = False
    exchange_name: str = ""
    exchange_type: str = "direct"
    auto_delete: bool = False
    durable: bool = True
    queue_type: str | None = "classic"
    expires: float | None = 86400.0

    def __post_init__(self) -> None:
        validation.choice("queue_type", self.queue_type, QUEUE_TYPES)
        validation.non_empty("exchange_type", self.exchange_type)
        for name in ("prefix", "exchange_name"):
            value: object = getattr(self, name)
            if not isinstance(value, str):
                raise ConfigurationError(f"{name} must be a string, not {value!r}")
            validation.short_string(name, value)
        validation.expires(self.expires)

    @classmethod
    def celery(cls) -> QueuePerTask:
        """Return Celery 4's layout: queue named like the task id without dashes, exchange ``celeryresults``.

        Example::

            backend = AMQPBackend("memory://example", routing=QueuePerTask.celery())

        Task ids must be UUIDs: without their dashes two other ids could share a queue.
        """
        return cls(
            prefix="",
            strip_dashes=True,
            uuid_only=True,
            exchange_name="celeryresults",
            auto_delete=True,
            queue_type=None,
        )

    @classmethod
    def celery_amqp_backend(cls) -> QueuePerTask:
        """Return the layout of celery-amqp-backend: queue ``celeryresults.<task_id>``, exchange ``celeryresults``.

        Example::

            backend = AMQPBackend("memory://example", routing=QueuePerTask.celery_amqp_backend())
        """
        return cls(prefix="celeryresults.", exchange_name="celeryresults", auto_delete=True, queue_type=None)

    def configured(self, options: RoutingOptions) -> QueuePerTask:
        """Fill in the backend's options."""
        changes: dict[str, Any] = {"expires": options.expires}
        if options.exchange is not None:
            changes["exchange_name"] = options.exchange
            if self.exchange_name and self.prefix == self.exchange_name + ".":
                # celery-amqp-backend names its queues after the exchange.
                changes["prefix"] = options.exchange + "."
        if options.exchange_type is not None:
            changes["exchange_type"] = options.exchange_type
        if options.auto_delete is not None:
            changes["auto_delete"] = options.auto_delete
        if self._is_celery:
            # Celery's queues and exchange are as durable as its messages are persistent; ours always are.
            changes["durable"] = options.persistent
        return replace(self, **changes)

    @property
    def _is_celery(self) -> bool:
        return self.queue_type is None

    @cached_property
    def exchange(self) -> Exchange:
        """The default exchange, or the one of a Celery layout."""
        return Exchange(self.exchange_name, self.exchange_type, durable=self.durable)

    def topology(self) -> Sequence[Exchange | Queue]:
        """Return the exchange, if it is not the default one."""
        return (self.exchange,) if self.exchange_name else ()

    @cached_property
    def _template(self) -> NoCacheQueue:
        """What the queues of all tasks have in common."""
        arguments: dict[str, Any] = {}
        if self.queue_type is not None:
            arguments["x-queue-type"] = self.queue_type
        if self.expires is not None:
            arguments["x-expires"] = int(self.expires * 1000)
        if self.last_value:
            arguments["x-max-length"] = 1
        return NoCacheQueue(
            "",
            self.exchange,
            durable=self.durable,
            auto_delete=self.auto_delete,
            queue_arguments=MappingProxyType(arguments),
        )

    def rkey(self, task_id: str) -> str:
        """Return the queue's name, which is the routing key too."""
        validation.task_id(task_id)
        if self.uuid_only and not _is_uuid(task_id):
            raise ConfigurationError(
                f"task id {task_id!r} is not a UUID: this layout drops the dashes, so two other ids could share a queue"
            )
        key = self.prefix + (task_id.replace("-", "") if self.strip_dashes else task_id)
        return validation.short_string("the queue name of a task", key)

    def queue(self, rkey: str) -> Queue:
        """Return the task's queue."""
        return self._template.copy(name=rkey, routing_key=rkey)

    def reader(self, parts: ReaderParts) -> Reader:
        """Return what consumes the queues of the tasks that somebody waits for."""
        return QueuePerTaskReader(parts)


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower() or uuid.UUID(text).hex == text.lower()
    except ValueError:
        return False
