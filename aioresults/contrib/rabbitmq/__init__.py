"""Real RabbitMQ nodes for tests and demos, from the installed ``rabbitmq-server``."""

from aioresults.contrib.rabbitmq.broker import ExistingBroker, broker_for_tests
from aioresults.contrib.rabbitmq.node import RabbitMQError, RabbitMQMissing, RabbitMQNode, find_scripts, free_ports
from aioresults.contrib.rabbitmq.process import Process

__all__ = [
    "ExistingBroker",
    "Process",
    "RabbitMQError",
    "RabbitMQMissing",
    "RabbitMQNode",
    "broker_for_tests",
    "find_scripts",
    "free_ports",
]
