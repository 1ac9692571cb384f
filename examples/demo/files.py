"""Which files are worked on, and what is counted in each."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from pathlib import Path
from typing import Final, TypedDict

#: Bytes that are read at a time, so that a file may be larger than the memory.
CHUNK: Final = 1 << 20
#: Folders of the standard library that are left out: what was installed into it, and its tests.
SKIPPED: Final = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
#: Where the ``.py`` files are that are worked on by default.
STANDARD_LIBRARY: Final = Path(sysconfig.get_path("stdlib"))


class Figures(TypedDict):
    """What is known of one file: the result of its task."""

    bytes: int
    lines: int
    words: int
    sha256: str


def standard_library() -> list[Path]:
    """Return the ``.py`` files of the running Python's standard library."""
    files = []
    for folder, folders, names in os.walk(STANDARD_LIBRARY):
        folders[:] = sorted(set(folders) - SKIPPED)
        files += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    return files


def files_in(root: Path) -> list[Path]:
    """Return all files under ``root``, and links that lead nowhere; not pipes, sockets and devices."""
    files = []
    for folder, folders, names in os.walk(root):
        folders.sort()
        paths = [Path(folder, name) for name in sorted(names)]
        files += [path for path in paths if path.is_file() or (path.is_symlink() and not path.exists())]
    return files


def figures_of(path: str) -> Figures:
    """Read one file and return its figures; raises ``OSError``."""
    digest, size, lines, words, in_word = hashlib.sha256(), 0, 0, 0, False
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            lines += chunk.count(b"\n")
            # A word may reach over the end of a chunk.
            words += len(chunk.split()) - (in_word and not chunk[:1].isspace())
            in_word = not chunk[-1:].isspace()
    return {"bytes": size, "lines": lines, "words": words, "sha256": digest.hexdigest()}
