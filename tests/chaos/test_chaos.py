"""A minute of `make chaos`, so that it works when it is wanted."""

from __future__ import annotations

import argparse
import asyncio
import random
from itertools import islice

import pytest

from tests.chaos.__main__ import prepared, run, sequence
from tests.chaos.faults import FAULTS
from tests.chaos.tally import Tally
from tests.nodes import Node


def test_a_seed_is_a_sequence() -> None:
    once, again = (sequence(random.Random(3), 100, "", clustered=True) for _ in range(2))
    assert once == again != sequence(random.Random(4), 100, "", clustered=True)
    assert set(islice(once, sum(fault.weight for fault in FAULTS))) == set(FAULTS)
    assert {fault.name for fault in sequence(random.Random(3), 5, "alarm", clustered=False)} == {
        "alarm: memory", "alarm: disk"
    }  # fmt: skip


@pytest.mark.timeout(300)
def test_some_faults(own_broker: Node) -> None:
    tally = Tally()
    options = argparse.Namespace(seed=1, faults=8, only="c", verbose=False)
    with prepared([own_broker]):
        asyncio.run(run([own_broker], options, tally))
    assert tally.failures() == []
    assert tally.faults.total() == 8
    assert tally.stored == tally.awaited > 500
    assert len(list(tally.lines())) > 10
