"""Celery's setting ``task_routes``, and what a client takes from an app's configuration."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from aioresults import AMQPBackend, ConfigurationError, ReplyQueue, RetryPolicy
from aioresults.contrib.celery import CeleryClient
from aioresults.contrib.celery.client_settings import client_settings
from aioresults.contrib.celery.routes import Routes


def by_function(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    return {"queue": args[0]} if name == "by.args" else None


@pytest.mark.parametrize(
    ("routes", "name", "found"),
    [
        (None, "a.b", {}),
        ({"a.b": "q"}, "a.b", {"queue": "q"}),
        ({"a.b": "q"}, "a.c", {}),
        ({"a.*": {"queue": "q", "priority": 3}}, "a.c", {"queue": "q", "priority": 3}),
        ({"a.*": "glob", "a.b": "exact"}, "a.b", {"queue": "exact"}),
        ([("a.*", "first"), ("a.b*", "second")], "a.bc", {"queue": "first"}),
        ({re.compile(r"(video|image)\.tasks\..*"): "media"}, "image.tasks.crop", {"queue": "media"}),
        ([{"x": "q"}, {"a": "r"}], "a", {"queue": "r"}),
        ({"a": {"exchange": "e", "exchange_type": "topic", "routing_key": "k"}}, "a",
         {"exchange": "e", "routing_key": "k"}),
        ({"a": {"queue": SimpleNamespace(name="q")}}, "a", {"queue": "q"}),
        ([by_function, {"*": "rest"}], "by.args", {"queue": "first"}),
        ([by_function, {"*": "rest"}], "other", {"queue": "rest"}),
        (f"{__name__}.by_function", "by.args", {"queue": "first"}),
    ],
)  # fmt: skip
def test_routes(routes: Any, name: str, found: dict[str, Any]) -> None:
    if isinstance(routes, list) and isinstance(routes[0], tuple):
        routes = [routes]
    assert Routes(routes).find(name, ("first",), {}, {}) == found


def test_who_names_a_destination_decides_alone() -> None:
    routes = Routes({"a": {"exchange": "e", "routing_key": "k", "priority": 3, "time_limit": 5}})

    assert routes.find("a", (), {}, {"queue": "mine", "priority": 9}) == {"time_limit": 5}


@pytest.mark.parametrize("routes", [3, [3], "no.such.router", {3: "q"}])
def test_what_is_no_router(routes: Any) -> None:
    with pytest.raises(ConfigurationError, match="rout"):
        Routes(routes)


def test_what_is_no_route() -> None:
    routes: Any = {"a": 3}
    with pytest.raises(ConfigurationError, match="a route is a mapping of options, or the name of a queue, not 3"):
        Routes(routes).find("a", (), {}, {})


def test_settings_of_a_client() -> None:
    policy = {"max_retries": 1, "interval_start": 0, "retry_errors": None}
    conf = SimpleNamespace(
        task_default_queue="proj", task_serializer="msgpack", task_routes={"a": "q"}, task_publish_retry_policy=policy
    )

    assert client_settings(SimpleNamespace(conf=conf)) == {
        "queue": "proj",
        "routes": {"a": "q"},
        "serializer": "msgpack",
        "retry_policy": {"max_retries": 1, "interval_start": 0},
    }
    conf.task_publish_retry = False
    assert client_settings(SimpleNamespace(conf=conf))["retry_policy"] == RetryPolicy(max_retries=0)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"queue": ""}, "queue"),
        ({"serializer": "pickle"}, "pickle"),
        ({"compression": "rot13"}, "rot13"),
        ({"delivery_mode": 3}, "delivery_mode"),
        ({"priority": -1}, "priority"),
        ({"send_timeout": 0}, "send_timeout"),
        ({"retry_policy": {"retries": 3}}, "retries"),
    ],
)
def test_a_parameter_that_cannot_work_is_named(parameters: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        CeleryClient(AMQPBackend("memory://routes", routing=ReplyQueue()), **parameters)
