"""Every suite runs, with tiny numbers; what it measures is not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import SUITES
from tests.benchmarks.compare import CHECKOUT
from tests.benchmarks.peers import PEERS


def bench(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=200, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_runs(suite: str, amqp_url: str) -> None:
    status, output, errors = bench(suite, "--url", amqp_url, "--count", "20", "--rounds", "1")
    assert (status, errors) == (0, "")
    assert output


def test_every_peer_is_in_the_table(amqp_url: str) -> None:
    _, output, _ = bench("per-task", "reply", "stream", "--url", amqp_url, "--count", "5", "--rounds", "1")
    assert [name for name in PEERS if f"│ {name} " in output] == list(PEERS)


def test_a_suite_that_is_not_there() -> None:
    status, _, errors = bench("nothing")
    assert status == 2
    assert "no suite nothing; there are per-task" in errors


def test_a_broker_that_is_not_there() -> None:
    status, output, errors = bench("per-task", "--url", "amqp://guest:secret@127.0.0.1:1/", "--count", "1")
    assert (status, output) == (1, "")
    assert errors.startswith("benchmarks: celery-amqp-backend: ")
    assert errors.count("\n") == 1
    assert "secret" not in errors


def test_a_plot_needs_matplotlib(tmp_path: Path, amqp_url: str) -> None:
    picture = tmp_path / "plot.png"
    status, _, errors = bench("per-task", "--url", amqp_url, "--count", "3", "--rounds", "1", "--plot", str(picture))
    if status == 2:
        assert "--plot needs matplotlib: pip install 'aioresults[bench]'" in errors
    else:
        assert picture.stat().st_size > 0
