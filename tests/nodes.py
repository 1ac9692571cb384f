"""Brokers that a test may stop, kill and freeze: private ones, or those of a control command.

The environment variable `AIORESULTS_TEST_BROKERCTL` names a command for nodes of another RabbitMQ than the installed
one: `up N` starts node N and prints its URL, `cluster N` makes one cluster of the nodes 1 to N and prints a URL a line,
`kill N` ends a node at once, and `ctl N ARGS...` is rabbitmqctl there. Nodes 1 to 3 are used, and left running.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Final, Protocol
from urllib.parse import urlsplit

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
    """Node `number` of a control command. Others may hold an object for it, too, so nothing is kept of its process."""

    def __init__(self, command: str, number: int) -> None:
        self._command = command
        self._number = str(number)
        self._frozen: int | None = None
        self.url = self._run("up", self._number).split()[-1]

    def _run(self, *args: str) -> str:
        done = subprocess.run(
            [self._command, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise RabbitMQError(f"{self._command} {' '.join(args)}: status {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout

    def start(self) -> None:
        """Start the node, and return when it takes connections. Does nothing if it runs."""
        self._run("up", self._number)

    def stop(self) -> None:
        """Shut the node down in good order; return when its process is gone. Idempotent."""
        self.thaw()
        if self.answers():
            self.ctl("shutdown")

    def restart(self) -> None:
        """`stop` and `start`."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End the node at once. Idempotent."""
        self.thaw()
        if not self.answers():
            return
        self._run("kill", self._number)
        # The kernel closes the sockets of a large process some milliseconds after the process has ended. To who starts
        # the node meanwhile it looks as if it ran.
        deadline = monotonic() + 10
        while self.answers():
            if monotonic() > deadline:
                raise RabbitMQError(f"node {self._number} still listens 10 s after it was killed")
            sleep(0.01)

    def freeze(self) -> None:
        """Halt the process: its connections stay open, and nothing answers."""
        self._frozen = int("".join(filter(str.isdigit, self.ctl("eval", "os:getpid()."))))
        os.kill(self._frozen, signal.SIGSTOP)
        while _goes_on(self._frozen):
            sleep(0.001)

    def thaw(self) -> None:
        """End a `freeze`."""
        if self._frozen is not None:
            os.kill(self._frozen, signal.SIGCONT)
            self._frozen = None

    def ctl(self, *args: str) -> str:
        """Run `rabbitmqctl` on this node and return what it printed."""
        return self._run("ctl", self._number, *args)

    def answers(self) -> bool:
        """Whether it takes connections, as a frozen one does, too."""
        parts = urlsplit(self.url)
        try:
            socket.create_connection((parts.hostname or "localhost", parts.port or 5672), 1).close()
        except OSError:
            return False
        return True


def _goes_on(pid: int) -> bool:
    """Whether any thread of a process does not stand still yet: on other processors they go on for a moment."""
    return any("\nState:\tT" not in thread.read_text() for thread in Path(f"/proc/{pid}/task").glob("*/status"))


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
    _begin_anew(first)
    subprocess.run([command, "cluster", str(count)], check=True, capture_output=True, timeout=240)
    members = [ControlledNode(command, number) for number in range(1, count + 1)]
    try:
        yield list(members)
    finally:
        for member in members:
            member.start()  # a node that was left out cannot leave the cluster
        for member in members[1:]:
            _forget_everything(member)
            member.ctl("shutdown")
        _begin_anew(first)


def _begin_anew(node: Node) -> None:
    _forget_everything(node)
    node.ctl("start_app")


def _forget_everything(node: Node) -> None:
    """Take a node back to its first day, with its application stopped.

    `reset` leaves the coordinator of streams behind. One that knows the members of an earlier cluster, or that ran on
    its node alone and is lost with it, would have no leader then, and no stream would be found.
    """
    node.ctl("eval", "catch ra:force_delete_server(coordination, {rabbit_stream_coordinator, node()}).")
    node.ctl("stop_app")
    node.ctl("reset")


def settle_streams(nodes: Sequence[Node]) -> None:
    """Have the coordinator of streams on every node, started from the first of these, and known to every disk.

    RabbitMQ writes that it is on a node half a second after the first stream was declared. A power cut before that
    takes it from the node for good: a single node can then never use its first streams again, one of a cluster serves
    none.
    """
    declare = 'rabbit_amqqueue:declare({resource, <<"/">>, queue, <<"first">>}, true, false, [%s], none, <<"guest">>).'
    nodes[0].ctl("eval", declare % '{<<"x-queue-type">>, longstr, <<"stream">>}')
    for node in nodes:
        node.ctl("eval", "ok = dets:sync(ra_coordination_directory_reverse).")
    nodes[0].ctl("delete_queue", "first")


async def can_log_in(url: str) -> bool:
    """Whether the broker at `url` takes a login."""
    try:
        connection = await transport_for(url).connect()
    except ConnectionError:
        return False
    await connection.close()
    return True


async def until_login(node: Node) -> float:
    """Start a node; return when the first login succeeded, on the monotonic clock."""
    starting = asyncio.create_task(asyncio.to_thread(node.start))
    while not await can_log_in(node.url):
        await asyncio.sleep(0.02)
    first_login = monotonic()
    await starting
    return first_login
