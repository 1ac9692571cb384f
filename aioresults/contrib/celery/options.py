"""How a task is sent: the options of Celery's ``apply_async``, checked one by one before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypedDict

from aioresults import validation
from aioresults.errors import ConfigurationError
from aioresults.messaging.exchange import mode_of

#: Names of headers that make the protocol; a user's header of such a name could kill the worker.
PROTOCOL_HEADERS: Final = frozenset({
    "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id",
    "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers",
    "stamps", "compression", "method", "utc", "errbacks", "callbacks", "chain", "chord",
})  # fmt: skip

#: Bytes of a user's headers. RabbitMQ closes the connection (501) when all headers together exceed a frame, 128 KiB.
MAX_HEADERS: Final = 64 * 1024
#: The client writes floats in 32 bits.
MAX_FLOAT: Final = 3.4e38


class TaskOptions(TypedDict, total=False):
    """What may be said of one task; None is the same as not said.

    ``queue`` is where it goes, or ``exchange`` and ``routing_key``. ``countdown`` is in seconds, ``eta`` a datetime
    (without a zone: UTC). After ``expires`` (seconds, a timedelta or a datetime) a worker does not start it any more,
    and answers ``TaskRevoked("expired")``. ``time_limit`` and ``soft_time_limit`` are in seconds. ``argsrepr`` and
    ``kwargsrepr`` are what workers log in place of the arguments. With ``ignore_result`` no result comes.
    """

    task_id: str | None
    queue: str | None
    exchange: str | None
    routing_key: str | None
    countdown: float | None
    eta: datetime | None
    expires: float | timedelta | datetime | None
    time_limit: float | None
    soft_time_limit: float | None
    priority: int | None
    headers: Mapping[str, Any] | None
    serializer: str | None
    compression: str | None
    delivery_mode: int | str | None
    ignore_result: bool | None
    shadow: str | None
    argsrepr: str | None
    kwargsrepr: str | None


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that say something, in the form in which they go into a message.

    Raises:
        ConfigurationError: an unknown option, a value that cannot work, or two that exclude each other.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None:
            raise ConfigurationError(
                f"unknown option {name!r}; known are {', '.join(_CHECKS)}. The task's own keyword arguments go into "
                "kwargs={...}"
            )
        if value is not None:
            found[name] = check(name, value)
    for one, other in _EXCLUSIVE:
        if one in found and other in found:
            raise ConfigurationError(f"{one} and {other} exclude each other")
    if "routing_key" in found and "exchange" not in found:
        raise ConfigurationError("a routing_key needs an exchange; to send to a queue, name it with queue=")
    return found


def due(options: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return ``eta`` and ``expires`` of a task that is sent now, as ISO texts."""
    eta, expires = options.get("eta"), options.get("expires")
    if (countdown := options.get("countdown")) is not None:
        eta = _after("countdown", countdown)
    if isinstance(expires, float):
        expires = _after("expires", expires)
    return eta, expires


def _after(name: str, seconds: float) -> str:
    try:
        return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        raise ConfigurationError(f"{name}={seconds:g} seconds lead beyond the year 9999") from None


def _name(name: str, value: Any) -> str:
    return validation.short_string(name, validation.non_empty(name, value))


def _address(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a string, not {value!r}")
    return validation.short_string(name, value)


def _task_id(name: str, value: Any) -> str:
    return validation.short_string("a task id", validation.task_id(value))


def text(name: str, value: Any) -> str:
    """Accept a text that fits into a header."""
    given = validation.non_empty(name, value)
    if len(given) > 1024:
        raise ConfigurationError(f"{name} has {len(given)} characters; 1024 are allowed")
    return _encodable(name, given)


def _moment(name: str, value: Any) -> str:
    if not isinstance(value, datetime):
        raise ConfigurationError(f"{name} must be a datetime, not {value!r}")
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()


def _expires(name: str, value: Any) -> str | float:
    if isinstance(value, datetime):
        return _moment(name, value)
    return validation.delay(name, value.total_seconds() if isinstance(value, timedelta) else value)


def _limit(name: str, value: Any) -> float:
    number = validation.seconds(name, value)
    return int(number) if number.is_integer() else number


def _priority(name: str, value: Any) -> int:
    if validation.count(name, value) > 255:
        raise ConfigurationError(f"priority must be between 0 and 255, not {value!r}")
    return int(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")
    return value


def _headers(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"headers must be a mapping, not {value!r}")
    if reserved := sorted(PROTOCOL_HEADERS.intersection(value)):
        raise ConfigurationError(f"headers of these names are the protocol's own: {', '.join(reserved)}")
    headers = {_key("the name of a header", key): _field(f"header {key!r}", item) for key, item in value.items()}
    if (size := _size(headers)) > MAX_HEADERS:
        raise ConfigurationError(f"headers take {size} bytes; {MAX_HEADERS} are allowed: data go into the arguments")
    return headers


def _key(name: str, value: Any) -> str:
    key = _name(name, value)
    if (size := len(key.encode())) > 128:
        raise ConfigurationError(f"{name}, {key[:40] + '...'!r}, has {size} bytes; AMQP allows 128")
    return key


def _field(where: str, value: Any) -> Any:
    """Return a value that an AMQP table can hold."""
    match value:
        case None | bool():
            return value
        case float() if abs(value) <= MAX_FLOAT:  # and no NaN, for which RabbitMQ 3.10 closes the connection (541)
            return value
        case datetime() if value.year > 1970:
            return value
        case Decimal() if _is_carried(value):
            return value
        case int() if -(2**63) <= value < 2**63:
            return value
        case str():
            return _encodable(where, value)
        case bytes() | bytearray():
            return bytearray(value)
        case list() | tuple():
            return [_field(where, item) for item in value]
        case Mapping():
            return {_key(f"a key in {where}", key): _field(where, item) for key, item in value.items()}
    raise ConfigurationError(f"{where} holds a value that AMQP cannot carry, of type {type(value).__name__}")


def _is_carried(value: Decimal) -> bool:
    """Whether AMQP can carry it: a mantissa of 32 bits, and at most 255 decimals."""
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent < -255 or value.adjusted() > 9:
        return False
    mantissa = int("".join(map(str, digits))) * int(10 ** max(exponent, 0))
    return mantissa < 2**31


def _size(value: Any) -> int:
    """Return the bytes that a value takes in an AMQP table, or some more."""
    match value:
        case str() | bytearray():
            return 5 + len(value.encode() if isinstance(value, str) else value)
        case list():
            return 5 + sum(map(_size, value))
        case dict():
            return 5 + sum(1 + 4 * len(key) + _size(item) for key, item in value.items())
    return 9


def _encodable(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{name} cannot be written as UTF-8: {error.reason}") from None
    return text


_EXCLUSIVE: Final = (("countdown", "eta"), ("queue", "exchange"), ("queue", "routing_key"))
_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "task_id": _task_id,
    "queue": _name,
    "exchange": _address,
    "routing_key": _address,
    "countdown": validation.delay,
    "eta": _moment,
    "expires": _expires,
    "time_limit": _limit,
    "soft_time_limit": _limit,
    "priority": _priority,
    "headers": _headers,
    "serializer": validation.non_empty,
    "compression": validation.non_empty,
    "delivery_mode": lambda name, value: mode_of(value),
    "ignore_result": _flag,
    "shadow": text,
    "argsrepr": text,
    "kwargsrepr": text,
}
