"""A service that answers with a result if it comes soon, else with where to ask: uvicorn fastapi_service:app"""

import asyncio
import os
import uuid
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request

from aioresults import AMQPBackend
from aioresults.contrib.fastapi import ACCEPTED, ERRORS, Results, health_router, lifespan, router, wait_or_202

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")

app = FastAPI(lifespan=lifespan(lambda: AMQPBackend(URL)))
app.include_router(router)  # GET /tasks/{id}; /tasks/{id}/events, as server-sent events and as a WebSocket
app.include_router(health_router)  # GET /health
running: set[asyncio.Task[None]] = set()


async def count_words(text: str, task_id: str, results: AMQPBackend) -> None:
    """The work, which another process would do."""
    async with results.recording(task_id) as recording:
        words = text.split()
        for done in range(len(words)):
            await recording.progress({"done": done, "of": len(words)})
        recording.result = {"words": len(words)}


@app.post("/words", responses=ACCEPTED | ERRORS)
async def words(
    text: str, request: Request, results: Results, patience: Annotated[float, Query(ge=0, le=30)] = 2
) -> Any:
    task_id = str(uuid.uuid4())
    running.add(task := asyncio.create_task(count_words(text, task_id, results)))
    task.add_done_callback(running.discard)
    return await wait_or_202(results, task_id, request, timeout=patience)
