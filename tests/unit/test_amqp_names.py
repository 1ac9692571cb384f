"""Nothing private of aiormq, aio-pika or pamqp is touched: each of their patch releases may move it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests

AMQP = Path(tests.__file__).parents[1] / "aioresults" / "transport" / "amqp"
#: Ways into the frames and coroutines of others.
FORBIDDEN = ("getcoroutinelocals", "tb_frame", "f_locals", "cr_frame", "__dict__", "vars")
MANGLED = re.compile(r"_[A-Za-z]+__\w+")


def private_names(source: str) -> Iterator[str]:
    """Yield each use of a name that is not public, or whose object is not ours."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            name = node.attr
            is_foreign = name.startswith("_") and not name.startswith("__") and not is_self(node.value)
            if is_foreign or MANGLED.fullmatch(name) or name in FORBIDDEN:
                yield f"{ast.unparse(node)}:{node.lineno}"
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN:
            yield f"{node.id}:{node.lineno}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MANGLED.fullmatch(node.value):
            yield f"{node.value!r}:{node.lineno}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                full = f"{module}.{alias.name}".strip(".")
                is_private = any(part.startswith("_") for part in full.split(".")) and not full.startswith("__future__")
                if is_private or full.startswith("pamqp"):
                    yield f"{full}:{node.lineno}"


def is_self(node: ast.expr) -> bool:
    """Whether it is `self`, or `super()`: then the name is one of ours, in the same class or its base."""
    return (isinstance(node, ast.Name) and node.id == "self") or ast.unparse(node) == "super()"


@pytest.mark.parametrize("path", sorted(AMQP.glob("*.py")), ids=lambda path: path.name)
def test_nothing_private_is_touched(path: Path) -> None:
    assert list(private_names(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "connection._reader_task",
        "self._underlay._close_exception",
        "connection._Connection__last_frame_time = 1",
        "setattr(connection, '_Connection__last_frame_time', 1)",
        "getcoroutinelocals(task.get_coro())",
        "from inspect import getcoroutinelocals\ngetcoroutinelocals(1)",
        "error.__traceback__.tb_frame",
        "import pamqp.frame",
        "from aiormq._base import x",
        "from aiormq.channel import _check_routing_key",
    ],
)
def test_what_is_private_is_found(source: str) -> None:
    assert list(private_names(source))


def test_what_is_ours_is_not() -> None:
    assert list(private_names("class A:\n    def f(self):\n        self._x = super()._aiormq_closed(1)")) == []
