"""Where results go, and how a process reads them: a base class, and a folder for each routing."""

from aioresults.routing.base import Reader, ReaderParts, Routing, RoutingOptions
from aioresults.routing.queue_per_task import QueuePerTask
from aioresults.routing.reply_queue import ReplyQueue
from aioresults.routing.result_stream import ResultStream
from aioresults.sessions.sessions import Session

__all__ = [
    "QueuePerTask",
    "Reader",
    "ReaderParts",
    "ReplyQueue",
    "ResultStream",
    "Routing",
    "RoutingOptions",
    "Session",
]
