"""The browser draws a map as `tables.render` does, to the rounding of 8 bits; and finds its boxes as the metrics do."""

import base64

import numpy as np
import pytest
import torch

from pipeline import tables
from pipeline.maps import boxes
from pipeline.maps.quantise import quantise
from pipeline.maps.render import unit, upsample

RENDERS = [
    "bilinear",
    "corners",
    "bicubic",
    "area",
    "gaussian:1.5",
    "gaussian:2:norm",
    "bilinear:7,0,231,224/239,239",
    "bilinear:0,3,10,9/20,12",
]
SHAPES = [((7, 7), (224, 224)), ((14, 9), (50, 31)), ((1, 1), (8, 8)), ((1, 5), (20, 20)), ((56, 56), (40, 64))]


def entry(map: np.ndarray, render: str) -> tuple[list, dict]:
    """A map as a data file has it, and its row of `maps`."""
    levels, low, high = quantise(map[None].astype(np.float32))
    row = {
        "height": map.shape[0],
        "width": map.shape[1],
        "map": levels[0].ravel().tolist(),
        "map_min": low[0],
        "map_max": high[0],
        "render": render,
    }
    encoded = base64.b64encode(levels[0].tobytes()).decode()
    return [0, None, [], None, *map.shape, float(low[0]), float(high[0]), render, encoded], row


@pytest.fixture(scope="module")
def page(chromium, report):
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto((report / "index.html").as_uri())
        page.evaluate("() => atlas.started")
        yield page


@pytest.mark.parametrize("render", RENDERS)
@pytest.mark.parametrize(("shape", "size"), SHAPES, ids=str)
def test_the_browser_draws_as_render_does(page, render, shape, size):
    map = np.random.default_rng(len(render)).normal(size=shape) * 10
    fields, row = entry(map, render)
    drawn = page.evaluate("([entry, h, w]) => Array.from(atlas.unit(atlas.upsample(atlas.decode(entry), h, w)))", [fields, *size])
    assert np.abs(np.reshape(drawn, size) - tables.render(row, size)).max() < 0.5 / 255


@pytest.mark.parametrize("offset", [0, 1e3, -7.5])
def test_a_constant_map_is_zero_throughout(page, offset):
    fields, row = entry(np.full((5, 5), offset), "bilinear")
    drawn = page.evaluate("(entry) => Array.from(atlas.unit(atlas.upsample(atlas.decode(entry), 20, 20)))", fields)
    assert not any(drawn) and not tables.render(row, (20, 20)).any()
    assert page.evaluate("(entry) => atlas.decode(entry).constant", fields)


def test_stored_cells_are_blocks(page):
    fields, _ = entry(np.arange(6.0).reshape(2, 3), "bilinear")
    drawn = page.evaluate("(entry) => Array.from(atlas.upsample(atlas.decode(entry), 4, 6, 'cells'))", fields)
    np.testing.assert_allclose(np.reshape(drawn, (4, 6)), np.arange(6.0).reshape(2, 3).repeat(2, 0).repeat(2, 1), atol=0.02)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_box_of_a_threshold_is_that_of_the_largest_part(page, seed, threshold):
    cells = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(seed))
    shares = unit(upsample(cells, (40, 30), "bilinear")[0].numpy()).astype(np.float64)
    box = page.evaluate("([shares, t]) => atlas.largestBox(shares, 40, 30, t)", [shares.ravel().tolist(), threshold])
    mask = shares > threshold
    if not mask.any():
        assert box is None
        return
    assert box == pytest.approx(boxes.largest(mask)[1])
    true = [0.1, 0.2, 0.7, 0.6]
    iou = page.evaluate("([one, other]) => atlas.overlap(one, other)", [box, true])
    assert iou == pytest.approx(boxes.overlaps(np.array([box]), np.array([true]))[0, 0])


@pytest.mark.parametrize("name", ["viridis", "cividis", "magma", "gray", "signed"])
def test_palettes_are_those_of_matplotlib(page, name):
    colormaps = pytest.importorskip("matplotlib").colormaps
    expected = np.rint(colormaps[{"signed": "RdBu_r"}.get(name, name)](np.arange(256) / 255)[:, :3] * 255)
    drawn = page.evaluate("(name) => Array.from(atlas.colours(Array.from({length: 256}, (_, i) => i / 255), atlas.palettes[name]))", name)
    np.testing.assert_array_equal(np.reshape(drawn, (256, 4))[:, :3], expected)


def test_the_pixels_of_an_image_card_are_those_of_render(page, run):
    """Read back from the canvases of the page: grey levels, beside every stored map of an image."""
    name = run.sql("SELECT image_id FROM images ORDER BY image_id LIMIT 1 OFFSET 5").column(0)[0].as_py()
    page.evaluate("(name) => atlas.change({page: 'image', image: name, palette: 'gray'})", name)
    page.evaluate("() => atlas.show()")
    levels = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('#maps canvas')].map((canvas) =>
        [canvas.getAttribute('aria-label'), [canvas.height, canvas.width, Array.from(canvas.getContext('2d')
        .getImageData(0, 0, canvas.width, canvas.height).data).filter((_, i) => i % 4 === 0)]]))"""
    )
    rows = [row for row in run.table("maps").to_pylist() if row["image_id"] == name]
    assert len(levels) == len(rows) > 5
    for row in rows:
        height, width, drawn = next(
            of for label, of in levels.items() if label.startswith(f"Map of {row['method']}, target {row['target']}:")
        )
        # a half of 255 is rounded to either side in 32 and in 64 bits
        assert np.abs(np.reshape(drawn, (height, width)) - 255 * tables.render(row, (height, width))).max() <= 0.5001
