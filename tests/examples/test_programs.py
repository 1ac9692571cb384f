"""The short programs of `examples/`, run as a reader would."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from httpx_sse import connect_sse

from aioresults import AMQPBackend, Producer, ReplyQueue
from aioresults.contrib.rabbitmq import Process, free_ports
from tests.eventually import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_fits_on_a_page(name: str) -> None:
    assert (EXAMPLES / name).read_text().count("\n") <= 40


def output_of(program: str, url: str) -> list[str]:
    """Run a program to its end; return the lines it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / program],
        env=os.environ | {"AMQP_URL": url},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_quickstart(broker_url: str) -> None:
    assert output_of("quickstart.py", broker_url) == ["{'answer': 42}"]


def test_progress(broker_url: str) -> None:
    assert output_of("progress.py", broker_url) == [" 25 %", " 50 %", " 75 %", "done"]


def test_groups(broker_url: str) -> None:
    assert output_of("groups.py", broker_url) == ["5 of 5 have ended", "[0, 1, 4, 9, 16]"]


async def test_worker(amqp_url: str, tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, "-W", "error", EXAMPLES / "worker.py"]
    worker = Process(command, log=tmp_path / "log", env=os.environ | {"AMQP_URL": amqp_url})
    try:
        await eventually(lambda: "waiting" in (tmp_path / "log").read_text(), within=90)
        async with AMQPBackend(amqp_url, routing=ReplyQueue()) as results:
            producer = Producer(await results.channel())
            found = []
            for body in (b"one two three", b"four", b"\xff"):
                task_id = str(uuid.uuid4())
                await producer.publish(body, "words", message_id=task_id, reply_to=results.reply_to)
                found.append(await results.wait_for(task_id, timeout=30, propagate=False))
        assert found[:2] == [3, 1]
        assert isinstance(found[2], UnicodeDecodeError)
        assert worker.running
    finally:
        worker.stop()


@asynccontextmanager
async def serving(program: str, url: str, folder: Path) -> AsyncIterator[httpx.Client]:
    """Serve `app` of a program; a client of it, once it answers."""
    [port] = free_ports(1)
    command = [sys.executable, "-W", "error", "-m", "uvicorn", f"{program}:app", "--port", str(port)]
    env = os.environ | {"AMQP_URL": url, "PYTHONPATH": str(EXAMPLES)}
    server = Process(command, log=folder / "log", env=env)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

            def answers() -> bool:
                try:
                    return client.get("/openapi.json").status_code == 200
                except httpx.TransportError:
                    assert server.running, (folder / "log").read_text()
                    return False

            await eventually(answers, within=90)
            yield client
    finally:
        server.stop()
    assert "Application shutdown complete" in (folder / "log").read_text()


async def test_fastapi_service(broker_url: str, tmp_path: Path) -> None:
    async with serving("fastapi_service", broker_url, tmp_path) as client:
        assert client.get("/health").status_code == 200
        assert client.post("/words", params={"text": "one two three", "patience": 30}).json() == {"words": 3}
        assert client.post("/words", params={"text": "one two", "patience": "nan"}).status_code == 422
        # A report for each word: one look is over before the last of them is stored.
        accepted = client.post("/words", params={"text": "word " * 200, "patience": 0})
        assert accepted.status_code == 202
        with connect_sse(client, "GET", f"{accepted.json()['status_url']}/events") as events:
            assert [event.json() for event in events.iter_sse()][-1]["result"] == {"words": 200}
        assert client.get(accepted.headers["location"]).json()["result"] == {"words": 200}


async def test_celery_service(amqp_url: str, tmp_path: Path) -> None:
    # Without a limit of what it prefetches: see `tests/interop/worker.py`.
    options = ["-P", "solo", "--prefetch-multiplier=0", "--without-mingle", "--loglevel=INFO"]
    command = [sys.executable, "-m", "celery", "-A", "celery_project", "worker", *options]
    env = os.environ | {"AMQP_URL": amqp_url, "PYTHONPATH": str(EXAMPLES)}
    worker = Process(command, log=tmp_path / "worker", env=env)
    try:
        await eventually(lambda: "ready." in (tmp_path / "worker").read_text(), within=90)
        async with serving("celery_service", amqp_url, tmp_path) as client:
            assert client.post("/words", params={"text": "one two three"}).json() == {"words": 3}
            refused = client.post("/words", params={"text": " "})
            assert (refused.status_code, refused.json()["detail"]) == (422, "there are no words in it")
            assert client.post("/longest", json=["a", "b c d", "e f"]).json() == {"longest": "b c d"}
    finally:
        worker.stop()
