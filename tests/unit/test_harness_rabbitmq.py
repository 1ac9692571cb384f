"""Private nodes live, die and remember as a test tells them to, and do not know one another."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aio_pika
import pytest

from aioresults.contrib.rabbitmq import RabbitMQError, RabbitMQMissing, RabbitMQNode, find_scripts
from tests.eventually import eventually

pytestmark = pytest.mark.timeout(400)  # a node that cannot start says after 120 s why; some tests start three


async def send(url: str, queue: str, body: bytes) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(queue, durable=True)
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, queue)


async def receive(url: str, queue: str) -> bytes:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        message = await (await channel.declare_queue(queue, durable=True)).get()
        assert message is not None
        await message.ack()
        return message.body


async def test_the_shared_broker_answers(amqp_url: str) -> None:
    queue = f"harness-{secrets.token_hex(8)}"
    await send(amqp_url, queue, b"hello")
    assert await receive(amqp_url, queue) == b"hello"
    async with await aio_pika.connect(amqp_url) as connection:
        await (await connection.channel()).queue_delete(queue)


async def test_data_and_url_survive_restart_and_kill(private_rabbitmq: RabbitMQNode) -> None:
    node, url = private_rabbitmq, private_rabbitmq.url
    await send(url, "kept", b"over a restart")
    await asyncio.to_thread(node.restart)
    assert await receive(node.url, "kept") == b"over a restart"
    await send(url, "kept", b"over a kill")
    node.kill()
    assert not node.running
    assert not node.answers()
    await asyncio.to_thread(node.start)
    assert await receive(url, "kept") == b"over a kill"


def test_frozen_it_holds_connections_and_says_nothing(private_rabbitmq: RabbitMQNode) -> None:
    private_rabbitmq.freeze()
    with socket.create_connection(("127.0.0.1", private_rabbitmq.port), 5):
        assert not private_rabbitmq.answers(timeout=0.2)
    private_rabbitmq.thaw()
    assert private_rabbitmq.answers(timeout=30)


def test_commands_reach_it(private_rabbitmq: RabbitMQNode) -> None:
    assert private_rabbitmq.ctl("eval", "os:getpid().").strip() == f'"{private_rabbitmq.pid}"'
    assert private_rabbitmq.ctl("eval", "proplists:get_value(max_fds, erlang:system_info(check_io)).")
    with pytest.raises(RabbitMQError, match="no_such_command"):
        private_rabbitmq.ctl("no_such_command")


async def test_two_at_once_share_nothing(private_rabbitmq: RabbitMQNode) -> None:
    other = RabbitMQNode()
    try:
        await asyncio.to_thread(other.start)
        queue = f"harness-{secrets.token_hex(8)}"
        await send(private_rabbitmq.url, queue, b"one")
        await send(other.url, queue, b"two")
        assert await receive(private_rabbitmq.url, queue) == b"one"
        assert await receive(other.url, queue) == b"two"
        pid = other.pid
    finally:
        await asyncio.to_thread(other.close)
    assert not other.folder.exists()
    assert pid != private_rabbitmq.pid
    assert private_rabbitmq.answers(timeout=30)


async def test_nothing_is_left_when_the_tests_are_killed() -> None:
    code = (
        "import os, signal; from aioresults.contrib.rabbitmq import RabbitMQNode; node = RabbitMQNode(); node.start(); "
        "print(node.folder, node.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder, pid = killed.stdout.split()
    await eventually(lambda: not Path(folder).exists() and not Path("/proc", pid).exists())


def test_ended_by_somebody_else_it_starts_again() -> None:
    with RabbitMQNode() as node:
        assert node._epmd is not None
        ended = [node._epmd, node._process]
        for process in ended:
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            assert process.returncode == -signal.SIGKILL
            os.kill(process.pid, 0)  # its PID is nobody else's yet
        assert not node.running
        node.start()
        assert node.answers(timeout=30)
        assert node.ctl("status")
        assert all(process is not None and process._guard.is_over for process in ended)


def test_a_node_that_cannot_start_shows_its_log() -> None:
    node = RabbitMQNode()
    (node.folder / "rabbitmq.conf").write_text("no.such.setting = 1\n")
    try:
        with pytest.raises(RabbitMQError, match=r"no\.such\.setting"):
            node.start()
    finally:
        node.close()


def test_another_server_on_its_port_is_not_taken_for_it(private_rabbitmq: RabbitMQNode) -> None:
    node = RabbitMQNode()
    node.port = private_rabbitmq.port
    assert private_rabbitmq.answers(timeout=30)
    assert not node.answers()
    node.close()


def test_a_missing_server_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioresults.contrib.rabbitmq.node._DEBIAN", Path("/nowhere"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RabbitMQMissing, match="no rabbitmq-server is installed"):
        find_scripts()


def test_a_port_that_was_taken_meanwhile_is_chosen_anew() -> None:
    node = RabbitMQNode()
    taken = node._dist_port  # the one that Erlang asks for first, so that this is quick
    with socket.create_server(("127.0.0.1", taken)):
        try:
            node.start()
            assert node._dist_port != taken
        finally:
            node.close()
