"""The broker behind a port: ``base`` is the contract, ``amqp`` RabbitMQ, ``memory`` a broker inside this process."""

from aioresults.transport.base import Channel, Transport
from aioresults.transport.url import transport_for

__all__ = ["Channel", "Transport", "transport_for"]
