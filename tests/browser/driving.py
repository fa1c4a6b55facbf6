"""What a user does in JupyterLab, and what the tests look at."""

import ast
import re
import shutil
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "out" / "browser"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# Software WebGL, so that it works without a screen and a GPU.
SWITCHES = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
WIDGET, PLOTLY = "application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json"


def chromium_path() -> str | None:
    return next((found for found in map(shutil.which, CHROMIUM) if found), None)


def cells_with(path: Path, mime: str) -> list[nbformat.NotebookNode]:
    """Code cells of a notebook with a stored output of this kind."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if any(mime in output.get("data", {}) for output in cell.get("outputs", ()))]


def only_what_it_needs(path: Path, wanted: list[nbformat.NotebookNode]) -> nbformat.NotebookNode:
    """A notebook of some cells of another, and of those before them that make the names they use: a whole chapter takes
    a minute to run, its widgets a few seconds."""
    notebook = nbformat.read(path, as_version=4)
    sources, needed, kept = {cell.source for cell in wanted}, set(), []
    for cell in reversed([cell for cell in notebook.cells if cell.cell_type == "code"]):
        made, used = _names(cell.source)
        if cell.source in sources or made & needed:
            needed = (needed - made) | used
            kept.append(nbformat.v4.new_code_cell(cell.source))
    return notebook_of(kept[::-1])


def notebook_of(cells: list[nbformat.NotebookNode]) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )


def run_all(page) -> None:
    """Run every cell of the open notebook and wait for the last; no cell may have ended in an error."""
    page.wait_for_selector(".jp-StatusBar-TextItem:has-text('| Idle')")  # else it asks which kernel to start
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(
        """() => [...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')]
                 .every((prompt) => /^\\[\\d+\\]:$/.test(prompt.textContent.trim()))""",
        timeout=120_000,
    )
    errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    assert errors.count() == 0, errors.all_text_contents()


def picture(page, name: str) -> None:
    page.screenshot(path=PICTURES / f"{re.sub(r'[^a-z0-9]+', '_', name.lower())}.png")


def _names(source: str) -> tuple[set[str], set[str]]:
    """(names that a cell makes, names that it uses)"""
    code = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
    made, used = set(), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (made if isinstance(node.ctx, ast.Store) else used).add(node.id)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
    return made, used
