"""What was counted, and what must not have happened."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

#: Seconds that a call may last beyond its deadline: one round trip to the broker has a limit of its own.
RPC_TIMEOUT = 5.0
#: The same for a busy machine.
SLACK = 2.0


@dataclass
class Tally:
    """The figures of one run."""

    faults: Counter[str] = field(default_factory=Counter)
    stored: int = 0
    awaited: int = 0
    #: Jobs that did not end: a result that was confirmed and did not arrive, or a call that hangs.
    lost: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    #: A result that is not the one that was stored, or came twice to one call; reports out of order.
    wrong: list[str] = field(default_factory=list)
    #: Errors that a call raised; it was made again.
    told: Counter[str] = field(default_factory=Counter)
    #: The longest that a call outlived its deadline, in seconds.
    overrun: float = 0.0
    #: By fault and pair: from its end (of a restart: from the first login) until a new result went through.
    recoveries: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    sessions: int = 0
    duplicates: int = 0
    leaked: list[str] = field(default_factory=list)

    def failures(self) -> list[str]:
        """Return what must not have happened."""
        found = [f"lost: {text}" for text in self.lost] + [f"hung: {text}" for text in self.hung]
        found += [f"wrong: {text}" for text in self.wrong] + [f"leaked: {text}" for text in self.leaked]
        if self.overrun > RPC_TIMEOUT + SLACK:
            found.append(f"a call outlived its deadline by {self.overrun:.1f} s")
        for (name, pair), seconds in self.recoveries.items():
            if name in RESTARTS and max(seconds) > RESTART_LIMIT:
                found.append(f"slow: {pair} took {max(seconds):.1f} s to recover from {name!r}")
        return found

    def lines(self) -> Iterator[str]:
        """Yield the figures for people, a line each."""
        yield f"faults injected     {self.faults.total()} of {len(self.faults)} kinds"
        yield f"results stored      {self.stored}"
        yield f"results awaited     {self.awaited}"
        yield f"duplicates on wire  {self.duplicates}, seen by a caller {len(self.wrong)}"
        yield f"lost                {len(self.lost)}"
        yield f"hung                {len(self.hung)}"
        yield f"leaked              {len(self.leaked)}"
        yield f"sessions            {self.sessions}"
        yield f"longest overrun     {self.overrun:.2f} s after a deadline"
        yield f"errors told         {dict(self.told) or 'none'}"
        pairs = list(dict.fromkeys(pair for _, pair in self.recoveries))
        yield f"recovery, median and slowest, seconds:{'':9}{''.join(f'{pair:>14}' for pair in pairs)}"
        for name in sorted(self.faults):
            columns = (sorted(self.recoveries.get((name, pair), [math.nan])) for pair in pairs)
            texts = (f"{seconds[len(seconds) // 2]:8.2f} {seconds[-1]:5.2f}" for seconds in columns)
            yield f"  {self.faults[name]:3} x {name:40}{''.join(texts)}"


#: Faults after which the broker has to be logged in to again, and how long that may take: seconds.
RESTARTS = ("broker killed and started", "broker stopped and started")
RESTART_LIMIT = 2.0


@contextmanager
def complaints(tally: Tally) -> Iterator[None]:
    """Count as leaked what asyncio reports as an error: tasks destroyed, exceptions that nobody looked at."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tally.leaked.append(f"asyncio: {record.getMessage()[:300]}")

    handler = Keep(logging.ERROR)
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    levels = {name: logging.getLogger(name).level for name in ("aiormq", "aio_pika", "aioresults")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
