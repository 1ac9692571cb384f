"""The service: takes files, sends a task for each, and tells what becomes of it.

`make web` runs it with a worker and a broker. By hand, as many processes as you like:

    python -m examples.fastapi_app.worker
    uvicorn examples.fastapi_app.app:app --workers 2
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import FastAPI, HTTPException, Query, Request, status
from fastapi.staticfiles import StaticFiles

from aioresults import AMQPBackend, Producer
from aioresults.contrib.fastapi import ERRORS, Accepted, Results, health_router, lifespan, router, status_url
from examples.fastapi_app.tasks import KEPT, MAX_FILE, RESULTS, TASKS, url_of_broker
from examples.fastapi_app.worker import work

STATIC: Final = Path(__file__).parent / "static"


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Hold the backend. A broker inside this process has its worker here, too."""
    url = url_of_broker()
    async with lifespan(lambda: AMQPBackend(url, routing=RESULTS, expires=KEPT))(app) as state:
        worker = asyncio.create_task(work(url)) if url.startswith("memory:") else None
        yield state
        if worker is not None:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker


app = FastAPI(title="Files and figures", lifespan=running)
app.include_router(router)
app.include_router(health_router)


@app.post("/files", status_code=status.HTTP_202_ACCEPTED, responses=ERRORS)
async def take_file(request: Request, results: Results, name: Annotated[str, Query(max_length=500)]) -> Accepted:
    """Take one file, the body of the request, and send it to the workers."""
    content = await body_of(request)
    task_id = str(uuid.uuid4())
    # Announced before it is sent: from here on every process of the service knows the id.
    await results.store_result(task_id, {"name": name}, "RECEIVED")
    channel = await results.channel()
    try:
        await Producer(channel).publish(
            content, TASKS.name, message_id=task_id, headers={"name": name}, declare=[TASKS]
        )
    finally:
        await channel.close()
    return Accepted(task_id=task_id, status_url=status_url(request, task_id))


async def body_of(request: Request) -> bytes:
    """Return the body, if it is not too large."""
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_FILE:
            raise HTTPException(413, f"this is larger than {MAX_FILE // 2**20} MiB")
    return content


app.mount("/", StaticFiles(directory=STATIC, html=True))
