"""The states, and which report of two counts."""

from __future__ import annotations

import itertools

from celery import states as celery_states
from hypothesis import given
from hypothesis import strategies as st

from aioresults import states

NAMES = sorted(states.READY_STATES | states.UNREADY_STATES)
STATUS = st.sampled_from([*NAMES, "PROGRESS", "success", ""])


def test_names_and_sets_are_celery_s() -> None:
    for name in NAMES:
        assert getattr(states, name) == name == getattr(celery_states, name)
    assert set(NAMES) == celery_states.ALL_STATES | {"REJECTED"}
    for name in ("READY_STATES", "UNREADY_STATES", "EXCEPTION_STATES", "PROPAGATE_STATES"):
        assert getattr(states, name) == getattr(celery_states, name)
    assert isinstance(states.READY_STATES, frozenset)


def test_which_replaces_which() -> None:
    ready, failed = {"SUCCESS", "FAILURE", "REVOKED"}, {"FAILURE", "REVOKED"}
    for new, old in itertools.product([*NAMES, "PROGRESS"], repeat=2):
        expected = old not in ready if new not in ready else old not in ready or (new == "SUCCESS" and old in failed)
        assert states.supersedes(new, old) is expected


def last(reports: list[str]) -> int:
    """Return the index of the report that a reader ends with."""
    counts = 0
    for index, status in enumerate(reports):
        if index and states.supersedes(status, reports[counts]):
            counts = index
    return counts


@given(st.lists(STATUS, min_size=1), st.data())
def test_every_reader_ends_with_the_same_state(reports: list[str], data: st.DataObject) -> None:
    """Whatever is delivered twice: a second copy, anywhere behind the first, changes nothing that ends a wait."""
    counts = reports[last(reports)]
    ready = [status for status in reports if status in states.READY_STATES]
    assert (counts in states.READY_STATES) is bool(ready)
    if "SUCCESS" in reports:
        assert counts == "SUCCESS"
    index = data.draw(st.integers(0, len(reports) - 1))
    place = data.draw(st.integers(index + 1, len(reports)))
    again = [*reports[:place], reports[index], *reports[place:]]
    if ready:
        assert again[last(again)] == counts


@given(STATUS, STATUS)
def test_no_two_ready_reports_replace_each_other(one: str, other: str) -> None:
    if {one, other} & states.READY_STATES:
        assert not (states.supersedes(one, other) and states.supersedes(other, one))
