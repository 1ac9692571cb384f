"""What the pytest plug-in adds to the start of pytest, by ``python -X importtime``."""

from __future__ import annotations

import re
import subprocess
import sys
from statistics import median
from typing import Final

RUNS: Final = 20
PLUGIN: Final = "aioresults.contrib.pytest_plugin"


def import_time(statement: str) -> float:
    """Return the milliseconds that all imports of a fresh interpreter take."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(int(own) for own in re.findall(r"import time: +(\d+) \|", printed)) / 1000


def measure(runs: int) -> tuple[float, float]:
    """Return the medians without the plug-in and with it, of interleaved runs."""
    pairs = [(import_time("import pytest"), import_time(f"import pytest, {PLUGIN}")) for _ in range(runs)]
    without, with_it = zip(*pairs, strict=True)
    return median(without), median(with_it)
