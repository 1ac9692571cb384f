"""What the result backend for taskiq remembers of results in queues: on a clock of its own."""

from __future__ import annotations

from itertools import pairwise

import pytest

from aioresults.contrib.taskiq.ended import LONGEST, PAUSE, SHORTEST, Ended


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ended(clock: Clock) -> Ended:
    return Ended(clock)


def test_nothing_is_known_of_a_task_that_was_not_seen(ended: Ended) -> None:
    assert ended.is_there("a") is None
    assert "a" not in ended


@pytest.mark.parametrize("is_there", [True, False])
def test_the_broker_is_asked_ever_more_rarely(ended: Ended, clock: Clock, is_there: bool) -> None:
    ended.note("a", is_there=is_there)
    asked, end = [], clock.now + 10 * LONGEST
    while clock.now < end:
        if ended.is_there("a") is None:
            assert "a" in ended
            asked.append(clock.now)
            ended.note("a", is_there=is_there)
        clock.now += SHORTEST / 4
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 2 * SHORTEST
    assert LONGEST <= pauses[-1] <= LONGEST + SHORTEST
    assert len(asked) < 20


def test_what_has_changed_may_change_again_soon(ended: Ended, clock: Clock) -> None:
    ended.note("a", is_there=True)
    clock.now += SHORTEST + 5
    ended.note("a", is_there=True)
    clock.now += 4
    assert ended.is_there("a") is True
    ended.note("a", is_there=False)
    assert ended.is_there("a") is False
    clock.now += SHORTEST + 0.1
    assert ended.is_there("a") is None


def test_who_asks_after_a_pause_asks_anew(ended: Ended, clock: Clock) -> None:
    ended.note("a", is_there=False)
    clock.now += SHORTEST + PAUSE + 0.1
    assert ended.is_there("a") is None
    assert "a" not in ended
    ended.note("a", is_there=False)
    clock.now += SHORTEST + 0.1
    assert ended.is_there("a") is None
