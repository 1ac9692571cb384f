"""The extension points of the original, the class attributes, and what a backend says about itself."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import aio_pika
import pytest

import aioresults
from aioresults import (
    AioResultsError,
    AMQPBackend,
    BacklogLimitExceeded,
    Consumer,
    Exchange,
    Producer,
    Queue,
    Request,
    RetryPolicy,
    states,
)
from aioresults.errors import NotFound, ResultNotRouted
from aioresults.messaging import NoCacheQueue
from aioresults.transport import Channel
from tests.conformance.lab import Lab, Raw, arrived, new_id, new_name, only, where
from tests.eventually import eventually


class Prefixed(AMQPBackend):
    """Names of its own for the queues of tasks."""

    def rkey(self, task_id: str) -> str:
        return f"app.{super().rkey(task_id)}"


class Audited(AMQPBackend):
    """Declares a queue more with each result that finds none."""

    audit = ""

    def on_reply_declare(self, task_id: str) -> list[Queue]:
        return [*super().on_reply_declare(task_id), Queue(self.audit, queue_arguments={"x-expires": 60_000})]


class Addressed(AMQPBackend):
    """Sends each result to the address in the request, as Celery's rpc backend does."""

    def destination_for(self, task_id: str, request: Any | None = None) -> tuple[str, str]:
        return request.reply_to if request else "", f"corr-{task_id}"

    def on_reply_declare(self, task_id: str) -> list[Queue]:
        return []


class Revived(AMQPBackend):
    """Declares a queue of its own in each session."""

    audit = ""
    sessions = 0

    async def revive(self, channel: Channel) -> None:
        type(self).sessions += 1
        await channel.queue_declare(self.audit, arguments={"x-expires": 60_000})


class Latest(AMQPBackend):
    """Has the latest result of an id count, whatever it is."""

    def supersedes(self, new: str, old: str) -> bool:
        return new in states.READY_STATES or old not in states.READY_STATES


class TestOrder:
    @where(by_id=True, history=True, returns=True)
    async def test_supersedes_says_which_report_counts(self, lab: Lab, worker: AMQPBackend) -> None:
        caller, task_id = await lab.open(Latest), new_id()
        for result, status in ((1, "SUCCESS"), (ValueError("no"), "FAILURE"), (2, "SUCCESS"), (None, "STARTED")):
            await worker.store_result(task_id, result, status)
        await arrived(caller, task_id)

        async def counts(result: int) -> bool:
            return bool((await caller.get_task_meta(task_id)).result == result)

        await eventually(lambda: counts(2))
        await worker.store_result(task_id, 3)
        await eventually(lambda: counts(3))
        assert (await caller.consume(task_id, timeout=0)).result == 3

    async def test_who_waits_is_told_of_a_result_once(self, lab: Lab, worker: AMQPBackend) -> None:
        caller, task_id, told = await lab.open(Latest), new_id(), asyncio.Queue[Any]()
        request = Request(reply_to=caller.reply_to)
        many = caller.get_many([task_id, other_id := new_id()], timeout=30, on_message=told.put_nowait)
        waiting = asyncio.ensure_future(many)
        await worker.store_result(task_id, 1, request=request)
        assert (await told.get()).result == 1
        for _ in range(3):  # others come and go
            assert await caller.wait_for(task_id, timeout=30) == 1
        await worker.store_result(other_id, 2, request=request)
        await waiting
        assert [told.get_nowait().result for _ in range(told.qsize())] == [2]

    @only("reply_queue")
    async def test_supersedes_of_what_nobody_has_asked_for(self, lab: Lab, worker: AMQPBackend) -> None:
        caller, task_id = await lab.open(Latest), new_id()
        request = Request(reply_to=caller.reply_to)
        for number in (1, 2):
            await worker.store_result(task_id, number, request=request)
        await eventually(lambda: caller.stats()["received"] == 2)
        assert await caller.wait_for(task_id, timeout=10) == 2
        await worker.store_result(task_id, 3, request=request)
        await eventually(lambda: caller.stats()["received"] == 3)
        assert (await caller.get_task_meta(task_id)).result == 3
        assert caller.stats()["redundant"] == 0


@where(by_id=True)
class TestSubclasses:
    @where(shared=False)
    async def test_rkey_names_the_queue(self, lab: Lab, raw: Raw) -> None:
        worker, caller, task_id = await lab.open(Prefixed), await lab.open(Prefixed), new_id()
        assert caller.rkey(task_id) == f"app.{AMQPBackend.rkey(caller, task_id)}"
        await worker.store_result(task_id, None, "STARTED")
        assert await raw.ready(caller.rkey(task_id)) == 1
        assert (await caller.get_task_meta(task_id)).status == "STARTED"
        await worker.store_result(task_id, 1)
        assert await caller.wait_for(task_id, timeout=30) == 1
        await raw.gone(caller, task_id)

    @where(shared=False)
    async def test_on_reply_declare_is_declared_with_the_first_report(self, lab: Lab, raw: Raw) -> None:
        audit = new_name()
        worker, task_id = await lab.open(type("Audited", (Audited,), {"audit": audit})), new_id()
        assert [queue.name for queue in worker.on_reply_declare(task_id)] == [worker.rkey(task_id), audit]
        await worker.store_result(task_id, 1)
        assert await raw.queue(audit) is not None
        assert await worker.wait_for(task_id, timeout=30) == 1

    @where(by_id=True)
    async def test_destination_for_says_where_a_result_goes(self, lab: Lab, raw: Raw) -> None:
        backend, queue, task_id = await lab.open(Addressed), new_name(), new_id()
        channel = await raw.channel()
        await channel.queue_declare(queue, arguments={"x-expires": 60_000})
        if exchange := lab.layout.make().exchange.name:
            await channel.queue_bind(queue, exchange, queue)
        await backend.store_result(task_id, 1, request=Request(reply_to=queue))
        assert (await raw.get(queue)).properties.correlation_id == f"corr-{task_id}"

    async def test_a_destination_without_a_queue_is_not_routed(self, lab: Lab) -> None:
        backend, task_id = await lab.open(Addressed, unroutable_policy=[0, 0]), new_id()
        with pytest.raises(ResultNotRouted) as caught:
            await backend.store_result(task_id, 1, request=Request(reply_to="nobody"))
        assert caught.value.task_id == task_id
        assert caught.value.destination.endswith("nobody")

    async def test_revive_is_awaited_in_each_session(self, shaky: Lab) -> None:
        audit = new_name()
        cls = cast("type[Revived]", type("Revived", (Revived,), {"audit": audit}))
        backend, raw = await shaky.open(cls), shaky.raw()
        assert cls.sessions == 1
        assert await raw.queue(audit) is not None
        shaky.cut()
        await eventually(lambda: backend.stats()["sessions"] == 2 and bool(backend.stats()["connected"]))
        assert cls.sessions == 2

    async def test_an_error_of_revive_is_raised_by_open(self, lab: Lab) -> None:
        class Failing(AMQPBackend):
            async def revive(self, channel: Channel) -> None:
                await channel.queue_declare("no-such-queue", passive=True)

        with pytest.raises(NotFound):
            await lab.open(Failing)

    async def test_a_defect_of_revive_is_told_at_once(self, lab: Lab) -> None:
        class Defective(AMQPBackend):
            async def revive(self, channel: Channel) -> None:
                raise KeyError("a defect")

        with pytest.raises(AioResultsError, match="a defect") as caught:
            await asyncio.wait_for(lab.open(Defective), 30)
        assert isinstance(caught.value.__cause__, KeyError)

    async def test_by_default_the_connection_for_it_is_not_opened(self, lab: Lab) -> None:
        backend = await lab.open()
        await backend.revive(cast("Channel", None))
        assert lab.memory is None or lab.memory.connection_count == 2


class TestClassAttributes:
    def test_are_those_of_the_original(self) -> None:
        assert AMQPBackend.Consumer is Consumer
        assert AMQPBackend.Exchange is Exchange
        assert AMQPBackend.Producer is Producer
        assert AMQPBackend.Queue is NoCacheQueue
        assert AMQPBackend.BacklogLimitExceeded is BacklogLimitExceeded
        assert AMQPBackend.persistent is True
        assert AMQPBackend.supports_autoexpire is True
        assert RetryPolicy.of(AMQPBackend.retry_policy) == RetryPolicy(20, 0, 1, 1)

    @where(shared=False)
    @where(by_id=True)
    async def test_of_a_subclass_are_its_defaults(self, lab: Lab, raw: Raw) -> None:
        class Mine(AMQPBackend):
            persistent = False
            retry_policy = {"max_retries": 1}  # noqa: RUF012

        exchange = lab.layout.make().exchange.name and new_name()
        backend, task_id = await lab.open(Mine, exchange=exchange or None), new_id()
        assert backend.retry_policy == RetryPolicy(max_retries=1)
        await backend.store_result(task_id, 1)
        assert (await raw.get(backend.rkey(task_id))).properties.delivery_mode == 1
        assert lab.make(Mine, persistent=True, retry_policy=RetryPolicy(2)).persistent is True


class TestReplyTo:
    async def test_is_the_address_the_routing_has(self, lab: Lab, caller: AMQPBackend, raw: Raw) -> None:
        if lab.layout.by_id:
            assert caller.reply_to is None
        else:
            assert caller.reply_to is not None
            assert await raw.queue(caller.reply_to) is not None


class TestDescribing:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("amqp://user:s3cret@host:5673/vhost", "amqp://user:**@host:5673/vhost"),
            ("amqps://user:s3cret@host/", "amqps://user:**@host"),
            ("amqp://host", "amqp://host"),
            ("memory://name", "memory://name"),
        ],
    )
    def test_a_url_is_shown_without_its_password(self, url: str, shown: str) -> None:
        backend = AMQPBackend(url)
        assert backend.as_uri().rstrip("/").startswith(shown.rstrip("/"))
        assert "s3cret" not in backend.as_uri() + repr(backend) + str(backend) + str(backend.stats())
        if "s3cret" in url:
            assert "s3cret" in backend.as_uri(include_password=True)

    def test_the_nodes_of_a_cluster(self) -> None:
        backend = AMQPBackend(["amqp://a:pw1@one/", "amqp://b:pw2@two/"])
        assert "pw" not in backend.as_uri() + repr(backend)

    async def test_no_password_in_logs_and_errors(self, caplog: pytest.LogCaptureFixture) -> None:
        backend = AMQPBackend("amqp://user:s3cret@127.0.0.1:1/", connect_timeout=0.1)
        with caplog.at_level(logging.DEBUG, "aioresults"), pytest.raises(aioresults.BrokerUnavailable) as caught:
            await backend.open()
        assert "s3cret" not in caplog.text
        chain: BaseException | None = caught.value
        while chain is not None:
            assert "s3cret" not in f"{chain!s} {chain!r}"
            chain = chain.__cause__ or chain.__context__

    async def test_stats_are_plain_values(self, lab: Lab, caller: AMQPBackend) -> None:
        stats = caller.stats()
        assert all(isinstance(value, (int, bool, str)) for value in stats.values())
        assert (stats["open"], stats["connected"], stats["last_error"], stats["sessions"]) == (True, True, "", 1)
        counters = ("waiting", "cached", "received", "undecodable", "unconfirmed", "stored", "retried")
        assert [stats[name] for name in counters] == [0] * 7
        task_id = new_id()
        await caller.store_result(task_id, 1, request=Request(reply_to=caller.reply_to))
        await caller.wait_for(task_id, timeout=30)
        stats = caller.stats()
        assert (stats["stored"], stats["received"], stats["cached"], stats["waiting"]) == (
            1,
            1,
            not lab.layout.shared,
            0,
        )


class TestConnection:
    """`connection=`: a callable that opens the aio-pika connection."""

    async def test_is_used_instead_of_a_url(self, amqp_url: str) -> None:
        opened = []

        async def connect() -> Any:
            opened.append(await aio_pika.connect(amqp_url))
            return opened[-1]

        task_id = new_id()
        async with AMQPBackend(connection=connect) as backend:
            await backend.store_result(task_id, 1)
            assert await backend.wait_for(task_id, timeout=30) == 1
            assert "guest" not in repr(backend)
        assert len(opened) == 2
        assert all(connection.is_closed for connection in opened)

    async def test_that_fails_is_unavailable(self) -> None:
        async def connect() -> Any:
            raise ConnectionRefusedError("nobody there")

        with pytest.raises(aioresults.BrokerUnavailable, match="nobody there"):
            await AMQPBackend(connection=connect, connect_timeout=0.2).open()

    async def test_the_next_node_is_tried(self, amqp_url: str) -> None:
        async with AMQPBackend(["amqp://127.0.0.1:1/", amqp_url], connect_timeout=10) as backend:
            assert backend.stats()["connected"] is True

    @only("per_task")
    async def test_a_broker_in_this_process(self) -> None:
        url, task_id = f"memory://{new_name()}", new_id()
        async with AMQPBackend(url) as worker, AMQPBackend(url) as caller:
            await worker.store_result(task_id, 1)
            assert await caller.wait_for(task_id, timeout=30) == 1


class TestUsersOwnChannel:
    @where(by_id=True)
    async def test_what_goes_wrong_on_it_disturbs_nothing(self, lab: Lab) -> None:
        channels: list[Channel] = []

        class Keeping(AMQPBackend):
            async def revive(self, channel: Channel) -> None:
                channels.append(channel)

        backend, task_id = await lab.open(Keeping), new_id()
        waiting = asyncio.create_task(backend.wait_for(task_id, timeout=30))
        await eventually(lambda: backend.stats()["consuming"] == 1)
        with pytest.raises(NotFound):
            await channels[0].queue_declare("no-such-queue", passive=True)
        await backend.store_result(task_id, 1)
        assert await waiting == 1
        assert backend.stats()["sessions"] == 1


async def test_own_producer_and_consumer(lab: Lab, raw: Raw) -> None:
    """The nouns work with a channel of the user's own."""
    queue, received = new_name(), asyncio.get_running_loop().create_future()
    channel = await raw.channel()
    own = await Queue(queue, expires=60)(channel).declare()
    await Producer(channel).publish(b"body", queue, mandatory=True)

    def on_message(message: Any) -> None:
        message.ack()
        received.set_result(message.body)

    await Consumer(channel, Queue(own.queue, expires=60), on_message=on_message).consume()
    assert await asyncio.wait_for(received, 30) == b"body"
