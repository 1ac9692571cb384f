"""Brokers that a test may stop, kill and freeze: private ones, or those of a control command.

The environment variable `AIORESULTS_TEST_BROKERCTL` names a command for nodes of another RabbitMQ than the installed
one: `up N` starts node N and prints its URL, `cluster N` makes one cluster of the nodes 1 to N and prints a URL a line,
`kill N` ends a node at once, and `ctl N ARGS...` is rabbitmqctl there. Nodes 1 to 3 are used, and left running.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol

from aioresults.contrib.rabbitmq import RabbitMQError, RabbitMQNode
from aioresults.transport import transport_for

BROKERCTL: Final = "AIORESULTS_TEST_BROKERCTL"


class Node(Protocol):
    """One broker. Every call blocks, and may be made in any state."""

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def restart(self) -> None: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def ctl(self, *args: str) -> str: ...
    def answers(self) -> bool: ...


class ControlledNode:
    """Node `number` of a control command."""

    def __init__(self, command: str, number: int) -> None:
        self._command = command
        self._number = str(number)
        self.url = self._run("up", self._number).split()[-1]
        self._pid = self._find_pid()

    def _run(self, *args: str) -> str:
        done = subprocess.run(
            [self._command, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise RabbitMQError(f"{self._command} {' '.join(args)}: status {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout

    def _find_pid(self) -> int | None:
        return int("".join(filter(str.isdigit, self.ctl("eval", "os:getpid()."))))

    def start(self) -> None:
        """Start the node, and return when it takes connections. Does nothing if it runs."""
        if not self.answers():
            self._run("up", self._number)
            self._pid = self._find_pid()

    def stop(self) -> None:
        """Shut the node down in good order. Idempotent."""
        if self.answers():
            self.thaw()
            self.ctl("stop")
            self._pid = None

    def restart(self) -> None:
        """`stop` and `start`."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End the node at once. Idempotent."""
        if self.answers():
            self.thaw()
            self._run("kill", self._number)
            self._pid = None

    def freeze(self) -> None:
        """Halt the process: its connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End a `freeze`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._pid is not None and self.answers():
            os.kill(self._pid, number)

    def ctl(self, *args: str) -> str:
        """Run `rabbitmqctl` on this node and return what it printed."""
        return self._run("ctl", self._number, *args)

    def answers(self) -> bool:
        """Whether the process is there, which may have been ended by somebody else."""
        if self._pid is None:
            return False
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return False
        return True


@contextmanager
def one_node() -> Iterator[Node]:
    """Yield a node; a private one is gone at the end."""
    command = os.environ.get(BROKERCTL)
    if command is None:
        with RabbitMQNode() as private:
            yield private
        return
    controlled = ControlledNode(command, 1)
    try:
        yield controlled
    finally:
        controlled.start()


@contextmanager
def cluster(count: int = 3) -> Iterator[list[Node]]:
    """Yield the nodes of a new cluster, which ends with the block."""
    command = os.environ.get(BROKERCTL)
    if command is None:
        with ExitStack() as stack:
            seed = stack.enter_context(RabbitMQNode())
            others = [stack.enter_context(RabbitMQNode(peer=seed)) for _ in range(count - 1)]
            for node in others:
                node.ctl("stop_app")
                node.ctl("reset")
                node.ctl("join_cluster", seed.name)
                node.ctl("start_app")
            yield [seed, *others]
        return
    first = ControlledNode(command, 1)
    # A coordinator of streams that ran on it alone would stay on it alone, and be lost with it.
    for do in ("stop_app", "reset", "start_app"):
        first.ctl(do)
    subprocess.run([command, "cluster", str(count)], check=True, capture_output=True, timeout=240)
    members = [ControlledNode(command, number) for number in range(1, count + 1)]
    try:
        yield list(members)
    finally:
        for member in members:
            member.start()  # a node that was left out cannot leave the cluster
        for member in members[1:]:
            member.ctl("stop_app")
            member.ctl("reset")
            member.stop()


async def can_log_in(url: str) -> bool:
    """Whether the broker at `url` takes a login."""
    try:
        connection = await transport_for(url).connect()
    except ConnectionError:
        return False
    await connection.close()
    return True
