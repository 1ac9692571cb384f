"""What goes wrong on request in the broker inside the process, and what it does across loops and threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aioresults.errors import BrokerRefused, BrokerUnavailable, ChannelClosed
from aioresults.transport.base import Delivery, Properties
from aioresults.transport.memory import MemoryBroker, MemoryTransport
from aioresults.transport.memory.connection import MemoryChannel, MemoryConnection
from tests.clock import Clock
from tests.unit.memory_helpers import Inbox, bodies, drain, publish, turns


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker("faulty")


@pytest.fixture
async def connection(broker: MemoryBroker) -> MemoryConnection:
    return await MemoryTransport(broker).connect()


@pytest.fixture
async def channel(connection: MemoryConnection) -> MemoryChannel:
    channel = await connection.channel(confirms=True)
    await channel.queue_declare("q")
    return channel


# --- cut --------------------------------------------------------------------------------------------------------


async def test_cut_fails_pending_and_later_calls(
    broker: MemoryBroker, connection: MemoryConnection, channel: MemoryChannel
) -> None:
    pending = [
        asyncio.ensure_future(call)
        for call in (publish(channel, "q", b"x"), channel.basic_get("q"), connection.channel())
    ]
    await asyncio.sleep(0)
    broker.cut()
    for failure in await asyncio.gather(*pending, return_exceptions=True):
        assert type(failure) is BrokerUnavailable
    assert connection.is_closed
    assert channel.is_closed
    for call in (publish(channel, "q", b"x"), channel.basic_get("q"), channel.queue_declare(), connection.channel()):
        with pytest.raises(BrokerUnavailable, match="the connection was cut"):
            await call
    channel.basic_ack(1)
    await channel.close()
    await connection.close()
    assert not (await MemoryTransport(broker).connect()).is_closed


async def test_cut_tells_everybody_once_and_in_order(
    broker: MemoryBroker, connection: MemoryConnection, channel: MemoryChannel
) -> None:
    events: list[object] = []
    channel.on_close(lambda reason: events.append(("channel", type(reason))))
    connection.on_close(lambda reason: events.append(("connection", type(reason))))
    await channel.basic_consume("q", lambda delivery: events.append(delivery.body))
    await publish(channel, "q", b"before")
    publishing = asyncio.ensure_future(publish(channel, "q", b"on its way"))
    await asyncio.sleep(0)
    broker.cut()
    broker.cut()
    assert events == [b"before"]
    await turns()
    assert events == [b"before", ("channel", BrokerUnavailable), ("connection", BrokerUnavailable)]
    with pytest.raises(BrokerUnavailable):
        await publishing
    late: list[BaseException] = []
    connection.on_close(late.append)
    await turns()
    assert len(late) == 1  # whoever asks after the fact is told as well


async def test_cut_requeues_what_was_not_acknowledged(broker: MemoryBroker, channel: MemoryChannel) -> None:
    await channel.basic_qos(2)
    await channel.basic_consume("q", Inbox())
    await publish(channel, "q", b"1", b"2", b"3")
    broker.cut()
    again = await (await MemoryTransport(broker).connect()).channel()
    back = await drain(again, "q", 3)
    assert [(d.body, d.redelivered) for d in back] == [(b"1", True), (b"2", True), (b"3", False)]


async def test_closing_delivers_nothing_more_and_tells_the_channels(
    connection: MemoryConnection, channel: MemoryChannel
) -> None:
    events: list[object] = []
    channel.on_close(events.append)
    connection.on_close(events.append)
    await channel.basic_consume("q", events.append)
    publishing = asyncio.ensure_future(publish(channel, "q", b"x"))
    await asyncio.sleep(0)
    await connection.close()
    await connection.close()
    await turns()
    assert [type(event) for event in events] == [BrokerUnavailable]
    with pytest.raises((BrokerUnavailable, ChannelClosed)):
        await channel.basic_get("q")
    await asyncio.gather(publishing, return_exceptions=True)


async def test_auto_delete_loses_what_was_unacknowledged(broker: MemoryBroker, channel: MemoryChannel) -> None:
    """As RabbitMQ does: the queue goes with its last consumer, and so do the messages that came back."""
    await channel.queue_declare("fleeting", auto_delete=True)
    await channel.basic_consume("fleeting", Inbox())
    await publish(channel, "fleeting", b"x")
    broker.cut()
    assert broker.queue("fleeting") is None


# --- stop, start, refuse ----------------------------------------------------------------------------------------


async def test_restart_keeps_what_is_durable(broker: MemoryBroker, channel: MemoryChannel) -> None:
    await channel.queue_declare("transient", durable=False)
    await channel.queue_declare("own", exclusive=True)
    await channel.queue_declare("s", arguments={"x-queue-type": "stream"})
    await channel.exchange_declare("kept", "direct")
    await channel.exchange_declare("lost", "direct", durable=False)
    for exchange in ("kept", "lost"):
        await channel.queue_bind("q", exchange, "k")
    await publish(channel, "q", b"1", mode=2)
    await publish(channel, "q", b"2")
    await publish(channel, "q", b"3", mode=2)
    await publish(channel, "s", b"in a stream")
    await channel.basic_get("q")
    broker.stop()
    with pytest.raises(BrokerUnavailable) as info:
        await MemoryTransport(broker).connect()
    assert not isinstance(info.value, BrokerRefused)
    broker.start()
    channel = await (await MemoryTransport(broker).connect()).channel(confirms=True)
    back = await drain(channel, "q", 3)
    assert [(d.body, d.redelivered) for d in back] == [(b"1", True), (b"3", False)]
    assert [queue.name for queue in broker.queues()] == ["q", "s"]
    assert [queue.ready for queue in broker.queues()] == [0, 1]
    await channel.basic_publish(b"4", Properties(), "kept", "k", mandatory=True)
    await channel.exchange_declare("lost", "fanout")  # another one may take the name
    broker.restart()
    assert [queue.ready for queue in broker.queues()] == [2, 1]


async def test_refuse(broker: MemoryBroker, connection: MemoryConnection) -> None:
    broker.refuse("403 ACCESS_REFUSED - Login was refused")
    with pytest.raises(BrokerRefused, match="Login was refused"):
        await MemoryTransport(broker).connect()
    assert not connection.is_closed
    broker.refuse(None)
    await MemoryTransport(broker).connect()


# --- block ------------------------------------------------------------------------------------------------------


async def test_blocked_publishes_wait_and_hold_their_connection(
    broker: MemoryBroker, connection: MemoryConnection, channel: MemoryChannel
) -> None:
    reader = await (await MemoryTransport(broker).connect()).channel()
    await publish(channel, "q", b"0")
    held = await drain(channel, "q", 1)
    broker.block()
    assert (await channel.queue_declare("q", passive=True)).message_count == 0  # nothing was published yet
    calls = [
        asyncio.ensure_future(call)
        for call in (publish(channel, "q", b"1"), channel.queue_declare("later"), connection.channel())
    ]
    given_up = asyncio.ensure_future(publish(channel, "q", b"2"))
    await turns()
    channel.basic_nack(held[0].delivery_tag)  # stuck behind the publishes, too
    given_up.cancel()
    await turns()
    assert given_up.cancelled()
    assert not any(call.done() for call in calls)
    assert await bodies(reader, "q") == []
    assert broker.queue("later") is None
    broker.unblock()
    await asyncio.gather(*calls)
    assert await bodies(reader, "q") == [b"0", b"1", b"2"]


async def test_a_blocked_connection_can_be_cut_and_closed(broker: MemoryBroker, channel: MemoryChannel) -> None:
    broker.block()
    waiting = asyncio.ensure_future(publish(channel, "q", b"1"))
    await turns()
    broker.cut()
    with pytest.raises(BrokerUnavailable):
        await waiting
    other = await MemoryTransport(broker).connect()
    waiting = asyncio.ensure_future(publish(await other.channel(confirms=True), "q", b"1"))
    await turns()
    await other.close()
    with pytest.raises(BrokerUnavailable):
        await waiting
    broker.unblock()


# --- deliveries -------------------------------------------------------------------------------------------------


async def test_delay_holds_deliveries_in_order(
    broker: MemoryBroker, channel: MemoryChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    seen = Inbox()
    tag = await channel.basic_consume("q", seen)
    broker.delay = 60
    await publish(channel, "q", b"1")
    broker.delay = 0
    await publish(channel, "q", b"2")
    await turns()
    assert seen.bodies == []
    cancelling = asyncio.create_task(channel.basic_cancel(tag))  # its answer comes behind what is on the way
    await turns()
    assert not cancelling.done()
    clock.advance(60)
    await cancelling
    assert seen.bodies == [b"1", b"2"]
    await channel.basic_consume("q", seen)
    await publish(channel, "q", b"3")
    await turns()
    assert seen.bodies == [b"1", b"2", b"3"]


async def test_cut_loses_what_is_held(
    broker: MemoryBroker, channel: MemoryChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    seen = Inbox()
    await channel.basic_consume("q", seen)
    broker.delay = 60
    await publish(channel, "q", b"1")
    broker.cut()
    clock.advance(60)
    await turns()
    assert seen.bodies == []
    assert await bodies(await (await MemoryTransport(broker).connect()).channel(), "q") == [b"1"]


async def test_a_cancel_that_waits_for_what_is_held_fails_with_its_connection(
    broker: MemoryBroker, channel: MemoryChannel
) -> None:
    tag = await channel.basic_consume("q", Inbox())
    broker.delay = 60
    await publish(channel, "q", b"1")
    cancelling = asyncio.create_task(channel.basic_cancel(tag))
    await turns()
    assert not cancelling.done()
    broker.cut()
    with pytest.raises(BrokerUnavailable, match="the connection was cut"):
        await cancelling


async def test_duplicate(broker: MemoryBroker, channel: MemoryChannel) -> None:
    broker.duplicate = True
    await publish(channel, "q", b"1")
    broker.duplicate = False
    await publish(channel, "q", b"2")
    assert await bodies(channel, "q") == [b"1", b"1", b"2"]


async def test_delete_queue_as_an_operator(broker: MemoryBroker, channel: MemoryChannel) -> None:
    cancelled: list[str] = []
    tag = await channel.basic_consume("q", Inbox(), on_cancel=cancelled.append)
    broker.delete_queue("q")
    broker.delete_queue("q")
    assert cancelled == []
    await turns()
    assert cancelled == [tag]
    assert broker.queue("q") is None
    assert not channel.is_closed


def test_inspection(broker: MemoryBroker) -> None:
    async def declare() -> None:
        channel = await (await MemoryTransport(broker).connect()).channel()
        await channel.queue_declare("q", auto_delete=True, arguments={"x-max-length": 3})

    asyncio.run(declare())
    (info,) = broker.queues()
    assert info == broker.queue("q")
    assert (info.name, info.durable, info.exclusive, info.auto_delete) == ("q", True, False, True)
    assert info.arguments == {"x-max-length": 3}
    assert repr(broker) == "<MemoryBroker 'faulty': 1 queues, 1 connections>"


# --- names, loops, threads --------------------------------------------------------------------------------------


def test_named_brokers() -> None:
    one = MemoryBroker.named("test-named")
    assert MemoryBroker.named("test-named") is one
    assert one.name == "test-named"
    MemoryBroker.forget("test-named")
    MemoryBroker.forget("test-named")
    assert not one.running
    assert MemoryBroker.named("test-named") is not one
    MemoryBroker.forget("test-named")


def test_a_broker_outlives_the_loops_of_its_connections(broker: MemoryBroker) -> None:
    async def leave_things_behind() -> None:
        connection = await MemoryTransport(broker).connect()
        channel = await connection.channel(confirms=True)
        await channel.queue_declare("q")
        await channel.queue_declare("own", exclusive=True)
        await publish(channel, "q", b"1", b"2")
        await channel.basic_get("q")
        await channel.basic_consume("q", Inbox())

    async def come_back() -> None:
        channel = await (await MemoryTransport(broker).connect()).channel(confirms=True)
        assert [queue.name for queue in broker.queues()] == ["q"]
        assert await bodies(channel, "q") == [b"1", b"2"]

    asyncio.run(leave_things_behind())
    asyncio.run(come_back())


def test_a_delivery_into_a_closed_loop_comes_back(broker: MemoryBroker) -> None:
    live = asyncio.new_event_loop()
    channel = live.run_until_complete(live.run_until_complete(MemoryTransport(broker).connect()).channel(confirms=True))
    live.run_until_complete(channel.queue_declare("q"))

    async def consume_and_go() -> None:
        await (await (await MemoryTransport(broker).connect()).channel()).basic_consume("q", Inbox())

    asyncio.run(consume_and_go())
    live.run_until_complete(publish(channel, "q", b"1"))
    assert live.run_until_complete(bodies(channel, "q")) == [b"1"]
    assert broker.connection_count == 1
    live.run_until_complete(channel.connection.close())
    live.close()


def test_loops_in_other_threads(broker: MemoryBroker) -> None:
    """Each callback runs in the loop, and so in the thread, of its own connection."""
    total, ready = 500, threading.Event()
    where: set[int] = set()

    async def consume() -> None:
        channel = await (await MemoryTransport(broker).connect()).channel()
        await channel.queue_declare("q")
        done = asyncio.Event()
        seen: list[bytes] = []

        def on_message(delivery: Delivery) -> None:
            where.add(threading.get_ident())
            seen.append(delivery.body)
            delivery.channel.basic_ack(delivery.delivery_tag)
            if len(seen) == total:
                done.set()

        await channel.basic_qos(10)
        await channel.basic_consume("q", on_message)
        ready.set()
        await asyncio.wait_for(done.wait(), 60)
        assert seen == [b"%d" % number for number in range(total)]
        await channel.connection.close()

    async def produce() -> None:
        channel = await (await MemoryTransport(broker).connect()).channel(confirms=True)
        for number in range(total):
            await publish(channel, "q", b"%d" % number)
        await channel.connection.close()

    thread = threading.Thread(target=lambda: ready.wait(60) and asyncio.run(produce()))
    thread.start()
    asyncio.run(consume())
    thread.join()
    assert where == {threading.get_ident()}
    info = broker.queue("q")
    assert info is not None
    assert (info.ready, info.unacked) == (0, 0)
