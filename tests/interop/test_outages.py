"""Workers that are killed, and a broker that restarts, while their tasks are awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aioresults import ResultTimeout
from aioresults.contrib.rabbitmq import RabbitMQNode
from tests.eventually import eventually
from tests.interop.caller import TIMEOUT, Caller, calling
from tests.interop.conftest import clean_up
from tests.interop.worker import SETUPS, Worker


@pytest.fixture
async def own(request: pytest.FixtureRequest, amqp_url: str, tmp_path: Path) -> AsyncIterator[Caller]:
    """A worker of this test alone, on ``rpc://``."""
    worker = Worker(SETUPS[getattr(request, "param", "rpc")], amqp_url, tmp_path)
    try:
        async for caller in calling(worker):
            yield caller
    finally:
        worker.kill()
        clean_up(amqp_url, [worker])


async def started(caller: Caller, task_id: str) -> None:
    async def has_started() -> bool:
        return await caller.client.result(task_id).state() == "STARTED"

    await eventually(has_started, within=TIMEOUT)


async def test_worker_killed_and_restarted(own: Caller, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    held = await own.hold.send(str(gate))
    await started(own, held.id)
    queued = [await own.add.send(number, 1) for number in range(10)]
    waiting = asyncio.create_task(held.get(timeout=TIMEOUT))

    own.worker.kill()
    lost = await own.echo.using(expires=0.2).send("too late for the next worker")
    sent_meanwhile = await own.echo.send("meanwhile")
    gate.touch()
    await asyncio.sleep(0.2)  # what `expires` says
    own.worker.start()

    # The task that ran is acknowledged late, so it runs again; those in the queue run for the first time.
    assert await waiting == "released"
    assert [await result.get(timeout=TIMEOUT) for result in queued] == list(range(1, 11))
    assert await sent_meanwhile.get(timeout=TIMEOUT) == "meanwhile"
    error = await lost.get(timeout=TIMEOUT, propagate=False)
    assert error.reason == "expired"


@pytest.mark.parametrize("own", ["rpc-prefork"], indirect=True)
async def test_task_that_was_running_when_its_worker_was_killed(own: Caller) -> None:
    napping = await own.nap.send(60)
    await started(own, napping.id)

    own.worker.kill()
    own.worker.start()

    # Acknowledged before it ran, as is Celery's default (the solo pool gets round to it only afterwards): nobody will
    # run it again, and its waiter has a deadline.
    assert await own.echo("the next worker runs") == "the next worker runs"
    with pytest.raises(ResultTimeout):
        await napping.get(timeout=0.2)


async def test_message_that_expired_in_the_queue_without_a_word(own: Caller) -> None:
    """Celery's own client has the broker drop a task that expires; then nobody answers for it."""
    own.worker.kill()
    async with own.worker.client() as celery:
        options = {"expires": 0.1, "reply_to": own.client.backend.reply_to}
        task_id = str(await celery.run(lambda: celery.app.send_task("tests.interop.tasks.echo", (1,), **options)))
    await asyncio.sleep(0.2)  # what `expires` says
    own.worker.start()

    assert await own.echo("after") == "after"
    with pytest.raises(ResultTimeout):
        await own.client.result(task_id).get(timeout=0.2)


async def test_broker_restarted(private_rabbitmq: RabbitMQNode, tmp_path: Path) -> None:
    worker = Worker(SETUPS["rpc"], private_rabbitmq.url, tmp_path)
    try:
        async for caller in calling(worker):
            gate = tmp_path / "gate"
            held = await caller.hold.send(str(gate))
            await started(caller, held.id)
            queued = [await caller.add.send(number, 1) for number in range(10)]
            waiting = [asyncio.create_task(result.get(timeout=TIMEOUT)) for result in (held, *queued)]

            await asyncio.to_thread(private_rabbitmq.restart)
            gate.touch()

            assert await asyncio.gather(*waiting) == ["released", *range(1, 11)]
            assert await caller.echo("afterwards") == "afterwards"
    finally:
        worker.kill()
