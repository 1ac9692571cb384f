"""Suites of users that have nothing but the plug-in, run under every way to run async tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"

#: What a user would write; how each test is marked is up to the mode.
SUITE = """
import asyncio
import pytest
from aioresults import AMQPBackend, ResultForgotten

{mark}


async def test_stored_here_and_awaited_here(amqp_results):
    await amqp_results.store_result("task", 42)
    assert await amqp_results.wait_for("task", timeout=30) == 42


async def test_nothing_is_left_for_the_next_test(amqp_results, result_broker):
    assert (await amqp_results.get_task_meta("task")).status == "PENDING"
    assert result_broker.queues() == []


class TestFaults:
    async def test_a_wait_outlasts_a_cut(self, amqp_results, result_broker):
        async with AMQPBackend(result_broker.url, store_only=True) as worker, asyncio.TaskGroup() as group:
            waiting = group.create_task(amqp_results.wait_for("task", timeout=30))
            while not result_broker.queues():
                await asyncio.sleep(0)
            result_broker.cut()
            await worker.store_result("task", 42)
        assert waiting.result() == 42
        assert amqp_results.stats()["sessions"] == 2

    async def test_a_queue_is_deleted(self, amqp_results, result_broker):
        waiting = asyncio.create_task(amqp_results.consume("task", timeout=30))
        while amqp_results.stats()["consuming"] == 0:
            await asyncio.sleep(0)
        result_broker.delete_queue(amqp_results.rkey("task"))
        with pytest.raises(ResultForgotten):
            await waiting

    async def test_late_and_twice(self, amqp_results, result_broker):
        result_broker.delay = 0.05
        result_broker.duplicate = True
        started = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(amqp_results.wait_for("task", timeout=30))
            await amqp_results.store_result("task", 42)
        assert waiting.result() == 42
        assert asyncio.get_running_loop().time() - started >= 0.04
"""
TESTS = SUITE.count("async def test_")

#: Fixtures of the user's own, set up and torn down in tasks of their own, once for a test and once for all of them.
OWN_FIXTURES = """
import asyncio
import {library}
import pytest
from aioresults import AMQPBackend

{mark}
tasks = set()


async def opened(url):
    set_up = asyncio.current_task()
    async with AMQPBackend(url) as backend:
        yield backend
    tasks.add((set_up, asyncio.current_task()))


@{fixture}(scope="session"{in_session_loop})
async def shared():
    async for backend in opened("memory://shared"):
        yield backend


@{fixture}
async def own(result_broker):
    async for backend in opened(result_broker.url):
        yield backend


@pytest.mark.parametrize("number", [1, 2])
async def test_both(own, shared, amqp_results, number):
    await own.store_result("task", number)
    assert await amqp_results.wait_for("task", timeout=30) == number
    await shared.store_result(str(number), number)
    assert await shared.wait_for(str(number), timeout=30) == number
    assert (await shared.get_task_meta("1")).result == 1
"""

ASYNCIO = "--asyncio-mode={} -o asyncio_default_fixture_loop_scope=function"
STRICT, AUTO = ASYNCIO.format("strict").split(), ASYNCIO.format("auto").split()
WITHOUT_ASYNCIO = ["-p", "no:asyncio"]
ANYIO_BACKEND = """
import pytest

@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"
"""
MODES = {
    "anyio": ("pytestmark = pytest.mark.anyio", WITHOUT_ASYNCIO),
    "anyio_auto": ("", [*WITHOUT_ASYNCIO, "--anyio-mode=auto"]),
    "anyio_beside_asyncio": ("pytestmark = pytest.mark.anyio", STRICT),
    "asyncio_strict": ("pytestmark = pytest.mark.asyncio", STRICT),
    "asyncio_auto": ("", AUTO),
    "asyncio_without_anyio": ("pytestmark = pytest.mark.asyncio", [*STRICT, "-p", "no:anyio"]),
    "asyncio_session_loop": ("pytestmark = pytest.mark.asyncio(loop_scope='session')", STRICT),
    "asyncio_module_loop": ("pytestmark = pytest.mark.asyncio(loop_scope='module')", STRICT),
    "asyncio_default_loop": ("", [*AUTO, "-o", "asyncio_default_test_loop_scope=session"]),
}


def run(pytester: pytest.Pytester, suite: str, options: list[str]) -> pytest.RunResult:
    pytester.makeconftest(ANYIO_BACKEND)
    pytester.makepyfile(suite)
    return pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *options)


@pytest.mark.parametrize("mode", MODES)
def test_a_suite_that_has_nothing_but_the_plugin(pytester: pytest.Pytester, mode: str) -> None:
    mark, options = MODES[mode]
    run(pytester, SUITE.format(mark=mark), options).assert_outcomes(passed=TESTS)


@pytest.mark.parametrize("mode", ["anyio", "asyncio_session_loop"])
def test_fixtures_of_the_users_own(pytester: pytest.Pytester, mode: str) -> None:
    mark, options = MODES[mode]
    asyncio = mode.startswith("asyncio")
    suite = OWN_FIXTURES.format(
        mark=mark,
        library="pytest_asyncio" if asyncio else "pytest",
        fixture="pytest_asyncio.fixture" if asyncio else "pytest.fixture",
        in_session_loop=", loop_scope='session'" if asyncio else "",
    )
    if asyncio:
        options = [*options, "-o", "asyncio_default_fixture_loop_scope=session"]
    run(pytester, suite, options).assert_outcomes(passed=2)


def test_what_the_readme_shows(pytester: pytest.Pytester) -> None:
    [suite] = re.findall(r"^```python\n([^`]*?async def test_.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    run(pytester, suite, AUTO).assert_outcomes(passed=1)


@pytest.mark.parametrize("mode", ["anyio", "asyncio_strict"])
def test_its_backend_is_what_the_user_says(pytester: pytest.Pytester, mode: str) -> None:
    mark, options = MODES[mode]
    suite = f"""
    import pytest
    from aioresults import QueuePerTask, ReplyQueue, Request

    {mark}

    @pytest.fixture(params=[QueuePerTask(), ReplyQueue()])
    def amqp_results_options(request):
        return {{"routing": request.param, "serializer": "msgpack"}}

    async def test_options(amqp_results):
        await amqp_results.store_result("task", b"42", request=Request(reply_to=amqp_results.reply_to))
        assert await amqp_results.wait_for("task", timeout=30) == b"42"
    """
    run(pytester, suite, options).assert_outcomes(passed=2)


#: Uses of the fixture in no event loop, in two, and in one of another library.
NO_LOOP = """
def test_plain(amqp_results):
    pass
"""
TWO_LOOPS = """
import pytest

@pytest.mark.anyio
async def test_both(amqp_results):
    pass
"""
OTHER_LIBRARY = """
import pytest

@pytest.fixture
def anyio_backend_name():
    return "trio"

@pytest.mark.anyio
async def test_trio(amqp_results):
    pass
"""


@pytest.mark.parametrize(
    ("suite", "options", "advice"),
    [
        pytest.param(NO_LOOP, WITHOUT_ASYNCIO, "mark the test with @pytest.mark.anyio", id="no loop"),
        pytest.param(TWO_LOOPS, AUTO, "set asyncio_mode to strict", id="two loops"),
        pytest.param(OTHER_LIBRARY, WITHOUT_ASYNCIO, "runs on asyncio, not on trio", id="other library"),
    ],
)
def test_a_test_without_its_loop_is_told_what_to_do(
    pytester: pytest.Pytester, suite: str, options: list[str], advice: str
) -> None:
    result = run(pytester, suite, options)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{advice}*"])


def test_a_pytest_asyncio_that_is_too_old_harms_no_other_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 0.24 its fixtures could not be told their loop; nor was there the setting that says where tests run."""
    old = """
    import sys

    def fixture(function=None, *, scope="function", name=None):
        return function

    def pytest_addoption(parser, pluginmanager):
        sys.modules["pytest_asyncio"] = sys.modules[__name__]
        pluginmanager.register(object(), "asyncio")
    """
    suite = """
    def test_plain():
        pass

    def test_results(amqp_results):
        pass
    """
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.syspathinsert()
    pytester.makepyfile(old=old, test_suite=suite)
    result = pytester.runpytest_subprocess("-p", "old", "-p", "aioresults.contrib.pytest_plugin")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*install pytest-asyncio, 1.1 or newer*"])


REAL = """
import pytest
from aioresults import AMQPBackend

@pytest.mark.anyio
@pytest.mark.parametrize("number", [1, 2])
async def test_real(rabbitmq, number):
    async with AMQPBackend(rabbitmq.url) as backend:
        await backend.store_result(f"{number} of the plug-in", number)
        assert await backend.wait_for(f"{number} of the plug-in", timeout=30) == number
"""


def test_a_real_broker(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, amqp_url: str) -> None:
    monkeypatch.setenv("AIORESULTS_TEST_URL", amqp_url)
    run(pytester, REAL, WITHOUT_ASYNCIO).assert_outcomes(passed=2)


def test_a_private_node(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIORESULTS_TEST_URL", raising=False)
    run(pytester, REAL, WITHOUT_ASYNCIO).assert_outcomes(passed=2)


def test_no_real_broker(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIORESULTS_TEST_URL", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    pytester.makeconftest(
        ANYIO_BACKEND
        + """
from pathlib import Path
from aioresults.contrib.rabbitmq import node

node._DEBIAN = Path("/nowhere")
"""
    )
    pytester.makepyfile(REAL)
    result = pytester.runpytest_subprocess("-W", "error", "-rs", *WITHOUT_ASYNCIO)
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*no rabbitmq-server is installed*AIORESULTS_TEST_URL*"])


def test_without_the_plugin_nothing_is_imported(pytester: pytest.Pytester) -> None:
    suite = """
    import sys

    def test_absent():
        assert not [name for name in sys.modules if name.startswith("aioresults")]
    """
    run(pytester, suite, ["-p", "no:aioresults", "-p", "no:asyncio"]).assert_outcomes(passed=1)


def test_at_start_only_the_plugin_itself_is_imported(pytester: pytest.Pytester) -> None:
    suite = """
    import sys

    def test_light():
        ours = {name for name in sys.modules if name.startswith("aioresults")}
        plugin = "aioresults.contrib.pytest_plugin"
        assert ours == {"aioresults", "aioresults.contrib", plugin, f"{plugin}.new_backend"}
        assert not {"aio_pika", "aiormq", "msgpack", "fastapi"} & set(sys.modules)
    """
    run(pytester, suite, WITHOUT_ASYNCIO).assert_outcomes(passed=1)
