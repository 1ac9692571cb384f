"""Sends what is to be done: finds its queue, writes the message, publishes it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from aioresults.backend import AMQPBackend
from aioresults.contrib.celery.message import Ask, Writer
from aioresults.contrib.celery.options import checked
from aioresults.contrib.celery.publisher import Publisher
from aioresults.contrib.celery.routes import Routes


class Sendable(Protocol):
    """What is sent: a task's name, its arguments and options, and what follows it. A ``Signature`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def args(self) -> tuple[Any, ...]: ...
    @property
    def kwargs(self) -> Mapping[str, Any]: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def immutable(self) -> bool: ...
    @property
    def callbacks(self) -> Sequence[Sendable]: ...
    @property
    def errbacks(self) -> Sequence[Sendable]: ...


class Sender:
    """What a client, its handles on tasks, and its signatures have in common.

    Args:
        queue: of tasks that have no route.
    """

    def __init__(self, backend: AMQPBackend, queue: str, routes: Routes, writer: Writer, publisher: Publisher) -> None:
        self.backend = backend
        self._queue = queue
        self._routes = routes
        self._writer = writer
        self._publisher = publisher

    async def send(
        self,
        signature: Sendable,
        *,
        chain: Sequence[Sendable] = (),
        group: tuple[str, int] | None = None,
        timeout: float | None = None,
    ) -> str:
        """Send a task, and return its id when the broker has the message in a queue.

        Args:
            chain: what follows it, in order.
            group: the id of the group it is in, and its place there.
            timeout: seconds, where they are fewer than ``send_timeout``.

        Raises:
            as ``CeleryClient.send``.
        """
        name, args, kwargs = signature.name, signature.args, signature.kwargs
        options = self._routed(name, args, kwargs, signature.options)
        task_id: str = options.get("task_id") or str(uuid.uuid4())
        self.backend.rkey(task_id)
        ask = Ask(
            name, args, kwargs, options, task_id, self.backend.reply_to,
            callbacks=self._all_written(signature.callbacks),
            errbacks=self._all_written(signature.errbacks),
            chain=self._all_written(chain[::-1]),  # what runs next is taken from its end
            group=group,
        )  # fmt: skip
        exchange, routing_key = _destination(options)
        await self._publisher.publish(self._writer.write(ask), exchange, routing_key, timeout)
        return task_id

    def written(self, signature: Sendable) -> dict[str, Any]:
        """Return a signature as the worker reads it that will send it; its answer comes here, too."""
        name, args, kwargs = signature.name, signature.args, signature.kwargs
        options = self._routed(name, args, kwargs, signature.options)
        options.setdefault("task_id", str(uuid.uuid4()))
        if self.backend.reply_to:
            options["reply_to"] = self.backend.reply_to
        for link, signatures in (("link", signature.callbacks), ("link_error", signature.errbacks)):
            if written := self._all_written(signatures):
                options[link] = written
        return {
            "task": name,
            "args": list(args),
            "kwargs": dict(kwargs),
            "options": options,
            "subtask_type": None,
            "immutable": signature.immutable,
        }

    def _all_written(self, signatures: Sequence[Sendable]) -> list[dict[str, Any]] | None:
        return [self.written(each) for each in signatures] or None

    def _routed(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the options of a task, checked, with its route and its queue."""
        options = checked(given)
        if route := self._routes.find(name, args, kwargs, options):
            options = checked({**route, **given})
        if not {"queue", "exchange"} & options.keys():
            options["queue"] = self._queue
        return options


def _destination(options: Mapping[str, Any]) -> tuple[str, str]:
    """Return exchange and routing key: a queue is reached through the default exchange, whatever it is bound to."""
    if "queue" in options:
        return "", options["queue"]
    return options["exchange"], options.get("routing_key", "")
