"""aioresults: task results over RabbitMQ, stored by one process and awaited by another."""

from aioresults.async_result import AsyncResult
from aioresults.backend import AMQPBackend
from aioresults.errors import (
    AccessRefused,
    AioResultsError,
    BackendClosed,
    BacklogLimitExceeded,
    BrokerRefused,
    BrokerUnavailable,
    ChannelClosed,
    ChannelError,
    ConfigurationError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    InequivalentArgument,
    MessageNacked,
    MessageReturned,
    NotBoundError,
    NotFound,
    NotSupported,
    PreconditionFailed,
    RemoteError,
    ResourceLocked,
    ResultEvicted,
    ResultForgotten,
    ResultNotRouted,
    ResultTimeout,
    ResultTooLarge,
    SignatureMismatch,
    StoreError,
    TaskRevoked,
    WrongEventLoop,
)
from aioresults.messaging import Consumer, Exchange, Message, Producer, Queue
from aioresults.results import Request, ResultMeta
from aioresults.retry import RetryPolicy
from aioresults.routing import QueuePerTask
from aioresults.serialization import Serializers

__all__ = [
    # What users hold
    "AMQPBackend",
    "AsyncResult",
    "QueuePerTask",
    "Request",
    "ResultMeta",
    "RetryPolicy",
    "Serializers",
    # The nouns of AMQP
    "Consumer",
    "Exchange",
    "Message",
    "Producer",
    "Queue",
    # Errors, as in the tree of aioresults.errors
    "AioResultsError",
    "ConfigurationError",
    "WrongEventLoop",
    "BrokerUnavailable",
    "BrokerRefused",
    "BackendClosed",
    "ResultTimeout",
    "ResultForgotten",
    "ResultEvicted",
    "StoreError",
    "ResultNotRouted",
    "ResultTooLarge",
    "BacklogLimitExceeded",
    "EncodeError",
    "DecodeError",
    "ContentDisallowed",
    "SignatureMismatch",
    "RemoteError",
    "TaskRevoked",
    "NotBoundError",
    "NotSupported",
    "MessageNacked",
    "MessageReturned",
    "ChannelError",
    "ChannelClosed",
    "NotFound",
    "AccessRefused",
    "ResourceLocked",
    "PreconditionFailed",
    "InequivalentArgument",
]  # fmt: skip
