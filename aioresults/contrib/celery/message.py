"""The message that asks for a task: Celery's protocol 2.

A worker (5.7) dies of a body that has not three elements, and of a message without a content type, and drops without a
word what it cannot read. So a message is made here alone, complete, and of values that were checked.
"""

from __future__ import annotations

import os
import platform
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from aioresults.contrib.celery.options import due
from aioresults.messaging import OutgoingMessage
from aioresults.messaging.body_codec import BodyCodec
from aioresults.transport.base import PERSISTENT, Properties

#: Characters of what workers log in place of the arguments.
MAX_REPR: Final = 1024

_short: Final = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = _short.maxfrozenset = 20
_short.maxstring = _short.maxother = _short.maxlong = 200


@dataclass(slots=True)
class Ask:
    """One task to be done: which, with what, how, and what belongs to it."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    #: Checked.
    options: Mapping[str, Any]
    task_id: str
    #: Where the answer goes; None where the task id says it.
    reply_to: str | None
    #: Signatures as they are written: what follows a success, what follows a failure, and the rest of a chain, of
    #: which the last element runs next.
    callbacks: Sequence[Any] | None = None
    errbacks: Sequence[Any] | None = None
    chain: Sequence[Any] | None = None
    #: The id of the group that it is in, and its place there.
    group: tuple[str, int] | None = None


@dataclass(frozen=True)
class Writer:
    """Writes task messages.

    Args:
        content: values to bytes.
        serializer, compression, delivery_mode, priority: where a task's options say nothing.
    """

    content: BodyCodec
    serializer: str = "json"
    compression: str | None = None
    delivery_mode: int = PERSISTENT
    priority: int = 0

    @cached_property
    def _origin(self) -> str:
        return f"gen{os.getpid()}@{platform.node()}"

    def write(self, ask: Ask) -> OutgoingMessage:
        """Return the message; ``EncodeError`` when the arguments cannot be written."""
        options = ask.options
        properties = Properties(
            headers=self._headers(ask),
            delivery_mode=options.get("delivery_mode", self.delivery_mode),
            priority=options.get("priority", self.priority),
            correlation_id=ask.task_id,
            reply_to=ask.reply_to,
        )
        embed = {"callbacks": ask.callbacks, "errbacks": ask.errbacks, "chain": ask.chain, "chord": None}
        return self.content.write(
            [list(ask.args), dict(ask.kwargs), embed],
            properties,
            serializer=options.get("serializer", self.serializer),
            compression=options.get("compression", self.compression),
        )

    def _headers(self, ask: Ask) -> dict[str, Any]:
        """Return the headers that Celery's client sends, without those that say nothing: a table is costly to write."""
        options = ask.options
        headers: dict[str, Any] = {
            "lang": "py",
            "task": ask.name,
            "id": ask.task_id,
            "root_id": ask.task_id,
            "origin": self._origin,
        }
        if ask.args or "argsrepr" in options:
            headers["argsrepr"] = options.get("argsrepr") or _shown(tuple(ask.args))
        if ask.kwargs or "kwargsrepr" in options:
            headers["kwargsrepr"] = options.get("kwargsrepr") or _shown(ask.kwargs)
        headers.update((name, value) for name, value in zip(("eta", "expires"), due(options), strict=True) if value)
        headers.update((name, options[name]) for name in ("shadow", "ignore_result") if name in options)
        if "time_limit" in options or "soft_time_limit" in options:
            headers["timelimit"] = [options.get("time_limit"), options.get("soft_time_limit")]
        if ask.group is not None:
            headers["group"], headers["group_index"] = ask.group
        if "headers" in options:
            headers.update(options["headers"])
        return headers


def _shown(value: Any) -> str:
    text = _short.repr(value)[:MAX_REPR]
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
