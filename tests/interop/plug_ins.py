"""Workers' result backends with other routings of this package."""
# mypy: allow-subclassing-any

from __future__ import annotations

from typing import ClassVar

from aioresults import QueuePerTask, ResultStream
from aioresults.contrib.celery import ResultBackend
from aioresults.routing import Routing


class PerTask(ResultBackend):
    routing: ClassVar[Routing] = QueuePerTask()


STREAM = ResultStream("aioresults.interop")


class Stream(ResultBackend):
    routing: ClassVar[Routing] = STREAM
