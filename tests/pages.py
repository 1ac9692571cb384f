"""The programs that the pages show."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

CHECKOUT = Path(__file__).parents[1]


def programs(page: str) -> list[str]:
    """Return the blocks of Python of a page, in order."""
    text = (CHECKOUT / page).read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def names_of(page: str, number: int = 0) -> dict[str, Any]:
    """Run a program that only defines something, as a module of its own; return its names."""
    module = ModuleType(Path(page).stem)
    exec(compile(programs(page)[number], page, "exec", dont_inherit=True), vars(module))
    return vars(module)
