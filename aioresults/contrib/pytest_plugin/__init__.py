"""Fixtures for async tests of code that stores or awaits results. pytest loads them by itself (``-p no:aioresults``).

| fixture                | scope    | is                                                                             |
|------------------------|----------|--------------------------------------------------------------------------------|
| `amqp_results`         | function | an open `AMQPBackend` on `result_broker`, in the event loop of the test        |
| `amqp_results_options` | function | its arguments: override it to return, say, ``{"routing": ReplyQueue()}``       |
| `result_broker`        | function | its broker, a `MemoryBroker`: ``url`` for further backends, and the faults     |
| `rabbitmq`             | session  | a real broker and its ``url``: a node, or that of ``AIORESULTS_TEST_URL`` |

The faults are ``cut()``, ``stop()`` and ``start()``, ``restart()``, ``refuse(reason)``, ``block()`` and ``unblock()``,
``delete_queue(name)``, ``delay = seconds`` and ``duplicate = True``. `rabbitmq` skips, with the reason, where no
``rabbitmq-server`` is installed; each pytest-xdist worker has a node of its own.

Tests may be run by anyio's plugin or by pytest-asyncio, strict or auto, with any ``loop_scope``. This module is
imported at every start of pytest, so everything else is imported when a fixture is first used.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from aioresults.contrib.pytest_plugin.new_backend import new_backend

if TYPE_CHECKING:
    from aioresults import AMQPBackend
    from aioresults.contrib.rabbitmq import ExistingBroker, RabbitMQNode
    from aioresults.transport.memory import MemoryBroker

__all__ = ["amqp_results", "amqp_results_options", "rabbitmq", "result_broker"]

#: The setting by which a pytest-asyncio is known whose fixtures can be told their loop.
_ASYNCIO_TEST_LOOP = "asyncio_default_test_loop_scope"


def pytest_configure(config: pytest.Config) -> None:
    """Add what only pytest-asyncio understands, where that is in use."""
    try:
        config.getini(_ASYNCIO_TEST_LOOP)
    except ValueError:
        return  # not there, under whatever name, or too old
    from aioresults.contrib.pytest_plugin import asyncio_fixtures

    config.pluginmanager.register(asyncio_fixtures, "aioresults-asyncio")


@pytest.fixture
def result_broker() -> Iterator[MemoryBroker]:
    """A RabbitMQ inside this process, new for each test, that fails on command: `cut()`, `delete_queue(name)`, ..."""
    from aioresults.transport.memory import MemoryBroker

    name = f"pytest-{secrets.token_hex(8)}"
    yield MemoryBroker.named(name)
    MemoryBroker.forget(name)


@pytest.fixture
def amqp_results_options() -> dict[str, Any]:
    """The arguments of `AMQPBackend` for `amqp_results`; override this fixture to have others."""
    return {}


@pytest.fixture
def amqp_results(
    request: pytest.FixtureRequest, result_broker: MemoryBroker, amqp_results_options: dict[str, Any]
) -> AMQPBackend:
    """An open `AMQPBackend` on `result_broker`."""
    # What the fixture below asks for, this one asks for, too: pytest looks for params before it runs anything.
    backend: AMQPBackend = request.getfixturevalue(_fixture_for(request))
    return backend


def _fixture_for(request: pytest.FixtureRequest) -> str:
    """Return the fixture that opens a backend in the event loop of this test."""
    mark = request.node.get_closest_marker("asyncio")
    if "anyio_backend" in request.fixturenames:
        if mark is not None:
            # pytest-asyncio marks every async test in its mode auto. It then runs the test, and anyio the fixtures.
            pytest.fail(
                "this test is of anyio and of pytest-asyncio, which have an event loop each: set asyncio_mode to "
                "strict, or leave anyio's mark out",
                pytrace=False,
            )
        return "_amqp_results_anyio"
    if request.config.pluginmanager.has_plugin("aioresults-asyncio"):
        scope = mark.kwargs.get("loop_scope") if mark is not None else None
        return f"_amqp_results_{scope or request.config.getini(_ASYNCIO_TEST_LOOP)}"
    pytest.fail(
        "amqp_results needs an event loop: mark the test with @pytest.mark.anyio, or install pytest-asyncio, 1.1 or "
        "newer, and mark it with @pytest.mark.asyncio",
        pytrace=False,
    )


@pytest.fixture
async def _amqp_results_anyio(
    anyio_backend_name: str, result_broker: MemoryBroker, amqp_results_options: dict[str, Any]
) -> AsyncIterator[AMQPBackend]:
    if anyio_backend_name != "asyncio":
        pytest.fail(
            f"aioresults runs on asyncio, not on {anyio_backend_name}: write a fixture anyio_backend that returns "
            "'asyncio'",
            pytrace=False,
        )
    async with new_backend(result_broker, amqp_results_options) as backend:
        yield backend


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQNode | ExistingBroker]:
    """A real RabbitMQ for the whole session: `rabbitmq.url`; a private node can be stopped, killed and frozen, too."""
    from aioresults.contrib.rabbitmq import RabbitMQMissing, broker_for_tests

    with ExitStack() as stack:
        try:
            broker = stack.enter_context(broker_for_tests())
        except RabbitMQMissing as missing:
            pytest.skip(f"{missing}; or set AIORESULTS_TEST_URL")
        yield broker
