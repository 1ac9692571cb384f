"""The fixtures of the conformance suite: every test that asks for `lab` runs on every broker with every layout.

| fixture                     | is                                                                              |
|-----------------------------|---------------------------------------------------------------------------------|
| `layout`                    | one of `lab.LAYOUTS`; narrowed with `where` and `only`                          |
| `lab`                       | broker x layout                                                                 |
| `shaky`                     | the same, with connections that can be cut, refused and stalled                 |
| `worker` `caller` `third`   | three open backends on `lab`: who only stores, who waits, and somebody else     |
| `store`                     | stores a report as `worker` does for `caller`, or for another one                |
| `raw`                       | the broker as any other client sees it                                          |
| `memory`                    | the broker of a test that runs on `memory://` alone, because it makes it behave |
| `clock`                     | the time of the event loop, which a test may put forward                        |
| `bench`                     | broker alone, for the nouns of AMQP                                             |
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aioresults import AMQPBackend, Request
from aioresults.transport.memory import MemoryBroker
from tests.clock import Clock
from tests.conformance.bench import Bench
from tests.conformance.lab import LAYOUTS, Lab, Layout, Raw
from tests.proxy import Proxy

Store = Callable[..., Awaitable[Any]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "layouts(*names): the layouts to run with; several of these marks: common ones")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "layout" in metafunc.fixturenames:
        marks = [set(mark.args) for mark in metafunc.definition.iter_markers("layouts")]
        names = [name for name in LAYOUTS if all(name in mark for mark in marks)]
        metafunc.parametrize("layout", names, indirect=True)
    if "memory" in metafunc.fixturenames:  # as a mark, which the params of a fixture give way to
        metafunc.definition.add_marker(pytest.mark.parametrize("broker_url", ["memory"], indirect=True))


@pytest.fixture
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param].fresh()


@pytest.fixture
async def lab(broker_url: str, layout: Layout) -> AsyncIterator[Lab]:
    async with Lab(broker_url, layout) as lab:
        yield lab


@pytest.fixture
async def shaky(broker_url: str, layout: Layout, proxy: Callable[[str], Awaitable[Proxy]]) -> AsyncIterator[Lab]:
    between = None if broker_url.startswith("memory:") else await proxy(broker_url)
    async with Lab(broker_url, layout, between) as lab:
        yield lab


@pytest.fixture
async def worker(lab: Lab) -> AMQPBackend:
    return await lab.open(store_only=True)


@pytest.fixture
async def caller(lab: Lab) -> AMQPBackend:
    return await lab.open()


@pytest.fixture
async def third(lab: Lab) -> AMQPBackend:
    return await lab.open()


@pytest.fixture
def raw(lab: Lab) -> Raw:
    return lab.raw()


@pytest.fixture
def memory(lab: Lab) -> MemoryBroker:
    assert lab.memory is not None
    return lab.memory


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def store(lab: Lab, worker: AMQPBackend, caller: AMQPBackend) -> Store:
    async def store(
        task_id: str,
        result: object = None,
        status: str = "SUCCESS",
        traceback: str | None = None,
        to: AMQPBackend = caller,
        **extra: Any,
    ) -> Any:
        request = Request(reply_to=to.reply_to)
        stored = await worker.store_result(task_id, result, status, traceback, request, **extra)
        await lab.settled()
        return stored

    return store


@pytest.fixture
async def bench(broker_url: str) -> AsyncIterator[Bench]:
    async with Bench(broker_url) as bench:
        yield bench
