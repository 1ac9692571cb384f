"""What clients declare and publish, as the memory broker keeps it, and the words in which RabbitMQ refuses it.

The reply texts are those of RabbitMQ 3.10 and 4.3 (identical but for the Erlang terms of a few rare ones).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

from aioresults.errors import AccessRefused, InequivalentArgument, NotFound, PreconditionFailed, ResourceLocked
from aioresults.transport.base import PERSISTENT, Properties

K = TypeVar("K", bound=Hashable)

# --- refusals ---------------------------------------------------------------------------------------------------


class ConnectionRefusal(Exception):
    """The broker closes the whole connection: a hard error of AMQP (530, 540, ...)."""


def unsupported(what: str, queue: str) -> ConnectionRefusal:
    """Return the 540 with which a stream answers the calls of a queue."""
    text = f"NOT_IMPLEMENTED - {what} not supported by stream queues queue '{queue}' in vhost '/'"
    return ConnectionRefusal(f"540 {text}")


def not_found(entity: str, name: str) -> NotFound:
    """Return the 404 for a queue or an exchange."""
    return NotFound(404, f"NOT_FOUND - no {entity} '{name}' in vhost '/'")


def locked(queue: str) -> ResourceLocked:
    """Return the 405 for a queue that is exclusive to another connection."""
    return ResourceLocked(
        405,
        f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be "
        "originally declared on another connection or the exclusive property value does not match that of the "
        "original declaration.",
    )


def refused(text: str) -> AccessRefused:
    """Return a 403."""
    return AccessRefused(403, f"ACCESS_REFUSED - {text}")


def default_exchange_refused() -> AccessRefused:
    """Return the 403 for whoever declares, deletes or binds the default exchange."""
    return refused("operation not permitted on the default exchange")


def failed(text: str) -> PreconditionFailed:
    """Return a 406."""
    return PreconditionFailed(406, f"PRECONDITION_FAILED - {text}")


# --- queues: arguments and their checks -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class QueueSettings:
    """The declared properties of a queue, times in seconds; queues declared alike share one."""

    arguments: Mapping[str, Any]
    durable: bool
    exclusive: bool
    auto_delete: bool
    queue_type: str
    expires: float | None
    ttl: float | None
    max_age: float | None
    max_length: int | None
    max_bytes: int | None
    rejects_publishes: bool
    dead_letter_exchange: str | None
    dead_letter_routing_key: str | None
    single_active: bool

    @classmethod
    def parse(
        cls, queue: str, arguments: Mapping[str, Any], durable: bool, exclusive: bool, auto_delete: bool
    ) -> QueueSettings:
        """Read a declaration, or raise RabbitMQ's 406 for an invalid one."""
        check_arguments(queue, arguments)
        if arguments.get("x-queue-type", "classic") != "classic":
            wrong = {"non-durable": not durable, "auto-delete": auto_delete, "exclusive-owner": exclusive}
            for text in [text for text, is_wrong in wrong.items() if is_wrong]:
                raise failed(f"invalid property '{text}' for queue '{queue}' in vhost '/'")
        expires, ttl = arguments.get("x-expires"), arguments.get("x-message-ttl")
        return cls(
            arguments=copy_value(dict(arguments)),
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            queue_type=arguments.get("x-queue-type", "classic"),
            expires=None if expires is None else expires / 1000,
            ttl=None if ttl is None else ttl / 1000,
            max_age=seconds(arguments.get("x-max-age")),
            max_length=arguments.get("x-max-length"),
            max_bytes=arguments.get("x-max-length-bytes"),
            rejects_publishes=arguments.get("x-overflow", "drop-head") != "drop-head",
            dead_letter_exchange=arguments.get("x-dead-letter-exchange"),
            dead_letter_routing_key=arguments.get("x-dead-letter-routing-key"),
            single_active=arguments.get("x-single-active-consumer", False),
        )

    def check_equivalent(self, queue: str, arguments: Mapping[str, Any], durable: bool, auto_delete: bool) -> None:
        """Raise InequivalentArgument where a declaration differs from this one."""
        check_same("queue", queue, "durable", durable, self.durable)
        check_same("queue", queue, "auto_delete", auto_delete, self.auto_delete)
        for name in sorted(_KNOWN[self.queue_type] | {"x-expires"}):
            declared, existing = arguments.get(name), self.arguments.get(name)
            if name == "x-queue-type" and "classic" in (declared, existing) and None in (declared, existing):
                continue  # the default type is classic
            _check_same_argument(queue, name, declared, existing)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: The arguments that each type of queue understands. RabbitMQ ignores an ``x-`` argument that no type knows.
_KNOWN = {
    "classic": _names(
        "x-expires x-message-ttl x-max-length x-max-length-bytes x-overflow x-dead-letter-exchange "
        "x-dead-letter-routing-key x-dead-letter-strategy x-max-priority x-queue-mode x-queue-version x-queue-type "
        "x-single-active-consumer x-queue-master-locator"
    ),
    "quorum": _names(
        "x-expires x-message-ttl x-max-length x-max-length-bytes x-overflow x-dead-letter-exchange "
        "x-dead-letter-routing-key x-dead-letter-strategy x-queue-type x-single-active-consumer x-delivery-limit "
        "x-max-in-memory-length x-max-in-memory-bytes x-quorum-initial-group-size x-queue-leader-locator"
    ),
    "stream": _names(
        "x-max-length-bytes x-max-age x-stream-max-segment-size-bytes x-stream-filter-size-bytes x-queue-type "
        "x-initial-cluster-size x-queue-leader-locator"
    ),
}


def check_arguments(queue: str, arguments: Mapping[str, Any]) -> None:
    """Raise RabbitMQ's 406 for an invalid value, or an argument that this type of queue does not understand."""
    where = f"queue '{queue}' in vhost '/'"
    for name, value in arguments.items():
        error = _CHECKS[name](value) if name in _CHECKS else None
        if error is not None:
            raise failed(f"invalid arg '{name}' for {where}: {error}")
        if name in ("x-dead-letter-exchange", "x-dead-letter-routing-key") and not isinstance(value, str):
            raise failed(f"invalid type '{type_name(value)}' for arg '{name}' in {where}")
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        raise failed(f"invalid arg 'x-dead-letter-routing-key' for {where}: routing_key_but_no_dlx_defined")
    queue_type = arguments.get("x-queue-type", "classic")
    for name in arguments:
        if name not in _KNOWN[queue_type] and any(name in names for names in _KNOWN.values()):
            raise failed(f"invalid arg '{name}' for {where} of queue type rabbit_{queue_type}_queue")


def _integer(value: Any, low: int = 0, high: int | None = None) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return f'"expected integer, got {type_name(value)}"'
    if value < 0:
        return f"{{value_negative,{value}}}"
    if value < low:
        return f"{{value_zero,{value}}}"
    return f"{{max_value_exceeded,{value}}}" if high is not None and value > high else None


def _one_of(values: tuple[str, ...], error: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{{unacceptable_type,{type_name(value)}}}"
    return None if value in values else error.format(value)


def _boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{{unacceptable_type,{type_name(value)}}}"


def _age(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{{unacceptable_type,{type_name(value)}}}"
    return None if seconds(value) is not None else "invalid_max_age"


#: Each returns what is wrong with a value, in RabbitMQ's words, or None.
_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "x-expires": partial(_integer, low=1),
    "x-message-ttl": _integer,
    "x-max-length": _integer,
    "x-max-length-bytes": _integer,
    "x-max-priority": partial(_integer, high=255),
    "x-delivery-limit": _integer,
    "x-stream-max-segment-size-bytes": _integer,
    "x-overflow": partial(_one_of, ("drop-head", "reject-publish", "reject-publish-dlx"), "invalid_overflow"),
    "x-queue-type": partial(_one_of, tuple(_KNOWN), "\"unsupported queue type '{}'\""),
    "x-queue-mode": partial(_one_of, ("default", "lazy"), "\"unsupported queue mode '{}'\""),
    "x-single-active-consumer": _boolean,
    "x-max-age": _age,
}

_UNITS = {"Y": 31_536_000, "M": 2_592_000, "D": 86_400, "h": 3_600, "m": 60, "s": 1}


def seconds(interval: object) -> float | None:
    """Read RabbitMQ's ``7D``, ``5m``, ``30s``; None for anything else."""
    match = re.fullmatch(r"(\d+)([YMDhms])", interval) if isinstance(interval, str) else None
    return int(match[1]) * _UNITS[match[2]] if match else None


_INTEGERS = (
    ("byte", -(2**7), 2**7),
    ("short", -(2**15), 2**15),
    ("unsignedshort", 0, 2**16),
    ("signedint", -(2**31), 2**31),
    ("unsignedint", 0, 2**32),
)
_TYPES: tuple[tuple[type, str], ...] = (
    (str, "longstr"),
    (float, "float"),
    (datetime, "timestamp"),
    (Mapping, "table"),
    (list, "array"),
    (bytes, "longstr"),
)


def type_name(value: object) -> str:
    """Return RabbitMQ's name of the AMQP type that a value is sent as: for an integer, the narrowest that holds it."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return next((name for name, low, end in _INTEGERS if low <= value < end), "long")
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "void")


def check_same(entity: str, name: str, argument: str, declared: object, existing: object) -> None:
    """Raise InequivalentArgument unless a declared property (durable, auto_delete, type) is the existing one."""
    if declared != existing:
        raise _inequivalent(entity, name, argument, f"'{_printed(declared)}'", f"'{_printed(existing)}'")


def _check_same_argument(queue: str, argument: str, declared: object, existing: object) -> None:
    """Compare one argument; RabbitMQ prints the types only when one side has none."""
    if declared == existing and isinstance(declared, bool) == isinstance(existing, bool):
        return
    sides = (declared, existing)
    if None in sides:
        texts = ["none" if v is None else f"the value '{_printed(v)}' of type '{type_name(v)}'" for v in sides]
    else:
        texts = [f"'{_printed(v)}'" for v in sides]
    raise _inequivalent("queue", queue, argument, *texts)


def _printed(value: object) -> str:
    """Print a value as Erlang does."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _inequivalent(entity: str, name: str, argument: str, declared: str, existing: str) -> InequivalentArgument:
    text = (
        f"PRECONDITION_FAILED - inequivalent arg '{argument}' for {entity} '{name}' in vhost '/': "
        f"received {declared} but current is {existing}"
    )
    return InequivalentArgument(text, entity=entity, name=name, argument=argument, declared=declared, existing=existing)


# --- exchanges and their bindings -------------------------------------------------------------------------------


class MemoryBinding(NamedTuple):
    """A binding from the exchange ``source`` to a queue, or to another exchange."""

    source: str
    to_queue: bool
    destination: str
    routing_key: str
    #: The sorted items of the arguments; they are part of a binding's identity.
    arguments: tuple[tuple[str, Any], ...] = ()


class BindingIndex(Generic[K]):
    """Bindings by a key, each once, in the order they were made."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[K, tuple[MemoryBinding, ...]] = {}

    def __iter__(self) -> Iterator[MemoryBinding]:
        for bindings in list(self._by_key.values()):
            yield from bindings

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def of(self, key: K) -> tuple[MemoryBinding, ...]:
        return self._by_key.get(key, ())

    def add(self, key: K, binding: MemoryBinding) -> None:
        there = self.of(key)
        if binding not in there:
            self._by_key[key] = (*there, binding)

    def remove(self, key: K, binding: MemoryBinding) -> bool:
        there = self._by_key.pop(key, ())
        left = tuple(one for one in there if one != binding)
        if left:
            self._by_key[key] = left
        return len(left) < len(there)


EXCHANGE_TYPES = ("direct", "fanout", "topic", "headers")
PREDECLARED = {
    "": "direct",
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.rabbitmq.trace": "topic",
}


@dataclass(slots=True, eq=False)
class MemoryExchange:
    """One exchange, and the bindings that lead away from it, by routing key."""

    name: str
    type: str
    durable: bool = True
    auto_delete: bool = False
    bindings: BindingIndex[str] = field(default_factory=BindingIndex)

    def matching(self, routing_key: str, headers: Mapping[str, Any] | None) -> Iterable[MemoryBinding]:
        """Return the bindings that a message with this key and these headers follows."""
        if self.type == "direct":
            return self.bindings.of(routing_key)
        if self.type == "topic":
            words = _words(routing_key)
            return [one for one in self.bindings if _topic_matches(_words(one.routing_key), words)]
        if self.type == "headers":
            return [one for one in self.bindings if _headers_match(dict(one.arguments), headers or {})]
        return self.bindings


def _words(routing_key: str) -> list[str]:
    """Split a routing key; the empty key has no words."""
    return routing_key.split(".") if routing_key else []


def _topic_matches(pattern: list[str], words: list[str]) -> bool:
    """Match a key: ``*`` stands for one word, ``#`` for any number of them, none included."""
    reach = {0}  # the numbers of words that the pattern so far can match
    for part in pattern:
        if part == "#":
            reach = set(range(min(reach), len(words) + 1))
        else:
            reach = {n + 1 for n in reach if n < len(words) and part in ("*", words[n])}
        if not reach:
            return False
    return len(words) in reach


def check_match(arguments: Mapping[str, Any]) -> None:
    """Raise a 406 for an ``x-match`` that does not exist."""
    how = arguments.get("x-match", "all")
    if how not in ("all", "any", "all-with-x", "any-with-x"):
        raise failed(f'Invalid x-match field value <<"{how}">>; expected all, any, all-with-x, or any-with-x')


def _headers_match(arguments: Mapping[str, Any], headers: Mapping[str, Any]) -> bool:
    """Match headers: ``x-`` ones count only with ``...-with-x``; None in the binding asks for presence alone."""
    how = arguments.get("x-match", "all")
    hits = (
        name in headers and (value is None or headers[name] == value)
        for name, value in arguments.items()
        if name != "x-match" and (how.endswith("-with-x") or not name.startswith("x-"))
    )
    return any(hits) if how.startswith("any") else all(hits)


# --- messages ---------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class StoredMessage:
    """One message in one queue. Its copies share its properties, which nothing changes once it is published."""

    body: bytes
    properties: Properties
    exchange: str
    routing_key: str
    #: Its place in the queue, which it keeps when it is requeued.
    position: int = 0
    redelivered: bool = False
    #: On the broker's clock.
    expires_at: float | None = None

    def __lt__(self, other: StoredMessage) -> bool:
        return self.position < other.position

    @property
    def persistent(self) -> bool:
        return self.properties.delivery_mode == PERSISTENT

    def copy(self) -> StoredMessage:
        """Return the same message for another queue."""
        return StoredMessage(self.body, self.properties, self.exchange, self.routing_key)


def copy_value(value: Any) -> Any:
    """Copy the containers of an AMQP field value; everything else in it is immutable."""
    if isinstance(value, dict):
        return {key: copy_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [copy_value(item) for item in value]
    return value


#: A third of what `dataclasses.replace` takes, and every publish and delivery makes a copy.
_values_of = attrgetter(*(each.name for each in fields(Properties)))


def copy_properties(source: Properties) -> Properties:
    """Copy properties as the wire would: later changes by a publisher or consumer must not reach the queue."""
    copy = Properties(*_values_of(source))
    copy.headers = copy_value(copy.headers)
    return copy


def check_expiration(expiration: str) -> None:
    """Raise RabbitMQ's 406 unless the ``expiration`` property is milliseconds as a decimal string."""
    try:
        value = int(expiration)
    except ValueError:
        raise failed(f"invalid expiration '{expiration}': no_integer") from None
    if value < 0:
        raise failed(f"invalid expiration '{expiration}': {{value_negative,{value}}}")
