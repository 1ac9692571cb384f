"""Real Celery workers in child processes, one for each set of settings."""

from __future__ import annotations

import json
import os
import secrets
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery

from aioresults import AMQPBackend, QueuePerTask, ReplyQueue, Serializers
from aioresults.contrib.celery import CeleryClient as OurClient
from aioresults.contrib.rabbitmq import Process
from aioresults.routing import Routing
from tests.interop.client import CeleryClient, make_app
from tests.interop.errors import AppError, CodeError, Outer
from tests.interop.layouts import LAYOUTS, LIMITS
from tests.interop.plug_ins import STREAM

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setup:
    """Settings of a worker, and what this package must be told to match them."""

    celery: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)
    result_backend: str = LAYOUTS["celery-amqp-backend"].result_backend
    routing: Callable[[], Routing] = QueuePerTask.celery_amqp_backend
    #: Celery's pool, and its options.
    pool: tuple[str, ...] = ("solo",)


PLUG_IN = "aioresults.contrib.celery:ResultBackend://"
SETUPS = {
    "json": Setup({"task_track_started": True}),
    "msgpack": Setup({"result_serializer": "msgpack", "result_expires": None}, {"expires": None}),
    "yaml": Setup(
        {"result_serializer": "yaml", "result_accept_content": ["yaml"], "result_expires": 3600.5},
        {"accept": ["yaml"], "expires": 3600.5},
    ),
    # Celery's exchange is as durable as its messages are persistent, so these two cannot share one.
    "transient": Setup(
        {"result_persistent": False, "result_exchange": "celeryresults-transient", "result_expires": 60},
        {"persistent": False, "exchange": "celeryresults-transient", "expires": 60},
    ),
    "celery-4": Setup(result_backend=LAYOUTS["celery-4"].result_backend, routing=QueuePerTask.celery),
    "rpc": Setup({"task_track_started": True}, result_backend="rpc://", routing=ReplyQueue),
    "rpc-prefork": Setup(
        {"task_track_started": True},
        result_backend="rpc://",
        routing=ReplyQueue,
        pool=("prefork", "-c", "2"),
    ),
    "plug-in": Setup({"task_track_started": True}, {}, PLUG_IN, ReplyQueue, ("prefork", "-c", "2")),
    "plug-in-threads": Setup({}, {}, PLUG_IN, ReplyQueue, ("threads", "-c", "4")),
    "plug-in-per-task": Setup({}, {}, "tests.interop.plug_ins:PerTask://", QueuePerTask, ("prefork", "-c", "1")),
    "plug-in-stream": Setup({}, {}, "tests.interop.plug_ins:Stream://", lambda: STREAM),
}
#: Setups whose workers run one task at a time.
SOLO = [name for name, setup in SETUPS.items() if setup.pool == ("solo",)]
#: Those of them whose results anyone can look at.
QUEUE_PER_TASK = [name for name in SOLO if SETUPS[name].routing is not ReplyQueue]


class Worker:
    """A worker that consumes a task queue of its own."""

    def __init__(self, setup: Setup, broker_url: str, folder: Path) -> None:
        self._setup = setup
        self._broker_url = broker_url
        self._log = folder / f"worker-{secrets.token_hex(4)}.log"
        self.name = f"{self._log.stem}@interop"
        self.settings = {
            "result_backend": setup.result_backend,
            "task_default_queue": f"aioresults.interop.{self._log.stem}",
            "broker_connection_retry_on_startup": True,
            # A solo worker that prefetches a few stands still at times, for ten seconds: it acknowledges in the next
            # turn of a loop that does not turn before something arrives (kombu 5.7), and nothing does before.
            "worker_prefetch_multiplier": 0 if self.is_solo else 4,
            "worker_proc_alive_timeout": 60,
            **setup.celery,
        }
        self.start()

    @property
    def is_solo(self) -> bool:
        """Whether it runs one task at a time, in order."""
        return self._setup.pool == ("solo",)

    def start(self) -> None:
        """Start it, again after ``kill``."""
        options = ("--without-mingle", "--without-gossip", "--without-heartbeat", "--loglevel=INFO")
        command = ("celery", "-A", "tests.interop.tasks", "worker", "-n", self.name, "-P", *self._setup.pool, *options)
        self._process = Process(
            [sys.executable, "-m", *command],
            log=self._log,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "INTEROP_BROKER": self._broker_url,
                "INTEROP_SETTINGS": json.dumps(self.settings),
                "INTEROP_STREAM": STREAM.name,
            },
        )

    def client(self) -> CeleryClient:
        """Celery's client with the worker's settings."""
        return CeleryClient(self._broker_url, **self.settings)

    def backend(self, **options: Any) -> AMQPBackend:
        """This package with the worker's settings."""
        return AMQPBackend(self._broker_url, **{**self._options(), **options})

    def _options(self) -> dict[str, Any]:
        return {"serializers": known_errors(), "routing": self._setup.routing(), **LIMITS, **self._setup.ours}

    def app(self) -> Celery:
        """An app with the worker's settings."""
        return make_app(self._broker_url, **self.settings)

    def caller(self) -> OurClient:
        """This package's client, with the settings of the worker's app."""
        app = self.app()
        return OurClient.from_app(app, AMQPBackend.from_app(app, **self._options()), send_timeout=60)

    async def send(self, client: CeleryClient, task: str, *args: Any, **options: Any) -> str:
        """Send a task and return its id; the worker need not have started yet."""
        assert self._process.running, self._log.read_text()
        task_id = options.pop("task_id", None) or str(uuid.uuid4())
        await client.run(lambda: client.app.send_task(f"tests.interop.tasks.{task}", args, task_id=task_id, **options))
        return str(task_id)

    def kill(self) -> None:
        self._process.kill()


def known_errors() -> Serializers:
    """Serializers that rebuild the exceptions of the tasks."""
    serializers = Serializers()
    for error in (AppError, CodeError, Outer.InnerError):
        serializers.register_exception(error)
    return serializers
