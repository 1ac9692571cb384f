"""`docs/celery.md` says what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import tests
from aioresults.contrib import celery
from aioresults.contrib.celery import CeleryClient, TaskOptions

PAGE = (Path(tests.__file__).parents[1] / "docs" / "celery.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_are_python_and_name_what_there_is(program: str) -> None:
    tree: Any = compile(program, "docs/celery.md", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "aioresults.contrib.celery":
            assert {alias.name for alias in node.names} <= set(celery.__all__)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "client":
            assert hasattr(CeleryClient, node.attr), node.attr


def test_every_option_is_explained() -> None:
    table = PAGE.partition("| option | is |")[2].partition("\n\n")[0]
    assert {name for name in re.findall(r"`(\w+)`", table) if name in get_type_hints(TaskOptions)} == set(
        get_type_hints(TaskOptions)
    )


def test_every_public_name_has_a_docstring() -> None:
    for name in celery.__all__:
        assert getattr(celery, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = celery.Nothing
