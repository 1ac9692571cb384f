"""What the pages say holds: links lead somewhere, programs run, and the layout is that of the package."""

from __future__ import annotations

import ast
import asyncio
import importlib
import re
import secrets
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

import aioresults
from aioresults import AMQPBackend, RemoteError
from aioresults.transport.memory import MemoryBroker
from tests.eventually import eventually
from tests.pages import CHECKOUT, names_of, programs
from tests.unit.test_layers import LAYERS

ARCHITECTURE = CHECKOUT / "docs/architecture.md"
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted(CHECKOUT.glob("docs/*.md"))]


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
    table = ARCHITECTURE.read_text().partition("## Who owns what")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)/?`", table))
    assert set().union(*LAYERS) <= named


def test_the_places_in_the_code_are_there() -> None:
    places = re.findall(r"\[`([\w/]+\.py)::([\w.]+)`\]\(([^)]+)\)", ARCHITECTURE.read_text())
    assert len(places) == ARCHITECTURE.read_text().count("::")  # each is a link
    for path, name, link in places:
        module = CHECKOUT / "aioresults" / path
        assert (ARCHITECTURE.parent / link).resolve() == module.resolve(), path
        within = ast.parse(module.read_text()).body
        for part in name.split("."):
            *_, found = [node for node in within if getattr(node, "name", None) == part]  # after its overloads
            within = getattr(found, "body", [])


def test_the_routing_imports_public_names_alone() -> None:
    for node in ast.walk(ast.parse(programs("docs/architecture.md")[0])):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("aioresults"):
            names = importlib.import_module(node.module).__all__
            assert {alias.name for alias in node.names} <= set(names), node.module


async def test_the_routing_keeps_a_group_in_one_queue(broker_url: str) -> None:
    """Alone; the conformance suite runs it through everything else."""
    group = secrets.token_hex(6)
    one, two, three = (f"{group}:{number}" for number in range(3))
    routing = names_of("docs/architecture.md")["GroupQueue"]()
    async with (
        AMQPBackend(broker_url, routing=routing, store_only=True) as worker,
        AMQPBackend(broker_url, routing=routing) as caller,
    ):
        assert caller.queue_for(one) == caller.queue_for(three) != caller.queue_for("other:1")
        waiting = asyncio.create_task(caller.wait_for(one, timeout=30))
        await eventually(lambda: caller.stats()["consuming"] == 1)
        await worker.store_result(two, 2)
        await worker.store_result(three, 3)
        await eventually(lambda: caller.stats()["unclaimed"] == 2)
        assert await caller.wait_for(two, timeout=0) == 2
        await worker.store_result(one, 1)
        assert await waiting == 1
        await eventually(lambda: caller.stats()["consuming"] == 0)
        # What came along, and was not asked for, is in the queue again.
        assert caller.stats()["unclaimed"] == 0
        assert [(await worker.get_task_meta(each)).status for each in (one, two)] == ["PENDING", "PENDING"]
        assert await worker.get_task_meta(three) == await caller.consume(three, timeout=30)
        queue = caller.queue_for(one)
        assert queue is not None
        await queue(await caller.channel()).delete()


async def test_the_routing_is_given_to_a_backend() -> None:
    _, program = programs("docs/architecture.md")
    group_queue = names_of("docs/architecture.md")["GroupQueue"]
    await asyncio.wait_for(run(program, GroupQueue=group_queue, url="memory://docs-architecture")["rest"], 10)
    MemoryBroker.forget("docs-architecture")
