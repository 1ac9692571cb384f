"""`async for message in consumer`, how it ends, and what a consumer does when the broker ends something."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest

from aioresults import BrokerUnavailable, ChannelClosed, ConfigurationError, Consumer, Message, NotFound, Queue
from aioresults.transport.memory import MemoryBroker
from tests.conformance.bench import Bench, Received
from tests.eventually import eventually


async def collect(consumer: Consumer, bodies: list[bytes]) -> None:
    """Acknowledge and collect until it ends normally."""
    async for message in consumer:
        bodies.append(message.body)
        message.ack()


class TestIteration:
    async def test_begins_by_itself(self, bench: Bench) -> None:
        queue = await bench.queue(b"1", b"2")
        bodies = []
        async for message in Consumer(bench.channel, queue):
            bodies.append(message.body)
            message.ack()
            if len(bodies) == 2:
                break
        assert bodies == [b"1", b"2"]
        assert await bench.ready(queue) == 0

    async def test_ends_when_its_owner_cancels(self, bench: Bench) -> None:
        queue = await bench.queue(b"1")
        consumer, bodies = Consumer(bench.channel, queue), list[bytes]()
        collecting = asyncio.create_task(collect(consumer, bodies))
        await eventually(lambda: bodies == [b"1"])
        await consumer.cancel()
        await collecting
        assert bodies == [b"1"]

    async def test_returns_what_nobody_has_seen(self, bench: Bench) -> None:
        queue = await bench.queue(b"1", b"2", b"3")
        async with Consumer(bench.channel, queue) as consumer:
            message = await anext(consumer)
            message.ack()
        assert not bench.channel.is_closed
        await eventually(lambda: _is_ready(bench, queue, 2))
        assert await bench.bodies(queue, 2) == [b"2", b"3"]

    async def test_keeps_what_the_broker_has_forgotten(self, bench: Bench) -> None:
        queue = await bench.queue(b"1", b"2")
        consumer = Consumer(bench.channel, queue, no_ack=True)
        first = await anext(consumer)
        await eventually(lambda: _is_ready(bench, queue, 0))
        await consumer.cancel()  # what is on its way comes before the answer
        assert [first.body, *[message.body async for message in consumer]] == [b"1", b"2"]

    async def test_cancelling_loses_nothing(self, bench: Bench) -> None:
        queue = await bench.queue()
        async with Consumer(bench.channel, queue) as consumer:
            for number in range(20):
                waiting = asyncio.ensure_future(anext(consumer))
                await asyncio.sleep(0)
                if number % 2:
                    await bench.put(queue, str(number).encode())
                waiting.cancel()
                with suppress(asyncio.CancelledError):
                    (await waiting).ack()
            await bench.put(queue, b"last")
            bodies = []
            while b"last" not in bodies:
                message = await anext(consumer)
                bodies.append(message.body)
                message.ack()
        assert len(bodies) + await bench.ready(queue) <= 11
        assert sorted(bodies[:-1], key=int) == bodies[:-1]

    async def test_several_at_once_share_the_messages(self, bench: Bench) -> None:
        queue = await bench.queue()
        consumer = Consumer(bench.channel, queue)
        await consumer.consume()
        bodies: list[bytes] = []
        collecting = [asyncio.create_task(collect(consumer, bodies)) for _ in range(3)]
        await bench.put(queue, *(str(number).encode() for number in range(30)))
        await eventually(lambda: len(bodies) >= 30)
        await consumer.cancel()
        await asyncio.gather(*collecting)
        assert sorted(bodies) == sorted(str(n).encode() for n in range(30))

    async def test_ends_with_the_last_queue_that_its_owner_cancels(self, bench: Bench) -> None:
        queue = await bench.queue()
        consumer = Consumer(bench.channel, queue)
        bodies: list[bytes] = []
        task = asyncio.create_task(collect(consumer, bodies))
        await eventually(lambda: consumer.consuming_from(queue))
        await consumer.cancel_by_queue(queue)
        await asyncio.wait_for(task, 20)
        assert bodies == []

    async def test_attached_queues(self, bench: Bench) -> None:
        queue = await bench.queue(b"1")
        consumer = Consumer(bench.channel)
        await consumer.attach(queue.name)
        assert (await anext(consumer)).body == b"1"

    async def test_without_queues(self, bench: Bench) -> None:
        with pytest.raises(ConfigurationError, match="no queues"):
            await anext(Consumer(bench.channel))

    async def test_not_beside_callbacks(self, bench: Bench) -> None:
        for consumer in (Consumer(bench.channel, on_message=print), Consumer(bench.channel, callbacks=[print])):
            with pytest.raises(ConfigurationError, match="callbacks"):
                async for _ in consumer:
                    pass


async def _is_ready(bench: Bench, queue: Queue, count: int) -> bool:
    return await bench.ready(queue) == count


async def _is_consumed(bench: Bench, queue: Queue, consumers: int) -> bool:
    return await bench.consumers(queue) == consumers


async def waiting(consumer: Consumer) -> asyncio.Task[Message]:
    """Start to wait for a message, and return when it is consumed."""
    task = asyncio.ensure_future(anext(consumer))
    await eventually(lambda: all(consumer.consuming_from(queue) for queue in consumer.queues))
    return task


class TestNeverEndsSilently:
    async def test_when_the_last_queue_is_deleted(self, bench: Bench) -> None:
        queue = await bench.queue()
        task = await waiting(Consumer(bench.channel, queue))
        await bench.delete(queue)
        with pytest.raises(NotFound, match=queue.name):
            await asyncio.wait_for(task, 30)
        assert not bench.channel.is_closed
        assert not await bench.exists(queue)

    async def test_goes_on_while_one_queue_is_left(self, bench: Bench) -> None:
        gone, left = await bench.queue(), await bench.queue()
        told: list[str] = []
        consumer = Consumer(bench.channel, [gone, left], on_cancel=told.append)
        task = await waiting(consumer)
        await bench.delete(gone)
        await eventually(lambda: told == [gone.name])
        await bench.put(left, b"1")
        assert (await asyncio.wait_for(task, 30)).body == b"1"
        assert not consumer.consuming_from(gone)

    async def test_when_the_broker_closes_the_channel(self, bench: Bench) -> None:
        task = await waiting(Consumer(bench.channel, await bench.queue()))
        with pytest.raises(NotFound) as other:
            await Queue(bench.name())(bench.channel).purge()
        with pytest.raises(NotFound) as error:
            await asyncio.wait_for(task, 30)
        assert error.value.reply_text == other.value.reply_text

    async def test_when_somebody_closes_the_channel(self, bench: Bench) -> None:
        task = await waiting(Consumer(bench.channel, await bench.queue()))
        await bench.channel.close()
        with pytest.raises(ChannelClosed):
            await asyncio.wait_for(task, 30)

    async def test_when_the_connection_is_closed(self, bench: Bench) -> None:
        consumer = Consumer(bench.channel, await bench.queue())
        task = await waiting(consumer)
        await bench.connection.close()
        with pytest.raises(BrokerUnavailable):
            await asyncio.wait_for(task, 30)
        with pytest.raises(BrokerUnavailable):
            await anext(consumer)


class TestCancelledByTheBroker:
    async def test_a_deleted_queue_is_told_and_never_declared_again(self, bench: Bench) -> None:
        queue, told, received = await bench.queue(), [], Received()

        async def on_cancel(name: str) -> None:
            await asyncio.sleep(0)
            told.append(name)

        consumer = Consumer(bench.channel, queue, on_message=received.message, on_cancel=on_cancel)
        await consumer.consume()
        await bench.delete(queue)
        await eventually(lambda: told == [queue.name])
        await asyncio.sleep(0.05)
        assert not await bench.exists(queue)
        assert not consumer.consuming_from(queue)
        assert consumer.queues == [queue]

    async def test_a_queue_that_exists_is_consumed_again(self, bench: Bench) -> None:
        """Deleted and declared again by others before the consumer has looked: it is resumed."""
        queue, told, received = await bench.queue(), [], Received()

        def on_cancel(name: str) -> None:
            told.append(name)

        consumer = Consumer(bench.channel, queue, on_message=received.message, on_cancel=on_cancel)
        await consumer.consume()
        # The same that a lost node looks like: a cancel from the broker, for a queue that is there.
        await bench.channel.basic_cancel(queue.name)
        consumer._on_cancelled(queue.name)
        await eventually(lambda: consumer.consuming_from(queue))
        assert told == [queue.name]
        await bench.put(queue, b"1")
        assert await received.wait(1) == [b"1"]

    async def test_the_callback_in_progress_is_waited_for(self, bench: Bench) -> None:
        queue, begun, go = await bench.queue(b"1"), asyncio.Event(), asyncio.Event()

        async def on_message(message: Message) -> None:
            begun.set()
            await go.wait()
            message.ack()

        consumer = Consumer(bench.channel, queue, on_message=on_message)
        await consumer.consume()
        await begun.wait()
        cancelling = asyncio.create_task(consumer.cancel())
        await asyncio.sleep(0.02)
        assert not cancelling.done()
        go.set()
        await cancelling
        await bench.channel.close()
        assert await bench.ready(queue) == 0

    async def test_a_callback_may_cancel(self, bench: Bench) -> None:
        queue, done = await bench.queue(b"1"), asyncio.Event()
        consumer = Consumer(bench.channel, queue)

        async def callback(body: object, message: Message) -> None:
            message.ack()
            await consumer.cancel()
            done.set()

        consumer.register_callback(callback)
        await consumer.consume()
        await asyncio.wait_for(done.wait(), 30)


class TestCancellation:
    @pytest.mark.parametrize("turns", range(8))
    async def test_of_consume_leaves_the_queue_as_it_was(self, bench: Bench, turns: int) -> None:
        queue = await bench.queue()
        consumer = Consumer(bench.channel, queue)
        consuming = asyncio.create_task(consumer.consume())
        for _ in range(turns):
            await asyncio.sleep(0)
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        await consumer.consume()
        await bench.put(queue, b"1")
        assert (await asyncio.wait_for(anext(consumer), 30)).body == b"1"
        assert await bench.consumers(queue) == 1
        assert not bench.channel.is_closed

    async def test_of_the_consumer_while_it_starts(self, bench: Bench) -> None:
        queue = await bench.queue()
        consumer = Consumer(bench.channel, queue, auto_declare=False, on_message=print)
        await consumer.consume()
        await consumer.cancel()
        consuming = asyncio.create_task(consumer.consume())
        await asyncio.sleep(0)
        await consumer.cancel()
        await consuming
        assert not consumer.consuming_from(queue)
        assert await bench.consumers(queue) == 0


class TestRevive:
    async def test_what_was_consumed_is_consumed_again(self, bench: Bench) -> None:
        consumed, added, received = await bench.queue(b"1"), await bench.queue(b"2"), Received()
        lost = await bench.connect()
        consumer = Consumer(await lost.channel(), consumed, on_message=received.message, prefetch_count=1)
        await consumer.consume()
        await received.wait(1)
        await consumer.add_queue(added)
        await lost.close()
        await eventually(lambda: _is_ready(bench, consumed, 1))  # the first again, or the other would come before it
        await bench.put(consumed, b"3")
        await consumer.revive(bench.channel)
        assert consumer.consuming_from(consumed)
        assert not consumer.consuming_from(added)
        await received.wait(2)
        received[0].ack()  # void: that was another channel
        received[1].ack()
        assert await received.wait(3) == [b"1", b"1", b"3"]  # at least once
        assert consumer.connection is bench.connection

    async def test_iteration_goes_on(self, bench: Bench) -> None:
        queue = await bench.queue()
        lost = await bench.connect()
        consumer = Consumer(await lost.channel(), queue)
        task = await waiting(consumer)
        await lost.close()
        with pytest.raises(BrokerUnavailable):
            await asyncio.wait_for(task, 30)
        await consumer.revive(bench.channel)
        await bench.put(queue, b"1")
        assert (await anext(consumer)).body == b"1"

    async def test_a_consumer_without_a_channel_gets_one(self, bench: Bench) -> None:
        consumer = Consumer(queues=await bench.queue(b"1"))
        await consumer.revive(bench.channel)
        assert (await anext(consumer)).body == b"1"


class TestAsyncWith:
    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leaving may take the busy machine longer than it takes at the most."""
        monkeypatch.setattr("aioresults.messaging.consumer.CLOSE_TIMEOUT", 60)

    async def test_cancels_on_exit(self, bench: Bench) -> None:
        queue = await bench.queue()
        async with Consumer(bench.channel, queue, on_message=print):
            assert await bench.consumers(queue) == 1
        assert await bench.consumers(queue) == 0

    async def test_in_a_cancelled_scope(self, bench: Bench) -> None:
        queue = await bench.queue(b"1")
        with anyio.CancelScope() as scope:
            async with Consumer(bench.channel, queue) as consumer:
                await anext(consumer)
                scope.cancel()
                await anyio.sleep_forever()
        assert await bench.consumers(queue) == 0
        assert not bench.channel.is_closed

    @pytest.mark.parametrize("turns", range(1, 12))
    async def test_cancelled_on_entry_consumes_nothing(self, bench: Bench, turns: int) -> None:
        queues = [await bench.queue() for _ in range(3)]

        async def consume() -> None:
            async with Consumer(bench.channel, queues, on_message=print):
                await anyio.sleep_forever()

        consuming = asyncio.create_task(consume())
        for _ in range(turns):
            await asyncio.sleep(0)
        consuming.cancel()
        await asyncio.wait([consuming])
        for queue in queues:
            await eventually(lambda queue=queue: _is_consumed(bench, queue, 0))  # type: ignore[misc]
        assert not bench.channel.is_closed

    async def test_on_a_lost_connection(self, bench: Bench) -> None:
        lost = await bench.connect()
        async with Consumer(await lost.channel(), await bench.queue(), on_message=print):
            await lost.close()


async def test_a_stopped_broker_is_told(bench: Bench) -> None:
    """Only the memory broker can be stopped here; the suite for outages stops the other one."""
    scheme, _, name = bench.url.partition("://")
    if scheme != "memory":
        return
    task = await waiting(Consumer(bench.channel, await bench.queue()))
    MemoryBroker.named(name).restart()
    with pytest.raises(BrokerUnavailable):
        await asyncio.wait_for(task, 30)
    bench.connection = await bench.connect()
    bench._aside = bench.connection
