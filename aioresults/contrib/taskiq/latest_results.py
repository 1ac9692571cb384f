"""Results as taskiq has them: an id may be used again, and then its latest result counts."""

from __future__ import annotations

from aioresults import AMQPBackend, states


class LatestResults(AMQPBackend):
    """A backend for which a later result of a task replaces an earlier one, whatever it is.

    So do the other result backends of taskiq. There an id has several results where its retries are stored, each
    attempt's (``no_result_on_retry=False``), and where a schedule names the id of what it runs.
    """

    def supersedes(self, new: str, old: str) -> bool:
        """Return whether ``new`` is the state of a result, or ``old`` is not."""
        return new in states.READY_STATES or old not in states.READY_STATES
