"""RabbitMQ behind the port, over aio-pika; the only place that imports aio_pika or aiormq.

Plain ``aio_pika.Connection``, never the robust classes: they re-declare deleted queues, poison a connection with one
stale queue, and wait without limit. Reconnecting is the business of ``sessions``.

``connection`` opens and closes, ``channel`` does the operations. aio-pika opens and closes both, and carries every call
that has an answer of its own. What goes with each message passes it by, on a socket that aiormq lets us open:
``shared_socket``, with ``frames`` and ``properties`` as they are written and read. ``plain_channel`` sends messages
through aiormq where the socket is not ours. ``translate_errors`` has what aiormq raises as errors of this package.
"""

from aioresults.transport.amqp.connection import AMQPConnection, AMQPTransport

__all__ = ["AMQPConnection", "AMQPTransport"]
