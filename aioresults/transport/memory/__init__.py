"""RabbitMQ inside this process: for tests of those who use the package, and behind ``memory://NAME``.

The contract is the port's (``aioresults.transport.base``) and, beyond it, what RabbitMQ 3.10 and 4.3 were seen to do,
down to the reply texts. A ``MemoryBroker`` holds exchanges, queues and messages; connections come from
``MemoryTransport(broker)``, may live in different event loops and threads, and lose what RabbitMQ would lose when they
go. Faults come on request: ``cut``, ``stop``, ``restart``, ``refuse``, ``block``, ``delay``, ``duplicate``.

What differs from RabbitMQ:

- Expired queues and messages go when somebody looks (or another operation passes by), not at the moment itself; only
  dead letters are on a timer, because somebody may wait for them.
- Where 3.10 and 4.3 differ, the stricter one is followed where code that passes here would fail there: ``basic.nack``
  on a stream closes the connection (3.10). An unknown exchange type or stream offset closes the channel (4.3), where
  3.10 closes the connection.
- Quorum queues behave as classic ones: no delivery limit, no ``x-delivery-count``.
- Streams: one message per chunk, dense offsets, retention message by message, no filters.
- Not there: message and consumer priorities, ``CC``/``BCC`` headers, direct reply-to, transactions, permissions,
  ``user_id`` checks, policies, virtual hosts other than ``/``.
- Bodies and properties are not encoded, only copied, so a value that AMQP cannot carry goes unnoticed.
- A consumer tag in use raises ``NotSupported`` and closes nothing; RabbitMQ closes the connection.
"""

from aioresults.transport.memory.broker import MemoryBroker, QueueInfo
from aioresults.transport.memory.connection import MemoryTransport

__all__ = ["MemoryBroker", "MemoryTransport", "QueueInfo"]
