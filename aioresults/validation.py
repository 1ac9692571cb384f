"""What callers may pass: each check returns the value it accepted, or raises ``ConfigurationError`` naming it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeGuard, TypeVar

from aioresults.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any] | None)

#: RabbitMQ holds ``x-expires`` in milliseconds, below 2**32.
MAX_EXPIRES: Final = (2**32 - 1) // 1000
#: The largest float; an int may be larger.
_LARGEST: Final = sys.float_info.max
#: The bytes that an AMQP 0-9-1 short string can hold: a queue name, a routing key, a correlation id.
MAX_SHORT_STRING: Final = 255


def non_empty(name: str, value: object) -> str:
    """Accept a non-empty string."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} must be a non-empty string, not {value!r}")
    return value


def task_id(value: object) -> str:
    """Accept a non-empty string."""
    return non_empty("a task id", value)


def short_task_id(value: object) -> str:
    """Accept a non-empty string that AMQP can carry as a name."""
    if isinstance(value, str) and 0 < len(value) <= MAX_SHORT_STRING and value.isascii():
        return value  # nearly every task id
    return short_string("a task id", task_id(value))


def short_string(name: str, value: str) -> str:
    """Accept a string that AMQP 0-9-1 can carry as a name: at most 255 bytes of UTF-8."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{name}, {value[:40]!r}, cannot be written as UTF-8: {error.reason}") from None
    if size > MAX_SHORT_STRING:
        raise ConfigurationError(f"{name}, {value[:40] + '...'!r}, has {size} bytes; AMQP allows {MAX_SHORT_STRING}")
    return value


def timeout(value: object) -> float | None:
    """Accept seconds to wait: 0 for one look, None for no limit."""
    if value is None:
        return None
    if not _is_number(value) or not value >= 0:
        raise ConfigurationError(f"timeout must be a number of seconds, 0 or more, or None, not {value!r}")
    return None if value > _LARGEST else float(value)


def seconds(name: str, value: object) -> float:
    """Accept a finite, positive number of seconds."""
    if not _is_number(value) or not 0 < value <= _LARGEST:
        raise ConfigurationError(f"{name} must be a finite number of seconds above 0, not {value!r}")
    return float(value)


def expires(value: object) -> float | None:
    """Accept seconds or a ``timedelta``, from a millisecond to what RabbitMQ can count; None for never."""
    if value is None:
        return None
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if not _is_number(number) or not 0.001 <= number <= MAX_EXPIRES:
        raise ConfigurationError(
            f"expires must be seconds or a timedelta between 0.001 and {MAX_EXPIRES} seconds, or None, not {value!r}"
        )
    return float(number)


def delay(name: str, value: object) -> float:
    """Accept a finite number of seconds, 0 or more."""
    if not _is_number(value) or not 0 <= value <= _LARGEST:
        raise ConfigurationError(f"{name} must be a finite number of seconds, 0 or more, not {value!r}")
    return float(value)


def intervals(name: str, values: object) -> tuple[float, ...]:
    """Accept a series of finite numbers of seconds, 0 or more each."""
    if not isinstance(values, Iterable):
        raise ConfigurationError(f"{name} must be a series of seconds, not {values!r}")
    return tuple(delay(f"each of {name}", value) for value in values)


def names(name: str, values: object) -> list[str]:
    """Accept a collection of names; a single string is refused."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{name} must be a collection of names, not {values!r}")
    return list(values)


def choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Accept one of the allowed values."""
    if value not in allowed:
        raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def count(name: str, value: object, minimum: int = 0) -> int:
    """Accept an integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigurationError(f"{name} must be an integer of {minimum} or more, not {value!r}")
    return value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def optional_callable(name: str, value: F) -> F:
    """Accept a callable, or None."""
    if value is not None and not callable(value):
        raise ConfigurationError(f"{name} must be a callable, or None, not {value!r}")
    return value
