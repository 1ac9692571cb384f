"""The demo as a user runs it: as a command."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.demo import files
from tests.proxy import Proxy

CHECKOUT = Path(__file__).parents[2]
PASSWORD = "not-the-password"


@contextmanager
def demo(*arguments: str | Path, url: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "examples.demo", *arguments]
    process = subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env=os.environ | {"AMQP_URL": url, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run(*arguments: str | Path, url: str) -> tuple[int, str, str]:
    with demo(*arguments, url=url) as process:
        output, errors = process.communicate(timeout=200)
        return process.returncode, output, errors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "one.txt").write_text("one two\nthree\n")
    (tmp_path / "deeper" / "[bold]two").write_text("four")
    (tmp_path / "deeper" / "empty").touch()
    (tmp_path / "gone").symlink_to("nowhere")
    return tmp_path


def test_every_file_is_counted_and_failures_are_shown(folder: Path, broker_url: str) -> None:
    status, output, errors = run(folder, url=broker_url)
    assert (status, errors) == (0, "")
    assert "4 results in" in output
    assert "results/s, after 4 progress reports" in output
    assert "3 files, 18 bytes, 2 lines, 4 words, 3 different contents" in output
    digest = hashlib.sha256(b"one two\nthree\n").hexdigest()[:16]
    assert re.search(rf"2 +3 +{digest} +one\.txt", output)
    assert "deeper/[bold]two" in output
    assert "1 failed:\n  gone: FileNotFoundError: [Errno 2] No such file or directory" in output


def test_it_says_which_broker_without_its_password(folder: Path, amqp_url: str) -> None:
    _, output, _ = run(folder, url=amqp_url)
    assert output.startswith("broker: amqp://guest:**@")
    assert "(from AMQP_URL)" in output.splitlines()[0]


def fails(*arguments: str | Path, url: str) -> str:
    """Run a demo that cannot work; return its one line."""
    status, output, errors = run(*arguments, url=url)
    assert (status, output) == (1, "")
    assert errors.startswith("demo: ")
    assert errors.count("\n") == 1
    return errors


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no folder /nowhere" in fails("/nowhere", url="memory://unused")


def test_a_folder_without_files(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    assert f"there are no files in {tmp_path}" in fails(tmp_path, url="memory://unused")


def test_a_broker_that_is_not_there(folder: Path) -> None:
    with socket.socket() as taken:  # so that nobody can come to listen there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        line = fails(folder, url=f"amqp://guest:{PASSWORD}@127.0.0.1:{port}/")
    assert f"no use of the broker amqp://guest:**@127.0.0.1:{port}/" in line
    assert PASSWORD not in line


def test_a_password_that_is_wrong(folder: Path, amqp_url: str) -> None:
    user, _, place = amqp_url.partition("@")
    line = fails(folder, url=f"{user.rpartition(':')[0]}:{PASSWORD}@{place}")
    assert "ACCESS_REFUSED" in line
    assert PASSWORD not in line


def test_a_url_that_is_none(folder: Path) -> None:
    assert "URL scheme 'redis'" in fails(folder, url="redis://localhost")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_its_worker(tmp_path: Path, amqp_url: str, signum: signal.Signals) -> None:
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(2**40)  # a terabyte of nothing, which takes no space and cannot be read before it is interrupted
    with demo(tmp_path, url=amqp_url) as process:
        worker = child_of(process)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=200)
    assert (process.returncode, errors) == (130, "demo: interrupted\n")
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


async def test_a_broker_that_is_lost(tmp_path: Path, amqp_url: str, proxy: Callable[[str], Awaitable[Proxy]]) -> None:
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(2**40)
    between = await proxy(amqp_url)
    with demo(tmp_path, url=between.url_for(amqp_url)) as process:
        worker = await asyncio.to_thread(child_of, process)
        between.cut()
        output, errors = await asyncio.to_thread(process.communicate, timeout=200)
    assert process.returncode == 1
    assert output.startswith("broker: ")
    # The worker may have been connecting, and then says so before it.
    assert errors.splitlines()[-1] == "demo: the connection to the broker was lost, and tasks with it"
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def child_of(process: subprocess.Popen[str]) -> int:
    while process.poll() is None:
        listed = subprocess.run(["ps", "-eo", "ppid,pid,args"], capture_output=True, text=True, check=True).stdout
        for line in listed.splitlines():
            if line.split()[0] == str(process.pid) and "examples.demo.worker" in line:
                return int(line.split()[1])
    pytest.fail(f"the demo ended, status {process.returncode}")


def test_words_may_reach_over_the_end_of_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b" one two\n\nthree  four\n"
    path = tmp_path / "file"
    path.write_bytes(text)
    for chunk in range(1, len(text) + 1):
        monkeypatch.setattr(files, "CHUNK", chunk)
        assert files.figures_of(str(path)) == {
            "bytes": len(text),
            "lines": 3,
            "words": 4,
            "sha256": hashlib.sha256(text).hexdigest(),
        }


def test_the_standard_library_is_there_by_default() -> None:
    found = files.standard_library()
    assert 400 < len(found) < 1500
    assert all(path.suffix == ".py" for path in found)
