"""How long it takes until results go through again, once a broker lets clients in: printed for each routing (`-s`)."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from time import monotonic

import pytest

from aioresults import AMQPBackend, QueuePerTask, ReplyQueue, Request, ResultStream
from aioresults.routing import Routing
from tests.adversity.leaks import no_leaks
from tests.nodes import Node, settle_streams, until_login

#: Restarts of each kind.
TIMES = 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_recovery_from_a_restart(own_broker: Node, how: str) -> None:
    await asyncio.to_thread(settle_streams, [own_broker])
    stream = f"aioresults.test.{secrets.token_hex(4)}"
    routings: dict[str, Routing] = {"task": QueuePerTask(), "reply": ReplyQueue(), "stream": ResultStream(stream)}
    slowest = dict.fromkeys(routings, 0.0)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(no_leaks())
        pairs: dict[str, tuple[AMQPBackend, AMQPBackend]] = {}
        for name, routing in routings.items():
            worker = AMQPBackend(own_broker.url, routing=routing, expires=600, store_only=True)
            caller = AMQPBackend(own_broker.url, routing=routing, expires=600)
            pairs[name] = await stack.enter_async_context(caller), await stack.enter_async_context(worker)

        async def go_through(name: str, since: float) -> None:
            caller, worker = pairs[name]
            task_id = secrets.token_hex(8)
            waiting = asyncio.ensure_future(caller.wait_for(task_id, timeout=30))
            await worker.store_result(task_id, name, request=Request(reply_to=caller.reply_to))
            assert await waiting == name
            slowest[name] = max(slowest[name], monotonic() - since)

        for _ in range(TIMES):
            await asyncio.to_thread(own_broker.stop if how == "stopped" else own_broker.kill)
            login = await until_login(own_broker)
            await asyncio.gather(*(go_through(name, login) for name in routings))
        caller, _ = pairs["task"]
        await (await caller.channel()).queue_delete(stream)
    print(f"\n{how}: seconds after the first login, the slower of {TIMES}:", end="")  # noqa: T201
    print(*(f" {name} {seconds:.2f}" for name, seconds in slowest.items()), sep=",")  # noqa: T201
