"""The backend works through the nouns: its own classes are override points, and its channels are the user's."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from aioresults import (
    AMQPBackend,
    BackendClosed,
    BrokerUnavailable,
    Consumer,
    Exchange,
    NotFound,
    Producer,
    Queue,
    ReplyQueue,
    Request,
)
from aioresults.messaging import NoCacheQueue
from aioresults.transport import Channel
from aioresults.transport.base import DeclareOk
from tests.conformance.lab import Lab, Raw, new_id, new_name, only, waiting_for
from tests.eventually import eventually


class CountingProducer(Producer):
    published: ClassVar[list[str]] = []

    async def publish(self, body: Any, routing_key: str | None = None, *args: Any, **options: Any) -> None:
        self.published.append(routing_key or "")
        await super().publish(body, routing_key, *args, **options)


class CountingConsumer(Consumer):
    attached: ClassVar[list[str]] = []
    cancelled: ClassVar[list[str]] = []

    async def attach(self, queue: str, **options: Any) -> None:
        self.attached.append(queue)
        await super().attach(queue, **options)

    async def cancel_by_queue(self, queue: Queue | str) -> None:
        self.cancelled.append(queue if isinstance(queue, str) else queue.name)
        await super().cancel_by_queue(queue)


class CountingQueue(NoCacheQueue):
    declared: ClassVar[list[str]] = []
    got: ClassVar[list[str]] = []
    deleted: ClassVar[list[str]] = []

    async def declare(self, passive: bool = False) -> DeclareOk:
        self.declared.append(self.name)
        return await super().declare(passive)

    async def get(self, *args: Any, **options: Any) -> Any:
        self.got.append(self.name)
        return await super().get(*args, **options)

    async def delete(self, *args: Any, **options: Any) -> int:
        self.deleted.append(self.name)
        return await super().delete(*args, **options)


class CountingExchange(Exchange):
    declared: ClassVar[list[str]] = []

    async def declare(self, nowait: bool = False, passive: bool | None = None) -> None:
        self.declared.append(self.name)
        await super().declare(nowait, passive)


class Mine(AMQPBackend):
    Consumer = CountingConsumer
    Exchange = CountingExchange
    Producer = CountingProducer
    Queue = CountingQueue


class TestOverriding:
    @only("per_task", "celery")
    async def test_a_backend_uses_the_classes_of_its_subclass(self, lab: Lab) -> None:
        backend, task_id = await lab.open(Mine), new_id()
        name = backend.rkey(task_id)
        await backend.store_result(task_id, 1, "STARTED")
        assert (await backend.get_task_meta(task_id)).status == "STARTED"
        waiting = asyncio.create_task(backend.wait_for(task_id, timeout=30))
        await eventually(lambda: name in CountingConsumer.attached)
        await backend.store_result(task_id, 1)
        assert await waiting == 1
        await backend.close()
        assert name in CountingProducer.published
        assert name in CountingConsumer.cancelled
        assert name in CountingQueue.declared
        assert name in CountingQueue.got
        assert name in CountingQueue.deleted
        [queue] = backend.on_reply_declare(task_id)
        assert type(queue) is CountingQueue
        assert type(queue.exchange) is CountingExchange
        if queue.exchange.name:
            assert queue.exchange.name in CountingExchange.declared

    async def test_consumer_tags_are_not_what_results_are_found_by(self, lab: Lab, raw: Raw) -> None:
        class Tagged(Consumer):
            tag_prefix = "mine."

        class Own(AMQPBackend):
            Consumer = Tagged

        backend, task_id = await lab.open(Own), new_id()
        waiting = asyncio.create_task(backend.wait_for(task_id, timeout=60))
        await waiting_for(backend, 1)
        await backend.store_result(task_id, 42, request=Request(reply_to=backend.reply_to))
        assert await waiting == 42
        assert backend.stats()["received"] == 1
        await raw.gone(backend, task_id)

    @only("per_task")
    async def test_an_inbox_too(self, lab: Lab) -> None:
        backend, task_id = await lab.open(Mine, routing=ReplyQueue()), new_id()
        address = backend.reply_to
        assert address in CountingConsumer.attached
        assert address in CountingQueue.declared
        await backend.store_result(task_id, 1, request=Request(reply_to=address))
        assert await backend.wait_for(task_id, timeout=30) == 1
        assert address in CountingProducer.published
        await backend.close()
        assert address in CountingQueue.deleted


@only("per_task")
class TestOwnChannel:
    async def test_has_confirms_and_disturbs_nothing(self, lab: Lab) -> None:
        backend, task_id = await lab.open(), new_id()
        waiting = asyncio.create_task(backend.wait_for(task_id, timeout=30))
        await eventually(lambda: backend.stats()["consuming"] == 1)
        channel = await backend.channel()
        with pytest.raises(NotFound):
            await backend.Producer(channel).publish(1, "k", exchange=new_name())
        channel = await backend.channel()
        with pytest.raises(NotFound):
            await backend.Queue(new_name())(channel).purge()
        await backend.store_result(task_id, 1)
        assert await waiting == 1
        assert backend.stats()["sessions"] == 1

    async def test_one_for_each_session(self, shaky: Lab) -> None:
        revived: list[Channel] = []

        class Reviving(AMQPBackend):
            async def revive(self, channel: Channel) -> None:
                revived.append(channel)

        backend = await shaky.open(Reviving)
        queue = backend.Queue(new_name(), expires=60)
        consumer = backend.Consumer(revived[0], queue)
        producer = backend.Producer(revived[0], routing_key=queue.name)
        iterating = asyncio.ensure_future(anext(consumer))
        await eventually(lambda: consumer.consuming_from(queue))
        shaky.cut()
        with pytest.raises(BrokerUnavailable):
            await asyncio.wait_for(iterating, 30)
        await eventually(lambda: len(revived) == 2)
        await consumer.revive(revived[1])
        await producer.revive(await backend.channel())
        await producer.publish("again", mandatory=True)
        assert (await asyncio.wait_for(anext(consumer), 30)).payload == "again"

    async def test_a_retrying_publish_outlasts_the_session(self, shaky: Lab) -> None:
        queue = Queue(new_name(), expires=60)
        producer = Producer(routing_key=queue.name)

        class Reviving(AMQPBackend):
            async def revive(self, channel: Channel) -> None:
                await producer.revive(channel)

        async with shaky.make(Reviving) as backend:
            await producer.publish(1, declare=[queue])
            shaky.go_down()
            await eventually(lambda: not backend.stats()["connected"])
            policy = {"max_retries": None, "interval_start": 0.05, "interval_step": 0, "interval_max": 0.05}
            publishing = asyncio.create_task(producer.publish(2, retry=True, retry_policy=policy, mandatory=True))
            await asyncio.sleep(0.1)
            assert not publishing.done()
            await shaky.come_up()
            await asyncio.wait_for(publishing, 15)
            ok = await queue(await backend.channel()).declare(passive=True)
            assert ok.message_count == 2

    async def test_who_iterates_is_told_when_the_backend_is_closed(self, lab: Lab) -> None:
        backend = await lab.open()
        queue = backend.Queue(new_name(), expires=60)
        consumer = backend.Consumer(await backend.channel(), queue)
        iterating = asyncio.ensure_future(anext(consumer))
        await eventually(lambda: consumer.consuming_from(queue))
        await backend.close()
        with pytest.raises(BrokerUnavailable):
            await asyncio.wait_for(iterating, 30)
        with pytest.raises(BackendClosed):
            await backend.channel()
