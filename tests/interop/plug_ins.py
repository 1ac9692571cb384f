"""Workers' result backends with other routings of this package."""
# mypy: allow-subclassing-any

from __future__ import annotations

from typing import ClassVar

from aioresults import QueuePerTask
from aioresults.contrib.celery import ResultBackend
from aioresults.routing import Routing


class PerTask(ResultBackend):
    routing: ClassVar[Routing] = QueuePerTask()
