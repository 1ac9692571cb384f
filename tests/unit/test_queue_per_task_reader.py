"""The reader of a queue per task where no broker misbehaves on request: over a session that fails as it is told."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from aioresults import states
from aioresults.errors import (
    AccessRefused,
    AioResultsError,
    BrokerUnavailable,
    ChannelClosed,
    ConfigurationError,
    DecodeError,
    ResultForgotten,
)
from aioresults.events import Event, Events, Unreadable
from aioresults.messaging import Consumer, Exchange, Message, Producer, Queue
from aioresults.results import ResultMeta
from aioresults.routing.queue_per_task import reader as reader_module
from aioresults.routing.queue_per_task.reader import QueuePerTaskReader
from aioresults.sessions.sessions import Session
from aioresults.transport.base import Channel, Properties
from aioresults.transport.memory import MemoryBroker, MemoryTransport
from aioresults.waiting.waiters import Waiter
from tests.eventually import eventually
from tests.unit.reader_parts import parts


class FakeSession:
    """A session on a memory broker; each operation first fails with, or calls, what stands in `before`."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.lost: asyncio.Future[BrokerUnavailable] = asyncio.get_running_loop().create_future()
        self.before: list[AioResultsError | None] = []
        self.after: list[Callable[[], Awaitable[object]]] = []
        self.channels: list[Channel] = []
        #: Consumer tags that are in use on the first channel for consumers.
        self.tags_in_use: list[str] = []

    async def run(self, operation: Callable[[Channel], Awaitable[Any]], *, publishing: bool = False) -> Any:
        error = self.before.pop(0) if self.before else None
        if error is not None:
            raise error
        channel = await self.connection.channel()
        try:
            return await operation(channel)
        finally:
            await channel.close()
            if self.after:
                await self.after.pop(0)()

    async def consumer(self, prefetch_count: int) -> Channel:
        channel: Channel = await self.connection.channel()
        await channel.basic_qos(prefetch_count)
        while self.tags_in_use:
            await channel.queue_declare("in use")
            await channel.basic_consume("in use", lambda delivery: None, consumer_tag=self.tags_in_use.pop())
        self.channels.append(channel)
        return channel


class Codec:
    """Reads messages of the form `task_id status`."""

    def read(self, message: Message) -> ResultMeta:
        try:
            task_id, status = message.body.decode().split()
        except ValueError as error:
            raise DecodeError("not of this form") from error
        return ResultMeta(task_id, status)


class Overrides:
    """A backend whose queues are called like their tasks, unless a test says otherwise."""

    Consumer = Consumer
    Producer = Producer

    def __init__(self) -> None:
        self.queue_of: Callable[[str], Queue | None] = Queue

    def queue_for(self, task_id: str) -> Queue | None:
        return self.queue_of(task_id)

    def inbox(self) -> Queue | None:
        return None

    def supersedes(self, new: str, old: str) -> bool:
        return states.supersedes(new, old)


class Bench:
    """A reader at work, and the broker behind it."""

    def __init__(self, broker: MemoryBroker, session: FakeSession, channel: Channel) -> None:
        self.broker = broker
        self.session = session
        self.channel = channel
        self.overrides = Overrides()
        self.events: list[Event] = []
        self.reader = QueuePerTaskReader(parts(Codec(), self.overrides, Events(self.events.append)))
        self.running = asyncio.create_task(self.reader.run(cast("Session", session)))

    def wait(self, task_id: str) -> Waiter:
        return Waiter(self.reader.waiters, task_id, 10)

    def counts(self, queue: str) -> tuple[int, int] | None:
        """Return how many messages of a queue are ready and unacknowledged."""
        info = self.broker.queue(queue)
        return None if info is None else (info.ready, info.unacked)

    async def publish(self, queue: str, text: str) -> None:
        await self.channel.basic_publish(text.encode(), Properties(), "", queue, mandatory=True)

    async def consumed(self, queue: str, consumers: int = 1) -> None:
        def is_consumed() -> bool:
            info = self.broker.queue(queue)
            return info is not None and info.consumers == consumers

        await eventually(is_consumed)


@asynccontextmanager
async def working() -> AsyncIterator[Bench]:
    broker = MemoryBroker("reader")
    connection = await MemoryTransport(broker).connect()
    bench = Bench(broker, FakeSession(connection), await connection.channel(confirms=True))
    yield bench
    if not bench.session.lost.done():
        bench.session.lost.set_result(BrokerUnavailable("the end"))
    await asyncio.wait([bench.running])
    await connection.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "RETRY_INTERVAL", 0.01)


class TestOpening:
    @pytest.mark.parametrize("error", [BrokerUnavailable("slow"), ChannelClosed()], ids=repr)
    async def test_is_tried_again_when_the_broker_is_slow(
        self, error: AioResultsError, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with working() as bench:
            bench.session.before += [error, error]
            with caplog.at_level(logging.WARNING, "aioresults"):
                waiter = bench.wait("a")
                await bench.consumed("a")
            assert caplog.text.count("trying again") == 1  # one line, however often
            assert not bench.session.before
            await bench.publish("a", "a SUCCESS")
            assert (await waiter).status == "SUCCESS"

    async def test_that_is_refused_fails_who_waits(self) -> None:
        async with working() as bench:
            bench.session.before.append(AccessRefused(403, "ACCESS_REFUSED"))
            waiter, other = bench.wait("a"), bench.wait("b")
            with pytest.raises(AccessRefused):
                await waiter
            await bench.consumed("b")
            other.cancel()

    async def test_of_a_queue_that_is_deleted_in_between(self) -> None:
        async with working() as bench:

            async def delete() -> None:
                bench.broker.delete_queue("a")

            bench.session.after.append(delete)
            waiter = bench.wait("a")
            await bench.consumed("a")
            await bench.publish("a", "a SUCCESS")
            assert (await waiter).status == "SUCCESS"

    async def test_of_a_queue_whose_last_consumer_is_not_cancelled_yet(self) -> None:
        """The broker may answer a deletion before it cancels the consumers, and until then their tags are in use."""
        async with working() as bench:
            bench.session.tags_in_use.append("a")
            waiter = bench.wait("a")
            await bench.consumed("a")
            await bench.publish("a", "a SUCCESS")
            assert (await waiter).status == "SUCCESS"

    async def test_of_a_queue_that_is_deleted_before_it_is_bound(self) -> None:
        async with working() as bench:
            deletions = iter([bench.broker.delete_queue])

            def declared(name: str, *_: int) -> None:
                next(deletions, lambda _: None)(name)

            exchange = Exchange("results", "direct")
            bench.overrides.queue_of = lambda task_id: Queue(task_id, exchange, task_id, on_declared=declared)
            waiter = bench.wait("a")
            await bench.consumed("a")
            await bench.publish("a", "a SUCCESS")
            assert (await waiter).status == "SUCCESS"

    async def test_of_many_on_a_channel_that_the_broker_closes(self) -> None:
        async with working() as bench:
            waiters = {name: bench.wait(name) for name in map(str, range(40))}
            for name in waiters:
                await bench.consumed(name)
            # Whatever was refused on it, the consumers of the channel are gone with it.
            bench.session.channels[0].basic_ack(999)
            await eventually(lambda: bench.session.channels[0].is_closed)
            for name, waiter in waiters.items():
                await bench.consumed(name)
                await bench.publish(name, f"{name} SUCCESS")
                assert (await waiter).status == "SUCCESS"

    async def test_without_a_queue_is_nothing(self) -> None:
        async with working() as bench:
            bench.overrides.queue_of = lambda task_id: None
            waiter = bench.wait("a")
            bench.overrides.queue_of = Queue
            other = bench.wait("b")
            await bench.consumed("b")
            assert not waiter.done()
            for each in (waiter, other):
                each.cancel()


class TestBeingCancelled:
    async def test_because_the_queue_was_deleted(self) -> None:
        async with working() as bench:
            waiter = bench.wait("a")
            await bench.consumed("a")
            bench.broker.delete_queue("a")
            with pytest.raises(ResultForgotten):
                await waiter
            waiter.leave()
            assert bench.reader.consuming == 0

    async def test_with_its_channel_it_keeps_nothing_of_that(self) -> None:
        async with working() as bench:
            waiter = bench.wait("a")
            await bench.consumed("a")
            channel = bench.session.channels.pop()
            await channel.close()
            await eventually(lambda: bool(bench.session.channels))
            await bench.consumed("a")
            closed = weakref.ref(channel)
            del channel
            gc.collect()
            assert closed() is None
            waiter.cancel()

    async def test_for_another_reason_it_consumes_again(self) -> None:
        async with working() as bench:
            waiter = bench.wait("a")
            await bench.consumed("a")
            # As when a node fails over: the consumer is gone, the queue is there.
            bench.broker.delete_queue("a")
            await Queue("a")(bench.channel).declare()
            await bench.consumed("a")
            await bench.publish("a", "a SUCCESS")
            assert (await waiter).status == "SUCCESS"


class TestSettling:
    async def test_a_new_wait_does_not_stand_behind_deletions(self) -> None:
        async with working() as bench:
            task_ids = [str(number) for number in range(reader_module.PARALLEL_DELETIONS + 1)]
            waiters = [bench.wait(task_id) for task_id in task_ids]
            for task_id, waiter in zip(task_ids, waiters, strict=True):
                await bench.consumed(task_id)
                await bench.publish(task_id, f"{task_id} SUCCESS")
                await waiter
            go_on = asyncio.Event()
            bench.session.after += [go_on.wait] * reader_module.PARALLEL_DELETIONS
            for waiter in waiters:
                waiter.take()
            await eventually(lambda: not bench.session.after)
            again = bench.wait(task_ids[-1])
            await eventually(lambda: bench.reader.stats()["deleting"] == reader_module.PARALLEL_DELETIONS)
            await bench.consumed(task_ids[-1])
            go_on.set()
            again.cancel()

    async def test_a_deletion_that_is_refused_is_given_up(self, caplog: pytest.LogCaptureFixture) -> None:
        async with working() as bench:
            waiter = bench.wait("a")
            await bench.consumed("a")
            await bench.publish("a", "a SUCCESS")
            await waiter
            bench.session.before.append(AccessRefused(403, "ACCESS_REFUSED"))
            with caplog.at_level(logging.WARNING, "aioresults"):
                waiter.take()
                await asyncio.wait_for(bench.reader.finish(cast("Session", bench.session)), 30)
            assert "cannot be deleted" in caplog.text

    async def test_a_deletion_that_failed_is_made_up_for(self) -> None:
        async with working() as bench:
            waiter = bench.wait("a")
            await bench.consumed("a")
            await bench.publish("a", "a SUCCESS")
            await waiter
            bench.session.before.append(BrokerUnavailable("slow"))
            waiter.take()
            deletion = bench.reader.deletion("a")
            assert deletion is not None
            await asyncio.wait_for(deletion, 30)
            assert bench.reader.deletion("a") is None
            assert bench.broker.queue("a") is None

    async def test_in_the_next_session(self) -> None:
        async with working() as bench:
            waiter = bench.wait("a")
            await bench.consumed("a")
            await bench.publish("a", "a SUCCESS")
            await waiter
            bench.session.lost.set_result(BrokerUnavailable("gone"))
            await asyncio.sleep(0)
            waiter.take()
            session = FakeSession(bench.session.connection)
            running = asyncio.create_task(bench.reader.run(cast("Session", session)))
            await asyncio.wait_for(bench.reader.finish(cast("Session", session)), 30)
            assert bench.broker.queue("a") is None
            session.lost.set_result(BrokerUnavailable("the end"))
            await running

    async def test_reports_of_another_task_end_the_wait_and_stay(self) -> None:
        async with working() as bench:
            waiter = bench.wait("a")
            await bench.consumed("a")
            await bench.publish("a", "other SUCCESS")
            with pytest.raises(ConfigurationError, match="the tasks 'a' and 'other' share the queue 'a'"):
                await waiter
            waiter.leave()
            await bench.consumed("a", 0)
            assert bench.counts("a") == (1, 0)

    async def test_the_queue_of_a_result_that_was_taken_stays_for_another_task(self) -> None:
        async with working() as bench:
            waiter = bench.wait("a")
            await bench.consumed("a")
            await bench.publish("a", "a SUCCESS")
            assert (await waiter).status == "SUCCESS"
            await bench.publish("a", "other SUCCESS")
            await eventually(lambda: bench.reader.received == 2)
            waiter.take()
            await bench.consumed("a", 0)
            assert bench.counts("a") == (1, 0)

    async def test_the_queue_of_a_result_stays_for_another_task_that_reports_as_it_is_taken(self) -> None:
        for turns in range(6):
            async with working() as bench:
                waiter = bench.wait("a")
                await bench.consumed("a")
                await bench.publish("a", "a SUCCESS")
                await waiter
                publishing = asyncio.create_task(bench.publish("a", "other SUCCESS"))
                while bench.counts("a") == (0, 1):
                    await asyncio.sleep(0)
                for _ in range(turns):
                    await asyncio.sleep(0)
                waiter.take()
                await publishing
                await eventually(lambda: not bench.reader.has_to_delete)
                assert bench.counts("a") == (1, 0)

    async def test_two_waits_for_one_queue_are_refused(self) -> None:
        async with working() as bench:
            bench.overrides.queue_of = lambda task_id: Queue("shared")
            waiters = [bench.wait(task_id) for task_id in "abc"]
            await bench.consumed("shared")
            await eventually(lambda: sum(waiter.done() for waiter in waiters) == 2)
            [served] = [task_id for task_id, waiter in zip("abc", waiters, strict=True) if not waiter.done()]
            await bench.publish("shared", f"{served} SUCCESS")
            outcomes = await asyncio.gather(*waiters, return_exceptions=True)
            assert [each.task_id for each in outcomes if isinstance(each, ResultMeta)] == [served]
            assert sum(isinstance(each, ConfigurationError) for each in outcomes) == 2

    async def test_what_cannot_be_read_ends_the_wait_and_stays(self) -> None:
        async with working() as bench:
            for turn in range(2):  # the second wait finds it there
                waiter = bench.wait("a")
                await bench.consumed("a")
                if not turn:
                    await bench.publish("a", "unreadable")
                with pytest.raises(DecodeError):
                    await waiter
                waiter.leave()
                await bench.consumed("a", 0)
                assert bench.counts("a") == (1, 0)
            assert bench.events == [Unreadable("a", "not of this form")] * 2

    async def test_a_better_report_replaces_the_one_at_hand(self) -> None:
        async with working() as bench:
            waiter = bench.wait("a")
            await bench.consumed("a")
            for status in ("FAILURE", "SUCCESS", "FAILURE", "SUCCESS"):
                await bench.publish("a", f"a {status}")
            await eventually(lambda: bench.reader.received == 4)
            latest = bench.reader.known("a")
            assert latest is not None
            assert latest.status == "SUCCESS"
            info = bench.broker.queue("a")
            assert info is not None
            assert (info.ready, info.unacked) == (0, 1)
            waiter.leave()
            await bench.consumed("a", 0)
            delivery = await bench.channel.basic_get("a")
            assert delivery is not None
            assert delivery.body == b"a SUCCESS"


async def test_a_defect_ends_the_run_with_its_error() -> None:
    def defect(task_id: str) -> Queue | None:
        raise KeyError(task_id)

    async with working() as bench:
        bench.overrides.queue_of = defect
        bench.wait("a").cancel()
        await eventually(bench.running.done)
        assert isinstance(bench.running.exception(), KeyError)
