"""The viewer's page, by number of points: size, seconds to write, to open in headless Chromium, and to draw.

``python tests/benchmarks/bench_viewer.py [CLIP]``; by default the true scene of the quickstart's clip. Chromium draws
in software here, as on a machine without a GPU, all points and every 16th, as it does there while things move. Beside
unpacking stands the yardstick of the same run: Python's zlib on the same bytes. Each is the least of three.
"""

import base64
import json
import re
import sys
import tempfile
import time
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))

from driving import SWITCHES, chromium_path
from playwright.sync_api import sync_playwright

from c4d_nb import load_clip
from c4d_nb.show.truth import truth_as_result
from c4d_nb.show.viewer import write_viewer

MEASURE = """async () => {
  const fastest = async (run) => {
    let least = Infinity;
    for (let i = 0; i < 3; i++) {
      const start = performance.now();
      await run();
      least = Math.min(least, performance.now() - start);
    }
    return least / 1000;
  };
  const gl = document.getElementById("view").getContext("webgl2"), pixel = new Uint8Array(4);
  const draw = (every) => fastest(() => {
    c4dViewer.draw(every);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);  // waits for all
  });
  const packed = JSON.parse(document.getElementById("payload").textContent).cloud.data;
  return { inflate: await fastest(() => inflate(packed)), draw: await draw(1), thinned: await draw(16) };
}"""


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "data" / "movi_e.npz"
    clip = load_clip(path)
    result = truth_as_result(clip, clip.truth.tracks)
    header = ("points", "MB", "write (s)", "open (s)", "inflate (s)", "Python's (s)", "draw (s)", "every 16th (s)")
    print(" ".join(f"{name:>14}" for name in header))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium_path(), args=list(SWITCHES))
        for max_points in (100_000, 400_000, 1_000_000):
            start = time.perf_counter()
            page_path = write_viewer(result, Path(folder) / "page.html", max_points=max_points)
            write = time.perf_counter() - start
            opened, points, measured = min((_open(browser, page_path) for _ in range(3)), key=lambda found: found[0])
            times = (write, opened, measured["inflate"], _inflate(page_path), measured["draw"], measured["thinned"])
            row = (points, page_path.stat().st_size / 1e6, *times)
            print(f"{row[0]:14d} " + " ".join(f"{value:14.2f}" for value in row[1:]))
        browser.close()


def _open(browser, path: Path) -> tuple[float, int, dict[str, float]]:
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    start = time.perf_counter()
    page.goto(path.as_uri(), wait_until="commit")
    page.wait_for_function("() => window.c4dViewer?.ready")
    opened = time.perf_counter() - start
    found = opened, page.evaluate("() => c4dViewer.pointCount"), page.evaluate(MEASURE)
    page.close()
    return found


def _inflate(path: Path) -> float:
    payload = re.search(r'id="payload">(.*?)</script>', path.read_text(encoding="utf-8")).group(1)
    packed = json.loads(payload)["cloud"]["data"]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        zlib.decompress(base64.b64decode(packed))
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
