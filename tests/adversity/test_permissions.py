"""Users with exactly the permissions of docs/operations.md, and with less; passwords and permissions that change."""

from __future__ import annotations

import asyncio
import re
import secrets
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

import aioresults
from aioresults import (
    AccessRefused,
    AMQPBackend,
    BrokerRefused,
    ChannelError,
    NotFound,
    QueuePerTask,
    ReplyQueue,
    Request,
    ResultForgotten,
    ResultStream,
)
from aioresults.routing import Routing
from aioresults.transport import transport_for
from tests.adversity.leaks import no_leaks
from tests.eventually import eventually
from tests.nodes import Node

DOC = Path(aioresults.__file__).parents[1] / "docs/operations.md"
NOTHING = ("^$", "^$", "^$")
ROUTINGS: dict[str, Callable[[], Routing]] = {
    "QueuePerTask()": QueuePerTask,
    "ReplyQueue()": ReplyQueue,
    "ResultStream()": ResultStream,
    "QueuePerTask.celery()": QueuePerTask.celery,
    "QueuePerTask.celery_amqp_backend()": QueuePerTask.celery_amqp_backend,
}
Patterns = tuple[str, str, str]


def documented() -> dict[tuple[str, str], Patterns]:
    """Return the table of permissions: configure, write and read of each routing and side."""
    row = re.compile(r"^\| `([^`]+)` \| (worker|caller) \| `([^`]+)` \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
    return {
        (routing, side): (configure.replace("\\|", "|"), write.replace("\\|", "|"), read.replace("\\|", "|"))
        for routing, side, configure, write, read in row.findall(DOC.read_text())
    }


@dataclass
class Users:
    """The users of one test, on a private node."""

    node: Node

    def erlang(self, *calls: str) -> None:
        """Run functions of RabbitMQ's own: one rabbitmqctl for all of them takes a second less for each."""
        self.node.ctl("eval", ", ".join(f"rabbit_auth_backend_internal:{call}" for call in calls) + ".")

    def permit(self, **patterns: Patterns) -> None:
        """Give users these permissions; those that are not there are made."""
        calls = []
        for name, (configure, write, read) in patterns.items():
            with_patterns = ", ".join(f"<<{_quoted(text)}>>" for text in (configure, write, read))
            calls.append(f'put_user(#{{name => <<"{name}">>, password => <<"{name}">>, tags => <<>>}}, <<"test">>)')
            calls.append(f'set_permissions(<<"{name}">>, <<"/">>, {with_patterns}, <<"test">>)')
        self.erlang(*calls)

    def url(self, name: str) -> str:
        return self.node.url.replace("guest:guest", f"{name}:{name}")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\") + '"'


@pytest.fixture
def users(own_broker: Node) -> Users:
    return Users(own_broker)


def test_every_routing_is_documented() -> None:
    assert set(documented()) == {(routing, side) for routing in ROUTINGS for side in ("worker", "caller")}


@pytest.mark.parametrize("name", ROUTINGS)
async def test_exactly_what_is_documented_is_enough(users: Users, name: str) -> None:
    table = documented()
    await asyncio.to_thread(users.permit, worker=table[name, "worker"], caller=table[name, "caller"])
    task_id, second, third = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())
    async with (
        no_leaks(),
        AMQPBackend(users.url("caller"), routing=ROUTINGS[name]()) as caller,
        AMQPBackend(users.url("worker"), routing=ROUTINGS[name](), store_only=True) as worker,
    ):
        request = Request(reply_to=caller.reply_to)
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        await eventually(lambda: caller.stats()["consuming"] == 1)
        await worker.store_result(task_id, 1, "PROGRESS", request=request)
        await worker.store_result(task_id, 2, request=request)
        assert await waiting == 2
        await worker.store_result(second, 3, request=request)
        assert (await caller.get_task_meta(second)).status in ("SUCCESS", "PENDING")
        assert await caller.wait_for(second, timeout=30) == 3
        await worker.store_result(third, 4, request=request)
        await caller.forget(third)
        assert worker.stats()["sessions"] == caller.stats()["sessions"] == 1


async def _denied(users: Users, name: str, side: str, task_id: str) -> ChannelError | None:
    """Return how one side's work is refused, if it is."""
    async with AMQPBackend(users.node.url, routing=ROUTINGS[name]()) as healthy:
        backend = AMQPBackend(users.url("less"), routing=ROUTINGS[name](), connect_timeout=20)
        try:
            await backend.open()
            if side == "worker":
                await asyncio.wait_for(
                    backend.store_result(task_id, 1, request=Request(reply_to=healthy.reply_to)), timeout=30
                )
            else:
                await backend.wait_for(task_id, timeout=30)
        except ChannelError as error:
            return error
        except TimeoutError:
            return None
        finally:
            await backend.close()
            with suppress(ChannelError):
                await healthy.forget(task_id)
    return None


@pytest.mark.parametrize(
    ("name", "side"), [(name, side) for name in list(ROUTINGS)[:2] for side in ("worker", "caller")]
)
async def test_less_is_refused_with_an_error_that_names_it(users: Users, name: str, side: str) -> None:
    whole = documented()[name, side]
    everything = {"ReplyQueue()": "worker"}.get(name) == side  # a worker of an inbox declares none: only to open it
    for position, pattern in enumerate(whole):
        if pattern == "^$":
            continue
        less = [*whole]
        less[position] = "^$"
        if everything:
            less[0], less[2] = "^aioresults", "^aioresults"
        configure, write, read = less
        await asyncio.to_thread(users.permit, less=(configure, write, read))
        error = await _denied(users, name, side, str(uuid.uuid4()))
        assert isinstance(error, AccessRefused), (position, error)
        assert re.search("(configure|write|read)? ?access to (queue|exchange)", str(error))


async def test_a_password_that_changes(users: Users) -> None:
    await asyncio.to_thread(users.permit, caller=(".*", ".*", ".*"))
    task_id = secrets.token_hex(8)
    async with no_leaks(), AMQPBackend(users.url("caller")) as caller, AMQPBackend(users.node.url) as worker:
        waiting = asyncio.create_task(caller.wait_for(task_id))
        await eventually(lambda: caller.stats()["consuming"] == 1)
        await asyncio.to_thread(
            users.erlang,
            'change_password(<<"caller">>, <<"another">>, <<"test">>)',
        )
        await asyncio.to_thread(users.node.ctl, "close_all_connections", "test")
        with pytest.raises(BrokerRefused, match="ACCESS_REFUSED"):
            await asyncio.wait_for(waiting, 30)
        await asyncio.to_thread(users.permit, caller=(".*", ".*", ".*"))
        await worker.store_result(task_id, 1)
        assert await caller.wait_for(task_id, timeout=30) == 1


async def test_permissions_that_are_taken_away_and_given_back(users: Users) -> None:
    await asyncio.to_thread(users.permit, caller=(".*", ".*", ".*"))
    first, second = secrets.token_hex(8), secrets.token_hex(8)
    async with no_leaks(), AMQPBackend(users.url("caller")) as caller, AMQPBackend(users.node.url) as worker:
        await worker.store_result(first, 1)
        await asyncio.to_thread(users.permit, caller=NOTHING)

        async def refused() -> bool:
            try:
                await caller.wait_for(secrets.token_hex(8), timeout=1)
            except AccessRefused:
                return True
            except TimeoutError:
                return False
            return False

        await eventually(refused)
        await asyncio.to_thread(users.permit, caller=(".*", ".*", ".*"))
        assert await caller.wait_for(first, timeout=30) == 1
        await worker.store_result(second, 2)
        assert await caller.wait_for(second, timeout=30) == 2


@pytest.mark.parametrize("layout", [QueuePerTask.celery, QueuePerTask.celery_amqp_backend])
async def test_an_exchange_that_is_deleted_and_may_not_be_declared_again(
    users: Users, layout: Callable[[], QueuePerTask]
) -> None:
    everything, no_exchange = (".*", ".*", ".*"), ("^(?!celeryresults$)", ".*", ".*")
    await asyncio.to_thread(users.permit, worker=everything)
    before, task_id = str(uuid.uuid4()), str(uuid.uuid4())
    async with no_leaks(), AMQPBackend(users.url("worker"), routing=layout(), store_only=True) as worker:
        await worker.store_result(before, 1)
        await asyncio.to_thread(users.permit, worker=no_exchange)
        await delete_exchange(users.node.url, worker.routing.exchange.name)
        await forget_permissions(worker)
        for _ in range(2):
            with pytest.raises(AccessRefused, match=r"access to exchange 'celeryresults'") as refused:
                await asyncio.wait_for(worker.store_result(task_id, 2), 15)
            assert refused.value.reply_code == 403
        assert (worker.stats()["sessions"], worker.stats()["unconfirmed"]) == (1, 0)
        await asyncio.to_thread(users.permit, worker=everything)
        await worker.store_result(task_id, 3)
        async with AMQPBackend(users.node.url, routing=layout()) as caller:
            assert await caller.wait_for(task_id, timeout=30) == 3


async def delete_exchange(url: str, name: str) -> None:
    connection = await transport_for(url).connect()
    await (await connection.channel()).exchange_delete(name)
    await connection.close()


async def forget_permissions(backend: AMQPBackend) -> None:
    """Have the next declaration made on a channel that is new: the broker remembers permissions for each channel."""
    session = backend._opened().sessions.current
    assert session is not None
    with pytest.raises(NotFound):
        await session.run(lambda channel: channel.queue_declare("no-such-queue", passive=True), publishing=True)


async def test_who_reads_a_stream_must_be_allowed_to_write(users: Users) -> None:
    """Else it never knows what it has not read yet."""
    readable, everything = (".*", "^$", ".*"), (".*", ".*", ".*")
    await asyncio.to_thread(users.permit, caller=readable)
    async with no_leaks():
        with pytest.raises(AccessRefused, match=r"amq\.default"):
            await AMQPBackend(users.url("caller"), routing=ResultStream()).open()
        await asyncio.to_thread(users.permit, caller=everything)
        async with AMQPBackend(users.url("caller"), routing=ResultStream()) as caller:
            await caller.store_result("known", 1)
            assert await caller.wait_for("known", timeout=30) == 1
            waiting = asyncio.create_task(caller.wait_for("unknown"))
            await asyncio.to_thread(users.permit, caller=readable)
            await asyncio.to_thread(users.node.ctl, "close_all_connections", "test")
            with pytest.raises(AccessRefused, match=r"amq\.default"):
                await asyncio.wait_for(waiting, 20)
            with pytest.raises(AccessRefused, match=r"amq\.default"):
                await caller.get_task_meta("unknown")
            assert (await caller.get_task_meta("known")).result == 1
            await asyncio.to_thread(users.permit, caller=everything)
            await eventually(lambda: caller.stats()["caught_up"] is True)
            assert (await caller.get_task_meta("unknown")).status == "PENDING"


async def test_a_vhost_that_is_deleted(users: Users) -> None:
    vhost = secrets.token_hex(4)
    await asyncio.to_thread(users.node.ctl, "add_vhost", vhost)
    await asyncio.to_thread(users.node.ctl, "set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
    async with no_leaks(), AMQPBackend(users.node.url + vhost) as caller:
        waiting = asyncio.create_task(caller.wait_for("in a vhost"))
        await eventually(lambda: caller.stats()["consuming"] == 1)
        await asyncio.to_thread(users.node.ctl, "delete_vhost", vhost)
        # Its queues and rights go before it does, and a wait may see any of these.
        with pytest.raises((BrokerRefused, AccessRefused, ResultForgotten)):
            await asyncio.wait_for(waiting, 20)
        with pytest.raises(BrokerRefused, match=vhost):
            await caller.store_result("in a vhost", 1)
