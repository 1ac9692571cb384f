"""From URLs to a transport."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from aioresults import ConfigurationError
from aioresults.transport.amqp import AMQPTransport
from aioresults.transport.memory import MemoryBroker, MemoryTransport
from aioresults.transport.url import transport_for


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://host", "amqp://host"),
        ("amqp://u:p@host:5673/v", "amqp://u:**@host:5673/v"),
        ("amqps://u:p@host/v?heartbeat=5&cafile=secret", "amqps://u:**@host"),
        ("amqp://[::1]:5672/", "amqp://[::1]"),
        (["amqp://u:p@one/", "amqp://u:q@two/"], "amqp://u:**@one"),
        (("amqp://one/",), "amqp://one"),
    ],
)
def test_leads_to_rabbitmq(url: Any, shown: str) -> None:
    transport = transport_for(url)
    assert isinstance(transport, AMQPTransport)
    assert transport.as_uri().startswith(shown)
    assert "secret" not in transport.as_uri()


def test_shows_the_password_when_asked() -> None:
    assert "u:p@" in transport_for("amqp://u:p@host/").as_uri(include_password=True)


def test_leads_to_a_broker_in_this_process() -> None:
    one, same, other = transport_for("memory://a/b"), transport_for(["memory://a/b"]), transport_for("memory://c")
    assert isinstance(one, MemoryTransport)
    assert isinstance(same, MemoryTransport)
    assert isinstance(other, MemoryTransport)
    assert one.broker is same.broker is not other.broker
    assert one.as_uri() == "memory://a/b"
    for name in ("a/b", "c"):
        MemoryBroker.forget(name)


def test_a_callable_instead() -> None:
    async def connect() -> Any: ...

    assert transport_for("ignored", connection=connect).as_uri() == "amqp://"


@pytest.mark.parametrize(
    "url",
    ["", "host", "http://host", "amqp:host", "amqp://", "amqp:///v", "amqp://host:x/", "amqp://host:70000", "memory://",
     [], ["memory://a", "memory://b"], ["amqp://a", "memory://b"], [None], 5, None, b"amqp://host", "amqp://[::1/"],
    ids=repr,
)  # fmt: skip
def test_what_cannot_be_one(url: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        transport_for(url)
    assert str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://u:s3cret@h/", "amqp://u:s3cret@:1/", "amqp://u:s3cret@h:x/", "amqp://u:s3cret@[/"]
)
def test_errors_do_not_repeat_passwords(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        transport_for(url)
    assert "s3cret" not in f"{caught.value!s}{caught.value.__cause__!r}"


LIBRARIES = "print(sorted({name.partition('.')[0] for name in sys.modules} & {'aio_pika', 'aiormq', 'pamqp', 'yarl'}))"


@pytest.mark.parametrize(
    ("program", "imported"),
    [
        ("AMQPBackend", "[]"),
        ("AMQPBackend('memory://light')", "[]"),
        ("AMQPBackend('amqp://localhost/')", "['aio_pika', 'aiormq', 'pamqp', 'yarl']"),
    ],
)
def test_the_amqp_libraries_are_imported_by_the_first_backend_that_needs_them(program: str, imported: str) -> None:
    code = f"import sys; from aioresults import AMQPBackend; {program}; {LIBRARIES}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == imported
