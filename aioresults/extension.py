"""What a backend lets its subclasses override: as in Celery the classes it works with, and where results go.

And which of two reports counts.
"""

from __future__ import annotations

from typing import Any

from aioresults import messaging, states
from aioresults.background.lifetime import Lifetime
from aioresults.background.sessions import Session
from aioresults.errors import BrokerUnavailable, PreconditionFailed
from aioresults.routing import Routing, Stream
from aioresults.transport import Channel


class Extension:
    """The nouns, the names, and a way to the broker for code of your own."""

    _lifetime: Lifetime
    _routing: Routing
    _rpc_timeout: float

    Consumer: type[messaging.Consumer] = messaging.Consumer
    Exchange: type[messaging.Exchange] = messaging.Exchange
    Producer: type[messaging.Producer] = messaging.Producer
    Queue: type[messaging.Queue] = messaging.NoCacheQueue

    # The names: where results go

    def rkey(self, task_id: str) -> str:
        """Return the routing key of a task's reports."""
        return self._routing.rkey(task_id)

    def destination_for(self, task_id: str, request: Any | None = None) -> tuple[str, str]:
        """Return routing key and correlation id of a report about ``task_id``."""
        return self._routing.destination_for(self.rkey(task_id), task_id, request)

    def on_reply_declare(self, task_id: str) -> list[messaging.Queue]:
        """Return the queues that are declared when a report about ``task_id`` finds none."""
        queue = self.queue_for(task_id)
        stream = self.stream()
        return [*([queue] if queue else []), *([stream.queue] if stream else [])]

    def queue_for(self, task_id: str) -> messaging.Queue | None:
        """Return the queue that holds the reports of a task; None when the routing gives it none of its own."""
        queue = self._routing.queue(self.rkey(task_id))
        return None if queue is None else self._own(queue)

    def inbox(self) -> messaging.Queue | None:
        """Return the one queue that this process consumes for all tasks; None when the routing has none."""
        queue = self._routing.inbox()
        return None if queue is None else self._own(queue)

    def stream(self) -> Stream | None:
        """Return the stream that all processes share; None when the routing has none."""
        stream = self._routing.stream()
        return None if stream is None else stream._replace(queue=self._own(stream.queue))

    def _own(self, queue: messaging.Queue) -> messaging.Queue:
        """Return a queue of the routing as one of the classes above."""
        if type(queue.exchange) is not self.Exchange:
            return self.Queue(**{**queue.as_dict(), "exchange": self.Exchange.of(queue.exchange)})
        return self.Queue.of(queue)

    # The order: which report counts

    def supersedes(self, new: str, old: str) -> bool:
        """Return whether a report in state ``new`` replaces one in state ``old`` that came before it.

        By itself as ``states.supersedes`` has it: an id is for one run. Override it alike in all processes that read
        the same results. A report that is not ready must not replace one that is: a wait may have ended with that.

        A wait ends with the first ready report all the same. In a ``ResultStream`` that is the oldest one that is kept:
        ``get_task_meta`` returns the one that counts.
        """
        return states.supersedes(new, old)

    # The broker, for code of your own

    async def channel(self) -> Channel:
        """Open a channel, with confirms, for producers, consumers and declarations of your own.

        It is on a connection apart from the backend's, opened on first use: nothing done there disturbs a result.
        It lasts as long as the session; after a loss, ask for another one, or have ``revive`` called with it.

        Raises:
            BrokerUnavailable: there is no session, and none within ``rpc_timeout``; or no channel within that.
            BackendClosed: it is not open.

        Cancelling is safe: a channel that comes then is closed.
        """
        self._lifetime.check()
        session = await self._lifetime.sessions.wait(self._rpc_timeout)
        return await session.channel()

    async def revive(self, channel: Channel) -> None:
        """Declare what your own code needs; awaited at the start of every session. Does nothing by itself.

        ``channel`` is one as ``channel()`` returns.
        """

    async def prepare(self, session: Session) -> None:
        """Declare what the routing needs, and have ``revive`` called; awaited at the start of every session."""
        await self.declare(session)
        if type(self).revive is not Extension.revive:
            await self.revive(await session.channel())  # opens a connection of its own, so only where it is wanted

    async def declare(self, session: Session) -> None:
        """Declare what the routing needs; awaited, too, when a publish finds no exchange any more."""
        for entity in self._routing.topology():
            own = self._own(entity) if isinstance(entity, messaging.Queue) else self.Exchange.of(entity)
            try:
                await session.run(messaging.declaring(own), publishing=True)
            except (PreconditionFailed, BrokerUnavailable) as error:
                explained = self._routing.explained(error)
                if explained is error:
                    raise
                raise explained from error
