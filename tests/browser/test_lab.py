"""JupyterLab in a real browser: stored plotly figures draw, widgets react, and the console stays silent."""

from io import BytesIO

import nbformat
import numpy as np
import pytest
from driving import NOTEBOOKS, PLOTLY, WIDGET, cells_with, notebook_of, only_what_it_needs, picture, run_all
from PIL import Image

VIEWS = """
import torch
from c4d_nb import load_clip
from c4d_nb.show import scene
from c4d_nb.show.truth import truth_as_result
from c4d_nb.show.widgets import mask_explorer, slice_explorer

clip = load_clip("../data/movi_e.npz", max_frames=12, long_side=128)
result = truth_as_result(clip, clip.truth.tracks)
noise = torch.rand(clip.frames.shape[:3], generator=torch.Generator().manual_seed(0))
---
slice_explorer(result)
---
mask_explorer(clip, 0.5 * clip.truth.motion_mask + 0.6 * noise)
---
scene.scene_figure(result, max_points=9000)
---
scene.path_figure(result)
"""


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@named([path for path in NOTEBOOKS if cells_with(path, PLOTLY)])
def test_stored_figures_draw(path, open_notebook):
    """As the notebook is opened, before anything runs."""
    page = open_notebook(path.name)
    count = len(cells_with(path, PLOTLY))
    page.wait_for_function(f"() => document.querySelectorAll('.jp-RenderedPlotly:has(canvas)').length === {count}")
    for figure in page.locator(".jp-RenderedPlotly").all():
        figure.scroll_into_view_if_needed()
        assert drawn_colors(figure) > 20
    picture(page, f"{path.stem} stored")


@named([path for path in NOTEBOOKS if cells_with(path, WIDGET)])
def test_widgets_of_the_notebooks_react(path, lab, open_notebook):
    """Every slider of every widget, one step: the picture changes. Chapter 5's widget has none: it watches a run."""
    short = only_what_it_needs(path, cells_with(path, WIDGET))
    nbformat.write(short, lab[1] / "notebooks" / f"{path.stem}-widgets.ipynb")
    page = open_notebook(f"{path.stem}-widgets.ipynb")
    run_all(page)
    assert page.locator(".widget-image").count() == len(cells_with(path, WIDGET))
    sliders = page.locator(".jp-OutputArea .noUi-handle")
    assert sliders.count() or "alignment_monitor" in path.read_text()
    for slider in sliders.all():
        step(page, slider)
    picture(page, f"{path.stem} widgets")


def test_views_react(lab, open_notebook):
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in VIEWS.split("---")]
    nbformat.write(notebook_of(cells), lab[1] / "notebooks" / "views.ipynb")
    page = open_notebook("views.ipynb")
    run_all(page)
    sliders = page.locator(".jp-OutputArea .noUi-handle")
    assert sliders.count() == 3
    for slider in sliders.all():
        step(page, slider)
    text = page.locator(".widget-label", has_text="IoU").text_content()
    step(page, sliders.nth(1))
    assert page.locator(".widget-label", has_text="IoU").text_content() != text
    drag(page, sliders.nth(0))
    picture(page, "views widgets")
    scene = page.locator(".jp-RenderedPlotly").nth(0)
    scene.scroll_into_view_if_needed()
    before = scene.screenshot()
    assert drawn_colors(scene) > 50
    scene.locator(".slider-group .slider-rail-touch-rect").click(position={"x": 200, "y": 10})
    page.wait_for_function(
        "() => !document.querySelector('.jp-RenderedPlotly').data.every((trace) => trace.visible ?? true)"
    )
    assert scene.screenshot() != before
    picture(page, "views scene")
    path = page.locator(".jp-RenderedPlotly").nth(1)
    path.scroll_into_view_if_needed()
    assert drawn_colors(path) > 10
    picture(page, "views path")


def step(page, slider) -> None:
    """One key on a slider; the picture of its widget must change."""
    slider.scroll_into_view_if_needed()
    image = slider.locator("xpath=ancestor::*[contains(@class, 'jp-OutputArea-output')][1]").locator(".widget-image")
    before = image.get_attribute("src")
    slider.focus()
    slider.press("ArrowRight")
    if image.get_attribute("src") == before:  # at the end of its way already, or the picture is still being drawn
        page.wait_for_timeout(3000)
    if image.get_attribute("src") == before:
        slider.press("ArrowLeft")
    page.wait_for_function("([image, before]) => image.src !== before", arg=[image.element_handle(), before])


def drag(page, slider) -> None:
    """By the mouse, and the picture follows before the button is released."""
    image = slider.locator("xpath=ancestor::*[contains(@class, 'jp-OutputArea-output')][1]").locator(".widget-image")
    slider.scroll_into_view_if_needed()
    box, before = slider.bounding_box(), image.get_attribute("src")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] - 60, box["y"] + box["height"] / 2, steps=5)
    page.wait_for_function("([image, before]) => image.src !== before", arg=[image.element_handle(), before])
    page.mouse.up()


def drawn_colors(figure) -> int:
    """How many colours a figure shows on the screen."""
    pixels = np.asarray(Image.open(BytesIO(figure.screenshot())).convert("RGB"))
    return len(np.unique(pixels.reshape(-1, 3), axis=0))
