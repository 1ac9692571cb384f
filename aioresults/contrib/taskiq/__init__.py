"""A result backend for taskiq over RabbitMQ (``aioresults[taskiq]``).

::

    broker = AioPikaBroker(URL).with_result_backend(AMQPResultBackend(URL))

Results are kept in a stream that every process may read again and again; with ``keep_results=False`` each is in a
queue of its own, and gone when it was read. A return value is what any other ``AMQPBackend`` reads as the result of
the task, too, and an error its failure; what only taskiq knows travels beside it.

taskiq waits by asking ``is_result_ready`` again and again. Here that asks the broker once at most: afterwards this
process is told, and a broker that is away meanwhile ends no wait.

A value that cannot be written, or is too large, is stored as the failure of its task: who waits is told.
"""

from aioresults.contrib.taskiq.result_backend import AMQPResultBackend, ResultIsMissingError

__all__ = ["AMQPResultBackend", "ResultIsMissingError"]
