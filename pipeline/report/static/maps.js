// One map as a figure: its picture, its pixels, boxes and parts over them, and the words below.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

/** Of a map whose range is so small beside the median of its method, the scale of the map alone would show noise as signal. */
const WEAK = 0.05;

/** The network's input, or a smaller picture of it: [height, width] in pixels. */
atlas.pixels = (most) => {
  const [height, width] = atlas.run.size,
    share = Math.min(1, most / Math.max(height, width));
  return [Math.max(1, Math.round(height * share)), Math.max(1, Math.round(width * share))];
};

/** Height over width of an image as it is shown. */
atlas.ratio = (place) => {
  const { width, height } = atlas.images;
  const [rows, columns] = atlas.run.squash && width[place] ? [height[place], width[place]] : atlas.run.size;
  return `${columns} / ${rows}`;
};

/** The limits of the colours of a map: its own, those of its method's maps on this image, or in the run. Null means its own. */
atlas.limits = (map, maps) => {
  const pairs = {
    map: () => (map.signed ? [map.low, map.high] : null),
    image: () => atlas.ends(maps.filter((other) => other.method === map.method).flatMap((other) => [other.low, other.high])),
    run: () => atlas.ends(Object.values(atlas.run.ranges[map.method]).flatMap(([low, high]) => [low, high])),
  };
  const ends = pairs[atlas.state.scale]();
  if (!ends) return null;
  const size = Math.max(...ends.map(Math.abs));
  return ends[0] < 0 ? [-size, size] : [Math.min(ends[0], 0), ends[1]];
};

/** A map's share of the median range of its method for this target. */
atlas.strength = (map) => {
  const median = atlas.run.ranges[map.method]?.[map.target]?.[2];
  return median ? (map.high - map.low) / median : 1;
};

/** What a reader must know of a map before its colours: it is constant, or weak. */
atlas.warning = (map) => {
  if (map.constant) return `constant: every cell is ${atlas.number(map.low)}`;
  const share = atlas.strength(map);
  return share < WEAK ? `weak: its range is ${atlas.number(100 * share, 2)} % of the method's median` : "";
};

/** The chosen colours; those of values on both sides of zero where a map has them. */
atlas.paletteOf = (signed) => atlas.palettes[signed && atlas.state.palette !== "gray" ? "signed" : atlas.state.palette];

/** Draw a map onto a canvas of `most` pixels, in colours between `limits`; returns its pixels in its own values. */
atlas.paint = (canvas, map, limits, most) => {
  const [height, width] = atlas.pixels(most);
  [canvas.height, canvas.width] = [height, width];
  const pixels = atlas.upsample(map, height, width, atlas.state.drawn);
  const shares = map.constant ? new Float64Array(pixels.length) : atlas.unit(pixels, limits ?? undefined);
  const palette = atlas.paletteOf(map.signed || (limits && limits[0] < 0));
  canvas.getContext("2d").putImageData(new ImageData(atlas.colours(shares, palette), width, height), 0, 0);
  return pixels;
};

/** The picture of an image with a layer over it; without a picture, the layer alone. */
atlas.layers = (place, content, layer, alt) => {
  const stack = atlas.element("div", { class: content.picture ? "layers" : "layers bare" });
  stack.style.aspectRatio = atlas.ratio(place);
  if (content.picture) stack.append(atlas.element("img", { src: content.picture, alt }));
  if (layer) stack.append(layer);
  return stack;
};

/** True boxes, parts, and the box of the thresholded map, over a figure. */
atlas.marks = (place, content, { found, parts = true } = {}) => {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 1 1");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const add = (name, attributes) => {
    const mark = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) mark.setAttribute(key, value);
    svg.append(mark);
    return mark;
  };
  const box = ([x0, y0, x1, y1], kind) => add("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: kind });
  if (atlas.state.boxes === "yes") {
    atlas.images.boxes[place].forEach((corners) => box(corners, "true-box"));
    for (const [name, [x, y]] of Object.entries(parts ? (content.points ?? {}) : {})) {
      const title = document.createElementNS(SVG, "title");
      title.textContent = name;
      add("path", { d: `M${x} ${y}h0`, class: "part" }).append(title);
    }
  }
  if (found) box(found, "found-box");
  return svg;
};

/** The box of the map above the threshold and its best overlap with a true box; nothing where no threshold is set. */
atlas.found = (pixels, most, place) => {
  if (atlas.state.thresholded !== "yes") return {};
  const [height, width] = atlas.pixels(most);
  const box = atlas.largestBox(atlas.unit(pixels), height, width, Number(atlas.state.threshold));
  const truth = atlas.images.boxes[place];
  return { box, iou: box && truth.length ? Math.max(...truth.map((corners) => atlas.overlap(corners, box))) : null };
};
