"""Whose a message is: what a process cannot read, and what is another task's, it leaves for others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aioresults import (
    AMQPBackend,
    BacklogLimitExceeded,
    ConfigurationError,
    ContentDisallowed,
    DecodeError,
    QueuePerTask,
    ReplyQueue,
    Request,
    ResultStream,
    ResultTimeout,
    SignatureMismatch,
)
from aioresults.events import Dropped, Event, Unreadable
from aioresults.messaging import Queue
from aioresults.routing import Reader, ReaderParts, Routing
from aioresults.routing.reply_queue import holding, named_inbox
from aioresults.serialization import ReportCodec
from tests.conformance.lab import Lab, Raw, new_id, new_name, only, where
from tests.eventually import eventually

#: What a writer has that a reader lacks, and the error of that reader.
DIFFERENCES: dict[str, tuple[dict[str, Any], dict[str, Any], type[DecodeError]]] = {
    "content type": ({"serializer": "yaml"}, {}, ContentDisallowed),
    "key": ({"signing_key": [b"new", b"old"]}, {"signing_key": b"old"}, SignatureMismatch),
    "size": ({}, {"max_body_size": 10}, DecodeError),
}


@pytest.fixture(params=DIFFERENCES)
def difference(request: pytest.FixtureRequest) -> Any:
    return DIFFERENCES[request.param]


def ends_no_wait(error: type[DecodeError]) -> bool:
    """Whether the result may still come: anybody may have written this."""
    return error is SignatureMismatch


@where(by_id=True, returns=True)
class TestATaskThatAnotherProcessCanRead:
    @where(shared=False)
    async def test_a_look_leaves_it(self, lab: Lab, difference: Any) -> None:
        writes, reads, error = difference
        worker, monitor, task_id = await lab.open(**writes), await lab.open(**reads), new_id()
        await worker.store_result(task_id, {"answer": 42})
        for _ in range(3):
            with pytest.raises(error):
                await monitor.get_task_meta(task_id)
        with pytest.raises(error):
            await monitor.wait_for(task_id, timeout=0)
        assert (await worker.get_task_meta(task_id)).result == {"answer": 42}

    async def test_a_wait_ends_and_leaves_it(self, lab: Lab, difference: Any) -> None:
        writes, reads, error = difference
        events: list[Event] = []
        worker, monitor = await lab.open(**writes), await lab.open(on_event=events.append, **reads)
        task_id = new_id()
        waiting = asyncio.create_task(monitor.wait_for(task_id, timeout=3 if ends_no_wait(error) else 30))
        await lab.raw().waited_for(monitor, task_id)
        await worker.store_result(task_id, {"answer": 42})
        if ends_no_wait(error):
            with pytest.raises(ResultTimeout, match="1 message was refused: the message is not signed with a key"):
                await waiting
        else:
            with pytest.raises(error):
                await waiting
        told = [event for event in events if isinstance(event, Unreadable | Dropped) and event.task_id == task_id]
        assert [type(event) for event in told] == [Unreadable]
        assert await worker.wait_for(task_id, timeout=30) == {"answer": 42}

    @where(shared=False)
    async def test_a_wait_that_begins_later_ends_at_once(self, lab: Lab, difference: Any) -> None:
        writes, reads, error = difference
        worker, monitor, task_id = await lab.open(**writes), await lab.open(**reads), new_id()
        await worker.store_result(task_id, {"answer": 42})
        for _ in range(3):
            with pytest.raises(ResultTimeout if ends_no_wait(error) else error):
                await monitor.wait_for(task_id, timeout=0.3 if ends_no_wait(error) else 30)
            with pytest.raises(error):  # at once: what the wait had is back, or the look waits until it is
                await monitor.get_task_meta(task_id)
        assert await worker.wait_for(task_id, timeout=30) == {"answer": 42}


@only("reply_queue")
class TestAnInbox:
    async def store(self, worker: AMQPBackend, address: str, count: int = 20) -> list[str]:
        task_ids = [new_id() for _ in range(count)]
        request = Request(reply_to=address)
        await asyncio.gather(*(worker.store_result(each, each, request=request) for each in task_ids))
        return task_ids

    async def test_with_a_name_keeps_what_its_next_process_can_read(self, lab: Lab, raw: Raw, difference: Any) -> None:
        writes, reads, _ = difference
        name, events = new_name(), list[Event]()
        async with lab.make(routing=ReplyQueue(name), **reads) as first:  # declares it
            address = first.reply_to
        assert address is not None
        worker = await lab.open(store_only=True, **writes)
        unreadable = await self.store(worker, address)
        async with lab.make(routing=ReplyQueue(name), on_event=events.append, **reads) as late:
            await eventually(lambda: int(late.stats()["undecodable"]) > 0)
            readable = new_id()
            if not reads:  # what it can read comes past what it cannot
                async with lab.make(store_only=True) as other:
                    await other.store_result(readable, 1, request=Request(reply_to=address))
                assert await late.wait_for(readable, timeout=30) == 1
        assert any(isinstance(event, Unreadable) for event in events)
        assert not any(isinstance(event, Dropped) for event in events)
        async with lab.make(routing=ReplyQueue(name), **writes) as successor:
            assert list(await successor.get_many(unreadable, timeout=30)) == unreadable
        await (await raw.channel()).queue_delete(address)

    async def test_without_a_name_drops_it_and_says_so(self, lab: Lab, raw: Raw, difference: Any) -> None:
        writes, reads, _ = difference
        events: list[Event] = []
        worker, caller = await lab.open(store_only=True, **writes), await lab.open(on_event=events.append, **reads)
        address = caller.reply_to
        assert address is not None
        await self.store(worker, address, 1)
        await eventually(lambda: any(isinstance(event, Dropped) for event in events))
        assert not any(isinstance(event, Unreadable) for event in events)

    async def test_held_messages_are_not_acknowledged_with_others(self, lab: Lab, raw: Raw) -> None:
        name = new_name()
        async with lab.make(routing=ReplyQueue(name)) as late:
            address = late.reply_to
            assert address is not None
            for turn in range(5):
                await raw.publish(address, b"\xff", content_type="application/json", correlation_id=f"bad-{turn}")
                task_ids = await self.store(late, address, 30)
                assert len(await late.get_many(task_ids, timeout=30)) == 30
            await eventually(lambda: late.stats()["undecodable"] == 5)
        await eventually(lambda: raw.is_ready(address, 5))
        await (await raw.channel()).queue_delete(address)

    async def test_more_than_it_may_hold_is_dropped_and_told(
        self, lab: Lab, raw: Raw, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(named_inbox, "MAX_UNREADABLE", 2 * (10 + holding.OVERHEAD))
        name, events = new_name(), list[Event]()
        async with lab.make(routing=ReplyQueue(name), on_event=events.append) as late:
            address = late.reply_to
            assert address is not None
            for _ in range(4):
                await raw.publish(address, b"\xff" * 10, content_type="application/json", correlation_id="bad")
            await eventually(lambda: sum(isinstance(event, Dropped) for event in events) == 2)
        await eventually(lambda: raw.is_ready(address, 2))
        await (await raw.channel()).queue_delete(address)


class Short(AMQPBackend):
    """Shortens ids, so that two tasks may share a queue."""

    def rkey(self, task_id: str) -> str:
        return f"test.short.{super().rkey(task_id)[-8:]}"


@only("per_task")
class TestTwoTasksOnOneQueue:
    async def test_are_refused_and_nothing_is_lost(self, lab: Lab, raw: Raw) -> None:
        worker, caller = await lab.open(Short), await lab.open(Short)
        end = new_id()[-8:]
        ids = [f"one-{end}", f"other-{end}"]
        for task_id in ids:
            await worker.store_result(task_id, task_id)
        for task_id in ids:
            with pytest.raises(ConfigurationError, match="share the queue"):
                await caller.wait_for(task_id, timeout=0)
        outcomes = await asyncio.gather(
            *(caller.wait_for(task_id, timeout=30) for task_id in ids), return_exceptions=True
        )
        for task_id, outcome in zip(ids, outcomes, strict=True):
            if isinstance(outcome, ConfigurationError):  # a look takes nothing, so it may tell
                assert (await caller.get_task_meta(task_id)).result == task_id
            else:
                assert outcome == task_id
        await (await raw.channel()).queue_delete(worker.rkey(ids[0]))

    async def test_a_look_beside_a_wait_for_the_other_says_so(self, lab: Lab, raw: Raw) -> None:
        worker, caller = await lab.open(Short), await lab.open(Short)
        end = new_id()[-8:]
        waiting = asyncio.create_task(caller.wait_for(f"one-{end}", timeout=30))
        await raw.waited_for(caller, f"one-{end}")
        with pytest.raises(ConfigurationError, match="share the queue"):
            await caller.get_task_meta(f"other-{end}")
        await worker.store_result(f"one-{end}", 1)
        assert await waiting == 1


@where(by_id=True, shared=False, history=True)
async def test_looks_at_once_have_each_their_own_limit(lab: Lab) -> None:
    backend = await lab.open()
    for limits in ([1000, 1], [1, 1000]):
        task_id = new_id()
        for number in range(5):
            await backend.store_result(task_id, number, "PROGRESS")
        looks = await asyncio.gather(
            *(backend.get_task_meta(task_id, backlog_limit=limit) for limit in limits), return_exceptions=True
        )
        for limit, look in zip(limits, looks, strict=True):
            assert isinstance(look, BacklogLimitExceeded) == (limit == 1)


def count_decoded(monkeypatch: pytest.MonkeyPatch, task_id: str) -> list[Any]:
    """Return the documents of a task that are decoded from here on."""
    decoded: list[Any] = []
    decode = ReportCodec.decode

    def counting(codec: ReportCodec, document: Any) -> Any:
        if document.task_id == task_id:
            decoded.append(document)
        return decode(codec, document)

    monkeypatch.setattr(ReportCodec, "decode", counting)
    return decoded


@only("stream")
class TestHistoryOfATask:
    async def test_costs_each_report_once(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        backend, task_id = await lab.open(), new_id()
        await asyncio.gather(*(backend.store_result(task_id, number, "PROGRESS") for number in range(500)))
        await lab.settled()
        decoded = count_decoded(monkeypatch, task_id)
        for _ in range(10):
            assert (await backend.get_task_meta(task_id)).result == 499
        assert len(decoded) <= 500 + 10
        await backend.store_result(task_id, "new", "PROGRESS")
        await lab.settled()
        assert (await backend.get_task_meta(task_id)).result == "new"
        assert len(decoded) <= 500 + 12

    async def test_observed_costs_each_report_once_as_well(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        backend, task_id = await lab.open(), new_id()
        decoded = count_decoded(monkeypatch, task_id)
        observing = asyncio.create_task(backend.drain_events(timeout=60))
        await asyncio.sleep(0)
        for number in range(200):
            await backend.store_result(task_id, number, "PROGRESS")
        await backend.store_result(task_id, "end")
        assert (await observing)[task_id].result == "end"
        assert len(decoded) <= 2 * 201  # to tell whether it counts, and to show it


class TestExtending:
    async def test_what_is_overridden_is_called_when_it_is_opened(self, lab: Lab) -> None:
        class Prefixed(AMQPBackend):
            def __init__(self, *args: Any, prefix: str, **options: Any) -> None:
                super().__init__(*args, **options)
                self.prefix = prefix

            def inbox(self) -> Queue | None:
                queue = super().inbox()
                return queue.copy(name=self.prefix + queue.name) if queue and self.routing.needs_reply_to else queue

            def rkey(self, task_id: str) -> str:
                return super().rkey(task_id) if self.prefix else ""

        prefix = f"{new_name()}."
        async with Prefixed(lab.url, routing=lab.layout.make(), prefix=prefix, rpc_timeout=60) as backend:
            task_id = new_id()
            if backend.routing.needs_reply_to:
                assert (backend.reply_to or "").startswith(prefix)
            await backend.store_result(task_id, 1, request=Request(reply_to=backend.reply_to))
            assert await backend.wait_for(task_id, timeout=30) == 1

    def test_what_is_no_routing_is_refused_with_what_it_lacks(self) -> None:
        class Forgetful:
            def configured(self, options: Any) -> Any:
                return self

            def destination_for(self, rkey: str, task_id: str, request: Any) -> tuple[str, str]:
                return rkey, task_id

        with pytest.raises(ConfigurationError, match=r"Forgetful.*it lacks .*inbox.*reader.*topology") as caught:
            AMQPBackend("memory://lacking", routing=Forgetful())  # type: ignore[arg-type]
        assert "destination_for" not in str(caught.value)

    def test_a_routing_without_what_it_must_have_cannot_be_made(self) -> None:
        class Half(Routing):
            def destination_for(self, rkey: str, task_id: str, request: Any | None) -> tuple[str, str]:
                return rkey, task_id

        with pytest.raises(TypeError, match="reader"):
            Half()  # type: ignore[abstract]

    async def test_a_reader_by_itself_keeps_what_is_delivered(self, lab: Lab) -> None:
        made: list[Reader] = []

        class Nowhere(Routing):
            """Brings nothing in: a reader that is told of reports by a test."""

            def destination_for(self, rkey: str, task_id: str, request: Any | None) -> tuple[str, str]:
                return rkey, task_id

            def reader(self, parts: ReaderParts) -> Reader:
                made.append(Reader(parts))
                return made[-1]

        from aioresults import ResultMeta

        async with AMQPBackend(lab.url, routing=Nowhere()) as backend:
            task_id = new_id()
            assert (await backend.get_task_meta(task_id)).status == "PENDING"
            with pytest.raises(ResultTimeout):
                await backend.wait_for(task_id, timeout=0)
            made[0].deliver(ResultMeta(task_id, "SUCCESS", 1))
            assert (await backend.get_task_meta(task_id)).result == 1
            assert await backend.wait_for(task_id, timeout=0) == 1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: QueuePerTask(queue_type="nonsense"),
            "one of 'classic', 'quorum', None, not 'nonsense'",
        ),
        (lambda: QueuePerTask(queue_type="stream"), "not 'stream'"),
        (lambda: QueuePerTask(exchange_type=""), "exchange_type must be a non-empty string, not ''"),
        (lambda: QueuePerTask(prefix=5), "prefix must be a string, not 5"),  # type: ignore[arg-type]
        (lambda: QueuePerTask(exchange_name="x" * 256), "AMQP allows 255"),
        (lambda: QueuePerTask(expires=0), "expires must be"),
        (lambda: ResultStream(""), "non-empty"),
    ],
)
def test_a_routing_that_cannot_work_is_refused_when_it_is_made(make: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make()
