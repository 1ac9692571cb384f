"""Tasks that run side by side, and one that runs when they have ended."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from aioresults.contrib.celery.canvas import Signature, only_signatures
from aioresults.contrib.celery.deadline import Deadline
from aioresults.contrib.celery.sender import Sender
from aioresults.handles import AsyncResult, GroupResult

T = TypeVar("T")

#: Members that are sent at a time.
PARALLEL: Final = 500


class Group:
    """Signatures that are sent at once. Made by ``CeleryClient.group``. Immutable.

    Raises:
        ConfigurationError: a member that is no signature.
    """

    __slots__ = ("_sender", "members")

    def __init__(self, sender: Sender, members: Iterable[Signature[Any]]) -> None:
        self.members: tuple[Signature[Any], ...] = only_signatures("a group", tuple(members))
        self._sender = sender

    def __repr__(self) -> str:
        return f"<Group of {len(self.members)}>"

    async def send(self) -> GroupResult:
        """Send all, and return a handle on their results, which know each other by the group's id.

        Raises:
            as ``CeleryClient.send``, of the first that could not be sent; no more are sent then. Others may have been.
        """
        return await self._send(Deadline(None))

    async def call(self, timeout: float | None = None, propagate: bool = True) -> list[Any]:
        """Send all, and return their values in order.

        Args:
            timeout: seconds for sending and waiting together; None for no limit.
            propagate: raise the first failure that arrives; otherwise exceptions are among the values.

        Raises:
            ResultTimeout: with ``done`` and ``pending``.
            others as ``CeleryClient.call``.
        """
        deadline = Deadline(timeout)
        group = await self._send(deadline)
        return await group.join(deadline.left(), propagate)

    async def _send(self, deadline: Deadline) -> GroupResult:
        group_id = str(uuid.uuid4())
        frozen = [member.freeze() for member in self.members]
        numbered = iter(enumerate(frozen))
        while some := list(islice(numbered, PARALLEL)):
            left = deadline.left()
            sending = (self._sender.send(each, group=(group_id, index), timeout=left) for index, each in some)
            for outcome in await asyncio.gather(*sending, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
        return GroupResult(group_id, [member.result for member in frozen], self._sender.backend)


class Chord(Generic[T]):
    """A group, and a body that gets the list of its values. Made by ``CeleryClient.chord``. Immutable.

    The join happens here, in the process that calls, because Celery's backends on AMQP have no chords. When this
    process ends before the group has, nobody sends the body.
    """

    __slots__ = ("body", "header")

    def __init__(self, header: Group, body: Signature[T]) -> None:
        self.header: Group = header
        only_signatures("the body of a chord", [body])
        self.body: Signature[T] = body

    def __repr__(self) -> str:
        return f"<Chord of {len(self.header.members)} and {self.body.name}>"

    async def send(self, timeout: float | None = None) -> AsyncResult[T]:
        """Have the group done, then send the body, and return a handle on its result.

        Args:
            timeout: seconds for that; None for no limit.

        Raises:
            as ``Group.call``: when a member fails the body is not sent.
        """
        deadline = Deadline(timeout)
        values = await self.header.call(deadline.left())
        body = self.body.after(values)
        return AsyncResult(await body.sender.send(body, timeout=deadline.left()), body.sender.backend, body.result_type)

    async def call(self, timeout: float | None = None) -> T:
        """Have the group done, then the body, and return its value; raises as ``Group.call``."""
        deadline = Deadline(timeout)
        values = await self.header.call(deadline.left())
        return await self.body.after(values).call(deadline.left())
