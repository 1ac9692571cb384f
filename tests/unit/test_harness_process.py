"""Children end when they are told to, and when nobody is left to tell them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aioresults.contrib.rabbitmq import Process


def test_stop_is_a_polite_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = Process(["/bin/sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.02; done"], log=log)
    wait_for(lambda: "up" in log.read_text())
    process.stop()
    assert process.returncode == 3
    assert log.read_text() == "up\nbye\n"
    process.stop()


def test_kill_ends_the_whole_group(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = Process(["/bin/sh", "-c", "sleep 600 & echo $!; wait"], log=log)
    wait_for(lambda: log.read_text().endswith("\n"))
    process.kill()
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: not alive(int(log.read_text())))


def test_where_the_system_forgets_children_that_ended(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = Process(["/bin/sh", "-c", "exit 3"], log=tmp_path / "log")
        wait_for(lambda: not process.running)
        process.stop()
        assert process.returncode == 0  # nobody knows
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_command_that_is_missing_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Process([tmp_path / "nothing"], log=tmp_path / "log")


def test_ends_with_its_starter_even_when_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    start = (
        "from pathlib import Path; from aioresults.contrib.rabbitmq import Process; "
        "p = Process(['sleep', '600'], log=Path(sys.argv[1])); print(p.pid, flush=True)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", f"import sys; {start}; import time; time.sleep(600)", log],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert starter.stdout is not None
    child = int(starter.stdout.readline())
    assert alive(child)
    starter.kill()
    starter.communicate()
    wait_for(lambda: not alive(child))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # In a container without an init, an orphan stays as a zombie.
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())


def wait_for(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
