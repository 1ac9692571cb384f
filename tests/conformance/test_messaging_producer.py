"""`Producer`, on every broker."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest

from aioresults import (
    BrokerUnavailable,
    ChannelClosed,
    ConfigurationError,
    EncodeError,
    Exchange,
    InequivalentArgument,
    Message,
    MessageNacked,
    MessageReturned,
    NotBoundError,
    NotFound,
    NotSupported,
    Producer,
    Queue,
    Serializers,
)
from aioresults.messaging import NoCacheQueue, OutgoingMessage
from aioresults.transport.base import Properties
from tests.conformance.bench import Bench
from tests.eventually import eventually

SOON = {"max_retries": 500, "interval_start": 0.01, "interval_step": 0, "interval_max": 0.01}
AT_ONCE = {"max_retries": 3, "interval_start": 0, "interval_step": 0, "interval_max": 0}


async def sent(bench: Bench, body: Any, *, serializers: Serializers | None = None, **options: Any) -> Message:
    """Publish to a queue, and return what is in it then."""
    queue = await bench.queue()
    await Producer(bench.channel, serializers=serializers).publish(body, queue.name, mandatory=True, **options)
    message = await queue.get()
    assert message is not None
    return message


class TestBodies:
    @pytest.mark.parametrize(
        "body", [{"a": [1, None]}, 0, "", "naïve", b"", b"\xff\x00", None, [], datetime.date(2024, 1, 2)]
    )
    async def test_come_back(self, bench: Bench, body: object) -> None:
        message = await sent(bench, body)
        assert message.payload == body
        assert message.payload is message.decode()

    @pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "application/json"])
    @pytest.mark.parametrize("compression", [None, "zlib", "bz2", "lzma"])
    async def test_serializer_and_compression(self, bench: Bench, serializer: str, compression: str | None) -> None:
        message = await sent(bench, {"a": "b" * 500}, serializer=serializer, compression=compression)
        assert message.payload == {"a": "b" * 500}
        assert ("compression" in message.headers) is (compression is not None)
        assert (len(message.body) < 300) is (compression is not None)

    async def test_own_serializer(self, bench: Bench) -> None:
        serializers = Serializers()
        serializers.register("reversed", lambda text: text[::-1], lambda text: text[::-1], "application/x-reversed")
        message = await sent(bench, "abc", serializer="reversed", serializers=serializers)
        assert (message.body, message.content_type) == (b"cba", "application/x-reversed")

    async def test_content_type_means_no_serialization(self, bench: Bench) -> None:
        message = await sent(bench, '{"a": 1}', content_type="application/json")
        assert (message.body, message.content_encoding, message.payload) == (b'{"a": 1}', "utf-8", {"a": 1})
        message = await sent(bench, b"\xe9", content_type="text/plain", content_encoding="latin-1")
        assert message.payload == "é"
        with pytest.raises(EncodeError, match="dict"):
            await sent(bench, {}, content_type="application/json")

    async def test_what_cannot_be_written(self, bench: Bench) -> None:
        queue = await bench.queue()
        producer = Producer(bench.channel, routing_key=queue.name)
        with pytest.raises(EncodeError):
            await producer.publish(object())
        with pytest.raises(ConfigurationError, match="no serializer 'pickle'"):
            await producer.publish(1, serializer="pickle")
        with pytest.raises(ConfigurationError, match="no compression 'rot13'"):
            await producer.publish(1, compression="rot13")
        assert await bench.ready(queue) == 0

    async def test_message_made_before(self, bench: Bench) -> None:
        message = await sent(bench, OutgoingMessage(b"x", Properties(content_type="text/x", type="t")))
        assert (message.body, message.content_type, message.properties.type) == (b"x", "text/x", "t")


class TestProperties:
    async def test_defaults(self, bench: Bench) -> None:
        message = await sent(bench, {})
        properties = message.properties
        assert (properties.delivery_mode, properties.priority, properties.expiration) == (2, 0, None)
        assert (properties.content_type, properties.content_encoding) == ("application/json", "utf-8")

    async def test_all(self, bench: Bench) -> None:
        reply_to = await bench.queue()
        message = await sent(
            bench, {}, delivery_mode="transient", priority=4, headers={"h": 1}, expiration=60.5, reply_to=reply_to,
            correlation_id="c", message_id="m", timestamp=1700000000, type="t", app_id="a",
        )  # fmt: skip
        its = message.properties
        assert (its.delivery_mode, its.priority, its.expiration, its.reply_to) == (1, 4, "60500", reply_to.name)
        assert (its.correlation_id, its.message_id, its.timestamp, its.type, its.app_id) == (
            "c",
            "m",
            1700000000,
            "t",
            "a",
        )
        assert message.headers["h"] == 1

    async def test_unknown(self, bench: Bench) -> None:
        with pytest.raises(ConfigurationError, match=r"unknown properties: \['colour'\]"):
            await sent(bench, {}, colour="red")

    async def test_delivery_mode_of_the_exchange(self, bench: Bench) -> None:
        queue = await bench.queue()
        producer = Producer(bench.channel, Exchange("", delivery_mode="transient"), queue.name)
        await producer.publish(1)
        await producer.publish(1, delivery_mode=2)
        await producer.publish(1, exchange="")
        await producer.publish(1, exchange=Exchange(delivery_mode=2))
        found = [await queue.get() for _ in range(4)]
        assert [message.properties.delivery_mode for message in found if message] == [1, 2, 1, 2]


class TestDeclaring:
    async def test_own_exchange_is_declared_once(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())
        producer = Producer(bench.channel, exchange, "k")
        await producer.publish(1)
        assert not await producer.maybe_declare(exchange)
        await producer.revive(await bench.connection.channel(confirms=True))
        assert await producer.maybe_declare(exchange)
        assert producer.exchange.is_bound

    async def test_auto_declare_off(self, bench: Bench) -> None:
        producer = Producer(bench.channel, bench.name(), "k", auto_declare=False)
        with pytest.raises(NotFound):
            await producer.publish(1)
        await producer.revive(await bench.connection.channel(confirms=True))
        await producer.declare()
        await producer.publish(1)

    async def test_what_may_be_gone_again_is_declared_each_time(self, bench: Bench) -> None:
        producer = Producer(bench.channel)
        assert not await producer.maybe_declare(None)
        for queue in (
            Queue(bench.name(), expires=60),
            NoCacheQueue(bench.name()),
            Queue(bench.name(), auto_delete=True),
        ):
            assert await producer.maybe_declare(queue)
            await bench.delete(queue)
            assert await producer.maybe_declare(queue)
            assert await bench.exists(queue)
        lasting = Queue(bench.name())
        assert await producer.maybe_declare(lasting, retry=True, **AT_ONCE)
        assert not await producer.maybe_declare(Queue(lasting.name))

    async def test_declare_with_the_message(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())
        queue = Queue(bench.name(), exchange, "k", expires=60)
        await Producer(bench.channel).publish(b"1", "k", exchange=exchange, declare=[queue, None], mandatory=True)
        assert await bench.bodies(queue, 1) == [b"1"]

    async def test_inequivalent(self, bench: Bench) -> None:
        queue = await bench.queue()
        with pytest.raises(InequivalentArgument, match="x-expires"):
            await Producer(bench.channel).publish(1, queue.name, declare=[Queue(queue.name, expires=1)])


class TestRefusals:
    async def test_immediate(self, bench: Bench) -> None:
        queue = await bench.queue()
        with pytest.raises(NotSupported, match="immediate"):
            await Producer(bench.channel).publish(1, queue.name, immediate=True)
        assert not bench.channel.is_closed
        assert await bench.ready(queue) == 0

    async def test_unbound(self) -> None:
        producer = Producer()
        for operation in (producer.publish(1, "k"), producer.declare(), producer.maybe_declare(Exchange("x"))):
            with pytest.raises(NotBoundError):
                await operation
        with pytest.raises(NotBoundError):
            _ = producer.connection

    async def test_missing_exchange_and_closed_channel(self, bench: Bench) -> None:
        producer = Producer(bench.channel)
        with pytest.raises(NotFound, match="no exchange"):
            await producer.publish(1, "k", exchange=bench.name())
        with pytest.raises(ChannelClosed):
            await producer.publish(1, "k")
        assert not bench.connection.is_closed

    async def test_pending_when_something_else_closes_the_channel(self, bench: Bench) -> None:
        """A publish is not told that somebody else's queue was not found."""
        queue = await bench.queue()
        producer = Producer(bench.channel)
        publishing = [asyncio.create_task(producer.publish(b"x" * 1000, queue.name)) for _ in range(50)]
        looking = asyncio.create_task(bench.channel.queue_declare(bench.name(), passive=True))
        publishing += [asyncio.create_task(producer.publish(b"x", queue.name)) for _ in range(50)]
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
        with pytest.raises(NotFound):
            await looking
        assert {type(outcome) for outcome in outcomes} <= {type(None), ChannelClosed}

    async def test_pending_when_another_publish_closes_the_channel(self, bench: Bench) -> None:
        queue, missing = await bench.queue(), bench.name()
        producer = Producer(bench.channel)
        bad = asyncio.create_task(producer.publish(b"x", "k", exchange=missing))
        good = [asyncio.create_task(producer.publish(b"x", queue.name)) for _ in range(20)]
        with pytest.raises(NotFound, match=missing):
            await bad
        outcomes = await asyncio.gather(*good, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {ChannelClosed, BrokerUnavailable}


class TestReturns:
    async def test_are_raised(self, bench: Bench) -> None:
        with pytest.raises(MessageReturned) as error:
            await Producer(bench.channel).publish(1, "no-such-queue", mandatory=True)
        assert (error.value.routing_key, error.value.reply_code) == ("no-such-queue", 312)
        await Producer(bench.channel).publish(1, "no-such-queue")

    async def test_go_to_on_return(self, bench: Bench) -> None:
        told: list[tuple[Any, ...]] = []

        async def later(*returned: Any) -> None:
            await asyncio.sleep(0)
            told.append(returned)

        for on_return in (lambda *returned: told.append(returned), later):
            producer = Producer(bench.channel, on_return=on_return)
            await producer.publish(b"x", "no-such-queue", mandatory=True)
        for error, exchange, routing_key, message in told:
            assert isinstance(error, MessageReturned)
            assert (exchange, routing_key, message.body) == ("", "no-such-queue", b"x")
        assert len(told) == 2


class TestRetry:
    async def test_a_negative_confirm_is_tried_as_often_as_the_policy_says(self, bench: Bench) -> None:
        queue = Queue(bench.name(), max_length=1, queue_arguments={"x-overflow": "reject-publish"}, expires=60)
        producer = Producer(bench.channel, routing_key=queue.name)
        await producer.publish(1, declare=[queue])
        with pytest.raises(MessageNacked):
            await producer.publish(2)
        with pytest.raises(MessageNacked):
            await producer.publish(2, retry=True, retry_policy=AT_ONCE)
        retrying = asyncio.create_task(producer.publish(3, retry=True, retry_policy=SOON))
        await asyncio.sleep(0.05)
        assert not retrying.done()
        await queue(await bench.aside()).purge()
        await retrying
        assert await bench.bodies(queue, 1) == [b"3"]

    async def test_goes_on_with_the_channel_of_the_next_session(self, bench: Bench) -> None:
        queue = await bench.queue()
        lost = await bench.connect()
        producer = Producer(await lost.channel(confirms=True), routing_key=queue.name)
        await lost.close()
        with pytest.raises(BrokerUnavailable):
            await producer.publish(1)
        with pytest.raises(BrokerUnavailable):
            await producer.publish(1, retry=True, retry_policy=AT_ONCE)
        retrying = asyncio.create_task(producer.publish(b"1", retry=True, retry_policy=SOON))
        await asyncio.sleep(0.02)
        await producer.revive(bench.channel)
        await retrying
        assert await bench.bodies(queue, 1) == [b"1"]

    async def test_what_does_not_pass_is_not_tried_again(self, bench: Bench) -> None:
        with pytest.raises(MessageReturned):
            await Producer(bench.channel).publish(1, "no-such-queue", mandatory=True, retry=True)
        with pytest.raises(NotFound):
            await Producer(bench.channel).publish(1, "k", exchange=bench.name(), retry=True)

    async def test_timeout_bounds_all_attempts(self, bench: Bench) -> None:
        lost = await bench.connect()
        producer = Producer(await lost.channel(confirms=True), routing_key="k")
        await lost.close()
        with pytest.raises(BrokerUnavailable, match=r"within 0\.1 s"):
            await producer.publish(1, retry=True, timeout=0.1)
        with pytest.raises(ConfigurationError, match="timeout"):
            await producer.publish(1, timeout=0)


class TestLifetime:
    async def test_release_leaves_the_channel(self, bench: Bench) -> None:
        queue = await bench.queue()
        async with Producer(bench.channel, routing_key=queue.name) as producer:
            await producer.publish(1)
        await producer.close()
        await producer.release()
        assert not bench.channel.is_closed
        assert producer.connection is bench.connection

    async def test_expiration(self, bench: Bench) -> None:
        queue = await bench.queue()
        await Producer(bench.channel).publish(1, queue.name, expiration=0.02)

        async def is_empty() -> bool:
            return await bench.ready(queue) == 0

        await eventually(is_empty)
        assert await bench.bodies(queue, 1) == []

    async def test_subclass_sets_defaults(self, bench: Bench) -> None:
        class Mine(Producer):
            serializer = "msgpack"
            compression = "zlib"

        queue = await bench.queue()
        await Mine(bench.channel).publish({"a": 1}, queue.name)
        message = await queue.get()
        assert message is not None
        assert (message.content_type, message.headers["compression"]) == ("application/x-msgpack", "application/x-gzip")

    async def test_concurrent_publishes(self, bench: Bench) -> None:
        queue = await bench.queue()
        producer = Producer(bench.channel, routing_key=queue.name)
        await asyncio.gather(*(producer.publish(number) for number in range(100)))
        assert await bench.ready(queue) == 100
