"""What a backend lets its subclasses override, as the parts below see it."""

from __future__ import annotations

from typing import Protocol

from aioresults.background.sessions import Session
from aioresults.messaging import Consumer, Producer, Queue
from aioresults.routing import Stream


class Hooks(Protocol):
    """What the parts below ask the backend for."""

    Consumer: type[Consumer]
    Producer: type[Producer]

    def queue_for(self, task_id: str) -> Queue | None:
        """Return the queue that holds the reports of a task, if it has one of its own."""
        ...

    def on_reply_declare(self, task_id: str) -> list[Queue]:
        """Return what to declare when a report finds no queue."""
        ...

    def supersedes(self, new: str, old: str) -> bool:
        """Return whether a report in state ``new`` replaces one in state ``old`` that came before it."""
        ...

    def inbox(self) -> Queue | None:
        """Return the one queue that is consumed for all tasks, if there is one."""
        ...

    def stream(self) -> Stream | None:
        """Return the stream that all processes share, if there is one."""
        ...

    async def prepare(self, session: Session) -> None:
        """Declare what must exist before a session is used."""
        ...

    async def declare(self, session: Session) -> None:
        """Declare once more what stores need, when it was deleted meanwhile."""
        ...
