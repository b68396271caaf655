// Charts of the run page, drawn by uPlot.
"use strict";

/** Okabe and Ito's colours, which the colour-blind can tell apart; the second round is dashed. */
const LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a7f00", "#777777"];

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const axis = (label) => ({
  label,
  values: (_, values) => values.map((value) => (value === null ? "" : atlas.number(value))),
  stroke: style("--text"),
  grid: { stroke: style("--line"), width: 1 },
  ticks: { stroke: style("--line"), width: 1 },
});
const width = (frame) => Math.max(frame.clientWidth, 260);

/** Draw a chart in place of an old one. */
function draw(frame, options, data) {
  frame.chart?.destroy();
  frame.chart = new uPlot({ width: width(frame), height: 320, ...options }, data, frame);
}

/** The mean curves of one metric for the target of the tables. */
atlas.showCurves = () => {
  const section = document.getElementById("curves");
  if (!section) return;
  const target = document.getElementById("table-target")?.value ?? "label";
  const of = atlas.run.curves.filter((curve) => [target, "none"].includes(curve.target));
  section.hidden = !of.length;
  if (!of.length) return;
  const metrics = [...new Set(of.map((curve) => curve.metric))],
    select = document.getElementById("curve-metric");
  atlas.options(
    select,
    metrics.map((name) => [name, name]),
    metrics.includes(select.value) ? select.value : metrics[0],
  );
  const lines = of.filter((curve) => curve.metric === select.value),
    steps = Math.max(...lines.map((line) => line.means.length));
  const series = lines.map(({ method }, i) => ({
    label: method,
    stroke: LINES[i % LINES.length],
    width: 2,
    dash: i >= LINES.length ? [6, 4] : undefined,
    points: { show: false },
    value: (_, value) => atlas.number(value),
  }));
  draw(
    document.getElementById("curve"),
    { scales: { x: { time: false } }, axes: [axis("step"), axis(select.value)], series: [{ label: "step" }, ...series] },
    [Array.from({ length: steps }, (_, step) => step), ...lines.map(({ means }) => means)],
  );
  const heights = lines.map(({ method, means }) => `${method} ${atlas.number(means.reduce((sum, mean) => sum + mean, 0) / means.length)}`);
  document.getElementById("curve-words").textContent =
    `${select.value}, target ${target}, mean height of each line over ${steps} steps: ${heights.join(", ")}.`;
};

/** The points that no other beats on both axes, from left to right. */
atlas.pareto = (points, better) => {
  const gain = (point, side) => (better[side] === "higher" ? point[side] : -point[side]);
  const beaten = (one) =>
    points.some(
      (other) =>
        ["x", "y"].every((side) => gain(other, side) >= gain(one, side)) && ["x", "y"].some((side) => gain(other, side) > gain(one, side)),
    );
  return points.filter((point) => !beaten(point)).sort((a, b) => a.x - b.x || a.y - b.y);
};

/** Any two of metrics and costs, a point for each method. */
atlas.showScatter = () => {
  const section = document.getElementById("tradeoff");
  if (!section) return;
  const target = document.getElementById("table-target").value,
    of = atlas.run.points.filter((point) => point.target === target);
  const names = [...new Set(of.flatMap(({ values }) => Object.keys(values)))];
  section.hidden = names.length < 2;
  if (names.length < 2) return;
  const fields = ["x", "y"].map((side) => document.getElementById(`scatter-${side}`)),
    options = names.map((name) => [name, name]);
  const first = { x: "seconds per image", y: names.find((name) => atlas.run.better[name]) ?? names[0] };
  fields.forEach((field, i) => atlas.options(field, options, names.includes(field.value) ? field.value : first["xy"[i]]));
  const [x, y] = fields.map((field) => field.value),
    better = { x: atlas.run.better[x] ?? "lower", y: atlas.run.better[y] ?? "higher" };
  const points = of
    .filter(({ values }) => values[x] && values[y])
    .map(({ method, control, values }) => ({
      method,
      control,
      x: values[x][0],
      y: values[y][0],
      ends: { x: values[x].slice(1), y: values[y].slice(1) },
    }));
  points.sort((a, b) => a.x - b.x);
  const line = atlas.pareto(
    points.filter(({ control }) => !control),
    better,
  );
  const hooks = { draw: [(chart) => atlas.drawPoints(chart, points, line)] };
  const ends = (side) => atlas.ends(points.flatMap((point) => [point[side], ...point.ends[side].filter((end) => end !== null)]));
  const costs = { x: !(x in atlas.run.better), y: !(y in atlas.run.better) }; // they differ by their size, not by their difference
  const decades = (side) => costs[side] && ends(side)[0] > 0 && ends(side)[1] > 30 * ends(side)[0];
  const spread = (side) => () => {
    const [low, high] = ends(side),
      margin = (high - low || Math.abs(high) || 1) * 0.12;
    return decades(side) ? [low / 2, high * 2] : [low - margin, high + margin];
  };
  const scale = (side) => ({ time: false, range: spread(side), distr: decades(side) ? 3 : 1 });
  draw(
    document.getElementById("scatter"),
    {
      scales: { x: scale("x"), y: scale("y") },
      axes: [axis(x), axis(y)],
      legend: { show: false },
      cursor: { show: false },
      series: [{}, { stroke: "transparent", points: { show: false } }],
      hooks,
    },
    [points.map((point) => point.x), points.map((point) => point.y)],
  );
  document.getElementById("scatter-words").textContent =
    `Not beaten on both axes: ${line.map(({ method }) => method).join(", ")}. Better is ${better.x} across and ${better.y} up.`;
};

/** Crosses, dots, names and the line, on a chart that has its axes. */
atlas.drawPoints = (chart, points, line) => {
  const { ctx } = chart,
    ratio = devicePixelRatio,
    at = (point) => [chart.valToPos(point.x, "x", true), chart.valToPos(point.y, "y", true)];
  const stroke = (places) => {
    ctx.beginPath();
    places.forEach(([x, y], i) => (i ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
    ctx.stroke();
  };
  ctx.save();
  ctx.lineWidth = 1.5 * ratio;
  ctx.strokeStyle = style("--accent");
  stroke(line.map(at));
  ctx.font = `${12 * ratio}px system-ui, sans-serif`;
  const taken = [];
  for (const point of points) {
    const [x, y] = at(point),
      colour = style(point.control ? "--faint" : "--text");
    ctx.strokeStyle = ctx.fillStyle = colour;
    ctx.lineWidth = ratio;
    const ends = (side) => point.ends[side].map((end) => (end === null ? null : chart.valToPos(end, side, true)));
    const [across, up] = [ends("x"), ends("y")];
    if (!across.includes(null)) stroke(across.map((place) => [place, y]));
    if (!up.includes(null)) stroke(up.map((place) => [x, place]));
    ctx.beginPath();
    ctx.arc(x, y, 3.5 * ratio, 0, 2 * Math.PI);
    ctx.fill();
    const wide = ctx.measureText(point.method).width,
      left = x + wide + 14 * ratio > ctx.canvas.width ? x - wide - 7 * ratio : x + 7 * ratio;
    const free = (top) =>
      top > chart.bbox.top + 10 * ratio && !taken.some(([u, v]) => Math.abs(u - left) < wide && Math.abs(v - top) < 12 * ratio);
    const tops = Array.from({ length: 24 }, (_, i) => y + (i % 2 ? 1 : -1) * (5 + 7 * i) * ratio); // above, below, further above ...
    const top = tops.find(free) ?? tops[0];
    taken.push([left, top]);
    ctx.fillText(point.method, left, top);
  }
  ctx.restore();
};

/** The tables, charts and matrices of one target. */
atlas.showRun = () => {
  const select = document.getElementById("table-target");
  if (select) {
    select.closest("[data-choice]").hidden = select.options.length < 2;
    if ([...select.options].some((option) => option.value === atlas.state.target)) select.value = atlas.state.target;
    for (const section of document.querySelectorAll(".of-target")) section.hidden = section.dataset.target !== select.value;
  }
  atlas.showScatter();
  atlas.showCurves();
};

/** The order of two cells: numbers by size, texts by letters; a cell without a number comes behind the numbers, whichever way they go. */
atlas.order = (one, other, sign) => {
  const [missing, too] = [one, other].map((value) => typeof value !== "number" || Number.isNaN(value));
  if (missing && too) return sign * String(one).localeCompare(String(other));
  return missing - too || sign * (one - other);
};

/** Sort a table by a column when its head is pressed, and back when it is pressed again. */
atlas.makeSortable = (table) => {
  const heads = [...table.tHead.rows[0].cells],
    body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = atlas.element("button", { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falls = head.getAttribute("aria-sort") !== "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const key = ({ cells: { [column]: cell } }) => ("value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent);
      const rows = [...body.rows].sort((a, b) => atlas.order(key(a), key(b), falls ? -1 : 1));
      body.append(...rows);
    });
  });
};
