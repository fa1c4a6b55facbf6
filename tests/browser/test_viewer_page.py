"""The viewer's page with a million points, as a file, without network or kernel: it draws and obeys."""

import pytest
from driving import ROOT, picture

from c4d_nb import load_clip
from c4d_nb.show.truth import truth_as_result
from c4d_nb.show.viewer import write_viewer


@pytest.fixture(scope="module")
def million(tmp_path_factory):
    clip = load_clip(ROOT / "data" / "movi_e.npz")
    result = truth_as_result(clip, clip.truth.tracks)
    return write_viewer(result, tmp_path_factory.mktemp("viewer") / "million.html", max_points=1_000_000)


def test_a_million_points_obey(million, page):
    page.goto(million.as_uri())
    page.wait_for_function("() => window.c4dViewer.ready || document.body.dataset.error")
    assert page.locator("body").get_attribute("data-error") is None
    assert int(page.locator("body").get_attribute("data-points")) > 900_000
    seen = {view(page)}
    picture(page, "viewer first")

    slider = page.locator("#time").bounding_box()
    page.mouse.move(slider["x"] + 3, slider["y"] + slider["height"] / 2)
    page.mouse.down()
    page.mouse.move(slider["x"] + 0.6 * slider["width"], slider["y"] + slider["height"] / 2, steps=3)
    page.mouse.up()
    assert 12 <= int(page.locator("body").get_attribute("data-frame")) <= 15
    assert page.locator("#clock").text_content().startswith("frame 1")
    changed(page, seen)
    picture(page, "viewer later")

    for layer in ("static", "dynamic", "past", "tracks", "cameras"):
        page.locator(f"#{layer}").click()
        changed(page, seen)
    picture(page, "viewer layers")

    page.locator("#follow").click()
    changed(page, seen)
    assert page.locator("#frame").is_visible()
    page.locator("#reset").click()
    page.locator("#static").click()
    page.mouse.move(400, 400)
    page.mouse.down()
    page.mouse.move(520, 360, steps=3)
    page.mouse.up()
    changed(page, seen)
    page.wait_for_function("() => document.body.dataset.every === '1'")  # all points, once it rests
    picture(page, "viewer turned")

    before = page.locator("body").get_attribute("data-frame")
    page.locator("#play").click()
    page.wait_for_function("(before) => document.body.dataset.frame !== before", arg=before)


def view(page) -> bytes:
    return page.locator("#view").screenshot()


def changed(page, seen: set[bytes]) -> None:
    """The canvas looks as it never did before."""
    page.wait_for_timeout(200)
    now = view(page)
    assert now not in seen
    seen.add(now)
