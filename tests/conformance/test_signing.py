"""Signed results: who has no key, or another, is refused, counted, and told to whoever waits."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from aioresults import AMQPBackend, DecodeError, Request, SignatureMismatch
from tests.conformance.lab import Lab, new_id, only
from tests.eventually import eventually

KEY, OTHER = b"a key", b"another key"


@only("per_task", "reply_queue")
class TestSigning:
    @pytest.mark.parametrize("keys", [KEY, [OTHER, KEY]])
    async def test_known_keys_are_accepted(self, lab: Lab, keys: Any) -> None:
        caller, worker, task_id = await lab.open(signing_key=keys), await lab.open(signing_key=KEY), new_id()
        await worker.store_result(task_id, 1, request=Request(reply_to=caller.reply_to))
        assert await caller.wait_for(task_id, timeout=30) == 1

    @pytest.mark.parametrize("key", [None, OTHER])
    @pytest.mark.parametrize("count", [1, 20])
    async def test_others_are_refused(
        self, lab: Lab, key: bytes | None, count: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caller, worker = await lab.open(signing_key=KEY), await lab.open(signing_key=key)
        ids = [new_id() for _ in range(count)]
        waits = [asyncio.create_task(caller.wait_for(task_id)) for task_id in ids]
        await asyncio.sleep(0)
        request = Request(reply_to=caller.reply_to)
        with caplog.at_level(logging.WARNING, "aioresults"):
            await asyncio.gather(*(worker.store_result(task_id, "secret", request=request) for task_id in ids))
            outcomes = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 30)
        assert [type(outcome) for outcome in outcomes] == [SignatureMismatch] * count
        assert int(caller.stats()["undecodable"]) > 0
        assert "cannot read a" in caplog.text
        assert "secret" not in caplog.text


@only("per_task", "reply_queue")
class TestLimits:
    async def test_what_is_larger_than_allowed_is_refused_unread(self, lab: Lab) -> None:
        caller, worker = await lab.open(max_body_size=1000), await lab.open()
        await refused(caller, worker, "x" * 2000)

    async def test_what_grows_beyond_the_limit_is_refused(self, lab: Lab) -> None:
        caller, worker = await lab.open(max_decompressed_size=10_000), await lab.open(compression="zlib")
        await refused(caller, worker, "x" * 100_000)

    async def test_what_is_nested_too_deep_is_refused(self, lab: Lab) -> None:
        caller, worker = await lab.open(max_depth=5), await lab.open()
        await refused(caller, worker, [[[[[[[[1]]]]]]]])


async def refused(caller: AMQPBackend, worker: AMQPBackend, value: object) -> None:
    task_id = new_id()
    waiting = asyncio.create_task(caller.wait_for(task_id, timeout=30))
    await asyncio.sleep(0)
    await worker.store_result(task_id, value, request=Request(reply_to=caller.reply_to))
    with pytest.raises(DecodeError):
        await waiting
    await eventually(lambda: caller.stats()["undecodable"] == 1)
