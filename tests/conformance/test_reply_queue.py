"""`ReplyQueue`: one inbox per process, coalesced reports, and what becomes of those that nobody asks for."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from aioresults import (
    AMQPBackend,
    BackendClosed,
    BrokerUnavailable,
    ConfigurationError,
    DecodeError,
    ReplyQueue,
    Request,
    ResultEvicted,
    ResultForgotten,
    ResultNotRouted,
    ResultTimeout,
    ResultTooLarge,
)
from aioresults.events import Dropped, Event, NotRouted
from aioresults.routing.reply_queue import holding, named_inbox
from aioresults.serialization import ReportCodec
from aioresults.transport.base import OutgoingMessage, Properties
from aioresults.transport.memory import MemoryBroker
from tests.clock import Clock
from tests.conformance.lab import Lab, Raw, new_id, new_name, only
from tests.eventually import eventually

pytestmark = only("reply_queue")


@pytest.fixture
async def worker(lab: Lab) -> AMQPBackend:
    return await lab.open(store_only=True)


def to(backend: AMQPBackend) -> Request:
    return Request(reply_to=backend.reply_to)


async def store_all(worker: AMQPBackend, ids: Sequence[str], request: Request) -> None:
    await asyncio.gather(*(worker.store_result(task_id, task_id, request=request) for task_id in ids))


class TestInbox:
    async def test_is_declared_and_consumed_when_open_returns(self, lab: Lab, raw: Raw) -> None:
        caller = await lab.open(expires=60)
        assert caller.reply_to is not None
        assert caller.reply_to.startswith("aioresults.inbox.")
        assert await raw.consumers(caller.reply_to) == 1
        channel = await raw.channel()
        await channel.queue_declare(
            caller.reply_to, durable=True, arguments={"x-queue-type": "classic", "x-expires": 60_000}
        )

    async def test_a_random_one_goes_with_its_backend(self, lab: Lab, raw: Raw) -> None:
        caller = await lab.open()
        address = caller.reply_to
        assert address is not None
        await caller.close()
        assert await raw.queue(address) is None

    async def test_two_backends_have_two(self, lab: Lab) -> None:
        assert (await lab.open()).reply_to != (await lab.open()).reply_to

    async def test_a_named_one_keeps_what_comes_while_nobody_is_there(self, lab: Lab, worker: AMQPBackend) -> None:
        name, task_id = new_name(), new_id()
        caller = await lab.open(routing=ReplyQueue(name))
        request = to(caller)
        assert request.reply_to == f"aioresults.inbox.{name}"
        await caller.close()
        await worker.store_result(task_id, "kept", request=request)
        again = await lab.open(routing=ReplyQueue(name))
        assert await again.wait_for(task_id, timeout=30) == "kept"

    async def test_two_processes_on_one_name_are_warned(self, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
        name = new_name()
        await lab.open(routing=ReplyQueue(name))
        with caplog.at_level(logging.WARNING, "aioresults"):
            await lab.open(routing=ReplyQueue(name))
        assert f"aioresults.inbox.{name}" in caplog.text

    async def test_is_declared_again_when_it_was_deleted(self, lab: Lab, worker: AMQPBackend, raw: Raw) -> None:
        caller, task_id = await lab.open(), new_id()
        assert caller.reply_to is not None
        channel = await raw.channel()
        await channel.queue_delete(caller.reply_to)
        await worker.store_result(task_id, 1, request=to(caller))
        assert await caller.wait_for(task_id, timeout=30) == 1

    async def test_a_quorum_queue_on_request(self, lab: Lab, worker: AMQPBackend, raw: Raw) -> None:
        caller, task_id = await lab.open(routing=ReplyQueue(queue_type="quorum"), expires=60), new_id()
        await worker.store_result(task_id, 1, request=to(caller))
        assert await caller.wait_for(task_id, timeout=30) == 1
        channel = await raw.channel()
        arguments = {"x-queue-type": "quorum", "x-expires": 60_000, "x-consumer-disconnected-timeout": 1000}
        await channel.queue_declare(caller.reply_to or "", durable=True, arguments=arguments)

    @pytest.mark.parametrize("wrong", ["", 5, "n" * 250])
    def test_a_bad_name_is_refused(self, wrong: Any) -> None:
        with pytest.raises(ConfigurationError, match="inbox"):
            ReplyQueue(wrong)

    def test_a_bad_queue_type_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="'stream'"):
            ReplyQueue(queue_type="stream")

    @pytest.mark.parametrize("option", [{"exchange": "e"}, {"exchange_type": "topic"}, {"auto_delete": True}])
    def test_options_that_mean_nothing_are_refused(self, option: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match=next(iter(option))):
            AMQPBackend("memory://options", routing=ReplyQueue(), **option)


class TestStoring:
    async def test_result_before_and_after_the_wait(self, lab: Lab, worker: AMQPBackend) -> None:
        caller, early, late = await lab.open(), new_id(), new_id()
        await worker.store_result(early, 1, request=to(caller))
        assert await caller.wait_for(early, timeout=30) == 1
        waiter = asyncio.create_task(caller.wait_for(late, timeout=30))
        await asyncio.sleep(0)
        await worker.store_result(late, 2, request=to(caller))
        assert await waiter == 2

    async def test_reports_that_wait_for_one_destination_travel_together(self, lab: Lab, worker: AMQPBackend) -> None:
        caller = await lab.open()
        ids = [new_id() for _ in range(1000)]
        storing = asyncio.create_task(store_all(worker, ids, to(caller)))
        metas = await caller.get_many(ids, timeout=20)
        await storing
        assert {task_id: meta.result for task_id, meta in metas.items()} == {task_id: task_id for task_id in ids}
        assert list(metas) == ids
        stats = worker.stats()
        assert stats["stored"] == 1000
        assert int(stats["messages"]) <= 20

    async def test_reports_of_a_task_stay_in_order(self, lab: Lab, worker: AMQPBackend) -> None:
        caller, task_id = await lab.open(), new_id()
        seen: list[Any] = []

        async def watch() -> None:
            seen.extend([meta.result async for meta in caller.watch(task_id, timeout=30)])

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        reports = [worker.store_result(task_id, n, "PROGRESS", request=to(caller)) for n in range(200)]
        await asyncio.gather(*reports, worker.store_result(task_id, "end", request=to(caller)))
        await watching
        assert seen == [*range(200), "end"]

    async def test_without_an_address_there_is_nowhere_to_go(self, worker: AMQPBackend) -> None:
        with pytest.raises(ConfigurationError, match="reply_to"):
            await worker.store_result(new_id(), 1)

    async def test_others_get_celerys_message_one_per_result(self, worker: AMQPBackend, raw: Raw) -> None:
        queue, ids = new_name(), [new_id() for _ in range(5)]
        channel = await raw.channel()
        await channel.queue_declare(queue, exclusive=False, auto_delete=False)
        await store_all(worker, ids, Request(reply_to=queue))
        messages = [await raw.get(queue) for _ in ids]
        assert [message.properties.correlation_id for message in messages] == ids
        assert {message.properties.content_type for message in messages} == {"application/json"}
        assert [json.loads(message.body)["result"] for message in messages] == ids
        assert len({message.properties.message_id for message in messages} - set(ids)) == len(ids)
        await channel.queue_delete(queue)

    async def test_celerys_single_messages_arrive_too(self, lab: Lab, raw: Raw) -> None:
        caller, task_id = await lab.open(), new_id()
        assert caller.reply_to is not None
        body = json.dumps({"status": "SUCCESS", "result": [1], "task_id": task_id}).encode()
        await raw.publish(
            caller.reply_to, body, content_type="application/json", content_encoding="utf-8", correlation_id=task_id
        )
        assert await caller.wait_for(task_id, timeout=30) == [1]

    async def test_close_sends_what_waits(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aioresults.runtime.CLOSE_TIMEOUT", 60)
        caller, worker = await lab.open(), await lab.open(store_only=True)
        ids = [new_id() for _ in range(700)]
        stores = [asyncio.create_task(worker.store_result(task_id, 1, request=to(caller))) for task_id in ids]
        await asyncio.sleep(0)
        await worker.close()
        assert await asyncio.gather(*stores) == [1] * 700
        assert len(await caller.get_many(ids, timeout=30)) == 700

    async def test_a_store_that_was_cancelled_in_time_is_withdrawn(self, lab: Lab, worker: AMQPBackend) -> None:
        caller, ids = await lab.open(), [new_id() for _ in range(3)]
        stores = [asyncio.ensure_future(worker.store_result(task_id, 1, request=to(caller))) for task_id in ids]
        stores[1].cancel()
        await asyncio.gather(*stores, return_exceptions=True)
        assert await caller.wait_for(ids[2], timeout=30) == 1
        assert (await caller.get_task_meta(ids[0])).status == "SUCCESS"
        assert (await caller.get_task_meta(ids[1])).status == "PENDING"


class TestUnroutable:
    async def test_the_policy_ends_with_an_error_that_names_the_destination(self, lab: Lab) -> None:
        worker = await lab.open(store_only=True, unroutable_policy=(0, 0.01))
        with pytest.raises(ResultNotRouted) as caught:
            await worker.store_result("t", 1, request=Request(reply_to="aioresults.inbox.gone"))
        assert (caught.value.task_id, caught.value.destination) == ("t", "aioresults.inbox.gone")
        assert worker.stats()["unrouted"] == 2

    async def test_others_are_not_held_up(self, lab: Lab) -> None:
        caller, worker = await lab.open(), await lab.open(store_only=True, unroutable_policy=(30,))
        gone = [
            asyncio.create_task(worker.store_result(new_id(), 1, request=Request(reply_to="aioresults.inbox.gone")))
            for _ in range(50)
        ]
        ids = [new_id() for _ in range(50)]
        async with asyncio.timeout(20):
            await store_all(worker, ids, to(caller))
            assert len(await caller.get_many(ids)) == 50
        assert not any(task.done() for task in gone)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)

    async def test_those_that_wait_behind_share_the_attempts(self, lab: Lab) -> None:
        worker = await lab.open(store_only=True, unroutable_policy=(0.01, 0.01))
        stores = [
            worker.store_result(f"t{n}", n, request=Request(reply_to="aioresults.inbox.gone")) for n in range(900)
        ]
        outcomes = await asyncio.gather(*stores, return_exceptions=True)
        assert all(isinstance(outcome, ResultNotRouted) for outcome in outcomes)
        assert [getattr(outcome, "task_id", "") for outcome in outcomes] == [f"t{n}" for n in range(900)]
        assert worker.stats()["messages"] == 3
        assert worker.stats()["unconfirmed"] == 0

    async def test_an_address_that_is_gone_costs_nothing_more(self, lab: Lab, clock: Clock) -> None:
        events: list[Event] = []
        worker = await lab.open(store_only=True, unroutable_policy=(0, 0), on_event=events.append)
        name = new_name()
        request = Request(reply_to=f"aioresults.inbox.{name}")
        for _ in range(30):
            with pytest.raises(ResultNotRouted):
                await worker.store_result(new_id(), 1, request=request)
        assert worker.stats()["messages"] == 3
        assert worker.stats()["not_routed"] == 30
        assert [type(event) for event in events if isinstance(event, NotRouted)] == [NotRouted]
        # It comes back: a report that is not ready does not look for it, a ready one does, once a second.
        caller, task_id = await lab.open(routing=ReplyQueue(name)), new_id()
        clock.advance(1.5)
        with pytest.raises(ResultNotRouted):
            await worker.store_result(task_id, None, "STARTED", request=request)
        await worker.store_result(task_id, 2, request=request)
        await worker.store_result(new_id(), None, "STARTED", request=request)
        assert await caller.wait_for(task_id, timeout=30) == 2

    async def test_an_inbox_that_appears_late_gets_everything_in_order(self, lab: Lab) -> None:
        name = new_name()
        worker = await lab.open(store_only=True, unroutable_policy=(0.01,) * 5000)
        request = Request(reply_to=f"aioresults.inbox.{name}")
        stores = [asyncio.create_task(worker.store_result("late", n, "PROGRESS", request=request)) for n in range(20)]
        await eventually(lambda: int(worker.stats()["unrouted"]) > 1)
        caller = await lab.open(routing=ReplyQueue(name))
        await asyncio.gather(*stores)
        await eventually(lambda: caller.stats()["unclaimed"] == 1)
        assert (await caller.get_task_meta("late")).result == 19


class TestLimits:
    async def test_a_result_too_large_fails_alone_before_anything_is_sent(self, lab: Lab) -> None:
        caller, worker = await lab.open(), await lab.open(store_only=True, max_result_size=10_000)
        small, large = new_id(), new_id()
        outcomes = await asyncio.gather(
            worker.store_result(small, 1, request=to(caller)),
            worker.store_result(large, "x" * 20_000, request=to(caller)),
            return_exceptions=True,
        )
        assert outcomes[0] == 1
        assert isinstance(outcomes[1], ResultTooLarge)
        assert outcomes[1].limit == 10_000
        assert outcomes[1].size > 20_000
        assert worker.stats()["stored"] == 1

    async def test_a_lower_limit_of_the_broker_splits_the_batch(self) -> None:
        broker = MemoryBroker.named(new_name())
        broker.max_message_size = 4_000
        url = f"memory://{broker.name}"
        async with (
            AMQPBackend(url, routing=ReplyQueue()) as caller,
            AMQPBackend(url, routing=ReplyQueue(), store_only=True) as worker,
        ):
            ids = [new_id() for _ in range(100)]
            sizes = [500] * 50 + [5_000] + [500] * 49
            stores = [
                worker.store_result(task_id, "x" * size, request=to(caller))
                for task_id, size in zip(ids, sizes, strict=True)
            ]
            outcomes = await asyncio.gather(*stores, return_exceptions=True)
            guilty = outcomes.pop(50)
            assert isinstance(guilty, ResultTooLarge)
            assert guilty.limit == 4_000
            assert outcomes == ["x" * 500] * 99
            assert len(await caller.get_many([task_id for task_id in ids if task_id != ids[50]], timeout=30)) == 99
        MemoryBroker.forget(broker.name)

    async def test_stores_wait_when_too_much_is_waiting(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aioresults.sessions.outbox.MAX_WAITING", 10)
        caller, worker = await lab.open(), await lab.open(store_only=True)
        ids = [new_id() for _ in range(200)]
        storing = asyncio.create_task(store_all(worker, ids, to(caller)))
        most = 0
        while not storing.done():
            most = max(most, int(worker.stats()["unconfirmed"]))
            await asyncio.sleep(0)
        await storing
        assert most <= 20
        assert len(await caller.get_many(ids, timeout=30)) == 200

    async def test_a_store_that_waits_for_room_may_be_cancelled(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aioresults.sessions.outbox.MAX_WAITING", 1)
        caller, worker = await lab.open(), await lab.open(store_only=True)
        ids = [new_id() for _ in range(60)]
        tasks = [asyncio.create_task(worker.store_result(task_id, 1, request=to(caller))) for task_id in ids]
        await asyncio.sleep(0)
        for task in tasks[5:50]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [task_id for task_id, outcome in zip(ids, outcomes, strict=True) if outcome == 1]
        assert len(kept) == 15
        assert len(await caller.get_many(kept, timeout=30)) == 15

    async def test_close_ends_stores_that_wait_for_room(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aioresults.sessions.outbox.MAX_WAITING", 1)
        monkeypatch.setattr("aioresults.runtime.CLOSE_TIMEOUT", 0.1)
        worker = await lab.open(store_only=True, unroutable_policy=(60,))
        request = Request(reply_to="aioresults.inbox.gone")
        tasks = [asyncio.create_task(worker.store_result(new_id(), 1, request=request)) for _ in range(5)]
        await eventually(lambda: worker.stats()["unrouted"] == 1)
        await worker.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BackendClosed] * 5


class TestUnclaimed:
    async def test_a_wait_that_was_cancelled_may_be_started_again(self, lab: Lab, worker: AMQPBackend) -> None:
        caller, task_id = await lab.open(), new_id()
        waiter = asyncio.create_task(caller.wait_for(task_id))
        await asyncio.sleep(0)
        await worker.store_result(task_id, 1, request=to(caller))
        await eventually(waiter.done)
        again = new_id()
        waiter = asyncio.create_task(caller.wait_for(again))
        await asyncio.sleep(0)
        waiter.cancel()
        await worker.store_result(again, 2, request=to(caller))
        assert await caller.wait_for(again, timeout=30) == 2

    async def test_the_oldest_make_room(self, lab: Lab, worker: AMQPBackend, caplog: pytest.LogCaptureFixture) -> None:
        caller = await lab.open(max_unclaimed_results=3)
        with caplog.at_level(logging.WARNING, "aioresults"):
            for n in range(6):
                await worker.store_result(f"u{n}", n, request=to(caller))
            await eventually(lambda: caller.stats()["evicted"] == 3)
        assert caplog.text.count("make room") == 1
        with pytest.raises(ResultEvicted, match="'u0'"):
            await caller.wait_for("u0")
        with pytest.raises(ResultEvicted):
            await caller.get_many(["u1", "u5"])
        assert [await caller.wait_for(f"u{n}", timeout=30) for n in (3, 4, 5)] == [3, 4, 5]

    async def test_an_evicted_id_may_start_anew(self, lab: Lab, worker: AMQPBackend) -> None:
        caller = await lab.open(max_unclaimed_results=1)
        for task_id in ("first", "second"):
            await worker.store_result(task_id, 1, request=to(caller))
        await eventually(lambda: caller.stats()["evicted"] == 1)
        await worker.store_result("first", 2, request=to(caller))
        assert await caller.wait_for("first", timeout=30) == 2

    async def test_looking_does_not_claim(self, lab: Lab, worker: AMQPBackend) -> None:
        caller, task_id = await lab.open(), new_id()
        assert (await caller.get_task_meta(task_id)).status == "PENDING"
        await worker.store_result(task_id, "half", "PROGRESS", request=to(caller))
        await eventually(lambda: caller.stats()["unclaimed"] == 1)
        assert (await caller.get_task_meta(task_id)).result == "half"
        with pytest.raises(ResultTimeout):
            await caller.wait_for(task_id, timeout=0)
        await worker.store_result(task_id, "whole", request=to(caller))
        assert await caller.wait_for(task_id, timeout=30) == "whole"
        assert (await caller.get_task_meta(task_id)).result == "whole"

    async def test_one_look_takes_what_is_here(self, lab: Lab, worker: AMQPBackend) -> None:
        caller, task_id = await lab.open(), new_id()
        await worker.store_result(task_id, 1, request=to(caller))
        await eventually(lambda: caller.stats()["unclaimed"] == 1)
        assert await caller.wait_for(task_id, timeout=0) == 1
        assert caller.stats()["unclaimed"] == 0
        assert list(await caller.get_many([task_id], timeout=0)) == [task_id]

    async def test_forgotten_is_forgotten(self, lab: Lab, worker: AMQPBackend) -> None:
        caller, task_id = await lab.open(), new_id()
        await worker.store_result(task_id, 1, request=to(caller))
        await eventually(lambda: caller.stats()["unclaimed"] == 1)
        await caller.forget(task_id)
        assert (await caller.get_task_meta(task_id)).status == "PENDING"
        waiter = asyncio.create_task(caller.wait_for(task_id))
        await asyncio.sleep(0)
        await caller.forget(task_id)
        with pytest.raises(ResultForgotten):
            await waiter

    async def test_a_late_or_repeated_report_changes_nothing(self, lab: Lab, worker: AMQPBackend) -> None:
        caller, task_id = await lab.open(), new_id()
        for result, status in ((None, "STARTED"), (1, "SUCCESS"), (2, "SUCCESS"), (3, "FAILURE"), (None, "STARTED")):
            await worker.store_result(task_id, result, status, request=to(caller))
        await eventually(lambda: int(caller.stats()["received"]) >= 5)
        assert await caller.wait_for(task_id, timeout=30) == 1
        await worker.store_result(task_id, None, "STARTED", request=to(caller))
        await eventually(lambda: int(caller.stats()["received"]) >= 6)
        assert await caller.wait_for(task_id, timeout=30) == 1
        assert caller.stats()["unclaimed"] == 0


class TestPoison:
    async def test_a_corrupt_document_costs_one_result(self, lab: Lab, raw: Raw) -> None:
        caller = await lab.open()
        assert caller.reply_to is not None
        batch = ReportCodec().batch(
            [("good", b'{"task_id": "good", "status": "SUCCESS", "result": 1}'), ("bad", b"{"), ("worse", b"[]")]
        )
        waiter = asyncio.create_task(caller.wait_for("bad"))
        await asyncio.sleep(0)
        await publish(raw, caller.reply_to, batch)
        assert await caller.wait_for("good", timeout=30) == 1
        with pytest.raises(DecodeError):
            await waiter
        assert caller.stats()["undecodable"] == 2

    @pytest.mark.parametrize(
        "message",
        [
            OutgoingMessage(b"\x80\x04N.", Properties("application/x-python-serialize", "binary")),
            OutgoingMessage(b"\0\0\0\5ab", Properties("application/x-aioresults-batch; v=2", "binary")),
            OutgoingMessage(b"", Properties("application/x-aioresults-batch; v=3", "binary")),
            OutgoingMessage(b"{}", Properties()),
        ],
    )
    async def test_a_message_that_cannot_be_read_stops_nothing(
        self, lab: Lab, worker: AMQPBackend, raw: Raw, message: OutgoingMessage
    ) -> None:
        caller, task_id = await lab.open(), new_id()
        assert caller.reply_to is not None
        await publish(raw, caller.reply_to, message)
        await worker.store_result(task_id, 1, request=to(caller))
        assert await caller.wait_for(task_id, timeout=30) == 1
        assert caller.stats()["undecodable"] == 1
        await eventually(lambda: raw.is_ready(caller.reply_to or "", 0))

    async def test_a_named_inbox_leaves_what_cannot_be_read_to_its_successor(self, lab: Lab) -> None:
        name, task_ids = new_name(), [new_id() for _ in range(60)]
        caller = await lab.open(routing=ReplyQueue(name), signing_key=b"old")
        old, new = await lab.open(signing_key=b"old"), await lab.open(signing_key=b"new")
        for task_id in task_ids:
            worker = new if task_id in task_ids[::3] else old
            await worker.store_result(task_id, task_id, request=to(caller))
        for task_id in set(task_ids).difference(task_ids[::3]):
            assert await caller.wait_for(task_id, timeout=30) == task_id
        await eventually(lambda: caller.stats()["received"] == 60)
        await caller.close()
        successor = await lab.open(routing=ReplyQueue(name), signing_key=[b"old", b"new"])
        for task_id in task_ids[::3]:
            assert await successor.wait_for(task_id, timeout=30) == task_id
        assert successor.stats()["received"] == 20

    async def test_a_named_inbox_keeps_what_cannot_be_read_within_a_bound(
        self, lab: Lab, worker: AMQPBackend, raw: Raw, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(named_inbox, "MAX_UNREADABLE", 3 * (holding.OVERHEAD + 1))
        events: list[Event] = []
        caller, task_id = await lab.open(routing=ReplyQueue(new_name()), on_event=events.append), new_id()
        inbox = caller.reply_to or ""
        for _ in range(5):
            await publish(raw, inbox, OutgoingMessage(b"{", Properties("application/json", "utf-8")))
        await worker.store_result(task_id, 1, request=to(caller))
        assert await caller.wait_for(task_id, timeout=30) == 1
        assert [type(event) for event in events].count(Dropped) == 2
        await caller.close()
        await eventually(lambda: raw.is_ready(inbox, 3))


async def publish(raw: Raw, queue: str, message: OutgoingMessage) -> None:
    channel = await raw.channel()
    await channel.basic_publish(message.body, replace(message.properties), "", queue, mandatory=True)
    await channel.close()


class TestOutages:
    async def test_nothing_is_lost_when_connections_are_cut_again_and_again(self, shaky: Lab) -> None:
        caller = await shaky.open(routing=ReplyQueue(new_name()))
        worker = await shaky.open(store_only=True)
        ids = [new_id() for _ in range(3000)]

        async def store(part: Sequence[str]) -> None:
            for task_id in part:
                await worker.store_result(task_id, task_id, request=to(caller))

        storing = asyncio.gather(*(store(ids[n::30]) for n in range(30)))
        arrived: list[str] = []

        async def collect() -> None:
            async for task_id, meta in caller.get_many(ids, timeout=150):
                assert meta.result == task_id
                arrived.append(task_id)
                if len(arrived) % 500 == 0:
                    shaky.cut()

        await collect()
        await storing
        assert sorted(arrived) == sorted(ids)
        assert int(caller.stats()["sessions"]) > 1

    async def test_a_store_outlasts_an_outage(self, shaky: Lab) -> None:
        caller = await shaky.open(routing=ReplyQueue(new_name()))
        worker, task_id = await shaky.open(store_only=True), new_id()
        shaky.go_down()
        storing = asyncio.create_task(worker.store_result(task_id, 1, request=to(caller)))
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        await eventually(lambda: int(worker.stats()["failed_connects"]) > 0)
        await shaky.come_up()
        assert await storing == 1
        assert await waiting == 1

    async def test_an_outage_longer_than_the_policy_ends_the_store_with_its_cause(self, shaky: Lab) -> None:
        caller = await shaky.open(routing=ReplyQueue(new_name()))
        policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
        worker = await shaky.open(store_only=True, retry_policy=policy)
        shaky.go_down()
        with pytest.raises(BrokerUnavailable) as caught:
            await worker.store_result(new_id(), 1, request=to(caller))
        assert isinstance(caught.value.__cause__, BrokerUnavailable)
        await shaky.come_up()
