"""Properties are written as pamqp writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st

from aioresults.transport.amqp.frames import Properties

SHORT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(width=32)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
    | st.just(Decimal("1.5"))
    | st.just(datetime(2026, 5, 4, tzinfo=UTC)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {
            **dict.fromkeys(("content_type", "content_encoding", "correlation_id", "reply_to", "message_id"), SHORT),
            **dict.fromkeys(("expiration", "message_type", "app_id"), SHORT),
            "headers": st.none() | st.dictionaries(NAMES, VALUES, max_size=6),
            "delivery_mode": st.none() | st.sampled_from([1, 2]),
            "priority": st.none() | st.integers(0, 255),
            "timestamp": st.none() | st.just(datetime(2026, 5, 4, tzinfo=UTC)),
        }
    )
)
def test_as_pamqp_writes_them(fields: dict[str, Any]) -> None:
    assert Properties(**fields).marshal() == spec.Basic.Properties(**fields).marshal()


@pytest.mark.parametrize("fields", [{"reply_to": "x" * 256}, {"headers": {"x": object()}}, {"headers": {"x" * 256: 1}}])
def test_what_amqp_cannot_carry(fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Properties(**fields).marshal()
