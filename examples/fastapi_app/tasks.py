"""What the service and its workers agree on: where tasks go, and where results go."""

from __future__ import annotations

import os
from typing import Final

from aioresults import Queue, ResultStream

#: Bytes of the largest file that is taken.
MAX_FILE: Final = 2 * 2**20
#: Seconds that results are kept.
KEPT: Final = 86400
#: Every process of the service answers for every task, again and again.
RESULTS: Final = ResultStream("aioresults.example.results", max_length_bytes=2**30)
#: Messages with a file in each: its content is the body, its task's id the message id.
TASKS: Final = Queue("aioresults.example.files", expires=KEPT, queue_arguments={"x-queue-type": "classic"})


def url_of_broker() -> str:
    """Return where the broker is."""
    return os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")
