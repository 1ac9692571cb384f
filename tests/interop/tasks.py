"""The tasks of the workers, ordinary Celery tasks that know nothing of this package.

Run as ``celery -A tests.interop.tasks worker``; the environment says where and with which settings.
"""
# mypy: allow-untyped-decorators

from __future__ import annotations

import datetime
import json
import os
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from celery import chord, group
from celery.result import GroupResult

from tests.interop.client import make_app
from tests.interop.errors import AppError, CodeError, KwOnlyError, Outer

app = make_app(os.environ["INTEROP_BROKER"], **json.loads(os.environ["INTEROP_SETTINGS"]))

VALUES: dict[str, Any] = {
    "datetime": datetime.datetime(2026, 5, 4, 3, 2, 1, 999, datetime.UTC),
    "naive datetime": datetime.datetime(2026, 5, 4, 3, 2, 1),
    "date": datetime.date(2026, 5, 4),
    "time": datetime.time(3, 2, 1),
    "decimal": Decimal("1.10"),
    "uuid": UUID(int=2**100),
    "bytes": b"text",
    "binary": b"\xff\x00",
    "bigint": 2**80,
    "int keys": {1: "one"},
    "set": {1, 2},
    "object": object(),
}
ERRORS: dict[str, Exception] = {
    "ValueError": ValueError("no", 1),
    "KeyError": KeyError("k"),
    "OSError": FileNotFoundError(2, "No such file", "x.txt"),
    "AppError": AppError("app", {"a": 1}),
    "CodeError": CodeError(7, "seven"),
    "InnerError": Outer.InnerError("inside"),
    "KwOnlyError": KwOnlyError(detail="kept"),
    "object": ValueError("fine", object()),
}


@app.task
def echo(value: Any) -> Any:
    return value


@app.task
def make(kind: str) -> Any:
    return VALUES[kind]


@app.task
def fail(kind: str) -> None:
    raise ERRORS[kind]


@app.task(bind=True, max_retries=3)
def succeed_after(self: Any, times: int) -> int:
    if self.request.retries < times:
        raise self.retry(exc=AppError("again", self.request.retries), countdown=0)
    return int(self.request.retries)


@app.task(bind=True)
def report(self: Any, steps: int) -> str:
    for step in range(steps):
        self.update_state(state="PROGRESS", meta={"step": step})
    return "reported"


@app.task(ignore_result=True)
def ignored() -> str:
    return "nobody reads this"


@app.task
def parent(child_id: str) -> str:
    echo.apply_async(("child",), task_id=child_id)
    return "parent"


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "rested"


@app.task(acks_late=True)
def hold(path: str) -> str:
    """Run until that file exists; begun anew when the worker dies meanwhile."""
    while not Path(path).exists():
        time.sleep(0.01)
    return "released"


@app.task(bind=True)
def describe(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What arrived of the request."""
    request = self.request
    names = ("id", "root_id", "parent_id", "shadow", "eta", "expires", "timelimit", "argsrepr", "kwargsrepr", "group")
    described = {name: getattr(request, name) for name in names}
    delivery = {name: request.delivery_info[name] for name in ("exchange", "routing_key", "priority")}
    return {**described, **delivery, "args": args, "kwargs": kwargs, "header": request.get("x-tenant")}


@app.task
def total(values: list[int]) -> int:
    return sum(values)


@app.task(bind=True)
def replaced(self: Any) -> None:
    raise self.replace(add.s(1, 1))


@app.task
def bridges() -> tuple[int, int]:
    """This process, and how many threads of it are a bridge of this package."""
    return os.getpid(), sum(thread.name == "aioresults" for thread in threading.enumerate())


@app.task
def refused_chord() -> str:
    try:
        chord([add.s(1, 1), add.s(2, 2)])(total.s())
    except NotImplementedError as error:
        return str(error)
    return "not refused"


@app.task(bind=True)
def saved_group(self: Any) -> list[str]:
    """Send a group and save it; its id, and those of its members."""
    result = group(add.s(number, 1) for number in range(3)).apply_async(reply_to=self.request.reply_to)
    result.save()
    return [result.id, *(member.id for member in result.results)]


@app.task
def members_of(group_id: str) -> list[str] | None:
    restored = GroupResult.restore(group_id, app=app)
    return restored and [member.id for member in restored.results]


@app.task
def states_of(task_id: str) -> str:
    return str(app.AsyncResult(task_id).state)
