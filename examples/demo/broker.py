"""Where the demo finds a broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from aioresults.contrib.rabbitmq import RabbitMQMissing, RabbitMQNode, find_scripts


@contextmanager
def broker(console: Console) -> Iterator[tuple[str, str]]:
    """Yield a broker's URL and where it comes from; a node that was started for it ends with the block.

    Raises:
        RabbitMQError: a node was to be started, and does not come up.
    """
    if url := os.environ.get("AMQP_URL"):
        yield url, "from AMQP_URL"
        return
    try:
        find_scripts()
    except RabbitMQMissing:
        yield "memory://demo", "both sides in one process: no rabbitmq-server is installed, and AMQP_URL is not set"
        return
    with console.status("starting a private RabbitMQ node..."):
        node = RabbitMQNode()
        try:
            node.start()
        except BaseException:
            node.close()
            raise
    with node:
        yield node.url, "a private RabbitMQ node, started for this demo"
