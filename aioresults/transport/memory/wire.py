"""Small things that connections and channels share: a turn of the loop, a future's outcome, a hard error."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator
from typing import Any


class ConnectionRefusal(Exception):
    """The broker closes the whole connection: a hard error of AMQP (530, 540, ...)."""

    def __init__(self, reply_code: int, reply_text: str) -> None:
        self.reply_code = reply_code
        self.reply_text = reply_text
        super().__init__(f"{reply_code} {reply_text}")


@types.coroutine
def tick() -> Generator[None, None, None]:
    """One turn of the loop: the least that a round trip to a broker takes."""
    yield


def settle(what: tuple[asyncio.Future[Any], Any, BaseException | None]) -> None:
    """Give a future its outcome, unless whoever waited for it has gone."""
    future, result, error = what
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def unsupported(what: str, queue: str) -> ConnectionRefusal:
    """540: what a stream answers to the calls of a queue."""
    text = f"NOT_IMPLEMENTED - {what} not supported by stream queues queue '{queue}' in vhost '/'"
    return ConnectionRefusal(540, text)
