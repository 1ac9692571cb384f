"""The README's programs do what it says."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aioresults import AMQPBackend

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text()
QUICKSTART, *SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_the_first_program_is_the_quickstart() -> None:
    assert (CHECKOUT / "examples" / "quickstart.py").read_text() == QUICKSTART
    assert QUICKSTART.count("\n") <= 40


def test_the_first_program_runs_as_shown(broker_url: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(QUICKSTART)
    done = subprocess.run(
        [sys.executable, "-W", "error", program],
        cwd=tmp_path,
        env=os.environ | {"AMQP_URL": broker_url},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "{'answer': 42}\n", "")


async def test_the_other_programs_run_one_after_another(broker_url: str) -> None:
    async def work() -> int:
        return 42

    async with AMQPBackend(broker_url, expires=60) as backend:
        task_id, another_id, third_id = (str(uuid.uuid4()) for _ in range(3))
        names: dict[str, Any] = {"AMQPBackend": AMQPBackend, "work": work}
        for snippet in SNIPPETS:
            names |= {"backend": backend, "task_id": task_id, "another_id": another_id, "third_id": third_id}
            code = compile(snippet, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            program: Callable[[], Any] = eval_in(code, names)
            outcome = program()
            if inspect.isawaitable(outcome):
                await asyncio.wait_for(outcome, 30)


def eval_in(code: Any, names: dict[str, Any]) -> Callable[[], Any]:
    return lambda: eval(code, names)
