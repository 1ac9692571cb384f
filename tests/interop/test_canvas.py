"""Links, chains, groups and chords of unmodified tasks: made here, and made by an ordinary Celery app."""
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import celery
import pytest

from aioresults import ConfigurationError, MessageReturned, ResultTimeout
from aioresults.contrib.celery import with_reply_to
from tests.interop.caller import TIMEOUT, Caller, calling
from tests.interop.errors import AppError
from tests.interop.worker import Worker


@pytest.fixture(params=["rpc", "rpc-prefork", "json"])
async def caller(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> AsyncIterator[Caller]:
    async for caller in calling(workers[request.param]):
        yield caller


async def test_links(caller: Caller) -> None:
    further = caller.add.s(1000).freeze()
    follower = caller.add.s(100).link(further).freeze()
    unmoved = caller.add.si(7, 7).freeze()

    assert await caller.add.s(1, 1).link(follower, unmoved).call(TIMEOUT) == 2

    assert await follower.result.get(TIMEOUT) == 102
    assert await further.result.get(TIMEOUT) == 1102
    assert await unmoved.result.get(TIMEOUT) == 14


async def test_links_on_error(caller: Caller) -> None:
    follower = caller.echo.s().freeze()
    failing = caller.fail.s("AppError").on_error(follower).freeze()

    with pytest.raises(AppError):
        await failing.call(TIMEOUT)

    assert await follower.result.get(TIMEOUT) == failing.result.id  # as Celery does: the id of the one that failed


async def test_chains(caller: Caller) -> None:
    chain = caller.add.s(1, 1) | caller.add.s(10) | caller.echo.si("on its own") | caller.echo.s()

    result = await chain.send()

    assert await result.get(TIMEOUT) == "on its own"
    assert [await each.get(TIMEOUT) for each in result.results] == [2, 12, "on its own", "on its own"]
    assert result.parent == result.results[-2]
    assert await caller.client.chain(caller.add.s(1, 1), caller.add.s(5)).call(TIMEOUT) == 7


async def test_a_chain_ends_with_its_first_failure(caller: Caller) -> None:
    chain = caller.add.s(1, 1) | caller.fail.si("AppError") | caller.add.s(1)
    result = await chain.send()

    with pytest.raises(AppError):
        await result.get(TIMEOUT)
    with pytest.raises(AppError):
        await result
    assert isinstance(await result.get(TIMEOUT, propagate=False), AppError)
    assert repr(chain).startswith("<Chain: tests.interop.tasks.add | ")


async def test_groups(caller: Caller) -> None:
    group = caller.client.group(caller.add.s(number, number) for number in range(20))

    result = await group.send()

    assert await result.join(TIMEOUT) == [2 * number for number in range(20)]
    metas = await caller.client.backend.get_many(result.task_ids(), timeout=TIMEOUT)
    if caller.client.backend.reply_to:  # celery-amqp-backend tells of no group
        assert {meta.group_id for meta in metas.values()} == {result.id}
    with pytest.raises(AppError):
        await caller.client.group([caller.add.s(1, 1), caller.fail.s("AppError")]).call(TIMEOUT)


async def test_a_group_of_a_thousand(solo: Caller) -> None:
    values = await solo.client.group(solo.add.s(number, 1) for number in range(1000)).call(TIMEOUT)

    assert values == list(range(1, 1001))


async def test_chords(caller: Caller) -> None:
    header = [caller.add.s(number, 1) for number in range(10)]

    assert await caller.client.chord(header, caller.total.s()).call(TIMEOUT) == 55
    result = await caller.client.chord(header, caller.echo.si("body")).send(TIMEOUT)
    assert await result.get(TIMEOUT) == "body"
    with pytest.raises(AppError):
        await caller.client.chord([*header, caller.fail.s("AppError")], caller.total.s()).call(TIMEOUT)


async def test_options_of_what_follows(solo: Caller) -> None:
    follower = solo.describe.using(
        priority=5, time_limit=60, headers={"x-tenant": "acme"}, expires=60, countdown=0.1
    ).s()
    described = await (solo.add.s(1, 1) | follower).call(TIMEOUT)

    assert (described["args"], described["priority"], described["timelimit"]) == ([2], 5, [60, None])
    assert described["header"] == "acme"
    assert described["eta"] is not None
    assert described["parent_id"] == described["root_id"] != described["id"]


async def test_what_cannot_be_put_together(solo: Caller) -> None:
    chain = solo.add.s(1, 1) | solo.add.s(1)
    for mistake in (lambda: solo.client.group([chain]), lambda: solo.add.s().link(chain), lambda: solo.client.chain()):  # type: ignore[list-item,arg-type]
        with pytest.raises(ConfigurationError):
            mistake()
    with pytest.raises(ConfigurationError, match="has no task id"):
        _ = solo.add.s(1, 1).result
    with pytest.raises(MessageReturned):
        await solo.client.group([solo.add.s(1, 1), solo.add.using(queue="aioresults.nobody").s(1, 1)]).send()


# What an ordinary Celery app sends


async def apply(caller: Caller, signature: Any, **options: Any) -> Any:
    """Send a signature of Celery's with its own client, which blocks."""
    async with caller.worker.client() as client:
        return await client.run(lambda: with_app(signature, client.app).apply_async(**options))


def with_app(signature: Any, app: celery.Celery) -> Any:
    signature._app = app
    for member in getattr(signature, "tasks", ()):
        with_app(member, app)
    return signature


def named(task: str, *args: Any) -> Any:
    return celery.signature(f"tests.interop.tasks.{task}", args)


async def test_a_chain_of_celery(caller: Caller) -> None:
    backend = caller.client.backend
    chain = celery.chain(named("add", 1, 1), named("add", 10), named("add", 100))

    last = await apply(caller, with_reply_to(chain, backend.reply_to))

    ids = [last.parent.parent.id, last.parent.id, last.id]
    metas = await backend.get_many(ids, timeout=TIMEOUT)
    assert [meta.result for meta in metas.values()] == [2, 12, 112]
    assert not any("reply_to" in member.options for member in chain.tasks)


async def test_a_group_of_celery(caller: Caller) -> None:
    backend = caller.client.backend
    options = {"reply_to": backend.reply_to} if backend.reply_to else {}

    group = celery.group(named("add", number, 1) for number in range(10))
    assert all(member["options"]["reply_to"] == "here" for member in with_reply_to(group, "here").tasks)
    assert not any("reply_to" in member.options for member in group.tasks)

    result = await apply(caller, group, **options)
    linked = named("add", 1, 1)
    linked.link(named("add", 5))
    parent = await apply(caller, with_reply_to(linked, backend.reply_to))

    metas = await backend.get_many([member.id for member in result.results], timeout=TIMEOUT)
    assert [meta.result for meta in metas.values()] == list(range(1, 11))
    (child,) = (await backend.get_many([parent.id], timeout=TIMEOUT))[parent.id].children or []
    assert await backend.wait_for(child[0][0], timeout=TIMEOUT) == 7


async def test_what_cannot_work(solo: Caller) -> None:
    """A task that replaces itself answers elsewhere, and so does a child that was sent without ``reply_to``."""
    child = solo.echo.s().freeze().result.id
    assert await solo.client.task("tests.interop.tasks.parent")(child) == "parent"
    replaced = await solo.replaced.send()
    assert [await solo.echo(number) for number in range(2)] == [0, 1]  # the second is done after all that was sent

    for lost in (replaced.id, child):
        with pytest.raises(ResultTimeout):
            await solo.client.backend.wait_for(lost, timeout=0.2)
