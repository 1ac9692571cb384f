"""A worker over aio-pika: takes texts from the queue `words`, and stores how many words each has, or what went wrong.

Whoever sends the text names the task (`message_id`) and says where the result goes (`reply_to=backend.reply_to`).
"""

import asyncio
import os
import uuid
from contextlib import suppress

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from aioresults import AMQPBackend, ReplyQueue, Request

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")


async def main() -> None:
    backend = AMQPBackend(URL, routing=ReplyQueue(), store_only=True)

    async def handle(message: AbstractIncomingMessage) -> None:
        task_id = message.message_id or str(uuid.uuid4())
        async with message.process():  # acknowledged after the result is stored
            with suppress(UnicodeDecodeError):  # stored, too; it is the caller's to handle
                async with backend.recording(task_id, Request(message.reply_to)) as recording:
                    recording.result = len(message.body.decode().split())

    async with backend, await aio_pika.connect_robust(URL) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=10)
        queue = await channel.declare_queue("words", durable=True)
        await queue.consume(handle)
        print("waiting for texts", flush=True)
        await asyncio.Future()  # until interrupted


with suppress(KeyboardInterrupt):
    asyncio.run(main())
