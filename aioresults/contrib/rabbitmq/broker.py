"""The broker that a test suite runs on: one that is there, or a private node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from aioresults.contrib.rabbitmq.node import RabbitMQNode

#: The environment variable that names a broker which is there already.
TEST_URL: Final = "AIORESULTS_TEST_URL"


@dataclass(frozen=True)
class ExistingBroker:
    """A broker that is not ours to start or stop."""

    url: str


@contextmanager
def broker_for_tests() -> Iterator[RabbitMQNode | ExistingBroker]:
    """Yield the broker of ``AIORESULTS_TEST_URL``, or a private node that lives as long as the block.

    Raises:
        RabbitMQMissing: there is neither.
        RabbitMQError: the node does not start.
    """
    if url := os.environ.get(TEST_URL):
        yield ExistingBroker(url)
        return
    with RabbitMQNode() as node:
        yield node
