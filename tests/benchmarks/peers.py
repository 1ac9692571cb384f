"""Ways to get results from a worker to a caller: one class each, and one entry in ``PEERS``.

A peer lives in two processes, an instance in each. What it imports stays inside its methods, so that one that is not
installed costs only itself.
"""

from __future__ import annotations

import asyncio
import importlib.util
import types
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final

#: What a task returns here: the result's document is about 200 bytes.
VALUE: Final = {"x": list(range(20)), "name": "some value"}


class Peer:
    """One way of carrying results. Override what is needed.

    Args:
        url: the broker's.
    """

    #: Modules without which this peer cannot run.
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, url: str) -> None:
        self.url = url

    @classmethod
    def missing(cls) -> list[str]:
        """Return which of ``needs`` are not installed."""
        return [name for name in cls.needs if importlib.util.find_spec(name) is None]

    async def open_caller(self) -> Any:
        """Connect the caller; return what the worker must know, as JSON."""

    async def collect(self, task_ids: list[str]) -> list[Any]:
        """Return the values of tasks whose ids the worker hears now. Several calls run at the same time."""
        raise NotImplementedError

    async def open_worker(self, address: Any) -> None:
        """Connect the worker."""

    async def store(self, task_ids: list[str]) -> None:
        """Store ``VALUE`` for every id. Several calls run at the same time."""
        raise NotImplementedError

    async def close(self) -> None:
        """Disconnect."""


class AioResults(Peer):
    """This package; a subclass says which routing and which settings."""

    routing: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}

    def _routing(self) -> Any:
        import aioresults

        return getattr(aioresults, self.routing)()

    async def _open(self, *, store_only: bool) -> None:
        import aioresults

        self.store_only = store_only
        self.backend = aioresults.AMQPBackend(
            self.url,
            routing=self._routing(),
            **{"serializer": "msgpack", **self.settings},
            expires=600,
            store_only=store_only,
            max_cached_results=0,
        )
        await self.backend.open()

    async def open_caller(self) -> str | None:
        await self._open(store_only=False)
        return self.backend.reply_to

    async def collect(self, task_ids: list[str]) -> list[Any]:
        return [meta.result for meta in (await self.backend.get_many(task_ids)).values()]

    async def open_worker(self, address: str | None) -> None:
        from aioresults import Request

        await self._open(store_only=True)
        self.request = Request(reply_to=address)

    async def store(self, task_ids: list[str]) -> None:
        store = self.backend.store_result
        await asyncio.gather(*(store(task_id, VALUE, request=self.request) for task_id in task_ids))

    async def close(self) -> None:
        await self.backend.close()


class AioResultsPerTask(AioResults):
    """A queue per task, persistent messages."""

    routing = "QueuePerTask"


class AioResultsPerTaskTransient(AioResultsPerTask):
    """A queue per task, transient messages."""

    settings: ClassVar[dict[str, Any]] = {"persistent": False}


class AioResultsReply(AioResults):
    """One inbox per process, transient messages."""

    routing = "ReplyQueue"
    settings: ClassVar[dict[str, Any]] = {"persistent": False}


class AioResultsReplyPersistent(AioResultsReply):
    """One inbox per process, persistent messages: the default."""

    settings: ClassVar[dict[str, Any]] = {}


class AioResultsReplyJson(AioResultsReply):
    """One inbox per process, transient messages, JSON: the default serializer."""

    settings: ClassVar[dict[str, Any]] = {"persistent": False, "serializer": "json"}


class AioResultsStream(AioResults):
    """One shared stream, which this caller reads and others might."""

    routing = "ResultStream"

    def _routing(self) -> Any:
        import aioresults

        return aioresults.ResultStream(self.stream)

    async def open_caller(self) -> str:
        self.stream = f"aioresults.bench.{uuid.uuid4().hex}"
        await super().open_caller()
        return self.stream

    async def open_worker(self, address: str | None) -> None:
        self.stream = address or ""
        await super().open_worker(None)

    async def close(self) -> None:
        if not self.store_only:
            await (await self.backend.channel()).queue_delete(self.stream)
        await super().close()


class AiormqConfirm(Peer):
    """What anyone would write on aiormq: a message per result, confirms, an exclusive queue, no acknowledgements."""

    #: Publishes that are not confirmed yet, at most.
    window = 500

    async def open_caller(self) -> str:
        import aiormq

        self.connection = await aiormq.connect(self.url)
        channel = await self.connection.channel(publisher_confirms=False)
        queue = (await channel.queue_declare("", exclusive=True)).queue
        self.futures: dict[str, asyncio.Future[Any]] = {}
        await channel.basic_consume(queue or "", self._receive, no_ack=True)
        return queue or ""

    async def _receive(self, message: Any) -> None:
        import msgpack

        document = msgpack.unpackb(message.body)
        self.futures.pop(document["task_id"]).set_result(document["result"])

    async def collect(self, task_ids: list[str]) -> list[Any]:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in task_ids]
        self.futures.update(zip(task_ids, futures, strict=True))
        return [await future for future in futures]

    async def open_worker(self, address: str) -> None:
        import aiormq

        self.connection = await aiormq.connect(self.url)
        self.channel: Any = await self.connection.channel(publisher_confirms=True)
        self.address = address
        self.room = asyncio.Semaphore(self.window)

    async def store(self, task_ids: list[str]) -> None:
        await asyncio.gather(*(self._publish(task_id) for task_id in task_ids))

    async def _publish(self, task_id: str) -> None:
        import msgpack
        from aiormq import spec

        document: dict[str, Any] = {
            "task_id": task_id,
            "status": "SUCCESS",
            "result": VALUE,
            "traceback": None,
            "children": [],
        }
        async with self.room:
            await self.channel.basic_publish(
                msgpack.packb(document),
                routing_key=self.address,
                wait=False,
                properties=spec.Basic.Properties(delivery_mode=1),
            )

    async def close(self) -> None:
        await self.connection.close()


class CeleryAMQP(Peer):
    """celery-amqp-backend: ``store_result``, ``ResultSet.join_native``."""

    needs: ClassVar[tuple[str, ...]] = ("celery", "celery_amqp_backend")
    backend = "celery_amqp_backend.AMQPBackend://"

    def _open(self) -> None:
        from celery import Celery

        # It blocks, and is used from one thread at a time.
        self.thread = ThreadPoolExecutor(1)
        self.app: Any = Celery("benchmark", broker=self.url, backend=self.backend)
        self.app.conf.result_expires = 600

    async def open_caller(self) -> Any:
        self._open()
        return getattr(self.app.backend, "oid", None)

    async def collect(self, task_ids: list[str]) -> list[Any]:
        return await asyncio.get_running_loop().run_in_executor(self.thread, self._join, task_ids)

    def _join(self, task_ids: list[str]) -> list[Any]:
        from celery.result import AsyncResult, ResultSet

        handles = [AsyncResult(task_id, app=self.app) for task_id in task_ids]
        values: list[Any] = ResultSet(handles, app=self.app).join_native(timeout=60)
        return values

    async def open_worker(self, address: Any) -> None:
        self._open()
        self.address = address

    async def store(self, task_ids: list[str]) -> None:
        await asyncio.get_running_loop().run_in_executor(self.thread, self._store, task_ids)

    def _store(self, task_ids: list[str]) -> None:
        for task_id in task_ids:
            request = types.SimpleNamespace(
                reply_to=self.address, correlation_id=task_id, id=task_id, group=None, children=[], parent_id=None
            )
            self.app.backend.store_result(task_id, VALUE, "SUCCESS", request=request)

    async def close(self) -> None:
        self.thread.shutdown()


class CeleryRPC(CeleryAMQP):
    """Celery's ``rpc://``: a queue per process and thread, transient messages, ``ResultSet.join_native``."""

    needs: ClassVar[tuple[str, ...]] = ("celery",)
    backend = "rpc://"

    async def open_caller(self) -> Any:
        address = await super().open_caller()
        self._expect([str(uuid.uuid4())])  # declares the queue
        return address

    def _expect(self, task_ids: list[str]) -> None:
        from celery.result import AsyncResult

        for task_id in task_ids:
            self.app.backend.add_pending_result(AsyncResult(task_id, app=self.app))

    async def collect(self, task_ids: list[str]) -> list[Any]:
        # Its queue belongs to a thread, so it has to block this one. Let the others be asked for first.
        self._expect(task_ids)
        for _ in range(20):
            await asyncio.sleep(0)
        return self._join(task_ids)


PEERS: Final[dict[str, type[Peer]]] = {
    "aioresults-per-task": AioResultsPerTask,
    "aioresults-per-task-transient": AioResultsPerTaskTransient,
    "celery-amqp-backend": CeleryAMQP,
    "aioresults-reply": AioResultsReply,
    "aioresults-reply-persistent": AioResultsReplyPersistent,
    "aioresults-reply-json": AioResultsReplyJson,
    "aioresults-stream": AioResultsStream,
    "aiormq-confirm": AiormqConfirm,
    "celery-rpc": CeleryRPC,
}
