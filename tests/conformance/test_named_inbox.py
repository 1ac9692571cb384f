"""A `ReplyQueue` with a name: what nobody has taken is there for the next process of that name, however one ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from aioresults import (
    AMQPBackend,
    ConfigurationError,
    InboxTakenOver,
    ReplyQueue,
    Request,
    ResultEvicted,
    ResultMeta,
)
from aioresults.events import Event, Evicted, InboxBusy, InboxLost
from aioresults.routing.reply_queue import named_inbox
from aioresults.serialization import ReportCodec
from tests.conformance.lab import Lab, Raw, new_id, new_name, only
from tests.eventually import eventually

pytestmark = only("reply_queue")


@pytest.fixture
async def worker(lab: Lab) -> AMQPBackend:
    return await lab.open(store_only=True)


@pytest.fixture
def name() -> str:
    return new_name()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes of one name notice each other at once."""
    monkeypatch.setattr(named_inbox, "CHECK_INTERVAL", 0.05)


def request_to(name: str) -> Request:
    return Request(reply_to=f"aioresults.inbox.{name}")


async def store_all(worker: AMQPBackend, ids: Sequence[str], name: str) -> None:
    """Store the results of all tasks, in a few messages."""
    await asyncio.gather(*(worker.store_result(task_id, task_id, request=request_to(name)) for task_id in ids))


async def has_received(backend: AMQPBackend, messages: int) -> None:
    await eventually(lambda: backend.stats()["received"] == messages)


async def has_kept(backend: AMQPBackend, results: int) -> int:
    """Return how many messages are held when so many results are here."""
    await eventually(lambda: backend.stats()["unclaimed"] == results)
    return int(backend.stats()["held"])


async def lose_the_channel(backend: AMQPBackend) -> None:
    """Close the channel on which the inbox is consumed, as the broker does at its consumer_timeout."""
    consumer = backend._opened().reader._consumer  # type: ignore[attr-defined]
    await consumer.channel.close()


class TestWhatNobodyTook:
    async def test_is_there_for_the_next_process(self, lab: Lab, raw: Raw, worker: AMQPBackend, name: str) -> None:
        ids = [new_id() for _ in range(20)]
        async with lab.make(routing=ReplyQueue(name)) as first:
            await store_all(worker, ids, name)
            held = await has_kept(first, 20)
            assert 0 < held < 20
        await eventually(lambda: raw.is_ready(f"aioresults.inbox.{name}", held))
        second = await lab.open(routing=ReplyQueue(name))
        assert [meta.result for meta in (await second.get_many(ids, timeout=30)).values()] == ids
        await second.close()
        await eventually(lambda: raw.is_ready(f"aioresults.inbox.{name}", 0))

    async def test_a_result_that_was_yielded_is_taken_when_the_next_is_asked_for(
        self, lab: Lab, raw: Raw, worker: AMQPBackend, name: str
    ) -> None:
        ids = [new_id() for _ in range(3)]
        async with lab.make(routing=ReplyQueue(name)) as first:
            for task_id in ids:  # a message each
                await worker.store_result(task_id, task_id, request=request_to(name))
            async with aclosing(aiter(first.get_many(ids, timeout=30))) as results:
                assert [await anext(results), await anext(results)]
        await eventually(lambda: raw.is_ready(f"aioresults.inbox.{name}", 2))

    async def test_what_was_taken_comes_again_with_what_shared_its_message(
        self, lab: Lab, worker: AMQPBackend, name: str
    ) -> None:
        ids = [new_id() for _ in range(3)]
        async with lab.make(routing=ReplyQueue(name)) as first:
            await store_all(worker, ids, name)
            await has_kept(first, 3)
            assert await first.wait_for(ids[1], timeout=30) == ids[1]
            assert first.stats()["held"]
        events: list[Event] = []
        second = await lab.open(routing=ReplyQueue(name), on_event=events.append)
        rest = [task_id for task_id in ids if task_id != ids[1]]
        assert list(await second.get_many(rest, timeout=30)) == rest
        assert not any("late" in str(event) for event in events)

    async def test_a_report_that_is_not_ready_holds_nothing(
        self, lab: Lab, raw: Raw, worker: AMQPBackend, name: str
    ) -> None:
        async with lab.make(routing=ReplyQueue(name)) as first:
            await worker.store_result(new_id(), None, "STARTED", request=request_to(name))
            await has_received(first, 1)
            assert first.stats()["held"] == 0
        assert await raw.is_ready(f"aioresults.inbox.{name}", 0)

    async def test_a_cancelled_wait_took_nothing(self, lab: Lab, raw: Raw, worker: AMQPBackend, name: str) -> None:
        task_id = new_id()
        async with lab.make(routing=ReplyQueue(name)) as first:
            async with aclosing(first.watch(task_id, timeout=30)) as reports:
                waiting = asyncio.ensure_future(anext(reports))
                await worker.store_result(task_id, 1, request=request_to(name))
                assert (await waiting).result == 1
            assert first.stats()["held"] == 1
        await eventually(lambda: raw.is_ready(f"aioresults.inbox.{name}", 1))

    async def test_what_shares_a_message_with_what_is_no_report_stays(
        self, lab: Lab, raw: Raw, worker: AMQPBackend, name: str
    ) -> None:
        address, task_id = f"aioresults.inbox.{name}", new_id()
        document = ReportCodec().write(ResultMeta(task_id, "SUCCESS", 1), task_id)
        message = ReportCodec().batch([(new_id(), b"[]"), (task_id, document)])
        async with lab.make(routing=ReplyQueue(name)) as first:
            channel = await raw.channel()
            await channel.basic_publish(message.body, message.properties, "", address, mandatory=True)
            assert await has_kept(first, 1) == 1
        await eventually(lambda: raw.is_ready(address, 1))
        async with lab.make(routing=ReplyQueue(name)) as second:
            assert await second.wait_for(task_id, timeout=30) == 1
        await eventually(lambda: raw.is_ready(address, 0))


class TestBounds:
    async def test_what_is_evicted_is_gone_and_told(self, lab: Lab, raw: Raw, worker: AMQPBackend, name: str) -> None:
        ids, events = [new_id() for _ in range(5)], list[Event]()
        caller = lab.make(routing=ReplyQueue(name), max_unclaimed_results=2, on_event=events.append)
        async with caller as first:
            for task_id in ids:
                await worker.store_result(task_id, task_id, request=request_to(name))
            await has_received(first, 5)
            assert [event.task_id for event in events if isinstance(event, Evicted)] == ids[:3]
            assert first.stats()["held"] == 2
            with pytest.raises(ResultEvicted):
                await first.wait_for(ids[0], timeout=30)
        await eventually(lambda: raw.is_ready(f"aioresults.inbox.{name}", 2))

    @pytest.mark.usefixtures("fast")
    async def test_what_is_older_than_expires_is_gone(self, lab: Lab, worker: AMQPBackend, name: str) -> None:
        first = await lab.open(routing=ReplyQueue(name), expires=0.2)
        await worker.store_result(new_id(), 1, request=request_to(name))
        await has_received(first, 1)
        await eventually(lambda: first.stats()["held"] == 0)
        assert first.stats()["evicted"] == 1


class TestALostChannel:
    async def test_nothing_is_lost_or_told_twice(self, lab: Lab, raw: Raw, worker: AMQPBackend, name: str) -> None:
        ids = [new_id() for _ in range(20)]
        async with lab.make(routing=ReplyQueue(name)) as first:
            await store_all(worker, ids, name)
            await has_kept(first, 20)
            assert await first.wait_for(ids[0], timeout=30) == ids[0]
            held = int(first.stats()["held"])
            await lose_the_channel(first)
            await eventually(lambda: first.stats()["repeated"] == held)
            assert first.stats()["unclaimed"] == 19
            assert list(await first.get_many(ids[1:], timeout=30)) == ids[1:]
            assert (first.stats()["held"], first.stats()["unclaimed"]) == (0, 0)
        await eventually(lambda: raw.is_ready(f"aioresults.inbox.{name}", 0))

    async def test_what_was_taken_meanwhile_is_acknowledged_when_it_comes_again(
        self, lab: Lab, raw: Raw, worker: AMQPBackend, name: str
    ) -> None:
        task_id = new_id()
        async with lab.make(routing=ReplyQueue(name)) as first:
            await worker.store_result(task_id, 1, request=request_to(name))
            await has_received(first, 1)
            losing = asyncio.ensure_future(lose_the_channel(first))
            assert await first.wait_for(task_id, timeout=30) == 1
            await losing
            await eventually(lambda: first.stats()["held"] == 0)
        await eventually(lambda: raw.is_ready(f"aioresults.inbox.{name}", 0))

    async def test_what_cannot_be_read_is_told_once(self, lab: Lab, raw: Raw, name: str) -> None:
        first = await lab.open(routing=ReplyQueue(name))
        address = first.reply_to or ""
        await raw.publish(address, b"{", content_type="application/json", correlation_id="bad", message_id="m")
        await has_received(first, 1)
        await lose_the_channel(first)
        await has_received(first, 2)
        assert (first.stats()["undecodable"], first.stats()["held"]) == (1, 1)


@pytest.mark.usefixtures("fast")
class TestTwoProcessesOfOneName:
    async def test_the_newcomer_takes_over_all_that_was_not_taken(
        self, lab: Lab, worker: AMQPBackend, name: str
    ) -> None:
        ids, events = [new_id() for _ in range(10)], list[Event]()
        first = await lab.open(routing=ReplyQueue(name), on_event=events.append)
        await store_all(worker, ids, name)
        await has_kept(first, 10)
        waiting = asyncio.ensure_future(first.wait_for(new_id(), timeout=30))
        second = await lab.open(routing=ReplyQueue(name), on_event=events.append)
        assert list(await second.get_many(ids, timeout=30)) == ids
        with pytest.raises(InboxTakenOver) as error:
            await waiting
        assert error.value.queue == first.reply_to
        assert [type(event) for event in events if isinstance(event, InboxBusy | InboxLost)] == [InboxBusy, InboxLost]
        assert second.stats()["standing_by"] is False

    async def test_the_first_one_says_so_to_everyone(self, lab: Lab, name: str) -> None:
        first = await lab.open(routing=ReplyQueue(name))
        await lab.open(routing=ReplyQueue(name))
        with pytest.raises(InboxTakenOver):
            await first.wait_for(new_id(), timeout=30)
        for call in (first.wait_for(new_id(), timeout=0), first.get_task_meta(new_id()), first.consume(new_id())):
            with pytest.raises(InboxTakenOver):
                await call
        assert first.stats()["consuming"] == 0
        await first.store_result(new_id(), 1, request=request_to(name))  # it can store all the same

    async def test_the_newcomer_stands_by_until_the_first_one_ends(
        self, lab: Lab, worker: AMQPBackend, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(named_inbox, "CHECK_INTERVAL", 60.0)
        first = await lab.open(routing=ReplyQueue(name))
        second, task_id = await lab.open(routing=ReplyQueue(name)), new_id()
        assert second.stats()["standing_by"] is True
        await worker.store_result(task_id, 1, request=request_to(name))
        await has_received(first, 1)
        await first.close()
        assert await second.wait_for(task_id, timeout=30) == 1
        assert second.stats()["standing_by"] is False

    async def test_a_reconnect_is_no_takeover(self, lab: Lab, worker: AMQPBackend, name: str) -> None:
        first, task_id = await lab.open(routing=ReplyQueue(name)), new_id()
        await lose_the_channel(first)
        await worker.store_result(task_id, 1, request=request_to(name))
        assert await first.wait_for(task_id, timeout=30) == 1


async def test_a_queue_of_an_earlier_version_is_refused_with_the_way_out(lab: Lab, raw: Raw, name: str) -> None:
    address = f"aioresults.inbox.{name}"
    channel = await raw.channel()
    await channel.queue_declare(address, durable=True, arguments={"x-queue-type": "classic", "x-expires": 60_000})
    with pytest.raises(ConfigurationError, match=f"rabbitmqctl delete_queue {address}"):
        await lab.open(routing=ReplyQueue(name), expires=60)
