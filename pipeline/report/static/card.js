// The image card: one image, its answers, and the maps of every method and target.
"use strict";

const SIDE = 224;

/** Show the image of the state. */
atlas.showImage = async () => {
  const place = atlas.images.image_id.indexOf(atlas.state.image);
  if (place < 0) {
    atlas.notice(`${atlas.state.image || "no image"} is not among the ${atlas.run.count} images that this report shows.`);
    return;
  }
  if (!atlas.places) atlas.places = atlas.selection(await atlas.metricValues());
  const content = await atlas.image(place), maps = content.maps.map(atlas.decode);
  document.getElementById("image-name").textContent = atlas.state.image;
  const at = atlas.places.indexOf(place);
  document.getElementById("position").textContent = at < 0 ? "not in the selection" : `${at + 1} of ${atlas.places.length} in the selection`;
  document.getElementById("back").href = atlas.address({ page: "gallery", image: "" });
  atlas.fillLook();
  atlas.showOriginal(place, content);
  atlas.showAnswers(place);
  atlas.showMaps(place, content, maps);
  atlas.showBar();
};

/** Go to the image `step` further in the selection. */
atlas.step = (step) => {
  const place = atlas.images.image_id.indexOf(atlas.state.image), at = atlas.places.indexOf(place) + step;
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
  const { images } = atlas, percent = (share) => `${atlas.number(100 * share)} %`;
  const label = images.label[place], predicted = images.predicted?.[place];
  const facts = [["Label", label === null ? "none" : atlas.className(label)]];
  if (predicted !== undefined) {
    facts.push(["Predicted", `${atlas.className(predicted)}, ${percent(images.predicted_prob[place])}`]);
    if (label !== null) facts.push(["Probability of the label", percent(images.label_prob[place])]);
  }
  if (images.split[place] !== null) facts.push(["Split", images.split[place]]);
  facts.push(["Pixels", `${images.width[place]} x ${images.height[place]}`]);
  const apart = atlas.disagreement()[place];
  if (apart !== null && apart !== undefined) facts.push([`Peaks apart (${atlas.state.target})`, `${atlas.number(100 * apart)} % of the side`]);
  document.getElementById("image-facts").replaceChildren(
    ...facts.map(([term, words]) => atlas.element("div", {}, atlas.element("dt", {}, term), atlas.element("dd", {}, words))),
  );
  const rows = (images.top5?.[place] ?? []).map(([id, share]) => {
    const bar = atlas.element("a", { class: "answer", href: atlas.address({ page: "gallery", image: "", label: String(id) }) },
      `${atlas.className(id)} ${percent(share)}`);
    bar.style.setProperty("--share", share);
    return atlas.element("li", { class: id === label ? "is-label" : "" }, bar);
  });
  document.getElementById("top5").replaceChildren(...(rows.length ? [atlas.element("ol", { class: "answers" }, ...rows)] : []));
};

/** The grid of maps: methods down, targets across. */
atlas.showMaps = (place, content, maps) => {
  const methods = atlas.methods(), targets = [...new Set(maps.map((map) => map.target))];
  targets.sort((a, b) => (b === atlas.state.target) - (a === atlas.state.target) || (a === "none") - (b === "none"));
  const rows = methods.map((method) => {
    const cells = targets.map((target) => {
      const map = maps.find((other) => other.method === method && other.target === target);
      return atlas.element("td", {}, map ? atlas.figure(place, content, map, maps) : "");
    });
    const current = method === atlas.state.method;
    const control = atlas.run.controls.includes(method);
    const name = atlas.element("th", { scope: "row", class: [current && "current", control && "control"].filter(Boolean).join(" ") }, method);
    if (control) name.append(atlas.element("small", {}, " control"));
    return atlas.element("tr", {}, name, ...cells);
  });
  const heads = targets.map((target) => atlas.element("th", { scope: "col", class: target === atlas.state.target ? "current" : "" },
    target === "none" ? "no target" : target));
  document.getElementById("maps").replaceChildren(
    atlas.element("thead", {}, atlas.element("tr", {}, atlas.element("td"), ...heads)), atlas.element("tbody", {}, ...rows));
};

/** One map with its words. */
atlas.figure = (place, content, map, maps) => {
  const warning = atlas.warning(map), range = `${atlas.number(map.low)} to ${atlas.number(map.high)}`;
  const alt = `Map of ${map.method}, target ${map.target}: ${warning || `from ${range}`}`;
  const canvas = atlas.element("canvas", { class: warning ? "map weak" : "map", role: "img", "aria-label": alt });
  const pixels = atlas.paint(canvas, map, maps, SIDE);
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
  const { scores = {}, reasons = {} } = content.scores[map.cell] ?? {};
  for (const [metric, [value, rank]] of Object.entries(scores)) lines.push([metric, `${atlas.number(value)} · ${rank} %`]);
  for (const [metric, reason] of Object.entries(reasons)) lines.push([metric, `none: ${reason}`]);
  const words = lines.map(([term, text]) => atlas.element("div", {}, atlas.element("dt", {}, term), atlas.element("dd", {}, text)));
  return atlas.element("figure", {}, layers, warning && atlas.element("p", { class: "warning" }, warning), atlas.element("dl", {}, ...words));
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

/** The colours with the numbers at their ends, as far as all maps share them. */
atlas.showBar = () => {
  const canvas = document.getElementById("colour-bar"), palette = atlas.palettes[atlas.state.palette];
  const levels = Float64Array.from({ length: 256 }, (_, level) => level / 255);
  canvas.getContext("2d").putImageData(new ImageData(atlas.colours(levels, palette), 256, 1), 0, 0);
  const ends = {
    map: ["each map's least value", "its largest"],
    image: ["0, or the least of the method here", "the largest of the method here"],
    run: ["0, or the least of the method in the run", "the largest of the method in the run"],
  }[atlas.state.scale];
  document.getElementById("bar-low").textContent = ends[0];
  document.getElementById("bar-high").textContent = ends[1];
};
