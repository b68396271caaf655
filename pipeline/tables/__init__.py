"""The tables of a run: `open` one, `render` a stored map, draw it with `overlay`."""

from pipeline.tables.read import Run, open, overlay, render

__all__ = ["Run", "open", "overlay", "render"]
