"""A real browser: Debian's Chromium, driven by playwright, and JupyterLab on a copy of the notebooks.

``make test-browser`` runs these; under ``make test`` they are skipped, visibly, as they are where there is no Chromium.
Screenshots go to ``out/browser``, to be looked at.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from driving import CHROMIUM, PICTURES, ROOT, SWITCHES, chromium_path

SETTINGS = {
    "notebook-extension/tracker.jupyterlab-settings": '{"windowingMode": "none"}',  # every cell is drawn, seen or not
    "apputils-extension/notification.jupyterlab-settings": '{"fetchNews": "false", "checkForUpdates": false}',
}

CLOSED_TOO_SOON = "Canceled future for "
"""What JupyterLab says of itself where a kernel ends before it has answered: on a fast machine, by chance."""


def pytest_collection_modifyitems(items):
    if os.environ.get("C4D_BROWSER") != "1":
        skip = pytest.mark.skip(reason="a real browser: make test-browser runs these")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[browser]'")
    if (binary := chromium_path()) is None:
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM)} is on PATH (Debian: apt-get install chromium)")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=binary, args=list(SWITCHES))
        yield chromium.new_context(viewport={"width": 1280, "height": 860})
        chromium.close()


@pytest.fixture
def page(browser):
    """A page that fails its test, at the end, for every error that its console or its scripts reported. What it asks of
    other hosts (the Colab badge's picture) is answered by nothing: nobody's network decides."""
    page = browser.new_page()
    page.set_default_timeout(30_000)
    page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.fulfill(status=200, body=""))
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(f"{error.name}: {error.message}"))
    yield page
    page.close()
    assert [error for error in errors if CLOSED_TOO_SOON not in error] == []


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory):
    """(address, folder) of a JupyterLab on a copy of the notebooks, with settings of its own."""
    folder, settings = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("settings")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    (folder / "data").symlink_to(ROOT / "data")
    for name, values in SETTINGS.items():
        (settings / "@jupyterlab" / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / "@jupyterlab" / name).write_text(values)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    environment = os.environ | {name: str(tmp_path_factory.mktemp(name.lower())) for name in places}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(settings), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--allow-root", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    log = folder / "lab.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, server, log)
        yield address, folder
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended: {log.read_text()}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api", timeout=5):
            return
        time.sleep(0.2)
    raise TimeoutError(f"JupyterLab does not answer: {log.read_text()}")


@pytest.fixture
def open_notebook(page, lab):
    """Opens a notebook of the copy in JupyterLab, and waits until it is there; its kernel ends with the test."""

    def open_one(name: str):
        page.goto(f"{lab[0]}/lab/tree/notebooks/{name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function("() => !document.querySelector('#jupyterlab-splash')")
        return page

    yield open_one
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
