"""Many tasks that belong together: saved under one id, and awaited by a process that knows nothing but that id."""

import asyncio
import os
import uuid

from aioresults import AMQPBackend, AsyncResult, GroupResult

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")


async def worker(task_id: str, number: int) -> None:
    async with AMQPBackend(URL, store_only=True) as backend, backend.recording(task_id) as recording:
        recording.result = number * number


async def send_all(group_id: str) -> None:
    async with AMQPBackend(URL) as backend:
        group = GroupResult(group_id, [AsyncResult(str(uuid.uuid4()), backend) for _ in range(5)])
        await group.save()
        await asyncio.gather(*(worker(task_id, number) for number, task_id in enumerate(group.task_ids())))


async def main() -> None:
    group_id = str(uuid.uuid4())
    await send_all(group_id)
    async with AMQPBackend(URL) as backend:
        group = await GroupResult.restore(group_id, backend)
        assert group is not None
        print(f"{await group.completed_count()} of {len(group)} have ended")
        print(await group.join(timeout=10))
        await group.delete()


asyncio.run(main())
