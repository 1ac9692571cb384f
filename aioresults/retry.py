"""Which operations are tried again, how often, and how far apart.

The numbers are those of Celery's ``retry_policy``, and give the same waits as kombu's ``retry_over_time``.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aioresults.errors import BrokerRefused, BrokerUnavailable, ChannelClosed, ConfigurationError, MessageNacked

T = TypeVar("T")

#: The errors of an operation that may succeed if it is tried again, perhaps on a channel of the next session.
#: A lost confirm is one of them: whether the broker has the message is unknown, so it is published again.
TRANSIENT_ERRORS: Final = (BrokerUnavailable, ChannelClosed, MessageNacked)
#: The number of retries beyond which no caller waits for the last one.
COUNTED: Final = 10_000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The waits between attempts: ``interval_start``, growing by ``interval_step``, never above ``interval_max``.

    Example::

        policy = RetryPolicy(max_retries=3, interval_start=0.1, interval_step=0.2)
        backend = AMQPBackend("memory://example", retry_policy=policy)

    The default waits 0 seconds once, then 1 second 19 times.

    Args:
        max_retries: attempts after the first one; None for no limit, 0 for a single attempt.
        interval_start: seconds before the first retry.
        interval_step: seconds added for each further retry.
        interval_max: the longest wait, in seconds.
        jitter: the share of each wait that is drawn at random, from 0 (none) to 1. A wait of ``w`` seconds then lasts
            between ``w * (1 - jitter)`` and ``w``, so that processes that failed together do not return together.

    Raises:
        ConfigurationError: a number is negative, NaN or of another type, or ``jitter`` is above 1.
    """

    max_retries: int | None = 20
    interval_start: float = 0.0
    interval_step: float = 1.0
    interval_max: float = 1.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        retries: object = self.max_retries
        if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
            raise ConfigurationError(f"max_retries must be an integer of 0 or more, or None, not {retries!r}")
        for name in ("interval_start", "interval_step", "interval_max", "jitter"):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ConfigurationError(f"{name} must be a finite number of 0 or more, not {value!r}")
        if self.jitter > 1:
            raise ConfigurationError(f"jitter must be between 0 and 1, not {self.jitter!r}")

    @classmethod
    def of(cls, value: RetryPolicy | Mapping[str, Any]) -> RetryPolicy:
        """Return ``value`` as a policy; a mapping names its fields, as in Celery.

        Example::

            assert RetryPolicy.of({"max_retries": 3}) == RetryPolicy(max_retries=3)

        Raises:
            ConfigurationError: ``value`` is neither, or a key or a number cannot work.
        """
        if isinstance(value, RetryPolicy):
            return value
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"a retry policy is a RetryPolicy or a mapping, not {value!r}")
        unknown = sorted(set(value) - set(cls.__slots__))
        if unknown:
            raise ConfigurationError(f"unknown keys in retry policy: {unknown}; known are {list(cls.__slots__)}")
        return cls(**value)

    def delays(self, rng: Callable[[], float] = random.random) -> Iterator[float]:
        """Yield the wait before each retry in seconds, and end when no retry is left.

        Example::

            assert list(RetryPolicy(max_retries=3).delays()) == [0.0, 1.0, 1.0]

        Args:
            rng: returns a float in [0, 1); called only when there is jitter.
        """
        interval, end = float(self.interval_start), self.interval_start + self.interval_max
        for _ in itertools.count() if self.max_retries is None else range(self.max_retries):
            wait = float(min(interval, self.interval_max))
            yield wait * (1 - self.jitter * rng()) if self.jitter else wait
            # As in kombu: a step that would go beyond the end is not taken at all.
            if interval + self.interval_step <= end:
                interval += self.interval_step

    def longest(self) -> float | None:
        """Return the seconds of all waits together, without jitter; None for no limit, or one beyond 10,000 retries.

        Example::

            assert RetryPolicy(max_retries=3).longest() == 2.0
        """
        if self.max_retries is None or self.max_retries > COUNTED:
            return None
        return sum(self.delays(lambda: 0.0))


async def retrying(attempt: Callable[[], Awaitable[T]], policy: RetryPolicy | Mapping[str, Any] | None) -> T:
    """Return what ``attempt`` returns, after as many attempts as ``policy`` allows; then raise its last error."""
    delays = RetryPolicy.of(policy or {}).delays()
    while True:
        try:
            return await attempt()
        except BrokerRefused:
            raise
        except TRANSIENT_ERRORS:
            delay = next(delays, None)
            if delay is None:
                raise
        await asyncio.sleep(delay)
