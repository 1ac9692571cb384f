"""`Exchange` and its bindings, on every broker."""

from __future__ import annotations

import pytest

from aioresults import (
    AccessRefused,
    ChannelClosed,
    ConfigurationError,
    EncodeError,
    Exchange,
    InequivalentArgument,
    MessageReturned,
    NotBoundError,
    NotFound,
    NotSupported,
    PreconditionFailed,
    Queue,
)
from aioresults.messaging import Binding
from tests.conformance.bench import Bench

TYPES = ("direct", "fanout", "topic", "headers")


async def bound(bench: Bench, exchange: Exchange, routing_key: str = "k", **options: object) -> Queue:
    """Return a queue bound to an exchange."""
    queue = Queue(bench.name(), exchange, routing_key, expires=60, **options)(bench.channel)  # type: ignore[arg-type]
    await queue.declare()
    return queue


class TestDeclare:
    @pytest.mark.parametrize("kind", TYPES)
    async def test_creates_it_once(self, bench: Bench, kind: str) -> None:
        exchange = Exchange(bench.name(), kind)(bench.channel)
        await exchange.declare()
        await exchange.declare(nowait=True)
        await exchange.declare(passive=True)

    async def test_default_and_predeclared_exchanges_are_left_alone(self, bench: Bench) -> None:
        await Exchange()(bench.channel).declare()
        await Exchange("amq.topic", "fanout")(bench.channel).declare()

    async def test_missing_when_passive(self, bench: Bench) -> None:
        for exchange, passive in ((Exchange(bench.name(), passive=True), None), (Exchange(bench.name()), True)):
            channel = await bench.connection.channel()
            with pytest.raises(NotFound, match=f"no exchange '{exchange.name}'") as error:
                await exchange(channel).declare(passive=passive)
            assert error.value.reply_code == 404
            assert channel.is_closed

    async def test_inequivalent(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())(bench.channel)
        await exchange.declare()
        with pytest.raises(InequivalentArgument) as error:
            await Exchange(exchange.name, "fanout")(bench.channel).declare()
        found = error.value
        assert (found.entity, found.name, found.argument) == ("exchange", exchange.name, "type")
        assert (found.declared, found.existing) == ("'fanout'", "'direct'")

    async def test_closed_channel(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())(bench.channel)
        await bench.channel.close()
        for operation in (exchange.declare, exchange.delete, exchange.bind_to, exchange.unbind_from):
            with pytest.raises(ChannelClosed):
                await operation()
        with pytest.raises(ChannelClosed):
            await exchange.publish(b"x", "k")

    async def test_unbound(self) -> None:
        exchange = Exchange("x")
        assert not exchange.is_bound
        for operation in (exchange.declare, exchange.delete, exchange.bind_to, exchange.unbind_from):
            with pytest.raises(NotBoundError, match="'x' is not bound"):
                await operation()
        with pytest.raises(NotBoundError):
            await exchange.publish(b"x", "k")


class TestDelete:
    async def test_twice(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())(bench.channel)
        await exchange.declare()
        await exchange.delete()
        await exchange.delete(nowait=True)
        with pytest.raises(NotFound):
            await exchange.declare(passive=True)

    async def test_if_unused(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())(bench.channel)
        queue = await bound(bench, exchange)
        with pytest.raises(PreconditionFailed, match="in use"):
            await exchange.delete(if_unused=True)
        channel = await bench.connection.channel()
        await queue(channel).queue_unbind()
        await exchange(channel).delete(if_unused=True)

    async def test_predeclared_is_refused(self, bench: Bench) -> None:
        with pytest.raises(AccessRefused):
            await Exchange("amq.direct")(bench.channel).delete()

    async def test_auto_delete_goes_with_the_last_binding(self, bench: Bench) -> None:
        exchange = Exchange(bench.name(), auto_delete=True)(bench.channel)
        queue = await bound(bench, exchange)
        await queue.queue_unbind()
        with pytest.raises(NotFound):
            await exchange.declare(passive=True)


class TestBindings:
    async def test_from_exchange_to_exchange(self, bench: Bench) -> None:
        source, through = (
            Exchange(bench.name(), "topic")(bench.channel),
            Exchange(bench.name(), "fanout")(bench.channel),
        )
        await source.declare()
        queue = await bound(bench, through)
        await through.bind_to(source, "a.*")
        await source.publish(b"1", "a.b", mandatory=True)
        with pytest.raises(MessageReturned):
            await source.publish(b"2", "b.b", mandatory=True)
        await through.unbind_from(source.name, "a.*", nowait=True)
        await through.unbind_from(source, "never.was")
        with pytest.raises(MessageReturned):
            await source.publish(b"3", "a.b", mandatory=True)
        assert await bench.bodies(queue, 1) == [b"1"]

    async def test_to_a_missing_one(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())(bench.channel)
        await exchange.declare()
        with pytest.raises(NotFound):
            await exchange.bind_to(bench.name(), "k")

    async def test_headers(self, bench: Bench) -> None:
        exchange = Exchange(bench.name(), "headers")(bench.channel)
        queue = await bound(bench, exchange, binding_arguments={"x-match": "all", "kind": "report"})
        await exchange.publish(exchange.Message(b"1", headers={"kind": "report"}), mandatory=True)
        with pytest.raises(MessageReturned):
            await exchange.publish(exchange.Message(b"2", headers={"kind": "other"}), mandatory=True)
        assert await bench.bodies(queue, 1) == [b"1"]

    async def test_binding_is_declared_applied_and_undone(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())
        binding = exchange.binding("k")
        assert binding == Binding(exchange, "k")
        queue = await bench.queue()
        await binding.declare(bench.channel)
        await binding.bind(queue)
        await exchange(bench.channel).publish(b"1", "k", mandatory=True)
        await binding.unbind(queue)
        with pytest.raises(MessageReturned):
            await exchange(bench.channel).publish(b"2", "k", mandatory=True)

    async def test_binding_with_arguments_is_undone_by_the_same(self, bench: Bench) -> None:
        """kombu sends none where there are no ``unbind_arguments``, and the binding stays."""
        exchange = Exchange(bench.name(), "headers")
        binding = exchange.binding("", {"x-match": "all", "a": 1})
        queue = await bench.queue()
        await binding.declare(bench.channel)
        await binding.bind(queue)
        await binding.unbind(queue)
        with pytest.raises(MessageReturned):
            await exchange(bench.channel).publish(exchange.Message(b"1", headers={"a": 1}), mandatory=True)

    async def test_binding_to_an_exchange(self, bench: Bench) -> None:
        source, through = Exchange(bench.name()), Exchange(bench.name(), "fanout")(bench.channel)
        queue = await bound(bench, through)
        await source(bench.channel).declare()
        await source.binding("k").bind(through)
        await source(bench.channel).publish(b"1", "k", mandatory=True)
        assert await bench.bodies(queue, 1) == [b"1"]


class TestPublish:
    async def test_text_bytes_and_messages(self, bench: Bench) -> None:
        queue = await bench.queue()
        exchange = Exchange()(bench.channel)
        await exchange.publish("naïve", queue.name, mandatory=True)
        await exchange.publish(b"\xff", queue.name)
        await exchange.publish(exchange.Message("x", 1, 3, "text/x", headers={"a": 1}), queue.name)
        first, second, third = [await queue.get(no_ack=True) for _ in range(3)]
        assert first is not None
        assert second is not None
        assert third is not None
        assert (first.body, first.content_encoding, first.properties.delivery_mode) == ("naïve".encode(), "utf-8", 2)
        assert second.body == b"\xff"
        assert (third.properties.delivery_mode, third.properties.priority, third.content_type) == (1, 3, "text/x")
        assert third.headers == {"a": 1}

    async def test_through_another_exchange(self, bench: Bench) -> None:
        queue = await bench.queue()
        await Exchange(bench.name())(bench.channel).publish(b"1", queue.name, mandatory=True, exchange="")
        assert await bench.bodies(queue, 1) == [b"1"]

    async def test_missing_exchange(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())(bench.channel)
        with pytest.raises(NotFound, match=f"no exchange '{exchange.name}'"):
            await exchange.publish(b"1", "k")
        with pytest.raises(ChannelClosed):
            await exchange.publish(b"1", "k")

    async def test_immediate_is_refused_before_it_is_sent(self, bench: Bench) -> None:
        queue = await bench.queue()
        with pytest.raises(NotSupported, match="immediate"):
            await Exchange()(bench.channel).publish(b"1", queue.name, immediate=True)
        assert not bench.channel.is_closed
        assert await bench.ready(queue) == 0


class TestMessage:
    def test_delivery_mode(self) -> None:
        assert Exchange().Message(b"x").properties.delivery_mode == Exchange.PERSISTENT_DELIVERY_MODE == 2
        transient = Exchange(delivery_mode="transient")
        assert transient.Message(b"x").properties.delivery_mode == Exchange.TRANSIENT_DELIVERY_MODE == 1
        assert transient.Message(b"x", delivery_mode="persistent").properties.delivery_mode == 2
        with pytest.raises(ConfigurationError, match="durable"):
            Exchange(delivery_mode="durable")

    def test_properties(self) -> None:
        message = Exchange().Message("é", content_encoding="latin-1", properties={"correlation_id": "c"})
        assert message.body == b"\xe9"
        assert (message.properties.correlation_id, message.properties.content_encoding) == ("c", "latin-1")

    def test_refuses_what_is_not_text_or_bytes(self) -> None:
        with pytest.raises(EncodeError, match="dict"):
            Exchange().Message({"a": 1})  # type: ignore[arg-type]

    @pytest.mark.parametrize("encoding", ["ascii", "no-such-charset"])
    def test_refuses_text_that_cannot_be_written(self, encoding: str) -> None:
        with pytest.raises(EncodeError, match=encoding):
            Exchange().Message("é", content_encoding=encoding)
