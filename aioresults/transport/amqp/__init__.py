"""RabbitMQ behind the port, over aio-pika; the only place that imports aio_pika or aiormq.

Plain ``aio_pika.connect``, never the robust classes: they re-declare deleted queues, poison a connection with one
stale queue, and wait without limit. Reconnecting is the business of ``sessions``.

``connection`` opens and closes, ``channel`` does the operations, ``outcome`` turns what aiormq raises into errors of
this package and shields operations from their callers. aiormq opens and closes both, and carries every call that has an
answer of its own. What goes with each message passes it by, on the same socket: ``wire`` and ``frame_reader`` are the
way in and out, ``frames`` and ``arrivals`` write and read, ``confirms`` waits for the broker's answers, ``frame_queue``
sends aiormq's frames of a channel in order with ours.
"""

from aioresults.transport.amqp.channel import AMQPChannel
from aioresults.transport.amqp.connection import AMQPConnection, AMQPTransport

__all__ = ["AMQPChannel", "AMQPConnection", "AMQPTransport"]
