"""Remote control of real workers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic

import pytest

from aioresults import ConfigurationError, TaskRevoked
from tests.eventually import eventually
from tests.interop.caller import TIMEOUT, Caller


async def test_ping(solo: Caller, prefork: Caller) -> None:
    nodes = [solo.worker.name, prefork.worker.name]
    started = monotonic()

    answers = await solo.client.ping(timeout=30, destination=nodes)
    one = await solo.client.ping(timeout=30, limit=1)

    assert answers == {node: {"ok": "pong"} for node in nodes}
    assert len(one) == 1
    assert monotonic() - started < 25  # it does not wait for more than there can be


async def test_a_deadline(solo: Caller) -> None:
    started = monotonic()

    assert await solo.client.ping(timeout=0.3, destination="nobody@nowhere") == {}
    assert 0.3 <= monotonic() - started < 5


async def test_inspection(prefork: Caller, tmp_path: Path) -> None:
    node = prefork.worker.name
    held = await prefork.hold.send(str(tmp_path / "gate"))

    async def is_active() -> bool:
        answers = await prefork.client.control("active", destination=node, timeout=30)
        return [task["id"] for task in answers[node]] == [held.id]

    await eventually(is_active, within=TIMEOUT)
    registered = await prefork.client.control("registered", destination=[node], timeout=30)
    stats = await prefork.client.control("stats", destination=node, timeout=30)
    unknown = await prefork.client.control("no_such_command", destination=node, timeout=30)

    assert "tests.interop.tasks.nap" in registered[node]
    assert stats[node]["pool"]["max-concurrency"] == 2
    assert "KeyError" in unknown[node]["error"]
    (tmp_path / "gate").touch()
    assert await held.get(TIMEOUT) == "released"


async def test_revoked_before_it_runs(solo: Caller) -> None:
    doomed = solo.echo.s("never").freeze()

    answers = await solo.client.revoke(doomed.result.id, destination=solo.worker.name, timeout=30)

    assert "flagged as revoked" in answers[solo.worker.name]["ok"]
    with pytest.raises(TaskRevoked, match="revoked"):
        await doomed.call(TIMEOUT)


async def test_revoked_while_it_runs(prefork: Caller) -> None:
    napping = await prefork.nap.send(60)

    async def has_started() -> bool:
        return await napping.state() == "STARTED"

    await eventually(has_started, within=TIMEOUT)
    assert await prefork.client.revoke([napping.id], terminate=True) == {}

    with pytest.raises(TaskRevoked, match="terminated"):
        await napping.get(TIMEOUT)


async def test_revoked_while_it_waits_for_its_time(solo: Caller) -> None:
    later = await solo.echo.using(countdown=10).send("never")
    assert await solo.client.revoke(later.id, timeout=30, destination=solo.worker.name)

    with pytest.raises(TaskRevoked):
        await later.get(TIMEOUT)


async def test_many_commands_at_once(solo: Caller) -> None:
    node = solo.worker.name

    answers = await asyncio.gather(*(solo.client.ping(timeout=30, destination=node) for _ in range(5)))

    assert answers == [{node: {"ok": "pong"}}] * 5


async def test_what_cannot_work(solo: Caller) -> None:
    for call in (
        solo.client.control(""),
        solo.client.ping(timeout=-1),
        solo.client.ping(destination=[]),
        solo.client.ping(limit=0),
        solo.client.revoke([]),
        solo.client.revoke("x", terminate="yes"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError):
            await call
