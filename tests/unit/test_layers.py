"""The shape of the package: imports point down, one importer of the AMQP libraries, few dependencies, short modules."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tests

PACKAGE = Path(tests.__file__).parents[1] / "aioresults"

#: From the top down: a module may import its own layer, without a cycle, and those below.
LAYERS = (
    {"contrib"},
    {"api"},
    {"app_settings", "backend", "handles", "iteration", "many_results", "recording", "watch"},
    {"runtime", "groups"},
    {"routing"},
    {"sessions", "settings"},
    {"messaging"},
    {"waiting", "serialization"},
    {"transport"},
    {"results", "states", "retry", "validation", "timing", "events", "errors"},
)
AMQP_LIBRARIES = {"aio_pika", "aiormq", "pamqp"}
AMQP_SEAM = "aioresults.transport.amqp"  # a module, or a package of that name
CELERY = {"billiard", "celery", "kombu"}
CELERY_SEAM = "aioresults.contrib.celery.result_backend"  # calling Celery's workers needs no Celery
DEPENDENCIES = {"aio_pika", "aiormq", "anyio", "msgpack"}
#: Extras, and what the standard library has only since 3.14 (`compression`): imported when they are wanted.
OPTIONAL = {"serialization": {"backports", "compression", "msgspec", "pydantic", "yaml"}}
#: Lines of code: blank lines, comments and docstrings do not count.
MAX_MODULE = 400
MAX_FUNCTION = 40
#: Read from top to bottom by those who hold them, so in one piece, however long.
HELD_BY_USERS = {"aioresults.backend", "aioresults.messaging.consumer"}


@dataclass
class Module:
    """One parsed file: what it imports, each name with its line, and what only type checkers see of that."""

    name: str
    path: Path
    tree: ast.Module
    imports: list[tuple[str, int]] = field(default_factory=list)
    typing_only: set[int] = field(default_factory=set)

    @property
    def part(self) -> str:
        """The part of the package it belongs to; empty for `aioresults` itself."""
        return self.name.partition(".")[2].partition(".")[0]


def test_the_package_keeps_its_shape() -> None:
    found = violations(PACKAGE)
    assert not found, "\n".join(["", *found])


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for module in read(PACKAGE):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{module.path}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def violations(package: Path) -> list[str]:
    """Everything that is wrong with the package in that folder, a line each."""
    modules = {module.name: module for module in read(package)}
    found = [line for module in modules.values() for check in CHECKS for line in check(module)]
    return found + list(cycles(modules))


def read(package: Path) -> Iterator[Module]:
    paths = sorted(package.rglob("*.py"))
    names = {path: ".".join((package.name, *path.relative_to(package).with_suffix("").parts)) for path in paths}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    known = set(names.values())
    for path, name in names.items():
        module = Module(name, path, ast.parse(path.read_text(encoding="utf-8")))
        parent = name if path.stem == "__init__" else name.rpartition(".")[0]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                module.typing_only |= {
                    inner.lineno for part in node.body for inner in ast.walk(part) if isinstance(inner, ast.stmt)
                }
            if isinstance(node, ast.Import | ast.ImportFrom):
                module.imports += [(target, node.lineno) for target in targets(node, parent, known)]
        yield module


def targets(node: ast.Import | ast.ImportFrom, parent: str, known: set[str]) -> Iterator[str]:
    """The modules that a statement imports; `from package import module` is an import of `package.module`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        base = node.module or ""
        if node.level:
            above = parent.rsplit(".", node.level - 1)[0]
            base = f"{above}.{base}" if base else above
        for alias in node.names:
            yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base


def layer(part: str) -> int | None:
    return next((index for index, parts in enumerate(LAYERS) if part in parts), None)


def arrows(module: Module) -> Iterator[str]:
    """An arrow that points up; a module without a place."""
    if not module.part:
        return
    own = layer(module.part)
    if own is None:
        yield f"{module.path}:1: `{module.part}` has no layer: give it one in LAYERS"
        return
    for target, line in module.imports:
        top, _, rest = target.partition(".")
        if top != "aioresults" or own == 0:
            continue
        part = rest.partition(".")[0]
        theirs = layer(part)
        if theirs is None or theirs < own:
            yield f"{module.path}:{line}: {module.name} imports {target}, which is above it"


def foreign_imports(module: Module) -> Iterator[str]:
    """AMQP outside the seam, or a dependency that nobody agreed on."""
    allowed = (
        sys.stdlib_module_names | DEPENDENCIES | AMQP_LIBRARIES | {"aioresults"} | OPTIONAL.get(module.part, set())
    )
    for target, line in module.imports:
        top = target.partition(".")[0]
        if top in CELERY and module.part == "contrib" and module.name != CELERY_SEAM:
            yield f"{module.path}:{line}: only {CELERY_SEAM} may import {top}"
        if top in AMQP_LIBRARIES and not is_seam(module.name) and module.part != "contrib":
            yield f"{module.path}:{line}: only {AMQP_SEAM} may import {top}"
        elif top not in allowed and module.part != "contrib":
            yield f"{module.path}:{line}: {module.name} imports {top}, which is not a dependency"


def is_seam(name: str) -> bool:
    return name == AMQP_SEAM or name.startswith(f"{AMQP_SEAM}.")


def sizes(module: Module) -> Iterator[str]:
    """A module without a docstring, too long a module, too long a function."""
    if not ast.get_docstring(module.tree):
        yield f"{module.path}:1: no docstring"
    code = code_lines(module)
    if len(code) > MAX_MODULE and module.name not in HELD_BY_USERS:
        yield f"{module.path}:1: {len(code)} lines of code; {MAX_MODULE} are enough"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = len(code & set(range(node.body[0].lineno, (node.end_lineno or 0) + 1)))
            if length > MAX_FUNCTION:
                yield f"{module.path}:{node.lineno}: {node.name} has {length} lines of code; {MAX_FUNCTION} are enough"


def code_lines(module: Module) -> set[int]:
    """Return the numbers of the lines that hold code."""
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(module.path.read_text(encoding="utf-8")).readline):
        if token.type not in nothing:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def callbacks(module: Module) -> Iterator[str]:
    """A method handed to a part below, which would call what is above it through nothing that it owns."""
    lower = {
        name.asname or name.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and is_below(module, node.module or "")
        for name in node.names
    }
    for cls in ast.walk(module.tree):
        if not isinstance(cls, ast.ClassDef):
            continue
        methods = {
            node.name
            for node in cls.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list
        }
        for call in ast.walk(cls):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in lower:
                for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
                    if isinstance(argument, ast.Lambda) or is_method(argument, methods):
                        yield (
                            f"{module.path}:{call.lineno}: {call.func.id}, which is below, is handed "
                            f"{ast.unparse(argument)}: give it an object, by a protocol that it owns"
                        )


def is_below(module: Module, target: str) -> bool:
    top, _, rest = target.partition(".")
    own, theirs = layer(module.part), layer(rest.partition(".")[0])
    return top == "aioresults" and own is not None and theirs is not None and own < theirs and module.part != "contrib"


def is_method(argument: ast.expr, methods: set[str]) -> bool:
    return (
        isinstance(argument, ast.Attribute)
        and isinstance(argument.value, ast.Name)
        and argument.value.id == "self"
        and argument.attr in methods
    )


def cycles(modules: dict[str, Module]) -> Iterator[str]:
    """Modules that import each other; what only type checkers see does not count."""
    graph = {
        module.name: {target for target, line in module.imports if target in modules and line not in module.typing_only}
        for module in modules.values()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"a cycle: {' <- '.join(error.args[1])}"


CHECKS = (arrows, foreign_imports, sizes, callbacks)

GOOD = {
    "__init__.py": '"""The package."""\nfrom aioresults.backend import Backend as Backend\n',
    "backend.py": '"""Top."""\nimport anyio\nfrom aioresults import errors\nfrom .transport.base import Port\n',
    "handles.py": '"""Handle."""\nfrom aioresults.backend import Backend\n',
    "contrib/celery/__init__.py": '"""Adapter."""\n',
    "contrib/celery/result_backend.py": '"""Adapter."""\nimport celery, aio_pika\nfrom aioresults import Backend\n',
    "transport/__init__.py": '"""Ports."""\nfrom aioresults.transport.base import Port\n',
    "transport/base.py": '"""Port."""\nfrom ..errors import Error\n',
    "transport/amqp.py": '"""AMQP."""\nimport aio_pika\nfrom aiormq.abc import AbstractChannel\n',
    "serialization/__init__.py": '"""Codecs."""\n\n\ndef load():\n    import yaml\n',
    "errors.py": '"""Values."""\n',
}
_FORTY = "\n    x = 1" * 40


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        (
            "errors.py",
            '"""V."""\nfrom aioresults.transport import base',
            "errors imports aioresults.transport.base, which",
        ),
        ("errors.py", '"""V."""\nfrom aioresults import Backend', "errors imports aioresults, which is above"),
        ("transport/base.py", '"""P."""\nfrom ..backend import Backend', "base imports aioresults.backend, which"),
        ("transport/base.py", '"""P."""\ndef f():\n    import aioresults.backend', "which is above"),
        (
            "backend.py",
            '"""T."""\nfrom aioresults.contrib import celery',
            "imports aioresults.contrib.celery, which is",
        ),
        ("transport/base.py", '"""P."""\nimport aiormq', "only aioresults.transport.amqp may import aiormq"),
        ("transport/base.py", '"""P."""\nfrom pamqp.commands import Basic', "may import pamqp"),
        ("transport/base.py", '"""P."""\nimport yaml', "imports yaml, which is not a dependency"),
        ("serialization/__init__.py", '"""C."""\nimport yarl', "imports yarl, which is not a dependency"),
        ("backend.py", '"""T."""\nimport aioresults.handles', "a cycle: "),
        ("contrib/celery/client.py", '"""C."""\nimport kombu', "result_backend may import kombu"),
        ("helpers.py", '"""H."""', "`helpers` has no layer"),
        (
            "backend.py",
            '"""T."""\nfrom aioresults.transport.base import Port\nclass B:\n'
            "    def __init__(self):\n        self.port = Port(on_close=self.closed)\n"
            "    def closed(self):\n        pass",
            "Port, which is below, is handed self.closed",
        ),
        ("errors.py", "x = 1", "no docstring"),
        ("errors.py", '"""V."""' + "\nx = 1" * 401, "401 lines of code; 400 are enough"),
        (
            "errors.py",
            f'"""V."""\ndef f():\n    """Why."""{_FORTY}\n    x = 1',
            "f has 41 lines of code; 40 are enough",
        ),
    ],
)
def test_what_is_wrong_is_found(tmp_path: Path, path: str, source: str, complaint: str) -> None:
    found = violations(build(tmp_path, GOOD | {path: source}))
    assert complaint in found[0]
    # An arrow that points up may close a cycle as well.
    assert len([line for line in found if "a cycle" not in line]) == ("a cycle" not in complaint)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("transport/amqp/channel.py", '"""Seam."""\nimport aiormq'),
        ("errors.py", '"""Values."""' + "\n# why\n" * 401),
        ("errors.py", f'"""V."""\nasync def f():\n    """Why.\n\n    And how.\n    """{_FORTY}'),
        (
            "backend.py",
            '"""T."""\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .handles import R',
        ),
    ],
)
def test_what_is_right_passes(tmp_path: Path, path: str, source: str) -> None:
    assert violations(build(tmp_path, GOOD | {path: source})) == []


def build(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "aioresults"
    for name, source in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return package
