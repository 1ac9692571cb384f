"""`store_result`, `mark_as_*`, `recording`: what is stored, how it travels, and what happens when it cannot be."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from time import monotonic
from typing import Any

import msgpack
import pydantic
import pytest

from aioresults import (
    AMQPBackend,
    BrokerUnavailable,
    ConfigurationError,
    EncodeError,
    MessageNacked,
    Queue,
    RemoteError,
    Request,
    ResultNotRouted,
    ResultTimeout,
    ResultTooLarge,
    RetryPolicy,
    Serializers,
    StoreError,
    TaskRevoked,
)
from aioresults.errors import RemoteTraceback
from aioresults.transport.memory import MemoryBroker
from tests.conformance.conftest import Store
from tests.conformance.lab import Lab, Raw, arrived, new_id, only, where
from tests.conformance.test_watching import collect
from tests.eventually import eventually

AT_ONCE = RetryPolicy(max_retries=3, interval_start=0, interval_step=0, interval_max=0)


def with_one_of_our_own() -> Serializers:
    """Return serializers of which one is ours."""
    serializers = Serializers()
    serializers.register("mine", lambda value: json.dumps(value)[::-1], lambda text: json.loads(text[::-1]), "x/mine")
    return serializers


class TestReports:
    async def test_returns_the_result_when_it_is_stored(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id, result = new_id(), {"a": [1]}
        assert await store(task_id, result) is result
        if caller.queue_for(task_id) is not None:
            assert await raw.ready(caller.rkey(task_id)) == 1

    async def test_what_a_request_says_is_in_the_report(
        self, lab: Lab, worker: AMQPBackend, caller: AMQPBackend
    ) -> None:
        task_id, child = new_id(), new_id()
        request = Request(reply_to=caller.reply_to, children=[[[child, None], None]], group="g", parent_id="p")
        await worker.store_result(task_id, 1, request=request)
        meta = await caller.consume(task_id, timeout=30)
        assert (meta.children, meta.group_id, meta.parent_id) == ([[[child, None], None]], "g", "p")

    async def test_anything_with_attributes_is_a_request(self, worker: AMQPBackend, caller: AMQPBackend) -> None:
        class CelerysOwn:
            reply_to = caller.reply_to
            correlation_id = None
            group = "g"

        task_id = new_id()
        await worker.store_result(task_id, 1, request=CelerysOwn())
        assert (await caller.consume(task_id, timeout=30)).group_id == "g"

    @where(shared=False)
    @where(by_id=True)
    async def test_the_message_is_celery_s(self, caller: AMQPBackend, store: Store, raw: Raw) -> None:
        task_id = new_id()
        await store(task_id, {"n": 1})
        delivery = await raw.get(caller.rkey(task_id))
        properties = delivery.properties
        assert (properties.content_type, properties.content_encoding) == ("application/json", "utf-8")
        assert (properties.priority, properties.correlation_id) == (0, task_id)
        assert (properties.reply_to, properties.expiration, properties.type) == (None, None, None)
        assert properties.message_id != task_id
        document = json.loads(delivery.body)
        assert list(document) == ["status", "result", "traceback", "children", "date_done", "task_id"]
        assert (document["status"], document["result"], document["task_id"]) == ("SUCCESS", {"n": 1}, task_id)

    @where(shared=False)
    @where(by_id=True)
    async def test_the_request_chooses_the_correlation_id(
        self, worker: AMQPBackend, caller: AMQPBackend, raw: Raw
    ) -> None:
        task_id = new_id()
        await worker.store_result(task_id, 1, request=Request(reply_to=caller.reply_to, correlation_id="mine"))
        assert (await raw.get(caller.rkey(task_id))).properties.correlation_id == "mine"

    @where(shared=False)
    @where(by_id=True)
    @pytest.mark.parametrize(("persistent", "mode"), [(True, 2), (False, 1), (None, 2)])
    async def test_persistent_is_the_delivery_mode(self, lab: Lab, raw: Raw, persistent: bool, mode: int) -> None:
        # Celery's exchange is as durable as the messages are persistent, so it cannot be shared.
        exchange = None if lab.layout.make().exchange.name == "" else f"test.{new_id()}"
        backend, task_id = await lab.open(persistent=persistent, exchange=exchange), new_id()
        await backend.store_result(task_id, 1)
        assert (await raw.get(backend.rkey(task_id))).properties.delivery_mode == mode
        assert backend.persistent is (mode == 2)

    @pytest.mark.parametrize("serializer", ["json", "msgpack"])
    @pytest.mark.parametrize("compression", [None, "zlib"])
    async def test_whatever_the_wire_format(
        self, lab: Lab, caller: AMQPBackend, serializer: str, compression: str | None
    ) -> None:
        backend, task_id = await lab.open(serializer=serializer, compression=compression), new_id()
        value = {"text": "x" * 5000, "list": [1, None, 2.5]}
        await backend.store_result(task_id, value, request=Request(reply_to=caller.reply_to))
        assert await caller.wait_for(task_id, timeout=30) == value

    @pytest.mark.parametrize("serializer", ["yaml", "mine"])
    @pytest.mark.parametrize("accept", [{}, {"accept": ()}], ids=str)
    async def test_what_a_backend_writes_it_reads(self, lab: Lab, serializer: str, accept: dict[str, Any]) -> None:
        options = {"serializer": serializer, "serializers": with_one_of_our_own(), **accept}
        backend, worker = await lab.open(**options), await lab.open(store_only=True, **options)
        for writer in (backend, worker):
            task_id = new_id()
            await writer.store_result(task_id, {"a": 1}, request=Request(reply_to=backend.reply_to))
            await lab.settled()
            await arrived(backend, task_id)
            assert (await backend.get_task_meta(task_id)).result == {"a": 1}
            assert await backend.wait_for(task_id, timeout=30) == {"a": 1}

    @pytest.mark.parametrize("store_only", [False, True])
    async def test_what_cannot_be_read_again_is_not_written(self, lab: Lab, store_only: bool) -> None:
        serializers = Serializers()
        serializers.register("packed", msgpack.packb, msgpack.unpackb, "application/x-packed")  # "binary" is forgotten
        with pytest.raises(ConfigurationError, match="serializer 'packed' does not read what it writes"):
            lab.make(serializer="packed", serializers=serializers, store_only=store_only)

    async def test_signed(self, lab: Lab) -> None:
        writer, reader = await lab.open(signing_key=b"k" * 32), await lab.open(signing_key=[b"n" * 32, b"k" * 32])
        task_id = new_id()
        await writer.store_result(task_id, "signed", request=Request(reply_to=reader.reply_to))
        assert await reader.wait_for(task_id, timeout=30) == "signed"


class TestMarks:
    async def test_each_stores_its_state(self, worker: AMQPBackend, caller: AMQPBackend) -> None:
        request = Request(reply_to=caller.reply_to)
        error = ValueError("no")
        marks: list[tuple[Any, str, Any]] = [
            (lambda i: worker.mark_as_done(i, 42, request=request), "SUCCESS", 42),
            (lambda i: worker.mark_as_failure(i, error, "Traceback: x", request=request), "FAILURE", error),
            (lambda i: worker.mark_as_revoked(i, "expired", request=request), "REVOKED", TaskRevoked("expired")),
        ]
        for mark, status, result in marks:
            task_id = new_id()
            await mark(task_id)
            meta = await caller.consume(task_id, timeout=30)
            assert (meta.status, repr(meta.result)) == (status, repr(result))
            assert meta.traceback == ("Traceback: x" if status == "FAILURE" else None)

    async def test_those_that_are_not_ready(self, worker: AMQPBackend, caller: AMQPBackend, raw: Raw) -> None:
        task_id, request = new_id(), Request(reply_to=caller.reply_to)
        watching = asyncio.create_task(collect(caller, task_id, timeout=30))
        await raw.waited_for(caller, task_id)
        await worker.mark_as_started(task_id, request, pid=1, hostname="h")
        await eventually(lambda: caller.stats()["received"] == 1)
        await worker.mark_as_retry(task_id, KeyError("k"), "Traceback: again", request)
        await eventually(lambda: caller.stats()["received"] == 2)
        await worker.mark_as_retry(task_id, None, request=request)
        await eventually(lambda: caller.stats()["received"] == 3)
        await worker.mark_as_done(task_id, None, request)
        started, retry, bare, done = await watching
        assert (started.status, started.result) == ("STARTED", {"pid": 1, "hostname": "h"})
        assert (retry.status, repr(retry.result), retry.traceback) == ("RETRY", "KeyError('k')", "Traceback: again")
        assert (bare.status, bare.result, done.status) == ("RETRY", None, "SUCCESS")

    async def test_a_state_of_one_s_own(self, worker: AMQPBackend, caller: AMQPBackend) -> None:
        task_id, request = new_id(), Request(reply_to=caller.reply_to)
        await worker.mark_as_done(task_id, 1, request, state="ARCHIVED")
        with pytest.raises(ResultTimeout):
            await caller.wait_for(task_id, timeout=0.05)


class TestRecording:
    async def test_of_a_success(self, worker: AMQPBackend, caller: AMQPBackend, raw: Raw) -> None:
        task_id = new_id()
        watching = asyncio.create_task(collect(caller, task_id, timeout=30))
        await raw.waited_for(caller, task_id)
        async with worker.recording(task_id, Request(reply_to=caller.reply_to)) as rec:
            await eventually(lambda: caller.stats()["received"] == 1)
            await rec.progress({"done": 0.5})
            await eventually(lambda: caller.stats()["received"] == 2)
            await rec.progress("custom", status="UPLOADING")
            await eventually(lambda: caller.stats()["received"] == 3)
            rec.result = {"answer": 42}
        started, progress, uploading, done = await watching
        assert started.status == "STARTED"
        assert set(started.result) == {"pid", "hostname"}
        assert (progress.status, progress.result) == ("PROGRESS", {"done": 0.5})
        assert (uploading.status, uploading.result) == ("UPLOADING", "custom")
        assert (done.status, done.result) == ("SUCCESS", {"answer": 42})

    async def test_of_a_failure(self, worker: AMQPBackend, caller: AMQPBackend) -> None:
        task_id = new_id()
        with pytest.raises(ZeroDivisionError) as raised:
            await self.fail(worker, task_id, Request(reply_to=caller.reply_to))
        with pytest.raises(ZeroDivisionError) as caught:
            await caller.wait_for(task_id, timeout=30)
        assert caught.value is not raised.value
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        text = str(caught.value.__cause__)
        assert text.startswith("Traceback (most recent call last)")
        assert "in fail" in text
        assert text.rstrip().endswith("ZeroDivisionError: division by zero")

    async def fail(self, backend: AMQPBackend, task_id: str, request: Request) -> None:
        async with backend.recording(task_id, request):
            1 / 0  # noqa: B018

    async def test_of_a_cancelled_body(self, worker: AMQPBackend, caller: AMQPBackend) -> None:
        task_id, inside = new_id(), asyncio.Event()

        async def body() -> None:
            async with worker.recording(task_id, Request(reply_to=caller.reply_to)):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(body())
        await inside.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        with pytest.raises(ResultTimeout):
            await caller.wait_for(task_id, timeout=0.1)

    async def test_of_a_result_that_cannot_be_written(self, worker: AMQPBackend, caller: AMQPBackend) -> None:
        task_id = new_id()
        with pytest.raises(EncodeError):
            async with worker.recording(task_id, Request(reply_to=caller.reply_to)) as rec:
                rec.result = object()
        with pytest.raises(RemoteError, match=r"EncodeError.*cannot write a value of type object"):
            await caller.wait_for(task_id, timeout=30)

    async def test_of_a_result_that_is_too_large(self, lab: Lab, caller: AMQPBackend) -> None:
        worker, task_id = await lab.open(store_only=True, max_result_size=2000), new_id()
        with pytest.raises(ResultTooLarge):
            async with worker.recording(task_id, Request(reply_to=caller.reply_to)) as rec:
                rec.result = "x" * 10_000
        with pytest.raises(RemoteError, match="ResultTooLarge"):
            await caller.wait_for(task_id, timeout=30)

    async def test_of_a_failure_with_a_long_message(self, lab: Lab, caller: AMQPBackend) -> None:
        worker, task_id = await lab.open(store_only=True, max_result_size=10_000), new_id()
        with pytest.raises(ValueError, match="cannot parse"):
            async with worker.recording(task_id, Request(reply_to=caller.reply_to)):
                raise ValueError("cannot parse: " + "\N{GRINNING FACE}" * 20_000)
        with pytest.raises(ValueError, match=r"^cannot parse: .*\.\.\.$"):
            await caller.wait_for(task_id, timeout=30)

    async def test_of_an_exit(self, worker: AMQPBackend, caller: AMQPBackend) -> None:
        task_id = new_id()
        with pytest.raises(SystemExit):
            async with worker.recording(task_id, Request(reply_to=caller.reply_to)):
                raise SystemExit(2)
        with pytest.raises(RemoteError, match=r"SystemExit\(2\)"):
            await caller.wait_for(task_id, timeout=30)

    async def test_progress_is_sent_though_it_is_not_awaited(
        self, worker: AMQPBackend, caller: AMQPBackend, raw: Raw
    ) -> None:
        task_id = new_id()
        watching = asyncio.create_task(collect(caller, task_id, timeout=30))
        await raw.waited_for(caller, task_id)
        async with worker.recording(task_id, Request(reply_to=caller.reply_to)) as rec:
            for number in range(5):
                rec.progress(number)
        assert [meta.result for meta in await watching][1:] == [0, 1, 2, 3, 4, None]

    async def test_progress_waits_when_too_much_is_on_its_way(
        self, worker: AMQPBackend, caller: AMQPBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aioresults.recording.MAX_UNCONFIRMED", 3)
        async with worker.recording(new_id(), Request(reply_to=caller.reply_to)) as rec:
            for number in range(50):
                await rec.progress(number)
                assert int(worker.stats()["unconfirmed"]) <= 4

    async def test_progress_that_cannot_be_written_is_an_error_of_the_body(
        self, worker: AMQPBackend, caller: AMQPBackend
    ) -> None:
        task_id = new_id()
        with pytest.raises(EncodeError):
            async with worker.recording(task_id, Request(reply_to=caller.reply_to)) as rec:
                await rec.progress(object())
        with pytest.raises(RemoteError, match="EncodeError"):
            await caller.wait_for(task_id, timeout=30)

    @only("reply_queue")
    async def test_for_a_caller_that_is_gone_takes_the_time_of_the_outcome_alone(self, lab: Lab) -> None:
        worker, ran = await lab.open(store_only=True, unroutable_policy=(0.05, 0.05)), list[int]()

        async def work(number: int) -> None:
            async with worker.recording(f"t{number}", Request(reply_to="aioresults.inbox.gone")) as rec:
                await rec.progress(1)
                ran.append(number)

        for number in range(20):
            with pytest.raises(ResultNotRouted):
                await work(number)
        assert ran == list(range(20))
        assert worker.stats()["messages"] == 3  # the attempts of the first
        assert worker.stats()["not_routed"] == 60


class Kind(Enum):
    LOW = "low"


@dataclass
class Point:
    x: int
    kind: Kind


class Model(pydantic.BaseModel):
    at: datetime
    points: list[int]


class TestWhatATypeReads:
    @pytest.mark.parametrize(
        ("value", "type"),
        [
            (Point(1, Kind.LOW), Point),
            ({1, 2}, set[int]),
            (Model(at=datetime(2026, 1, 2, 3, 4, 5), points=[1]), Model),
            ({"all": [Model(at=datetime(2026, 1, 2), points=[])]}, dict[str, list[Model]]),
            ((Kind.LOW, frozenset({"a"})), tuple[Kind, frozenset[str]]),
        ],
        ids=["dataclass", "set", "pydantic", "nested", "tuple"],
    )
    async def test_is_written(self, caller: AMQPBackend, store: Store, value: Any, type: Any) -> None:
        task_id = new_id()
        assert await store(task_id, value) == value
        assert await caller.wait_for(task_id, timeout=30, type=type) == value


class TestWhatCannotBeStored:
    async def test_a_value_that_cannot_be_written(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        with pytest.raises(EncodeError, match="object"):
            await store(task_id, object())
        await store(task_id, "fine")
        assert await caller.wait_for(task_id, timeout=30) == "fine"

    async def test_a_failure_is_always_stored(self, caller: AMQPBackend, store: Store) -> None:
        task_id = new_id()
        await store(task_id, RuntimeError("with", object()), "FAILURE")
        with pytest.raises((RuntimeError, RemoteError)) as caught:
            await caller.wait_for(task_id, timeout=30)
        assert "<object object at " in str(caught.value)

    async def test_a_result_that_is_too_large(self, lab: Lab, caller: AMQPBackend) -> None:
        backend, task_id = await lab.open(max_result_size=1000), new_id()
        request = Request(reply_to=caller.reply_to)
        with pytest.raises(ResultTooLarge) as caught:
            await backend.store_result(task_id, "x" * 1000, request=request)
        assert isinstance(caught.value, StoreError)
        assert (caught.value.task_id, caught.value.limit) == (task_id, 1000)
        assert caught.value.size > 1000
        await backend.store_result(task_id, "x" * 500, request=request)
        assert await caller.wait_for(task_id, timeout=30) == "x" * 500


class TestRetrying:
    async def test_ends_with_the_last_error_as_its_cause(self, shaky: Lab) -> None:
        backend, reader = await shaky.open(retry_policy=AT_ONCE), await shaky.open()
        task_id, request = new_id(), Request(reply_to=reader.reply_to)
        shaky.go_down()
        await eventually(lambda: not backend.stats()["connected"])
        with pytest.raises(BrokerUnavailable, match=task_id) as caught:
            await backend.store_result(task_id, 1, request=request)
        assert isinstance(caught.value.__cause__, BrokerUnavailable)
        assert backend.stats()["retried"] == 3
        assert backend.stats()["unconfirmed"] == 0
        await shaky.come_up()
        await eventually(lambda: bool(backend.stats()["connected"] and reader.stats()["connected"]))
        await backend.store_result(task_id, 2, request=request)
        assert await reader.wait_for(task_id, timeout=30) == 2

    async def test_none_is_one_attempt(self, shaky: Lab) -> None:
        backend = await shaky.open(retry_policy={"max_retries": 0})
        request = Request(reply_to=backend.reply_to)
        shaky.go_down()
        await eventually(lambda: not backend.stats()["connected"])
        with pytest.raises(BrokerUnavailable):
            await backend.store_result(new_id(), 1, request=request)
        assert backend.stats()["retried"] == 0
        await shaky.come_up()

    async def test_succeeds_when_the_broker_is_back_in_time(self, shaky: Lab) -> None:
        backend, reader = await shaky.open(), await shaky.open()
        task_id, request = new_id(), Request(reply_to=reader.reply_to)
        shaky.go_down()
        await eventually(lambda: not backend.stats()["connected"])
        storing = asyncio.create_task(backend.store_result(task_id, "late", request=request))
        await eventually(lambda: int(backend.stats()["retried"]) >= 1)
        await shaky.come_up()
        assert await storing == "late"
        assert await reader.wait_for(task_id, timeout=30) == "late"

    @only("per_task")
    async def test_a_negative_confirm_is_tried_again(self, lab: Lab, raw: Raw) -> None:
        backend, task_id = await lab.open(retry_policy=AT_ONCE), new_id()
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        await Queue(backend.rkey(task_id), queue_arguments=full)(await raw.channel()).declare()
        await backend.store_result(task_id, 1)
        with pytest.raises(BrokerUnavailable) as caught:
            await backend.store_result(task_id, 2)
        assert isinstance(caught.value.__cause__, MessageNacked)
        assert backend.stats()["retried"] == 3

    @only("per_task")
    async def test_waits_between_attempts_as_the_policy_says(self, lab: Lab, raw: Raw) -> None:
        policy = {"max_retries": 3, "interval_start": 0.05, "interval_step": 0.05, "interval_max": 0.1}
        backend, task_id = await lab.open(retry_policy=policy), new_id()
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        await Queue(backend.rkey(task_id), queue_arguments=full)(await raw.channel()).declare()
        await backend.store_result(task_id, 1)
        began = monotonic()
        with pytest.raises(BrokerUnavailable):
            await backend.store_result(task_id, 2)
        assert 0.24 < monotonic() - began < 15

    def test_the_default_waits_0_and_19_times_1_second(self) -> None:
        assert list(RetryPolicy.of(AMQPBackend.retry_policy).delays()) == [0.0, *[1.0] * 19]


class TestCancelling:
    async def test_what_is_not_sent_yet_is_withdrawn(self, shaky: Lab) -> None:
        backend, reader = await shaky.open(), await shaky.open()
        task_id, request = new_id(), Request(reply_to=reader.reply_to)
        await backend.store_result(task_id, 0, "STARTED", request=request)
        sent = int(backend.stats()["messages"])
        shaky.stall()
        first = asyncio.create_task(backend.store_result(task_id, 1, "PROGRESS", request=request))
        await eventually(lambda: int(backend.stats()["messages"]) > sent)
        withdrawn = asyncio.create_task(backend.store_result(task_id, 2, request=request))
        last = asyncio.create_task(backend.store_result(task_id, 3, "FAILURE", request=request))
        assert backend.stats()["unconfirmed"] == 3
        await asyncio.sleep(0)
        withdrawn.cancel()
        await asyncio.wait([withdrawn])
        assert withdrawn.cancelled()
        shaky.resume()
        assert list(await asyncio.gather(first, last)) == [1, 3]
        meta = await reader.consume(task_id, timeout=30)
        assert (meta.status, meta.result.exc_message) == ("FAILURE", 3)

    async def test_what_is_on_its_way_is_stored_all_the_same(self, shaky: Lab) -> None:
        backend, reader = await shaky.open(), await shaky.open()
        task_id, request = new_id(), Request(reply_to=reader.reply_to)
        await backend.store_result(task_id, 0, "STARTED", request=request)
        sent = int(backend.stats()["messages"])
        shaky.stall()
        storing = asyncio.create_task(backend.store_result(task_id, 1, request=request))
        await eventually(lambda: int(backend.stats()["messages"]) > sent)
        storing.cancel()
        await asyncio.wait([storing])
        assert storing.cancelled()
        shaky.resume()
        assert await reader.wait_for(task_id, timeout=30) == 1
        await eventually(lambda: backend.stats()["unconfirmed"] == 0)


@where(by_id=True)
class TestStoreOnly:
    async def test_stores(self, lab: Lab, caller: AMQPBackend) -> None:
        backend, task_id = await lab.open(store_only=True), new_id()
        await backend.store_result(task_id, 1)
        assert await caller.wait_for(task_id, timeout=30) == 1

    async def test_does_not_wait(self, lab: Lab) -> None:
        backend, task_id = await lab.open(store_only=True), new_id()
        for call in (backend.wait_for, backend.consume):
            with pytest.raises(ConfigurationError, match="store_only"):
                await call(task_id)
        with pytest.raises(ConfigurationError, match="store_only"):
            await backend.drain_events()
        with pytest.raises(ConfigurationError, match="store_only"):
            backend.get_many([task_id])
        with pytest.raises(ConfigurationError, match="store_only"):
            backend.watch(task_id)
        with pytest.raises(ConfigurationError, match="store_only"):
            _ = backend.reply_to

    async def test_opens_one_connection(self, lab: Lab, memory: MemoryBroker) -> None:
        await lab.open(store_only=True)
        assert memory.connection_count == 1
        await lab.open()
        assert memory.connection_count == 3
