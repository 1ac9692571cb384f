"""A worker says how far it is; whoever waits sees every report, and then the result."""

import asyncio
import os
import uuid

from aioresults import AMQPBackend

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")
STEPS = 4


async def worker(task_id: str) -> None:
    async with AMQPBackend(URL, store_only=True) as backend, backend.recording(task_id) as recording:
        for step in range(1, STEPS):
            await recording.progress({"percent": 100 * step // STEPS})
        recording.result = "done"


async def main() -> None:
    task_id = str(uuid.uuid4())
    async with AMQPBackend(URL) as backend, asyncio.TaskGroup() as group:
        group.create_task(worker(task_id))
        async for meta in backend.watch(task_id, timeout=10):
            if meta.status == "PROGRESS":
                print(f"{meta.result['percent']:3} %")
            elif meta.is_ready:
                print(meta.value())  # which raises the error of a task that failed


asyncio.run(main())
