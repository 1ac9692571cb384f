"""Where results go and where to look for them: frozen dataclasses that answer without I/O."""

from aioresults.routing.base import OURS, Routing, RoutingOptions, Stream, configured
from aioresults.routing.queue_per_task import QueuePerTask
from aioresults.routing.reply_queue import ReplyQueue
from aioresults.routing.result_stream import ResultStream

__all__ = ["OURS", "QueuePerTask", "ReplyQueue", "ResultStream", "Routing", "RoutingOptions", "Stream", "configured"]
