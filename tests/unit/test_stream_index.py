"""The index of a stream: what it knows, in which level, and what it lets go of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aioresults import states
from aioresults.messaging import Message
from aioresults.routing.result_stream import index as index_module
from aioresults.routing.result_stream.index import HISTORY, Index, Position
from aioresults.routing.result_stream.replay import position_of
from aioresults.serialization import Document
from aioresults.transport.base import Delivery, Properties

JSON = "application/json"


def document(task_id: str, text: str = "x", content_type: str = JSON) -> Document:
    return Document(task_id, content_type, "utf-8", text.encode())


class Keeper:
    """Says that certain tasks must stay; None: all of them."""

    def __init__(self, task_ids: Collection[str] | None) -> None:
        self.task_ids = task_ids

    def must_stay(self, task_id: str) -> bool:
        return self.task_ids is None or task_id in self.task_ids


def make(max_bytes: int = 10**6, max_count: int = 10**6, max_age: float | None = None, **options: Any) -> Index:
    return Index(max_bytes, max_count, max_age, **options)


def fill(index: Index, count: int, size: int = 10) -> None:
    for number in range(count):
        index.add(Position(number, number), document(str(number), "x" * size))


def bodies(index: Index, task_id: str) -> list[bytes] | None:
    documents = index.documents(task_id)
    return None if documents is None else [each.body for each in documents]


def test_documents_come_out_as_they_went_in() -> None:
    index = make()
    reports = [document("a", "1"), document("a", "2", "application/x-msgpack"), document("b", "3")]
    for number, each in enumerate(reports):
        index.add(Position(number, 0), each)
    assert index.documents("a") == reports[:2]
    assert index.documents("b") == reports[2:]
    assert index.documents("c") == []
    assert ("a" in index, "c" in index, len(index), index.bytes) == (True, False, 2, 3)


def test_a_tombstone_hides_what_came_before_it() -> None:
    index = make()
    index.forget(Position(0, 0), "unknown")
    assert "unknown" not in index
    index.add(Position(1, 0), document("a", "old"))
    index.forget(Position(2, 0), "a")
    assert (index.documents("a"), index.bytes) == ([], 0)
    index.add(Position(3, 0), document("a", "new"))
    assert bodies(index, "a") == [b"new"]


def test_beyond_the_bytes_the_places_remain() -> None:
    index = make(max_bytes=1000)
    fill(index, 200)
    assert len(index) == 200
    assert 900 < index.bytes <= 1000
    assert index.is_complete
    assert index.documents("0") is None
    assert index.missing("0") == [0]
    assert bodies(index, "199") == [b"x" * 10]
    index.restore(Position(0, 0), "0", [document("0", "found")])
    assert (bodies(index, "0"), index.missing("0")) == ([b"found"], [])
    index.restore(Position(1, 0), "1", [])
    assert index.documents("1") == []


def test_a_report_of_a_task_whose_others_were_let_go() -> None:
    index = make(max_bytes=1000)
    index.add(Position(0, 0), document("a", "first"))
    index.add(Position(0, 0), document("a", "second"))
    for number in range(1, 200):
        index.add(Position(number, 0), document(str(number), "x" * 10))
    index.add(Position(200, 0), document("a", "last"))
    assert (index.documents("a"), index.missing("a")) == (None, [0])
    index.restore(Position(0, 0), "a", [document("a", "first"), document("a", "second")])
    assert bodies(index, "a") == [b"first", b"second", b"last"]


def test_what_was_forgotten_while_it_was_fetched_stays_so() -> None:
    index = make(max_bytes=500, max_count=100)
    fill(index, 200)
    assert not index.is_complete
    assert index.missing("110") == [110]
    index.forget(Position(200, 200), "110")
    index.restore(Position(110, 110), "110", [document("110", "found")])
    assert index.documents("110") == []
    index.add(Position(201, 201), document("110", "new"))
    index.restore(Position(110, 110), "110", [document("110", "found")])
    assert bodies(index, "110") == [b"new"]


def test_what_somebody_is_told_of_stays() -> None:
    index = make(max_bytes=1000, keeper=Keeper({"3"}))
    fill(index, 200)
    assert bodies(index, "3") == [b"x" * 10]
    assert index.documents("4") is None
    busy = make(max_bytes=1000, max_count=50, keeper=Keeper(None))
    fill(busy, 200)
    assert (busy.bytes, len(busy), busy.is_complete) == (2000, 200, True)


def test_nothing_is_dropped_that_somebody_is_told_of() -> None:
    wanted = {"0", "7"}
    index = make(max_count=20, keeper=Keeper(wanted))
    fill(index, 100)
    assert len(index) <= 20
    assert (bodies(index, "0"), bodies(index, "7"), bodies(index, "8")) == ([b"x" * 10], [b"x" * 10], [])
    wanted.clear()
    for number in range(100, 120):
        index.add(Position(number, number), document(str(number)))
    assert ("0" in index, "7" in index) == (False, False)


def test_beyond_the_count_the_oldest_are_dropped() -> None:
    index = make(max_count=100)
    fill(index, 150)
    assert len(index) <= 100
    assert not index.is_complete
    assert index.documents("0") == []
    assert bodies(index, "149") == [b"x" * 10]
    known = [number for number in range(150) if str(number) in index]
    assert index.floor == known[0]
    index.prepend("0", [(Position(0, 0), document("0", "found"))])
    assert bodies(index, "0") == [b"found"]
    index.add(Position(149, 0), document("2", "came while it was searched for"))
    found = [(Position(offset, 0), document("2", "found")) for offset in (2, 149)]
    index.prepend("2", found)
    assert bodies(index, "2") == [b"found", b"came while it was searched for"]
    index.forget(Position(150, 0), "1")  # known from now on: the stream holds it below the floor
    index.prepend("1", [(Position(1, 0), document("1", "found"))])
    assert index.documents("1") == []
    index.clear()
    assert (len(index), index.bytes, index.is_complete) == (0, 0, True)


def test_a_report_moves_its_task_to_the_end() -> None:
    index = make(max_count=100)
    fill(index, 100)
    index.add(Position(100, 0), document("0", "again"))
    index.add(Position(101, 0), document("new"))
    assert bodies(index, "0") == [b"x" * 10, b"again"]
    assert "1" not in index


def test_what_is_too_old_does_not_count_and_goes() -> None:
    now = 0.0
    index = make(max_age=60, clock=lambda: now)
    index.add(Position(0, 0), document("b"))
    index.add(Position(1, 0), document("a", "old"))
    index.add(Position(2, 50), document("a", "new"))
    now = 70
    assert bodies(index, "a") == [b"new"]
    assert index.documents("b") == []
    for number in range(2000):
        index.add(Position(3 + number, 70), document(str(number)))
    assert "b" not in index
    assert index.is_complete
    assert index.floor == 0


@pytest.mark.parametrize(("sent", "late"), [(10.0, 10.5), (10.9, 11.4), (10.9, 11.0)])
def test_no_report_is_too_old_before_its_time(sent: float, late: float) -> None:
    """Messages say the second in which they were sent, and not more."""
    now = sent
    index = make(max_age=0.5, clock=lambda: now)
    assert index.add(Position(0, int(sent)), document("a"))
    now = late
    assert bodies(index, "a") == [b"x"]
    now = sent + 1.5
    assert bodies(index, "a") == []


def test_an_old_floor_is_none() -> None:
    now = 0.0
    index = make(max_count=16, max_age=60, clock=lambda: now)
    fill(index, 20)
    assert not index.is_complete
    now = 200
    assert index.is_complete


def test_the_history_of_a_task_is_bounded() -> None:
    index = make()
    for number in range(2 * HISTORY):
        index.add(Position(number, 0), document("a", str(number)))
    kept = bodies(index, "a")
    assert kept is not None
    assert (len(kept), kept[0], kept[-1]) == (HISTORY, b"0", str(2 * HISTORY - 1).encode())
    assert index.bytes == sum(map(len, kept))


def test_more_kinds_of_documents_than_there_are() -> None:
    index = make()
    for number in range(300):
        index.add(Position(number, 0), document("a", "x", f"application/json; n={number}"))
    assert len(index.documents("a") or ()) == 254


@pytest.mark.parametrize(("sent", "time"), [(5, 5), (-1, 0), (2**40, 2**32 - 1)])
def test_a_message_of_any_date(sent: int, time: int) -> None:
    properties = Properties(headers={"x-stream-offset": 7}, timestamp=sent)
    position = position_of(Message(Delivery(None, b"", properties, 1, False, "", "")))  # type: ignore[arg-type]
    assert position == Position(7, time)
    assert make().add(position, document("a"))


class Machine(RuleBasedStateMachine):
    """The index beside a list of all that was ever read."""

    def __init__(self) -> None:
        super().__init__()
        self.index = make(max_bytes=200, max_count=6)
        self.log: list[tuple[str, bytes]] = []

    ids = st.sampled_from("abcdefghij")

    @rule(task_id=ids, size=st.integers(1, 60))
    def add(self, task_id: str, size: int) -> None:
        body = bytes([len(self.log) % 256]) * size
        self.index.add(Position(len(self.log), 0), Document(task_id, JSON, "utf-8", body))
        self.log.append((task_id, body))

    @rule(task_id=ids)
    def forget(self, task_id: str) -> None:
        self.index.forget(Position(len(self.log), 0), task_id)
        self.log.append((task_id, b""))

    def expected(self, task_id: str, until: int | None = None) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        for offset, (each, body) in enumerate(self.log[:until]):
            if each == task_id:
                found = [*found, (offset, body)] if body else []
        return found

    @precondition(lambda self: self.log)
    @rule(task_id=ids)
    def look(self, task_id: str) -> None:
        """Reading again what is missing, as the index says, gives all that the stream holds."""
        if task_id not in self.index and not self.index.is_complete:
            found = self.expected(task_id, self.index.floor)
            self.index.prepend(
                task_id, [(Position(offset, 0), self._document(task_id, body)) for offset, body in found]
            )
        for offset in self.index.missing(task_id):
            self.index.restore(Position(offset, 0), task_id, [self._document(task_id, self.log[offset][1])])
        if bodies(self.index, task_id) is not None:  # read again, it may have had to go at once
            known = bodies(self.index, task_id) or []
            everything = [body for _, body in self.expected(task_id)]
            assert known == everything[len(everything) - len(known) :]
            assert bool(known) == bool(everything)

    def _document(self, task_id: str, body: bytes) -> Document:
        return Document(task_id, JSON, "utf-8", body)

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.index) <= 6
        assert 0 <= self.index.bytes <= 200 + 12


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


class Judge:
    """Reads documents that are nothing but a state; `?` cannot be read."""

    def status_of(self, document: Document) -> str | None:
        return None if document.body == b"?" else document.body.decode()

    def supersedes(self, new: str, old: str) -> bool:
        return states.supersedes(new, old)


def counting(documents: Sequence[Document]) -> list[Document]:
    """Return the report that counts, by reading all of them; what cannot be read comes before what is not ready."""
    judge, best, unreadable = Judge(), None, None
    for each in documents:
        status = judge.status_of(each)
        if status is None:
            unreadable = each
        elif best is None or judge.supersedes(status, best.body.decode()):
            best = each
    found = best if unreadable is None or (best and best.body.decode() in states.READY_STATES) else unreadable
    return [] if found is None else [found]


class VerdictMachine(RuleBasedStateMachine):
    """What the index remembers of which report counts, beside reading them all again."""

    reported = st.sampled_from([*sorted(states.READY_STATES), "STARTED", "PROGRESS", "?"])

    @initialize(most=st.sampled_from([4, HISTORY]), max_bytes=st.sampled_from([40, 10**6]))
    def begin(self, most: int, max_bytes: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(index_module, "HISTORY", most)
        self.now = 100
        self.log: list[tuple[Position, Document]] = []
        self.index = make(max_bytes=max_bytes, max_age=10, clock=lambda: self.now)

    def teardown(self) -> None:
        self.patch.undo()

    @rule(reports=st.lists(st.tuples(reported, st.integers(0, 9)), min_size=1, max_size=8))
    def add(self, reports: list[tuple[str, int]]) -> None:
        for status, age in reports:
            self.log.append((Position(len(self.log), self.now - age), document("a", status)))
            self.index.add(*self.log[-1])

    @rule()
    def forget(self) -> None:
        self.log.append((Position(len(self.log), self.now), document("a", "")))
        self.index.forget(self.log[-1][0], "a")

    @rule(seconds=st.integers(1, 6))
    def grow_older(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def fetch(self) -> None:
        for offset in self.index.missing("a"):
            position, found = self.log[offset]
            self.index.restore(position, "a", [found])

    @rule()
    def look(self) -> None:
        documents = self.index.documents("a")
        if documents is not None:
            assert self.index.latest("a", Judge()) == counting(documents)


VerdictMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestVerdictMachine = VerdictMachine.TestCase
