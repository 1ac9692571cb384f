"""RabbitMQ inside this process: the broker behind ``memory://NAME``, for the tests of applications and our own.

The contract is the port's (``aioresults.transport.base``) and, beyond it, what RabbitMQ 3.10 and 4.3 were seen to do,
down to the reply texts. A ``MemoryBroker`` holds exchanges, queues and messages. Connections come from
``MemoryTransport(broker)``, may live in different event loops and threads, and lose what RabbitMQ would lose when they
end. Faults come on request: ``cut``, ``stop``, ``restart``, ``refuse``, ``block``, ``delete_queue``, ``delay``,
``duplicate``.

Read from the bottom up, each module needs only those before it: ``values`` (what is declared and published),
``queues``, ``broker``, ``connection`` (the port).

Differences from RabbitMQ:

- Expired queues and messages go at the next access to them, not at the moment they expire.
- Only rejected messages are dead-lettered, without an ``x-death`` header; those that expire or exceed a length limit
  are dropped.
- Where 3.10 and 4.3 differ, the stricter one is followed where code that passes here would fail there: ``basic.nack``
  on a stream closes the connection (3.10). An unknown exchange type or stream offset closes the channel (4.3), where
  3.10 closes the connection.
- Quorum queues behave as classic ones: no delivery limit, no ``x-delivery-count``.
- Streams: one message per chunk, dense offsets, retention message by message, no filters.
- Not there: message and consumer priorities, alternate exchanges, ``CC``/``BCC`` headers, direct reply-to,
  transactions, permissions, ``user_id`` checks, policies, virtual hosts other than ``/``.
- Bodies and properties are not encoded, only copied, so a value that AMQP cannot carry goes unnoticed.
- A consumer tag in use raises ``NotSupported`` and closes nothing; RabbitMQ closes the connection.
"""

from aioresults.transport.memory.broker import MemoryBroker, QueueInfo
from aioresults.transport.memory.connection import MemoryTransport

__all__ = ["MemoryBroker", "MemoryTransport", "QueueInfo"]
