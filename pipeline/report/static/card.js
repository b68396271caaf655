// The image card: one image, its answers, and the maps of every method and target.
"use strict";

const SIDE = 224,
  FEW = 5;

/** Show the image of the state. */
atlas.showImage = async () => {
  const place = atlas.images.image_id.indexOf(atlas.state.image);
  if (place < 0) {
    atlas.notice(`${atlas.state.image || "no image"} is not among the ${atlas.run.count} images that this report shows.`);
    return;
  }
  if (!atlas.places) atlas.places = atlas.selection(await atlas.metricValues());
  const content = await atlas.image(place),
    maps = content.maps.map(atlas.decode);
  document.getElementById("image-name").textContent = atlas.state.image;
  const at = atlas.places.indexOf(place);
  document.getElementById("position").textContent =
    at < 0 ? "not in the selection" : `${at + 1} of ${atlas.places.length} in the selection`;
  document.getElementById("back").href = atlas.address({ page: "gallery", image: "" });
  atlas.fillLook();
  atlas.showOriginal(place, content);
  atlas.showAnswers(place);
  atlas.showMaps(place, content, maps);
  atlas.showBar(maps);
};

/** Go to the image `step` further in the selection. */
atlas.step = (step) => {
  const place = atlas.images.image_id.indexOf(atlas.state.image),
    at = atlas.places.indexOf(place) + step;
  if (at >= 0 && at < atlas.places.length) atlas.change({ image: atlas.images.image_id[atlas.places[at]] });
};

atlas.showOriginal = (place, content) => {
  const layers = atlas.layers(place, content, null, `Image ${atlas.state.image} as the network sees it`);
  layers.append(content.picture ? atlas.marks(place, content) : atlas.element("span", {}, "no picture"));
  const names = Object.keys(content.points ?? {});
  const boxes = atlas.images.boxes[place].length;
  const words = [boxes ? `true boxes: ${boxes}` : "no true box", names.length ? `visible parts: ${names.join(", ")}` : ""].filter(Boolean);
  document.getElementById("original").replaceChildren(layers, atlas.element("figcaption", {}, words.join("; ")));
};

/** Label, answer and probabilities; a class of the top five chooses the images of that label. */
atlas.showAnswers = (place) => {
  const { images } = atlas,
    percent = (share) => `${atlas.number(100 * share)} %`;
  const label = images.label[place],
    predicted = images.predicted?.[place];
  const facts = [["Label", label === null ? "none" : atlas.className(label)]];
  if (predicted !== undefined) {
    facts.push(["Predicted", `${atlas.className(predicted)}, ${percent(images.predicted_prob[place])}`]);
    if (label !== null) facts.push(["Label at", percent(images.label_prob[place])]);
  }
  if (images.split[place] !== null) facts.push(["Split", images.split[place]]);
  facts.push(["Pixels", `${images.width[place]} x ${images.height[place]}`]);
  const apart = atlas.disagreement()[place];
  if (apart !== null && apart !== undefined)
    facts.push(atlas.run.spearman ? ["Disagreement", atlas.number(apart)] : ["Peaks apart", `${atlas.number(100 * apart)} % of the side`]);
  document
    .getElementById("image-facts")
    .replaceChildren(
      ...facts.map(([term, words]) => atlas.element("div", {}, atlas.element("dt", {}, term), atlas.element("dd", {}, words))),
    );
  const rows = (images.top5?.[place] ?? []).map(([id, share]) => {
    const bar = atlas.element(
      "a",
      { class: "answer", href: atlas.address({ page: "gallery", image: "", label: String(id) }) },
      `${atlas.className(id)} ${percent(share)}`,
    );
    bar.style.setProperty("--share", share);
    return atlas.element("li", { class: id === label ? "is-label" : "" }, bar);
  });
  document.getElementById("top5").replaceChildren(...(rows.length ? [atlas.element("ol", { class: "answers" }, ...rows)] : []));
};

/** The grid of maps: methods down and targets across; on a wide screen the longer list goes across. */
atlas.showMaps = (place, content, maps) => {
  const targets = [...new Set(maps.map((map) => map.target))].filter((target, _, all) => target !== "none" || all.length === 1);
  const first = [atlas.state.target, "label"].filter((target) => targets.includes(target));
  targets.sort((a, b) => first.includes(b) - first.includes(a) || first.indexOf(a) - first.indexOf(b) || a.includes("#") - b.includes("#"));
  const methods = atlas.methods(),
    across = matchMedia("(min-width: 900px)").matches && methods.length > targets.length;
  const grid = methods.map((method) => {
    const of = (target) => maps.find((map) => map.method === method && map.target === target);
    return of("none") ? [of("none")] : targets.map(of); // a map that asks for no class stands for all targets
  });
  const figure = (map, count) => {
    const cell = atlas.element("td", {}, map ? atlas.figure(place, content, map, maps) : "");
    cell[across ? "rowSpan" : "colSpan"] = count;
    return cell;
  };
  const span = (row) => (row.length === 1 ? targets.length : 1);
  const heads = {
    method: methods.map((name) => atlas.head(name, "method", across)),
    target: targets.map((name) => atlas.head(name, "target", !across)),
  };
  const rows = across
    ? targets.map((_, i) => [heads.target[i], ...grid.filter((row) => i < row.length).map((row) => figure(row[i], span(row)))])
    : grid.map((row, i) => [heads.method[i], ...row.map((map) => figure(map, span(row)))]);
  document
    .getElementById("maps")
    .replaceChildren(
      atlas.element("thead", {}, atlas.element("tr", {}, atlas.element("td"), ...heads[across ? "method" : "target"])),
      atlas.element("tbody", {}, ...rows.map((cells) => atlas.element("tr", {}, ...cells))),
    );
};

/** The head of a method's or target's row or column. */
atlas.head = (name, kind, column) => {
  const control = kind === "method" && atlas.run.controls.includes(name);
  const kinds = [name === atlas.state[kind] && "current", control && "control"].filter(Boolean).join(" ");
  return atlas.element("th", { scope: column ? "col" : "row", class: kinds }, name, control ? atlas.element("small", {}, " control") : "");
};

/** The metrics that stand under a map: all, or the chosen one and the first that have a better way. */
atlas.shownMetrics = () => {
  const { metrics, better } = atlas.run,
    { metric, numbers } = atlas.state;
  return numbers === "all"
    ? metrics
    : metrics.filter(
        (name) =>
          name === metric ||
          metrics
            .filter((other) => better[other])
            .slice(0, FEW)
            .includes(name),
      );
};

/** One map with its words. */
atlas.figure = (place, content, map, maps) => {
  const warning = atlas.warning(map),
    range = `${atlas.number(map.low)} to ${atlas.number(map.high)}`;
  const alt = `Map of ${map.method}, target ${map.target}: ${warning || `from ${range}`}`;
  const canvas = atlas.element("canvas", { class: warning ? "map weak" : "map", role: "img", "aria-label": alt });
  const pixels = atlas.paint(canvas, map, atlas.limits(map, maps), SIDE);
  const layers = atlas.layers(place, content, canvas, "");
  const found = atlas.found(pixels, SIDE, place);
  layers.append(atlas.marks(place, content, { found: found.box, parts: false }));
  layers.addEventListener("pointermove", (event) => atlas.point(event, layers, map, pixels, canvas));
  const lines = [["range", range]];
  if (map.classId !== null) lines.unshift(["class", atlas.className(map.classId)]);
  if (map.references.length) {
    const gamma = map.gamma === null ? "" : ` (γ ${atlas.number(map.gamma)})`;
    lines.splice(1, 0, ["against", map.references.map(atlas.className).join(", ") + gamma]);
  }
  if (found.iou !== undefined) lines.push(["IoU of the box", found.iou === null ? "–" : atlas.number(found.iou)]);
  if (map.target === "none") lines.unshift(["target", "none, it asks for no class"]);
  const alike = atlas.images.likeness[map.cell]?.[place];
  if (alike !== undefined && alike !== null) lines.push(["cosine to label", atlas.number(alike)]);
  const { scores = {}, reasons = {} } = content.scores[map.cell] ?? {};
  for (const metric of atlas.shownMetrics()) {
    if (metric in scores) lines.push([metric, `${atlas.number(scores[metric][0])} ·\u00a0${scores[metric][1]}\u00a0%`]);
    else if (metric in reasons) lines.push([metric, `none: ${reasons[metric]}`]);
  }
  const words = lines.map(([term, text]) => atlas.element("div", {}, atlas.element("dt", {}, term), atlas.element("dd", {}, text)));
  return atlas.element(
    "figure",
    {},
    layers,
    warning && atlas.element("p", { class: "warning" }, warning),
    atlas.element("dl", {}, ...words),
  );
};

/** Say which value is under the pointer. */
atlas.point = (event, layers, map, pixels, canvas) => {
  const frame = layers.getBoundingClientRect();
  const [x, y] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
  const value = pixels[Math.floor(y * canvas.height) * canvas.width + Math.floor(x * canvas.width)];
  document.getElementById("pointed").textContent =
    `${map.method}, ${map.target}: ${atlas.number(value, 4)} at ${Math.round(100 * x)} % from the left, ${Math.round(100 * y)} % from the top`;
};

/** The colours with the numbers at their ends, for the chosen method and target; another map's numbers stand below it. */
atlas.showBar = (maps) => {
  const cell = atlas.cellOf(atlas.state.method, atlas.state.target);
  const map = maps.find((other) => other.cell === cell);
  const [low, high] = map ? (atlas.limits(map, maps) ?? [map.low, map.high]) : [0, 1];
  const levels = Float64Array.from({ length: 256 }, (_, level) => level / 255);
  const colours = atlas.colours(levels, atlas.paletteOf(low < 0));
  document
    .getElementById("colour-bar")
    .getContext("2d")
    .putImageData(new ImageData(colours, 256, 1), 0, 0);
  const words = { map: "its own range", image: "this image", run: "the run" }[atlas.state.scale];
  document.getElementById("bar-low").textContent = map ? `${map.method}, ${map.target}, ${words}: ${atlas.number(low)}` : "least";
  document.getElementById("bar-high").textContent = map ? atlas.number(high) : "largest";
};
