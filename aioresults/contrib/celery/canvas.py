"""Calls of tasks that are still to be made: one by itself, or several that follow each other (Celery's canvas)."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, Unpack, cast

from aioresults.contrib.celery.chain_result import ChainResult
from aioresults.contrib.celery.deadline import Deadline
from aioresults.contrib.celery.options import TaskOptions, checked, text
from aioresults.contrib.celery.sender import Sender
from aioresults.errors import ConfigurationError
from aioresults.handles import AsyncResult

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Signature(Generic[T]):
    """The task ``name`` with its arguments and options: a value, immutable. What changes it returns another one.

    Made by ``CeleryClient.signature``, ``Task.s`` and ``Task.si``. A worker that runs it after another task passes on
    that one's result as first argument, unless it is immutable.
    """

    sender: Sender = field(repr=False, compare=False)
    name: str
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    immutable: bool = False
    result_type: type[T] | None = None
    callbacks: tuple[Signature[Any], ...] = ()
    errbacks: tuple[Signature[Any], ...] = ()

    def __post_init__(self) -> None:
        text("the name of a task", self.name)
        given: object = self.kwargs
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise ConfigurationError("kwargs must be a mapping whose keys are strings")

    def set(self, **options: Unpack[TaskOptions]) -> Signature[T]:
        """Return it with other options; those that are not named stay.

        Raises:
            ConfigurationError: an option that cannot work, named.
        """
        merged = {**self.options, **options}
        checked(merged)
        return replace(self, options=merged)

    def link(self, *signatures: Signature[Any]) -> Signature[T]:
        """Return it with signatures that the worker sends when it has succeeded."""
        return replace(self, callbacks=(*self.callbacks, *only_signatures("link", signatures)))

    def on_error(self, *signatures: Signature[Any]) -> Signature[T]:
        """Return it with signatures that the worker sends, or calls, when it has failed (Celery's ``link_error``)."""
        return replace(self, errbacks=(*self.errbacks, *only_signatures("on_error", signatures)))

    def freeze(self) -> Signature[T]:
        """Return it with a task id, so that its ``result`` can be awaited wherever it is sent from."""
        return self if self.options.get("task_id") else self.set(task_id=str(uuid.uuid4()))

    @property
    def result(self) -> AsyncResult[T]:
        """A handle on its result.

        Raises:
            ConfigurationError: it has no task id yet; ``freeze`` returns one that has.
        """
        task_id = self.options.get("task_id")
        if not task_id:
            raise ConfigurationError(f"the signature of {self.name!r} has no task id: freeze() returns one that has")
        return AsyncResult(task_id, self.sender.backend, self.result_type)

    def __or__(self, other: Signature[U] | Chain[U]) -> Chain[U]:
        return Chain(self.sender, [self, other])

    def after(self, result: Any) -> Signature[T]:
        """Return it as it is sent once ``result`` is there."""
        return self if self.immutable else replace(self, args=(result, *self.args))

    async def send(self) -> AsyncResult[T]:
        """Send it, and return a handle on its result; raises as ``CeleryClient.send``."""
        return AsyncResult(await self.sender.send(self), self.sender.backend, self.result_type)

    async def call(self, timeout: float | None = None) -> T:
        """Send it, and return its value; raises as ``CeleryClient.call``."""
        deadline = Deadline(timeout)
        task_id = await self.sender.send(self, timeout=deadline.left())
        value: Any = await self.sender.backend.wait_for(
            task_id, deadline.left(), type=cast("type[T]", self.result_type)
        )
        return cast("T", value)


class Chain(Generic[T]):
    """Signatures in order; the result of each is the first argument of the next, unless that is immutable.

    Made by ``CeleryClient.chain`` and by ``one | another``. Immutable.

    Raises:
        ConfigurationError: a member that is neither signature nor chain, or none at all.
    """

    __slots__ = ("_sender", "members")

    def __init__(self, sender: Sender, members: Iterable[Signature[Any] | Chain[Any]]) -> None:
        flat: list[Any] = []
        for member in members:
            flat += member.members if isinstance(member, Chain) else [member]
        if not flat:
            raise ConfigurationError("a chain needs a signature at least")
        self.members: tuple[Signature[Any], ...] = only_signatures("a chain", flat)
        self._sender = sender

    def __repr__(self) -> str:
        return f"<Chain: {' | '.join(member.name for member in self.members)}>"

    def __or__(self, other: Signature[U] | Chain[U]) -> Chain[U]:
        return Chain(self._sender, [self, other])

    async def send(self) -> ChainResult[T]:
        """Send the first task with all that follows it, and return a handle on the result of the last.

        Raises:
            as ``CeleryClient.send``. That the queues of the others are there is for the workers to see.
        """
        return await self._send(None)

    async def call(self, timeout: float | None = None) -> T:
        """Send it, and return the value of its last task; raises as ``CeleryClient.call``, of any of its tasks."""
        deadline = Deadline(timeout)
        result = await self._send(deadline.left())
        return await result.get(deadline.left())

    async def _send(self, timeout: float | None) -> ChainResult[T]:
        first, *others = (member.freeze() for member in self.members)
        await self._sender.send(first, chain=others, timeout=timeout)
        return ChainResult([first.result, *(other.result for other in others)])


def only_signatures(where: str, given: Any) -> tuple[Signature[Any], ...]:
    """Return ``given`` as a tuple of signatures.

    Raises:
        ConfigurationError: one is something else.
    """
    for each in given:
        if not isinstance(each, Signature):
            raise ConfigurationError(
                f"{where} takes signatures, not {type(each).__name__}: chains and groups of chains and groups are "
                "made here, with asyncio"
            )
    return tuple(given)
