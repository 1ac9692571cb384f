"""Child processes that never outlive the tests.

A `Process` leads its own process group. It is ended by `stop` or `kill`, always by its PID; and when the process that
started it dies without saying so (SIGKILL, a time limit), a guard ends the whole group in its stead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Guard:
    """Runs a shell command with one argument, `$1`, when this process dies without having ended the guard."""

    def __init__(self, command: str, argument: str) -> None:
        # Its stdin is a pipe that only this process holds open: end of file means that it is gone.
        self._popen = subprocess.Popen(
            ["/bin/sh", "-c", f"read -r _; {command}", "guard", argument], stdin=subprocess.PIPE, process_group=0
        )

    @property
    def is_over(self) -> bool:
        """Whether it was ended."""
        return self._popen.poll() is not None

    def end(self) -> None:
        """Run nothing. Idempotent."""
        if not self.is_over:
            self._popen.kill()
            self._popen.communicate()


class Process:
    """A running command, its output in the file `log` (appended), without standard input."""

    def __init__(self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None) -> None:
        with log.open("ab") as output:
            # A group of its own also keeps the terminal's Ctrl-C from the child: the tests decide when it ends.
            self._popen = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, process_group=0
            )
        self.pid: int = self._popen.pid
        self._guard = Guard('kill -s KILL -- "-$1"', str(self.pid))

    @property
    def running(self) -> bool:
        """Whether the command has not ended yet."""
        return self.returncode is None

    @property
    def returncode(self) -> int | None:
        """The exit status; negative is the signal that ended it; `None` while it runs."""
        if self._popen.returncode is None:
            # Not with `poll`, which lets the system give the PID to somebody else, whom `kill` would meet.
            try:
                ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:  # it has ended, and this program lets the system forget its children (SIG_IGN)
                return self._popen.poll()
            if ended is not None:
                return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return self._popen.returncode

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the whole group, if the command still runs. After SIGSTOP it stands still on return."""
        if self.running:
            os.killpg(self.pid, signum)
            if signum == signal.SIGSTOP:  # which takes its time: threads on other processors go on for a moment
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def stop(self, timeout: float = 30.0) -> None:
        """Ask the command to end (SIGTERM) and wait for it, at most `timeout` seconds; then `kill`. Idempotent."""
        if self.running:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End the command and its group at once (SIGKILL). Idempotent."""
        if not self._guard.is_over:
            # Not only if the command runs: a member of its group may have outlived it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()
            self._guard.end()
