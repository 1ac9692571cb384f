"""What happens to a backend is told once: to ``on_event``, in the log, and in ``stats()``."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from time import sleep
from typing import Any

import pytest

from aioresults import (
    AMQPBackend,
    BrokerRefused,
    ConfigurationError,
    DecodeError,
    ReplyQueue,
    Request,
    ResultEvicted,
    ResultNotRouted,
    ResultTimeout,
)
from aioresults.events import (
    Blocked,
    Connected,
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    Dropped,
    Event,
    Evicted,
    LateResult,
    NotRouted,
    QueueLost,
    QueuesLeft,
    Unblocked,
    Unconfirmed,
    Unreadable,
    Unroutable,
)
from aioresults.transport import transport_for
from aioresults.transport.base import Properties
from aioresults.transport.memory import MemoryBroker
from tests.eventually import eventually
from tests.nodes import Node
from tests.proxy import Proxy

MakeProxy = Callable[[str], Awaitable[Proxy]]


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    name = secrets.token_hex(8)
    yield MemoryBroker.named(name)
    MemoryBroker.forget(name)


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what this package warned of: asyncio may complain of what an earlier test left, once it is collected."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING and record.name == "aioresults"]


class Process:
    """A backend, and what it told."""

    def __init__(self, url: str, **options: Any) -> None:
        self.events: list[Event] = []
        self.backend = AMQPBackend(url, on_event=self.events.append, **options)

    async def __aenter__(self) -> Process:
        await self.backend.open()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.backend.close()

    @property
    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self.events]

    def one(self, kind: type[Event]) -> Any:
        [event] = [event for event in self.events if isinstance(event, kind)]
        return event


@pytest.fixture
async def caller(broker: MemoryBroker) -> AsyncIterator[Process]:
    options = {"routing": ReplyQueue(), "max_unclaimed_results": 2}
    async with Process(f"memory://{broker.name}", **options) as caller:
        yield caller


@pytest.fixture
async def worker(broker: MemoryBroker) -> AsyncIterator[Process]:
    options = {"routing": ReplyQueue(), "store_only": True, "unroutable_policy": (0.001, 0.001)}
    async with Process(f"memory://{broker.name}", **options) as worker:
        yield worker


async def test_each_event_is_one_line_in_the_log(broker: MemoryBroker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aioresults")
    async with Process(f"memory://{broker.name}") as process:
        broker.cut()
        await eventually(lambda: process.kinds == [Connected, ConnectionLost, Connected])
    logged = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "aioresults"]
    assert logged == [(event.level, str(event)) for event in process.events]
    first, lost, second = process.events
    assert isinstance(first, Connected)
    assert isinstance(lost, ConnectionLost)
    assert isinstance(second, Connected)
    assert (first.session, second.session) == (1, 2)
    assert lost.uri == f"memory://{broker.name}"
    assert lost.lag == 0
    assert process.backend.stats()["sessions"] == 2


async def test_an_outage_is_one_warning(broker: MemoryBroker, caplog: pytest.LogCaptureFixture) -> None:
    async with Process(f"memory://{broker.name}") as process:
        broker.stop()
        await eventually(lambda: process.kinds.count(ConnectFailed) >= 3)
        broker.start()
        await eventually(lambda: process.kinds[-1] is Connected)
    attempts = [event.attempt for event in process.events if isinstance(event, ConnectFailed)]
    assert attempts == [*range(1, len(attempts) + 1)]
    last = process.events[-1]
    assert isinstance(last, Connected)
    assert last.attempts == len(attempts) + 1
    assert last.seconds > 0
    assert len(warnings(caplog)) == 2  # the loss, the first failure


async def test_a_refusal(broker: MemoryBroker) -> None:
    broker.refuse("ACCESS_REFUSED")
    process = Process(f"memory://{broker.name}")
    with pytest.raises(BrokerRefused):
        await process.backend.open()
    assert process.one(ConnectRefused).level == logging.ERROR
    await process.backend.close()


async def test_blocked_and_unblocked(broker: MemoryBroker, worker: Process, caller: Process) -> None:
    broker.block()
    request = Request(reply_to=caller.backend.reply_to)
    storing = asyncio.create_task(worker.backend.store_result("task", 1, request=request))
    await eventually(lambda: Blocked in worker.kinds)
    assert worker.backend.stats()["blocked"] is True
    broker.unblock()
    await storing
    await eventually(lambda: Unblocked in worker.kinds)
    stats = worker.backend.stats()
    assert (stats["blocked"], stats["blocks"]) == (False, 1)
    assert await caller.backend.wait_for("task", timeout=30) == 1


async def test_an_inbox_that_is_not_there(worker: Process) -> None:
    with pytest.raises(ResultNotRouted):
        await worker.backend.store_result("task", 1, request=Request(reply_to="aioresults.inbox.gone"))
    assert worker.one(Unroutable) == Unroutable("aioresults.inbox.gone", 1)
    assert worker.one(NotRouted) == NotRouted("aioresults.inbox.gone", 1)
    assert (worker.backend.stats()["unrouted"], worker.backend.stats()["not_routed"]) == (2, 1)


async def test_a_late_result(worker: Process, caller: Process) -> None:
    with pytest.raises(ResultTimeout):
        await caller.backend.wait_for("task", timeout=0.01)
    request = Request(reply_to=caller.backend.reply_to)
    await worker.backend.store_result("task", 0, "PROGRESS", request=request)
    await worker.backend.store_result("task", 1, request=request)
    await worker.backend.store_result("task", 2, request=request)
    await eventually(lambda: caller.backend.stats()["received"] == 3)
    assert caller.one(LateResult) == LateResult("task", "SUCCESS")
    assert (caller.backend.stats()["late"], caller.backend.stats()["redundant"]) == (1, 1)
    assert await caller.backend.wait_for("task", timeout=30) == 1


async def test_a_result_that_is_asked_for_again_in_time_is_not_late(worker: Process, caller: Process) -> None:
    with pytest.raises(ResultTimeout):
        await caller.backend.wait_for("task", timeout=0.01)
    waiting = asyncio.create_task(caller.backend.wait_for("task", timeout=30))
    await asyncio.sleep(0)
    await worker.backend.store_result("task", 1, request=Request(reply_to=caller.backend.reply_to))
    assert await waiting == 1
    assert LateResult not in caller.kinds


async def test_results_that_have_to_go(worker: Process, caller: Process, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5):
        request = Request(reply_to=caller.backend.reply_to)
        await worker.backend.store_result(f"task-{number}", number, request=request)
    await eventually(lambda: caller.kinds.count(Evicted) == 3)
    assert [event for event in caller.events if isinstance(event, Evicted)] == [
        Evicted("task-0", 1), Evicted("task-1", 2), Evicted("task-2", 3)
    ]  # fmt: skip
    assert len(warnings(caplog)) == 1
    with pytest.raises(ResultEvicted):
        await caller.backend.wait_for("task-0")


@pytest.mark.parametrize("inbox", [False, True])
async def test_a_message_that_cannot_be_read(broker_url: str, inbox: bool) -> None:
    task_id = secrets.token_hex(8)
    options = {"routing": ReplyQueue()} if inbox else {}
    async with Process(broker_url, **options) as caller:
        waiting = asyncio.create_task(caller.backend.wait_for(task_id, timeout=30))
        await eventually(lambda: caller.backend.stats()["consuming"] == 1)
        connection = await transport_for(broker_url).connect()
        queue = caller.backend.reply_to or caller.backend.rkey(task_id)
        properties = Properties(content_type="application/json", content_encoding="utf-8", correlation_id=task_id)
        await (await connection.channel(confirms=True)).basic_publish(b"{no secret", properties, "", queue)
        with pytest.raises(DecodeError):
            await waiting
        event = caller.one(Dropped if inbox else Unreadable)  # in the queue of a task, another process may read it
        assert event.task_id == task_id
        assert "no secret" not in str(event)
        assert caller.backend.stats()["undecodable"] == 1
        await connection.close()


async def test_an_inbox_that_was_deleted(broker: MemoryBroker, caller: Process) -> None:
    reply_to = caller.backend.reply_to
    assert reply_to is not None
    broker.delete_queue(reply_to)
    await eventually(lambda: QueueLost in caller.kinds)
    broker.cut()
    await eventually(lambda: caller.kinds.count(Connected) == 2)
    assert caller.one(QueueLost) == QueueLost(reply_to)  # it was there after the reconnect


async def test_what_close_gives_up(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioresults.runtime.CLOSE_TIMEOUT", 0.01)
    async with Process(f"memory://{broker.name}") as process:
        broker.block()
        storing = asyncio.create_task(process.backend.store_result("task", 1))
        await eventually(lambda: Blocked in process.kinds)
    assert process.one(Unconfirmed).results == 1
    await asyncio.wait([storing])
    assert storing.exception() is not None


async def test_what_close_gives_up_while_the_broker_is_away(broker: MemoryBroker) -> None:
    async with Process(f"memory://{broker.name}") as process:
        broker.stop()
        await eventually(lambda: ConnectFailed in process.kinds)
        storing = asyncio.create_task(process.backend.store_result("task", 1))
        await eventually(lambda: process.backend.stats()["unconfirmed"] == 1)
    assert process.one(Unconfirmed) == Unconfirmed(1, "there is no connection")
    await asyncio.wait([storing])
    assert storing.exception() is not None


@pytest.mark.parametrize("is_taken", [False, True])
async def test_queues_that_close_leaves_while_the_broker_is_away(broker: MemoryBroker, is_taken: bool) -> None:
    async with Process(f"memory://{broker.name}") as process:
        await process.backend.store_result("task", 1)
        if is_taken:
            assert await process.backend.wait_for("task", timeout=0) == 1
        broker.stop()  # before the queue is deleted
        await eventually(lambda: ConnectFailed in process.kinds)
    if is_taken:
        assert process.one(QueuesLeft) == QueuesLeft("there is no connection")
    else:
        assert QueuesLeft not in process.kinds


async def test_queues_that_close_leaves(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioresults.runtime.CLOSE_TIMEOUT", 0)
    ids = [str(n) for n in range(100)]
    async with Process(f"memory://{broker.name}") as process:
        await asyncio.gather(*(process.backend.store_result(task_id, 1) for task_id in ids))
        assert len(await process.backend.get_many(ids, timeout=30)) == 100
    assert process.one(QueuesLeft) == QueuesLeft("not done within 0 s")
    assert Unconfirmed not in process.kinds
    left = broker.queues()
    assert left
    assert not any(queue.ready or queue.unacked for queue in left)


async def test_a_hook_that_fails_disturbs_nothing(broker: MemoryBroker, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Event) -> None:
        raise LookupError("of the user's own")

    async with AMQPBackend(f"memory://{broker.name}", on_event=fail) as backend:
        await backend.store_result("task", 1)
        assert await backend.wait_for("task", timeout=30) == 1
    assert "of the user's own" in caplog.text


def test_a_hook_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="on_event must be a callable, or None, not 'print'"):
        AMQPBackend("memory://hook", on_event="print")  # type: ignore[arg-type]


async def test_an_alarm_of_a_real_broker(own_broker: Node) -> None:
    ctl = own_broker.ctl
    async with Process(own_broker.url) as worker:
        await asyncio.to_thread(ctl, "set_vm_memory_high_watermark", "0.00001")
        try:
            storing = asyncio.create_task(worker.backend.store_result("blocked", 1))
            await eventually(lambda: Blocked in worker.kinds)
            assert worker.one(Blocked).reason == "low on memory"
            assert worker.backend.stats()["blocked"] is True
        finally:
            await asyncio.to_thread(ctl, "set_vm_memory_high_watermark", "0.9")
        await storing
        await eventually(lambda: Unblocked in worker.kinds)
        assert worker.one(Unblocked).seconds > 0
        await worker.backend.forget("blocked")


async def test_an_event_loop_that_stood_still(amqp_url: str, proxy: MakeProxy) -> None:
    between = await proxy(amqp_url)
    async with Process(between.url_for(amqp_url)) as process:
        await asyncio.sleep(0)
        _stand_still(2.2)
        between.drop()
        await eventually(lambda: ConnectionLost in process.kinds)
        lost = process.one(ConnectionLost)
        assert 1 <= lost.lag < 10
        assert "the event loop had been blocked for" in str(lost)


def _stand_still(seconds: float) -> None:
    """Block the loop, as a user's code does by mistake."""
    sleep(seconds)
