"""What ``AMQPBackend.from_app`` takes from a configuration like Celery's."""

from __future__ import annotations

import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from aioresults import AMQPBackend, ConfigurationError, QueuePerTask, ReplyQueue
from aioresults.app_settings import app_settings


def settings(given: dict[str, Any] | None = None, **conf: Any) -> dict[str, Any]:
    return app_settings(SimpleNamespace(conf=SimpleNamespace(**{"result_backend": "rpc://", **conf})), given or {})


@pytest.mark.parametrize(
    ("result_backend", "routing"),
    [
        ("rpc", ReplyQueue()),
        ("rpc://", ReplyQueue()),
        ("celery.backends.rpc.RPCBackend", ReplyQueue()),
        ("amqp://", QueuePerTask.celery()),
        ("amqp://guest:guest@elsewhere//", QueuePerTask.celery()),
        ("celery_amqp_backend.AMQPBackend://", QueuePerTask.celery_amqp_backend()),
        ("celery_amqp_backend:AMQPBackend", QueuePerTask.celery_amqp_backend()),
        ("aioresults.contrib.celery:ResultBackend://", ReplyQueue()),
        ("aioresults.contrib.celery.ResultBackend+amqp://there/", ReplyQueue()),
    ],
)
def test_the_result_backend_decides_the_routing(result_backend: str, routing: Any) -> None:
    assert settings(result_backend=result_backend)["routing"] == routing


@pytest.mark.parametrize("result_backend", [None, "disabled", "redis://:secret@host/0", "proj.celery:Backend", object])
def test_where_workers_do_not_store_on_amqp(result_backend: Any) -> None:
    with pytest.raises(ConfigurationError, match="result_backend is ") as raised:
        settings(result_backend=result_backend)

    assert "secret" not in str(raised.value)
    assert settings({"routing": ReplyQueue()}, result_backend=result_backend)["routing"] == ReplyQueue()


@pytest.mark.parametrize(
    ("broker_url", "url"),
    [
        ("amqp://guest:guest@host:5672//", "amqp://guest:guest@host:5672//"),
        ("pyamqp://host/vhost", "amqp://host/vhost"),
        ("amqps://host", "amqps://host"),
        ("amqp://", "amqp://localhost//"),
        (None, "amqp://localhost//"),
        ("amqp://one//;amqp://two//", ["amqp://one//", "amqp://two//"]),
        (["amqp://one//", "amqp://two//"], ["amqp://one//", "amqp://two//"]),
        ("memory://tests", "memory://tests"),
    ],
)
def test_the_broker(broker_url: Any, url: Any) -> None:
    assert settings(broker_url=broker_url)["url"] == url


def test_the_broker_of_the_plug_in_is_its_own() -> None:
    name = "aioresults.contrib.celery:ResultBackend"
    assert settings(result_backend=f"{name}+amqps://there/", broker_url="amqp://here")["url"] == "amqps://there/"
    assert settings(result_backend=f"{name}://there/vhost", broker_url="amqp://here")["url"] == "amqp://there/vhost"
    assert settings(result_backend=f"{name}://", broker_url="amqp://here")["url"] == "amqp://here"
    options = {"routing": QueuePerTask(), "serializer": "msgpack"}
    found = settings(result_backend=f"{name}://", result_backend_transport_options=options, result_serializer="yaml")
    assert (found["routing"], found["serializer"]) == (QueuePerTask(), "msgpack")


def test_a_broker_that_is_not_rabbitmq() -> None:
    with pytest.raises(
        ConfigurationError, match="broker_url begins with 'redis': RabbitMQ needs one of amqp, "
    ) as raised:
        settings(broker_url="redis://:secret@host/0")
    assert "secret" not in str(raised.value)
    with pytest.raises(ConfigurationError, match="broker_use_ssl"):
        settings(broker_use_ssl=True)
    assert settings({"url": "amqps://host"}, broker_use_ssl=True, broker_url="redis://")["url"] == "amqps://host"


@pytest.mark.parametrize("setting", ["broker_url", "result_backend"])
def test_a_url_without_its_scheme_is_not_repeated(setting: str) -> None:
    conf: dict[str, Any] = {setting: "guest:secret@host//"}
    with pytest.raises(ConfigurationError, match=f"{setting} .*without a scheme") as raised:
        settings(**conf)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("conf", "parameter", "value"),
    [
        ({}, "expires", timedelta(days=1)),
        ({"result_expires": 60}, "expires", 60),
        ({"result_expires": 0}, "expires", None),
        ({"result_expires": None}, "expires", None),
        ({"result_serializer": "msgpack"}, "serializer", "msgpack"),
        ({"result_compression": "gzip"}, "compression", "gzip"),
        ({"accept_content": ["yaml"]}, "accept", ["yaml"]),
        ({"accept_content": ["yaml"], "result_accept_content": ["json"]}, "accept", ["json"]),
        ({"result_persistent": False}, "persistent", False),
        ({"result_cache_max": 5}, "max_cached_results", 5),
        ({"result_cache_max": 0}, "max_cached_results", sys.maxsize),
        ({"result_cache_max": None}, "max_cached_results", sys.maxsize),
        ({"result_cache_max": -1}, "max_cached_results", 10_000),
        ({"result_backend": "amqp://", "result_exchange": "results"}, "exchange", "results"),
        ({"result_backend": "amqp://", "result_exchange_type": "topic"}, "exchange_type", "topic"),
    ],
)
def test_settings(conf: dict[str, Any], parameter: str, value: Any) -> None:
    assert settings(**conf)[parameter] == value


def test_what_is_left_to_the_backend() -> None:
    found = settings(result_persistent=None, result_exchange="celeryresults")
    assert not {"persistent", "exchange", "exchange_type"} & found.keys()


def test_an_app_of_celery() -> None:
    app = Celery("proj", broker="amqp://guest:secret@host/vhost", backend="rpc://", set_as_current=False)

    backend = AMQPBackend.from_app(app, store_only=True)

    assert repr(backend) == "<AMQPBackend amqp://guest:**@host/vhost ReplyQueue>"


async def test_a_result_by_settings() -> None:
    conf = SimpleNamespace(broker_url="memory://from-app", result_backend="amqp://", result_exchange="e")
    async with AMQPBackend.from_app(SimpleNamespace(conf=conf)) as backend:
        task_id = "c0ffee00-0000-4000-8000-000000000000"
        await backend.store_result(task_id, 42)
        assert await backend.wait_for(task_id, timeout=30) == 42


@pytest.mark.parametrize(
    ("conf", "named"),
    [
        ({"result_accept_content": ["pickle"]}, "pickle"),
        ({"result_serializer": "nothing"}, "nothing"),
        ({"result_compression": "rot13"}, "rot13"),
        ({"result_expires": "soon"}, "soon"),
        ({"result_cache_max": -7}, "-7"),
    ],
)
def test_a_setting_that_cannot_work_is_named(conf: dict[str, Any], named: str) -> None:
    app = SimpleNamespace(conf=SimpleNamespace(result_backend="rpc://", **conf))
    with pytest.raises(ConfigurationError, match=named):
        AMQPBackend.from_app(app)


def test_something_that_is_no_app() -> None:
    with pytest.raises(ConfigurationError, match="an app must have Celery's `conf`; None has none"):
        AMQPBackend.from_app(None)
