"""Private RabbitMQ nodes from the installed `rabbitmq-server`.

A node has its own ports, data folder, name, cookie and epmd, listens on 127.0.0.1 only, and loads no plugin: any number
of them run side by side with one another and with the system's own. Every call blocks; in a test that is async, and
whose event loop must go on meanwhile, write `await asyncio.to_thread(node.restart)`.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from aioresults.contrib.rabbitmq.process import Guard, Process

#: Where Debian keeps the real scripts; those on its PATH switch to the user `rabbitmq` and his folders.
_DEBIAN = Path("/usr/lib/rabbitmq/bin")
_FILES = 20_000  # RabbitMQ 4 breaks down near 1,000 unread queues at the usual limit of 1,024
_START_TIMEOUT = 120.0  # seconds; 4 to 6 are usual, more than 40 were seen beside much other work
# More than once, because the node may still write: it ends at the same moment.
_DELETE = 'for _ in 1 2 3 4 5 6 7 8 9; do rm -rf -- "$1" 2>/dev/null && exit; sleep 0.2; done'


class RabbitMQError(Exception):
    """A node cannot be found, started or commanded; the message has the end of its log."""


class RabbitMQMissing(RabbitMQError):
    """No ``rabbitmq-server`` is installed."""


class RabbitMQNode:
    """One broker whose life is the test's to decide. Data outlives `stop`, `kill` and `restart`, and goes with `close`.

    Neither process nor folder outlives the process that made it, however that ends.

    `with RabbitMQNode() as node:` starts and closes it. A node with a `peer` shares that one's epmd and cookie, which
    is what `node.ctl("join_cluster", peer.name)` needs; the peer is closed last.
    """

    def __init__(self, *, peer: RabbitMQNode | None = None) -> None:
        self.scripts: Path = find_scripts()
        self.folder: Path = Path(tempfile.mkdtemp(prefix="aioresults-rabbitmq-"))
        self._guard = Guard(_DELETE, str(self.folder))
        self._peer = peer
        self._token: str = peer._token if peer else f"aioresults-{secrets.token_hex(4)}"
        self._cookie: str = peer._cookie if peer else secrets.token_hex(16)
        self.name: str = f"{self._token}-{secrets.token_hex(2)}@localhost"
        self._process: Process | None = None
        self._epmd: Process | None = None
        self._choose_ports()
        self._write_files()

    def __repr__(self) -> str:
        return f"<RabbitMQNode {self.name} at {self.url}, {'running' if self.running else 'not running'}>"

    @property
    def url(self) -> str:
        """The node's AMQP URL: the same for its whole life, once it has been started."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """The process id of the Erlang VM."""
        if self._process is None:
            raise RabbitMQError(f"{self.name} has not been started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there, frozen or not."""
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start the node and return when it answers an AMQP handshake. Does nothing if it runs."""
        if self.running:
            return
        first = self._process is None
        attempts = 3 if first else 1  # later the ports are known to others
        for left in reversed(range(attempts)):
            try:
                self._start()
                return
            except RabbitMQError:
                taken = self._ports_taken()
                self.kill()
                if not (left and taken):
                    raise
                if self._epmd is not None:
                    self._epmd.kill()
                self._choose_ports()

    def stop(self) -> None:
        """Shut the node down in good order. Idempotent."""
        if self._process is not None:
            self.thaw()
            self._process.stop()

    def kill(self) -> None:
        """End the node at once, as a power cut would. Idempotent."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """`stop` and `start`."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Halt the process: its connections stay open, and nothing answers."""
        if self._process is not None:
            self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End a `freeze`."""
        if self._process is not None:
            self._process.signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop the node and delete its data. Idempotent."""
        self.kill()  # nobody needs the good order of what is deleted next
        if self._epmd is not None:
            self._epmd.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._guard.end()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def ctl(self, *args: str) -> str:
        """Run `rabbitmqctl` on this node and return what it printed (about a second)."""
        done = subprocess.run(
            [self.scripts / "rabbitmqctl", "-q", "-n", self.name, *args],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RabbitMQError(f"rabbitmqctl {' '.join(args)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def answers(self, timeout: float = 1.0) -> bool:
        """Whether this node, and not another one on its port, answers an AMQP handshake within `timeout` seconds."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                greeting = b""  # Connection.Start: it names the cluster, which is named after its first node
                while self._token.encode() not in greeting:
                    received = connection.recv(4096)
                    if not received:
                        return False
                    greeting += received
                return True
        except OSError:
            return False

    def log_tail(self, lines: int = 100) -> str:
        """The last lines of what the node printed and logged."""
        logs = [self.folder / "output", self.folder / "log" / f"{self.name}.log"]
        return "\n".join(
            line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()[-lines:]
        )

    def _ports_taken(self) -> bool:
        # Somebody may have taken a port between its choice and its use.
        no_epmd = self._epmd is not None and not self._epmd.running
        return no_epmd or any(word in self.log_tail() for word in ("eaddrinuse", "dist_port_already_used"))

    def _choose_ports(self) -> None:
        self.port: int
        self.port, self._dist_port, epmd_port = free_ports(3)
        self._epmd_port: int = self._peer._epmd_port if self._peer else epmd_port

    def _write_files(self) -> None:
        (self.folder / "log").mkdir()
        (self.folder / "enabled_plugins").write_text("[].\n")
        # The disk of a test machine may be fuller than RabbitMQ likes; then it would block every publisher.
        (self.folder / "rabbitmq.conf").write_text("disk_free_limit.absolute = 10MB\n")
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return inherited | {
            "HOME": folder,  # the cookie's place
            "LANG": "C.UTF-8",
            "ERL_CRASH_DUMP": f"{folder}/erl_crash.dump",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MAX_OPEN_FILES": str(_FILES),
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            # Files that are not there, so that the system's are not read.
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/no-rabbitmq-env.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/no-advanced.config",
            # With input allowed the script becomes the Erlang VM (exec) instead of its parent: the PID is the VM's.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            # epmd would leave our process group as a daemon, so it is our child and never started by Erlang.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CTL_ERL_ARGS": "-start_epmd false",
        }

    def _start(self) -> None:
        env = self._environment()
        output = self.folder / "output"
        self.kill()  # what a node that ended by itself has left
        if self._peer is None and (self._epmd is None or not self._epmd.running):
            if self._epmd is not None:
                self._epmd.kill()  # what is left of one that ended by itself
            self._epmd = Process(["epmd", "-port", str(self._epmd_port)], log=output, env=env)
        raise_limit = f'ulimit -n {_FILES} 2>/dev/null || ulimit -n "$(ulimit -H -n)"; exec "$0"'
        self._process = Process(["/bin/sh", "-c", raise_limit, self.scripts / "rabbitmq-server"], log=output, env=env)
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.answers():
            if not self.running:
                raise RabbitMQError(f"{self.name} ended, status {self._process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise RabbitMQError(f"{self.name} does not answer after {_START_TIMEOUT:.0f} s:\n{self.log_tail()}")
            time.sleep(0.05)


def find_scripts() -> Path:
    """The folder of the installed RabbitMQ's own scripts."""
    if (_DEBIAN / "rabbitmq-server").exists():
        return _DEBIAN
    found = shutil.which("rabbitmq-server")
    if found is None:
        raise RabbitMQMissing("no rabbitmq-server is installed (Debian: apt-get install rabbitmq-server)")
    return Path(found).resolve().parent


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens.

    From below the range that systems give to outgoing connections: a client that keeps trying a port of that range
    while nobody listens on it may be given that very port as its own; it is then connected to itself, and the server
    that comes back finds the port taken.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe:
            # As servers do it: connections of an earlier one that are still fading away do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports
