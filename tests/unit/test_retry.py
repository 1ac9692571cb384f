"""The waits between attempts: kombu's, number for number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.functional import retry_over_time

from aioresults import ConfigurationError, RetryPolicy

SECONDS = st.floats(0, 1000, allow_nan=False)


def waits(policy: RetryPolicy, count: int = 30) -> list[float]:
    return list(itertools.islice(policy.delays(), count))


class TestDelays:
    def test_by_default_0_and_19_times_1_second(self) -> None:
        assert waits(RetryPolicy()) == [0.0, *[1.0] * 19]

    @pytest.mark.parametrize(
        ("start", "step", "most", "expected"),
        [
            (0, 1, 1, [0, 1, 1, 1]),
            (0, 0.2, 0.2, [0, 0.2, 0.2, 0.2]),
            (2, 3, 5, [2, 5, 5, 5]),
            (2, 2, 30, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 30]),
            (0, 0, 0, [0, 0, 0]),
            (5, 1, 1, [1, 1, 1]),
        ],
    )
    def test_grow_to_the_longest(self, start: float, step: float, most: float, expected: list[float]) -> None:
        policy = RetryPolicy(len(expected), start, step, most)
        assert waits(policy) == pytest.approx(expected)

    @pytest.mark.parametrize("retries", [0, 1, 5])
    def test_as_many_as_retries(self, retries: int) -> None:
        assert len(waits(RetryPolicy(retries))) == retries

    def test_without_limit(self) -> None:
        assert waits(RetryPolicy(None), 1000)[-1] == 1.0

    def test_each_store_has_its_own(self) -> None:
        policy = RetryPolicy(2)
        first, second = policy.delays(), policy.delays()
        assert [next(first), next(second), next(first)] == [0.0, 0.0, 1.0]

    @pytest.mark.parametrize(
        "numbers",
        [
            (20, 0, 1, 1),
            (5, 0, 0.2, 0.2),
            (4, 0, 2, 5),
            (4, 2, 3, 5),
            (20, 2, 2, 30),
            (20, 0, 0.1, 1),
            (3, 0, 0, 0),
            (3, 5, 0, 1),
        ],
    )
    def test_are_those_of_kombu(
        self, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, float, float, float]
    ) -> None:
        found: list[float] = []
        monkeypatch.setattr("kombu.utils.functional.sleep", lambda seconds: None)
        retries, start, step, most = numbers

        def fail() -> None:
            raise ConnectionError

        def next_wait(error: Exception, intervals: Iterator[float], retries: int) -> float:
            found.append(float(min(next(intervals), most)))
            return found[-1]

        retry: Any = retry_over_time
        options = {"max_retries": retries, "interval_start": start, "interval_step": step, "interval_max": most}
        with pytest.raises(ConnectionError):
            retry(fail, ConnectionError, errback=next_wait, **options)
        assert waits(RetryPolicy(*numbers)) == found

    @given(st.integers(0, 50), SECONDS, SECONDS, SECONDS)
    def test_never_above_the_longest_and_never_shrinking(
        self, retries: int, start: float, step: float, most: float
    ) -> None:
        found = waits(RetryPolicy(retries, start, step, most), 100)
        assert len(found) == retries
        assert all(0 <= wait <= most for wait in found)
        assert found == sorted(found)

    @given(st.floats(0, 1), st.floats(0, 1, exclude_max=True))
    def test_jitter_takes_a_share_off(self, jitter: float, drawn: float) -> None:
        policy = RetryPolicy(5, 0, 1, 2, jitter)
        plain = waits(RetryPolicy(5, 0, 1, 2))
        for wait, full in zip(policy.delays(lambda: drawn), plain, strict=True):
            assert full * (1 - jitter) <= wait <= full
            assert wait == pytest.approx(full * (1 - jitter * drawn))

    def test_without_jitter_nothing_is_drawn(self) -> None:
        def never() -> float:
            raise AssertionError

        assert list(RetryPolicy(2).delays(never)) == [0.0, 1.0]


class TestOf:
    def test_a_mapping_names_the_fields(self) -> None:
        mapping = {"max_retries": 3, "interval_start": 1, "interval_step": 2, "interval_max": 4, "jitter": 0.5}
        assert RetryPolicy.of(mapping) == RetryPolicy(3, 1, 2, 4, 0.5)
        assert RetryPolicy.of({}) == RetryPolicy()

    def test_a_policy_stays_itself(self) -> None:
        policy = RetryPolicy(1)
        assert RetryPolicy.of(policy) is policy

    @pytest.mark.parametrize("value", [None, 5, "policy", [("max_retries", 1)]])
    def test_anything_else_is_refused(self, value: Any) -> None:
        with pytest.raises(ConfigurationError, match="a RetryPolicy or a mapping, not"):
            RetryPolicy.of(value)

    def test_unknown_keys_are_named(self) -> None:
        with pytest.raises(ConfigurationError, match=r"\['interval', 'tries'\]"):
            RetryPolicy.of({"tries": 1, "interval": 2})


@pytest.mark.parametrize("value", [-1, 1.5, True, "3", math.nan])
def test_retries_are_a_count(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_retries"):
        RetryPolicy(max_retries=value)


@pytest.mark.parametrize("name", ["interval_start", "interval_step", "interval_max", "jitter"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, True, "1", None])
def test_intervals_are_finite_numbers(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        RetryPolicy(**{name: value})


def test_a_policy_does_not_change() -> None:
    with pytest.raises(AttributeError):
        RetryPolicy().max_retries = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("policy", "longest"),
    [
        ({}, 19.0),
        ({"max_retries": 0}, 0.0),
        ({"max_retries": 3, "interval_start": 1, "interval_step": 1, "interval_max": 2, "jitter": 1}, 5.0),
        ({"max_retries": None}, None),
        ({"max_retries": 10**9}, None),
    ],
)
def test_the_longest_that_all_waits_may_take(policy: dict[str, Any], longest: float | None) -> None:
    assert RetryPolicy.of(policy).longest() == longest
