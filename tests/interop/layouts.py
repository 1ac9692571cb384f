"""The two layouts, as Celery 5 declares them and as this package does.

Celery 4 does not run on the Pythons of today. Its layout is that of celery-amqp-backend with other names for the
queues, so that client is made to use them.
"""
# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_amqp_backend import AMQPBackend as CeleryAMQPBackend

from aioresults import AMQPBackend, QueuePerTask


class Celery4Backend(CeleryAMQPBackend):
    def _create_routing_key(self, task_id: str) -> str:
        return task_id.replace("-", "")


#: Seconds; a test that only looks leaves its queue behind, perhaps on a broker that outlives the tests.
EXPIRES = 600
#: Seconds for what is awaited of the broker: no test here is about these, and a busy machine may reach shorter ones.
LIMITS: dict[str, Any] = {"connect_timeout": 60, "rpc_timeout": 60}


@dataclass(frozen=True)
class Layout:
    #: Celery's setting.
    result_backend: str
    routing: Callable[[], QueuePerTask]
    #: The queue of a task at the exchange ``celeryresults``.
    queue: Callable[[str], str]

    def backend(self, url: str, **options: Any) -> AMQPBackend:
        """This package in this layout."""
        return AMQPBackend(url, routing=self.routing(), **{"expires": EXPIRES, **LIMITS, **options})


LAYOUTS = {
    "celery-amqp-backend": Layout(
        "celery_amqp_backend.AMQPBackend://",
        QueuePerTask.celery_amqp_backend,
        lambda task_id: f"celeryresults.{task_id}",
    ),
    "celery-4": Layout(
        f"{__name__}.{Celery4Backend.__qualname__}://", QueuePerTask.celery, lambda task_id: task_id.replace("-", "")
    ),
}
