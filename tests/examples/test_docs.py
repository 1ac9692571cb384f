"""What the pages say holds: links lead somewhere, programs run, and the layout is that of the package."""

from __future__ import annotations

import ast
import asyncio
import importlib
import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

import aioresults
from aioresults import AMQPBackend, RemoteError
from aioresults.transport.memory import MemoryBroker
from tests.eventually import eventually
from tests.unit.test_layers import LAYERS

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted(CHECKOUT.glob("docs/*.md"))]


def programs(page: str) -> list[str]:
    text = (CHECKOUT / page).read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return what the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^):]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_programs_are_python_and_import_what_there_is(page: Path) -> None:
    for program in programs(str(page.relative_to(CHECKOUT))):
        tree: Any = compile(program, page.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("aioresults"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), program


def run(program: str, **names: Any) -> dict[str, Any]:
    """Run a program up to its first `await`; return its names, with the rest of it as `rest`."""
    given = {**{name: getattr(aioresults, name) for name in aioresults.__all__}, **names}
    given["rest"] = eval(compile(program, "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), given)
    return given


async def test_the_stream() -> None:
    [program] = programs("docs/streams.md")
    await asyncio.wait_for(run(program, url="memory://docs-streams")["rest"], 10)
    MemoryBroker.forget("docs-streams")


async def test_the_nouns(capsys: pytest.CaptureFixture[str]) -> None:
    [program] = programs("docs/messaging.md")
    rest: Awaitable[None] = run(program, url="memory://docs-messaging")["rest"]
    consuming = asyncio.ensure_future(rest)  # for ever
    printed = ""

    def is_printed() -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return printed == "{'id': 1}\n"

    await eventually(is_printed)
    consuming.cancel()
    await asyncio.wait([consuming])
    MemoryBroker.forget("docs-messaging")


async def test_a_serializer_of_ones_own() -> None:
    program, _ = programs("docs/serialization.md")
    given = run(program, url="memory://docs-serializer")
    async with given["backend"] as backend:
        await backend.store_result("sets", {"seen": {1, 2}, "left": [frozenset("a")]})
        assert await backend.wait_for("sets", timeout=5) == {"seen": {1, 2}, "left": [{"a"}]}
    MemoryBroker.forget("docs-serializer")


class PaymentRefused(Exception):
    """The exception of docs/serialization.md."""


async def test_exceptions_of_ones_own() -> None:
    _, program = programs("docs/serialization.md")
    serializers = run(program, PaymentRefused=PaymentRefused)["serializers"]
    async with AMQPBackend("memory://docs-exceptions", serializers=serializers) as backend:
        await backend.mark_as_failure("known", PaymentRefused("no money"))
        with pytest.raises(PaymentRefused, match="no money"):
            await backend.wait_for("known", timeout=5)
        await backend.mark_as_failure("renamed", RemoteError("PaymentRefused", ["late"], "billing.old"))
        await backend.mark_as_failure("unknown", RemoteError("PaymentRefused", ["late"], "elsewhere"))
        for task_id, kind in (("renamed", PaymentRefused), ("unknown", RemoteError)):
            with pytest.raises(kind, match="late"):
                await backend.wait_for(task_id, timeout=5)
    MemoryBroker.forget("docs-exceptions")


def test_the_layout_names_every_part_of_the_package() -> None:
    table = (CHECKOUT / "README.md").read_text().partition("The layout of the package")[2]
    named = set(re.findall(r"`(\w+)/?`", table))
    assert set().union(*LAYERS) <= named
