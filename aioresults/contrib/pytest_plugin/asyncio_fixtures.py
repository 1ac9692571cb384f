"""What `amqp_results` is under pytest-asyncio: one fixture for each event loop that a test may run in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest_asyncio

from aioresults.contrib.pytest_plugin.new_backend import new_backend

if TYPE_CHECKING:
    from aioresults import AMQPBackend
    from aioresults.transport.memory import MemoryBroker


def _in_loop_of(scope: Literal["session", "package", "module", "class", "function"]) -> Callable[..., Any]:
    @pytest_asyncio.fixture(name=f"_amqp_results_{scope}", loop_scope=scope)
    async def open_backend(
        result_broker: MemoryBroker, amqp_results_options: dict[str, Any]
    ) -> AsyncIterator[AMQPBackend]:
        async with new_backend(result_broker, amqp_results_options) as backend:
            yield backend

    return open_backend


in_function_loop: Final = _in_loop_of("function")
in_class_loop: Final = _in_loop_of("class")
in_module_loop: Final = _in_loop_of("module")
in_package_loop: Final = _in_loop_of("package")
in_session_loop: Final = _in_loop_of("session")
