"""Remote control where the workers are played: what real ones cannot be made to do at the right moment."""

from __future__ import annotations

import secrets

from aioresults import AMQPBackend, Consumer, Exchange, Message, Producer, Queue, ReplyQueue
from aioresults.contrib.celery import CeleryClient

COMMANDS = Exchange("celery.pidbox", "fanout", durable=False)


async def test_a_worker_that_ends_meanwhile_leaves_the_others_answers() -> None:
    backend = AMQPBackend(f"memory://{secrets.token_hex(8)}", routing=ReplyQueue())
    async with CeleryClient(backend) as client:
        channel = await client.backend.channel()

        async def answer(command: Message) -> None:
            reply_to = command.payload["reply_to"]
            await Producer(channel).publish(
                {"there@here": {"ok": "pong"}},
                reply_to["routing_key"],
                exchange=reply_to["exchange"],
                headers={"ticket": command.payload["ticket"]},
            )

        # A queue that takes nothing any more: the broker's answer is that of one that ends under the message.
        refusing = {"x-max-length": 0, "x-overflow": "reject-publish"}
        await Queue("ending@here.celery.pidbox", COMMANDS, queue_arguments=refusing)(channel).declare()
        there = Queue("there@here.celery.pidbox", COMMANDS)
        async with Consumer(channel, there, on_message=answer, no_ack=True):
            assert await client.ping(timeout=30, limit=1) == {"there@here": {"ok": "pong"}}
