"""What every test may ask for. A missing broker fails the tests that need one; it never skips them.

| fixture            | scope    | is                                                                           |
|--------------------|----------|------------------------------------------------------------------------------|
| `rabbitmq`         | session  | a running private node, or only the `url` of `AIORESULTS_TEST_URL`  |
| `amqp_url`         | session  | its URL                                                                      |
| `broker_url`       | function | runs the test twice: on a `memory://` broker of its own, and on `amqp_url`   |
| `private_rabbitmq` | function | a node to stop, kill and freeze; runs at the start, with what others left    |
| `own_broker`       | function | the same, or node 1 of the command in `AIORESULTS_TEST_BROKERCTL`            |
| `proxy`            | function | `await proxy(url)`: a `Proxy` in front of that URL                           |

RabbitMQ is shared between tests: names and task ids are unique to each, and nobody counts what is there in all.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest
from xdist.scheduler import LoadScopeScheduling

from aioresults.contrib.rabbitmq import ExistingBroker, RabbitMQNode, broker_for_tests
from tests.nodes import BROKERCTL, Node, one_node
from tests.proxy import Proxy


class ByFile(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """Which tests the processes of `make test` take at once: a file of them, or all that stops and kills brokers."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "brokers" if file.startswith(("tests/adversity/", "tests/chaos/")) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asyncio only: aio-pika knows no other event loop."""
    return "asyncio"


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQNode | ExistingBroker]:
    with broker_for_tests() as broker:
        yield broker


@pytest.fixture(scope="session")
def amqp_url(rabbitmq: RabbitMQNode | ExistingBroker) -> str:
    return rabbitmq.url


@pytest.fixture(params=["memory", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{secrets.token_hex(8)}"
    # Asked for here, not in the signature: tests on memory alone start no node.
    url: str = request.getfixturevalue("amqp_url")
    return url


@pytest.fixture(scope="session")
def _spare_node() -> Iterator[RabbitMQNode]:
    with RabbitMQNode() as node:
        yield node


@pytest.fixture
def private_rabbitmq(_spare_node: RabbitMQNode) -> RabbitMQNode:
    _spare_node.thaw()
    if not _spare_node.answers(timeout=30):
        _spare_node.restart()
    return _spare_node


@pytest.fixture(scope="session")
def _controlled_node() -> Iterator[Node]:
    with one_node() as node:
        yield node


@pytest.fixture(scope="session")
def _own_node(request: pytest.FixtureRequest) -> Node:
    node: Node = request.getfixturevalue("_controlled_node" if BROKERCTL in os.environ else "_spare_node")
    return node


@pytest.fixture
def own_broker(_own_node: Node) -> Node:
    _own_node.thaw()
    _own_node.start()
    return _own_node


@pytest.fixture
async def proxy() -> AsyncIterator[Callable[[str], Awaitable[Proxy]]]:
    async with AsyncExitStack() as proxies:

        async def in_front_of(url: str) -> Proxy:
            parts = urlsplit(url)
            return await proxies.enter_async_context(Proxy(parts.hostname or "localhost", parts.port or 5672))

        yield in_front_of
