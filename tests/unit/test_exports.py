"""The public names: written once, documented, and complete."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from types import FunctionType, ModuleType

import pytest

import aioresults
from aioresults import api, errors, events, results, states

#: Every module from which users may import, and which the docstring of the package lists.
PUBLIC = (
    "aioresults",
    "aioresults.contrib.celery",
    "aioresults.contrib.fastapi",
    "aioresults.contrib.pytest_plugin",
    "aioresults.contrib.rabbitmq",
    "aioresults.contrib.taskiq",
    "aioresults.errors",
    "aioresults.events",
    "aioresults.messaging",
    "aioresults.results",
    "aioresults.routing",
    "aioresults.serialization",
    "aioresults.states",
    "aioresults.transport",
    "aioresults.transport.memory",
)

#: Public calls with `Any` in what they return, each with the reason why no type can be named.
UNTYPED = {
    # A result is whatever the task returned
    "AMQPBackend.store_result": "the result that was stored",
    "AMQPBackend.wait_for": "the result; its `type` where one is asked for (overload)",
    "GroupResult.get": "the results of tasks of any type",
    "GroupResult.join": "the results of tasks of any type",
    "ResultMeta.value": "the result",
    "convert": "a `type` may be any type form, which no annotation can say before Python 3.15",
    "CeleryClient.call": "the result; its `result_type` where one is asked for (overload)",
    "CeleryClient.chain": "the result of the last task",
    "CeleryClient.send": "the result; its `result_type` where one is asked for (overload)",
    "CeleryClient.signature": "the result; its `result_type` where one is asked for (overload)",
    "CeleryClient.task": "the result; its `result_type` where one is asked for (overload)",
    "Group.call": "the results of tasks of any type",
    "wait_or_202": "the result, or a response",
    # What others sent, or will read
    "AsyncResult.as_tuple": "Celery's form nests to any depth",
    "ChainResult.as_tuple": "Celery's form nests to any depth",
    "GroupResult.as_tuple": "Celery's form nests to any depth",
    "Message.decode": "the body",
    "Message.payload": "the body",
    "Message.delivery_info": "kombu's name and form",
    "Message.headers": "AMQP's values have many types",
    "Exchange.as_dict": "kombu's name and form",
    "Queue.arguments": "AMQP's values have many types",
    "Queue.as_dict": "kombu's name and form",
    "NoCacheQueue.arguments": "AMQP's values have many types",
    "NoCacheQueue.as_dict": "kombu's name and form",
    "CeleryClient.control": "the answers of the workers",
    "CeleryClient.ping": "the answers of the workers",
    "CeleryClient.revoke": "the answers of the workers",
    "ResultBackend.store_result": "Celery's signature",
    "AMQPResultBackend.get_progress": "taskiq's signature",
    "lifespan": "Starlette's form of a lifespan",
    "amqp_results_options": "arguments of AMQPBackend",
}

ERRORS = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
}


def test_all_names_are_classes_and_each_is_there_once() -> None:
    public = {name: value for name, value in vars(api).items() if name[0].isalpha()}
    assert sorted(aioresults.__all__) == sorted(public)
    assert all(isinstance(value, type) for value in public.values())


def test_the_package_has_these_names_and_no_others() -> None:
    assert set(aioresults.__all__) <= set(dir(aioresults))
    assert all(getattr(aioresults, name) is getattr(api, name) for name in aioresults.__all__)
    for name in ("AMQPBackends", "nothing"):
        with pytest.raises(AttributeError, match=f"module 'aioresults' has no attribute '{name}'"):
            getattr(aioresults, name)


@pytest.mark.parametrize("name", aioresults.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    value = getattr(aioresults, name)
    assert (vars(value).get("__doc__") or "").strip(), f"{name} has no docstring of its own"
    if not inspect.isclass(value):
        return
    for attribute, member in vars(value).items():
        if attribute.startswith("_") or not (inspect.isfunction(member) or isinstance(member, (classmethod, property))):
            continue
        assert inspect.getdoc(getattr(value, attribute)), f"{name}.{attribute} has no docstring"


def test_every_error_is_public() -> None:
    assert {name for name in ERRORS if not name.startswith("_")} <= set(aioresults.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_module_lists_its_names(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    assert len(module.__all__) == len(set(module.__all__))
    assert all(hasattr(module, each) for each in module.__all__)
    if name != "aioresults":
        assert f"``{name.removeprefix('aioresults.')}``" in (aioresults.__doc__ or "")


@pytest.mark.parametrize("module", [errors, events, results, states], ids=lambda module: module.__name__)
def test_what_is_defined_in_a_public_module_is_among_its_names(module: ModuleType) -> None:
    defined = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }
    assert defined <= set(module.__all__)


def public_calls() -> Iterator[tuple[str, FunctionType]]:
    """Yield the name and function of every public function, method and property."""
    for module in map(importlib.import_module, PUBLIC):
        for name in module.__all__:
            value = inspect.unwrap(vars(module).get(name) or getattr(module, name))
            members = {f".{each}": member for each, member in inspect.getmembers(value) if not each.startswith("_")}
            for suffix, member in members.items() if inspect.isclass(value) else [("", value)]:
                member = getattr(member, "fget", getattr(member, "__func__", member))
                if isinstance(member, FunctionType) and member.__module__.startswith("aioresults"):
                    yield f"{name}{suffix}", member


def test_no_public_call_returns_any_but_for_a_reason() -> None:
    untyped = {name for name, call in public_calls() if re.search(r"\bAny\b", str(call.__annotations__["return"]))}
    assert untyped == set(UNTYPED)


def tree() -> dict[str, tuple[str | None, set[str]]]:
    """Return the tree in the docstring of `errors`: for each name its parent there, and what is in parentheses."""
    found: dict[str, tuple[str | None, set[str]]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    (?P<lead>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: \((?P<others>[\w, ]+)\))?(?:  +\S|$)", line)
        if match is None:
            continue
        depth = len(match["lead"])
        while above and above[-1][0] >= depth:
            above.pop()
        others = set((match["others"] or "").split(", ")) - {""}
        found[match["name"]] = above[-1][1] if above else None, others
        above.append((depth, match["name"]))
    return found


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    expected = {}
    for name, error in ERRORS.items():
        bases = [base.__name__ for base in error.__bases__]
        ours = [base for base in bases if base in ERRORS]
        expected[name] = (ours[0] if ours else None, {base for base in bases if base not in ERRORS} - {"Exception"})
    assert tree() == expected


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_has_one_root_and_a_docstring(name: str) -> None:
    assert issubclass(ERRORS[name], aioresults.AioResultsError)
    assert vars(ERRORS[name]).get("__doc__")


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        ("ConfigurationError", ValueError),
        ("WrongEventLoop", RuntimeError),
        ("BrokerUnavailable", ConnectionError),
        ("BrokerRefused", ConnectionError),
        ("ResultTimeout", TimeoutError),
    ],
)
def test_errors_are_caught_as_what_they_are(error: str, parent: type[Exception]) -> None:
    assert issubclass(ERRORS[error], parent)


def test_the_texts_and_facts_of_errors() -> None:
    meta = aioresults.ResultMeta("a", "SUCCESS")
    one = errors.ResultTimeout(1.5, ["a"])
    assert (str(one), one.pending, one.done) == ("no result of task 'a' within 1.5 s", ["a"], {})
    some = errors.ResultTimeout(1, iter(["b", "c"]), {"a": meta})
    assert (str(some), some.pending, some.done) == ("1 of 3 results within 1 s", ["b", "c"], {"a": meta})
    assert str(errors.ResultNotRouted("a", "q")) == "the result of task 'a' was not stored: there is no queue at 'q'"
    assert "20 bytes are more than the limit of 10" in str(errors.ResultTooLarge("a", 20, 10))
    assert str(errors.RemoteError("E", ["x", 1], "m")) == "m.E('x', 1)"
    assert str(errors.RemoteError("E", "text")) == "E('text')"
    assert errors.TaskRevoked().reason == "revoked"
    assert errors.ChannelError(404, "NOT_FOUND").reply_code == 404


def test_the_version() -> None:
    assert inspect.getdoc(aioresults)
