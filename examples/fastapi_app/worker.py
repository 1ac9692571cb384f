"""A worker: takes files, says how far it is, and stores their figures: `python -m examples.fastapi_app.worker`."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from aioresults import AMQPBackend, BrokerUnavailable, ChannelClosed, Consumer, Message
from examples.fastapi_app.tasks import KEPT, RESULTS, TASKS, url_of_broker

#: Files at a time.
PARALLEL: Final = 4
#: Parts that a file is read in, and seconds that each takes: so slowly that one can watch.
PARTS: Final = 20
PACE: Final = 0.1


class NotText(Exception):
    """A file that is not text."""


async def work(url: str) -> None:
    """Work on files until cancelled; an outage of the broker is waited for."""
    async with (
        AMQPBackend(url, routing=RESULTS, expires=KEPT, store_only=True) as backend,
        asyncio.TaskGroup() as group,
    ):
        while True:
            with suppress(BrokerUnavailable, ChannelClosed):
                channel = await backend.channel()
                async with Consumer(channel, TASKS, prefetch_count=PARALLEL) as consumer:
                    async for message in consumer:
                        group.create_task(do(message, backend))


async def do(message: Message, backend: AMQPBackend) -> None:
    """Do one task. Acknowledged after the result is stored, so that another worker takes over from a dead one."""
    task_id, name = message.properties.message_id or "", message.headers.get("name")
    with suppress(NotText):  # which is stored, for the page to show
        async with backend.recording(task_id) as recording:
            lines = read(message.body)
            words: Counter[str] = Counter()
            step = max(1, -(-len(lines) // PARTS))
            for done in range(0, len(lines), step):
                await recording.progress({"name": name, "percent": 100 * done // len(lines)})
                await asyncio.sleep(PACE)
                words.update(words_in(lines[done : done + step]))
            recording.result = figures(lines, words) | {"name": name}
    message.ack()


def words_in(lines: list[str]) -> Iterator[str]:
    """Iterate over words, without what stands around them."""
    return (word.strip(".,;:!?\"'()").lower() for line in lines for word in line.split())


def read(body: bytes) -> list[str]:
    """Return the lines of a text."""
    try:
        return body.decode().splitlines()
    except UnicodeDecodeError as error:
        raise NotText(f"this is not UTF-8 text: byte {error.start} is 0x{body[error.start]:02x}") from error


def figures(lines: list[str], words: Counter[str]) -> dict[str, Any]:
    """Return what there is to say about a text."""
    longest = Counter({word: count for word, count in words.items() if len(word) > 3}).most_common(5)
    return {"lines": len(lines), "words": words.total(), "different": len(words), "common": longest}


if __name__ == "__main__":
    logging.basicConfig(format="worker: %(levelname)s %(message)s")
    with suppress(KeyboardInterrupt):
        asyncio.run(work(url_of_broker()))
