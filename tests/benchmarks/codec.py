"""What encoding and decoding one report costs, in microseconds: ``python -m tests.benchmarks.codec``.

The best of several rounds for each operation. "round trip" is write, single, open and decode of one report of about
200 bytes, a message that is neither compressed nor signed: the way of nearly every result.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from aioresults.results import ResultMeta
from aioresults.serialization import ReportCodec

TASK_ID = "51444711-9890-4eb5-b164-29ede8a7e000"
META = ResultMeta(
    TASK_ID,
    "SUCCESS",
    {"answer": 42, "name": "some value of some length", "ok": True, "ratio": 0.5},
    children=[],
    date_done=datetime(2026, 11, 22, 11, 7, 28, 12587, tzinfo=UTC),
)
FAILURE = ResultMeta(
    TASK_ID,
    "FAILURE",
    ValueError("boom", 1),
    traceback="Traceback (most recent call last):\n  ...\nValueError: boom\n",
    children=[],
    date_done=META.date_done,
)
LIMITS = {"msgpack": 7.5, "json": 12.0}
"""The most that a round trip may cost, by serializer; it includes making the message with its properties."""


def best(operation: Callable[[], object], rounds: int) -> float:
    """Return the microseconds that one call takes, in the best of ``rounds`` rounds.

    Rounds of a few milliseconds, and many of them: so some fall between whatever else the machine does.
    """
    number = 500
    return min(timeit.repeat(operation, number=number, repeat=rounds)) / number * 1e6


def operations(codec: ReportCodec, meta: ResultMeta) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what is measured of ``codec``, by name."""
    written = codec.write(meta, TASK_ID)
    message = codec.single(TASK_ID, written)
    [document] = codec.open(message)
    many = [(TASK_ID, written)] * 300
    batch = codec.batch(many)

    def round_trip() -> None:
        for arrived in codec.open(codec.single(TASK_ID, codec.write(meta, TASK_ID))):
            codec.decode(arrived)

    yield f"write ({len(written)} bytes)", lambda: codec.write(meta, TASK_ID)
    yield "single", lambda: codec.single(TASK_ID, written)
    yield "open", lambda: codec.open(message)
    yield "decode", lambda: codec.decode(document)
    yield "round trip", round_trip
    yield "batch of 300", lambda: codec.batch(many)
    yield "open batch of 300", lambda: codec.open(batch)


def main() -> int:
    """Print the figures; return 1 when a round trip of a plain report costs more than its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=150)
    rounds = parser.parse_args().rounds
    slow = False
    for serializer, limit in LIMITS.items():
        plain = ReportCodec(serializer=serializer)
        cases = {
            "": (plain, META),
            " failure": (plain, FAILURE),
            " signed": (ReportCodec(serializer=serializer, signing_key=b"k" * 32), META),
        }
        for case, (codec, meta) in cases.items():
            for name, operation in operations(codec, meta):
                if "of 300" in name and case:
                    continue
                cost = best(operation, max(1, rounds // 50) if "of 300" in name else rounds)
                judged = name == "round trip" and not case
                slow = slow or (judged and cost > limit)
                print(f"{serializer + case:16} {name:20} {cost:8.2f} us" + (f"   (limit {limit:g})" if judged else ""))
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
