// Two runs: the maps that moved most, side by side.
"use strict";

/** One of two maps of an image, between limits that both share. */
atlas.beside = (row, map, limits, when) => {
  const range = `${atlas.number(map.low)} to ${atlas.number(map.high)}`;
  const alt = `Map of ${map.method}, target ${map.target}, ${when}: ${range}`;
  const canvas = atlas.element("canvas", { class: map.constant ? "map weak" : "map", role: "img", "aria-label": alt });
  atlas.paint(canvas, map, limits, 128);
  const frame = atlas.element("div", { class: row.picture ? "layers" : "layers bare" });
  frame.style.aspectRatio = `${atlas.run.size[1]} / ${atlas.run.size[0]}`;
  if (row.picture) frame.append(atlas.element("img", { src: row.picture, alt: "" }));
  frame.append(canvas);
  return atlas.element("figure", {}, frame, atlas.element("figcaption", {}, range));
};

/** Show the maps that moved most. */
atlas.showCompare = async () => {
  const rows = await atlas.load("moved");
  atlas.images ??= await atlas.load("images");
  document.getElementById("moved-section").hidden = !rows.length;
  const body = rows.map((row) => {
    const [now, before] = [row.now, row.before].map(atlas.decode);
    const ends = atlas.ends([now.low, now.high, before.low, before.high]),
      size = Math.max(...ends.map(Math.abs));
    const limits = ends[0] < 0 ? [-size, size] : ends;
    const shown = atlas.images.image_id.includes(row.image_id);
    const name = shown ? atlas.element("a", { href: atlas.address({ page: "image", image: row.image_id }) }, row.image_id) : row.image_id;
    const words = `${now.method}, ${now.target}`;
    return atlas.element(
      "tr",
      {},
      atlas.element("th", { scope: "row" }, name),
      atlas.element("td", {}, words),
      atlas.element("td", {}, atlas.number(row.spearman)),
      atlas.element("td", {}, atlas.beside(row, before, limits, "before")),
      atlas.element("td", {}, atlas.beside(row, now, limits, "now")),
    );
  });
  const heads = ["image", "map", "Spearman", "before", "now"].map((head) => atlas.element("th", { scope: "col" }, head));
  document
    .getElementById("moved")
    .replaceChildren(atlas.element("thead", {}, atlas.element("tr", {}, ...heads)), atlas.element("tbody", {}, ...body));
};
