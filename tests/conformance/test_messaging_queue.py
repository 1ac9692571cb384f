"""`Queue`, on every broker."""

from __future__ import annotations

import pytest

from aioresults import (
    ChannelClosed,
    Exchange,
    InequivalentArgument,
    MessageNacked,
    MessageReturned,
    NotBoundError,
    NotFound,
    PreconditionFailed,
    Queue,
    ResourceLocked,
)
from aioresults.messaging import NoCacheQueue
from tests.conformance.bench import Bench
from tests.eventually import eventually


class TestDeclare:
    async def test_counts(self, bench: Bench) -> None:
        queue = await bench.queue(b"1", b"2")
        ok = await queue.declare()
        assert (ok.queue, ok.message_count, ok.consumer_count) == (queue.name, 2, 0)

    async def test_server_named(self, bench: Bench) -> None:
        exchange = Exchange(bench.name(), "fanout")
        ok = await Queue("", exchange, exclusive=True)(bench.channel).declare()
        assert ok.queue.startswith("amq.gen-")
        await exchange(bench.channel).publish(b"1", mandatory=True)  # the binding is to the name it was given

    async def test_with_exchange_and_several_bindings(self, bench: Bench) -> None:
        first, second = Exchange(bench.name()), Exchange(bench.name(), "topic")
        queue = Queue(bench.name(), first, "a", bindings=[first.binding("b"), second.binding("c.#")], expires=60)(
            bench.channel
        )
        await queue.declare()
        for exchange, key in ((first, "a"), (first, "b"), (second, "c.d.e")):
            await exchange(bench.channel).publish(key, key, mandatory=True)
        assert await bench.bodies(queue, 3) == [b"a", b"b", b"c.d.e"]

    async def test_with_bindings_alone(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())
        queue = Queue(bench.name(), [exchange.binding("a"), exchange.binding("b")], expires=60)(bench.channel)
        await queue.declare()
        for key in ("a", "b"):
            await exchange(bench.channel).publish(key, key, mandatory=True)
        with pytest.raises(MessageReturned):
            await exchange(bench.channel).publish("x", "", mandatory=True)

    async def test_passive(self, bench: Bench) -> None:
        queue = await bench.queue(b"1")
        found = await Queue(queue.name, durable=False)(bench.channel).declare(passive=True)
        assert found.message_count == 1
        with pytest.raises(NotFound, match="no queue"):
            await Queue(bench.name())(bench.channel).declare(passive=True)

    @pytest.mark.parametrize(
        ("other", "argument", "declared", "existing"),
        [
            (Queue(auto_delete=True, expires=60), "auto_delete", "'true'", "'false'"),
            (Queue(expires=61), "x-expires", "'61000'", "'60000'"),
        ],
    )
    async def test_inequivalent(self, bench: Bench, other: Queue, argument: str, declared: str, existing: str) -> None:
        queue = await bench.queue()
        with pytest.raises(InequivalentArgument) as error:
            await Queue(**{**other.as_dict(), "name": queue.name})(bench.channel).declare()
        found = error.value
        assert (found.entity, found.name, found.argument) == ("queue", queue.name, argument)
        assert (found.declared, found.existing) == (declared, existing)

    async def test_exclusive_is_another_connection_s(self, bench: Bench) -> None:
        queue = Queue(bench.name(), exclusive=True)
        await queue(bench.channel).declare()
        with pytest.raises(ResourceLocked):
            await queue(await bench.aside()).declare()

    async def test_on_declared(self, bench: Bench) -> None:
        told: list[tuple[str, int, int]] = []

        async def on_declared(*answer: object) -> None:
            told.append(answer)  # type: ignore[arg-type]

        queue = await bench.queue(b"1")
        await Queue(queue.name, expires=60, on_declared=on_declared)(bench.channel).declare()
        await Queue(queue.name, expires=60, on_declared=lambda *answer: told.append(answer))(bench.channel).declare()
        assert told == [(queue.name, 1, 0)] * 2

    async def test_unbound_and_closed(self, bench: Bench) -> None:
        queue = Queue(bench.name())
        own = queue(bench.channel)
        await bench.channel.close()
        for error, tried in ((NotBoundError, queue), (ChannelClosed, own)):
            operations = (
                tried.declare, tried.queue_declare, tried.queue_bind, tried.queue_unbind, tried.bind_to,
                tried.unbind_from, tried.get, tried.purge, tried.delete,
            )  # fmt: skip
            for operation in operations:
                with pytest.raises(error):
                    await operation()


class TestLimits:
    async def test_max_length(self, bench: Bench) -> None:
        queue = Queue(bench.name(), max_length=1, max_length_bytes=100, expires=60)(bench.channel)
        await queue.declare()
        await bench.put(queue, b"1", b"2")
        await eventually(lambda: _is(bench, queue, 1))
        assert await bench.bodies(queue, 1) == [b"2"]

    async def test_message_ttl(self, bench: Bench) -> None:
        queue = Queue(bench.name(), message_ttl=0.01, expires=60)(bench.channel)
        await queue.declare()
        await bench.put(queue, b"1")
        await eventually(lambda: _is(bench, queue, 0))

    async def test_expires(self, bench: Bench) -> None:
        queue = Queue(bench.name(), expires=0.05)(bench.channel)
        await queue.declare()

        async def is_gone() -> bool:  # looking would count as a use, publishing does not
            try:
                await bench.put(queue, b"1")
            except MessageReturned:
                return True
            except MessageNacked:
                pass  # RabbitMQ says no to what a queue had not taken yet when it ended
            return False

        await eventually(is_gone)
        assert not await bench.exists(queue)


async def _is(bench: Bench, queue: Queue, count: int) -> bool:
    return await bench.ready(queue) == count


class TestBind:
    async def test_bind_and_unbind(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())(bench.channel)
        await exchange.declare()
        queue = await bench.queue()
        await queue.bind_to(exchange, "k")
        await exchange.publish(b"1", "k", mandatory=True)
        await queue.unbind_from(exchange.name, "k")
        await queue.unbind_from(exchange, "never.was")
        with pytest.raises(MessageReturned):
            await exchange.publish(b"2", "k", mandatory=True)

    async def test_own_binding(self, bench: Bench) -> None:
        exchange = Exchange(bench.name())(bench.channel)
        queue = Queue(bench.name(), exchange, "k", expires=60)(bench.channel)
        await queue.declare()
        await queue.queue_unbind()
        with pytest.raises(MessageReturned):
            await exchange.publish(b"1", "k", mandatory=True)
        await queue.queue_bind()
        await exchange.publish(b"2", "k", mandatory=True)

    async def test_missing_exchange(self, bench: Bench) -> None:
        queue = await bench.queue()
        with pytest.raises(NotFound, match="no exchange"):
            await queue.bind_to(bench.name(), "k")


class TestGet:
    async def test_leaves_it_until_it_is_acknowledged(self, bench: Bench) -> None:
        queue = await bench.queue(b"1", b"2")
        message = await queue.get()
        assert message is not None
        assert (message.body, message.consumer_tag, message.delivery_info["message_count"]) == (b"1", None, 1)
        message.requeue()
        again = await queue.get()
        assert again is not None
        assert (again.body, again.delivery_info["redelivered"]) == (b"1", True)
        again.ack()
        assert (await queue.get(no_ack=True)).body == b"2"  # type: ignore[union-attr]
        assert await queue.get() is None

    async def test_missing(self, bench: Bench) -> None:
        with pytest.raises(NotFound):
            await Queue(bench.name())(bench.channel).get()


class TestPurgeAndDelete:
    async def test_purge_spares_what_was_delivered(self, bench: Bench) -> None:
        queue = await bench.queue(b"1", b"2", b"3")
        held = await queue.get()
        assert held is not None
        assert await queue.purge() == 2
        held.requeue()
        await eventually(lambda: _is(bench, queue, 1))
        assert await bench.bodies(queue, 1) == [b"1"]

    async def test_purge_of_a_missing_one(self, bench: Bench) -> None:
        with pytest.raises(NotFound):
            await Queue(bench.name())(bench.channel).purge()

    async def test_delete_counts_and_may_be_repeated(self, bench: Bench) -> None:
        queue = await bench.queue(b"1", b"2")
        assert await queue.delete() == 2
        assert await queue.delete() == 0

    async def test_conditions(self, bench: Bench) -> None:
        queue = await bench.queue(b"1")
        with pytest.raises(PreconditionFailed, match="not empty"):
            await queue(await bench.aside()).delete(if_empty=True)
        await bench.channel.basic_consume(queue.name, lambda delivery: None)
        with pytest.raises(PreconditionFailed, match="in use"):
            await queue(await bench.aside()).delete(if_unused=True)


class TestFromDict:
    async def test_is_declared_as_described(self, bench: Bench) -> None:
        name = bench.name()
        queue = Queue.from_dict(
            bench.name(), exchange=name, exchange_type="topic", binding_key="a.*", exchange_durable=False,
            auto_delete=False, durable=True, expires=60, no_ack=None,
        )  # fmt: skip
        assert queue.exchange == Exchange(name, "topic", durable=False)
        assert (queue.routing_key, queue.durable, queue.expires) == ("a.*", True, 60)
        await queue(bench.channel).declare()
        await queue.exchange(bench.channel).publish(b"1", "a.b", mandatory=True)

    def test_is_of_the_class_that_was_asked(self) -> None:
        assert type(NoCacheQueue.from_dict("q")) is NoCacheQueue
