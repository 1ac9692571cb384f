"""Workers and clients for the tests of this folder."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

import kombu.pools
import pytest

from aioresults import AMQPBackend
from tests.interop.client import CeleryClient, make_app
from tests.interop.layouts import EXPIRES, LAYOUTS, Layout
from tests.interop.worker import SETUPS, Worker


@pytest.fixture(scope="package", autouse=True)
def _kombu_pools(amqp_url: str) -> Iterator[None]:
    """Close Celery's connections, which are the process's, before a node that the tests have started ends."""
    yield
    kombu.pools.reset()


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


@pytest.fixture
async def celery(layout: Layout, amqp_url: str) -> AsyncIterator[CeleryClient]:
    """Celery's client of this layout."""
    async with CeleryClient(
        amqp_url,
        result_backend=layout.result_backend,
        result_expires=EXPIRES,
        result_accept_content=["json", "msgpack", "yaml"],
    ) as client:
        yield client


@pytest.fixture
async def backend(layout: Layout, amqp_url: str) -> AsyncIterator[AMQPBackend]:
    """This package in this layout."""
    async with layout.backend(amqp_url) as backend:
        yield backend


@pytest.fixture(scope="package")
def workers(amqp_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Worker]]:
    """One worker for each of ``SETUPS``; they start at the same time, and what is sent to them waits until they run."""
    folder = tmp_path_factory.mktemp("workers")
    running: dict[str, Worker] = {}
    try:
        for name, setup in SETUPS.items():
            running[name] = Worker(setup, amqp_url, folder)
        yield running
    finally:
        for worker in running.values():
            worker.kill()
        clean_up(amqp_url, running.values())


def clean_up(amqp_url: str, workers: Iterable[Worker]) -> None:
    """Delete what the workers declared and the broker would keep; it may be a broker that outlives the tests."""
    with make_app(amqp_url).connection_for_write() as connection:
        for worker in workers:
            with connection.channel() as channel:
                channel.queue_delete(worker.settings["task_default_queue"])
                channel.exchange_delete(worker.settings["task_default_queue"])
