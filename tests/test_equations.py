"""The table of ``notebooks/README.md`` is true: functions and tests are there, each notebook shows its function."""

import ast
import inspect
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import jupytext
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
SOURCES = {"S", "M", "P", "ours"}


class Row(NamedTuple):
    """A line of the table."""

    what: str
    stands: str
    function: str
    test: str
    notebook: str


def rows() -> list[Row]:
    lines = (NOTEBOOKS / "README.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    header, _rule, *body = cells
    assert header == ["what it says", "where it stands", "function", "test", "notebook"]
    return [Row(*cell) for cell in body]


@cache
def names_of(path: Path) -> set[str]:
    """Names of the test functions at the top of a file, and ``Class::name`` of those in classes."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return {name for name in found if name.split("::")[-1].startswith("test_")}


@cache
def text_of(path: Path) -> str:
    """Cells as they are written, without outputs."""
    return "\n".join(cell.source for cell in jupytext.read(path).cells)


def in_code(text: str) -> str:
    match = re.fullmatch(r"`([^`]+)`", text)
    assert match, f"expected one name in backticks, but it is {text}"
    return match[1]


def test_there_is_a_table() -> None:
    assert len(rows()) > 30
    assert len(set(rows())) == len(rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.what[:30]}")
class TestRow:
    def test_function_can_be_imported(self, row: Row) -> None:
        module, name = in_code(row.function).rsplit(".", 1)
        function = getattr(import_module(module), name)
        assert callable(function)
        assert inspect.getdoc(function)

    def test_test_exists(self, row: Row) -> None:
        path, name = in_code(row.test).split("::", 1)
        assert name in names_of(ROOT / path)

    def test_test_is_about_the_function(self, row: Row) -> None:
        """Its file at least mentions the name."""
        path, name = in_code(row.test).split("::")[0], in_code(row.function).rsplit(".", 1)[1]
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text())

    def test_notebook_mentions_the_function(self, row: Row) -> None:
        match = re.fullmatch(r"\[(\w+)\]\((\1_\w+\.ipynb)\)", row.notebook)
        assert match, f"expected a link such as [07](07_evaluation.ipynb), but it is {row.notebook}"
        name = in_code(row.function).rsplit(".", 1)[1]
        assert re.search(rf"\b{name}\b", text_of(NOTEBOOKS / match[2]))

    def test_says_where_it_stands(self, row: Row) -> None:
        assert set(row.stands.split(", ")) <= SOURCES


def test_every_notebook_is_in_the_table() -> None:
    shown = {re.search(r"\((.+)\)", row.notebook)[1] for row in rows()}
    assert shown == {path.name for path in NOTEBOOKS.glob("[0-9]*.ipynb")}
