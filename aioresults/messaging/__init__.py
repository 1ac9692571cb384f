"""The nouns of AMQP, asyncio-native: exchanges, queues, and what is sent and received through them.

Names and meanings are kombu's; what does I/O is awaited. The backend itself works through these classes.
"""

from aioresults.messaging.binding import Binding
from aioresults.messaging.consumer import Consumer
from aioresults.messaging.exchange import Exchange
from aioresults.messaging.message import Message
from aioresults.messaging.producer import Producer
from aioresults.messaging.queue import NoCacheQueue, Queue, declaring
from aioresults.transport.base import OutgoingMessage

__all__ = [
    "Binding",
    "Consumer",
    "Exchange",
    "Message",
    "NoCacheQueue",
    "OutgoingMessage",
    "Producer",
    "Queue",
    "declaring",
]
