"""Exchanges and bindings: which queues a routing key leads to.

A binding without arguments is one tuple; a key with a single binding holds it directly and gets a dict only with the
second one, because layouts with a binding per task have many thousands of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from aioresults.errors import PreconditionFailed

TYPES = ("direct", "fanout", "topic", "headers")
PREDECLARED = {
    "": "direct",
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.rabbitmq.trace": "topic",
}


class Binding(NamedTuple):
    """From exchange ``source`` to a queue, or to another exchange."""

    source: str
    to_queue: bool
    destination: str
    routing_key: str
    #: The sorted items of the arguments; they are part of a binding's identity.
    arguments: tuple[tuple[str, Any], ...] = ()


class Bindings:
    """Bindings by a key; see the module docstring for why one is not kept like many."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[str, Binding | dict[Binding, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def add(self, key: str, binding: Binding) -> None:
        there = self._by_key.get(key)
        if there is None:
            self._by_key[key] = binding
        elif isinstance(there, dict):
            there[binding] = None
        elif there != binding:
            self._by_key[key] = {there: None, binding: None}

    def remove(self, key: str, binding: Binding) -> bool:
        there = self._by_key.get(key)
        if isinstance(there, dict):
            found = binding in there
            there.pop(binding, None)
            if not there:
                del self._by_key[key]
            return found
        if there != binding:
            return False
        del self._by_key[key]
        return True

    def of(self, key: str) -> tuple[Binding, ...]:
        there = self._by_key.get(key)
        if there is None:
            return ()
        return tuple(there) if isinstance(there, dict) else (there,)

    def __iter__(self) -> Iterator[Binding]:
        for key in list(self._by_key):
            yield from self.of(key)


class Exchange:
    """One exchange; ``exact`` holds the bindings that a key finds by itself, ``wild`` those that must be tried."""

    __slots__ = ("arguments", "auto_delete", "durable", "exact", "name", "type", "wild")

    def __init__(self, name: str, type: str, durable: bool, auto_delete: bool, arguments: Mapping[str, Any]) -> None:
        self.name = name
        self.type = type
        self.durable = durable
        self.auto_delete = auto_delete
        self.arguments = arguments
        self.exact: Bindings = Bindings()
        self.wild: Bindings = Bindings()

    @property
    def in_use(self) -> bool:
        return bool(self.exact) or bool(self.wild)

    def __iter__(self) -> Iterator[Binding]:
        yield from self.exact
        yield from self.wild

    def _side(self, routing_key: str) -> Bindings:
        if self.type == "direct" or (self.type == "topic" and not is_pattern(routing_key)):
            return self.exact
        return self.wild

    def bind(self, binding: Binding) -> None:
        if self.type == "headers":
            check_match(dict(binding.arguments))
        self._side(binding.routing_key).add(binding.routing_key, binding)

    def unbind(self, binding: Binding) -> bool:
        return self._side(binding.routing_key).remove(binding.routing_key, binding)

    def matching(self, routing_key: str, headers: Mapping[str, Any] | None) -> Iterator[Binding]:
        """The bindings that a message with this key and these headers follows."""
        if self.type == "fanout":
            yield from self.wild
            return
        if self.type == "headers":
            yield from (one for one in self.wild if headers_match(dict(one.arguments), headers or {}))
            return
        yield from self.exact.of(routing_key)
        if self.wild:
            words = words_of(routing_key)
            yield from (one for one in self.wild if topic_match(words_of(one.routing_key), words))


def is_pattern(routing_key: str) -> bool:
    """Whether a topic binding has wildcards."""
    return not {"*", "#"}.isdisjoint(words_of(routing_key))


def words_of(routing_key: str) -> list[str]:
    """An empty key has no words, not an empty one."""
    return routing_key.split(".") if routing_key else []


def topic_match(pattern: list[str], words: list[str]) -> bool:
    """``*`` stands for one word, ``#`` for any number of them, none included."""
    reach = {0}  # how many words the pattern so far can have eaten
    for part in pattern:
        if part == "#":
            reach = set(range(min(reach), len(words) + 1))
        else:
            reach = {n + 1 for n in reach if n < len(words) and part in ("*", words[n])}
        if not reach:
            return False
    return len(words) in reach


def check_match(arguments: Mapping[str, Any]) -> None:
    """Raise 406 for an ``x-match`` that does not exist."""
    how = arguments.get("x-match", "all")
    if how not in ("all", "any", "all-with-x", "any-with-x"):
        text = f'Invalid x-match field value <<"{how}">>; expected all, any, all-with-x, or any-with-x'
        raise PreconditionFailed(406, f"PRECONDITION_FAILED - {text}")


def headers_match(arguments: Mapping[str, Any], headers: Mapping[str, Any]) -> bool:
    """``x-`` headers count only with ``...-with-x``; a value None in the binding asks for presence alone."""
    how = arguments.get("x-match", "all")
    wanted = [
        (name, value)
        for name, value in arguments.items()
        if name != "x-match" and (how.endswith("-with-x") or not name.startswith("x-"))
    ]
    hits = (name in headers and (value is None or headers[name] == value) for name, value in wanted)
    return any(hits) if how.startswith("any") else all(hits)
