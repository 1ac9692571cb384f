"""Remote control of workers: commands to all of them, or to some, and what they answer.

Commands go to the fanout exchange that every worker listens to; answers come to a queue that lives as long as the call.
Workers keep what they are told in memory: one that starts later knows nothing of it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import anyio

from aioresults import validation
from aioresults.backend import AMQPBackend
from aioresults.errors import AioResultsError, ConfigurationError, DecodeError, MessageNacked, MessageReturned
from aioresults.messaging import Consumer, Exchange, Message, Producer, Queue
from aioresults.routing.base import OURS
from aioresults.transport import Channel

#: Seconds after which the broker deletes a queue for answers that nobody has deleted.
REPLIES_EXPIRE: Final = 60
#: Seconds that deleting it may take.
CLOSE_TIMEOUT: Final = 3.0


class Control:
    """Sends commands to workers.

    Args:
        exchange: Celery's ``control_exchange``.
    """

    def __init__(self, backend: AMQPBackend, exchange: str = "celery") -> None:
        self._backend = backend
        # Declared as kombu does, or the broker refuses it.
        self._commands = Exchange(f"{exchange}.pidbox", "fanout", durable=False)
        self._replies = Exchange(f"reply.{exchange}.pidbox", "direct", durable=False)

    async def send(
        self,
        method: str,
        arguments: Mapping[str, Any],
        destination: str | Iterable[str] | None,
        timeout: float | None,
        limit: int | None,
    ) -> dict[str, Any]:
        """Send one command, and return ``{node: answer}`` of those who answer in time; see ``CeleryClient.control``."""
        command: dict[str, Any] = {
            "method": validation.non_empty("a control method", method),
            "arguments": dict(arguments),
            "destination": _nodes(destination),
            "pattern": None,
            "matcher": None,
        }
        if limit is not None:
            validation.count("limit", limit, 1)
        elif command["destination"] is not None:
            limit = len(command["destination"])
        seconds = None if timeout is None else validation.seconds("timeout", timeout)
        channel = await self._backend.channel()
        try:
            await self._commands(channel).declare()
            if seconds is None:
                await self._publish(channel, command, 0)
                return {}
            return await self._ask(channel, command, seconds, limit)
        finally:
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await channel.close()

    async def _publish(self, channel: Channel, command: Mapping[str, Any], expires: float) -> bool:
        """Publish a command; return whether anybody listens."""
        try:
            await Producer(channel).publish(
                command,
                "",
                exchange=self._commands.name,
                serializer="json",
                delivery_mode="transient",
                headers={"clock": 1, "expires": expires},
                mandatory=True,
            )
        except MessageReturned:
            return False
        except MessageNacked:
            pass  # a worker ended, and its queue with it, before the message was in there; the others have theirs
        return True

    async def _ask(
        self, channel: Channel, command: dict[str, Any], timeout: float, limit: int | None
    ) -> dict[str, Any]:
        ticket = str(uuid.uuid4())
        queue = Queue(
            f"{OURS}control.{ticket}",
            self._replies,
            routing_key=ticket,
            queue_arguments={"x-queue-type": "classic", "x-expires": REPLIES_EXPIRE * 1000},
        )(channel)
        answers = Answers(ticket, limit)
        consumer = Consumer(channel, queue, on_message=answers.receive, no_ack=True, auto_declare=False)
        try:
            await queue.declare()
            await consumer.consume()
            command |= {"ticket": ticket, "reply_to": {"exchange": self._replies.name, "routing_key": ticket}}
            if await self._publish(channel, command, time.time() + timeout):
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await answers.complete.wait()
        finally:
            # What a lost connection leaves behind expires.
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True), suppress(AioResultsError):
                await consumer.cancel()  # first, or the broker does, and aiormq warns of it
                await queue.delete()
        return answers.by_node


class Answers:
    """What has been answered so far.

    Args:
        ticket: of the command.
        limit: how many answers are enough; None for any number.
    """

    def __init__(self, ticket: str, limit: int | None) -> None:
        self._ticket = ticket
        self._limit = limit
        self.by_node: dict[str, Any] = {}
        self.complete: asyncio.Event = asyncio.Event()

    def receive(self, message: Message) -> None:
        """Take an answer; what is none is passed over."""
        if self.complete.is_set() or message.headers.get("ticket") != self._ticket:
            return
        try:
            answer = message.payload
        except DecodeError:
            return
        if isinstance(answer, dict):
            self.by_node.update(answer)
        if self._limit is not None and len(self.by_node) >= self._limit:
            self.complete.set()


def _nodes(destination: str | Iterable[str] | None) -> Sequence[str] | None:
    if destination is None:
        return None
    nodes = [destination] if isinstance(destination, str) else list(destination)
    for node in nodes:
        validation.non_empty("a destination", node)
    if not nodes:
        raise ConfigurationError("destination is empty: name a node, or pass None for all of them")
    return nodes


def revocation(task_ids: str | Iterable[str], terminate: bool, signal: str) -> dict[str, Any]:
    """Return the arguments of the command ``revoke``.

    Raises:
        ConfigurationError: something that is no task id, or none at all.
    """
    given: object = task_ids
    several = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    ids = [validation.task_id(task_id) for task_id in several]
    if not ids:
        raise ConfigurationError("no task id to revoke")
    if not isinstance(terminate, bool):
        raise ConfigurationError(f"terminate must be True or False, not {terminate!r}")
    return {"task_id": ids, "terminate": terminate, "signal": validation.non_empty("signal", signal)}
