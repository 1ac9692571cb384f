"""What callers may pass."""

from __future__ import annotations

import math
import sys
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioresults import ConfigurationError, validation

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.none()),
)


class TestTaskId:
    @given(st.text(min_size=1))
    def test_is_any_text(self, value: str) -> None:
        assert validation.task_id(value) == value

    @pytest.mark.parametrize("value", ["", None, 5, b"x"])
    def test_and_nothing_else(self, value: Any) -> None:
        with pytest.raises(ConfigurationError, match="task id .*" + ("not ''" if value == "" else "not")):
            validation.task_id(value)


class TestShortString:
    @given(st.text(max_size=300))
    def test_holds_255_bytes_of_utf8(self, value: str) -> None:
        try:
            fits = len(value.encode()) <= 255
        except UnicodeEncodeError:
            fits = False
        if fits:
            assert validation.short_string("a name", value) == value
        else:
            with pytest.raises(ConfigurationError, match="a name"):
                validation.short_string("a name", value)

    def test_the_error_shows_the_beginning_alone(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            validation.short_string("a name", "x" * 10_000)
        assert len(str(caught.value)) < 300

    def test_the_error_can_be_printed(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            validation.short_string("a name", "\ud800")
        str(caught.value).encode()


class TestTimeout:
    @pytest.mark.parametrize(
        ("value", "accepted"), [(None, None), (0, 0.0), (0.5, 0.5), (3, 3.0), (math.inf, None), (10**400, None)]
    )
    def test_is_seconds_or_none(self, value: float | None, accepted: float | None) -> None:
        found = validation.timeout(value)
        assert found == accepted
        assert found is None or isinstance(found, float)

    @given(ANYTHING)
    def test_and_nothing_else(self, value: Any) -> None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is None or (number and value >= 0):
            validation.timeout(value)
        else:
            with pytest.raises(ConfigurationError, match="timeout"):
                validation.timeout(value)


class TestSeconds:
    @given(ANYTHING)
    def test_are_finite_and_positive(self, value: Any) -> None:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= sys.float_info.max:
            assert validation.seconds("a limit", value) == float(value)
        else:
            with pytest.raises(ConfigurationError, match="a limit"):
                validation.seconds("a limit", value)


class TestDelay:
    @pytest.mark.parametrize("value", [0, 0.5, 3])
    def test_is_seconds(self, value: float) -> None:
        assert validation.delay("a delay", value) == value

    @pytest.mark.parametrize("value", [None, -1, math.nan, math.inf, 10**400, True, "1"])
    def test_and_nothing_else(self, value: Any) -> None:
        with pytest.raises(ConfigurationError, match="a delay"):
            validation.delay("a delay", value)


class TestCount:
    @given(ANYTHING, st.integers(0, 3))
    def test_is_an_integer_of_a_minimum(self, value: Any, minimum: int) -> None:
        if isinstance(value, int) and not isinstance(value, bool) and value >= minimum:
            assert validation.count("a count", value, minimum) == value
        else:
            with pytest.raises(ConfigurationError, match="a count"):
                validation.count("a count", value, minimum)


class TestExpires:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [(None, None), (1, 1.0), (0.001, 0.001), (timedelta(minutes=1), 60.0), (4294967, 4294967.0)],
    )
    def test_is_seconds_or_a_timedelta_or_none(self, value: float | timedelta | None, seconds: float | None) -> None:
        assert validation.expires(value) == seconds

    @pytest.mark.parametrize(
        "value", [0, 0.0009, -1, math.nan, math.inf, True, "1", timedelta(0), timedelta(days=-1), 4294968, [1]]
    )
    def test_and_nothing_else(self, value: Any) -> None:
        with pytest.raises(ConfigurationError, match="expires must be"):
            validation.expires(value)

    @given(st.floats(0.001, 4294967))
    def test_fits_rabbitmq_s_milliseconds(self, value: float) -> None:
        assert 1 <= int((validation.expires(value) or 0) * 1000) < 2**32
