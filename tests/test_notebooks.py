"""Hygiene of the notebooks; that their outputs still come out the same is nbval's part of ``make test``."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [
        cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code" and cell.source.strip()
    ]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestHygiene:
    def test_every_code_cell_was_executed_in_order(self, path: Path) -> None:
        counts = [cell.execution_count for cell in code_cells(path)]
        assert counts == list(range(1, len(counts) + 1))

    def test_no_cell_ended_in_an_error(self, path: Path) -> None:
        kinds = [output.output_type for cell in code_cells(path) for output in cell.outputs]
        assert "error" not in kinds

    def test_nothing_was_written_to_stderr(self, path: Path) -> None:
        streams = [output.get("name") for cell in code_cells(path) for output in cell.outputs]
        assert "stderr" not in streams

    def test_no_widget_state_is_stored(self, path: Path) -> None:
        assert "widgets" not in nbformat.read(path, as_version=4).metadata

    def test_under_one_megabyte(self, path: Path) -> None:
        assert path.stat().st_size < 1_000_000

    def test_pair_is_in_sync(self, path: Path) -> None:
        script = jupytext.read(path.with_suffix(".py"))
        cells = [(cell.cell_type, cell.source) for cell in nbformat.read(path, as_version=4).cells]
        assert cells == [(cell.cell_type, cell.source) for cell in script.cells]

    def test_begins_with_a_colab_badge_and_an_install_cell(self, path: Path) -> None:
        cells = nbformat.read(path, as_version=4).cells
        assert "colab-badge.svg" in cells[0].source
        install = next(cell for cell in cells if cell.cell_type == "code")
        assert "COLAB_NOTEBOOK_ID" in install.source
        assert "nbval-skip" in install.metadata.get("tags", [])

    def test_no_machine_path(self, path: Path) -> None:
        assert not re.search(r"/(home|root|Users|tmp|work)/", path.read_text())

    def test_every_interactive_figure_has_a_static_neighbour(self, path: Path) -> None:
        kinds = [set(output.get("data", {})) for cell in code_cells(path) for output in cell.outputs]
        interactive = sum("application/vnd.plotly.v1+json" in kind for kind in kinds)
        static = sum(bool(kind & {"image/png", "image/jpeg"}) for kind in kinds)
        assert static >= interactive
