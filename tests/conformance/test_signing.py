"""Signed results: who has no key, or another, is refused, counted, and told to whoever waits."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from time import time
from typing import Any

import pytest

from aioresults import AMQPBackend, DecodeError, Request, ResultMeta, ResultTimeout
from aioresults.serialization import ReportCodec
from tests.conformance.lab import Lab, Raw, new_id, only, queue_of
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
    async def test_others_are_refused_and_end_no_wait(
        self, lab: Lab, key: bytes | None, count: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caller, worker = await lab.open(signing_key=KEY), await lab.open(signing_key=key)
        genuine = await lab.open(signing_key=KEY)
        ids = [new_id() for _ in range(count)]
        waits = [asyncio.create_task(caller.wait_for(task_id)) for task_id in ids]
        await asyncio.sleep(0)
        request = Request(reply_to=caller.reply_to)
        with caplog.at_level(logging.WARNING, "aioresults"):
            await asyncio.gather(*(worker.store_result(task_id, "secret", request=request) for task_id in ids))
            await eventually(lambda: int(caller.stats()["undecodable"]) > 0)
            await asyncio.gather(*(genuine.store_result(task_id, "genuine", request=request) for task_id in ids))
            assert await asyncio.wait_for(asyncio.gather(*waits), 30) == ["genuine"] * count
        assert "cannot read a" in caplog.text
        assert "secret" not in caplog.text


@only("per_task", "reply_queue", "stream")
class TestForgeries:
    async def test_a_timeout_says_what_was_refused(self, lab: Lab, raw: Raw) -> None:
        caller, task_id = await lab.open(signing_key=KEY), new_id()
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=2))
        await raw.waited_for(caller, task_id)
        address = caller.reply_to or queue_of(caller, task_id)
        for _ in range(3):
            await raw.publish(address, b'{"status":"SUCCESS"}', content_type="application/json", correlation_id=task_id)
        with pytest.raises(ResultTimeout, match=r"3 messages were refused: the message is not signed") as caught:
            await waiting
        assert list(caught.value.refused) == [task_id]

    async def test_one_that_is_too_large_ends_no_wait(self, lab: Lab, raw: Raw) -> None:
        caller, worker = await lab.open(signing_key=KEY, max_body_size=1000), await lab.open(signing_key=KEY)
        task_id = new_id()
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        await raw.waited_for(caller, task_id)
        address = caller.reply_to or queue_of(caller, task_id)
        await raw.publish(address, b"x" * 2000, content_type="application/json", correlation_id=task_id)
        await worker.store_result(task_id, 1, request=Request(reply_to=caller.reply_to))
        assert await waiting == 1

    @pytest.mark.parametrize("change", ["correlation_id", "message_id", "timestamp"])
    async def test_a_genuine_message_cannot_be_given_another(self, lab: Lab, raw: Raw, change: str) -> None:
        caller, task_id = await lab.open(signing_key=KEY), new_id()
        codec = ReportCodec(signing_key=KEY)
        document = codec.write(ResultMeta(task_id, "SUCCESS", 1), task_id)
        message = codec.single(task_id, document, "writer.1")
        changed: dict[str, Any] = {"correlation_id": task_id, "message_id": "writer.2", "timestamp": int(time()) + 1}
        if change == "correlation_id":
            message = codec.single("another", document, "writer.1")
        properties = replace(message.properties, **{change: changed[change]})
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=2))
        await raw.waited_for(caller, task_id)
        channel = await raw.channel()
        await channel.basic_publish(message.body, properties, "", caller.reply_to or queue_of(caller, task_id))
        with pytest.raises(ResultTimeout, match="1 message was refused"):
            await waiting

    async def test_an_identity_that_somebody_claims_is_not_taken(self, lab: Lab, raw: Raw) -> None:
        caller, worker = await lab.open(signing_key=KEY), await lab.open(signing_key=KEY)
        request, first = Request(reply_to=caller.reply_to), new_id()
        waiting = asyncio.create_task(caller.wait_for(first, timeout=30))
        await raw.waited_for(caller, first)
        await worker.store_result(first, 0, request=request)
        assert await waiting == 0
        writer = worker._opened().outbox._writer
        ids = [new_id() for _ in range(20)]
        waits = [asyncio.create_task(caller.wait_for(task_id, timeout=30)) for task_id in ids]
        for task_id in ids:
            await raw.waited_for(caller, task_id)
        for number, task_id in enumerate(ids, 2):
            await raw.publish(
                caller.reply_to or queue_of(caller, task_id), b"{}",
                content_type="application/json", correlation_id=task_id, message_id=f"{writer}.{number}",
            )  # fmt: skip
        for task_id in ids:
            await worker.store_result(task_id, task_id, request=request)
        assert await asyncio.gather(*waits) == ids

    async def test_what_is_no_report_ends_no_wait(self, lab: Lab, raw: Raw) -> None:
        caller, worker, task_id = await lab.open(), await lab.open(), new_id()
        waiting = asyncio.create_task(caller.wait_for(task_id, timeout=30))
        await raw.waited_for(caller, task_id)
        address = caller.reply_to or queue_of(caller, task_id)
        for body in (b"[1]", b'{"answer": 42}', b'"text"'):
            await raw.publish(address, body, content_type="application/json", correlation_id=task_id)
        await worker.store_result(task_id, 1, request=Request(reply_to=caller.reply_to))
        assert await waiting == 1


@only("reply_queue", "stream")
class TestBeforeAnybodyAsked:
    async def test_what_cannot_be_read_ends_the_wait_at_once(self, lab: Lab) -> None:
        caller, worker, task_id = await lab.open(), await lab.open(serializer="yaml"), new_id()
        request = Request(reply_to=caller.reply_to)
        await worker.store_result(task_id, 1, request=request)
        await eventually(lambda: caller.stats()["refused"] == 1)
        with pytest.raises(DecodeError):
            await caller.wait_for(task_id, timeout=30)
        with pytest.raises(DecodeError):
            await caller.get_task_meta(task_id)
        await (await lab.open()).store_result(task_id, 2, request=request)  # run again, by a worker that we can read

        async def is_there() -> bool:
            with suppress(DecodeError):
                return (await caller.get_task_meta(task_id)).is_ready
            return False

        await eventually(is_there)
        assert await caller.wait_for(task_id, timeout=30) == 2


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
