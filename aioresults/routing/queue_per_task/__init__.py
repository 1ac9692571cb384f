"""A queue for each task, named after it: anyone who has the id can look, the one that waits takes the result."""

from aioresults.routing.queue_per_task.routing import QueuePerTask

__all__ = ["QueuePerTask"]
