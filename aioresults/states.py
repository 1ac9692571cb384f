"""The states of a task, what they mean for a wait, and which report of two counts.

Names and sets are Celery's (``celery.states``). A state is any non-empty string; those that are not named here are
the user's own (``PROGRESS``) and never end a wait.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "EXCEPTION_STATES",
    "FAILURE",
    "PENDING",
    "PROPAGATE_STATES",
    "READY_STATES",
    "RECEIVED",
    "REJECTED",
    "RETRY",
    "REVOKED",
    "STARTED",
    "SUCCESS",
    "UNREADY_STATES",
    "supersedes",
]

PENDING: Final = "PENDING"
RECEIVED: Final = "RECEIVED"
STARTED: Final = "STARTED"
RETRY: Final = "RETRY"
REJECTED: Final = "REJECTED"
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"

READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED})
"""States that end a wait."""
UNREADY_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
"""Known states that do not."""
PROPAGATE_STATES: Final = frozenset({FAILURE, REVOKED})
"""Ready states that are raised as exceptions."""
EXCEPTION_STATES: Final = frozenset({FAILURE, RETRY, REVOKED})
"""States whose result is an exception."""

_NOT_READY_RANK: Final = 0
_RANK: Final = {FAILURE: 1, REVOKED: 1, SUCCESS: 2}


def supersedes(new: str, old: str) -> bool:
    """Return whether a report in state ``new`` replaces one in state ``old`` that arrived before it.

    Not ready < FAILURE, REVOKED < SUCCESS. A higher rank replaces a lower one. Among reports that are not ready the
    later one counts, among ready ones of equal rank the first. So all readers end with the same answer, even if a
    report arrives late or twice.
    """
    new_rank = _RANK.get(new, _NOT_READY_RANK)
    old_rank = _RANK.get(old, _NOT_READY_RANK)
    return new_rank > old_rank or new_rank == old_rank == _NOT_READY_RANK
