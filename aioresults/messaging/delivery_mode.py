"""Whether a message survives a restart of the broker, by number or by name."""

from __future__ import annotations

from typing import Final

from aioresults.errors import ConfigurationError
from aioresults.transport.base import PERSISTENT, TRANSIENT

_BY_NAME: Final = {"transient": TRANSIENT, "persistent": PERSISTENT}


def delivery_mode(value: int | str | None) -> int | None:
    """Return 1 or 2 for ``transient``, ``persistent`` or the number itself; None stays None.

    Raises:
        ConfigurationError: it is none of these. (kombu finds out when something is published.)
    """
    if value is None or (value in (TRANSIENT, PERSISTENT) and not isinstance(value, (str, bool))):
        return value
    mode = _BY_NAME.get(value) if isinstance(value, str) else None
    if mode is None:
        raise ConfigurationError(f"delivery_mode must be 1, 2, 'transient' or 'persistent', not {value!r}")
    return mode
