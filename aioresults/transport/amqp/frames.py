"""Frames that name a queue, for any name that RabbitMQ takes.

pamqp checks names twice, when a frame is made and when it is written, and refuses those with characters other than
``a-zA-Z0-9-_.:@#,/+`` and space. RabbitMQ takes any UTF-8, and a task id may be any text.
"""

from __future__ import annotations

from aiormq import spec


class _AnyName:
    """Leaves the check of names to the broker."""

    def validate(self) -> None:
        """Accept everything."""


class QueueDeclare(_AnyName, spec.Queue.Declare):
    """``queue.declare``."""


class QueueBind(_AnyName, spec.Queue.Bind):
    """``queue.bind``."""


class QueueUnbind(_AnyName, spec.Queue.Unbind):
    """``queue.unbind``."""


class QueuePurge(_AnyName, spec.Queue.Purge):
    """``queue.purge``."""


class QueueDelete(_AnyName, spec.Queue.Delete):
    """``queue.delete``."""


class BasicConsume(_AnyName, spec.Basic.Consume):
    """``basic.consume``."""


class BasicGet(_AnyName, spec.Basic.Get):
    """``basic.get``."""
