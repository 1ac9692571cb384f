"""One process stores a result, another awaits it: here two tasks play both parts."""

import asyncio
import os
import uuid

from aioresults import AMQPBackend

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")


async def worker(task_id: str) -> None:
    async with AMQPBackend(URL, store_only=True) as backend, backend.recording(task_id) as recording:
        await recording.progress({"percent": 50})
        recording.result = {"answer": 42}


async def main() -> None:
    task_id = str(uuid.uuid4())  # travels to the worker in your task message
    async with AMQPBackend(URL) as backend, asyncio.TaskGroup() as group:
        group.create_task(worker(task_id))
        print(await backend.wait_for(task_id, timeout=10))


asyncio.run(main())
