"""2,000 tasks, one process that stores and another that waits, a queue per task: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL

import pytest

from aioresults import AMQPBackend
from aioresults.contrib.rabbitmq import Process
from tests.adversity.party import task_id
from tests.eventually import eventually
from tests.nodes import Node

COUNT = 2000
#: Waits that one caller has under way.
WINDOW = 100

Start = Callable[..., Process]


@pytest.fixture
def prefix() -> str:
    return secrets.token_hex(6)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Process] = []

    def start(what: str, url: str, prefix: str, count: int = COUNT) -> Process:
        command = [sys.executable, "-m", "tests.adversity.party", what, url, prefix, str(count)]
        process = Process(command, log=tmp_path / f"{what}.log")
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()


def numbers(log: Path) -> list[int]:
    """Return what a process has printed; a line that is not whole yet does not count."""
    text = log.read_text() if log.exists() else ""
    return [int(line) for line in text[: text.rfind("\n") + 1].split("\n") if line]


async def collect(
    backend: AMQPBackend, prefix: str, wanted: list[int], on_taken: Callable[[list[int]], None] = lambda taken: None
) -> list[int]:
    """Await each task in a call of its own, ``WINDOW`` at a time; return the results in the order they came."""
    taken: list[int] = []
    left = iter(wanted)

    async def caller() -> None:
        for number in left:
            taken.append(await backend.wait_for(task_id(prefix, number), cache=False))
            on_taken(taken)

    await asyncio.gather(*(caller() for _ in range(WINDOW)))
    return taken


async def finished(worker: Process, log: Path) -> None:
    await eventually(lambda: not worker.running, within=120)
    assert worker.returncode == 0, log.read_text()[-2000:]


async def test_waits_that_are_cancelled_and_started_again(
    amqp_url: str, prefix: str, start: Start, tmp_path: Path
) -> None:
    rng = random.Random(1)
    worker = start("store", amqp_url, prefix)
    taken: list[int] = []
    async with AMQPBackend(amqp_url, expires=600) as backend:

        async def caller(own: list[int]) -> None:
            for number in own:
                while True:
                    wait = asyncio.create_task(backend.wait_for(task_id(prefix, number), cache=False))
                    await asyncio.wait([wait], timeout=rng.choice([0, 0.001, 0.01, 0.1, None]))
                    wait.cancel()
                    await asyncio.wait([wait])
                    if not wait.cancelled():
                        taken.append(wait.result())
                        break

        await asyncio.gather(*(caller(list(range(n, COUNT, WINDOW))) for n in range(WINDOW)))
    await finished(worker, tmp_path / "store.log")
    assert sorted(taken) == list(range(COUNT))


async def test_another_process_takes_over_from_one_that_was_killed(
    amqp_url: str, prefix: str, start: Start, tmp_path: Path
) -> None:
    """What was taken just before the kill may come again: its queue was not deleted yet. Nothing may be missing."""
    worker, first = start("store", amqp_url, prefix), start("await", amqp_url, prefix)
    await eventually(lambda: len(numbers(tmp_path / "await.log")) > COUNT // 3, within=120)
    first.signal(SIGKILL)
    await eventually(lambda: not first.running)
    before = numbers(tmp_path / "await.log")
    async with AMQPBackend(amqp_url, expires=600) as backend:
        after = await collect(backend, prefix, [number for number in range(COUNT) if number not in set(before)])
    await finished(worker, tmp_path / "store.log")
    assert sorted(before + after) == list(range(COUNT))


async def test_another_backend_takes_over_from_one_that_was_closed(
    amqp_url: str, prefix: str, start: Start, tmp_path: Path
) -> None:
    worker = start("store", amqp_url, prefix)
    before: list[int] = []
    async with AMQPBackend(amqp_url, expires=600) as first:
        everything = list(range(COUNT))
        collecting = asyncio.create_task(collect(first, prefix, everything, lambda taken: before.append(taken[-1])))
        await eventually(lambda: len(before) > COUNT // 3, within=120)
        collecting.cancel()
        await asyncio.wait([collecting])
    async with AMQPBackend(amqp_url, expires=600) as second:
        after = await collect(second, prefix, [number for number in range(COUNT) if number not in set(before)])
    await finished(worker, tmp_path / "store.log")
    assert sorted(before + after) == list(range(COUNT))


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_the_broker_is_restarted_half_way(
    own_broker: Node, prefix: str, start: Start, tmp_path: Path, how: str
) -> None:
    worker = start("store", own_broker.url, prefix)
    progress: list[int] = []

    async def restart() -> None:
        await eventually(lambda: len(progress) > COUNT // 3, within=120)
        if how == "kill":
            await asyncio.to_thread(own_broker.kill)
            await asyncio.to_thread(own_broker.start)
        else:
            await asyncio.to_thread(own_broker.restart)

    async with AMQPBackend(own_broker.url, expires=600) as backend:
        restarting = asyncio.create_task(restart())
        taken = await collect(backend, prefix, list(range(COUNT)), lambda all_taken: progress.append(all_taken[-1]))
        await restarting
        assert int(backend.stats()["sessions"]) > 1
    await finished(worker, tmp_path / "store.log")
    assert sorted(taken) == list(range(COUNT))
