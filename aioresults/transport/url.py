"""From URLs to a transport."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from aioresults.errors import ConfigurationError
from aioresults.transport.base import Transport
from aioresults.transport.memory import MemoryBroker, MemoryTransport


def transport_for(
    url: str | Sequence[str],
    *,
    connection: Callable[[], Awaitable[Any]] | None = None,
    heartbeat: int = 10,
    ssl_context: ssl.SSLContext | None = None,
) -> Transport:
    """Return the transport that ``url`` leads to.

    Args:
        url: ``amqp://`` or ``amqps://``, a sequence of such, one per node of a cluster, or ``memory://NAME``.
        connection: a callable that opens an aio-pika connection, instead of a URL.
        heartbeat: seconds between signs of life, where the URL does not say.

    Raises:
        ConfigurationError: a URL that cannot be one, or an empty sequence. Passwords are not repeated in it.
    """
    if connection is not None:
        if not callable(connection):
            raise ConfigurationError(
                f"connection must be a callable that opens an aio-pika connection, not {connection!r}"
            )
        return _amqp([], connection=connection)
    given: object = url
    urls: list[Any] = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if not urls:
        raise ConfigurationError("no URL: pass one, or a sequence of the URLs of one cluster")
    parts = [_parse(each) for each in urls]
    if parts[0].scheme == "memory":
        if len(parts) > 1:
            raise ConfigurationError("memory:// is one broker; it cannot be one URL of several")
        return MemoryTransport(MemoryBroker.named(parts[0].netloc + parts[0].path))
    if any(part.scheme == "memory" for part in parts):
        raise ConfigurationError("memory:// is one broker; it cannot be one URL of several")
    return _amqp(urls, heartbeat=heartbeat, ssl_context=ssl_context)


def _amqp(urls: list[Any], **options: Any) -> Transport:
    # Imported here: aio-pika takes longer to import than all of this package, and memory:// needs none of it.
    from aioresults.transport.amqp import AMQPTransport

    return AMQPTransport(urls, **options)


def _parse(url: object) -> SplitResult:
    if not isinstance(url, str):
        raise ConfigurationError(f"a URL must be a string, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises for a port that is none
    except ValueError:
        # Its text may hold a part of the password: what follows a "/" in there that is not escaped is no port.
        raise ConfigurationError(
            "a URL that cannot be read: check the port, and write / as %2F, # as %23, ? as %3F in user and password"
        ) from None
    if parts.scheme not in ("amqp", "amqps", "memory"):
        raise ConfigurationError(f"URL scheme {parts.scheme!r} is none of 'amqp', 'amqps', 'memory'")
    if parts.scheme == "memory":
        if not parts.netloc + parts.path:
            raise ConfigurationError("memory:// needs a name: memory://NAME")
    elif not parts.hostname:
        raise ConfigurationError(f"a URL without a host name: {parts.scheme}://[user:password@]HOST[:port]/[vhost]")
    return parts
