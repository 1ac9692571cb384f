"""What the pytest plug-in adds to the start of pytest, by ``python -X importtime``."""

from __future__ import annotations

import re
import subprocess
import sys
from statistics import median
from typing import Final

RUNS: Final = 20
PLUGIN: Final = "aioresults.contrib.pytest_plugin"


def import_times() -> tuple[float, float]:
    """Return the milliseconds that a fresh interpreter takes to import pytest, and the plug-in behind it.

    The plug-in's time is its own line, not the difference of two interpreters' times: pytest takes fifty times as long,
    and varies by more than all that the plug-in takes.
    """
    command = [sys.executable, "-X", "importtime", "-c", f"import pytest, {PLUGIN}"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    lines = re.findall(r"^import time: +\d+ \| +(\d+) \| (\S+)$", printed, re.MULTILINE)  # not what others imported
    cumulative = {name: int(microseconds) / 1000 for microseconds, name in lines}
    return cumulative["pytest"], cumulative[PLUGIN]


def measure(runs: int) -> tuple[float, float]:
    """Return the medians of both."""
    of_pytest, of_plugin = zip(*(import_times() for _ in range(runs)), strict=True)
    return median(of_pytest), median(of_plugin)
