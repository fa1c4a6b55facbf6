"""Colab: the wheel holds what the package needs, it leaves the torch and numpy that are there, and all notebooks ask
for it in the same way."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from packaging.version import Version

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ADDRESS = PYPROJECT["project"]["urls"]["Repository"]


def install_cell(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return next(cell.source for cell in cells if cell.cell_type == "code")


def without_extras(cell: str) -> str:
    return re.sub(r'"(\S+)\[[\w,]+\]"', r"\1", cell)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of the files that git has, as a clone would be, with what is installed here: no network."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "c4d_nb"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in [*listed.stdout.split(), "pyproject.toml", "README.md", "LICENSE"]:
        (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "src" / name).write_bytes((ROOT / name).read_bytes())
    modern = Version(version("setuptools")) >= Version("77")  # else pip fetches one that is
    build = ["--no-build-isolation"] if modern else []
    pip("wheel", "--no-deps", *build, "--wheel-dir", str(folder), str(folder / "src"))
    return next(folder.glob("c4d_nb-*.whl"))


def pip(*arguments: str, python: str = sys.executable) -> None:
    done = subprocess.run([python, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def planned(report: Path) -> set[str]:
    """What pip would install."""
    items = json.loads(report.read_text())["install"]
    return {item["metadata"]["name"].lower().replace("-", "_") for item in items}


class TestWheel:
    def test_it_holds_every_module_and_the_viewer(self, wheel):
        inside = set(zipfile.ZipFile(wheel).namelist())
        listed = subprocess.run(["git", "ls-files", "c4d_nb"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert {"c4d_nb/show/viewer.html", "c4d_nb/reconstruct.py"} <= set(listed.stdout.split()) <= inside

    def test_torch_and_numpy_stay_as_they_are(self, wheel, tmp_path):
        """pip's own plan, in an environment where torch is installed: nothing of it is replaced."""
        report = tmp_path / "plan.json"
        pip("install", "--dry-run", "--no-index", "--report", str(report), str(wheel))
        assert planned(report) == {"c4d_nb"}

    def test_nor_does_it_replace_them_in_an_environment_like_colabs(self, wheel, tmp_path):
        """``C4D_COLAB_PYTHON`` names a Python (3.12) with torch and little else; pip needs a package index."""
        python = os.environ.get("C4D_COLAB_PYTHON")
        if python is None:
            pytest.skip("C4D_COLAB_PYTHON names no Python that has torch and little else")
        report = tmp_path / "plan.json"
        pip("install", "--dry-run", "--report", str(report), str(wheel), python=python)
        assert not planned(report) & {"torch", "numpy", "triton"}

    def test_installed_it_finds_the_weights_of_the_checkout_whose_notebooks_are_run(self, wheel, tmp_path):
        pip("install", "--no-deps", "--no-index", "--target", str(tmp_path), str(wheel))
        code = "import c4d_nb.checkpoints as c; print(c.__file__); assert all(f.is_file() for f in c.SHIPPED.values())"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT / "notebooks",
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(str(tmp_path))

    def test_what_is_asked_of_torch_and_numpy_has_no_upper_bound(self, wheel):
        """Colab updates both; a bound would have pip put another build in their place."""
        metadata = zipfile.ZipFile(wheel).read(f"c4d_nb-{PYPROJECT['project']['version']}.dist-info/METADATA").decode()
        asked = re.findall(r"^Requires-Dist: ((?:torch|numpy)\b[^;\n]*)$", metadata, re.MULTILINE)
        assert len(asked) == 2
        assert all(re.fullmatch(r"(torch|numpy)>=[\d.]+", line) for line in asked)

    def test_it_is_for_the_python_of_colab(self, wheel):
        assert "py3-none-any" in wheel.name
        assert re.search(r">=3\.11", PYPROJECT["project"]["requires-python"])


class TestInstallCell:
    def test_it_is_the_same_in_all_notebooks_but_for_extras_that_exist(self):
        cells = [install_cell(path) for path in NOTEBOOKS]
        assert len({without_extras(cell) for cell in cells}) == 1
        asked = {
            extra for cell in cells for group in re.findall(r"c4d_nb\[([\w,]+)\]", cell) for extra in group.split(",")
        }
        assert asked <= set(PYPROJECT["project"]["optional-dependencies"])

    def test_it_clones_the_one_address_with_its_data_and_goes_to_the_notebooks(self):
        lines = without_extras(install_cell(NOTEBOOKS[0])).splitlines()
        commands = [line.strip() for line in lines if line.strip().startswith(("!", "%"))]
        assert commands == [
            f"!git clone --quiet --depth 1 {ADDRESS} /content/c4d_nb",
            "!pip install --quiet -e /content/c4d_nb",
            "%cd /content/c4d_nb/notebooks",
        ]

    def test_it_does_nothing_elsewhere(self, monkeypatch):
        monkeypatch.delenv("COLAB_NOTEBOOK_ID", raising=False)
        runnable = re.sub(r"^(\s*)[!%].*$", r"\1raise AssertionError", install_cell(NOTEBOOKS[0]), flags=re.MULTILINE)
        exec(compile(runnable, "install cell", "exec"), {})

    @pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
    def test_data_that_a_notebook_reads_are_in_the_repository(self, path):
        """The clone is all that Colab has."""
        named = set(re.findall(r"\.\./data/[\w./-]+\w", path.read_text()))
        listed = subprocess.run(["git", "ls-files", "data"], cwd=ROOT, capture_output=True, text=True)
        if listed.returncode:
            pytest.skip("not a git checkout")
        assert {name.removeprefix("../") for name in named} <= set(listed.stdout.split())

    @pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
    def test_the_badge_opens_this_notebook(self, path):
        first = nbformat.read(path, as_version=4).cells[0].source
        assert f"colab.research.google.com/github/{ADDRESS.removeprefix('https://github.com/')}" in first
        assert f"/blob/main/notebooks/{path.name})" in first
