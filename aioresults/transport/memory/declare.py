"""What a declaration says, checked and compared as RabbitMQ does it, with its words.

``Settings`` is what queues declared alike share: the 100,000 queues of as many tasks hold one of these between them.
The reply texts are those of RabbitMQ 3.10 and 4.3 (identical but for the Erlang terms of a few rare ones).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime
from typing import Any

from aioresults.errors import InequivalentArgument, PreconditionFailed
from aioresults.transport.base import Arguments
from aioresults.transport.memory.message import copy_value


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: What each type of queue understands; an ``x-`` argument that no type knows is ignored, as RabbitMQ does.
CLASSIC = _names(
    "x-expires x-message-ttl x-max-length x-max-length-bytes x-overflow x-dead-letter-exchange "
    "x-dead-letter-routing-key x-dead-letter-strategy x-max-priority x-queue-mode x-queue-version x-queue-type "
    "x-single-active-consumer x-queue-master-locator"
)
QUORUM = _names(
    "x-expires x-message-ttl x-max-length x-max-length-bytes x-overflow x-dead-letter-exchange "
    "x-dead-letter-routing-key x-dead-letter-strategy x-queue-type x-single-active-consumer x-delivery-limit "
    "x-max-in-memory-length x-max-in-memory-bytes x-quorum-initial-group-size x-queue-leader-locator"
)
STREAM = _names(
    "x-max-length-bytes x-max-age x-stream-max-segment-size-bytes x-stream-filter-size-bytes x-queue-type "
    "x-initial-cluster-size x-queue-leader-locator"
)
KNOWN = {"classic": CLASSIC, "quorum": QUORUM, "stream": STREAM}

_UNITS = {"Y": 31_536_000, "M": 2_592_000, "D": 86_400, "h": 3_600, "m": 60, "s": 1}


def seconds(interval: object) -> float | None:
    """Read RabbitMQ's ``7D``, ``5m``, ``30s``; None for anything else."""
    match = re.fullmatch(r"(\d+)([YMDhms])", interval) if isinstance(interval, str) else None
    return int(match[1]) * _UNITS[match[2]] if match else None


def type_name(value: object) -> str:
    """The AMQP type an argument travels as, in RabbitMQ's spelling; integers take the narrowest one that holds them."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        for name, low, high in _INTEGERS:
            if low <= value <= high:
                return name
        return "long"
    for kind, name in _TYPES:
        if isinstance(value, kind):
            return name
    return "void"


_INTEGERS = (
    ("byte", -(2**7), 2**7 - 1),
    ("short", -(2**15), 2**15 - 1),
    ("unsignedshort", 0, 2**16 - 1),
    ("signedint", -(2**31), 2**31 - 1),
    ("unsignedint", 0, 2**32 - 1),
)
_TYPES: tuple[tuple[type, str], ...] = (
    (str, "longstr"),
    (float, "float"),
    (datetime, "timestamp"),
    (Mapping, "table"),
    (list, "array"),
    (bytes, "longstr"),
    (bytearray, "binary"),
)


def printed(value: object) -> str:
    """A value as Erlang prints it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Settings:
    """The declared properties of a queue, parsed once; immutable, and shared by all queues declared alike."""

    __slots__ = (
        "__weakref__",
        "arguments",
        "auto_delete",
        "dead_letter_exchange",
        "dead_letter_routing_key",
        "durable",
        "exclusive",
        "expires",
        "max_age",
        "max_bytes",
        "max_length",
        "overflow",
        "queue_type",
        "single_active",
        "ttl",
    )

    def __init__(self, arguments: Mapping[str, Any], durable: bool, exclusive: bool, auto_delete: bool) -> None:
        self.arguments: Mapping[str, Any] = copy_value(dict(arguments))
        self.durable = durable
        self.exclusive = exclusive
        self.auto_delete = auto_delete
        self.queue_type: str = arguments.get("x-queue-type", "classic")
        expires, ttl = arguments.get("x-expires"), arguments.get("x-message-ttl")
        self.expires: float | None = None if expires is None else expires / 1000
        self.ttl: float | None = None if ttl is None else ttl / 1000
        self.max_length: int | None = arguments.get("x-max-length")
        self.max_bytes: int | None = arguments.get("x-max-length-bytes")
        self.max_age: float | None = seconds(arguments.get("x-max-age"))
        self.overflow: str = arguments.get("x-overflow", "drop-head")
        self.dead_letter_exchange: str | None = arguments.get("x-dead-letter-exchange")
        self.dead_letter_routing_key: str | None = arguments.get("x-dead-letter-routing-key")
        self.single_active: bool = arguments.get("x-single-active-consumer", False)

    @property
    def limited(self) -> bool:
        return self.max_length is not None or self.max_bytes is not None


def key_of(arguments: Mapping[str, Any], durable: bool, exclusive: bool, auto_delete: bool) -> Hashable:
    """What two declarations must have in common to share their settings; None when it cannot be said (a table)."""
    key = (durable, exclusive, auto_delete, *((name, type(v), v) for name, v in sorted(arguments.items())))
    try:
        hash(key)
    except TypeError:
        return None
    return key


# --- checks -----------------------------------------------------------------------------------------------------


def _integer(low: int, high: int | None = None) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return f'"expected integer, got {type_name(value)}"'
        if value < 0:
            return f"{{value_negative,{value}}}"
        if value < low:
            return f"{{value_zero,{value}}}"
        return f"{{max_value_exceeded,{value}}}" if high is not None and value > high else None

    return check


def _one_of(values: tuple[str, ...], error: str) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return f"{{unacceptable_type,{type_name(value)}}}"
        return None if value in values else error.format(value)

    return check


def _boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{{unacceptable_type,{type_name(value)}}}"


def _age(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{{unacceptable_type,{type_name(value)}}}"
    return None if seconds(value) is not None else "invalid_max_age"


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "x-expires": _integer(1),
    "x-message-ttl": _integer(0),
    "x-max-length": _integer(0),
    "x-max-length-bytes": _integer(0),
    "x-max-priority": _integer(0, 255),
    "x-delivery-limit": _integer(0),
    "x-stream-max-segment-size-bytes": _integer(0),
    "x-overflow": _one_of(("drop-head", "reject-publish", "reject-publish-dlx"), "invalid_overflow"),
    "x-queue-type": _one_of(tuple(KNOWN), "\"unsupported queue type '{}'\""),
    "x-queue-mode": _one_of(("default", "lazy"), "\"unsupported queue mode '{}'\""),
    "x-single-active-consumer": _boolean,
    "x-max-age": _age,
}


def _invalid(queue: str, what: str, detail: str) -> PreconditionFailed:
    return PreconditionFailed(406, f"PRECONDITION_FAILED - invalid {what} for queue '{queue}' in vhost '/'{detail}")


def check_queue(queue: str, arguments: Mapping[str, Any], durable: bool, exclusive: bool, auto_delete: bool) -> None:
    """Raise RabbitMQ's 406 for a declaration it does not accept."""
    for name, value in arguments.items():
        check = _CHECKS.get(name)
        if check is not None and (error := check(value)) is not None:
            raise _invalid(queue, f"arg '{name}'", f": {error}")
        if name in ("x-dead-letter-exchange", "x-dead-letter-routing-key") and not isinstance(value, str):
            kind = type_name(value)
            text = f"PRECONDITION_FAILED - invalid type '{kind}' for arg '{name}' in queue '{queue}' in vhost '/'"
            raise PreconditionFailed(406, text)
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        raise _invalid(queue, "arg 'x-dead-letter-routing-key'", ": routing_key_but_no_dlx_defined")
    kind = arguments.get("x-queue-type", "classic")
    understood = KNOWN[kind]
    for name in arguments:
        if name not in understood and any(name in names for names in KNOWN.values()):
            raise _invalid(queue, f"arg '{name}'", f" of queue type rabbit_{kind}_queue")
    if kind != "classic":
        for wrong, text in ((not durable, "non-durable"), (auto_delete, "auto-delete"), (exclusive, "exclusive-owner")):
            if wrong:
                raise _invalid(queue, f"property '{text}'", "")


# --- equivalence ------------------------------------------------------------------------------------------------


def _differs(entity: str, name: str, argument: str, declared: str, existing: str) -> InequivalentArgument:
    text = (
        f"PRECONDITION_FAILED - inequivalent arg '{argument}' for {entity} '{name}' in vhost '/': "
        f"received {declared} but current is {existing}"
    )
    return InequivalentArgument(text, entity=entity, name=name, argument=argument, declared=declared, existing=existing)


def check_same(entity: str, name: str, argument: str, declared: object, existing: object) -> None:
    """Compare one property (durable, auto_delete, type) of a declaration with what exists."""
    if declared != existing:
        raise _differs(entity, name, argument, f"'{printed(declared)}'", f"'{printed(existing)}'")


def check_argument(entity: str, name: str, argument: str, declared: object, existing: object) -> None:
    """Compare one argument; RabbitMQ prints the types only when one side has none."""
    if declared == existing and isinstance(declared, bool) == isinstance(existing, bool):
        return
    sides = (declared, existing)
    if None in sides:
        texts = ["none" if v is None else f"the value '{printed(v)}' of type '{type_name(v)}'" for v in sides]
    else:
        texts = [f"'{printed(v)}'" for v in sides]
    raise _differs(entity, name, argument, texts[0], texts[1])


def check_equivalent(
    queue: str, settings: Settings, arguments: Mapping[str, Any], durable: bool, auto_delete: bool
) -> None:
    """Raise InequivalentArgument where a declaration differs from the queue that is there."""
    check_same("queue", queue, "durable", durable, settings.durable)
    check_same("queue", queue, "auto_delete", auto_delete, settings.auto_delete)
    existing = settings.arguments
    if arguments == existing and "x-single-active-consumer" not in arguments:
        return
    for name in sorted(KNOWN.get(settings.queue_type, CLASSIC) | {"x-expires"}):
        ours, theirs = arguments.get(name), existing.get(name)
        if name == "x-queue-type" and "classic" in (ours, theirs) and None in (ours, theirs):
            continue  # not said means classic
        check_argument("queue", queue, name, ours, theirs)


def table(arguments: Arguments) -> Mapping[str, Any]:
    """No arguments are an empty table."""
    return arguments if arguments is not None else {}
