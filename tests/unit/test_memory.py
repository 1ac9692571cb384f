"""The broker inside the process: queues, exchanges, streams and acknowledgements, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aioresults.errors import (
    AccessRefused,
    BrokerUnavailable,
    ChannelClosed,
    ChannelError,
    InequivalentArgument,
    MessageNacked,
    MessageReturned,
    NotFound,
    NotSupported,
    PreconditionFailed,
    ResourceLocked,
)
from aioresults.transport.base import Arguments, Channel, Delivery, Properties, Transport
from aioresults.transport.memory import MemoryBroker, MemoryTransport
from aioresults.transport.memory.connection import MemoryChannel, MemoryConnection
from tests.unit.memory_helpers import Clock, Inbox, bodies, drain, publish, turns

STREAM = {"x-queue-type": "stream"}
Call = Callable[[MemoryChannel], Awaitable[object]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> MemoryBroker:
    return MemoryBroker("test", clock=clock)


@pytest.fixture
async def connection(broker: MemoryBroker) -> MemoryConnection:
    return await MemoryTransport(broker).connect()


@pytest.fixture
async def channel(connection: MemoryConnection) -> MemoryChannel:
    return await connection.channel(confirms=True)


@pytest.fixture
async def other(broker: MemoryBroker) -> MemoryChannel:
    """A channel of another connection."""
    return await (await MemoryTransport(broker).connect()).channel(confirms=True)


# --- declaring --------------------------------------------------------------------------------------------------


async def test_it_is_a_transport(broker: MemoryBroker) -> None:
    transport: Transport = MemoryTransport(broker)
    assert transport.as_uri() == "memory://test"
    connection = await transport.connect()
    channel: Channel = await connection.channel()
    assert not connection.is_closed
    assert not channel.is_closed


async def test_declare_counts(channel: MemoryChannel) -> None:
    assert (await channel.queue_declare("q")).message_count == 0
    await publish(channel, "q", b"1", b"2")
    await channel.basic_qos(1)
    await channel.basic_consume("q", lambda _: None)
    ok = await channel.queue_declare("q", passive=True)
    assert (ok.queue, ok.message_count, ok.consumer_count) == ("q", 1, 1)


async def test_server_named_queues_differ_and_empty_means_the_last_one(channel: MemoryChannel) -> None:
    first = (await channel.queue_declare()).queue
    second = (await channel.queue_declare()).queue
    assert first.startswith("amq.gen-")
    assert first != second
    await publish(channel, second, b"x")
    assert await channel.queue_purge("") == 1
    assert (await channel.queue_declare(second, passive=True)).queue == second
    with pytest.raises(AccessRefused, match="contains reserved prefix"):
        await channel.queue_declare(second)


@pytest.mark.parametrize(
    ("first", "second", "argument", "declared", "existing"),
    [
        ({}, {"durable": False}, "durable", "'false'", "'true'"),
        ({}, {"auto_delete": True}, "auto_delete", "'true'", "'false'"),
        ({"x-expires": 1000}, {"x-expires": 2000}, "x-expires", "'2000'", "'1000'"),
        ({}, {"x-expires": 1000}, "x-expires", "the value '1000' of type 'short'", "none"),
        ({"x-expires": 86_400_000}, {}, "x-expires", "none", "the value '86400000' of type 'signedint'"),
        ({"x-overflow": "drop-head"}, {}, "x-overflow", "none", "the value 'drop-head' of type 'longstr'"),
        ({}, {"x-expires": 0}, "x-expires", "the value '0' of type 'byte'", "none"),
    ],
)
async def test_inequivalent_declarations(
    channel: MemoryChannel,
    first: dict[str, Any],
    second: dict[str, Any],
    argument: str,
    declared: str,
    existing: str,
) -> None:
    await declare(channel, first)
    with pytest.raises(InequivalentArgument) as info:
        await declare(channel, second)
    error = info.value
    assert (error.entity, error.name, error.argument) == ("queue", "q", argument)
    assert (error.declared, error.existing) == (declared, existing)
    assert error.reply_text == (
        f"PRECONDITION_FAILED - inequivalent arg '{argument}' for queue 'q' in vhost '/': "
        f"received {declared} but current is {existing}"
    )
    assert channel.is_closed


async def declare(channel: MemoryChannel, what: dict[str, Any]) -> None:
    arguments = {name: value for name, value in what.items() if name.startswith("x-")}
    flags = {name: value for name, value in what.items() if name not in arguments}
    await channel.queue_declare("q", arguments=arguments, **flags)


@pytest.mark.parametrize("second", [None, {"x-queue-type": "classic"}, {"x-foo": 1}])
async def test_equivalent_declarations(channel: MemoryChannel, second: Arguments) -> None:
    await channel.queue_declare("q")
    await channel.queue_declare("q", arguments=second)


@pytest.mark.parametrize(
    ("arguments", "flags", "text"),
    [
        ({"x-expires": 0}, {}, "invalid arg 'x-expires' for queue 'q' in vhost '/': {value_zero,0}"),
        ({"x-expires": -1}, {}, "{value_negative,-1}"),
        ({"x-expires": "1"}, {}, '"expected integer, got longstr"'),
        ({"x-expires": 1.5}, {}, '"expected integer, got float"'),
        ({"x-expires": True}, {}, '"expected integer, got bool"'),
        ({"x-message-ttl": -1}, {}, "{value_negative,-1}"),
        ({"x-max-length": "5"}, {}, '"expected integer, got longstr"'),
        ({"x-max-length-bytes": -3}, {}, "{value_negative,-3}"),
        ({"x-max-priority": 256}, {}, "{max_value_exceeded,256}"),
        ({"x-overflow": "bogus"}, {}, "invalid_overflow"),
        ({"x-overflow": 5}, {}, "{unacceptable_type,byte}"),
        ({"x-dead-letter-exchange": 5}, {}, "invalid type 'byte' for arg 'x-dead-letter-exchange' in queue 'q'"),
        ({"x-dead-letter-routing-key": "k"}, {}, "routing_key_but_no_dlx_defined"),
        ({"x-queue-type": "bogus"}, {}, "\"unsupported queue type 'bogus'\""),
        ({"x-single-active-consumer": "yes"}, {}, "{unacceptable_type,longstr}"),
        (
            {**STREAM, "x-expires": 1000},
            {},
            "invalid arg 'x-expires' for queue 'q' in vhost '/' of queue type rabbit_str",
        ),
        ({**STREAM, "x-message-ttl": 1000}, {}, "rabbit_stream_queue"),
        ({**STREAM, "x-max-length": 5}, {}, "rabbit_stream_queue"),
        ({**STREAM, "x-max-age": "60"}, {}, "invalid_max_age"),
        ({**STREAM, "x-max-age": 60}, {}, "{unacceptable_type,byte}"),
        (STREAM, {"durable": False}, "invalid property 'non-durable' for queue 'q' in vhost '/'"),
        (STREAM, {"auto_delete": True}, "invalid property 'auto-delete'"),
        ({"x-queue-type": "quorum"}, {"exclusive": True}, "invalid property 'exclusive-owner'"),
        ({"x-delivery-limit": 3}, {}, "of queue type rabbit_classic_queue"),
    ],
)
async def test_invalid_declarations(
    channel: MemoryChannel, broker: MemoryBroker, arguments: dict[str, Any], flags: dict[str, bool], text: str
) -> None:
    with pytest.raises(PreconditionFailed) as info:
        await channel.queue_declare("q", arguments=arguments, **flags)
    assert info.value.reply_text.startswith("PRECONDITION_FAILED - invalid ")
    assert text in info.value.reply_text
    assert broker.queues() == []


async def test_names_and_missing_queues(connection: MemoryConnection) -> None:
    cases: list[tuple[Call, type[ChannelError], str]] = [
        (lambda c: c.queue_declare("amq.foo"), AccessRefused, "queue name 'amq.foo' contains reserved prefix 'amq.*'"),
        (lambda c: c.queue_declare("q", passive=True), NotFound, "NOT_FOUND - no queue 'q' in vhost '/'"),
        (lambda c: c.basic_get("q"), NotFound, "no queue 'q'"),
        (lambda c: c.basic_consume("q", print), NotFound, "no queue 'q'"),
        (lambda c: c.queue_purge("q"), NotFound, "no queue 'q'"),
        (lambda c: c.queue_bind("q", "amq.direct"), NotFound, "no queue 'q'"),
        (lambda c: c.exchange_declare("x", passive=True), NotFound, "no exchange 'x' in vhost '/'"),
        (lambda c: c.exchange_bind("x", "amq.direct"), NotFound, "no exchange 'x'"),
        (lambda c: c.exchange_declare("amq.x"), AccessRefused, "exchange name 'amq.x' contains reserved prefix"),
        (lambda c: c.exchange_declare(""), AccessRefused, "operation not permitted on the default exchange"),
        (lambda c: c.exchange_delete("amq.direct"), AccessRefused, "deletion of system exchange 'amq.direct'"),
        (lambda c: c.exchange_declare("x", "bogus"), PreconditionFailed, "unknown exchange type 'bogus'"),
    ]
    for call, kind, text in cases:
        channel = await connection.channel()
        with pytest.raises(kind) as info:
            await call(channel)
        assert isinstance(info.value, ChannelError)
        assert text in info.value.reply_text
        assert channel.is_closed
        with pytest.raises(ChannelClosed):
            await channel.queue_declare("q")
    channel = await connection.channel()
    assert await channel.queue_delete("q") == 0
    await channel.queue_unbind("q", "nowhere")
    await channel.exchange_delete("nowhere")
    assert not channel.is_closed


async def test_exclusive_queues(channel: MemoryChannel, broker: MemoryBroker) -> None:
    await channel.queue_declare("q", exclusive=True)
    stranger = await MemoryTransport(broker).connect()
    calls: tuple[Call, ...] = (
        lambda c: c.queue_declare("q", exclusive=True),
        lambda c: c.queue_declare("q", passive=True),
        lambda c: c.queue_delete("q"),
        lambda c: c.queue_purge("q"),
        lambda c: c.basic_get("q"),
        lambda c: c.basic_consume("q", print),
        lambda c: c.queue_bind("q", "amq.direct"),
    )
    for call in calls:
        with pytest.raises(ResourceLocked, match="cannot obtain exclusive access to locked queue 'q' in vhost '/'"):
            await call(await stranger.channel())
    await publish(await stranger.channel(confirms=True), "q", b"x")  # publishing is allowed
    sibling = await channel.connection.channel()
    assert await bodies(sibling, "q") == [b"x"]
    with pytest.raises(ResourceLocked):
        await sibling.queue_declare("q", exclusive=False)
    await channel.connection.close()
    assert broker.queues() == []


async def test_delete_conditions(connection: MemoryConnection, channel: MemoryChannel) -> None:
    await channel.queue_declare("q")
    await publish(channel, "q", b"x")
    with pytest.raises(PreconditionFailed, match="queue 'q' in vhost '/' not empty"):
        await channel.queue_delete("q", if_empty=True)
    channel = await connection.channel(confirms=True)
    tag = await channel.basic_consume("q", lambda _: None)
    with pytest.raises(PreconditionFailed, match="queue 'q' in vhost '/' in use"):
        await (await connection.channel()).queue_delete("q", if_unused=True)
    await channel.basic_cancel(tag)
    await channel.basic_recover()
    assert await channel.queue_delete("q", if_unused=True) == 1


async def test_auto_delete_goes_with_the_last_consumer(channel: MemoryChannel, broker: MemoryBroker) -> None:
    await channel.queue_declare("q", auto_delete=True)
    one = await channel.basic_consume("q", lambda _: None)
    two = await channel.basic_consume("q", lambda _: None)
    await channel.basic_cancel(one)
    assert broker.queue("q") is not None
    await channel.basic_cancel(two)
    assert broker.queue("q") is None


# --- expiry -----------------------------------------------------------------------------------------------------


async def test_queues_expire_unless_they_are_used(channel: MemoryChannel, clock: Clock, broker: MemoryBroker) -> None:
    await channel.queue_declare("q", arguments={"x-expires": 1000})
    for use in (
        lambda: channel.queue_declare("q", arguments={"x-expires": 1000}),
        lambda: channel.queue_declare("q", passive=True),
        lambda: channel.basic_get("q"),
    ):
        clock.now += 0.9
        await use()
    tag = await channel.basic_consume("q", lambda _: None)
    clock.now += 100
    assert broker.queue("q") is not None
    await channel.basic_cancel(tag)
    clock.now += 0.9
    await publish(channel, "q", b"x")  # no use
    await channel.queue_purge("q")  # nor is this
    clock.now += 0.2
    with pytest.raises(MessageReturned):
        await publish(channel, "q", b"x")
    assert broker.queue("q") is None


async def test_expired_queues_do_not_pile_up(channel: MemoryChannel, clock: Clock, broker: MemoryBroker) -> None:
    for number in range(3000):
        await channel.queue_declare(f"q{number}", arguments={"x-expires": 10})
        clock.now += 1
    assert len(broker._queues) < 2000


async def test_messages_expire(channel: MemoryChannel, clock: Clock) -> None:
    await channel.queue_declare("q", arguments={"x-message-ttl": 1000})
    await channel.basic_publish(b"short", Properties(expiration="200"), "", "q")
    await channel.basic_publish(b"long", Properties(expiration="5000"), "", "q")
    clock.now += 0.5
    assert (await channel.queue_declare("q", passive=True)).message_count == 1
    clock.now += 0.5
    assert await channel.basic_get("q") is None
    await channel.basic_publish(b"now", Properties(expiration="0"), "", "q")
    assert await channel.basic_get("q") is None
    seen = Inbox()
    await channel.basic_consume("q", seen)
    await channel.basic_publish(b"taken at once", Properties(expiration="0"), "", "q")
    await turns()
    assert seen.bodies == [b"taken at once"]


async def test_only_the_head_of_a_queue_expires(channel: MemoryChannel, clock: Clock) -> None:
    await channel.queue_declare("q")
    await channel.basic_publish(b"stays", Properties(), "", "q")
    await channel.basic_publish(b"goes", Properties(expiration="10"), "", "q")
    clock.now += 1
    assert (await channel.queue_declare("q", passive=True)).message_count == 2
    assert await bodies(channel, "q") == [b"stays"]


@pytest.mark.parametrize(("value", "text"), [("abc", "'abc': no_integer"), ("-5", "'-5': {value_negative,-5}")])
async def test_invalid_expirations(channel: MemoryChannel, value: str, text: str) -> None:
    await channel.queue_declare("q")
    with pytest.raises(PreconditionFailed) as info:
        await channel.basic_publish(b"x", Properties(expiration=value), "", "q")
    assert info.value.reply_text == f"PRECONDITION_FAILED - invalid expiration {text}"


# --- limits and dead letters ------------------------------------------------------------------------------------


async def test_drop_head(channel: MemoryChannel) -> None:
    await channel.queue_declare("last", arguments={"x-max-length": 1})
    await channel.queue_declare("bytes", arguments={"x-max-length-bytes": 3})
    for body in (b"1", b"22", b"3"):
        await publish(channel, "last", body)
        await publish(channel, "bytes", body)
    assert await bodies(channel, "last") == [b"3"]
    assert await bodies(channel, "bytes") == [b"22", b"3"]


async def test_reject_publish(channel: MemoryChannel, broker: MemoryBroker) -> None:
    await channel.queue_declare("q", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    await publish(channel, "q", b"1")
    with pytest.raises(MessageNacked):
        await publish(channel, "q", b"2")
    assert not channel.is_closed
    without_confirms = await channel.connection.channel()
    await publish(without_confirms, "q", b"3")
    assert await bodies(channel, "q") == [b"1"]


async def test_dead_letters(channel: MemoryChannel) -> None:
    await channel.exchange_declare("dlx", "fanout")
    await channel.queue_declare("dead")
    await channel.queue_bind("dead", "dlx")
    await channel.queue_declare("q", arguments={"x-dead-letter-exchange": "dlx"})
    await channel.basic_publish(b"1", Properties(headers={"mine": 1}, expiration="1000"), "", "q")
    channel.basic_nack((await got(channel, "q")).delivery_tag, requeue=False)
    letter = await got(channel, "dead")
    assert letter.properties.headers == {"mine": 1}
    assert letter.properties.expiration is None  # or it could never rest in the queue it is meant for
    assert (letter.exchange, letter.routing_key, letter.body) == ("dlx", "q", b"1")


async def got(channel: MemoryChannel, queue: str) -> Delivery:
    delivery = await channel.basic_get(queue)
    assert delivery is not None
    return delivery


async def test_a_dead_letter_gets_the_routing_key_of_its_queue(channel: MemoryChannel) -> None:
    await channel.queue_declare("dead")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    await channel.queue_declare("q", arguments=arguments)
    await publish(channel, "q", b"x")
    channel.basic_nack((await got(channel, "q")).delivery_tag, requeue=False)
    assert await bodies(channel, "dead") == [b"x"]
    assert await bodies(channel, "q") == []


# --- publishing and routing -------------------------------------------------------------------------------------


async def test_returns_and_missing_exchanges(connection: MemoryConnection, channel: MemoryChannel) -> None:
    await channel.basic_publish(b"x", Properties(), "", "nowhere")
    with pytest.raises(MessageReturned) as info:
        await channel.basic_publish(b"x", Properties(), "", "nowhere", mandatory=True)
    assert (info.value.exchange, info.value.routing_key, info.value.reply_code) == ("", "nowhere", 312)
    assert not channel.is_closed
    reasons: list[BaseException] = []
    channel.on_close(reasons.append)
    with pytest.raises(NotFound, match="no exchange 'x' in vhost '/'") as failure:
        await channel.basic_publish(b"x", Properties(), "x", "k")
    await turns()
    assert reasons == [failure.value]

    unconfirmed = await connection.channel()
    unconfirmed.on_close(reasons.append)
    await unconfirmed.basic_publish(b"x", Properties(), "", "nowhere", mandatory=True)
    await unconfirmed.basic_publish(b"x", Properties(), "x", "k")  # nobody tells the publisher
    await turns()
    assert isinstance(reasons[1], NotFound)
    with pytest.raises(ChannelClosed):
        await unconfirmed.basic_publish(b"x", Properties(), "", "k")


async def test_too_large_a_message() -> None:
    broker = MemoryBroker(max_message_size=10)
    channel = await (await MemoryTransport(broker).connect()).channel(confirms=True)
    with pytest.raises(PreconditionFailed, match="message size 11 is larger than configured max size 10"):
        await channel.basic_publish(b"x" * 11, Properties())


async def test_what_is_published_is_copied(channel: MemoryChannel) -> None:
    await channel.queue_declare("q")
    inner = [1]
    properties = Properties(headers={"list": inner}, correlation_id="c", type="t", timestamp=5)
    await channel.basic_publish(b"x", properties, "", "q")
    assert properties.message_id is None
    inner.append(2)
    properties.correlation_id = "changed"
    first = await got(channel, "q")
    assert first.properties.headers == {"list": [1]}
    assert (first.properties.correlation_id, first.properties.type, first.properties.timestamp) == ("c", "t", 5)
    assert first.properties.message_id
    first.properties.headers["list"].append(3)
    channel.basic_nack(first.delivery_tag)
    assert (await got(channel, "q")).properties.headers == {"list": [1]}


@pytest.mark.parametrize(
    ("exchange", "key", "arguments", "routing_key", "headers", "arrives"),
    [
        ("amq.direct", "a", None, "a", None, True),
        ("amq.direct", "a", None, "b", None, False),
        ("amq.fanout", "a", None, "b", None, True),
        ("amq.topic", "a.*.c", None, "a.b.c", None, True),
        ("amq.topic", "a.*", None, "a.b.c", None, False),
        ("amq.topic", "a.#", None, "a", None, True),
        ("amq.topic", "a.#.z", None, "a.b.c.z", None, True),
        ("amq.topic", "#", None, "", None, True),
        ("amq.topic", "*", None, "", None, False),
        ("amq.topic", "a.b", None, "a.b", None, True),
        ("amq.topic", "#.b.#", None, "a.b", None, True),
        ("amq.headers", "", {"x-match": "all", "a": 1, "b": 2}, "", {"a": 1, "b": 2, "c": 3}, True),
        ("amq.headers", "", {"a": 1, "b": 2}, "", {"a": 1}, False),
        ("amq.match", "", {"x-match": "any", "a": 1, "b": 2}, "", {"a": 1}, True),
        ("amq.match", "", {"x-match": "any", "a": 1}, "", {"a": 2}, False),
        ("amq.headers", "", {"x-match": "all", "x-other": 1, "a": None}, "", {"a": 9}, True),
    ],
)
async def test_routing(
    channel: MemoryChannel,
    exchange: str,
    key: str,
    arguments: Arguments,
    routing_key: str,
    headers: dict[str, Any] | None,
    arrives: bool,
) -> None:
    await channel.queue_declare("q")
    await channel.queue_bind("q", exchange, key, arguments=arguments)
    await channel.queue_bind("q", exchange, key, arguments=arguments)  # once more is the same binding
    await channel.basic_publish(b"x", Properties(headers=headers), exchange, routing_key)
    assert await bodies(channel, "q") == [b"x"] * arrives
    await channel.queue_unbind("q", exchange, key, arguments=arguments)
    with pytest.raises(MessageReturned):
        await channel.basic_publish(b"x", Properties(headers=headers), exchange, routing_key, mandatory=True)


async def test_a_message_comes_once_whatever_the_ways(channel: MemoryChannel) -> None:
    await channel.exchange_declare("one", "fanout")
    await channel.exchange_declare("two", "fanout")
    await channel.exchange_bind("two", "one")
    await channel.exchange_bind("one", "two")
    for queue in ("q1", "q2"):
        await channel.queue_declare(queue)
        await channel.queue_bind(queue, "one")
        await channel.queue_bind(queue, "two")
    await channel.basic_publish(b"x", Properties(), "one")
    assert await bodies(channel, "q1") == await bodies(channel, "q2") == [b"x"]
    await channel.exchange_unbind("two", "one")
    await channel.queue_unbind("q1", "one")
    await channel.basic_publish(b"y", Properties(), "one")
    assert await bodies(channel, "q1") == []


async def test_many_queues_on_one_key(channel: MemoryChannel) -> None:
    for queue in ("q1", "q2", "q3"):
        await channel.queue_declare(queue)
        await channel.queue_bind(queue, "amq.direct", "k")
    await channel.queue_delete("q2")
    await channel.basic_publish(b"x", Properties(), "amq.direct", "k")
    assert await bodies(channel, "q1") == await bodies(channel, "q3") == [b"x"]


async def test_exchange_life(connection: MemoryConnection, channel: MemoryChannel) -> None:
    await channel.exchange_declare("x", "direct", auto_delete=True, durable=False)
    await channel.exchange_declare("x", "direct", auto_delete=True, durable=False)
    for flags, argument in (
        ({"type": "fanout", "durable": False, "auto_delete": True}, "type"),
        ({"durable": True, "auto_delete": True}, "durable"),
        ({"durable": False, "auto_delete": False}, "auto_delete"),
    ):
        with pytest.raises(InequivalentArgument, match=f"inequivalent arg '{argument}' for exchange 'x'"):
            await (await connection.channel()).exchange_declare("x", **flags)
    await channel.queue_declare("q")
    await channel.queue_bind("q", "x", "k")
    with pytest.raises(PreconditionFailed, match="exchange 'x' in vhost '/' in use"):
        await (await connection.channel()).exchange_delete("x", if_unused=True)
    await channel.queue_delete("q")  # takes its binding with it, and that was the last one
    with pytest.raises(NotFound):
        await channel.exchange_declare("x", passive=True)


# --- consuming --------------------------------------------------------------------------------------------------


async def test_callbacks_run_later_and_in_order(channel: MemoryChannel) -> None:
    await channel.queue_declare("q")
    await publish(channel, "q", b"1", b"2", b"3")
    seen = Inbox()
    consume = asyncio.ensure_future(channel.basic_consume("q", seen))
    assert seen.bodies == []
    tag = await consume
    await turns()
    assert seen.bodies == [b"1", b"2", b"3"]
    assert [d.delivery_tag for d in seen] == [1, 2, 3]
    assert {d.consumer_tag for d in seen} == {tag}
    assert {d.channel for d in seen} == {channel}
    seen[0].channel.basic_ack(3, multiple=True)
    assert seen.bodies == [b"1", b"2", b"3"]


async def test_prefetch_limits_each_consumer(channel: MemoryChannel, broker: MemoryBroker) -> None:
    await channel.queue_declare("q")
    await channel.basic_qos(2)
    one, two, free = Inbox(), Inbox(), Inbox()
    await channel.basic_consume("q", one)
    await channel.basic_consume("q", two)
    await publish(channel, "q", *(b"%d" % n for n in range(6)))
    await turns()
    assert (one.bodies, two.bodies) == ([b"0", b"2"], [b"1", b"3"])  # in turns
    channel.basic_ack(two[1].delivery_tag)
    await turns()
    assert two.bodies == [b"1", b"3", b"4"]
    await channel.basic_qos(0)
    await channel.basic_consume("q", free)
    await publish(channel, "q", b"6", b"7")
    await turns()
    assert free.bodies == [b"5", b"6", b"7"]
    info = broker.queue("q")
    assert info is not None
    assert (info.ready, info.unacked, info.consumers) == (0, 7, 3)


async def test_no_ack(channel: MemoryChannel, broker: MemoryBroker) -> None:
    await channel.queue_declare("q")
    seen = Inbox()
    await channel.basic_qos(1)  # does not apply
    await channel.basic_consume("q", seen, no_ack=True)
    await publish(channel, "q", b"1", b"2")
    await turns()
    assert seen.bodies == [b"1", b"2"]
    info = broker.queue("q")
    assert info is not None
    assert info.unacked == 0
    with pytest.raises(PreconditionFailed, match="unknown delivery tag 1"):
        await closes(channel, lambda: channel.basic_ack(1))


async def closes(channel: MemoryChannel, call: Any) -> None:
    reason = asyncio.get_running_loop().create_future()
    channel.on_close(reason.set_exception)
    call()
    await reason


async def test_exclusive_consumers(connection: MemoryConnection, channel: MemoryChannel) -> None:
    await channel.queue_declare("q")
    tag = await channel.basic_consume("q", print, exclusive=True)
    with pytest.raises(AccessRefused, match="queue 'q' in vhost '/' in exclusive use"):
        await (await connection.channel()).basic_consume("q", print)
    await channel.basic_cancel(tag)
    await channel.basic_consume("q", print)
    with pytest.raises(AccessRefused, match="in exclusive use"):
        await (await connection.channel()).basic_consume("q", print, exclusive=True)


async def test_single_active_consumer(channel: MemoryChannel) -> None:
    await channel.queue_declare("q", arguments={"x-single-active-consumer": True})
    one, two = Inbox(), Inbox()
    first = await channel.basic_consume("q", one)
    await channel.basic_consume("q", two)
    await publish(channel, "q", b"1", b"2")
    await channel.basic_cancel(first)
    await publish(channel, "q", b"3")
    await turns()
    assert (one.bodies, two.bodies) == ([b"1", b"2"], [b"3"])


async def test_a_consumer_tag_in_use_is_refused_and_nothing_closes(channel: MemoryChannel) -> None:
    await channel.queue_declare("q")
    assert await channel.basic_consume("q", print, consumer_tag="t") == "t"
    with pytest.raises(NotSupported, match="'t'"):
        await channel.basic_consume("q", print, consumer_tag="t")
    await channel.basic_cancel("t")
    await channel.basic_cancel("t")
    assert await channel.basic_consume("q", print, consumer_tag="t") == "t"


async def test_cancel_lets_deliveries_arrive_first_and_leaves_them_unacked(
    channel: MemoryChannel, broker: MemoryBroker
) -> None:
    await channel.queue_declare("q")
    seen = Inbox()
    tag = await channel.basic_consume("q", seen)
    await turns()
    publishing = asyncio.gather(*(publish(channel, "q", b"%d" % n) for n in range(3)))
    await asyncio.sleep(0)
    await channel.basic_cancel(tag)
    await publishing
    count = len(seen)
    await publish(channel, "q", b"after")
    await turns()
    assert seen.bodies == [b"0", b"1", b"2"][:count]
    assert count == 3
    info = broker.queue("q")
    assert info is not None
    assert (info.ready, info.unacked) == (1, 3)


async def test_on_cancel_when_the_queue_is_deleted(channel: MemoryChannel, other: MemoryChannel) -> None:
    await channel.queue_declare("q")
    seen = Inbox()
    cancelled: list[str] = []
    tag = await channel.basic_consume("q", seen, on_cancel=cancelled.append)
    await publish(channel, "q", b"x")
    assert await other.queue_delete("q") == 0
    await turns()
    assert seen.bodies == [b"x"]
    assert cancelled == [tag]
    channel.basic_ack(seen[0].delivery_tag)  # still known to the channel
    await channel.basic_cancel(tag)
    assert not channel.is_closed


async def test_get(channel: MemoryChannel) -> None:
    await channel.queue_declare("q")
    assert await channel.basic_get("q") is None
    await publish(channel, "q", b"1", b"2")
    first = await got(channel, "q")
    assert (first.body, first.message_count, first.consumer_tag, first.redelivered) == (b"1", 1, None, False)
    second = await channel.basic_get("q", no_ack=True)
    assert second is not None
    assert second.message_count == 0
    channel.basic_nack(first.delivery_tag)
    assert (await got(channel, "q")).redelivered


# --- acknowledging ----------------------------------------------------------------------------------------------


async def test_requeue_restores_the_order(channel: MemoryChannel) -> None:
    await channel.queue_declare("q")
    await publish(channel, "q", *(b"%d" % n for n in range(6)))
    held = await drain(channel, "q", 4)
    channel.basic_ack(held[1].delivery_tag)
    channel.basic_nack(held[3].delivery_tag)
    channel.basic_nack(held[0].delivery_tag)
    channel.basic_nack(held[2].delivery_tag)
    back = await drain(channel, "q", 5)
    assert [d.body for d in back] == [b"0", b"2", b"3", b"4", b"5"]
    assert [d.redelivered for d in back] == [True, True, True, False, False]
    await channel.basic_recover()
    assert await bodies(channel, "q") == [b"0", b"2", b"3", b"4", b"5"]


async def test_multiple(channel: MemoryChannel, broker: MemoryBroker) -> None:
    await channel.queue_declare("q")
    await publish(channel, "q", *(b"%d" % n for n in range(6)))
    held = await drain(channel, "q", 6)
    channel.basic_ack(held[1].delivery_tag)
    channel.basic_ack(held[2].delivery_tag, multiple=True)
    channel.basic_nack(held[4].delivery_tag, multiple=True)
    channel.basic_ack(0, multiple=True)
    channel.basic_ack(0, multiple=True)  # nothing there is no error
    assert await bodies(channel, "q") == [b"3", b"4"]


@pytest.mark.parametrize("method", ["basic_ack", "basic_nack"])
@pytest.mark.parametrize("multiple", [False, True])
async def test_unknown_delivery_tags_close_the_channel(channel: MemoryChannel, method: str, multiple: bool) -> None:
    await channel.queue_declare("q")
    await publish(channel, "q", b"x")
    held = await got(channel, "q")
    with pytest.raises(PreconditionFailed, match="PRECONDITION_FAILED - unknown delivery tag 7"):
        await closes(channel, lambda: getattr(channel, method)(7, multiple=multiple))
    assert channel.is_closed
    channel.basic_ack(held.delivery_tag)  # void
    channel = await channel.connection.channel()
    again = await got(channel, "q")
    assert (again.body, again.redelivered) == (b"x", True)


async def test_closing_a_channel_requeues(connection: MemoryConnection, channel: MemoryChannel) -> None:
    await channel.queue_declare("q")
    await publish(channel, "q", b"1", b"2")
    consumer = await connection.channel()
    seen = Inbox()
    closed: list[BaseException] = []
    consumer.on_close(closed.append)
    await consumer.basic_consume("q", seen)
    await publish(channel, "q", b"3")
    await consumer.close()
    await consumer.close()
    count = len(seen)
    await turns()
    assert len(seen) == count  # never after close
    assert [type(reason) for reason in closed] == [ChannelClosed]
    back = await drain(channel, "q", 3)
    assert [(d.body, d.redelivered) for d in back] == [(b"1", True), (b"2", True), (b"3", True)]
    with pytest.raises(ChannelClosed):
        await consumer.basic_get("q")


async def test_a_failed_call_ends_the_others_of_its_channel(channel: MemoryChannel, other: MemoryChannel) -> None:
    await channel.queue_declare("q")
    pending = asyncio.ensure_future(publish(channel, "q", b"x"))
    await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await channel.queue_declare("missing", passive=True)
    with pytest.raises(ChannelClosed):
        await pending
    assert await bodies(other, "q") == [b"x"]  # not known to be stored, and stored all the same
    assert not channel.connection.is_closed


async def test_cancelling_a_call_disturbs_nothing(channel: MemoryChannel) -> None:
    call = asyncio.ensure_future(channel.queue_declare("q"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not channel.is_closed
    await channel.queue_declare("q", passive=True)


async def test_a_failing_callback_stops_nobody(channel: MemoryChannel) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    await channel.queue_declare("q")
    seen = Inbox()

    def fail_first(delivery: Delivery) -> None:
        seen(delivery)
        if len(seen) == 1:
            raise ValueError("not mine")

    await channel.basic_consume("q", fail_first)
    await publish(channel, "q", b"1", b"2")
    await turns()
    assert seen.bodies == [b"1", b"2"]
    assert [str(report["exception"]) for report in reports] == ["not mine"]


# --- streams ----------------------------------------------------------------------------------------------------


async def numbers(channel: MemoryChannel, offset: Any, count: int = 100) -> list[int]:
    """The offsets that a new consumer gets."""
    reader = await channel.connection.channel()
    await reader.basic_qos(count)
    seen = Inbox()
    arguments = {} if offset is None else {"x-stream-offset": offset}
    await reader.basic_consume("s", seen, arguments=arguments)
    await turns()
    await reader.close()
    return [(d.properties.headers or {})["x-stream-offset"] for d in seen]


async def test_streams_are_read_again_and_again(channel: MemoryChannel, broker: MemoryBroker, clock: Clock) -> None:
    await channel.queue_declare("s", arguments=STREAM)
    for number in range(5):
        await publish(channel, "s", b"%d" % number)
        clock.now += 60
    for _ in range(2):
        assert await numbers(channel, "first") == [0, 1, 2, 3, 4]
    assert await numbers(channel, "last") == [4]
    assert await numbers(channel, "next") == await numbers(channel, None) == []
    assert await numbers(channel, 3) == [3, 4]
    assert await numbers(channel, -1) == [0, 1, 2, 3, 4]
    assert await numbers(channel, 50) == []
    assert await numbers(channel, "2m") == [3, 4]
    assert await numbers(channel, "1h") == [0, 1, 2, 3, 4]
    assert await numbers(channel, datetime.now(UTC) - timedelta(seconds=130)) == [3, 4]
    assert await numbers(channel, "first", 2) == [0, 1]
    info = broker.queue("s")
    assert info is not None
    assert (info.ready, info.unacked) == (5, 0)


async def test_stream_credit_and_tail(channel: MemoryChannel) -> None:
    await channel.queue_declare("s", arguments=STREAM)
    await channel.basic_qos(2)
    seen = Inbox()
    await channel.basic_consume("s", seen, arguments={"x-stream-offset": 1})
    await publish(channel, "s", b"0", b"1", b"2", b"3", b"4")
    await turns()
    assert seen.bodies == [b"1", b"2"]
    channel.basic_ack(seen[0].delivery_tag)
    channel.basic_ack(seen[1].delivery_tag)
    await turns()
    assert seen.bodies == [b"1", b"2", b"3", b"4"]
    assert not any(d.redelivered for d in seen)
    await channel.basic_recover()
    await publish(channel, "s", b"5")
    await turns()
    assert seen.bodies[4:] == [b"5"]


async def test_stream_retention(channel: MemoryChannel, clock: Clock) -> None:
    await channel.queue_declare("s", arguments={**STREAM, "x-max-length-bytes": 3, "x-max-age": "1m"})
    await publish(channel, "s", b"0", b"1", b"2", b"3")
    assert await numbers(channel, "first") == [1, 2, 3]
    assert await numbers(channel, 0) == [1, 2, 3]
    clock.now += 61
    assert await numbers(channel, "first") == [3]  # the last one stays
    await publish(channel, "s", b"4")
    assert await numbers(channel, "first") == [4]


async def test_a_long_stream_is_compacted(channel: MemoryChannel) -> None:
    await channel.queue_declare("s", arguments={**STREAM, "x-max-length-bytes": 10})
    for _ in range(3000):
        await publish(channel, "s", b"x")
    assert await numbers(channel, "first") == list(range(2990, 3000))


async def test_what_streams_refuse(broker: MemoryBroker, channel: MemoryChannel) -> None:
    await channel.queue_declare("s", arguments=STREAM)
    with pytest.raises(PreconditionFailed, match="consumer prefetch count is not set for stream queue 's'"):
        await channel.basic_consume("s", print)
    channel = await (await MemoryTransport(broker).connect()).channel()
    await channel.basic_qos(1)
    with pytest.raises(PreconditionFailed, match="invalid_stream_offset_arg"):
        await channel.basic_consume("s", print, arguments={"x-stream-offset": "bogus"})
    cases: tuple[tuple[Call, str], ...] = (
        (
            lambda c: c.basic_get("s"),
            "540 NOT_IMPLEMENTED - basic.get not supported by stream queues queue 's' in vhost '/'",
        ),
        (lambda c: c.queue_purge("s"), "queue.purge not supported"),
        (lambda c: c.basic_consume("s", print, no_ack=True), "automatic acknowledgement not supported"),
    )
    for call, text in cases:
        connection = await MemoryTransport(broker).connect()
        reasons: list[BaseException] = []
        connection.on_close(reasons.append)
        with pytest.raises(BrokerUnavailable, match=text):
            await call(await connection.channel())
        assert connection.is_closed
        await turns()
        assert [type(reason) for reason in reasons] == [BrokerUnavailable]


@pytest.mark.parametrize("requeue", [False, True])
async def test_a_nack_on_a_stream_closes_the_connection(channel: MemoryChannel, requeue: bool) -> None:
    """RabbitMQ 4 takes it for an ack; 3.10 does this, and what works here must work there."""
    await channel.queue_declare("s", arguments=STREAM)
    await channel.basic_qos(5)
    seen = Inbox()
    await channel.basic_consume("s", seen)
    await publish(channel, "s", b"0")
    await turns()
    with pytest.raises(BrokerUnavailable, match=r"540 NOT_IMPLEMENTED - basic\.nack and basic\.reject not supported"):
        await closes(channel, lambda: channel.basic_nack(seen[0].delivery_tag, requeue=requeue))
    assert channel.connection.is_closed


# --- size -------------------------------------------------------------------------------------------------------


async def test_a_queue_with_its_consumer_is_small(channel: MemoryChannel) -> None:
    """A waiter per task is a queue and a consumer: they must not cost what a deque costs."""
    names = [f"aioresults.task.{number:036}" for number in range(10_000)]

    def ignore(_: object) -> None: ...

    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for name in names:
            await channel.queue_declare(name, arguments={"x-expires": 86_400_000, "x-queue-type": "classic"})
            await channel.basic_consume(name, ignore, on_cancel=ignore)
        gc.collect()
        each = (tracemalloc.get_traced_memory()[0] - before) / len(names)
    finally:
        tracemalloc.stop()
    assert each < 450
