"""Sessions: channels that are shared, limits of time, and one connection after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from aioresults.errors import AioResultsError, BrokerRefused, BrokerUnavailable, NotFound
from aioresults.events import Events
from aioresults.sessions import sessions as sessions_module
from aioresults.sessions.channel_pool import ChannelPool
from aioresults.sessions.sessions import Session, Sessions
from aioresults.timing import fail_after
from aioresults.transport.base import Channel, Properties
from aioresults.transport.memory import MemoryBroker, MemoryTransport
from aioresults.transport.memory.connection import MemoryConnection
from tests.clock import Clock
from tests.eventually import eventually


class TestFailAfter:
    async def test_raises_what_a_caller_understands(self) -> None:
        with pytest.raises(BrokerUnavailable, match=r"no answer from the broker within 0\.01 s"):
            async with fail_after(0.01):
                await asyncio.Event().wait()

    async def test_leaves_another_timeout_alone(self) -> None:
        with pytest.raises(TimeoutError, match="mine"):
            async with fail_after(10):
                raise TimeoutError("mine")

    async def test_leaves_a_cancellation_alone(self) -> None:
        async def wait() -> None:
            async with fail_after(10):
                await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


@pytest.fixture
async def broker() -> MemoryBroker:
    return MemoryBroker("sessions")


@pytest.fixture
async def pool(broker: MemoryBroker) -> AsyncIterator[ChannelPool]:
    connection = await MemoryTransport(broker).connect()
    yield ChannelPool(connection, 60, size=3)
    await connection.close()


@pytest.fixture
async def hasty_pool(broker: MemoryBroker) -> AsyncIterator[ChannelPool]:
    connection = await MemoryTransport(broker).connect()
    yield ChannelPool(connection, 0.2, size=3)
    await connection.close()


class TestChannelPool:
    async def test_a_channel_is_used_again(self, pool: ChannelPool) -> None:
        used: list[Channel] = []

        async def note(channel: Channel) -> None:
            used.append(channel)

        await pool.run(note)
        await pool.run(note)
        assert used[0] is used[1]

    async def test_one_operation_at_a_time_on_each_and_no_more_than_its_size(self, pool: ChannelPool) -> None:
        busy: list[Channel] = []
        most = 0

        async def operation(channel: Channel) -> None:
            nonlocal most
            assert channel not in busy
            busy.append(channel)
            most = max(most, len(busy))
            await asyncio.sleep(0.001)
            busy.remove(channel)

        await asyncio.gather(*(pool.run(operation) for _ in range(30)))
        assert most == 3

    async def test_a_refused_operation_costs_its_channel_alone(self, pool: ChannelPool) -> None:
        with pytest.raises(NotFound):
            await pool.run(lambda channel: channel.queue_declare("missing", passive=True))
        assert (await pool.run(lambda channel: channel.queue_declare("new"))).queue == "new"

    async def test_a_failed_operation_returns_what_it_held(self, pool: ChannelPool, broker: MemoryBroker) -> None:
        async def prepare(channel: Channel) -> None:
            await channel.queue_declare("q")
            await channel.basic_publish(b"x", Properties(), "", "q")

        async def fail(channel: Channel) -> None:
            assert await channel.basic_get("q") is not None
            raise KeyError("mine")

        await pool.run(prepare)
        with pytest.raises(KeyError):
            await pool.run(fail)
        info = broker.queue("q")
        assert info is not None
        assert (info.ready, info.unacked) == (1, 0)

    async def test_takes_no_longer_than_its_limit(self, hasty_pool: ChannelPool) -> None:
        async def hang(channel: Channel) -> None:
            await asyncio.Event().wait()

        with pytest.raises(BrokerUnavailable, match=r"within 0\.2 s"):
            await hasty_pool.run(hang)

    async def test_nobody_waits_for_a_turn_while_nothing_is_answered(self, hasty_pool: ChannelPool) -> None:
        begun = 0

        async def hang(channel: Channel) -> None:
            nonlocal begun
            begun += 1
            await asyncio.Event().wait()

        outcomes = await asyncio.gather(*(hasty_pool.run(hang) for _ in range(30)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {BrokerUnavailable}
        assert begun == 3  # all at once, and not in ten turns
        assert (await hasty_pool.run(lambda channel: channel.queue_declare("after"))).queue == "after"

    async def test_others_wait_on_while_some_are_answered(self, broker: MemoryBroker) -> None:
        pool = ChannelPool(await MemoryTransport(broker).connect(), 3, size=3)

        async def hang(channel: Channel) -> None:
            await asyncio.Event().wait()

        async def work(channel: Channel) -> None:
            await asyncio.sleep(0.12)  # so that the last one waits for longer than three seconds

        outcomes = await asyncio.gather(pool.run(hang), *(pool.run(work) for _ in range(60)), return_exceptions=True)
        assert isinstance(outcomes[0], BrokerUnavailable)
        assert outcomes[1:] == [None] * 60

    async def test_goes_on_when_its_caller_leaves(self, pool: ChannelPool) -> None:
        begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def operation(channel: Channel) -> None:
            begun.set()
            await may_end.wait()
            ended.set()

        caller = asyncio.create_task(pool.run(operation))
        await begun.wait()
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
        may_end.set()
        await asyncio.wait_for(ended.wait(), 30)

    async def test_a_failure_nobody_waits_for_is_not_reported(self, pool: ChannelPool) -> None:
        begun = asyncio.Event()

        async def operation(channel: Channel) -> None:
            begun.set()
            await asyncio.sleep(0.01)
            raise KeyError("nobody hears it")

        caller = asyncio.create_task(pool.run(operation))
        await begun.wait()
        caller.cancel()
        await asyncio.wait([caller])
        await eventually(lambda: not pool._running)


class Owner:
    """Uses sessions as they are."""

    def __init__(self) -> None:
        self.refusals: list[AioResultsError] = []

    async def prepare(self, session: Session) -> None:
        return None

    def refused(self, error: AioResultsError) -> None:
        self.refusals.append(error)


def sessions_of(broker: MemoryBroker, **options: Any) -> Sessions:
    return Sessions(
        options.pop("transport", None) or MemoryTransport(broker),
        options.pop("owner", None) or Owner(),
        Events(options.pop("on_event", None)),
        **{
            "store_only": False,
            "connect_timeout": 60,
            "rpc_timeout": 60,
            **options,
        },
    )


class TestLive:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions_module, "RECONNECT_INTERVAL", 0.01)

    async def test_yields_one_session_after_another(self, broker: MemoryBroker) -> None:
        sessions = sessions_of(broker)
        async with aclosing(sessions.live()) as live:
            for number in (1, 2, 3):
                session = await anext(live)
                assert sessions.current is session
                assert (sessions.count, broker.connection_count) == (number, 2)
                broker.cut(f"cut {number}")
                assert str(await session.lost) == f"cut {number}"
        assert sessions.current is None
        assert str(sessions.last_error) == "cut 3"
        assert broker.connection_count == 0

    async def test_one_connection_is_enough_to_store(self, broker: MemoryBroker) -> None:
        async with aclosing(sessions_of(broker, store_only=True).live()) as live:
            await anext(live)
            assert broker.connection_count == 1

    async def test_goes_on_until_the_broker_is_there(self, broker: MemoryBroker) -> None:
        sessions = sessions_of(broker)
        broker.stop()
        async with aclosing(sessions.live()) as live:
            first = asyncio.ensure_future(anext(live))
            await eventually(lambda: sessions.failures >= 3)
            assert "stopped" in str(sessions.last_error)
            broker.start()
            assert await first is sessions.current

    @pytest.mark.parametrize("error", [BrokerRefused("403"), NotFound(404, "no exchange")], ids=repr)
    async def test_when_refused_waits_until_somebody_asks(self, broker: MemoryBroker, error: AioResultsError) -> None:
        failing = [error]

        class Failing(Owner):
            async def prepare(self, session: Session) -> None:
                if failing:
                    raise failing.pop()

        owner = Failing()
        sessions = sessions_of(broker, owner=owner)
        async with aclosing(sessions.live()) as live:
            first = asyncio.ensure_future(anext(live))
            with pytest.raises(type(error)):
                await sessions.wait(5)
            assert owner.refusals == [error]
            assert broker.connection_count == 0
            assert not first.done()
            assert sessions.failures == 1
            assert await sessions.wait(5) is sessions.current
            await first

    async def test_a_connection_that_takes_too_long_is_given_up(self, broker: MemoryBroker) -> None:
        class Slow(Owner):
            async def prepare(self, session: Session) -> None:
                await asyncio.Event().wait()

        sessions = sessions_of(broker, owner=Slow(), connect_timeout=0.02)
        async with aclosing(sessions.live()) as live:
            first = asyncio.ensure_future(anext(live))
            await eventually(lambda: sessions.failures >= 2)
            assert "no answer from the broker" in str(sessions.last_error)
            first.cancel()
            await asyncio.wait([first])
        assert broker.connection_count == 0

    async def test_waiting_has_a_limit(self, broker: MemoryBroker) -> None:
        sessions = sessions_of(broker)
        with pytest.raises(BrokerUnavailable, match=r"no connection to memory://sessions within 0\.01 s"):
            await sessions.wait(0.01)
        with pytest.raises(BrokerUnavailable):
            await sessions.wait(0)


class TestSession:
    async def test_a_publisher_that_was_closed_is_replaced(self, broker: MemoryBroker) -> None:
        async with aclosing(sessions_of(broker).live()) as live:
            session = await anext(live)
            first, second = await asyncio.gather(session.open_publisher(), session.open_publisher())
            assert first is second is session.publisher
            await first.close()
            assert await session.open_publisher() is not first

    async def test_the_user_s_channel_is_on_a_connection_apart(self, broker: MemoryBroker) -> None:
        async with aclosing(sessions_of(broker).live()) as live:
            session = await anext(live)
            await session.channel()
            await session.channel()
            assert broker.connection_count == 3
        assert broker.connection_count == 0

    async def test_a_connection_apart_that_comes_after_its_end_is_closed(
        self, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, may_connect, connect = asyncio.Event(), asyncio.Event(), MemoryTransport.connect

        async def connect_late(transport: MemoryTransport) -> MemoryConnection:
            begun.set()
            await may_connect.wait()
            return await connect(transport)

        async with aclosing(sessions_of(broker).live()) as live:
            session = await anext(live)
            monkeypatch.setattr(MemoryTransport, "connect", connect_late)
            opening = asyncio.create_task(session.channel())
            await begun.wait()
        may_connect.set()
        with pytest.raises(BrokerUnavailable, match="the session is over"):
            await opening
        assert broker.connection_count == 0


async def test_a_publisher_that_was_refused_is_replaced_and_closed_later(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    connection = await MemoryTransport(broker).connect()
    session = Session(sessions_of(broker), [connection])
    first = await session.open_publisher()
    session.replace_publisher(first)
    second = await session.open_publisher()
    assert second is not first
    session.replace_publisher(first)  # as another lane does that was refused there, too
    assert session.publisher is second
    assert not first.is_closed
    clock.advance(60)
    await eventually(lambda: first.is_closed)
    await session.close()
