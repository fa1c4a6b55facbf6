"""nbval compares text; pictures and interactive figures differ from machine to machine and are looked at instead."""

SKIPPED = (
    "image/png",
    "image/jpeg",
    "text/html",
    "application/vnd.plotly.v1+json",
    "application/vnd.jupyter.widget-view+json",
)


def pytest_collectstart(collector) -> None:
    if hasattr(collector, "skip_compare"):
        collector.skip_compare = (*collector.skip_compare, *SKIPPED)
