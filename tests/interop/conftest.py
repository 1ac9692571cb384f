"""Workers and clients for the tests of this folder."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import kombu.pools
import pytest

from aioresults import AMQPBackend
from tests.interop.caller import Caller, calling
from tests.interop.client import CeleryClient, make_app
from tests.interop.layouts import EXPIRES, LAYOUTS, Layout
from tests.interop.plug_ins import STREAM
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


class Workers(dict[str, Worker]):
    """One worker for each of ``SETUPS``, started when it is first asked for; what is sent to it waits until it runs."""

    def __init__(self, broker_url: str, folder: Path) -> None:
        super().__init__()
        self._broker_url = broker_url
        self._folder = folder

    def __missing__(self, name: str) -> Worker:
        worker = self[name] = Worker(SETUPS[name], self._broker_url, self._folder)
        return worker


@pytest.fixture(scope="package")
def workers(amqp_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    workers = Workers(amqp_url, tmp_path_factory.mktemp("workers"))
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.kill()
        clean_up(amqp_url, workers.values())


def clean_up(amqp_url: str, workers: Iterable[Worker]) -> None:
    """Delete what the workers declared and the broker would keep; it may be a broker that outlives the tests."""
    with make_app(amqp_url).connection_for_write() as connection:
        with connection.channel() as channel:
            channel.queue_delete(STREAM.name)
        for worker in workers:
            with connection.channel() as channel:
                channel.queue_delete(worker.settings["task_default_queue"])
                channel.exchange_delete(worker.settings["task_default_queue"])


@pytest.fixture
async def solo(workers: dict[str, Worker]) -> AsyncIterator[Caller]:
    async for caller in calling(workers["rpc"]):
        yield caller


@pytest.fixture
async def prefork(workers: dict[str, Worker]) -> AsyncIterator[Caller]:
    async for caller in calling(workers["rpc-prefork"]):
        yield caller
