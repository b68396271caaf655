// AggAtt: the mean maps of the images that a metric calls best, middling and worst.
"use strict";

/** One bin of one method: its mean map, the metric, and links to those of its examples that are shown. */
atlas.bin = ({ map: entry, low, high, mean, ci_low: least, ci_high: most, n, examples, colour_max: top, metric }) => {
  const map = atlas.decode(entry),
    words = `${atlas.number(100 * low)} to ${atlas.number(100 * high)} %`;
  const canvas = atlas.element("canvas", { class: "map", role: "img", "aria-label": `Mean map of ${map.method}, images ${words}` });
  atlas.paint(canvas, map, [0, top || 1], 128);
  const frame = atlas.element("div", { class: "layers bare" }, canvas);
  frame.style.aspectRatio = `${atlas.run.size[1]} / ${atlas.run.size[0]}`;
  const interval = least === null ? "" : `, ${atlas.number(least)} to ${atlas.number(most)}`;
  const lines = [
    ["images", `${n}`],
    [metric, `${atlas.number(mean)}${interval}`],
    ["colours", `0 to ${atlas.number(top)}`],
  ];
  const links = examples
    .filter((name) => atlas.images.image_id.includes(name))
    .map((name, i) => atlas.element("a", { href: atlas.address({ page: "image", image: name }), title: name }, `example ${i + 1}`));
  const terms = lines.map(([term, text]) => atlas.element("div", {}, atlas.element("dt", {}, term), atlas.element("dd", {}, text)));
  return atlas.element("figure", {}, frame, atlas.element("dl", {}, ...terms), atlas.element("div", { class: "examples" }, ...links));
};

/** Show the bins of every method for the chosen target and metric. */
atlas.showAggatt = async () => {
  const bins = await atlas.load("aggatt"),
    form = document.getElementById("aggatt-form").elements;
  atlas.images ??= await atlas.load("images");
  const metrics = [...new Set(bins.map(({ metric }) => metric))],
    binned = metrics.includes(atlas.state.binned) ? atlas.state.binned : metrics[0];
  atlas.options(
    form.target,
    atlas.targets().map((name) => [name, name]),
    atlas.state.target,
  );
  atlas.options(
    form.binned,
    metrics.map((name) => [name, name]),
    binned,
  );
  const of = (method) => bins.filter(({ cell, metric }) => metric === binned && cell === atlas.cellOf(method, atlas.state.target));
  const rows = atlas
    .methods()
    .map((method) => [method, of(method)])
    .filter(([, own]) => own.length);
  const heads = [...new Map(rows.flatMap(([, own]) => own.map(({ low, high }) => [low, high]))).entries()].sort(([a], [b]) => a - b);
  const words = ([low, high]) =>
    `${low === 0 ? "best " : ""}${atlas.number(100 * low)} to ${atlas.number(100 * high)} %${high === 1 ? ", worst" : ""}`;
  const cell = (own, [low]) => {
    const bin = own.find((other) => other.low === low);
    return atlas.element("td", {}, bin ? atlas.bin(bin) : "");
  };
  document
    .getElementById("bins")
    .replaceChildren(
      atlas.element(
        "thead",
        {},
        atlas.element("tr", {}, atlas.element("td"), ...heads.map((head) => atlas.element("th", { scope: "col" }, words(head)))),
      ),
      atlas.element(
        "tbody",
        {},
        ...rows.map(([method, own]) =>
          atlas.element("tr", {}, atlas.head(method, "method", false), ...heads.map((head) => cell(own, head))),
        ),
      ),
    );
};
