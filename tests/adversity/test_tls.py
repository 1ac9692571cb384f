"""TLS: what is right gets through, what is wrong is refused with an error that says so, and no secret is told."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from aioresults import AMQPBackend, BrokerRefused, BrokerUnavailable
from aioresults.contrib.rabbitmq import free_ports
from tests.adversity.leaks import no_leaks
from tests.nodes import Node

SECRET = "s3cr3t"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def port(_own_node: Node, ca: trustme.CA) -> Iterator[int]:
    """Yield a port on which a broker listens with TLS, and wants to see a certificate of its clients."""
    [port] = free_ports(1)
    server = ca.issue_cert("localhost")
    pems = {"cacert": ca.cert_pem, "cert": server.cert_chain_pems[0], "key": server.private_key_pem}
    # Its files are written by the broker: it may have a file system of its own.
    files = {name: f'os:getenv("HOME") ++ "/tls-{port}-{name}.pem"' for name in pems}
    written = [f'ok = file:write_file({files[name]}, "{pem.bytes().decode()}")' for name, pem in pems.items()]
    options = ", ".join(f"{{{name}file, {file}}}" for name, file in files.items())
    listener = f'{{"127.0.0.1", {port}}}'
    _own_node.thaw()
    _own_node.start()
    _own_node.ctl(
        "eval",
        f"{', '.join(written)}, {{ok, _}} = application:ensure_all_started(ssl), ok = rabbit_networking:"
        f"start_ssl_listener({listener}, [{options}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}], 1).",
    )
    yield port
    deleted = [f"file:delete({file})" for file in files.values()]
    _own_node.ctl("eval", f"{', '.join(deleted)}, rabbit_networking:stop_tcp_listener({listener}).")


def url(port: int, host: str = "localhost", query: str = "") -> str:
    return f"amqps://guest:guest@{host}:{port}/{query}"


def client_of(ca: trustme.CA, cert: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """Return what trusts `ca`, and shows `cert`."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if cert is not None:
        cert.configure_cert(context)
    return context


async def refusal(url: str, context: ssl.SSLContext | None, connect_timeout: float = 60) -> BrokerUnavailable:
    """Return what `open` says; it must not take long, and leave nothing."""
    async with no_leaks():
        backend = AMQPBackend(url, ssl_context=context, connect_timeout=connect_timeout)
        with pytest.raises(BrokerUnavailable) as caught:
            await backend.open()
        await backend.close()
    return caught.value


async def test_own_ca_and_client_certificate(port: int, ca: trustme.CA) -> None:
    context = client_of(ca, ca.issue_cert("caller@aioresults"))
    async with no_leaks(), AMQPBackend(url(port), ssl_context=context) as backend:
        await backend.store_result("over-tls", "x" * 100_000)
        assert await backend.wait_for("over-tls", timeout=30) == "x" * 100_000


async def test_certificates_named_in_the_url(port: int, ca: trustme.CA, tmp_path: Path) -> None:
    cert = ca.issue_cert("caller@aioresults")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    cert.private_key_pem.write_to_path(tmp_path / "client.key")
    query = f"?cafile={tmp_path}/ca.pem&certfile={tmp_path}/client.pem&keyfile={tmp_path}/client.key"
    async with AMQPBackend(url(port, query=query)) as backend:
        await backend.store_result("over-tls", 2)
        assert await backend.wait_for("over-tls", timeout=30) == 2


async def test_no_client_certificate(port: int, ca: trustme.CA) -> None:
    error = await refusal(url(port), client_of(ca))
    assert isinstance(error, BrokerRefused)
    assert "TLS" in str(error)
    assert "certificate required" in str(error).lower().replace("_", " ")


async def test_another_ca(port: int) -> None:
    error = await refusal(url(port), client_of(trustme.CA()))
    assert isinstance(error, BrokerRefused)
    assert "certificate verify failed" in str(error)


async def test_another_host_name(port: int, ca: trustme.CA) -> None:
    error = await refusal(url(port, "127.0.0.1"), client_of(ca, ca.issue_cert("caller@aioresults")))
    assert isinstance(error, BrokerRefused)
    assert "certificate is not valid for '127.0.0.1'" in str(error)


async def test_tls_to_a_port_without(amqp_url: str, ca: trustme.CA) -> None:
    error = await refusal(amqp_url.replace("amqp:", "amqps:"), client_of(ca))
    assert isinstance(error, BrokerRefused)
    assert "TLS" in str(error)


async def test_no_tls_to_a_port_with(port: int) -> None:
    error = await refusal(url(port).replace("amqps:", "amqp:").replace("localhost", "127.0.0.1"), None, 5)
    assert not isinstance(error, BrokerRefused)  # it looks like any other server that hangs up
    assert "reset" in str(error) or "closed" in str(error)


@pytest.fixture
async def expired(ca: trustme.CA) -> AsyncIterator[str]:
    """The URL of a server whose certificate has expired."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost", not_before=yesterday - timedelta(days=9), not_after=yesterday).configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield f"amqps://guest:{SECRET}@localhost:{server.sockets[0].getsockname()[1]}/"


async def test_an_expired_certificate(expired: str, ca: trustme.CA, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    error = await refusal(expired, client_of(ca))
    assert isinstance(error, BrokerRefused)
    assert "certificate has expired" in str(error)
    told = [str(error), repr(error), str(error.__cause__), repr(error.__cause__), caplog.text]
    assert not any(SECRET in text for text in told)


async def test_a_wrong_password_over_tls(port: int, ca: trustme.CA, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = url(port).replace("guest:guest", f"guest:{SECRET}")
    error = await refusal(wrong, client_of(ca, ca.issue_cert("caller@aioresults")))
    assert isinstance(error, BrokerRefused)
    assert "ACCESS_REFUSED" in str(error)
    assert SECRET not in caplog.text + str(error) + repr(error.__cause__)
