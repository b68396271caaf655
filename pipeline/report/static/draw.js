// From the stored bytes of a map to pixels, as tables.render draws them.
"use strict";

/** A map is constant where its range is a smaller share of its largest magnitude: what is left is rounding. */
const FLAT = 2 ** -18;

/** A map by the names of its fields; `values` are its cells, row by row. */
atlas.decode = (entry) => {
  const [cell, classId, references, gamma, height, width, low, high, render, bytes] = entry;
  const levels = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
  const values = Float64Array.from(levels, (level) => Math.fround(low + (level / 255) * (high - low)));
  const [method, target] = atlas.run.cells[cell];
  const constant = high - low <= FLAT * Math.max(Math.abs(low), Math.abs(high));
  return { cell, method, target, classId, references, gamma, height, width, low, high, render, values, constant, signed: low < 0 };
};

/** Of each pixel along one side: the first cell that it sees, and the weights of `taps` cells from there on. */
function linear(side, cells, place) {
  const first = new Int32Array(side),
    weights = new Float64Array(2 * side);
  for (let pixel = 0; pixel < side; pixel++) {
    const at = Math.min(Math.max(place(pixel), 0), cells - 1);
    first[pixel] = Math.min(Math.floor(at), Math.max(cells - 2, 0)); // of a single cell the second weight is zero
    weights[2 * pixel + 1] = at - first[pixel];
    weights[2 * pixel] = 1 - weights[2 * pixel + 1];
  }
  return { first, weights, taps: 2 };
}

/** The cell that each pixel lies in, or lies nearest to where the cells cover a part of the side from `start` to `stop`. */
function nearest(side, cells, start = 0, stop = 1) {
  const first = Int32Array.from({ length: side }, (_, pixel) => {
    const cell = Math.floor((((pixel + 0.5) / side - start) / (stop - start)) * cells);
    return Math.min(Math.max(cell, 0), cells - 1);
  });
  return { first, weights: new Float64Array(side).fill(1), taps: 1 };
}

/** Cubics with a = -0.75; cells beyond the border are those at the border. */
function cubic(side, cells) {
  const weights = new Float64Array(side * cells);
  const near = (t) => (1.25 * t - 2.25) * t * t + 1;
  const far = (t) => ((-0.75 * t + 3.75) * t - 6) * t + 3;
  for (let pixel = 0; pixel < side; pixel++) {
    const at = ((pixel + 0.5) * cells) / side - 0.5,
      start = Math.floor(at),
      t = at - start;
    [far(t + 1), near(t), near(1 - t), far(2 - t)].forEach((weight, tap) => {
      weights[pixel * cells + Math.min(Math.max(start + tap - 1, 0), cells - 1)] += weight;
    });
  }
  return { first: new Int32Array(side), weights, taps: cells };
}

/** A Gaussian in every cell, `reach` pixels wide; divided by the number of cells, or by the kernels' sum where `norm`. */
function gaussian(side, cells, reach, norm) {
  const weights = new Float64Array(side * cells);
  for (let pixel = 0; pixel < side; pixel++) {
    let sum = 0;
    for (let cell = 0; cell < cells; cell++) {
      const distance = (pixel + 0.5 - ((cell + 0.5) * side) / cells) / reach;
      sum += weights[pixel * cells + cell] = Math.exp(-distance * distance);
    }
    for (let cell = 0; cell < cells; cell++) weights[pixel * cells + cell] /= norm ? sum : cells;
  }
  return { first: new Int32Array(side), weights, taps: cells };
}

/** How the pixels down and across see the cells: by the map's `render`, or as they are stored where `drawn` is "cells". */
function axes(map, height, width, drawn) {
  const sides = [
    [height, map.height],
    [width, map.width],
  ];
  const [kind, rest = "", norm = ""] = map.render.split(":");
  const numbers = kind === "bilinear" && rest ? rest.split(/[,/]/).map(Number) : [0, 0, 1, 1, 1, 1];
  const part = (axis) => [numbers[axis] / numbers[4 + axis], numbers[axis + 2] / numbers[4 + axis]];
  const along = (axis) => sides.map(([side, cells], number) => axis(side, cells, number));
  if (drawn === "cells" || kind === "area") return along((side, cells, number) => nearest(side, cells, ...part(number)));
  if (kind === "corners")
    return along((side, cells) => linear(side, cells, (pixel) => (side > 1 ? (pixel * (cells - 1)) / (side - 1) : 0)));
  if (kind === "bicubic") return along(cubic);
  if (kind === "gaussian") {
    const reach = (Number(rest) * Math.min(height, width)) / 15;
    return along((side, cells) => gaussian(side, cells, reach, norm === "norm"));
  }
  return along((side, cells, number) => {
    const [start, stop] = part(number);
    return linear(side, cells, (pixel) => (((pixel + 0.5) / side - start) / (stop - start)) * cells - 0.5);
  });
}

/** The map at height x width pixels, in its own values. */
atlas.upsample = (map, height, width, drawn = "smooth") => {
  const [down, across] = axes(map, height, width, drawn);
  const rows = new Float64Array(map.height * width),
    pixels = new Float64Array(height * width);
  for (let row = 0; row < map.height; row++) {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let tap = 0; tap < across.taps; tap++) {
        const weight = across.weights[x * across.taps + tap];
        if (weight) sum += weight * map.values[row * map.width + across.first[x] + tap];
      }
      rows[row * width + x] = sum;
    }
  }
  for (let y = 0; y < height; y++) {
    for (let tap = 0; tap < down.taps; tap++) {
      const weight = down.weights[y * down.taps + tap],
        start = (down.first[y] + tap) * width;
      if (weight) for (let x = 0; x < width; x++) pixels[y * width + x] += weight * rows[start + x];
    }
  }
  return pixels;
};

/** The least and the largest of some numbers. */
atlas.ends = (values) => {
  let low = Infinity,
    high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
};

/** Pixels in [0, 1] from `low` to `high`; from their own least to their largest unless given. A constant map becomes zero. */
atlas.unit = (pixels, [low, high] = atlas.ends(pixels)) => {
  const shares = new Float64Array(pixels.length);
  if (high - low <= FLAT * Math.max(Math.abs(low), Math.abs(high))) return shares;
  for (let i = 0; i < pixels.length; i++) shares[i] = Math.min(Math.max((pixels[i] - low) / (high - low), 0), 1);
  return shares;
};

/** Pixels in [0, 1] by a palette: red, green, blue, and no transparency. */
atlas.colours = (shares, palette) => {
  const table = Uint32Array.from({ length: 256 }, (_, level) => {
    const [red, green, blue] = [0, 2, 4].map((at) => parseInt(palette.slice(6 * level + at, 6 * level + at + 2), 16));
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0; // the least byte first, as on every machine that has a browser
  });
  const pixels = new Uint32Array(shares.length);
  for (let i = 0; i < shares.length; i++) pixels[i] = table[Math.round(255 * shares[i])];
  return new Uint8ClampedArray(pixels.buffer);
};

/** The box [x0 y0 x1 y1], as fractions, of the largest connected part of the pixels above `threshold`; null where there are none. */
atlas.largestBox = (shares, height, width, threshold) => {
  const seen = new Uint8Array(shares.length),
    stack = [];
  let best = { count: 0, box: null };
  for (let start = 0; start < shares.length; start++) {
    if (seen[start] || !(shares[start] > threshold)) continue;
    const part = { count: 0, box: [width, height, 0, 0] };
    seen[start] = 1;
    stack.push(start);
    while (stack.length) {
      const at = stack.pop(),
        x = at % width,
        y = (at - x) / width;
      const [x0, y0, x1, y1] = part.box;
      part.count++;
      part.box = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x + 1), Math.max(y1, y + 1)];
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
          const next = v * width + u;
          if (!seen[next] && shares[next] > threshold) {
            seen[next] = 1;
            stack.push(next);
          }
        }
      }
    }
    if (part.count > best.count) best = part;
  }
  return best.box && best.box.map((edge, i) => edge / (i % 2 ? height : width));
};

/** Intersection over union of two boxes. */
atlas.overlap = (one, other) => {
  const area = ([x0, y0, x1, y1]) => Math.max(x1 - x0, 0) * Math.max(y1 - y0, 0);
  const both = area([Math.max(one[0], other[0]), Math.max(one[1], other[1]), Math.min(one[2], other[2]), Math.min(one[3], other[3])]);
  return both / (area(one) + area(other) - both);
};
