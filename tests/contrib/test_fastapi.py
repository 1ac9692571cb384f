"""A service over FastAPI: its answers, its streams of events, its WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from httpx_sse import ServerSentEvent, aconnect_sse
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from aioresults import AMQPBackend, ConfigurationError, QueuePerTask, ReplyQueue, ResultStream
from aioresults import Request as TaskRequest
from aioresults.contrib.fastapi import (
    ACCEPTED,
    ERRORS,
    Results,
    Settings,
    get_backend,
    health_router,
    lifespan,
    router,
    wait_or_202,
)
from aioresults.contrib.fastapi.dependencies import get_settings
from aioresults.transport.memory import MemoryBroker
from tests.eventually import eventually


def service(**settings: Any) -> FastAPI:
    """Return an application as a user writes one; its tasks are sent by the test."""
    app = FastAPI(**settings)
    app.include_router(router)
    app.include_router(health_router)

    @app.get("/soon/{task_id}", responses=ACCEPTED | ERRORS)
    async def soon(task_id: str, request: Request, results: Results, timeout: float = 5) -> Any:
        return await wait_or_202(results, task_id, request, timeout, retry_after=3)

    @app.get("/wait/{task_id}")
    async def wait(task_id: str, results: Results, timeout: float = 5) -> Any:
        return await results.wait_for(task_id, timeout=timeout)

    @app.get("/own-error")
    async def own_error(results: Results) -> None:
        raise ValueError("a defect of the service")

    @app.websocket("/echo/{task_id}")
    async def echo(websocket: WebSocket, task_id: str, results: Results) -> None:
        await websocket.accept()
        await websocket.send_json(await results.wait_for(task_id, timeout=30))
        await websocket.close()

    return app


@pytest.fixture
def app(amqp_results: AMQPBackend) -> FastAPI:
    app = service()
    app.dependency_overrides[get_backend] = lambda: amqp_results
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


async def fail(backend: AMQPBackend, task_id: str, error: Exception) -> None:
    with contextlib.suppress(type(error)):
        async with backend.recording(task_id):
            raise error


class TestWaiting:
    async def test_a_result_that_comes_in_time(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        await amqp_results.store_result("task", {"answer": 42})
        answer = await client.get("/soon/task")
        assert (answer.status_code, answer.json()) == (200, {"answer": 42})
        # Asked again, it is there still: this process has it.
        assert (await client.get("/soon/task")).json() == {"answer": 42}

    async def test_one_that_does_not(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        answer = await client.get("/soon/a%20task", params={"timeout": 0.01})
        assert answer.status_code == 202
        assert answer.headers["retry-after"] == "3"
        assert answer.json() == {"task_id": "a task", "status_url": "/tasks/a%20task"}
        assert answer.headers["location"] == "/tasks/a%20task"
        await amqp_results.store_result("a task", 42)
        status = (await client.get(answer.json()["status_url"])).json()
        assert (status["task_id"], status["status"], status["result"]) == ("a task", "SUCCESS", 42)
        assert (await client.get("/soon/a%20task")).json() == 42

    async def test_a_failure(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        await fail(amqp_results, "task", ValueError("no such file"))
        for path in ("/soon/task", "/wait/task"):
            answer = await client.get(path)
            assert answer.status_code == 502
            assert (answer.json()["detail"]["error"], answer.json()["detail"]["message"]) == (
                "ValueError",
                "no such file",
            )
            assert "Traceback" not in answer.text

    async def test_a_failure_without_a_traceback(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        await amqp_results.mark_as_failure("task", KeyError("name"))
        assert (await client.get("/soon/task")).status_code == 502

    async def test_a_task_that_raised_a_timeout_of_its_own(
        self, client: httpx.AsyncClient, amqp_results: AMQPBackend
    ) -> None:
        await fail(amqp_results, "task", TimeoutError("of the task"))
        answer = await client.get("/soon/task")
        assert (answer.status_code, answer.json()["detail"]["error"]) == (502, "TimeoutError")

    async def test_an_error_that_is_unknown_here(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        class Unknown(Exception):
            pass

        await fail(amqp_results, "task", Unknown("a", 1))
        assert (await client.get("/wait/task")).json()["detail"] == {
            "error": f"{type(self).__name__}.test_an_error_that_is_unknown_here.<locals>.Unknown",
            "message": "a, 1",
        }

    async def test_a_revoked_task(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        await amqp_results.mark_as_revoked("task", "terminated")
        answer = await client.get("/soon/task")
        assert answer.status_code == 502
        assert answer.json()["detail"] == {"error": "TaskRevoked", "message": "terminated", "task_id": "task"}

    async def test_a_timeout_without_an_alternative(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/wait/task", params={"timeout": 0.01})
        assert answer.status_code == 504
        assert answer.json()["detail"]["message"] == "no result of task 'task' within 0.01 s"

    async def test_a_broker_that_is_gone(
        self, client: httpx.AsyncClient, amqp_results: AMQPBackend, result_broker: MemoryBroker
    ) -> None:
        await amqp_results.close()
        answer = await client.get("/wait/task")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")

    async def test_an_outage_keeps_nobody_waiting(self, client: httpx.AsyncClient, result_broker: MemoryBroker) -> None:
        """Where nothing has to be announced, a 202 needs no broker."""
        result_broker.stop()
        answer = await client.get("/soon/task", params={"timeout": 0.01})
        assert answer.status_code == 202

    async def test_a_result_that_is_forgotten(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        answer = asyncio.create_task(client.get("/wait/task"))
        await eventually(lambda: amqp_results.stats()["waiting"] == 1)
        await amqp_results.forget("task")
        assert (await answer).status_code == 410

    async def test_an_error_of_the_service_stays_one(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/own-error")).status_code == 500

    async def test_a_request_that_is_cancelled_leaves_no_wait(
        self, client: httpx.AsyncClient, amqp_results: AMQPBackend
    ) -> None:
        answer = asyncio.create_task(client.get("/soon/task"))
        await eventually(lambda: amqp_results.stats()["waiting"] == 1)
        answer.cancel()
        await eventually(lambda: amqp_results.stats()["waiting"] == 0)
        await amqp_results.store_result("task", 42)
        assert (await client.get("/soon/task")).json() == 42

    @pytest.mark.parametrize("task_id", ["a/b", ".", ".."])
    async def test_an_id_that_no_url_can_hold(self, amqp_results: AMQPBackend, app: FastAPI, task_id: str) -> None:
        request = Request({"type": "http", "app": app, "headers": [], "path": "/", "query_string": b""})
        with pytest.raises(ConfigurationError, match=f"'{re.escape(task_id)}' cannot be part of a URL"):
            await wait_or_202(amqp_results, task_id, request)

    async def test_a_service_without_the_router_is_told_before_it_waits(self, amqp_results: AMQPBackend) -> None:
        app = FastAPI()

        @app.get("/")
        async def soon(request: Request, results: Results) -> Any:
            return await wait_or_202(results, "task", request)

        app.dependency_overrides[get_backend] = lambda: amqp_results
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            with pytest.raises(ConfigurationError, match=r"include_router"):
                await client.get("/")


class TestStatus:
    async def test_from_nothing_to_the_end(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        async def status() -> Any:
            answer = await client.get("/tasks/task")
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "no-store"
            assert ("retry-after" in answer.headers) is not answer.json()["ready"]
            return answer.json()

        assert (await status())["status"] == "PENDING"
        await amqp_results.store_result("task", {"percent": 50}, "PROGRESS")
        progress = await status()
        assert (progress["status"], progress["result"]) == ("PROGRESS", {"percent": 50})
        await amqp_results.store_result("task", 42)
        done = await status()
        assert (done["status"], done["result"], done["error"]) == ("SUCCESS", 42, None)
        assert done["report_id"] not in ("", progress["report_id"])
        assert await status() == done, "looked at, not taken"

    async def test_a_failure(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        await fail(amqp_results, "task", ValueError("no such file"))
        status = (await client.get("/tasks/task")).json()
        assert (status["status"], status["ready"], status["result"]) == ("FAILURE", True, None)
        assert status["error"] == {
            "error": "ValueError",
            "message": "no such file",
            "task_id": "task",
            "traceback": None,
        }

    async def test_an_id_that_cannot_be_one(self, client: httpx.AsyncClient) -> None:
        answer = await client.get(f"/tasks/{'x' * 300}")
        assert answer.status_code == 404
        assert "AMQP allows 255" in answer.json()["detail"]["message"]

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (b"\xff", "_w=="),
            (float("nan"), None),
            ({"when": b"a"}, {"when": "YQ=="}),
            ([1, None], [1, None]),
            ({"\ud800": ["file-\udcff"]}, {"\\ud800": ["file-\\udcff"]}),  # of names of files that are not UTF-8
        ],
    )
    async def test_values_that_json_does_not_know(
        self, client: httpx.AsyncClient, amqp_results: AMQPBackend, value: object, shown: object
    ) -> None:
        await amqp_results.store_result("task", value)
        assert (await client.get("/tasks/task")).json()["result"] == shown
        [event] = await first_events(client, "task")
        assert json.loads(event.data)["result"] == shown
        assert (await client.get("/soon/task")).json() == shown

    async def test_text_of_errors_that_utf8_does_not_know(
        self, client: httpx.AsyncClient, amqp_results: AMQPBackend
    ) -> None:
        await fail(amqp_results, "task", FileNotFoundError(2, "no file-\udcff"))
        message = "[Errno 2] no file-\\udcff"
        assert (await client.get("/tasks/task")).json()["error"]["message"] == message
        answer = await client.get("/soon/task")
        assert (answer.status_code, answer.json()["detail"]["message"]) == (502, message)


async def first_events(client: httpx.AsyncClient, task_id: str, **headers: str) -> list[ServerSentEvent]:
    """Return the events of a task, up to the end."""
    async with aconnect_sse(client, "GET", f"/tasks/{task_id}/events", headers=headers) as source:
        return [event async for event in source.aiter_sse()]


class TestEvents:
    async def test_every_report_until_the_end(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        collecting = asyncio.create_task(first_events(client, "task"))
        await eventually(lambda: amqp_results.stats()["consuming"] == 1)
        for percent in (10, 10, 90):
            await amqp_results.store_result("task", {"percent": percent}, "PROGRESS")
        await amqp_results.store_result("task", 42)
        events = await asyncio.wait_for(collecting, 30)
        reports = [json.loads(event.data) for event in events]
        assert [report["status"] for report in reports] == ["PENDING", "PROGRESS", "PROGRESS", "SUCCESS"]
        assert [event.id for event in events] == [report["report_id"] for report in reports]
        assert len({event.id for event in events}) == 4
        assert reports[-1]["result"] == 42
        assert amqp_results.stats()["waiting"] == 0

    async def test_a_client_that_comes_back(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        await amqp_results.store_result("task", {"percent": 50}, "PROGRESS")
        seen = (await client.get("/tasks/task")).json()["report_id"]
        await amqp_results.store_result("task", 42)
        [last] = await first_events(client, "task", **{"Last-Event-ID": seen})
        assert json.loads(last.data)["result"] == 42
        again = await client.get("/tasks/task/events", headers={"Last-Event-ID": last.id})
        assert (again.status_code, again.content) == (204, b"")

    async def test_what_was_seen_last_is_not_sent_again(
        self, client: httpx.AsyncClient, amqp_results: AMQPBackend
    ) -> None:
        await amqp_results.store_result("task", {"percent": 50}, "PROGRESS")
        seen = (await client.get("/tasks/task")).json()["report_id"]
        collecting = asyncio.create_task(first_events(client, "task", **{"Last-Event-ID": seen}))
        await eventually(lambda: amqp_results.stats()["consuming"] == 1)
        await amqp_results.store_result("task", 42)
        assert [json.loads(event.data)["status"] for event in await collecting] == ["SUCCESS"]

    async def test_a_stream_that_ends_early_says_why(
        self, client: httpx.AsyncClient, amqp_results: AMQPBackend
    ) -> None:
        collecting = asyncio.create_task(first_events(client, "task"))
        await eventually(lambda: amqp_results.stats()["consuming"] == 1)
        await amqp_results.forget("task")
        _, problem = await collecting
        assert (problem.event, json.loads(problem.data)["error"]) == ("problem", "ResultForgotten")

    async def test_an_id_that_cannot_be_one(self, client: httpx.AsyncClient) -> None:
        assert (await client.get(f"/tasks/{'x' * 300}/events")).status_code == 404


async def test_a_client_that_goes_while_its_socket_is_closed(app: FastAPI, amqp_results: AMQPBackend) -> None:
    await amqp_results.store_result("task", 42)
    messages: asyncio.Queue[Message] = asyncio.Queue()
    messages.put_nowait({"type": "websocket.connect"})
    sent: list[str] = []

    async def send(message: Message) -> None:
        sent.append(message["type"])
        if sent[-1] == "websocket.close":
            raise OSError("gone")  # as uvicorn does

    scope = {"type": "websocket", "path": "/tasks/task/events", "headers": [], "query_string": b"", "subprotocols": []}
    await app(scope, messages.get, send)
    assert sent == ["websocket.accept", "websocket.send", "websocket.close"]


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    name = "of the service's own loop"
    yield MemoryBroker.named(name)
    MemoryBroker.forget(name)


Store = Callable[[Callable[[AMQPBackend], Awaitable[object]]], None]


@pytest.fixture
def store(broker: MemoryBroker) -> Store:
    """Store from a loop of its own, as a worker does."""

    def store(what: Callable[[AMQPBackend], Awaitable[object]]) -> None:
        async def run() -> None:
            async with AMQPBackend(broker.url, store_only=True) as worker:
                await what(worker)

        asyncio.run(run())

    return store


class TestInALoopOfItsOwn:
    """With Starlette's test client, which runs the application as a server would: lifespan and all."""

    @pytest.fixture
    def http(self, broker: MemoryBroker) -> Iterator[TestClient]:
        made: list[AMQPBackend] = []

        def make() -> AMQPBackend:
            made.append(AMQPBackend(broker.url, rpc_timeout=3))
            return made[-1]

        with TestClient(service(lifespan=lifespan(make, tracebacks=True))) as client:
            yield client
        assert [backend.stats()["open"] for backend in made] == [False]

    def test_health(self, http: TestClient, broker: MemoryBroker) -> None:
        answer = http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        broker.stop()
        answer = http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        answer = http.get("/tasks/unknown")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        problem = {
            "error": "BrokerUnavailable",
            "message": "the broker cannot be reached",
        }  # where it is, is for the log
        assert answer.json()["detail"] == problem
        broker.start()

    def test_tracebacks_where_they_are_asked_for(self, http: TestClient, store: Store) -> None:
        store(lambda worker: fail(worker, "task", ValueError("no such file")))
        for answer in (http.get("/tasks/task").json()["error"], http.get("/soon/task").json()["detail"]):
            assert answer["traceback"].startswith("Traceback (most recent call last)")

    def test_a_socket(self, http: TestClient, store: Store) -> None:
        with http.websocket_connect("/tasks/task/events") as socket:
            assert socket.receive_json()["status"] == "PENDING"
            store(lambda worker: worker.store_result("task", {"percent": 50}, "PROGRESS"))
            seen = socket.receive_json()
            assert seen["result"] == {"percent": 50}
            socket.send_text("which nobody listens to")
        with http.websocket_connect(f"/tasks/task/events?last_event_id={seen['report_id']}") as socket:
            store(lambda worker: worker.store_result("task", 42))
            assert socket.receive_json()["result"] == 42
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
            assert closed.value.code == 1000

    def test_a_socket_for_what_is_no_task(self, http: TestClient) -> None:
        with http.websocket_connect(f"/tasks/{'x' * 300}/events") as socket:
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
            assert closed.value.code == 4404
            assert "AMQP allows 255" in closed.value.reason

    def test_a_socket_of_the_users_own(self, http: TestClient, store: Store) -> None:
        with http.websocket_connect("/echo/task") as socket:
            store(lambda worker: worker.store_result("task", 42))
            assert socket.receive_json() == 42

    def test_a_client_that_leaves_a_socket_leaves_no_wait(self, http: TestClient) -> None:
        with http.websocket_connect("/tasks/task/events") as socket:
            socket.receive_json()
            while http.get("/health").json()["waiting"] != 1:
                pass
        while http.get("/health").json()["waiting"] != 0:
            pass


class TestLifespan:
    def test_every_start_has_a_backend_of_its_own(self, broker: MemoryBroker) -> None:
        app = service(lifespan=lifespan(lambda: AMQPBackend(broker.url)))
        for _ in range(2):
            with TestClient(app) as client:
                assert client.get("/health").status_code == 200

    def test_one_of_the_users_own_goes_with_it(self, broker: MemoryBroker) -> None:
        @asynccontextmanager
        async def both(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
            async with lifespan(lambda: AMQPBackend(broker.url))(app) as state:
                yield {**state, "mine": 42}

        app = service(lifespan=both)

        @app.get("/mine")
        async def mine(request: Request) -> int:
            return int(request.state.mine)

        with TestClient(app) as client:
            assert client.get("/mine").json() == 42
            assert client.get("/health").status_code == 200

    def test_a_mounted_application_has_it_too(self, broker: MemoryBroker) -> None:
        app = FastAPI(lifespan=lifespan(lambda: AMQPBackend(broker.url)))
        app.mount("/api", service())
        with TestClient(app) as client:
            assert client.get("/api/health").status_code == 200
            accepted = client.get("/api/soon/task", params={"timeout": 0})
            assert accepted.json()["status_url"] == "/api/tasks/task"
            assert client.get(accepted.json()["status_url"]).status_code == 200

    @pytest.mark.parametrize(
        ("argument", "value"), [("heartbeat", -1), ("send_timeout", 0), ("unknown_after", float("nan"))]
    )
    def test_seconds_that_cannot_work_are_refused_before_the_start(self, argument: str, value: Any) -> None:
        with pytest.raises(ConfigurationError, match=f"{argument} must be .* not {value}"):
            lifespan(lambda: AMQPBackend("memory://unused"), **{argument: value})

    def test_a_backend_instead_of_a_way_to_make_one(self) -> None:
        with pytest.raises(ConfigurationError, match="make must be a callable that returns a backend, not <AMQPB"):
            lifespan(AMQPBackend("memory://unused"))  # type: ignore[arg-type]

    def test_without_it_the_error_says_what_to_do(self) -> None:
        client = TestClient(service())
        with pytest.raises(ConfigurationError, match=r"pass lifespan=aioresults\.contrib\.fastapi\.lifespan"):
            client.get("/tasks/task")


class TestInbox:
    """Over a `ReplyQueue`."""

    @pytest.fixture
    def amqp_results_options(self) -> dict[str, Any]:
        return {"routing": ReplyQueue(), "max_unclaimed_results": 1}

    async def test_a_result_that_nobody_waited_for(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        assert (await client.get("/soon/task", params={"timeout": 0})).status_code == 202
        await amqp_results.store_result("task", 42, request=TaskRequest(reply_to=amqp_results.reply_to))
        assert (await client.get("/tasks/task")).json()["result"] == 42
        assert (await client.get("/soon/task")).json() == 42

    async def test_one_that_had_to_make_room(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        for task_id in ("one", "two"):
            await amqp_results.store_result(task_id, 42, request=TaskRequest(reply_to=amqp_results.reply_to))
        assert (await client.get("/wait/one")).status_code == 410
        assert (await client.get("/wait/two")).status_code == 200


def listeners(backend: AMQPBackend, task_id: str) -> tuple[object, ...]:
    return backend._opened().reader.waiters.listeners(task_id)


class TestStream:
    """Over a `ResultStream`."""

    @pytest.fixture
    def amqp_results_options(self) -> dict[str, Any]:
        return {"routing": ResultStream()}

    async def test_an_unknown_id(self, client: httpx.AsyncClient) -> None:
        for path in ("/tasks/task", "/tasks/task/events"):
            answer = await client.get(path)
            assert answer.status_code == 404
            assert answer.json()["detail"]["message"] == "there is no report of such a task"

    async def test_a_report_that_is_read_here_a_moment_after_it_was_stored_elsewhere(
        self, app: FastAPI, client: httpx.AsyncClient, amqp_results: AMQPBackend
    ) -> None:
        """As when one process answers 202 and another is asked at once."""
        app.dependency_overrides[get_settings] = lambda: Settings(unknown_after=10)
        answer = asyncio.create_task(client.get("/tasks/task"))
        events = asyncio.create_task(first_events(client, "task"))
        await eventually(lambda: len(listeners(amqp_results, "task")) == 2)
        await amqp_results.store_result("task", 1, "PROGRESS")
        assert (await answer).json()["status"] == "PROGRESS"
        await amqp_results.store_result("task", 2)
        assert [json.loads(event.data)["status"] for event in await events] == ["PROGRESS", "SUCCESS"]

    async def test_a_task_that_is_forgotten(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        await amqp_results.store_result("task", 42)
        assert await amqp_results.wait_for("task", timeout=30) == 42
        await amqp_results.forget("task")
        assert (await client.get("/tasks/task")).status_code == 404

    async def test_a_task_that_is_accepted_is_known(
        self, client: httpx.AsyncClient, amqp_results: AMQPBackend, result_broker: MemoryBroker
    ) -> None:
        accepted = await client.get("/soon/task", params={"timeout": 0})
        assert accepted.status_code == 202
        async with AMQPBackend(result_broker.url, routing=ResultStream()) as other:
            assert (await other.get_task_meta("task")).status == "RECEIVED"
        await amqp_results.store_result("task", 42)
        assert (await client.get("/soon/task", params={"timeout": 5})).json() == 42
        assert (await client.get("/tasks/task")).json()["result"] == 42

    async def test_what_a_client_has_missed(self, client: httpx.AsyncClient, amqp_results: AMQPBackend) -> None:
        ids = []
        for percent in (10, 50, 90):
            await amqp_results.store_result("task", percent, "PROGRESS")

            async def reported(percent: int = percent) -> bool:
                return bool((await client.get("/tasks/task")).json().get("result") == percent)

            await eventually(reported)
            ids.append((await client.get("/tasks/task")).json()["report_id"])

        async def results(**headers: str) -> list[Any]:
            return [json.loads(event.data)["result"] for event in await first_events(client, "task", **headers)]

        new = asyncio.create_task(results())
        back = asyncio.create_task(results(**{"Last-Event-ID": ids[0]}))
        with_all = asyncio.create_task(results(**{"Last-Event-ID": ids[2]}))
        await eventually(lambda: len(listeners(amqp_results, "task")) == 3)
        await amqp_results.store_result("task", "done")
        assert (await new, await back, await with_all) == ([90, "done"], [50, 90, "done"], ["done"])
        assert await results(**{"Last-Event-ID": ids[1]}) == [90, "done"]
        assert await results() == ["done"]


class TestCeleryLayout:
    @pytest.fixture
    def amqp_results_options(self) -> dict[str, Any]:
        return {"routing": QueuePerTask.celery()}

    async def test_what_is_no_uuid_is_no_task(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/tasks/task")).status_code == 404
        assert (await client.get("/tasks/0e3a1f0c-8f5e-4a8e-9d0e-2d5f3c1b7a61")).status_code == 200


def test_what_openapi_shows() -> None:
    schema = service().openapi()
    assert {"TaskStatus", "Problem", "ErrorResponse", "Accepted", "Health"} <= set(schema["components"]["schemas"])
    status = schema["paths"]["/tasks/{task_id}"]["get"]
    assert set(status["responses"]) >= {"200", "404", "502", "503", "504"}
    assert status["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("TaskStatus")
    events = schema["paths"]["/tasks/{task_id}/events"]["get"]["responses"]["200"]
    assert set(events["content"]) == {"text/event-stream"}
    assert "202" in schema["paths"]["/soon/{task_id}"]["get"]["responses"]
