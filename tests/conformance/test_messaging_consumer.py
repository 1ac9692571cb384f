"""`Consumer` and `Message`, on every broker: what is received, by whom, and what becomes of it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from aioresults import (
    ChannelClosed,
    ConfigurationError,
    Consumer,
    ContentDisallowed,
    DecodeError,
    Exchange,
    Message,
    MessageStateError,
    NotBoundError,
    NotFound,
    NotSupported,
    Producer,
    Queue,
)
from tests.conformance.bench import Bench, Received
from tests.eventually import eventually


class TestCallbacks:
    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_get_decoded_bodies_in_order(self, bench: Bench, asynchronous: bool) -> None:
        queue, received, order = await bench.queue(), Received(), []

        async def later(body: object, message: Message) -> None:
            await asyncio.sleep(0.001)
            order.append(("later", body))

        def first(body: object, message: Message) -> None:
            order.append(("first", body))

        callbacks = [first, *([later] if asynchronous else [])]
        consumer = Consumer(bench.channel, queue, callbacks=callbacks)
        consumer.register_callback(received.value)
        await consumer.consume()
        for number in range(5):
            await Producer(bench.channel).publish({"n": number}, queue.name)
        await received.wait(5)
        assert received.values == [{"n": number} for number in range(5)]
        expected = [(name, {"n": n}) for n in range(5) for name in ["first", *(["later"] if asynchronous else [])]]
        assert order == expected
        await consumer.cancel()

    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_on_message_gets_it_undecoded(self, bench: Bench, asynchronous: bool) -> None:
        queue, received = await bench.queue(b"{", b"]"), Received()

        async def later(message: Message) -> None:
            await asyncio.sleep(0.001)
            received.message(message)

        on_message = later if asynchronous else received.message
        async with Consumer(bench.channel, queue, on_message=on_message, callbacks=[lambda *_: 1 / 0]):
            assert await received.wait(2) == [b"{", b"]"]

    async def test_acknowledge_from_plain_and_async_ones(self, bench: Bench) -> None:
        queue, received = await bench.queue(b"1", b"2"), Received()

        def plain(message: Message) -> None:
            message.ack()
            received.message(message)

        async def later(message: Message) -> None:
            await message.ack()
            received.message(message)

        async with Consumer(bench.channel, queue, on_message=plain) as consumer:
            await received.wait(2)
            consumer.on_message = later
            await bench.put(queue, b"3")
            await received.wait(3)
        await bench.channel.close()
        assert await bench.ready(queue) == 0

    async def test_one_that_fails_is_logged_and_the_next_message_comes(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue, received = await bench.queue(b"1", b"2"), Received()

        def fail(body: object, message: Message) -> None:
            if body == b"1":
                raise ValueError("mine")

        def fail_at_once(message: Message) -> None:
            received.message(message)
            raise ValueError("mine")

        async with Consumer(bench.channel, queue, callbacks=[fail, received.value]):
            assert await received.wait(1) == [b"2"]
        async with Consumer(bench.channel, await bench.queue(b"3"), on_message=fail_at_once):
            await received.wait(2)
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert ["stays unacknowledged" in record.message for record in errors] == [True, True]
        await bench.channel.close()
        await eventually(lambda: _is_ready(bench, queue, 2))

    async def test_receive_without_any(self, bench: Bench) -> None:
        queue = await bench.queue(b"1")
        message = await queue.get()
        assert message is not None
        with pytest.raises(ConfigurationError, match="no callbacks"):
            await Consumer(bench.channel).receive(b"1", message)

    async def test_receive_may_be_overridden(self, bench: Bench) -> None:
        received = Received()

        class Mine(Consumer):
            async def receive(self, body: Any, message: Message) -> None:
                await super().receive(body.decode().upper(), message)

        async with Mine(bench.channel, await bench.queue(b"abc"), callbacks=[received.value]):
            await received.wait(1)
        assert received.values == ["ABC"]


async def _is_ready(bench: Bench, queue: Queue, count: int) -> bool:
    return await bench.ready(queue) == count


class TestAccept:
    async def test_refuses_the_rest(self, bench: Bench) -> None:
        queue, refused, received = await bench.queue(), [], Received()
        consumer = Consumer(
            bench.channel, queue, callbacks=[received.value], accept=["json"],
            on_decode_error=lambda message, error: refused.append((message, error)),
        )  # fmt: skip
        assert consumer.accept == frozenset({"application/json"})
        async with consumer:
            producer = Producer(bench.channel, routing_key=queue.name)
            await producer.publish({"a": 1}, serializer="msgpack")
            await producer.publish(b"{", content_type="application/json")
            await producer.publish({"a": 1})
            await received.wait(1)
        assert received.values == [{"a": 1}]
        assert [type(error) for _, error in refused] == [ContentDisallowed, DecodeError]
        assert Consumer.ContentDisallowed is ContentDisallowed
        for message, _ in refused:
            assert not message.acknowledged
            await message.reject()

    async def test_without_on_decode_error_it_is_logged(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        queue, received = await bench.queue(), Received()
        async with Consumer(bench.channel, queue, callbacks=[received.value]):
            producer = Producer(bench.channel, routing_key=queue.name)
            await producer.publish(b"secret", content_type="application/x-python-serialize")
            await producer.publish(1)
            await received.wait(1)
        assert "application/x-python-serialize" in caplog.text
        assert "secret" not in caplog.text

    async def test_iterating_and_getting(self, bench: Bench) -> None:
        queue = await bench.queue()
        await Producer(bench.channel).publish({"a": 1}, queue.name, serializer="msgpack")
        message = await queue.get(accept=["json"])
        assert message is not None
        with pytest.raises(ContentDisallowed, match="msgpack"):
            message.decode()
        message.requeue()
        async with Consumer(bench.channel, queue, accept=["json"]) as consumer:
            again = await anext(consumer)
            with pytest.raises(ContentDisallowed):
                _ = again.payload

    def test_names_must_be_known(self) -> None:
        with pytest.raises(ConfigurationError, match="pickle"):
            Consumer(accept=["pickle"])
        with pytest.raises(ConfigurationError, match="collection"):
            Consumer(accept="json")


class TestMessages:
    async def test_what_is_known_of_one(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())
        queue = Queue(bench.name(), exchange, "k", expires=60)
        async with Consumer(bench.channel, queue) as consumer:
            await Producer(bench.channel).publish(
                {"a": 1}, "k", exchange=exchange, headers={"h": 1}, correlation_id="c"
            )
            message = await anext(consumer)
        assert message.delivery_info == {
            "consumer_tag": queue.name, "delivery_tag": message.delivery_tag, "redelivered": False,
            "exchange": exchange.name, "routing_key": "k",
        }  # fmt: skip
        assert (message.headers["h"], message.properties.correlation_id) == (1, "c")
        assert (message.channel, message.content_encoding) == (bench.channel, "utf-8")
        assert "routing" not in repr(message)

    @pytest.mark.parametrize("action", ["ack", "nack", "reject", "requeue"])
    async def test_acting_twice(self, bench: Bench, action: str) -> None:
        queue = await bench.queue(b"1")
        for again in ("ack", "nack", "reject", "requeue"):
            message = await queue.get()
            if message is None:
                await bench.put(queue, b"1")
                message = await queue.get()
            assert message is not None
            states = [message.acknowledged]
            await getattr(message, action)()
            states.append(message.acknowledged)
            assert states == [False, True]
            with pytest.raises(MessageStateError) as error:
                getattr(message, again)()
            assert error.value.state in str(error.value)
        assert (await queue.declare()).queue == queue.name  # the channel lives

    async def test_what_becomes_of_it(self, bench: Bench) -> None:
        dead = await bench.queue()
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name}
        queue = Queue(bench.name(), queue_arguments=arguments, expires=60)(bench.channel)
        await queue.declare()
        await bench.put(queue, b"ack", b"reject", b"nack", b"requeue", b"reject requeue")
        found = [await queue.get() for _ in range(5)]
        by_body = {message.body: message for message in found if message}
        by_body[b"ack"].ack()
        by_body[b"reject"].reject()
        by_body[b"nack"].nack(requeue=False)
        by_body[b"requeue"].requeue()
        by_body[b"reject requeue"].reject(requeue=True)
        await eventually(lambda: _is_ready(bench, dead, 2))
        assert await bench.bodies(dead, 2) == [b"reject", b"nack"]
        await eventually(lambda: _is_ready(bench, queue, 2))
        assert await bench.bodies(queue, 3) == [b"requeue", b"reject requeue"]

    async def test_multiple(self, bench: Bench) -> None:
        queue = await bench.queue(b"1", b"2", b"3")
        found = [await queue.get() for _ in range(3)]
        assert found[1] is not None
        found[1].ack(multiple=True)
        await bench.channel.close()
        await eventually(lambda: _is_ready(bench, queue, 1))
        assert await bench.bodies(queue, 1) == [b"3"]

    async def test_void_on_a_closed_channel(self, bench: Bench) -> None:
        queue = await bench.queue(b"1")
        message = await queue.get()
        assert message is not None
        await bench.channel.close()
        message.ack()
        assert message.acknowledged
        await eventually(lambda: _is_ready(bench, queue, 1))

    async def test_no_ack(self, bench: Bench) -> None:
        queue = await bench.queue(b"1", b"2")
        async with Consumer(bench.channel, queue, no_ack=True) as consumer:
            for _ in range(2):
                message = await anext(consumer)
                assert message.acknowledged
                message.ack()  # nothing to do: sent, it would close the channel
                with pytest.raises(MessageStateError, match="no_ack"):
                    message.requeue()
        assert (await queue.declare()).message_count == 0


class TestWhereItCameFrom:
    @pytest.mark.parametrize("prefix", ["", "mine."])
    async def test_of_two_queues_on_one_consumer(self, bench: Bench, prefix: str) -> None:
        queues, received = [await bench.queue(b"1"), await bench.queue(b"2")], Received()
        async with Consumer(bench.channel, queues, on_message=received.message, tag_prefix=prefix):
            await received.wait(2)
        found = {(message.body, message.queue, message.consumer_tag) for message in received}
        assert found == {
            (b"1", queues[0].name, prefix + queues[0].name),
            (b"2", queues[1].name, prefix + queues[1].name),
        }

    async def test_consumed_without_acknowledgement(self, bench: Bench) -> None:
        queue = await bench.queue(b"1")
        async with Consumer(bench.channel, queue, no_ack=True) as consumer:
            assert (await anext(consumer)).queue == queue.name

    async def test_fetched(self, bench: Bench) -> None:
        queue = await bench.queue(b"1")
        message = await queue.get()
        assert message is not None
        assert (message.queue, message.consumer_tag) == (queue.name, None)

    async def test_received_by_other_means(self, bench: Bench) -> None:
        queue = await bench.queue(b"1")
        delivery = await bench.channel.basic_get(queue.name)
        assert delivery is not None
        assert Message(delivery).queue is None


class Reader:
    """A receiver that keeps what it gets, and raises with messages that say so."""

    def __init__(self) -> None:
        self.received = Received()
        self.cancelled: list[str] = []

    def on_message(self, message: Message) -> None:
        self.received.message(message)
        if message.body == b"raise":
            raise ValueError("mine")

    def on_cancel(self, consumer: Consumer, queue: str) -> None:
        self.cancelled.append(queue)


class TestReceiver:
    @pytest.mark.parametrize("prefix", ["", "mine."])
    async def test_is_told_of_messages_and_cancelled_consumers(self, bench: Bench, prefix: str) -> None:
        queue, reader = await bench.queue(b"1", b"2"), Reader()
        consumer = Consumer(bench.channel, tag_prefix=prefix)
        consumer.receiver = reader
        await consumer.attach(queue.name)
        assert await reader.received.wait(2) == [b"1", b"2"]
        await bench.delete(queue)
        await eventually(lambda: reader.cancelled == [queue.name])

    async def test_takes_the_place_of_what_a_subclass_sets(self, bench: Bench) -> None:
        told: list[object] = []

        class Mine(Consumer):
            on_message = told.append
            on_cancel = told.append

        queue, reader = await bench.queue(b"1"), Reader()
        consumer = Mine(bench.channel, queue, callbacks=[print])
        consumer.receiver = reader
        await consumer.consume()
        await reader.received.wait(1)
        await bench.delete(queue)
        await eventually(lambda: reader.cancelled == [queue.name])
        assert told == []

    async def test_one_that_fails_is_logged_and_the_next_message_comes(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        queue, reader = await bench.queue(b"raise", b"2"), Reader()
        consumer = Consumer(bench.channel, queue)
        consumer.receiver = reader
        async with consumer:
            await reader.received.wait(2)
        assert "stays unacknowledged" in caplog.text
        assert not reader.received[0].acknowledged

    def test_is_instead_of_iterating(self) -> None:
        consumer = Consumer()
        consumer.receiver = Reader()
        with pytest.raises(ConfigurationError, match="iterated"):
            aiter(consumer)


class TestQueues:
    async def test_are_declared_before_they_are_consumed(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())
        queue = Queue(bench.name(), exchange, "k", expires=60)
        consumer = Consumer(bench.channel, [queue])
        assert not await bench.exists(queue)
        await consumer.consume()
        await Producer(bench.channel).publish(1, "k", exchange=exchange, mandatory=True)
        assert (await anext(consumer)).payload == 1
        await consumer.close()

    async def test_auto_declare_off(self, bench: Bench) -> None:
        queue = Queue(bench.name(), expires=60)
        with pytest.raises(NotFound):
            await Consumer(bench.channel, queue, auto_declare=False).consume()
        channel = await bench.connection.channel()
        consumer = Consumer(channel, queue, auto_declare=False)
        await consumer.declare()
        await consumer.consume()
        assert consumer.consuming_from(queue)

    async def test_added_ones_are_consumed_by_the_next_consume(self, bench: Bench) -> None:
        first, received = await bench.queue(b"1"), Received()
        consumer = Consumer(bench.channel, first, on_message=received.message)
        await consumer.consume()
        second = await consumer.add_queue(Queue(bench.name(), expires=60))
        await bench.put(second, b"2")
        assert second.is_bound
        assert not consumer.consuming_from(second)
        assert consumer.consuming_from(first.name)
        await received.wait(1)
        await consumer.consume()
        assert consumer.consuming_from(second)
        assert await received.wait(2) == [b"1", b"2"]
        assert consumer.queues == [first, second]
        assert await bench.consumers(first) == 1
        await consumer.cancel()

    async def test_server_named(self, bench: Bench) -> None:
        consumer = Consumer(bench.channel, Queue("", exclusive=True))
        await consumer.consume()
        [queue] = consumer.queues
        assert queue.name.startswith("amq.gen-")
        await Producer(bench.channel).publish(1, queue.name, mandatory=True)
        assert (await anext(consumer)).payload == 1
        added = await consumer.add_queue(Queue("", exclusive=True))
        assert added.name.startswith("amq.gen-")

    async def test_add_queue_from_dict_is_deprecated_and_works(self, bench: Bench) -> None:
        consumer = Consumer(bench.channel)
        with pytest.deprecated_call(match="from_dict"):
            queue = await consumer.add_queue_from_dict(bench.name(), exchange=bench.name(), binding_key="k", expires=60)
        await consumer.consume()
        await Producer(bench.channel).publish(1, "k", exchange=queue.exchange, mandatory=True)
        assert (await anext(consumer)).payload == 1

    async def test_cancel_by_queue(self, bench: Bench) -> None:
        first, second, received = await bench.queue(), await bench.queue(), Received()
        consumer = Consumer(bench.channel, [first, second], on_message=received.message)
        await consumer.consume()
        await consumer.cancel_by_queue(first)
        await consumer.cancel_by_queue("never added")
        assert not consumer.consuming_from(first)
        assert consumer.queues == [second]
        assert await bench.consumers(first) == 0
        await bench.put(second, b"2")
        assert await received.wait(1) == [b"2"]
        await consumer.cancel_by_queue(second.name)

    async def test_purge(self, bench: Bench) -> None:
        consumer = Consumer(bench.channel, [await bench.queue(b"1"), await bench.queue(b"2", b"3")])
        assert await consumer.purge() == 3

    async def test_no_queues(self, bench: Bench) -> None:
        await Consumer(bench.channel, on_message=print).consume()

    async def test_no_ack_of_each_queue(self, bench: Bench) -> None:
        taken, kept = Queue(bench.name(), no_ack=True, expires=60), Queue(bench.name(), expires=60)
        received = Received()
        async with Consumer(bench.channel, [taken, kept], on_message=received.message):
            await bench.put(taken, b"1")
            await bench.put(kept, b"2")
            await received.wait(2)
        assert {message.body: message.acknowledged for message in received} == {b"1": True, b"2": False}
        received.clear()
        async with Consumer(bench.channel, kept, on_message=received.message) as consumer:
            await consumer.cancel()
            await consumer.consume(no_ack=True)
            await bench.put(kept, b"3")
            await received.wait(1)
            assert received[-1].acknowledged

    async def test_attached_ones_leave_nothing_behind(self, bench: Bench) -> None:
        queue, received = await bench.queue(b"1"), Received()
        told: list[str] = []
        consumer = Consumer(bench.channel, on_message=received.message, on_cancel=told.append)
        await consumer.attach(queue.name)
        assert await received.wait(1) == [b"1"]
        assert (consumer.queues, consumer.consuming_from(queue)) == ([], False)
        await bench.delete(queue)
        await eventually(lambda: told == [queue.name])
        again = await bench.queue()
        await consumer.attach(again.name)
        await consumer.cancel_by_queue(again)
        assert await bench.consumers(again) == 0


class TestLimits:
    async def test_prefetch_count(self, bench: Bench) -> None:
        queue, received = await bench.queue(b"1", b"2", b"3"), Received()
        async with Consumer(bench.channel, queue, on_message=received.message, prefetch_count=2):
            await received.wait(2)
            assert await bench.ready(queue) == 1
            received[0].ack()
            assert await received.wait(3) == [b"1", b"2", b"3"]

    async def test_iterating_has_a_limit_of_its_own(self, bench: Bench) -> None:
        queue = await bench.queue(*[b"x"] * 120)
        async with Consumer(bench.channel, queue) as consumer:
            await anext(consumer)
            assert await bench.ready(queue) == 20

    async def test_qos(self, bench: Bench) -> None:
        queue, received = await bench.queue(b"1", b"2"), Received()
        consumer = Consumer(bench.channel, queue, on_message=received.message)
        await consumer.qos(prefetch_count=1)
        await consumer.consume()
        await received.wait(1)
        assert await bench.ready(queue) == 1

    async def test_what_rabbitmq_closes_the_connection_for(self, bench: Bench) -> None:
        consumer = Consumer(bench.channel, await bench.queue())
        for refused in (
            consumer.qos(prefetch_size=1),
            consumer.qos(0, 1, True),
            consumer.flow(False),
            consumer.recover(),
        ):
            with pytest.raises(NotSupported, match="RabbitMQ"):
                await refused
        await consumer.flow(True)
        await consumer.consume()
        assert consumer.consuming_from(consumer.queues[0])

    async def test_recover(self, bench: Bench) -> None:
        queue, received = await bench.queue(b"1"), Received()
        async with Consumer(bench.channel, queue, on_message=received.message) as consumer:
            await received.wait(1)
            await consumer.recover(requeue=True)
            await received.wait(2)
        assert received[1].delivery_info["redelivered"] is True

    async def test_tags(self, bench: Bench) -> None:
        queue = await bench.queue()
        await Consumer(bench.channel, queue, on_message=print).consume()
        with pytest.raises(NotSupported, match="consumer tag"):
            await Consumer(bench.channel, queue, on_message=print).consume()
        assert not bench.channel.is_closed
        async with Consumer(bench.channel, queue, tag_prefix="2.") as second:
            assert await bench.consumers(queue) == 2
            assert second.consuming_from(queue)
        assert await bench.consumers(queue) == 1

    async def test_unbound(self) -> None:
        consumer = Consumer(queues=Queue("q"))
        for operation in (
            consumer.consume(),
            consumer.purge(),
            consumer.declare(),
            consumer.qos(),
            consumer.add_queue(Queue("x")),
        ):
            with pytest.raises(NotBoundError):
                await operation
        with pytest.raises(NotBoundError):
            _ = consumer.connection

    async def test_closed_channel(self, bench: Bench) -> None:
        consumer = Consumer(bench.channel, await bench.queue(), on_message=print)
        await consumer.consume()
        await bench.channel.close()
        assert not consumer.consuming_from(consumer.queues[0])
        for operation in (consumer.declare, consumer.purge, consumer.qos):
            with pytest.raises(ChannelClosed):
                await operation()
        await consumer.cancel()
        await consumer.close()
        with pytest.raises(ChannelClosed):
            await consumer.consume()
