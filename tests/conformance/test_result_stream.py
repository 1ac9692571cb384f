"""`ResultStream`: one stream that everyone reads, again and again, with an index that is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from aioresults import (
    AMQPBackend,
    BrokerUnavailable,
    ConfigurationError,
    DecodeError,
    ResultForgotten,
    ResultMeta,
    ResultStream,
    ResultTimeout,
    runtime,
)
from aioresults.messaging import Message
from aioresults.routing import RoutingOptions
from aioresults.routing.result_stream import reader as stream_reader
from aioresults.routing.result_stream import routing as stream_routing
from aioresults.sessions.outbox import PendingStore
from aioresults.sessions.sessions import Session
from aioresults.transport.base import Delivery
from aioresults.transport.memory import MemoryBroker
from tests.clock import Clock
from tests.conformance.conftest import Store
from tests.conformance.lab import Lab, Raw, new_id, new_name, only, queue_of, waiting_for, where
from tests.conformance.test_many import awaited, ids
from tests.conformance.test_outages import cut
from tests.conformance.test_watching import collect
from tests.eventually import eventually

pytestmark = only("stream")


def stream_of(lab: Lab, **changes: Any) -> ResultStream:
    """Return the lab's stream, read in another way."""
    routing = lab.layout.make()
    assert isinstance(routing, ResultStream)
    return replace(routing, **changes)


async def store_all(backend: AMQPBackend, task_ids: Iterable[str]) -> None:
    await asyncio.gather(*(backend.store_result(task_id, f"of {task_id}") for task_id in task_ids))


async def states_of(backend: AMQPBackend, *task_ids: str) -> list[str]:
    return [(await backend.get_task_meta(task_id)).status for task_id in task_ids]


async def first_offset(raw: Raw, stream: str) -> int:
    """Return the offset of the first message that the broker still keeps."""
    first: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def on_message(delivery: Delivery) -> None:
        if not first.done():
            first.set_result((delivery.properties.headers or {})["x-stream-offset"])

    channel = await raw.channel()
    await channel.basic_qos(1)
    await channel.basic_consume(stream, on_message, arguments={"x-stream-offset": "first"})
    try:
        return await first
    finally:
        await channel.close()


class TestReading:
    async def test_any_process_any_number_of_times(
        self, lab: Lab, caller: AMQPBackend, third: AMQPBackend, store: Store
    ) -> None:
        task_id = new_id()
        await store(task_id, 0.5, "PROGRESS")
        await store(task_id, "result")
        late = await lab.open()
        for _ in range(3):
            for backend in (caller, third, late):
                assert await backend.wait_for(task_id) == "result"
                assert await backend.wait_for(task_id, timeout=0, cache=False) == "result"
                assert (await backend.consume(task_id)).result == "result"
                assert (await backend.get_task_meta(task_id)).result == "result"
                assert (await backend.reload_task_result(task_id)).result == "result"
                assert (await backend.get_many([task_id]))[task_id].result == "result"
                assert [meta.result for meta in await collect(backend, task_id)] == [0.5, "result"]

    async def test_who_waits_and_who_watches_in_every_process(
        self, caller: AMQPBackend, third: AMQPBackend, store: Store
    ) -> None:
        task_id = new_id()
        waiting = [asyncio.create_task(each.wait_for(task_id, timeout=30)) for each in (caller, third, third)]
        watching = [asyncio.create_task(collect(each, task_id, timeout=30)) for each in (caller, third)]
        await eventually(lambda: caller.stats()["waiting"] == third.stats()["waiting"] == 1)
        await store(task_id, None, "STARTED")
        watching.append(asyncio.create_task(collect(caller, task_id, timeout=30)))
        await store(task_id, 1)
        assert await asyncio.gather(*waiting) == [1, 1, 1]
        for metas in await asyncio.gather(*watching):
            assert [meta.status for meta in metas] == ["STARTED", "SUCCESS"]

    async def test_what_was_stored_before_is_there_when_open_returns(self, lab: Lab, worker: AMQPBackend) -> None:
        asked = ids(1000)
        await store_all(worker, asked)
        reader = await lab.open()
        assert list(await reader.get_many(asked, timeout=0)) == asked
        assert reader.stats()["indexed"] == 1000

    async def test_an_unknown_id_costs_the_broker_nothing(self, lab: Lab, caller: AMQPBackend, raw: Raw) -> None:
        name = queue_of(caller, new_id())
        await eventually(lambda: raw.is_ready(name, 1))  # its marker, which a stream delivers before it counts it
        before = await raw.queue(name)
        assert await states_of(caller, *ids(500)) == ["PENDING"] * 500
        with pytest.raises(ResultTimeout):
            await caller.wait_for(new_id(), timeout=0)
        assert await raw.queue(name) == before
        assert (caller.stats()["fetched"], caller.stats()["searched"]) == (0, 0)

    async def test_an_unknown_id_needs_no_broker(self, memory: MemoryBroker, caller: AMQPBackend) -> None:
        memory.block()
        assert await states_of(caller, new_id()) == ["PENDING"]
        memory.unblock()

    async def test_a_worker_opens_no_tail(self, lab: Lab, worker: AMQPBackend, raw: Raw) -> None:
        task_id = new_id()
        await worker.store_result(task_id, 1)
        assert await raw.consumers(queue_of(worker, task_id)) == 0
        with pytest.raises(ConfigurationError, match="store_only"):
            await worker.get_task_meta(task_id)
        reader = await lab.open()
        assert await reader.wait_for(task_id, timeout=30) == 1
        await worker.forget(task_id)
        await eventually(lambda: reader.stats()["indexed_bytes"] == 0)
        assert await states_of(reader, task_id) == ["PENDING"]

    async def test_whatever_the_wire_format(self, lab: Lab) -> None:
        options: dict[str, Any] = {"serializer": "msgpack", "compression": "zlib", "signing_key": b"secret"}
        worker, reader, asked = await lab.open(**options), await lab.open(**options), ids(200)
        await store_all(worker, asked)
        assert [meta.result for meta in (await reader.get_many(asked, timeout=30)).values()] == [
            f"of {task_id}" for task_id in asked
        ]
        await worker.forget(asked[0])
        late = await lab.open(**options)
        assert await states_of(late, *asked[:2]) == ["PENDING", "SUCCESS"]

    async def test_arrivals_are_shown_to_who_drains(self, caller: AMQPBackend, worker: AMQPBackend) -> None:
        task_id = new_id()
        await worker.store_result(task_id, 1)
        await caller.wait_for(task_id, timeout=30)
        draining = asyncio.create_task(caller.drain_events(timeout=30))
        await asyncio.sleep(0)
        await worker.store_result(task_id, "of a task that is done already")
        other = new_id()
        await worker.store_result(other, None, "STARTED")
        await worker.store_result(other, 2)
        assert {key: meta.result for key, meta in (await draining).items()} == {other: 2}


class HeldReader(stream_reader.ResultStreamReader):
    """Holds what it receives until it is told to let it in."""

    held: list[Message]
    is_holding = True

    def on_message(self, message: Message) -> None:
        if self.is_holding:
            self.held.append(message)
        else:
            super().on_message(message)


class Replay:
    """The first messages of a backend that reads a stream, held until they are `let`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: list[Message] = []
        monkeypatch.setattr(HeldReader, "held", self.held, raising=False)
        monkeypatch.setattr(HeldReader, "is_holding", True)
        monkeypatch.setattr(stream_routing, "ResultStreamReader", HeldReader)
        monkeypatch.setattr(runtime, "CATCH_UP_TIMEOUT", 0.01)
        self.end = partial(monkeypatch.setattr, HeldReader, "is_holding", False)

    def holds_all_of(self, worker: AMQPBackend) -> bool:
        """Whether all is held that `worker` has sent, and the reader's marker."""
        return len(self.held) == int(worker.stats()["messages"]) + 1

    def let(self, reader: AMQPBackend, count: int) -> None:
        """Have so many read."""
        reading = reader._opened().reader
        assert isinstance(reading, HeldReader)
        for message in self.held[:count]:
            super(HeldReader, reading).on_message(message)
        del self.held[:count]


class TestFirstReplay:
    """Until the stream was once read to its end, nobody knows whether a result was forgotten further on."""

    async def test_nothing_is_answered_before(
        self, lab: Lab, worker: AMQPBackend, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> None:
        monkeypatch.setattr(stream_reader, "STALL", 60)
        forgotten, kept = ids(2)
        await worker.store_result(kept, "kept")
        await worker.store_result(forgotten, "old")
        await worker.forget(forgotten)
        reader = lab.make(rpc_timeout=20)  # as long as the looks take that are not answered, and the marker may
        replay = Replay(monkeypatch)
        async with reader:
            waiting = [asyncio.create_task(reader.wait_for(each, timeout=60)) for each in (kept, forgotten)]
            watching = asyncio.create_task(collect(reader, forgotten, timeout=60))
            await eventually(lambda: replay.holds_all_of(worker))
            replay.let(reader, 2)
            looks = asyncio.gather(
                reader.get_task_meta(kept), reader.wait_for(forgotten, timeout=0), return_exceptions=True
            )
            await asyncio.sleep(0.1)
            clock.advance(20)
            for outcome in await looks:
                assert isinstance(outcome, BrokerUnavailable)
                assert "the stream was not read to its end within" in str(outcome)
            assert [each.done() for each in (*waiting, watching)] == [False] * 3
            looking = asyncio.create_task(reader.get_task_meta(kept))
            replay.let(reader, 2)
            replay.end()
            assert (await looking).result == "kept"
            assert await waiting[0] == "kept"
            assert await states_of(reader, kept, forgotten) == ["SUCCESS", "PENDING"]
            await worker.store_result(forgotten, "anew")
            assert await waiting[1] == "anew"
            assert [meta.result for meta in await watching] == ["anew"]

    async def test_very_many_are_told_in_turn_and_in_order(
        self, lab: Lab, worker: AMQPBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, heard = ids(350), list[tuple[str, str]]()
        await asyncio.gather(*(worker.store_result(each, None, "STARTED") for each in asked))
        reader = lab.make()
        replay = Replay(monkeypatch)
        async with reader:
            many = asyncio.create_task(
                awaited(reader, asked, timeout=20, on_message=lambda meta: heard.append((meta.task_id, meta.status)))
            )
            await eventually(lambda: replay.holds_all_of(worker))
            await asyncio.gather(*(worker.store_result(each, 1) for each in asked))
            await eventually(lambda: replay.holds_all_of(worker))
            replay.let(reader, len(replay.held))
            assert len(heard) < len(asked)
            replay.end()
            assert [meta.result for meta in (await many).values()] == [1] * 350
        for each in asked:
            assert [status for task_id, status in heard if task_id == each] == ["STARTED", "SUCCESS"]

    async def test_a_broker_that_takes_no_marker_does_not_keep_results(
        self, lab: Lab, memory: MemoryBroker, worker: AMQPBackend
    ) -> None:
        task_id = new_id()
        await worker.store_result(task_id, 1)
        reader = lab.make(rpc_timeout=0.2)
        memory.block()
        async with reader:
            assert await reader.wait_for(task_id, timeout=30) == 1
            assert (await reader.get_task_meta(task_id)).result == 1
            memory.unblock()


class TestSessions:
    async def test_no_gap_and_no_report_twice(self, shaky: Lab) -> None:
        worker, reader, task_id = await shaky.open(), await shaky.open(), new_id()
        seen: list[Any] = []
        other = new_id()
        many = asyncio.create_task(
            awaited(reader, [task_id, other], timeout=50, on_message=lambda meta: seen.append(meta.result))
        )
        for number in range(10):
            await worker.store_result(task_id, number, "PROGRESS")
            if number % 3 == 0:
                await cut(shaky, worker, reader)
        await worker.store_result(task_id, "end")
        await worker.store_result(other, "other")
        await many
        # A report whose confirm was lost is sent again; these were all confirmed.
        assert seen == [*range(10), "end", "other"]
        assert reader.stats()["received"] == 12

    async def test_while_the_broker_is_away_what_is_known_is_answered(self, shaky: Lab) -> None:
        worker, reader = await shaky.open(), await shaky.open()
        done, started = new_id(), new_id()
        await worker.store_result(done, 1)
        await worker.store_result(started, 1, "STARTED")
        await eventually(lambda: reader.stats()["received"] == 2)
        shaky.go_down()
        await eventually(lambda: not reader.stats()["connected"])
        assert await states_of(reader, done, started) == ["SUCCESS", "STARTED"]
        assert await reader.wait_for(done) == 1
        await shaky.come_up()

    async def test_a_deleted_stream_is_declared_again(self, caller: AMQPBackend, worker: AMQPBackend, raw: Raw) -> None:
        old, new = ids(2)
        await worker.store_result(old, 1)
        await caller.wait_for(old, timeout=30)
        waiting = asyncio.create_task(caller.wait_for(new, timeout=60))
        channel = await raw.channel()
        await channel.queue_delete(queue_of(caller, old))
        await eventually(lambda: caller.stats()["indexed"] == 0 and caller.stats()["caught_up"] is True)
        await worker.store_result(new, 2)
        assert await waiting == 2
        assert await states_of(caller, old, new) == ["PENDING", "SUCCESS"]

    async def test_another_stream_of_the_same_name_is_noticed(
        self, lab: Lab, memory: MemoryBroker, worker: AMQPBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its offsets begin anew, so that nothing would ever come from where the last session ended."""
        monkeypatch.setattr(stream_reader, "STALL", 0.2)
        reader, asked = await lab.open(), ids(50)
        for task_id in asked:
            await worker.store_result(task_id, 1)
        await reader.get_many(asked, timeout=30)
        stream = reader.inbox()
        assert stream is not None
        channel = await lab.raw().channel()
        with memory.lock:  # delete and declare as one step
            deleting = asyncio.create_task(channel.queue_delete(stream.name))
            declaring = asyncio.create_task(channel.queue_declare(stream.name, arguments=stream.arguments))
        await asyncio.gather(deleting, declaring)
        task_id = new_id()
        await worker.store_result(task_id, "new")
        assert await reader.wait_for(task_id, timeout=20) == "new"
        assert await states_of(reader, asked[0]) == ["PENDING"]

    async def test_a_stream_that_is_read_once_more_is_read_whole(
        self, shaky: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that did not answer for long may turn out to be the same."""
        reader, worker, asked, forgotten = await shaky.open(), await shaky.open(), ids(20), new_id()
        await store_all(worker, asked)
        await worker.store_result(forgotten, 1)
        await worker.forget(forgotten)
        await reader.get_many(asked, timeout=30)
        monkeypatch.setattr(stream_reader, "STALL", 0.2)
        reading = reader._opened().reader
        assert isinstance(reading, stream_reader.ResultStreamReader)
        receive, start_over, begin_again = reading.on_message, reading._start_over, reading._begin_again
        late = new_id()

        def answer_again() -> None:
            start_over()
            monkeypatch.setattr(reading, "on_message", receive)

        async def begin_late(session: Session) -> None:
            await worker.store_result(late, 1)  # the consumer that was given up is sent it, too
            await begin_again(session)

        monkeypatch.setattr(reading, "on_message", lambda message: None)
        monkeypatch.setattr(reading, "_start_over", answer_again)
        monkeypatch.setattr(reading, "_begin_again", begin_late)
        await cut(shaky, reader, worker)
        await eventually(lambda: reading.on_message == receive)
        await eventually(lambda: reader.stats()["caught_up"] is True)
        assert await states_of(reader, *asked, late, forgotten) == ["SUCCESS"] * 21 + ["PENDING"]


class TestBounds:
    async def test_documents_that_were_let_go_are_fetched(self, lab: Lab, worker: AMQPBackend) -> None:
        asked = ids(400)
        reader = await lab.open(routing=stream_of(lab, index_bytes=10_000))
        for start in range(0, 400, 50):
            await store_all(worker, asked[start : start + 50])
        await eventually(lambda: reader.stats()["received"] == 400)
        assert int(reader.stats()["indexed_bytes"]) <= 10_000
        assert reader.stats()["indexed"] == 400
        first = asked[0]
        assert (await reader.get_task_meta(first)).result == f"of {first}"
        assert reader.stats()["fetched"] == 1
        assert (await reader.get_task_meta(first)).result == f"of {first}"
        assert reader.stats()["fetched"] == 1
        assert await reader.wait_for(asked[1], timeout=30) == f"of {asked[1]}"
        assert [meta.result for meta in await collect(reader, asked[2], timeout=30)] == [f"of {asked[2]}"]
        metas = await reader.get_many(asked, timeout=20)
        assert [meta.result for meta in metas.values()] == [f"of {task_id}" for task_id in asked]
        assert reader.stats()["searched"] == 0

    async def test_arrivals_are_shown_whose_first_reports_were_let_go(self, lab: Lab, worker: AMQPBackend) -> None:
        task_id = new_id()
        reader = await lab.open(routing=stream_of(lab, index_bytes=1000))
        await worker.mark_as_started(task_id)
        await store_all(worker, ids(50))
        await eventually(lambda: reader.stats()["received"] == 51)
        draining = asyncio.create_task(reader.drain_events(timeout=30))
        await asyncio.sleep(0)
        # Two, and the second counts for nothing: it comes while what was before both is fetched.
        await asyncio.gather(worker.store_result(task_id, "result"), worker.store_result(task_id, "repeated"))
        assert (await draining)[task_id].result == "result"

    async def test_what_was_forgotten_in_the_message_that_is_fetched(self, lab: Lab, worker: AMQPBackend) -> None:
        task_id = new_id()
        reader = await lab.open(routing=stream_of(lab, index_bytes=1000))
        forgotten = PendingStore(task_id, task_id, stream_reader.TOMBSTONE)
        old = worker.store_result(task_id, "old")
        worker._opened().outbox.put(queue_of(worker, task_id), forgotten)  # as `forget` does
        new = worker.store_result(task_id, "new", "PROGRESS")
        await asyncio.gather(old, forgotten, new)
        assert worker.stats()["messages"] == 1
        await store_all(worker, ids(50))
        await eventually(lambda: reader.stats()["received"] == 52)
        assert (await reader.get_task_meta(task_id)).status == "PROGRESS"
        assert reader.stats()["fetched"] == 1

    async def test_what_the_broker_keeps_no_longer_is_not_known(self, lab: Lab, raw: Raw, clock: Clock) -> None:
        """Its place in the stream is known, and others have followed there by now."""
        routing = stream_of(lab, max_length_bytes=20_000, segment_bytes=5_000, index_bytes=1)
        worker, reader = await lab.open(routing=routing, store_only=True), await lab.open(routing=routing)
        dropped, kept = ids(5), ids(40)
        for number, task_id in enumerate((*dropped, *kept)):
            await worker.store_result(task_id, "x" * 1000, "STARTED" if task_id in dropped else "SUCCESS")
            received = number + 1
            # One at a time: a reader that lags behind never sees what is dropped before.
            await eventually(lambda count=received: reader.stats()["received"] == count)  # type: ignore[misc]

        async def are_dropped() -> bool:
            return await first_offset(raw, queue_of(reader, new_id())) > len(dropped)  # and its marker

        await eventually(are_dropped)
        assert await states_of(reader, dropped[0], kept[-1]) == ["PENDING", "SUCCESS"]
        with pytest.raises(ResultTimeout):
            await reader.wait_for(dropped[1], timeout=0)
        heard: list[str] = []
        asked = [dropped[2], kept[-1]]
        many = asyncio.create_task(
            awaited(reader, asked, timeout=20, on_message=lambda meta: heard.append(meta.task_id))
        )
        await eventually(lambda: kept[-1] in heard)
        clock.advance(20)
        with pytest.raises(ResultTimeout) as caught:
            await many
        assert (caught.value.pending, list(caught.value.done)) == ([dropped[2]], [kept[-1]])
        assert heard == [kept[-1]]
        waiting = asyncio.create_task(reader.wait_for(dropped[3], timeout=30))
        watching = asyncio.create_task(collect(reader, dropped[4], timeout=30))
        await waiting_for(reader, 2)
        for task_id in dropped[3:]:
            await worker.store_result(task_id, "anew")
        assert await waiting == "anew"
        assert [meta.result for meta in await watching] == ["anew"]

    async def test_what_comes_while_it_is_fetched_is_told_in_order(self, lab: Lab, worker: AMQPBackend) -> None:
        task_id = new_id()
        reader = await lab.open(routing=stream_of(lab, index_bytes=1000))
        for number in range(3):
            await worker.store_result(task_id, number, "PROGRESS")
        await store_all(worker, ids(50))
        await eventually(lambda: reader.stats()["received"] == 53)
        watching = [asyncio.create_task(collect(reader, task_id, timeout=30)) for _ in range(2)]
        await asyncio.sleep(0)
        await worker.store_result(task_id, 3, "PROGRESS")
        await worker.store_result(task_id, 4)
        for metas in await asyncio.gather(*watching):
            assert [meta.result for meta in metas] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("is_forgotten", [False, True])
    async def test_a_watch_that_goes_on_is_told_what_is_new(
        self, lab: Lab, worker: AMQPBackend, is_forgotten: bool
    ) -> None:
        """Though what it was told before has to be fetched meanwhile, or counts no longer."""
        task_id, reader = new_id(), await lab.open(routing=stream_of(lab, index_bytes=1000))
        reports = reader.watch(task_id, timeout=20)
        seen = []
        for number in range(3):
            await worker.store_result(task_id, number, "PROGRESS")
            seen.append((await anext(reports)).result)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(reports), 0.01)
        if is_forgotten:
            await worker.forget(task_id)
        await store_all(worker, ids(50))
        for number in range(3, 6):
            await worker.store_result(task_id, number, "PROGRESS")
        await worker.store_result(task_id, 6)
        await lab.settled()
        assert seen + [meta.result async for meta in reports] == [*range(7)]
        assert reader.stats()["fetched"] == (0 if is_forgotten else 3)

    async def test_tasks_that_were_dropped_are_searched_for(self, lab: Lab, worker: AMQPBackend) -> None:
        asked = ids(200)
        reader = await lab.open(routing=stream_of(lab, index_count=32))
        await worker.store_result(asked[0], None, "STARTED")
        for start in range(0, 200, 20):
            await store_all(worker, asked[start : start + 20])
        await worker.forget(asked[1])
        await lab.settled()
        assert reader.stats()["received"] == 201
        assert int(reader.stats()["indexed"]) <= 32
        looks = await asyncio.gather(*(reader.get_task_meta(task_id) for task_id in [*asked[:10], "unknown"]))
        assert [meta.status for meta in looks] == ["SUCCESS", "PENDING", *["SUCCESS"] * 8, "PENDING"]
        assert reader.stats()["searched"] == 1
        assert [meta.status for meta in await collect(reader, asked[0], timeout=30)] == ["STARTED", "SUCCESS"]
        assert await reader.wait_for(asked[50], timeout=30) == f"of {asked[50]}"
        with pytest.raises(ResultTimeout):
            await reader.wait_for(asked[1], timeout=0.2)

    async def test_more_at_once_than_the_index_keeps(self, lab: Lab, worker: AMQPBackend) -> None:
        asked = ids(200)
        await store_all(worker, asked)
        for index_bytes in (1, 10**6):
            readers = [await lab.open(routing=stream_of(lab, index_count=8, index_bytes=index_bytes)) for _ in range(3)]
            looks = await asyncio.gather(*map(readers[0].get_task_meta, asked))
            assert [meta.result for meta in looks] == [f"of {task_id}" for task_id in asked]
            assert list(await readers[1].get_many(asked, timeout=0)) == asked
            assert list(await readers[2].get_many(asked, timeout=20)) == asked
            assert int(readers[2].stats()["searched"]) <= 2

    async def test_a_wait_for_a_dropped_task_that_begins_before_all_is_read(
        self, lab: Lab, worker: AMQPBackend
    ) -> None:
        asked, reader = ids(200), await lab.open(routing=stream_of(lab, index_count=32))
        for start in range(0, 200, 20):
            await store_all(worker, asked[start : start + 20])
        await lab.settled()
        reading = reader._opened().reader
        assert isinstance(reading, stream_reader.ResultStreamReader)
        known = reading.view
        known.is_live = False  # as it is until the marker comes
        waiting = asyncio.ensure_future(reader.wait_for(asked[0], timeout=30))
        await asyncio.sleep(0)
        assert reader.stats()["searched"] == 0
        known.go_live()
        assert await waiting == f"of {asked[0]}"

    async def test_a_new_task_does_not_wait_for_a_search(self, lab: Lab, worker: AMQPBackend) -> None:
        reader = await lab.open(routing=stream_of(lab, index_count=32))
        await store_all(worker, ids(100))
        await eventually(lambda: reader.stats()["received"] == 100)
        for _ in range(20):
            task_id = new_id()
            watching = asyncio.create_task(collect(reader, task_id, timeout=30))
            await asyncio.sleep(0)
            await worker.store_result(task_id, None, "STARTED")
            await worker.store_result(task_id, 1)
            assert [meta.status for meta in await watching] == ["STARTED", "SUCCESS"]
        assert int(reader.stats()["searched"]) < 10

    @pytest.mark.usefixtures("memory")  # what RabbitMQ has to say about this is in tests/adversity
    async def test_all_of_ten_thousand(self, lab: Lab, worker: AMQPBackend) -> None:
        asked, reader = ids(10_000), await lab.open()
        await store_all(worker, asked)
        assert list(await reader.get_many(asked, timeout=20)) == asked
        assert await states_of(reader, *asked) == ["SUCCESS"] * 10_000

    async def test_what_is_too_old_counts_no_longer(self, lab: Lab) -> None:
        options: dict[str, Any] = {"expires": 5, "routing": stream_of(lab, max_age=timedelta(hours=1))}
        worker, reader, task_id = await lab.open(**options), await lab.open(**options), new_id()
        await worker.store_result(task_id, 1)
        assert await reader.wait_for(task_id, timeout=30) == 1

        async def is_gone() -> bool:
            return await states_of(reader, task_id) == ["PENDING"]

        await eventually(is_gone)
        assert await states_of(await lab.open(**options), task_id) == ["PENDING"]
        assert await states_of(await lab.open(**{**options, "expires": 60}), task_id) == ["SUCCESS"]


class TestForgetting:
    async def test_hides_it_from_every_reader(
        self, lab: Lab, caller: AMQPBackend, third: AMQPBackend, store: Store
    ) -> None:
        task_id, kept = ids(2)
        await store(task_id, 1)
        await store(kept, 1)
        await caller.forget(task_id)
        assert await states_of(caller, task_id) == ["PENDING"]
        await lab.settled()
        late = await lab.open()
        small = await lab.open(routing=stream_of(lab, index_bytes=1, index_count=1))
        for backend in (third, late, small):
            assert await states_of(backend, task_id, kept) == ["PENDING", "SUCCESS"]
        await store(task_id, "anew")
        for backend in (caller, third, late, small):
            assert await backend.wait_for(task_id, timeout=30) == "anew"

    async def test_who_waits_anywhere_is_told(self, caller: AMQPBackend, third: AMQPBackend) -> None:
        task_id = new_id()
        waiting = [asyncio.create_task(each.wait_for(task_id)) for each in (caller, third)]
        await eventually(lambda: caller.stats()["waiting"] == third.stats()["waiting"] == 1)
        await caller.forget(task_id)
        for each in waiting:
            with pytest.raises(ResultForgotten):
                await each

    async def test_twice_at_once_each_returns_when_its_own_tombstone_was_read(
        self, memory: MemoryBroker, caller: AMQPBackend, worker: AMQPBackend
    ) -> None:
        task_id = new_id()
        await worker.store_result(task_id, "old")
        await eventually(lambda: caller.stats()["received"] == 1)
        memory.delay = 0.1
        first = asyncio.create_task(caller.forget(task_id))
        await eventually(lambda: caller.stats()["messages"] == 1)
        await worker.store_result(task_id, "new")
        await caller.forget(task_id)
        assert caller.stats()["received"] == 2
        assert await states_of(caller, task_id) == ["PENDING"]
        await first

    async def test_an_old_tombstone_disturbs_nobody(self, lab: Lab, worker: AMQPBackend) -> None:
        """Who opens later reads it in its place: before the result that came after it."""
        task_id = new_id()
        for turn in range(5):
            await worker.store_result(task_id, turn)
            await worker.forget(task_id)
        await worker.store_result(task_id, "last")
        reader = await lab.open()
        assert await reader.wait_for(task_id, timeout=30) == "last"
        assert [meta.result for meta in await collect(reader, task_id)] == ["last"]


class TestWhatCannotBeRead:
    async def test_is_told_and_disturbs_nothing_else(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        bad, good = ids(2)
        waiting = asyncio.create_task(caller.wait_for(bad, timeout=30))
        await asyncio.sleep(0)
        for body, kind in ((b"\xff", "application/json"), (b"{}", "application/x-python-serialize")):
            await raw.publish(queue_of(caller, bad), body, content_type=kind, correlation_id=bad)
        with pytest.raises(DecodeError):
            await waiting
        await store(good, 1)
        assert await caller.wait_for(good, timeout=30) == 1
        with pytest.raises(DecodeError):
            await caller.get_task_meta(bad)
        await store(bad, "better")
        assert (await caller.get_task_meta(bad)).result == "better"
        assert caller.stats()["undecodable"] == 2


class TestDeclaring:
    async def test_is_a_durable_stream(self, lab: Lab, raw: Raw) -> None:
        routing = ResultStream(f"aioresults.{new_name()}", timedelta(days=2), 10**9, 10**6)
        backend = await lab.open(routing=routing, store_only=True)
        arguments = {
            "x-queue-type": "stream",
            "x-max-age": "172800s",
            "x-max-length-bytes": 10**9,
            "x-stream-max-segment-size-bytes": 10**6,
        }
        channel = await raw.channel()
        await channel.queue_declare(routing.name, durable=True, arguments=arguments)
        task_id = new_id()
        await channel.queue_delete(routing.name)
        await backend.store_result(task_id, 1)  # declared again when it is gone
        await channel.queue_declare(routing.name, durable=True, arguments=arguments)
        await channel.queue_delete(routing.name)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"x-queue-type": "classic"}, "differs in x-queue-type: asked for .*stream.* there is .*classic"),
            ({"x-queue-type": "stream", "x-max-age": "1h"}, "differs in x-max-age"),
        ],
    )
    async def test_a_name_that_is_taken(self, lab: Lab, raw: Raw, arguments: dict[str, Any], said: str) -> None:
        name = new_name()
        channel = await raw.channel()
        await channel.queue_declare(name, durable=True, arguments=arguments)
        for store_only in (True, False):
            with pytest.raises(ConfigurationError, match=said) as caught:
                await lab.make(routing=ResultStream(name), store_only=store_only).open()
            assert name in str(caught.value)
            assert "Use another name" in str(caught.value)
        await channel.queue_delete(name)

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"name": ""}, "name of a stream"),
            ({"name": "n" * 256}, "name of a stream"),
            ({"max_age": 0}, "max_age .*0"),
            ({"max_age": 0.5}, "max_age must be 1 second or more, not 0.5"),
            ({"max_age": "1h"}, "max_age .*'1h'"),
            ({"max_length_bytes": 0}, "max_length_bytes .*0"),
            ({"segment_bytes": 4_000_000_000}, "segment_bytes must be 4096 to 3000000000, not 4000000000"),
            ({"segment_bytes": 1000}, "segment_bytes must be 4096 to 3000000000, not 1000"),
            ({"index_bytes": 0}, "index_bytes"),
            ({"index_count": -1}, "index_count .*-1"),
        ],
    )
    def test_bad_parameters(self, wrong: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            ResultStream(**wrong)

    @pytest.mark.parametrize("option", [{"exchange": "e"}, {"exchange_type": "topic"}, {"auto_delete": True}])
    def test_options_that_mean_nothing_are_refused(self, option: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match=next(iter(option))):
            AMQPBackend("memory://options", routing=ResultStream(), **option)

    def test_the_broker_keeps_results_as_long_as_they_count(self) -> None:
        def age(routing: ResultStream, expires: float | None) -> object:
            stream = routing.configured(RoutingOptions(expires=expires)).inbox()
            return (stream.arguments or {}).get("x-max-age")

        assert age(ResultStream(), 3600) == "3600s"
        assert age(ResultStream(), 0.5) == "1s"
        assert age(ResultStream(), None) is None
        assert age(ResultStream(max_age=7), 3600) == "7s"


@where(shared=True)
async def test_metas_are_not_shared_between_calls(caller: AMQPBackend, store: Store) -> None:
    task_id = new_id()
    await store(task_id, {"n": [1]})
    first: ResultMeta = await caller.consume(task_id)
    first.result["n"].append(2)
    assert await caller.wait_for(task_id) == {"n": [1]}
