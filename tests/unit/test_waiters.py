"""Who waits and what is known: against a model that is too simple to be wrong, and the edges by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aioresults import states
from aioresults.errors import AioResultsError, BackendClosed, ResultEvicted, ResultForgotten, ResultTimeout
from aioresults.events import Events
from aioresults.results import ResultMeta
from aioresults.routing import Reader, ReaderParts
from aioresults.serialization import Document
from aioresults.waiting.waiters import Waiter
from tests.unit.reader_parts import parts

IDS = st.sampled_from("abc")
STATUSES = st.sampled_from(["PENDING", "STARTED", "PROGRESS", "RETRY", "SUCCESS", "FAILURE", "REVOKED"])


class Codec:
    """Says what a document of these tests holds: a success, unless it is among those that were made."""

    def __init__(self) -> None:
        self.made: dict[str, ResultMeta] = {}

    def decode(self, document: Document) -> ResultMeta:
        task_id = document.task_id or ""
        return self.made.get(task_id) or ResultMeta(task_id, "SUCCESS")


class Noting(Reader):
    """Notes the waits that begin and end, and otherwise does what every reader does."""

    def __init__(self, parts: ReaderParts) -> None:
        super().__init__(parts)
        self.changes: list[tuple[str, bool]] = []

    def wait_began(self, task_id: str) -> Any:
        self.changes.append((task_id, False))
        return super().wait_began(task_id)

    def wait_ended(self, task_id: str, last: Any, document: Any, *, taken: bool) -> None:
        super().wait_ended(task_id, last, document, taken=taken)
        self.changes.append((task_id, taken))


class KeptByTheBroker(Noting):
    """Keeps nothing that nobody has asked for: the broker does."""

    keeps_unclaimed = False


class Order:
    """Has reports count as by default."""

    def supersedes(self, new: str, old: str) -> bool:
        return states.supersedes(new, old)


def reader(cls: type[Noting] = KeptByTheBroker, max_cached: int = 10, count: int = 10, size: int = 1000) -> Noting:
    return cls(parts(Codec(), Order(), Events(), max_cached=max_cached, max_unclaimed=count, max_bytes=size))


def document(task_id: str) -> Document:
    return Document(task_id, "application/json", "utf-8", b"x")


@dataclass(eq=False)
class Recorder:
    """A listener that keeps what it is told."""

    task_id: str
    heard: list[Any] = field(default_factory=list)

    def on_report(self, meta: ResultMeta) -> None:
        self.heard.append(meta)

    def on_history(self, reports: Sequence[ResultMeta]) -> None:
        self.heard += reports

    def on_error(self, task_id: str, error: AioResultsError) -> None:
        self.heard.append(error)


@dataclass
class Task:
    """What the model knows of one task."""

    listeners: list[Recorder] = field(default_factory=list)
    #: Seen while somebody waits.
    seen: ResultMeta | None = None
    taken: bool = False
    #: Remembered when nobody waits: what was taken, and what was only seen since.
    cached: ResultMeta | None = None
    looked: ResultMeta | None = None
    #: Arrived before anybody asked.
    kept: ResultMeta | None = None


def better(new: ResultMeta, old: ResultMeta | None) -> bool:
    """Not ready < FAILURE, REVOKED < SUCCESS; the later of those that are not ready, the first of the others."""
    rank = {"FAILURE": 1, "REVOKED": 1, "SUCCESS": 2}
    if old is None:
        return True
    a, b = rank.get(new.status, 0), rank.get(old.status, 0)
    return a > b or a == b == 0


class WaitersMachine(RuleBasedStateMachine):
    """Each task has a queue of its own: what nobody waits for is not here."""

    reader_class: type[Noting] = KeptByTheBroker

    def __init__(self) -> None:
        super().__init__()
        self.reader = reader(self.reader_class, 100, 100)
        self.unclaimed = self.reader.keeps_unclaimed
        self.waiters, self.changes = self.reader.waiters, self.reader.changes
        self.tasks = {task_id: Task() for task_id in "abc"}
        self.expected: dict[Recorder, list[Any]] = {}
        self.observer = Recorder("")
        self.waiters.observe(self.observer)
        self.observed: list[ResultMeta] = []
        self.number = 0
        codec: Any = self.reader.settings.codec
        self.made = codec.made

    def meta(self, task_id: str, status: str) -> ResultMeta:
        self.number += 1
        meta = self.made[str(self.number)] = ResultMeta(task_id, status, self.number)
        return meta

    @rule(task_id=IDS)
    def join(self, task_id: str) -> None:
        task, listener = self.tasks[task_id], Recorder(task_id)
        if not task.listeners:
            task.taken = False
            task.seen, task.kept = task.kept, None
            if task.seen is None and task.looked is not None and not task.looked.is_ready:
                task.seen = task.looked
        task.listeners.append(listener)
        self.expected[listener] = [] if task.seen is None else [task.seen]
        self.waiters.join(task_id, listener)
        assert self.changes.pop() == (task_id, False)

    @rule(task_id=IDS, number=st.integers(0, 5), take=st.booleans())
    def end(self, task_id: str, number: int, take: bool) -> None:
        task = self.tasks[task_id]
        if not task.listeners:
            stranger = Recorder(task_id)
            self.waiters.leave(task_id, stranger)
            self.waiters.take(task_id, stranger)
            return
        listener = task.listeners.pop(number % len(task.listeners))
        take = take and task.seen is not None and task.seen.is_ready
        (self.waiters.take if take else self.waiters.leave)(task_id, listener)
        self.waiters.leave(task_id, listener)  # once more is no error
        task.taken |= take
        if task.listeners:
            assert not self.changes
            return
        assert self.changes == [(task_id, task.taken)]
        self.changes.clear()
        if task.seen is not None:
            if task.taken:
                task.cached, task.looked = task.seen, None
            elif not task.seen.is_ready:
                if better(task.seen, task.cached):
                    task.looked = task.seen
            elif self.unclaimed:
                task.kept = task.seen
        task.seen = None

    @rule(task_id=IDS, status=STATUSES)
    def report(self, task_id: str, status: str) -> None:
        task, meta = self.tasks[task_id], self.meta(task_id, status)
        if task.listeners:
            counts = better(meta, task.seen)
            if counts:
                task.seen = meta
                for listener in task.listeners:
                    self.expected[listener].append(meta)
        elif not self.unclaimed:
            counts = False
        elif task.cached is not None:
            counts = better(meta, task.cached)
            if counts:
                task.cached, task.looked = meta, None
        else:
            counts = better(meta, task.kept)
            if counts:
                task.kept = meta
        if counts and meta.is_ready:
            self.observed.append(meta)
        assert self.waiters.report(meta, document(str(self.number)) if self.unclaimed else None) is counts

    @rule(task_id=IDS)
    def fail(self, task_id: str) -> None:
        error = BackendClosed("x")
        for listener in self.tasks[task_id].listeners:
            self.expected[listener].append(error)
        self.waiters.fail(task_id, error)

    @rule(task_id=IDS)
    def forget(self, task_id: str) -> None:
        task = self.tasks[task_id]
        task.seen = task.cached = task.looked = task.kept = None
        self.reader.forget(task_id)
        for listener in task.listeners:
            error = listener.heard[-1]
            assert isinstance(error, ResultForgotten)
            assert error.task_id == task_id
            self.expected[listener].append(error)

    @rule(task_id=IDS)
    def discard(self, task_id: str) -> None:
        self.tasks[task_id].cached = self.tasks[task_id].looked = None
        self.reader.discard(task_id)

    @rule(task_id=IDS, status=STATUSES)
    def learn(self, task_id: str, status: str) -> None:
        task, meta = self.tasks[task_id], self.meta(task_id, status)
        if self.unclaimed:
            return  # there is nothing to look at
        known = task.seen or task.looked or task.cached
        if not better(meta, known):
            assert self.reader.learn(meta) is known
            return
        assert self.reader.learn(meta) is meta
        if task.listeners:
            task.seen = meta
            for listener in task.listeners:
                self.expected[listener].append(meta)
            if meta.is_ready:
                self.observed.append(meta)
        else:
            task.looked = meta

    @invariant()
    def every_listener_heard_what_it_should(self) -> None:
        for listener, expected in self.expected.items():
            assert listener.heard == expected
        assert self.observer.heard == self.observed

    @invariant()
    def knows_what_the_model_knows(self) -> None:
        waiting = {task_id for task_id, task in self.tasks.items() if task.listeners}
        assert set(self.waiters) == waiting
        assert len(self.waiters) == len(waiting)
        for task_id, task in self.tasks.items():
            assert (task_id in self.waiters) is (task_id in waiting)
            assert self.reader.known(task_id) is (task.seen or task.kept or task.looked or task.cached)
            assert self.reader.ready(task_id) is task.cached
        known = [meta for task in self.tasks.values() for meta in (task.cached, task.looked) if meta is not None]
        assert self.reader.memory.cached == len(known)

    @invariant()
    def a_listener_hears_each_life_in_order(self) -> None:
        for listener in self.expected:
            latest: ResultMeta | None = None
            for heard in listener.heard:
                if isinstance(heard, ResultForgotten):
                    latest = None
                elif isinstance(heard, ResultMeta):
                    assert latest is None or states.supersedes(heard.status, latest.status)
                    latest = heard


class InboxMachine(WaitersMachine):
    """All results come to one inbox: what nobody waits for is kept."""

    reader_class = Noting


TestWaiters = WaitersMachine.TestCase
TestWaitersOfAnInbox = InboxMachine.TestCase
for case in (TestWaiters, TestWaitersOfAnInbox):
    case.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class TestCache:
    def taken(self, reader: Reader, task_id: str, status: str = "SUCCESS") -> None:
        listener = Recorder(task_id)
        reader.waiters.join(task_id, listener)
        reader.deliver(ResultMeta(task_id, status))
        reader.waiters.take(task_id, listener)

    def test_the_least_recently_used_goes_first(self) -> None:
        known = reader(max_cached=2)
        for task_id in "ab":
            self.taken(known, task_id)
        assert known.ready("a") is not None  # used
        self.taken(known, "c")
        assert [task_id for task_id in "abc" if known.ready(task_id)] == ["a", "c"]
        assert known.memory.cached == 2

    def test_none_at_all(self) -> None:
        known = reader(max_cached=0)
        self.taken(known, "a")
        assert known.ready("a") is None
        assert known.memory.cached == 0

    def test_one_that_is_taken_again_is_as_new(self) -> None:
        known = reader(max_cached=2)
        for task_id in "abac":
            self.taken(known, task_id)
        assert known.ready("b") is None


def test_what_is_kept_undecoded_is_made_anew_for_whoever_asks() -> None:
    known, listener = reader(Noting), Recorder("a")
    known.waiters.report(ResultMeta("a", "SUCCESS"), document("a"))
    known.waiters.join("a", listener)
    [meta] = listener.heard
    known.waiters.take("a", listener)
    assert known.ready("a") == meta
    assert known.ready("a") is not meta


class TestEvicted:
    def test_who_asks_is_told_at_once(self) -> None:
        known = reader(Noting, count=1, size=1000)
        known.waiters.report(ResultMeta("a", "SUCCESS"), document("a"))
        known.waiters.report(ResultMeta("b", "SUCCESS"), document("b"))
        listener = Recorder("a")
        known.waiters.join("a", listener)
        [error] = listener.heard
        assert isinstance(error, ResultEvicted)
        assert error.task_id == "a"

    def test_bytes_are_bounded(self) -> None:
        known = reader(Noting, count=10, size=2)
        for task_id in "abc":
            known.waiters.report(ResultMeta(task_id, "SUCCESS"), document(task_id))
        assert [task_id for task_id in "abc" if known.known(task_id)] == ["b", "c"]

    def test_one_who_returns_what_it_had_may_evict(self) -> None:
        known = reader(Noting, count=1, size=1000)
        listener = Recorder("a")
        known.waiters.join("a", listener)
        known.waiters.report(ResultMeta("b", "SUCCESS"), document("b"))
        known.waiters.report(ResultMeta("a", "SUCCESS"), document("a"))
        known.waiters.leave("a", listener)
        assert known.known("b") is None
        assert known.known("a") is not None


@pytest.mark.parametrize("order", [1, -1])
def test_a_hundred_thousand_waits_for_one_task_end_each_on_its_own(order: int) -> None:
    known, listeners = reader(max_cached=10), [Recorder("a") for _ in range(100_000)]
    for listener in listeners:
        known.waiters.join("a", listener)
    for listener in listeners[::order]:  # in time for the suite only when each costs the same
        known.waiters.leave("a", listener)
    assert len(known.waiters) == 0


def test_fail_all_ends_every_wait_and_observer() -> None:
    known, listeners, observer = reader(), [Recorder("a"), Recorder("a"), Recorder("b")], Recorder("")
    for listener in listeners:
        known.waiters.join(listener.task_id, listener)
    known.waiters.observe(observer)
    error = BackendClosed("x")
    known.waiters.fail_all(error)
    assert [listener.heard for listener in (*listeners, observer)] == [[error]] * 4
    known.waiters.unobserve(observer)
    known.waiters.fail_all(error)
    assert observer.heard == [error]


class TestWaiter:
    async def test_resolves_with_the_first_ready_report(self) -> None:
        known = reader(max_cached=10)
        waiter = Waiter(known.waiters, "a", None)
        known.waiters.report(ResultMeta("a", "STARTED"))
        assert not waiter.done()
        first = ResultMeta("a", "FAILURE")
        known.waiters.report(first)
        known.waiters.report(ResultMeta("a", "SUCCESS"))
        assert await waiter is first
        waiter.take()
        waiter.leave()
        assert len(known.waiters) == 0

    async def test_an_error_after_the_result_changes_nothing(self) -> None:
        known = reader(max_cached=10)
        waiter = Waiter(known.waiters, "a", None)
        known.waiters.report(ResultMeta("a", "SUCCESS"))
        known.forget("a")
        assert (await waiter).status == "SUCCESS"
        waiter.leave()

    async def test_a_result_after_an_error_changes_nothing(self) -> None:
        known = reader(max_cached=10)
        waiter = Waiter(known.waiters, "a", None)
        known.forget("a")
        known.waiters.report(ResultMeta("a", "SUCCESS"))
        with pytest.raises(ResultForgotten):
            await waiter
        waiter.leave()

    async def test_expires(self) -> None:
        known = reader(max_cached=10)
        waiter = Waiter(known.waiters, "a", 0.01)
        with pytest.raises(ResultTimeout) as caught:
            await waiter
        assert (caught.value.timeout, caught.value.pending) == (0.01, ["a"])
        waiter.leave()
        assert len(known.waiters) == 0

    async def test_cancelled_it_takes_no_report(self) -> None:
        known = reader(max_cached=10)
        waiter = Waiter(known.waiters, "a", 10)
        waiter.cancel()
        known.waiters.report(ResultMeta("a", "SUCCESS"))
        known.waiters.fail("a", BackendClosed("x"))
        with pytest.raises(asyncio.CancelledError):
            await waiter
        waiter.leave()
        assert known.ready("a") is None
