"""The configuration of a Celery application as parameters of ``AMQPBackend``; works without Celery itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from aioresults.errors import ConfigurationError
from aioresults.routing import QueuePerTask, ReplyQueue, Routing
from aioresults.routing.base import checked

#: How ``result_backend`` names the plug-in of this package.
PLUG_IN: Final = "aioresults.contrib.celery:ResultBackend"

#: Where workers store their results, by the name at the beginning of ``result_backend``.
_ROUTINGS: Final[Mapping[str, Callable[[], Routing]]] = {
    "rpc": ReplyQueue,
    "celery.backends.rpc:RPCBackend": ReplyQueue,
    "amqp": QueuePerTask.celery,
    "celery.backends.amqp:AMQPBackend": QueuePerTask.celery,
    "celery_amqp_backend:AMQPBackend": QueuePerTask.celery_amqp_backend,
    PLUG_IN: ReplyQueue,
}
_SCHEMES: Final = {"amqp": "amqp", "pyamqp": "amqp", "librabbitmq": "amqp", "amqps": "amqps", "memory": "memory"}

#: Without the URL itself, which may hold a password.
_NO_SCHEME: Final = "{} is a URL without a scheme; write amqp://[user:password@]HOST[:port]/[vhost]"


def app_settings(app: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of an ``AMQPBackend`` that works with ``app``, together with those in ``given``.

    Args:
        app: any object with Celery's ``conf``.
        given: parameters that are decided already; a setting that only they would need is not read.

    Raises:
        ConfigurationError: a setting cannot be followed; the message names it, and repeats no password.
    """
    conf = getattr(app, "conf", None)
    if conf is None:
        raise ConfigurationError(f"an app must have Celery's `conf`; {app!r} has none")
    name, url = _split(getattr(conf, "result_backend", None))
    settings: dict[str, Any] = {
        "serializer": getattr(conf, "result_serializer", "json"),
        "compression": getattr(conf, "result_compression", None),
        "accept": getattr(conf, "result_accept_content", None) or getattr(conf, "accept_content", None) or ("json",),
        # Celery's 0 means for ever, as its None does.
        "expires": getattr(conf, "result_expires", timedelta(days=1)) or None,
        "max_cached_results": _max_cached(getattr(conf, "result_cache_max", -1)),
    }
    if (persistent := getattr(conf, "result_persistent", None)) is not None:
        settings["persistent"] = persistent
    if name == PLUG_IN:
        settings.update(getattr(conf, "result_backend_transport_options", None) or {})
    settings.update(given)
    settings["routing"] = checked(settings.get("routing") or _routing(name))
    if not {"url", "connection"} & settings.keys():
        settings["url"] = _broker(conf, url if name == PLUG_IN else None)
    if settings["routing"].exchange.name:  # one of Celery's layouts
        settings.setdefault("exchange", getattr(conf, "result_exchange", None))
        settings.setdefault("exchange_type", getattr(conf, "result_exchange_type", None))
    return settings


def _split(result_backend: Any) -> tuple[str, str | None]:
    """Return the backend's name as ``module:Class``, and the URL that Celery would pass to it, if there is one."""
    if result_backend is None:
        return "disabled", None
    if not isinstance(result_backend, str):
        return f"the class {result_backend!r}", None
    scheme, separator, rest = result_backend.partition("://")
    name, plus, url_scheme = scheme.partition("+")
    if "." in name and ":" not in name:
        name = ":".join(name.rsplit(".", 1))
    url = f"{url_scheme if plus else 'amqp'}://{rest}"
    return name, url if separator and rest.partition("/")[0] else None


def _routing(name: str) -> Routing:
    if name not in _ROUTINGS:
        if "@" in name:
            raise ConfigurationError(_NO_SCHEME.format("result_backend"))
        known = ", ".join(f"{each}://" for each in _ROUTINGS if not each.startswith("celery."))
        raise ConfigurationError(
            f"result_backend is {name!r}: this package cannot read where such workers store. It knows {known}; "
            "for another backend pass routing="
        )
    return _ROUTINGS[name]()


def _broker(conf: Any, own: str | None) -> str | list[str]:
    """Return the URL of the broker, or those of its nodes; Celery's AMQP backends store where the tasks are."""
    configured = own or getattr(conf, "broker_url", None) or "amqp://"
    urls = configured.split(";") if isinstance(configured, str) else list(configured)
    if not own and getattr(conf, "broker_use_ssl", None):
        raise ConfigurationError("broker_use_ssl is not supported: pass url='amqps://...' and ssl_context=")
    translated = [_translated(url) for url in urls]
    return translated[0] if len(translated) == 1 else translated


def _translated(url: str) -> str:
    """Return kombu's URL as ours: kombu has other names for one scheme, and lets the host be left out."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigurationError(_NO_SCHEME.format("broker_url"))
    if scheme not in _SCHEMES:
        raise ConfigurationError(f"broker_url begins with {scheme!r}: RabbitMQ needs one of {', '.join(_SCHEMES)}")
    return f"{_SCHEMES[scheme]}://{rest or 'localhost//'}"


def _max_cached(result_cache_max: Any) -> int:
    """Return how many results are remembered.

    Celery's default of -1 means none, because Celery's handles keep their results. Ours do not, so a second wait for
    the same task would never end; -1 is therefore this package's default. Celery's None and 0 mean no limit.
    """
    if result_cache_max == -1:
        return 10_000
    return result_cache_max or sys.maxsize
