"""The public names of the package; users import them from ``aioresults``.

Each name is written once: ``X as X`` makes it public, and the star passes on what ``aioresults.errors`` lists.
"""

from aioresults.backend import AMQPBackend as AMQPBackend
from aioresults.errors import *  # noqa: F403
from aioresults.handles import AsyncResult as AsyncResult
from aioresults.handles import GroupResult as GroupResult
from aioresults.messaging import Consumer as Consumer
from aioresults.messaging import Exchange as Exchange
from aioresults.messaging import Message as Message
from aioresults.messaging import Producer as Producer
from aioresults.messaging import Queue as Queue
from aioresults.results import Request as Request
from aioresults.results import ResultMeta as ResultMeta
from aioresults.retry import RetryPolicy as RetryPolicy
from aioresults.routing import QueuePerTask as QueuePerTask
from aioresults.routing import ReplyQueue as ReplyQueue
from aioresults.routing import ResultStream as ResultStream
from aioresults.serialization import Serializers as Serializers
