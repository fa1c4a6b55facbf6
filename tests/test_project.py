"""The project's own promises: one public address, a light import, a data folder that matches its card."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = PROJECT["urls"]["Repository"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("[0-9]*"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_repository_link_uses_the_one_public_address(page: Path) -> None:
    owner_and_name = ADDRESS.removeprefix("https://github.com/")
    linked = re.findall(
        r"(?:https://github\.com|colab\.research\.google\.com/github)/([\w.-]+/[\w.-]+)", page.read_text()
    )
    ours = {repository for repository in linked if repository.endswith("/c4d_nb")}
    assert ours == {owner_and_name}


def test_no_upper_pins_on_torch_and_numpy() -> None:
    pins = [line for line in PROJECT["dependencies"] if re.match(r"(torch|numpy)\b", line)]
    assert len(pins) == 2
    assert not any(re.search(r"<|==|~=", pin) for pin in pins)


def test_constraints_cover_every_dependency() -> None:
    names = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["notebooks"], *extras["test"]]
    missing = {re.split(r"[>=<\[]", line)[0].lower().replace("_", "-") for line in wanted} - names
    assert not missing


def test_import_is_light() -> None:
    heavy = "plotly", "ipywidgets", "matplotlib", "numba"
    code = f"import sys, json, c4d_nb; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(loaded.stdout) == []


def test_data_stays_small() -> None:
    assert sum(file.stat().st_size for file in (ROOT / "data").rglob("*")) < 60_000_000


def test_the_citation_is_of_this_version_at_this_address() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert f"\nrepository-code: {ADDRESS}\n" in citation
