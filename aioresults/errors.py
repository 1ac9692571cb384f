"""Every error that this package raises, in one tree.

::

    AioResultsError
    ├── ConfigurationError (ValueError)        a parameter, a URL or a task id cannot work
    ├── WrongEventLoop (RuntimeError)          the backend belongs to another loop, thread or process
    ├── BrokerUnavailable (ConnectionError)    the broker cannot be reached, or the connection was lost
    │   └── BrokerRefused                      the broker refuses this client: password, vhost, TLS
    ├── BackendClosed                          the backend is closed, or was never opened
    ├── ResultTimeout (TimeoutError)           the deadline of a wait passed
    ├── ResultForgotten                        the result was deleted during a wait for it
    ├── InboxTakenOver                         another process of the same name reads the inbox now
    ├── ResultEvicted                          the result arrived unclaimed and was evicted to make room
    ├── StoreError                             a result is not known to be stored
    │   ├── ResultNotRouted                    there is no queue at its destination
    │   └── ResultTooLarge                     the result is larger than one message may be
    ├── BacklogLimitExceeded                   a queue holds more reports than a look may read
    ├── EncodeError                            the serializer cannot write a value
    ├── DecodeError                            a message cannot be read
    │   ├── ContentDisallowed                  its content type is not accepted
    │   ├── NotAReport                         it is something else: an empty body, another program's reply
    │   └── SignatureMismatch                  it is unsigned, too old, or signed with an unknown key
    ├── RemoteError                            the task failed with an exception that is unknown here
    ├── RemoteTraceback                        the worker's traceback, as the cause of a task's own exception
    ├── TaskRevoked                            the task was revoked
    ├── NotBoundError                          an exchange or queue was used without a channel
    ├── MessageStateError                      a message was acknowledged, rejected or requeued twice
    ├── NotSupported                           RabbitMQ does not allow the operation
    ├── MessageNacked                          the broker answered a publish with a negative confirm
    ├── MessageReturned                        a mandatory message reached no queue
    └── ChannelError                           the broker refused an operation and closed its channel
        ├── ChannelClosed                      the channel is closed, by its owner or another operation
        ├── NotFound                           404: there is no such queue or exchange
        ├── AccessRefused                      403: this user lacks the permission
        ├── ResourceLocked                     405: the queue is exclusive to another connection
        └── PreconditionFailed                 406: a condition of the entity or of the broker was not met
            └── InequivalentArgument           an entity was redeclared with another argument

Facts are attributes, each class builds its message, and no message, attribute or repr holds a password or a result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioresults.results import ResultMeta

__all__ = [
    "AccessRefused",
    "AioResultsError",
    "BackendClosed",
    "BacklogLimitExceeded",
    "BrokerRefused",
    "BrokerUnavailable",
    "ChannelClosed",
    "ChannelError",
    "ConfigurationError",
    "ContentDisallowed",
    "DecodeError",
    "EncodeError",
    "InboxTakenOver",
    "InequivalentArgument",
    "MessageNacked",
    "MessageReturned",
    "MessageStateError",
    "NotAReport",
    "NotBoundError",
    "NotFound",
    "NotSupported",
    "PreconditionFailed",
    "RemoteError",
    "RemoteTraceback",
    "ResourceLocked",
    "ResultEvicted",
    "ResultForgotten",
    "ResultNotRouted",
    "ResultTimeout",
    "ResultTooLarge",
    "SignatureMismatch",
    "StoreError",
    "TaskRevoked",
    "WrongEventLoop",
]


class AioResultsError(Exception):
    """The base of every error of this package."""


class ConfigurationError(AioResultsError, ValueError):
    """A parameter cannot work; the message names the value and what is allowed."""


class WrongEventLoop(AioResultsError, RuntimeError):
    """A backend was used from another event loop, thread or process than the one that opened it."""


class BrokerUnavailable(AioResultsError, ConnectionError):
    """The broker cannot be reached, does not answer, or the connection to it was lost."""


class BrokerRefused(BrokerUnavailable):
    """The broker refuses this client: wrong credentials, no such vhost, TLS. Trying again does not help."""


class BackendClosed(AioResultsError):
    """The backend is closed, closing, or was never opened."""


class ResultTimeout(AioResultsError, TimeoutError):
    """The deadline of a wait passed.

    ``done`` holds what had arrived by then, ``{task_id: meta}``. ``pending`` holds the other ids, in the order asked.
    ``refused`` says, for those of which messages came that were refused, how many and why.
    """

    def __init__(
        self,
        timeout: float,
        pending: Iterable[str],
        done: Mapping[str, ResultMeta] | None = None,
        refused: Mapping[str, str] | None = None,
    ) -> None:
        self.timeout = timeout
        self.pending: list[str] = list(pending)
        self.done: dict[str, ResultMeta] = dict(done or {})
        self.refused: dict[str, str] = dict(refused or {})
        if self.done or len(self.pending) != 1:
            text = f"{len(self.done)} of {len(self.done) + len(self.pending)} results within {timeout:g} s"
        else:
            text = f"no result of task {self.pending[0]!r} within {timeout:g} s"
        for task_id, why in itertools.islice(self.refused.items(), 1):
            text += f"; for {task_id!r} {why}"
        super().__init__(text)


class InboxTakenOver(AioResultsError):
    """Another process of the same name reads the inbox ``queue`` now, and gets all results that were not taken."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        super().__init__(f"another process reads the inbox {queue!r} now, and gets what was not taken")


class ResultForgotten(AioResultsError):
    """The result of ``task_id`` was deleted: forgotten, or taken by another process."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(f"the result of task {task_id!r} was forgotten, or taken by another process")


class ResultEvicted(AioResultsError):
    """The result of ``task_id`` arrived before anybody asked for it, and was evicted to make room for others."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(f"the result of task {task_id!r} arrived unclaimed and was evicted to make room")


class StoreError(AioResultsError):
    """The result of ``task_id`` is not known to be stored; ``__cause__`` holds the reason."""

    def __init__(self, task_id: str, reason: str) -> None:
        self.task_id = task_id
        super().__init__(f"the result of task {task_id!r} was not stored: {reason}")


class ResultNotRouted(StoreError):
    """There is no queue at ``destination``: the process that asked is gone, or was never there."""

    def __init__(self, task_id: str, destination: str) -> None:
        self.destination = destination
        super().__init__(task_id, f"there is no queue at {destination!r}")


class ResultTooLarge(StoreError):
    """One result has ``size`` bytes; one message may hold at most ``limit``."""

    def __init__(self, task_id: str, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(task_id, f"{size} bytes are more than the limit of {limit}")


class BacklogLimitExceeded(AioResultsError):
    """The queue of ``task_id`` holds at least ``limit`` reports; one look reads fewer."""

    def __init__(self, task_id: str, limit: int) -> None:
        self.task_id = task_id
        self.limit = limit
        super().__init__(f"the queue of task {task_id!r} holds {limit} reports or more")


class EncodeError(AioResultsError):
    """The serializer cannot write a value."""


class DecodeError(AioResultsError):
    """A message cannot be read.

    ``task_id`` is the task that the message is about, where that is known. ``task_ids`` are the tasks that a batch
    claims to be about.
    """

    task_id: str | None = None
    task_ids: tuple[str, ...] = ()
    #: Whether another process might read it, with another key, serializer or limit.
    is_readable_elsewhere: bool = True


class ContentDisallowed(DecodeError):
    """The content type of a message is not accepted; nothing of the message was decoded."""

    def __init__(self, content_type: str) -> None:
        self.content_type = content_type
        super().__init__(f"refusing content type {content_type!r}: it is not in accept")


class NotAReport(DecodeError):
    """A message is no report at all, whoever reads it: an empty body, or another program's reply."""

    is_readable_elsewhere = False


class SignatureMismatch(DecodeError):
    """A message is unsigned, or signed with a key that is unknown here, or older than results are kept.

    Where it has a signature, another process may know the key.
    """

    def __init__(self, text: str, *, is_signed: bool = True) -> None:
        self.is_readable_elsewhere = is_signed
        super().__init__(text)


class RemoteError(AioResultsError):
    """The task failed with an exception that is unknown in this process; this is its record, never its code.

    ``exc_type``, ``exc_module`` and ``exc_message`` are as on the wire; ``exc_message`` is a list of arguments, or
    whatever the worker sent. ``traceback`` is the text of the remote traceback, or None.
    """

    def __init__(
        self, exc_type: str, exc_message: Any = (), exc_module: str | None = None, traceback: str | None = None
    ) -> None:
        self.exc_type = exc_type
        self.exc_message = exc_message
        self.exc_module = exc_module
        self.traceback = traceback
        super().__init__(exc_type, exc_message, exc_module)

    def __str__(self) -> str:
        name = f"{self.exc_module}.{self.exc_type}" if self.exc_module else self.exc_type
        arguments = self.exc_message if isinstance(self.exc_message, (list, tuple)) else (self.exc_message,)
        return f"{name}({', '.join(map(repr, arguments))})"


class RemoteTraceback(AioResultsError):
    """The cause of an exception that a worker raised; its ``str`` is the text of the remote traceback."""


class TaskRevoked(AioResultsError):
    """The task was revoked; ``reason`` is the worker's own word: ``revoked``, ``expired`` or ``terminated``."""

    def __init__(self, reason: str = "revoked") -> None:
        self.reason = reason
        super().__init__(reason)


class NotBoundError(AioResultsError):
    """An exchange, queue or producer was used before it was bound to a channel."""


class MessageStateError(AioResultsError):
    """A received message was settled before; nothing was sent.

    ``state`` tells how: ``acknowledged``, ``rejected``, ``requeued``, or ``no_ack`` if it was consumed that way.
    """

    def __init__(self, state: str) -> None:
        self.state = state
        super().__init__(
            "the message was consumed with no_ack" if state == "no_ack" else f"the message is already {state}"
        )


class NotSupported(AioResultsError):
    """RabbitMQ answers this operation by closing the channel or the connection; nothing was sent."""


class MessageNacked(AioResultsError):
    """The broker could not take responsibility for a message (a negative confirm); publishing again may help."""


class MessageReturned(AioResultsError):
    """A mandatory message reached no queue."""

    def __init__(self, exchange: str, routing_key: str, reply_code: int = 312, reply_text: str = "NO_ROUTE") -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.reply_code = reply_code
        self.reply_text = reply_text
        super().__init__(f"no queue for routing key {routing_key!r} at exchange {exchange!r} ({reply_text})")


class ChannelError(AioResultsError):
    """The broker refused an operation and closed the channel of that operation.

    ``reply_code`` and ``reply_text`` are the broker's own (AMQP 0-9-1, Channel.Close).
    """

    def __init__(self, reply_code: int, reply_text: str) -> None:
        self.reply_code = reply_code
        self.reply_text = reply_text
        super().__init__(f"{reply_code} {reply_text}")


class ChannelClosed(ChannelError):
    """The channel is closed: its owner closed it, or the broker refused another operation on it."""

    def __init__(self, reply_code: int = 504, reply_text: str = "the channel is closed") -> None:
        super().__init__(reply_code, reply_text)


class NotFound(ChannelError):
    """404: there is no such queue or exchange."""


class AccessRefused(ChannelError):
    """403: this user lacks the permission."""


class ResourceLocked(ChannelError):
    """405: the queue is exclusive to another connection."""


class PreconditionFailed(ChannelError):
    """406: a condition of the entity or of the broker was not met."""


class InequivalentArgument(PreconditionFailed):
    """A queue or exchange exists, and its ``argument`` differs from the declared one.

    ``entity`` is ``queue`` or ``exchange``; ``declared`` and ``existing`` are the two values as the broker prints them.
    """

    def __init__(self, reply_text: str, *, entity: str, name: str, argument: str, declared: str, existing: str) -> None:
        self.entity = entity
        self.name = name
        self.argument = argument
        self.declared = declared
        self.existing = existing
        super().__init__(406, reply_text)
