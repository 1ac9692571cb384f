"""One inbox per waiting process: its address travels in the task message, and the results come back to it."""

from aioresults.routing.reply_queue.routing import ReplyQueue

__all__ = ["ReplyQueue"]
