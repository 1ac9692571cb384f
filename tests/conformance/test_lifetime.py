"""`open` and `close`: in which order, from which task, how often, and what they leave behind."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from aioresults import (
    AccessRefused,
    AMQPBackend,
    AsyncResult,
    BackendClosed,
    BrokerRefused,
    BrokerUnavailable,
    ChannelClosed,
    QueuePerTask,
    ReplyQueue,
    Request,
    ResultTimeout,
    WrongEventLoop,
)
from aioresults.events import Event, QueuesLeft
from aioresults.messaging import NoCacheQueue
from aioresults.transport.memory import MemoryBroker
from tests.clock import Clock
from tests.conformance.conftest import Store
from tests.conformance.lab import Lab, Raw, new_id, new_name, only, queue_of, waiting_for, where
from tests.conformance.test_many import awaited
from tests.conformance.test_watching import collect
from tests.eventually import eventually

#: Every call that needs an open backend.
CALLS: dict[str, Callable[[AMQPBackend], Any]] = {
    "store_result": lambda backend: backend.store_result(new_id(), 1, request=Request(reply_to="nowhere")),
    "mark_as_done": lambda backend: backend.mark_as_done(new_id(), 1, Request(reply_to="nowhere")),
    "recording": lambda backend: backend.recording(new_id(), Request(reply_to="nowhere")).__aenter__(),
    "wait_for": lambda backend: backend.wait_for(new_id()),
    "consume": lambda backend: backend.consume(new_id()),
    "get_many": lambda backend: awaited(backend, [new_id()]),
    "watch": lambda backend: collect(backend, new_id()),
    "drain_events": lambda backend: backend.drain_events(),
    "get_task_meta": lambda backend: backend.get_task_meta(new_id()),
    "poll": lambda backend: backend.poll(new_id()),
    "reload_task_result": lambda backend: backend.reload_task_result(new_id()),
    "forget": lambda backend: backend.forget(new_id()),
    "AsyncResult": lambda backend: AsyncResult(new_id(), backend).get(),
}


def tasks_of_backends() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task.get_name().startswith("aioresults")}


class TestOpening:
    async def test_the_constructor_connects_to_nothing(self, lab: Lab) -> None:
        backend = lab.make()
        assert backend.stats()["open"] is False
        assert backend.stats()["sessions"] == 0
        assert lab.memory is None or lab.memory.connection_count == 0

    async def test_returns_when_it_can_be_used(self, lab: Lab) -> None:
        backend = lab.make()
        assert await backend.open() is backend
        assert (backend.stats()["open"], backend.stats()["connected"]) == (True, True)
        await backend.store_result(new_id(), 1, request=Request(reply_to=backend.reply_to))
        await backend.close()
        assert backend.stats()["open"] is False

    async def test_twice_is_no_error(self, lab: Lab) -> None:
        backend = await lab.open()
        assert await backend.open() is backend
        assert backend.stats()["sessions"] == 1

    async def test_at_the_same_time(self, lab: Lab) -> None:
        backend = lab.make()
        await asyncio.gather(*(backend.open() for _ in range(5)))
        assert backend.stats()["sessions"] == 1
        await backend.close()

    async def test_in_one_task_and_closed_in_another(self, lab: Lab) -> None:
        backend, task_id = lab.make(), new_id()
        await asyncio.create_task(backend.open())
        request = Request(reply_to=backend.reply_to)
        await asyncio.create_task(backend.store_result(task_id, 1, request=request))
        assert await backend.wait_for(task_id, timeout=30) == 1
        await asyncio.create_task(backend.close())

    async def test_cancelled_leaves_nothing_behind(self, shaky: Lab) -> None:
        shaky.go_down()
        backend = shaky.make()
        opening = asyncio.create_task(backend.open())
        await eventually(lambda: int(backend.stats()["failed_connects"]) >= 1)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        assert not tasks_of_backends()
        await shaky.come_up()
        async with backend:
            assert backend.stats()["open"] is True

    async def test_of_a_broker_that_is_not_there(self, shaky: Lab, clock: Clock) -> None:
        shaky.go_down()
        backend, began = shaky.make(connect_timeout=20), clock.now()
        with pytest.raises(BrokerUnavailable) as caught:
            await clock.fly(backend.open())
        assert not isinstance(caught.value, BrokerRefused)
        assert isinstance(caught.value, ConnectionError)
        assert 20 <= clock.now() - began < 30  # each turn of the loop takes half a second on this clock
        assert not tasks_of_backends()
        await shaky.come_up()
        async with backend:
            assert backend.stats()["open"] is True

    async def test_waits_for_a_broker_that_is_coming(self, shaky: Lab) -> None:
        shaky.go_down()
        backend = shaky.make(connect_timeout=10)
        opening = asyncio.create_task(backend.open())
        await eventually(lambda: int(backend.stats()["failed_connects"]) >= 1)
        await shaky.come_up()
        await opening
        await backend.close()


class TestBeingRefused:
    async def test_by_a_memory_broker(self) -> None:
        broker = MemoryBroker.named(new_name())
        broker.refuse("403 ACCESS_REFUSED")
        began = monotonic()
        with pytest.raises(BrokerRefused, match="403"):
            await AMQPBackend(f"memory://{broker.name}", connect_timeout=30).open()
        assert monotonic() - began < 20
        broker.refuse(None)
        MemoryBroker.forget(broker.name)

    @pytest.mark.parametrize(("old", "new"), [("guest:guest@", "guest:wrong@"), ("guest:guest@", "nobody:guest@")])
    async def test_for_its_password(self, amqp_url: str, old: str, new: str) -> None:
        backend, began = AMQPBackend(amqp_url.replace(old, new), connect_timeout=30), monotonic()
        with pytest.raises(BrokerRefused, match="ACCESS_REFUSED") as caught:
            await backend.open()
        assert monotonic() - began < 20
        assert "wrong" not in str(caught.value)
        assert not tasks_of_backends()

    async def test_for_its_vhost(self, amqp_url: str) -> None:
        backend = AMQPBackend(amqp_url.rstrip("/") + "/no-such-vhost", connect_timeout=30)
        with pytest.raises(BrokerRefused, match="no-such-vhost"):
            await backend.open()

    async def test_by_nobody(self) -> None:
        with socket.socket() as taken:  # so that nobody can come to listen there
            taken.bind(("127.0.0.1", 0))
            url = f"amqp://127.0.0.1:{taken.getsockname()[1]}/"
            backend, began = AMQPBackend(url, connect_timeout=0.5), monotonic()
            with pytest.raises(BrokerUnavailable):
                await backend.open()
            assert monotonic() - began < 9  # 10 is the default

    async def test_by_one_that_does_not_speak(self) -> None:
        hung_up = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()
            hung_up.set()

        async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            backend, began = AMQPBackend(f"amqp://127.0.0.1:{port}/", connect_timeout=0.5), monotonic()
            with pytest.raises(BrokerUnavailable):
                await backend.open()
            assert monotonic() - began < 9
            await asyncio.wait_for(hung_up.wait(), 30)

    @only("per_task")
    async def test_later_fails_who_waits_and_the_next_call_tries_again(self) -> None:
        broker = MemoryBroker.named(new_name())
        async with AMQPBackend(f"memory://{broker.name}") as backend:
            waiting = asyncio.create_task(backend.wait_for(new_id()))
            await eventually(lambda: backend.stats()["consuming"] == 1)
            broker.refuse("403 the password was changed")
            broker.cut()
            with pytest.raises(BrokerRefused, match="password was changed"):
                await waiting
            with pytest.raises(BrokerRefused):
                await backend.store_result(new_id(), 1)
            broker.refuse(None)
            task_id = new_id()
            again = asyncio.create_task(backend.wait_for(task_id, timeout=30))
            await eventually(lambda: backend.stats()["consuming"] == 1)
            await backend.store_result(task_id, "welcome")
            assert await again == "welcome"
        MemoryBroker.forget(broker.name)


class TestClosing:
    async def test_twice_at_once_and_from_another_task(self, lab: Lab) -> None:
        backend = lab.make()
        await backend.open()
        await asyncio.gather(backend.close(), asyncio.create_task(backend.close()), backend.close())
        await backend.close()
        assert not tasks_of_backends()

    async def test_what_was_never_opened(self, lab: Lab) -> None:
        backend = lab.make()
        await backend.close()
        with pytest.raises(BackendClosed, match="was not opened yet"):
            await backend.get_task_meta(new_id())
        async with backend:
            assert backend.stats()["open"] is True

    async def test_it_can_be_opened_again(self, lab: Lab) -> None:
        backend, addresses = lab.make(), set()
        for _ in range(3):
            async with backend:
                task_id = new_id()
                addresses.add(backend.reply_to)
                request = Request(reply_to=backend.reply_to)
                await backend.store_result(task_id, 1, request=request)
                assert await backend.wait_for(task_id, timeout=30) == 1
            with pytest.raises(BackendClosed, match="is closed"):
                await backend.get_task_meta(task_id)
        assert len(addresses) == (3 if backend.routing.needs_reply_to else 1)
        await backend.close()

    def test_it_can_be_opened_in_another_event_loop(self) -> None:
        backend = AMQPBackend("memory://reopened", routing=ReplyQueue())

        async def use() -> None:
            async with backend:
                await backend.store_result("task", 1, request=Request(reply_to=backend.reply_to))
                assert await backend.wait_for("task", timeout=30) == 1

        for _ in range(2):
            asyncio.run(use())
        MemoryBroker.forget("reopened")

    async def test_opened_while_it_is_closed_it_begins_anew(self, lab: Lab) -> None:
        backend = lab.make()
        await backend.open()
        closing = asyncio.create_task(backend.close())
        await asyncio.sleep(0)
        await backend.open()
        assert closing.done()
        assert backend.stats()["open"] is True
        await backend.close()

    async def test_opened_twice_while_it_is_closed_it_begins_once(self, lab: Lab) -> None:
        backend = lab.make()
        await backend.open()
        closing = asyncio.create_task(backend.close())
        await asyncio.sleep(0)
        await asyncio.gather(backend.open(), backend.open(), closing)
        await backend.close()
        assert not tasks_of_backends()

    async def test_ends_every_wait(self, lab: Lab, raw: Raw) -> None:
        backend, task_id = await lab.open(), new_id()
        waits = [
            asyncio.create_task(each)
            for each in (
                backend.wait_for(task_id),
                backend.consume(task_id, timeout=60),
                awaited(backend, [task_id, new_id()]),
                collect(backend, task_id),
                backend.drain_events(),
            )
        ]
        await raw.waited_for(backend, task_id)
        await asyncio.wait_for(backend.close(), 30)
        for outcome in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(outcome, BackendClosed)

    async def test_while_the_broker_is_away(self, shaky: Lab) -> None:
        backend = await shaky.open()
        request = Request(reply_to=backend.reply_to)
        waiting = asyncio.create_task(backend.wait_for(new_id()))
        shaky.go_down()
        await eventually(lambda: not backend.stats()["connected"])
        storing = asyncio.create_task(backend.store_result(new_id(), 1, request=request))
        await eventually(lambda: backend.stats()["unconfirmed"] == 1)
        began = monotonic()
        await backend.close()
        assert monotonic() - began < 8
        for outcome in await asyncio.gather(waiting, storing, return_exceptions=True):
            assert isinstance(outcome, BackendClosed)
        assert not tasks_of_backends()
        await shaky.come_up()

    async def test_publishes_what_is_waiting(
        self, lab: Lab, caller: AMQPBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aioresults.runtime.CLOSE_TIMEOUT", 60)
        backend, ids = await lab.open(), [new_id() for _ in range(50)]
        request = Request(reply_to=caller.reply_to)
        storing = [asyncio.create_task(backend.store_result(task_id, task_id, request=request)) for task_id in ids]
        await asyncio.sleep(0)
        assert backend.stats()["unconfirmed"] == 50
        await backend.close()
        assert await asyncio.gather(*storing) == ids
        metas = await caller.get_many(ids, timeout=30)
        assert [meta.result for meta in metas.values()] == ids

    @where(by_id=True, returns=True)
    async def test_returns_what_nobody_took(self, lab: Lab, caller: AMQPBackend, store: Store) -> None:
        backend, there, missing = await lab.open(), new_id(), new_id()
        many = asyncio.create_task(awaited(backend, [there, missing]))
        await store(there, "kept")
        await eventually(lambda: backend.stats()["received"] == 1)
        await backend.close()
        with pytest.raises(BackendClosed):
            await many
        assert await caller.wait_for(there, timeout=30) == "kept"

    @only("reply_queue")
    @pytest.mark.parametrize(
        "error",
        [
            ChannelClosed(404, "its node is down or inaccessible"),
            AccessRefused(403, "refused"),
            LookupError("a defect"),
        ],
        ids=repr,
    )
    async def test_though_its_inbox_cannot_be_deleted(self, lab: Lab, raw: Raw, error: Exception) -> None:
        events: list[Event] = []

        class Kept(NoCacheQueue):
            async def delete(self, if_unused: bool = False, if_empty: bool = False) -> int:
                raise error

        class Own(AMQPBackend):
            Queue = Kept

        backend = await lab.make(Own, on_event=events.append).open()
        inbox, waiting = queue_of(backend, new_id()), asyncio.create_task(backend.wait_for(new_id()))
        await waiting_for(backend, 1)
        if isinstance(error, LookupError):
            with pytest.raises(LookupError):
                await backend.close()
        else:
            await backend.close()
            assert events[-1] == QueuesLeft(str(error))
        with pytest.raises(BackendClosed):
            await waiting
        assert backend.stats()["connected"] is False

        async def is_left() -> bool:
            return await raw.consumers(inbox) == 0

        await eventually(is_left)
        await (await raw.channel()).queue_delete(inbox)

    async def test_cancelled_goes_on_to_its_end(self, lab: Lab) -> None:
        backend = lab.make()
        await backend.open()
        closing = asyncio.create_task(backend.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await backend.close()
        assert not tasks_of_backends()
        assert lab.memory is None or lab.memory.connection_count == 0

    async def test_ends_all_use(self, lab: Lab) -> None:
        backend = lab.make()
        for call in CALLS.values():
            with pytest.raises(BackendClosed, match="was not opened yet"):
                await call(backend)
        await backend.open()
        await backend.close()
        for call in CALLS.values():
            with pytest.raises(BackendClosed, match="is closed"):
                await call(backend)

    async def test_ends_reply_to(self, lab: Lab) -> None:
        backend = lab.make()
        with pytest.raises(BackendClosed):
            _ = backend.reply_to
        await backend.open()
        _ = backend.reply_to
        await backend.close()
        with pytest.raises(BackendClosed):
            _ = backend.reply_to


@only("per_task")
@pytest.mark.parametrize("name", CALLS)
async def test_another_event_loop_is_refused(name: str) -> None:
    outcomes: list[BaseException] = []
    async with AMQPBackend(f"memory://{new_name()}") as backend:

        async def call() -> None:
            try:
                await CALLS[name](backend)
            except Exception as error:
                outcomes.append(error)

        thread = threading.Thread(target=lambda: asyncio.run(call()))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert [type(error) for error in outcomes] == [WrongEventLoop]
        assert backend.stats()["waiting"] == 0


async def test_each_loop_may_have_a_backend_of_its_own() -> None:
    url, task_id = f"memory://{new_name()}", new_id()

    async def store() -> None:
        async with AMQPBackend(url) as backend:
            await backend.store_result(task_id, "from another thread")

    async with AMQPBackend(url) as backend:
        waiting = asyncio.create_task(backend.wait_for(task_id, timeout=30))
        await asyncio.to_thread(lambda: asyncio.run(store()))
        assert await waiting == "from another thread"


async def test_a_new_backend_for_a_new_life(lab: Lab, store: Store) -> None:
    first = await lab.open(routing=QueuePerTask() if lab.layout.by_id else None)
    await first.close()
    second = await lab.open()
    with pytest.raises(ResultTimeout):
        await second.wait_for(new_id(), timeout=0.01)
