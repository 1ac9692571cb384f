"""Faults at the transport seam: what aiormq makes of them, and what the port promises."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import secrets
import sys
import termios
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aio_pika
import aiormq
import pytest
from aio_pika.abc import AbstractIncomingMessage

from aioresults.errors import AioResultsError, BrokerUnavailable, ChannelClosed, MessageReturned, NotFound
from aioresults.transport import Channel, transport_for
from aioresults.transport.amqp import AMQPConnection, AMQPTransport, frames
from aioresults.transport.base import Connection, Properties
from tests.clock import Clock
from tests.eventually import eventually
from tests.proxy import Proxy

MakeProxy = Callable[[str], Awaitable[Proxy]]
Connect = Callable[[str], Awaitable[Any]]


@pytest.fixture(params=["socket", "plain", "robust"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Open a connection: on a socket of ours, or with aio-pika's, as users open them."""
    if request.param == "socket":
        return lambda url: transport_for(url).connect()
    opener = aio_pika.connect if request.param == "plain" else aio_pika.connect_robust
    return lambda url: transport_for("", connection=lambda: opener(url)).connect()


def _open_channels(connection: Any) -> int:
    return len(connection._connection.transport.connection.channels)


async def _queue(channel: Channel, *bodies: bytes) -> str:
    name = f"test.{secrets.token_hex(6)}"
    await channel.queue_declare(name, arguments={"x-expires": 60_000})
    await asyncio.gather(*(channel.basic_publish(body, Properties(), "", name) for body in bodies))
    return name


async def _error(call: Awaitable[object]) -> type[BaseException] | None:
    try:
        await call
    except Exception as error:
        return type(error)
    return None


async def test_only_the_refused_call_gets_the_refusal(amqp_url: str, connect: Connect) -> None:
    connection = await connect(amqp_url)
    queue = await _queue(await connection.channel(confirms=True))
    channel = await connection.channel()

    async def consume(tag: str, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await channel.basic_consume(queue, lambda delivery: None, consumer_tag=tag)

    others = (_error(consume(str(n), n)) for n in range(100))
    missing = _error(channel.basic_consume("test.missing", lambda delivery: None))
    outcomes = Counter(await asyncio.gather(missing, *others))
    assert outcomes == {NotFound: 1, ChannelClosed: 100}
    await connection.close()


async def test_channels_that_the_broker_closes_do_not_cost_the_connection(amqp_url: str, connect: Connect) -> None:
    connection = await connect(amqp_url)

    async def look() -> None:
        channel = await connection.channel()
        assert await _error(channel.queue_declare("test.missing", passive=True)) is NotFound

    for _ in range(30):
        await asyncio.gather(*(look() for _ in range(20)))
    assert not connection.is_closed
    await connection.close()


async def test_channel_numbers_are_used_again_as_late_as_can_be(amqp_url: str, connect: Connect) -> None:
    connection: Any = await connect(amqp_url)
    connection._max_number = 10
    for _ in range(3):
        channels = [await connection.channel() for _ in range(10)]
        assert await _error(connection.channel()) is BrokerUnavailable
        for channel in channels:
            await channel.close()
    assert not connection.is_closed
    await connection.close()


async def test_publishes_beside_a_refused_one_fail_with_errors_of_ours(amqp_url: str, connect: Connect) -> None:
    connection = await connect(amqp_url)
    queue = await _queue(await connection.channel(confirms=True))
    channel = await connection.channel(confirms=True)
    calls = [
        _error(channel.basic_publish(b"", Properties(), "test.missing" if n == 20 else "", queue)) for n in range(200)
    ]
    for outcome in await asyncio.gather(*calls):
        assert outcome is None or issubclass(outcome, AioResultsError)
    assert not connection.is_closed
    await connection.close()


async def test_publishes_behind_a_refused_one_do_not_cost_the_connection(amqp_url: str, connect: Connect) -> None:
    connection = await connect(amqp_url)
    queue = await _queue(await connection.channel(confirms=True))
    for turns in range(60):
        channel = await connection.channel(confirms=True)
        publishing = [asyncio.create_task(_error(channel.basic_publish(b"", Properties(), "test.missing", queue)))]
        for _ in range(turns):
            await asyncio.sleep(0)
            publishing.append(asyncio.create_task(_error(channel.basic_publish(b"", Properties(), "", queue))))
        outcomes = await asyncio.gather(*publishing)
        assert outcomes[0] is NotFound
        assert set(outcomes[1:]) <= {None, ChannelClosed}
        # Had the connection been lost, this would fail.
        await (await connection.channel()).queue_declare(queue, passive=True)
    await connection.close()


async def test_a_channel_discarded_during_a_call_does_not_cost_the_connection(amqp_url: str, connect: Connect) -> None:
    connection = await connect(amqp_url)
    for turns in range(10):
        for _ in range(5):
            channel = await connection.channel()
            calling = asyncio.create_task(_error(channel.basic_qos(5)))
            for _ in range(turns):
                await asyncio.sleep(0)
            await channel.close()
            assert await asyncio.wait_for(calling, 30) in {None, ChannelClosed}
        # Had the connection been lost, this would fail.
        await (await connection.channel()).basic_qos(1)
    await connection.close()


async def test_a_cancel_right_behind_the_answer_to_consume_is_told(amqp_url: str) -> None:
    connection: Any = await transport_for(amqp_url).connect()
    other = await (await transport_for(amqp_url).connect()).channel()
    channel, queue, cancelled = await connection.channel(), await _queue(other), asyncio.Event()
    transport, tag = connection._socket._transport, "t" * 100

    def unread() -> int:
        count = fcntl.ioctl(transport.get_extra_info("socket"), termios.FIONREAD, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    transport.pause_reading()
    consuming = asyncio.create_task(
        channel.basic_consume(queue, lambda delivery: None, on_cancel=lambda tag: cancelled.set(), consumer_tag=tag)
    )
    await eventually(lambda: unread() > len(tag))
    await other.queue_delete(queue)
    await eventually(lambda: unread() > 2 * len(tag))
    transport.resume_reading()
    assert await consuming == tag
    await asyncio.wait_for(cancelled.wait(), 30)
    await connection.close()
    await other.connection.close()


async def test_a_connection_that_others_use_as_well(amqp_url: str) -> None:
    """Two wrappers of one connection, and channels of its owner's own, all with messages at the same time."""
    shared = await aio_pika.connect(amqp_url)
    theirs = await shared.channel()
    queue = await theirs.declare_queue(f"test.{secrets.token_hex(6)}", auto_delete=True)
    taken: list[bytes] = []

    async def take(message: AbstractIncomingMessage) -> None:
        taken.append(message.body)

    consuming = await queue.consume(take, no_ack=True)

    async def publish_theirs() -> None:
        for number in range(200):
            await theirs.default_exchange.publish(aio_pika.Message(b"%d" % number), queue.name)

    async def use_ours(received: list[bytes]) -> None:
        connection = AMQPConnection(shared)
        publisher, consumer = await connection.channel(confirms=True), await connection.channel()
        ours = await _queue(publisher)
        await consumer.basic_consume(ours, lambda delivery: received.append(delivery.body), no_ack=True)
        await asyncio.gather(*(publisher.basic_publish(b"%d" % n, Properties(), "", ours) for n in range(200)))
        assert await _error(publisher.basic_publish(b"", Properties(), "", "test.missing", mandatory=True)) is (
            MessageReturned
        )
        await eventually(lambda: len(received) == 200)

    received: tuple[list[bytes], list[bytes]] = ([], [])
    await asyncio.gather(publish_theirs(), *map(use_ours, received))
    await eventually(lambda: len(taken) == 200)
    assert taken == received[0] == received[1] == [b"%d" % number for number in range(200)]
    await queue.cancel(consuming)
    await shared.close()


async def test_an_acknowledgement_is_sent_after_the_turn_in_which_it_was_given(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was given a result acts on it in this turn: killed before the end of it, the result is still in its queue."""
    connection: Any = await transport_for(amqp_url).connect()
    channel = await connection.channel(confirms=True)
    sent: list[bytes] = []
    with monkeypatch.context() as patched:
        patched.setattr(connection._socket, "_transport", SimpleNamespace(write=sent.append, is_closing=lambda: False))
        channel.basic_ack(1)
        channel.basic_nack(2)
        assert sent == []
        await asyncio.sleep(0)
        assert sent == [frames.ack(1, 1, multiple=False) + frames.nack(1, 2, multiple=False, requeue=True)]
        channel.basic_ack(3)
        publishing = channel.basic_publish(b"", Properties(), "", "q")
        publishing.send(None)  # in this turn
        assert sent[1].startswith(frames.ack(1, 3, multiple=False))
        assert len(sent) == 2
        publishing.close()
    await connection.close()


async def test_messages_alone_keep_a_connection_alive(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    """A broker that has messages to send sends no heartbeats."""
    clock = Clock(monkeypatch)
    other = await connect(amqp_url)
    publisher = await other.channel(confirms=True)
    queue = await _queue(publisher)
    connection = await connect(amqp_url)
    consumer = await connection.channel()
    received: list[bytes] = []
    await consumer.basic_consume(queue, lambda delivery: received.append(delivery.body), no_ack=True)
    for number in range(20):
        clock.advance(5)  # a connection is given up that was silent for 33 seconds
        await publisher.basic_publish(b"%d" % number, Properties(), "", queue)
        await eventually(lambda number=number: len(received) > number)  # type: ignore[misc]
    assert not connection.is_closed
    await connection.close()
    await other.close()


async def test_acks_behind_a_refused_call_do_not_cost_the_connection(amqp_url: str, connect: Connect) -> None:
    for turns in range(20, 60, 5):
        connection = await connect(amqp_url)
        queue = await _queue(await connection.channel(confirms=True), *[b"x"] * 1000)
        channel = await connection.channel()
        await channel.basic_qos(100)
        await channel.basic_consume(queue, lambda delivery: delivery.channel.basic_ack(delivery.delivery_tag))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert await _error(channel.basic_consume("test.missing", lambda delivery: None)) is NotFound
        # Had the connection been lost, this would fail.
        await (await connection.channel()).queue_delete(queue)
        await connection.close()


async def test_a_channel_whose_caller_left_while_it_was_opened_is_closed(amqp_url: str, connect: Connect) -> None:
    connection = await connect(amqp_url)
    for turns in range(20):
        opening = asyncio.create_task(connection.channel())
        for _ in range(turns):
            await asyncio.sleep(0)
        if opening.cancel():
            await asyncio.wait([opening])
        if not opening.cancelled():
            await opening.result().close()
    await eventually(lambda: _open_channels(connection) == 0)
    await connection.close()


async def test_closing_a_channel_whose_get_is_not_answered_returns_the_message(
    amqp_url: str, proxy: MakeProxy, connect: Connect
) -> None:
    direct = await connect(amqp_url)
    queue = await _queue(await direct.channel(confirms=True), b"kept")
    slow = await proxy(amqp_url)
    connection = await connect(slow.url_for(amqp_url))
    channel = await connection.channel()
    slow.stall()
    getting = asyncio.create_task(channel.basic_get(queue))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(channel.close())
    await asyncio.sleep(0.05)
    slow.resume()
    await closing
    await asyncio.wait([getting])
    assert _open_channels(connection) == 0

    reader = await direct.channel()

    async def is_back() -> bool:
        delivery = await reader.basic_get(queue)
        return delivery is not None and delivery.body == b"kept"

    await eventually(is_back)
    await connection.close()
    await direct.close()


async def test_a_loss_is_told_to_those_who_ask_after_it(amqp_url: str, proxy: MakeProxy, connect: Connect) -> None:
    between = await proxy(amqp_url)
    connection: Connection = await connect(between.url_for(amqp_url))
    channel = await connection.channel()
    between.drop()
    await eventually(lambda: connection.is_closed)
    await asyncio.sleep(0.05)
    told: list[BaseException] = []
    connection.on_close(told.append)
    channel.on_close(told.append)
    await eventually(lambda: len(told) == 2)
    assert {type(reason) for reason in told} == {BrokerUnavailable}


async def test_no_connection_is_left_to_close_itself(amqp_url: str, proxy: MakeProxy) -> None:
    """aio-pika's would when it is collected, in whichever thread that is, and warn where that has no event loop."""
    between = await proxy(amqp_url)
    transport = AMQPTransport([between.url_for(amqp_url)])
    lost = await transport.connect()
    between.drop()
    await eventually(lambda: lost.is_closed)
    await lost.close()
    between.cut()
    with pytest.raises(BrokerUnavailable):
        await transport.connect()
    await between.restore()
    between.stall()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await transport.connect()
    made = [each for each in gc.get_objects() if type(each) is aio_pika.Connection and each.url.port == between.port]
    # aio-pika 9 and 10.0 never call one closed that was not connected.
    assert [each.is_closed or each.transport is None for each in made] == [True] * len(made)


@pytest.mark.parametrize("answer", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x01" * 100])
async def test_a_server_that_speaks_something_else(answer: bytes) -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            while await reader.read(100):
                pass
        closed.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        transport = AMQPTransport([f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/"])
        with pytest.raises(BrokerUnavailable, match="what the broker sent cannot be read"):
            await asyncio.wait_for(transport.connect(), 30)
        await asyncio.wait_for(closed.wait(), 30)


async def test_an_aiormq_that_does_not_let_us_open_the_socket(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(aiormq, "TransportFactory")
    transport = transport_for(amqp_url)
    for _ in range(2):
        connection = await transport.connect()
        channel = await connection.channel(confirms=True)
        delivery = await channel.basic_get(await _queue(channel, b"x"))
        assert delivery is not None
        assert delivery.body == b"x"
        await connection.close()
    assert caplog.text.count("does not let us open the socket") == 1


async def test_the_connection_of_others_is_left_as_it_was(amqp_url: str) -> None:
    """Blocked or not, lost or not: aiormq's own part goes on as without us."""
    shared = await aio_pika.connect(amqp_url)
    assert shared.transport is not None
    theirs = shared.transport.connection
    before = {name: value for name, value in vars(theirs).items() if not isinstance(value, set | dict | float)}
    connections = [AMQPConnection(shared), AMQPConnection(shared)]
    for connection in connections:
        channel = await connection.channel(confirms=True)
        await channel.basic_get(await _queue(channel, b"x"))
        await channel.close()
    after = {name: value for name, value in vars(theirs).items() if name in before}
    changed = {name for name in before if after[name] is not before[name]}
    assert changed == set()
    assert theirs.channels == {}
    await shared.close()


async def test_a_node_that_does_not_answer_is_not_tried_twice_in_a_row(amqp_url: str, proxy: MakeProxy) -> None:
    silent = await proxy(amqp_url)
    silent.stall()
    transport = AMQPTransport([silent.url_for(amqp_url), amqp_url])
    try:
        async with asyncio.timeout(0.2):
            await transport.connect()
    except TimeoutError:
        pass
    async with asyncio.timeout(30):
        connection = await transport.connect()
    await connection.close()


async def test_a_connection_whose_caller_left_while_it_was_opened_is_closed(amqp_url: str, proxy: MakeProxy) -> None:
    between = await proxy(amqp_url)
    transport = transport_for(between.url_for(amqp_url))
    for moment in range(100):
        opening = asyncio.create_task(transport.connect())
        await asyncio.sleep(moment * 0.0002)
        if opening.cancel():
            await asyncio.wait([opening])
        if not opening.cancelled():
            await opening.result().close()
    await eventually(lambda: between.accepted > 0 and between.connections == 0)


@pytest.mark.parametrize("operation", ["basic_publish", "queue_declare", "channel"])
async def test_every_call_ends_when_the_connection_is_lost(
    amqp_url: str, proxy: MakeProxy, operation: str, connect: Connect
) -> None:
    def call(channel: Channel) -> Awaitable[object]:
        if operation == "basic_publish":
            return channel.basic_publish(b"x" * 5000, Properties(), "", queue)
        if operation == "channel":
            return channel.connection.channel()
        return channel.queue_declare(queue, passive=True)

    direct = await connect(amqp_url)
    queue = await _queue(await direct.channel())
    between = await proxy(amqp_url)
    for turns in range(0, 60, 2):
        connection = await connect(between.url_for(amqp_url))
        channels = [await connection.channel(confirms=True) for _ in range(15)]
        calling = asyncio.gather(*(_error(call(channel)) for channel in channels * 10))
        for _ in range(turns):
            await asyncio.sleep(0)
        between.drop()
        outcomes = await asyncio.wait_for(calling, 30)
        assert set(outcomes) <= {None, BrokerUnavailable}, turns
    await (await direct.channel()).queue_delete(queue)
    await direct.close()
