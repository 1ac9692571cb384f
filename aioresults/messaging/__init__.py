"""The nouns of AMQP, asyncio-native: exchanges, queues, and the messages that are sent and received through them.

Names and meanings are kombu's; every call that does I/O is awaited. The backend itself works through these classes.
"""

from aioresults.messaging.consumer import Consumer, Receiver
from aioresults.messaging.exchange import Binding, Exchange
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
    "Receiver",
    "declaring",
]
