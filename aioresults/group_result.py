"""A handle on the results of a group of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from aioresults import states, validation
from aioresults.async_result import AsyncResult
from aioresults.errors import ConfigurationError, DecodeError
from aioresults.results import ResultMeta

if TYPE_CHECKING:
    from aioresults.backend import AMQPBackend

#: A member of a group: a task's result, or a group inside the group.
Member: TypeAlias = "AsyncResult[Any] | GroupResult"


class GroupResult:
    """The results of the tasks of group ``id``, in order; ``await`` it for the list of their values.

    Holds no state of its own, as ``AsyncResult``. Equal to a group of the same id and members. Members may be groups,
    to any depth; the value of one is the list of its members' values.

    Args:
        results: handles on one backend.
        backend: that backend; needed only when there are no members.
        parent: the result of the task that came before the group, as Celery tells; it is only kept.

    Raises:
        ConfigurationError: an id or a member of another type, or neither members nor a backend.
    """

    __slots__ = ("backend", "id", "parent", "results")

    backend: AMQPBackend

    def __init__(
        self,
        id: str,
        results: Iterable[Member],
        backend: AMQPBackend | None = None,
        *,
        parent: Member | None = None,
    ) -> None:
        self.id: str = validation.non_empty("a group id", id)
        self.results: list[Member] = list(results)
        self.parent: Member | None = parent
        for member in self.results:
            if not isinstance(member, (AsyncResult, GroupResult)):
                raise ConfigurationError(f"the members of a group are AsyncResults or GroupResults, not {member!r}")
        if backend is None:
            if not self.results:
                raise ConfigurationError(f"group {id!r} has no members to take a backend from: pass one")
            backend = self.results[0].backend
        self.backend = backend

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.join().__await__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and (other.id, other.results) == (self.id, self.results)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} of {len(self.results)}>"

    def __len__(self) -> int:
        """How many members it has; a group inside counts one."""
        return len(self.results)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.results)

    def task_ids(self) -> Iterator[str]:
        """Iterate over the ids of all tasks, those of groups inside too, in order."""
        for member in self.results:
            if isinstance(member, GroupResult):
                yield from member.task_ids()
            else:
                yield member.task_id

    # Waiting

    async def join(self, timeout: float | None = None, propagate: bool = True) -> list[Any]:
        """Wait for all results, take them, and return their values in the order of the members.

        Args:
            timeout: seconds for all of them together; None for no limit, 0 for one look each.
            propagate: raise the first failure that is seen, at once; otherwise exceptions are among the values.

        Raises:
            ResultTimeout: with ``done`` and ``pending``.
            RemoteError, TaskRevoked, or the task's own exception: with ``propagate``.

        Nothing is taken before all are there; so cancelling it, or a failure, loses nothing.
        """
        many = self.backend.get_many(self.task_ids(), timeout, on_message=ResultMeta.value if propagate else None)
        if propagate:
            for meta in many.known().values():
                meta.value()
        metas = await many
        return self._values(metas, propagate)

    get = join

    def _values(self, metas: dict[str, ResultMeta], propagate: bool) -> list[Any]:
        return [
            member._values(metas, propagate)
            if isinstance(member, GroupResult)
            else metas[member.task_id].value(propagate)
            for member in self.results
        ]

    def as_completed(self, timeout: float | None = None) -> AsyncIterator[tuple[str, ResultMeta]]:
        """Iterate over ``(task_id, meta)`` of all tasks as they end; see ``AMQPBackend.get_many``."""
        return aiter(self.backend.get_many(self.task_ids(), timeout))

    # Looking

    async def _metas(self) -> dict[str, ResultMeta]:
        """Look once for each task."""
        task_ids = list(dict.fromkeys(self.task_ids()))
        metas = await asyncio.gather(*map(self.backend.get_task_meta, task_ids))
        return dict(zip(task_ids, metas, strict=True))

    async def completed_count(self) -> int:
        """Return how many members have ended well (Celery's meaning); a group inside counts when all of it has."""
        metas = await self._metas()
        return sum(_successful(member, metas) for member in self.results)

    async def ready(self) -> bool:
        """Whether every task has ended."""
        return all(meta.is_ready for meta in (await self._metas()).values())

    async def successful(self) -> bool:
        """Whether every task has ended with a result."""
        return _successful(self, await self._metas())

    async def failed(self) -> bool:
        """Whether a task has ended with an error, or was revoked."""
        return any(meta.is_failure for meta in (await self._metas()).values())

    # Keeping

    async def save(self, backend: AMQPBackend | None = None) -> None:
        """Store which members the group has; see ``AMQPBackend.save_group``."""
        await (backend or self.backend).save_group(self.id, self)

    @classmethod
    async def restore(cls, id: str, backend: AMQPBackend) -> GroupResult | None:
        """Return a group that was saved, or None; see ``AMQPBackend.restore_group``."""
        return await backend.restore_group(id)

    async def delete(self, backend: AMQPBackend | None = None) -> None:
        """Delete what ``save`` stored; the members' results stay. See ``AMQPBackend.delete_group``."""
        await (backend or self.backend).delete_group(self.id)

    async def forget(self) -> None:
        """Delete the result of every task; see ``AMQPBackend.forget``."""
        await asyncio.gather(*map(self.backend.forget, dict.fromkeys(self.task_ids())))

    def as_tuple(self) -> tuple[tuple[str, Any], list[Any]]:
        """Return Celery's form of a group: ``((id, parent), [member, ...])``."""
        return (self.id, self.parent and self.parent.as_tuple()), [member.as_tuple() for member in self.results]

    @staticmethod
    def from_tuple(form: Any, backend: AMQPBackend) -> GroupResult:
        """Return the group that Celery's form describes.

        Raises:
            DecodeError: it describes something else.
        """
        group = _from_tuple(form, backend)
        if not isinstance(group, GroupResult):
            raise DecodeError(f"what was saved is the single result {group.id!r}, and no group")
        return group


def _successful(member: Member, metas: dict[str, ResultMeta]) -> bool:
    if isinstance(member, GroupResult):
        return all(_successful(each, metas) for each in member.results)
    return metas[member.task_id].status == states.SUCCESS


def _from_tuple(form: Any, backend: AMQPBackend) -> Member:
    match form:
        case ((str() as id, before), members) if id:
            parent = None if before is None else _from_tuple(before, backend)
        case (str() as id, members) if id:  # Celery reads a bare id, too
            parent = None
        case _:
            raise DecodeError("what was saved is not of Celery's form, ((id, parent), members)")
    if members is None:
        return AsyncResult(id, backend, parent=parent)
    if not isinstance(members, (list, tuple)):
        raise DecodeError(f"the members of {id!r} are not a list")
    return GroupResult(id, [_from_tuple(member, backend) for member in members], backend, parent=parent)
