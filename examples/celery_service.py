"""An asyncio service that calls the tasks of a Celery project, without Celery: uvicorn celery_service:app"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException

from aioresults import AMQPBackend, ReplyQueue, ResultTimeout
from aioresults.contrib.celery import CeleryClient

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")

client = CeleryClient(AMQPBackend(URL, routing=ReplyQueue()), queue="texts")
count_words = client.task("celery_project.count_words", timeout=10, result_type=int)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/words")
async def words(text: str) -> dict[str, int]:
    try:
        return {"words": await count_words(text)}
    except ValueError as error:  # raised by the task, in the worker
        raise HTTPException(422, str(error)) from None
    except ResultTimeout:
        raise HTTPException(504, "the workers are busy") from None


@app.post("/longest")
async def longest(texts: list[str]) -> dict[str, str]:
    counts = await client.group(count_words.s(text) for text in texts).call(timeout=10)
    return {"longest": texts[counts.index(max(counts))]}
