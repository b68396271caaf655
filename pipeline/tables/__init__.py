"""The tables of a run: `open` one, or the `last` of a name though it was not published; `render` a stored map, draw it with `overlay`."""

from pipeline.tables.read import Run, find, last, open, overlay, render

__all__ = ["Run", "find", "last", "open", "overlay", "render"]
