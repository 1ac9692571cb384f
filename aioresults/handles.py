"""Handles on the result of one task, and on those of a group of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from aioresults import states, validation
from aioresults.errors import ConfigurationError, DecodeError
from aioresults.many_results import ManyResults, OnMessage
from aioresults.results import ResultMeta
from aioresults.watch import Watch

T = TypeVar("T")

#: A member of a group: a task's result, or a group inside the group.
Member: TypeAlias = "AsyncResult[Any] | GroupResult"


class ResultSource(Protocol):
    """What handles ask of ``AMQPBackend``, where each call is explained."""

    async def wait_for(
        self, task_id: str, timeout: float | None = None, cache: bool = True, propagate: bool = True, *, type: Any
    ) -> Any:
        """Wait for the value of a task."""

    async def get_task_meta(self, task_id: str) -> ResultMeta:
        """Return the latest report."""

    def get_many(
        self, task_ids: Iterable[str], timeout: float | None = None, on_message: OnMessage | None = None
    ) -> ManyResults:
        """Return the results of many tasks, to be awaited or iterated."""

    def watch(self, task_id: str, timeout: float | None = None) -> Watch:
        """Return the reports of a task, to be iterated."""

    async def forget(self, task_id: str) -> None:
        """Delete the result of a task."""

    async def save_group(self, group_id: str, result: Any) -> None:
        """Store which members a group has."""

    async def restore_group(self, group_id: str) -> GroupResult | None:
        """Return a saved group."""

    async def delete_group(self, group_id: str) -> None:
        """Delete a saved group."""


class AsyncResult(Generic[T]):
    """The result of one task; ``await`` it for the value.

    Example::

        result = AsyncResult(task_id, backend, int)
        assert await result == 42

    A handle holds no state: it is equal to every other handle on the same task, and cheap to make and to throw away.

    Args:
        task_id: the id of the task.
        backend: where the result is looked for.
        type: the type that the value is converted to, as in ``AMQPBackend.wait_for``.
        parent: the result of the task before this one, as Celery reports it; it is only kept.

    Celery: ``celery.result.AsyncResult``.
    """

    __slots__ = ("_type", "backend", "parent", "task_id")

    def __init__(
        self,
        task_id: str,
        backend: ResultSource,
        type: type[T] | None = None,
        *,
        parent: AsyncResult[Any] | GroupResult | None = None,
    ) -> None:
        self.task_id: str = task_id
        self.backend: ResultSource = backend
        self.parent: AsyncResult[Any] | GroupResult | None = parent
        self._type = type

    def __await__(self) -> Generator[Any, None, T]:
        return self.get().__await__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.task_id == self.task_id

    def __hash__(self) -> int:
        return hash(self.task_id)

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.task_id}>"

    @property
    def id(self) -> str:
        """The task id, by the name that Celery gives it."""
        return self.task_id

    async def get(self, timeout: float | None = None, propagate: bool = True) -> T:
        """Wait for the value; see ``AMQPBackend.wait_for``.

        Example::

            answer = await AsyncResult(task_id, backend).get(timeout=5)

        Args:
            timeout: seconds; None for no limit, 0 for one look.
            propagate: whether the error of a failed or revoked task is raised; False returns it.
        """
        value: T = await self.backend.wait_for(self.task_id, timeout, propagate=propagate, type=self._type)
        return value

    async def meta(self) -> ResultMeta:
        """Return the latest report without waiting; see ``AMQPBackend.get_task_meta``.

        Example::

            meta = await AsyncResult(task_id, backend).meta()
        """
        return await self.backend.get_task_meta(self.task_id)

    async def state(self) -> str:
        """Return the latest state without waiting; errors as ``meta``.

        Example::

            assert await AsyncResult(task_id, backend).state() == "SUCCESS"
        """
        return (await self.meta()).status

    async def ready(self) -> bool:
        """Return whether the task has ended, without waiting; errors as ``meta``.

        Example::

            assert await AsyncResult(task_id, backend).ready()
        """
        return (await self.meta()).is_ready

    async def successful(self) -> bool:
        """Return whether the task has ended with a result, without waiting; errors as ``meta``.

        Example::

            assert await AsyncResult(task_id, backend).successful()
        """
        meta = await self.meta()
        return meta.is_ready and not meta.is_failure

    async def failed(self) -> bool:
        """Return whether the task has failed or was revoked, without waiting; errors as ``meta``.

        Example::

            assert not await AsyncResult(task_id, backend).failed()
        """
        return (await self.meta()).is_failure

    def updates(self, timeout: float | None = None) -> Watch:
        """Iterate over the state reports until the ready one; see ``AMQPBackend.watch``.

        Example::

            async for meta in AsyncResult(task_id, backend).updates(timeout=30):
                print(meta.status)

        Args:
            timeout: seconds for all of it together; None for no limit, 0 for one look.
        """
        return self.backend.watch(self.task_id, timeout=timeout)

    async def forget(self) -> None:
        """Delete the result; see ``AMQPBackend.forget``.

        Example::

            await AsyncResult(task_id, backend).forget()
        """
        await self.backend.forget(self.task_id)

    def as_tuple(self) -> tuple[tuple[str, Any], None]:
        """Return the form in which Celery writes a result inside a result: ``((id, parent), None)``.

        Example::

            assert AsyncResult("task", backend).as_tuple() == (("task", None), None)
        """
        return (self.task_id, self.parent and self.parent.as_tuple()), None


class GroupResult:
    """The results of a group of tasks, in order; ``await`` it for the list of their values.

    Example::

        group = GroupResult("group", [AsyncResult(each, backend) for each in task_ids])
        assert await group == [1, 2]

    A handle holds no state, as ``AsyncResult``. Two groups with the same id and members are equal. A member may be a
    group itself, to any depth; its value is the list of its members' values.

    Args:
        id: the id of the group.
        results: the members, which are handles on one backend.
        backend: that backend; needed only when there are no members.
        parent: the result of the task before the group, as Celery reports it; it is only kept.

    Raises:
        ConfigurationError: the id or a member is of another type, or there are neither members nor a backend.

    Celery: ``celery.result.GroupResult``.
    """

    __slots__ = ("backend", "id", "parent", "results")

    backend: ResultSource

    def __init__(
        self,
        id: str,
        results: Iterable[Member],
        backend: ResultSource | None = None,
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
        """Return the number of members; a group inside the group counts as one."""
        return len(self.results)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.results)

    def task_ids(self) -> Iterator[str]:
        """Iterate over the ids of all tasks in order, those of groups inside included.

        Example::

            assert list(group.task_ids()) == task_ids
        """
        for member in self.results:
            if isinstance(member, GroupResult):
                yield from member.task_ids()
            else:
                yield member.task_id

    # Waiting

    async def join(self, timeout: float | None = None, propagate: bool = True) -> list[Any]:
        """Wait for all results, take them, and return their values in the order of the members.

        Example::

            assert await group.join(timeout=30) == [1, 2]

        Args:
            timeout: seconds for all of them together; None for no limit, 0 for one look each.
            propagate: whether the first failure that arrives is raised at once; False returns exceptions among the
                values.

        Raises:
            ResultTimeout: the deadline passed; it has ``done`` and ``pending``.
            RemoteError, TaskRevoked, or the task's own exception: a task failed, and ``propagate`` is true.

        Cancelling is safe, and a failure loses nothing: no result is taken before all are there. Also called ``get``.
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
        """Iterate over ``(task_id, meta)`` of all tasks as they end; see ``AMQPBackend.get_many``.

        Example::

            async for task_id, meta in group.as_completed(timeout=30):
                print(task_id, meta.status)

        Args:
            timeout: seconds for all of them together; None for no limit, 0 for one look each.
        """
        return aiter(self.backend.get_many(self.task_ids(), timeout))

    # Looking

    async def _metas(self) -> dict[str, ResultMeta]:
        """Return the latest report of each task."""
        task_ids = list(dict.fromkeys(self.task_ids()))
        metas = await asyncio.gather(*map(self.backend.get_task_meta, task_ids))
        return dict(zip(task_ids, metas, strict=True))

    async def completed_count(self) -> int:
        """Return how many members have ended with a result; a group inside counts when all of its members have.

        Example::

            assert await group.completed_count() == 2

        Errors: as ``AMQPBackend.get_task_meta``. Celery: ``GroupResult.completed_count``.
        """
        metas = await self._metas()
        return sum(_successful(member, metas) for member in self.results)

    async def ready(self) -> bool:
        """Return whether every task has ended, without waiting.

        Example::

            assert await group.ready()
        """
        return all(meta.is_ready for meta in (await self._metas()).values())

    async def successful(self) -> bool:
        """Return whether every task has ended with a result, without waiting.

        Example::

            assert await group.successful()
        """
        return _successful(self, await self._metas())

    async def failed(self) -> bool:
        """Return whether any task has failed or was revoked, without waiting.

        Example::

            assert not await group.failed()
        """
        return any(meta.is_failure for meta in (await self._metas()).values())

    # Keeping

    async def save(self, backend: ResultSource | None = None) -> None:
        """Store which members the group has; see ``AMQPBackend.save_group``.

        Example::

            await group.save()

        Args:
            backend: where the group is stored; None for the backend of the group.
        """
        await (backend or self.backend).save_group(self.id, self)

    @classmethod
    async def restore(cls, id: str, backend: ResultSource) -> GroupResult | None:
        """Return a saved group, or None; see ``AMQPBackend.restore_group``.

        Example::

            await group.save()
            assert await GroupResult.restore("group", backend) == group
        """
        return await backend.restore_group(id)

    async def delete(self, backend: ResultSource | None = None) -> None:
        """Delete what ``save`` stored; the members' results stay. See ``AMQPBackend.delete_group``.

        Example::

            await group.delete()

        Args:
            backend: where the group is deleted; None for the backend of the group.
        """
        await (backend or self.backend).delete_group(self.id)

    async def forget(self) -> None:
        """Delete the result of every task; see ``AMQPBackend.forget``.

        Example::

            await group.forget()
        """
        await asyncio.gather(*map(self.backend.forget, dict.fromkeys(self.task_ids())))

    def as_tuple(self) -> tuple[tuple[str, Any], list[Any]]:
        """Return Celery's form of a group: ``((id, parent), [member, ...])``.

        Example::

            assert group.as_tuple()[0] == ("group", None)
        """
        return (self.id, self.parent and self.parent.as_tuple()), [member.as_tuple() for member in self.results]

    @staticmethod
    def from_tuple(form: Any, backend: ResultSource) -> GroupResult:
        """Return the group that Celery's form describes.

        Example::

            assert GroupResult.from_tuple(group.as_tuple(), backend) == group

        Raises:
            DecodeError: the form describes something else.
        """
        group = _from_tuple(form, backend)
        if not isinstance(group, GroupResult):
            raise DecodeError(f"the saved form is the single result {group.id!r}, not a group")
        return group


def _successful(member: Member, metas: dict[str, ResultMeta]) -> bool:
    if isinstance(member, GroupResult):
        return all(_successful(each, metas) for each in member.results)
    return metas[member.task_id].status == states.SUCCESS


def _from_tuple(form: Any, backend: ResultSource) -> Member:
    match form:
        case ((str() as id, before), members) if id:
            parent = None if before is None else _from_tuple(before, backend)
        case (str() as id, members) if id:  # Celery reads a bare id, too
            parent = None
        case _:
            raise DecodeError("the saved form is not Celery's form of a group, ((id, parent), members)")
    if members is None:
        return AsyncResult(id, backend, parent=parent)
    if not isinstance(members, (list, tuple)):
        raise DecodeError(f"the members of {id!r} are not a list")
    return GroupResult(id, [_from_tuple(member, backend) for member in members], backend, parent=parent)
