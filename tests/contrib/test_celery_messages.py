"""The task messages that ``CeleryClient`` sends: compared with what Celery's own client was captured to send."""

from __future__ import annotations

import asyncio
import datetime
import json
import secrets
from collections.abc import AsyncIterator
from datetime import UTC
from decimal import Decimal
from typing import Any

import pytest

from aioresults import (
    AMQPBackend,
    AsyncResult,
    BrokerUnavailable,
    ConfigurationError,
    EncodeError,
    Message,
    MessageReturned,
    NotFound,
    Queue,
    ReplyQueue,
    Request,
    ResultTimeout,
)
from aioresults.contrib.celery import CeleryClient
from aioresults.transport.memory import MemoryBroker
from tests.celery_vectors import vectors
from tests.clock import Clock
from tests.eventually import eventually


@pytest.fixture
def name() -> str:
    return secrets.token_hex(8)


@pytest.fixture
async def client(name: str) -> AsyncIterator[CeleryClient]:
    """A client whose default queue is there."""
    async with CeleryClient(AMQPBackend(f"memory://{name}", routing=ReplyQueue()), send_timeout=10) as client:
        await Queue("celery")(await client.backend.channel()).declare()
        yield client


async def sent(client: CeleryClient, queue: str = "celery") -> Message:
    message = await Queue(queue)(await client.backend.channel()).get(no_ack=True)
    assert message is not None
    return message


def captured(case: str) -> dict[str, Any]:
    request: dict[str, Any] = next(each["request"] for each in vectors("celery-calls") if each["case"] == case)
    return request


async def test_as_celery_sends(client: CeleryClient) -> None:
    expected = captured("call-celery-send_task-reply_to")
    task_id = expected["headers"]["id"]

    result = await client.send("vt.add", 1, kwargs={"y": 2}, task_id=task_id)

    message = await sent(client)
    assert result.id == task_id
    assert json.loads(message.body) == json.loads(expected["body"])
    said = {name: value for name, value in expected["headers"].items() if value not in (None, 0, {}, [None, None])}
    assert {**message.headers, "origin": said["origin"]} == said
    await client.send("a")
    assert not {"argsrepr", "kwargsrepr"} & (await sent(client)).headers.keys()
    properties = message.properties
    for field in ("content_type", "content_encoding", "correlation_id", "priority", "delivery_mode", "expiration"):
        assert getattr(properties, field) == expected["properties"][field], field
    assert properties.reply_to == client.backend.reply_to


async def test_times(client: CeleryClient) -> None:
    await client.send("a", countdown=60, expires=60)
    await client.send("a", eta=datetime.datetime(2030, 1, 2, 3), expires=datetime.timedelta(minutes=1))

    now = datetime.datetime.now(UTC)
    first, second = (await sent(client)).headers, (await sent(client)).headers
    eta, expires = (datetime.datetime.fromisoformat(first[field]) for field in ("eta", "expires"))
    assert 50 < (eta - now).total_seconds() <= 60
    assert 50 < (expires - now).total_seconds() <= 60
    assert second["eta"] == "2030-01-02T03:00:00+00:00"
    assert 50 < (datetime.datetime.fromisoformat(second["expires"]) - now).total_seconds() <= 60


@pytest.mark.parametrize(
    ("serializer", "content_type", "encoding"),
    [("msgpack", "application/x-msgpack", "binary"), ("yaml", "application/x-yaml", "utf-8")],
)
async def test_other_serializers(client: CeleryClient, serializer: str, content_type: str, encoding: str) -> None:
    await client.send("a", [1], serializer=serializer)

    message = await sent(client)
    assert (message.content_type, message.content_encoding) == (content_type, encoding)
    assert message.decode() == [[[1]], {}, dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))]


async def test_arguments_are_shown_shortened(client: CeleryClient) -> None:
    await client.send("a", "x" * 10**6, list(range(10**5)), kwargs={"k": "ä\ud800"})

    headers = (await sent(client)).headers
    assert len(headers["argsrepr"]) < 1024
    assert headers["kwargsrepr"] == r"{'k': 'ä\ud800'}"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"que": "typo"}, "unknown option 'que'; known are task_id, queue, .*kwargs={...}"),
        ({"queue": "q", "exchange": "e"}, "queue and exchange exclude each other"),
        ({"routing_key": "k"}, "a routing_key needs an exchange"),
        ({"countdown": 1, "eta": datetime.datetime.now(UTC)}, "countdown and eta exclude each other"),
        ({"countdown": -1}, "countdown must be .* not -1"),
        ({"countdown": 1e15}, "year 9999"),
        ({"eta": "2026-01-01"}, "eta must be a datetime, not '2026-01-01'"),
        ({"expires": "soon"}, "expires must be .* not 'soon'"),
        ({"time_limit": 0}, "time_limit must be .* not 0"),
        ({"priority": 256}, "priority must be between 0 and 255, not 256"),
        ({"task_id": ""}, "a task id must be"),
        ({"task_id": "x" * 256}, "has 256 bytes; AMQP allows 255"),
        ({"ignore_result": 1}, "ignore_result must be True or False, not 1"),
        ({"headers": {"task": "other"}}, "headers of these names are the protocol's own: task"),
        ({"headers": {"x": {"deep": [object()]}}}, "header 'x' holds a value that AMQP cannot carry, of type object"),
        ({"headers": {"x": 2**63}}, "of type int"),
        ({"headers": {"x": float("nan")}}, "header 'x' holds .* of type float"),
        ({"headers": {"x" * 129: 1}}, "the name of a header, 'x*...', has 129 bytes; AMQP allows 128"),
        ({"headers": {"x": 1e300}}, "of type float"),
        ({"headers": {"x": Decimal("NaN")}}, "of type Decimal"),
        ({"headers": {"x": Decimal("1e1000")}}, "of type Decimal"),
        ({"headers": {"x": Decimal("1e-1000")}}, "of type Decimal"),
        ({"headers": {"x": Decimal(2**31)}}, "of type Decimal"),
        ({"headers": {"x": datetime.datetime(1969, 1, 1, tzinfo=UTC)}}, "of type datetime"),
        ({"headers": {"x": "x" * 66_000}}, "headers take .* 65536 are allowed"),
        ({"headers": {"x": [{"y": [1] * 8_000}]}}, "headers take .* 65536 are allowed"),
        ({"headers": [1]}, r"headers must be a mapping, not \[1\]"),
        ({"serializer": "pickle"}, "pickle"),
        ({"compression": "rot13"}, "rot13"),
        ({"delivery_mode": 0}, "delivery_mode"),
        ({"shadow": "\ud800"}, "shadow cannot be written as UTF-8"),
        ({"kwargs": {1: 2}}, "kwargs must be a mapping whose keys are strings"),
        ({"kwargs": [1]}, "kwargs must be a mapping whose keys are strings"),
    ],
)
async def test_an_option_that_cannot_work_is_named(client: CeleryClient, options: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        await client.send("a", **options)
    assert await Queue("celery")(await client.backend.channel()).get() is None


async def test_a_handle_passes_on_all_arguments(client: CeleryClient) -> None:
    arguments = {"self": 1, "name": 2, "timeout": 3, "queue": 4, "kwargs": {"args": 5}}
    await client.task("a").send(**arguments)
    assert json.loads((await sent(client)).body)[1] == arguments


async def test_what_is_no_id_is_not_revoked(client: CeleryClient) -> None:
    for ids in (5, "", ["a", ""], []):
        with pytest.raises(ConfigurationError, match="task id"):
            await client.revoke(ids)  # type: ignore[arg-type]


async def test_what_cannot_be_written_is_not_sent(client: CeleryClient) -> None:
    with pytest.raises(EncodeError, match="json cannot write a value of type object"):
        await client.send("a", object())
    with pytest.raises(ConfigurationError, match="the name of a task"):
        await client.send("")
    with pytest.raises(ConfigurationError, match="the name of a task has 1025 characters; 1024 are allowed"):
        await client.send("a" * 1025)
    with pytest.raises(ConfigurationError, match="the name of a task cannot be written as UTF-8"):
        await client.chain(client.signature("a"), client.signature("\ud800")).send()
    with pytest.raises(ConfigurationError, match="kwargs must be a mapping whose keys are strings"):
        client.task("a").s().link(client.signature("b", kwargs={1: 2}))  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match="unknown option 'que'"):
        client.task("a", que="typo")  # type: ignore[call-overload]


async def test_unknown_queue_and_exchange(client: CeleryClient) -> None:
    with pytest.raises(MessageReturned, match="no queue for routing key 'nobody'"):
        await client.call("a", queue="nobody")
    astray = client.send("a", exchange="nobody", routing_key="k")
    outcomes = await asyncio.gather(client.send("a"), astray, client.send("a"), return_exceptions=True)
    assert [isinstance(outcome, AsyncResult) for outcome in outcomes] == [True, False, True]
    assert isinstance(outcomes[1], NotFound)


async def test_a_lost_connection_is_made_good(client: CeleryClient, name: str) -> None:
    await client.send("a", 1)
    MemoryBroker.named(name).cut()

    await client.send("a", 2)

    assert [json.loads((await sent(client)).body)[0] for _ in range(2)] == [[1], [2]]


async def test_a_broker_that_stays_away(name: str) -> None:
    backend = AMQPBackend(f"memory://{name}", routing=ReplyQueue(), rpc_timeout=0.1)
    async with CeleryClient(backend, send_timeout=0.3, retry_policy={"interval_step": 0.1}) as client:
        MemoryBroker.named(name).stop()
        with pytest.raises(BrokerUnavailable):
            await client.send("a")
        with pytest.raises(BrokerUnavailable, match=r"within 0\.0"):
            await client.call("a", timeout=0.05)


async def test_a_deadline_for_all_of_a_call(client: CeleryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, add = Clock(monkeypatch), client.task("a", timeout=20)
    for call in (client.call("a", timeout=20), add(1)):
        calling = asyncio.ensure_future(call)
        await eventually(lambda: client.backend.stats()["waiting"] == 1)
        clock.advance(20)
        with pytest.raises(ResultTimeout):
            await calling


async def test_a_worker_answers(client: CeleryClient) -> None:
    async def work() -> None:
        consumer = client.backend.Consumer(await client.backend.channel(), Queue("celery"))
        async with consumer:
            async for message in consumer:
                args, kwargs, _ = message.decode()
                request = Request(message.properties.reply_to, message.properties.correlation_id)
                await client.backend.store_result(message.headers["id"], sum(args, **kwargs), request=request)
                message.ack()

    worker = asyncio.create_task(work())
    total = client.task("total", timeout=30)

    assert await total(1, 2) == 3
    assert await total.using(priority=3)(1, 2, start=4) == 7
    assert await (await client.send("total", 4)).get(timeout=30) == 4
    assert repr(total) == "<Task total>"
    worker.cancel()
