"""What is refused: bad values, at once and by name; declarations that differ from what is there."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from aioresults import (
    AMQPBackend,
    ConfigurationError,
    InequivalentArgument,
    QueuePerTask,
    ReplyQueue,
    Request,
    ResourceLocked,
    RetryPolicy,
)
from tests.conformance.lab import Lab, Raw, new_id, new_name, only, where
from tests.eventually import eventually

#: Options that cannot work: how they are given, and what the error says beside the value.
BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "scheme": ({"url": "http://localhost/"}, "'http' is none of 'amqp', 'amqps', 'memory'"),
    "no scheme": ({"url": "localhost"}, "none of 'amqp', 'amqps', 'memory'"),
    "empty url": ({"url": ""}, "none of 'amqp', 'amqps', 'memory'"),
    "no url": ({"url": []}, "no URL"),
    "not a url": ({"url": 5}, "URL"),
    "one not a url": ({"url": [5]}, "must be a string, not int"),
    "no host": ({"url": "amqp:///vhost"}, "without a host name"),
    "bad port": ({"url": "amqp://host:port/"}, "cannot be read"),
    "port out of range": ({"url": "amqp://host:99999/"}, "cannot be read"),
    "memory without name": ({"url": "memory://"}, "memory://NAME"),
    "memory in a cluster": ({"url": ["amqp://a/", "memory://b"]}, "cannot be one URL of several"),
    "connection": ({"connection": "amqp://host/"}, "callable"),
    "serializer": ({"serializer": "xml"}, "no serializer 'xml': known are json, msgpack"),
    "pickle": ({"serializer": "pickle"}, "no serializer 'pickle'"),
    "accept": ({"accept": ["json", "xml"]}, "no serializer 'xml'"),
    "accept text": ({"accept": "json"}, "collection of names"),
    "compression": ({"compression": "rar"}, "'rar'"),
    "expires zero": ({"expires": 0}, "0.001"),
    "expires negative": ({"expires": -1}, "not -1"),
    "expires nan": ({"expires": math.nan}, "not nan"),
    "expires huge": ({"expires": 10**9}, "not 1000000000"),
    "expires bool": ({"expires": True}, "not True"),
    "expires text": ({"expires": "1"}, "not '1'"),
    "expires timedelta": ({"expires": timedelta(0)}, "timedelta"),
    "policy": ({"retry_policy": 5}, "not 5"),
    "policy key": ({"retry_policy": {"retries": 5}}, r"\['retries'\]; known are \['max_retries'"),
    "policy retries": ({"retry_policy": {"max_retries": -1}}, "max_retries .* not -1"),
    "policy interval": ({"retry_policy": {"interval_max": math.inf}}, "interval_max .* not inf"),
    "policy jitter": ({"retry_policy": {"jitter": 2}}, "jitter .* not 2"),
    "cache": ({"max_cached_results": -1}, "max_cached_results .* not -1"),
    "cache float": ({"max_cached_results": 1.5}, "max_cached_results .* not 1.5"),
    "size": ({"max_result_size": 0}, "max_result_size .* not 0"),
    "connect_timeout": ({"connect_timeout": 0}, "connect_timeout .* not 0"),
    "connect_timeout none": ({"connect_timeout": None}, "connect_timeout .* not None"),
    "rpc_timeout": ({"rpc_timeout": math.inf}, "rpc_timeout .* not inf"),
    "heartbeat": ({"heartbeat": -1}, "heartbeat .* not -1"),
    "heartbeat bool": ({"heartbeat": True}, "heartbeat .* not True"),
    "unroutable": ({"unroutable_policy": [-1]}, "unroutable_policy .*-1"),
    "unroutable number": ({"unroutable_policy": 5}, "unroutable_policy .*not 5"),
    "accept none": ({"accept": None}, "accept .*not None"),
    "signing key": ({"signing_key": []}, "key"),
    "signing key number": ({"signing_key": 5}, "signing_key must be bytes"),
    "routing": ({"routing": "ReplyQueue"}, r"routing .*such as ReplyQueue\(\), not 'ReplyQueue'"),
    "routing class": ({"routing": ReplyQueue}, r"routing .*such as ReplyQueue\(\), not <class"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_an_option_that_cannot_work(name: str) -> None:
    options, text = BAD_OPTIONS[name]
    with pytest.raises(ConfigurationError, match=text) as caught:
        AMQPBackend(**{"url": "memory://refusals", **options})
    assert isinstance(caught.value, ValueError)


def test_a_password_is_not_repeated_in_an_error() -> None:
    for url in ("http://u:s3cret@host/", "amqp://u:s3cret@/", "amqp://u:s3cret@host:port/"):
        with pytest.raises(ConfigurationError) as caught:
            AMQPBackend(url)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("expires", [0.001, 1, 48.3, timedelta(minutes=1), None, 4294967])
def test_an_expiry_that_works(expires: float | timedelta | None) -> None:
    [queue] = AMQPBackend("memory://refusals", expires=expires).on_reply_declare("t")
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    assert (queue.queue_arguments or {}).get("x-expires") == (None if seconds is None else int(seconds * 1000))


BAD_IDS: list[Any] = ["", None, 5, b"bytes", "x" * 300, "ü" * 130, "lone \ud800 surrogate"]


@where(by_id=True)
async def test_an_id_that_cannot_be_one(caller: AMQPBackend) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda task_id: caller.store_result(task_id, 1),
        lambda task_id: caller.wait_for(task_id),
        lambda task_id: caller.consume(task_id),
        lambda task_id: caller.get_many([new_id(), task_id]),
        lambda task_id: caller.watch(task_id),
        lambda task_id: caller.get_task_meta(task_id),
        lambda task_id: caller.reload_task_result(task_id),
        lambda task_id: caller.forget(task_id),
    ]
    for task_id, call in itertools.product(BAD_IDS, calls):
        with pytest.raises(ConfigurationError, match=r"task id|queue name"):
            await call(task_id)
    assert caller.stats()["waiting"] == 0


@only("reply_queue")
async def test_an_id_that_cannot_be_one_at_an_inbox(caller: AMQPBackend) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda task_id: caller.store_result(task_id, 1, request=Request(reply_to=caller.reply_to)),
        lambda task_id: caller.wait_for(task_id),
        lambda task_id: caller.get_task_meta(task_id),
    ]
    for task_id, call in itertools.product(BAD_IDS, calls):
        with pytest.raises(ConfigurationError, match="task id"):
            await call(task_id)


@only("celery")
async def test_an_id_that_celery_s_layout_cannot_hold(caller: AMQPBackend) -> None:
    for task_id in ("a-b", "0", "not-a-uuid", f"{{{new_id()}}}", f"urn:uuid:{new_id()}", "\u0661" * 32):
        with pytest.raises(ConfigurationError, match="is not a UUID"):
            await caller.store_result(task_id, 1)


@only("per_task")
@pytest.mark.parametrize("length", [255 - len("aioresults.task."), 256 - len("aioresults.task.")])
async def test_the_longest_id(caller: AMQPBackend, length: int) -> None:
    task_id = new_id().ljust(length, "x")
    if length == 239:
        await caller.store_result(task_id, 1)
        assert await caller.wait_for(task_id, timeout=30) == 1
    else:
        with pytest.raises(ConfigurationError, match="256 bytes"):
            await caller.store_result(task_id, 1)


async def test_a_timeout_that_cannot_be_one(caller: AMQPBackend) -> None:
    task_id = new_id()
    calls: list[Callable[[Any], Any]] = [
        lambda timeout: caller.wait_for(task_id, timeout=timeout),
        lambda timeout: caller.consume(task_id, timeout=timeout),
        lambda timeout: caller.get_many([task_id], timeout=timeout),
        lambda timeout: caller.watch(task_id, timeout=timeout),
        lambda timeout: caller.drain_events(timeout=timeout),
    ]
    for timeout, call in itertools.product([-1, -0.001, math.nan, True, "1", -math.inf, [1]], calls):
        with pytest.raises(ConfigurationError, match="timeout must be a number of seconds, 0 or more, or None, not"):
            await call(timeout)
    assert caller.stats()["waiting"] == 0


async def test_a_status_that_cannot_be_one(caller: AMQPBackend) -> None:
    statuses: list[Any] = [None, "", 5, b"SUCCESS", ["STARTED"]]
    for status in statuses:
        with pytest.raises(ConfigurationError, match="status must be a non-empty string, not"):
            await caller.store_result(new_id(), 1, status, request=Request(reply_to=caller.reply_to))


async def test_a_backlog_limit_that_cannot_be_one(caller: AMQPBackend) -> None:
    limits: list[Any] = [0, -1, True, 1.5, None, "5"]
    for limit in limits:
        with pytest.raises(ConfigurationError, match="backlog_limit must be an integer of 1 or more, not"):
            await caller.get_task_meta(new_id(), backlog_limit=limit)


@where(shared=False)
async def test_a_correlation_id_that_cannot_be_one(lab: Lab) -> None:
    backend = await lab.open(signing_key=b"secret")
    for correlation_id in (5, b"bytes"):
        request: Any = SimpleNamespace(reply_to=backend.reply_to, correlation_id=correlation_id)
        with pytest.raises(ConfigurationError, match="correlation id must be a string"):
            await backend.store_result(new_id(), 1, request=request)


@only("reply_queue")
async def test_a_result_without_an_address(caller: AMQPBackend) -> None:
    for request in (None, Request(), Request(reply_to="")):
        with pytest.raises(ConfigurationError, match="no reply_to"):
            await caller.store_result(new_id(), 1, request=request)


@pytest.mark.parametrize("options", [{"exchange": "x"}, {"exchange_type": "topic"}, {"auto_delete": True}], ids=str)
def test_options_that_a_reply_queue_has_no_use_for(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        AMQPBackend("memory://refusals", routing=ReplyQueue(), **options)


class TestDifferentDeclarations:
    @where(shared=False, own_queue=True)
    @where(by_id=True)
    async def test_a_wait_for_a_queue_that_expires_otherwise(self, lab: Lab, raw: Raw) -> None:
        worker, caller = await lab.open(expires=100), await lab.open(expires=200.5)
        task_id, other = new_id(), new_id()
        unharmed = asyncio.create_task(caller.wait_for(other, timeout=30))
        await raw.waited_for(caller, other)
        await worker.store_result(task_id, 1)
        with pytest.raises(InequivalentArgument) as caught:
            await caller.wait_for(task_id, timeout=30)
        error = caught.value
        assert (error.argument, error.entity, error.name) == ("x-expires", "queue", caller.rkey(task_id))
        assert ("200500" in error.declared, "100000" in error.existing) == (True, True)
        assert error.reply_code == 406
        # Nothing else noticed, and the result is where it was.
        assert not unharmed.done()
        assert caller.stats()["sessions"] == 1
        assert (await caller.get_task_meta(task_id)).result == 1
        await caller.store_result(other, "unharmed")
        assert await unharmed == "unharmed"

    @where(shared=False, own_queue=True)
    @where(by_id=True)
    async def test_many_at_once_beside_calls_in_flight(self, lab: Lab) -> None:
        worker, caller = await lab.open(expires=100), await lab.open(expires=200)
        bad, good = [new_id() for _ in range(10)], [new_id() for _ in range(30)]
        for task_id in bad:
            await worker.store_result(task_id, 1)
        refused = [asyncio.create_task(caller.wait_for(task_id, timeout=100)) for task_id in bad]
        waiting = [asyncio.create_task(caller.wait_for(task_id, timeout=100)) for task_id in good]
        await asyncio.gather(*(caller.store_result(task_id, task_id) for task_id in good))
        assert await asyncio.gather(*waiting) == good
        outcomes = await asyncio.gather(*refused, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {InequivalentArgument}
        assert caller.stats()["sessions"] == 1

    @only("celery", "celery_amqp_backend")
    async def test_a_store_to_a_queue_that_expires_otherwise(self, lab: Lab, raw: Raw) -> None:
        """The queue is there but not bound, so the worker comes to declare it."""
        worker, task_id, other = await lab.open(expires=100), new_id(), new_id()
        channel = await raw.channel()
        await channel.queue_declare(worker.rkey(task_id), auto_delete=True, arguments={"x-expires": 60_000})
        unharmed = asyncio.create_task(worker.store_result(other, 1))
        with pytest.raises(InequivalentArgument) as caught:
            await worker.store_result(task_id, 1)
        assert caught.value.argument == "x-expires"
        assert await unharmed == 1
        assert worker.stats()["sessions"] == 1
        await channel.queue_delete(worker.rkey(task_id))

    @only("celery", "celery_amqp_backend")
    async def test_an_exchange_that_is_durable_otherwise(self, lab: Lab) -> None:
        exchange = new_name()
        await lab.open(exchange=exchange)
        with pytest.raises(InequivalentArgument) as caught:
            await lab.open(exchange=exchange, persistent=False)
        assert (caught.value.entity, caught.value.name, caught.value.argument) == ("exchange", exchange, "durable")

    @only("per_task")
    async def test_the_two_sorts_of_queue(self, lab: Lab) -> None:
        plain, last = await lab.open(routing=QueuePerTask()), await lab.open(routing=QueuePerTask(last_value=True))
        task_id = new_id()
        await plain.store_result(task_id, 1)
        with pytest.raises(InequivalentArgument) as caught:
            await last.wait_for(task_id, timeout=30)
        assert caught.value.argument == "x-max-length"

    @only("per_task")
    async def test_a_queue_in_exclusive_use_elsewhere(self, lab: Lab, raw: Raw) -> None:
        backend, task_id = await lab.open(), new_id()
        await (await raw.channel()).queue_declare(backend.rkey(task_id), durable=True, exclusive=True)
        with pytest.raises(ResourceLocked):
            await backend.wait_for(task_id, timeout=30)
        await eventually(lambda: backend.stats()["waiting"] == 0)
        assert backend.stats()["sessions"] == 1


def test_a_policy_may_be_a_mapping_or_a_policy() -> None:
    mapping = {"max_retries": 20, "interval_start": 0, "interval_step": 1, "interval_max": 1}
    assert AMQPBackend("memory://refusals", retry_policy=mapping).retry_policy == RetryPolicy()
    assert AMQPBackend("memory://refusals", retry_policy=RetryPolicy(3)).retry_policy == RetryPolicy(3)
