"""The short programs of `examples/`, run as a reader would."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import httpx
import pytest
from httpx_sse import connect_sse

from aioresults.contrib.rabbitmq import Process, free_ports
from tests.eventually import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_fits_on_a_page(name: str) -> None:
    assert (EXAMPLES / name).read_text().count("\n") <= 40


async def test_fastapi_service(broker_url: str, tmp_path: Path) -> None:
    [port] = free_ports(1)
    command = [sys.executable, "-W", "error", "-m", "uvicorn", "fastapi_service:app", "--port", str(port)]
    env = os.environ | {"AMQP_URL": broker_url, "PYTHONPATH": str(EXAMPLES)}
    server = Process(command, log=tmp_path / "log", env=env)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

            def healthy() -> bool:
                try:
                    return client.get("/health").status_code == 200
                except httpx.TransportError:
                    assert server.running, (tmp_path / "log").read_text()
                    return False

            await eventually(healthy, within=30)
            assert client.post("/words", params={"text": "one two three"}).json() == {"words": 3}
            accepted = client.post("/words", params={"text": "one two", "patience": 0})
            assert accepted.status_code == 202
            with connect_sse(client, "GET", f"{accepted.json()['status_url']}/events") as events:
                assert [event.json() for event in events.iter_sse()][-1]["result"] == {"words": 2}
            assert client.get(accepted.headers["location"]).json()["result"] == {"words": 2}
            assert client.get("/openapi.json").status_code == 200
    finally:
        server.stop()
    assert "Application shutdown complete" in (tmp_path / "log").read_text()
