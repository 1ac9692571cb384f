"""The nouns of AMQP, asyncio-native: exchanges, queues, and what is sent and received through them."""

from aioresults.messaging.consumer import Consumer
from aioresults.messaging.exchange import Exchange
from aioresults.messaging.message import Message
from aioresults.messaging.producer import Producer
from aioresults.messaging.queue import Queue

__all__ = ["Consumer", "Exchange", "Message", "Producer", "Queue"]
