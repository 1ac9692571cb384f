"""Workers' result backends with other routings of this package."""
# mypy: allow-subclassing-any

from __future__ import annotations

import os
import secrets
from typing import ClassVar

from aioresults import QueuePerTask, ResultStream
from aioresults.contrib.celery import ResultBackend
from aioresults.routing import Routing


class PerTask(ResultBackend):
    routing: ClassVar[Routing] = QueuePerTask()


#: Of one test process and its workers: when another one has finished, it deletes its own.
STREAM = ResultStream(os.environ.get("INTEROP_STREAM", f"aioresults.interop.{secrets.token_hex(4)}"))


class Stream(ResultBackend):
    routing: ClassVar[Routing] = STREAM
