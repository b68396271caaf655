// The gallery: which images pass the filters, in which order, and their maps.
"use strict";

const PAGE = 48;

/** The ways to sort: words, the columns of SQL, and the numbers [n] that decide, small ones first; equal ones stay in the drawn order. */
atlas.sorts = {
  drawn: { words: "as drawn", sql: null, key: () => () => 0 },
  name: { words: "name", sql: "image_id", key: () => (place) => atlas.images.image_id[place] },
  best: { words: "best by the metric", metric: true, key: (values) => (place) => -atlas.turned(values[place]) },
  worst: { words: "worst by the metric", metric: true, key: (values) => (place) => atlas.turned(values[place]) },
  disputed: {
    words: "most disputed between methods",
    sql: "disagreement DESC NULLS LAST",
    key: () => (place) => -(atlas.disagreement()[place] ?? -Infinity),
  },
  changed: {
    words: "least like the map of the label",
    sql: "likeness ASC NULLS LAST",
    key: () => (place) => atlas.images.likeness[atlas.cellOf(atlas.state.method, atlas.state.target)]?.[place] ?? Infinity,
  },
  confident: {
    words: "confident and wrong",
    wrong: true,
    sql: "predicted_prob DESC NULLS LAST",
    key: () => (place) => -(atlas.images.predicted_prob?.[place] ?? -Infinity),
  },
  unsure: {
    words: "least sure of the label",
    sql: "label_prob ASC NULLS LAST",
    key: () => (place) => atlas.images.label_prob?.[place] ?? Infinity,
  },
};

atlas.disagreement = () => {
  const of = atlas.images.disagreement;
  return of[atlas.state.target] ?? Object.values(of)[0];
};

/** A value of the chosen metric, turned so that more is better; no value comes last in either order. */
atlas.turned = (value) => (atlas.run.better[atlas.state.metric] === "lower" ? -value : value);

/** The cell of a method for a target, or of its maps without one. */
atlas.cellOf = (method, target) => {
  const find = (wanted) => atlas.run.cells.findIndex(([name, other]) => name === method && other === wanted);
  return find(target) >= 0 ? find(target) : find("none");
};

/** The chosen metric of the shown images: Float32Array [n], NaN where there is none; null where no metric is chosen. */
atlas.metricValues = async () => {
  const { method, target, metric } = atlas.state;
  const cell = atlas.cellOf(method, target);
  if (!atlas.run.metrics.includes(metric) || cell < 0) return null;
  const content = await atlas.load(`metrics-${cell}`);
  const values = new Float32Array(Uint8Array.from(atob(content[metric]), (letter) => letter.charCodeAt(0)).buffer);
  values.reasons = content.reasons[metric] ?? {};
  return values;
};

const wrong = (place) => atlas.images.label[place] !== null && atlas.images.predicted?.[place] !== atlas.images.label[place];
const right = (place) => atlas.images.label[place] !== null && atlas.images.predicted?.[place] === atlas.images.label[place];

/** The conditions that the state sets, each with its SQL. */
atlas.conditions = (values) => {
  const { label, predicted, outcome, split, metric, low, high, reason, sort } = atlas.state,
    conditions = [];
  const text = (value) => `'${value.replaceAll("'", "''")}'`;
  const add = (chosen, sql, passes) => chosen && conditions.push({ sql, passes });
  add(label !== "", `images.label = ${label}`, (place) => String(atlas.images.label[place]) === label);
  add(predicted !== "", `predicted = ${predicted}`, (place) => String(atlas.images.predicted?.[place]) === predicted);
  add(split !== "", `split = ${text(split)}`, (place) => atlas.images.split[place] === split);
  add(outcome === "right", "images.label = predicted", right);
  add(outcome === "wrong" || atlas.sorts[sort].wrong, "images.label != predicted", wrong);
  add(values && low !== "", `"${metric}" >= ${Number(low)}::FLOAT`, (place) => values[place] >= Math.fround(Number(low)));
  add(values && high !== "", `"${metric}" <= ${Number(high)}::FLOAT`, (place) => values[place] <= Math.fround(Number(high)));
  const places = new Set(values?.reasons[reason] ?? []);
  add(values && reason !== "", `reasons[${text(metric)}] = ${text(reason)}`, (place) => places.has(place));
  return conditions;
};

/** The places of the images that pass, in order. */
atlas.selection = (values) => {
  const conditions = atlas.conditions(values),
    sort = atlas.sorts[atlas.state.sort];
  const places = atlas.images.image_id.map((_, place) => place).filter((place) => conditions.every(({ passes }) => passes(place)));
  if (sort.metric && !values) return places;
  const key = sort.key(values),
    last = (number) => typeof number === "number" && Number.isNaN(number);
  return places
    .map((place) => [key(place), place])
    .sort(([a, first], [b, second]) => last(a) - last(b) || (a < b ? -1 : a > b ? 1 : first - second))
    .map(([, place]) => place);
};

/** The same question to the tables of the whole run. */
atlas.question = (values) => {
  const { method, target, metric, sort } = atlas.state,
    rule = atlas.sorts[sort];
  const [, own] = atlas.run.cells[atlas.cellOf(method, target)] ?? [];
  const text = (value) => `'${value.replaceAll("'", "''")}'`;
  const lines = ["SELECT image_id FROM images"];
  if (atlas.images.predicted)
    lines.push("LEFT JOIN (SELECT image_id, predicted, predicted_prob, label_prob FROM predictions) USING (image_id)");
  if (values) {
    lines.push(
      `LEFT JOIN (SELECT image_id, "${metric}", reasons FROM metrics WHERE method = ${text(method)} AND target = ${text(own)}) USING (image_id)`,
    );
  }
  if (sort === "disputed" && atlas.run.spearman) {
    lines.push(`LEFT JOIN (SELECT image_id, disagreement FROM disagreement WHERE target = ${text(target)}) USING (image_id)`);
  } else if (sort === "disputed") {
    lines.push("LEFT JOIN (SELECT image_id, round(sqrt(2 * (var_samp(peak_x) + var_samp(peak_y))), 6) AS disagreement FROM maps");
    lines.push(`  WHERE target IN ('none', ${text(target)}) AND method NOT IN ('random', 'fake_cam') AND map_max > map_min`);
    lines.push("  GROUP BY image_id HAVING count(*) > 1) USING (image_id)");
  }
  if (sort === "changed") {
    lines.push("LEFT JOIN (SELECT m.image_id, list_cosine_similarity(map_floats(m), map_floats(l)) AS likeness FROM maps m JOIN maps l");
    lines.push(
      `  USING (image_id, method, height, width) WHERE method = ${text(method)} AND m.target = ${text(own)} AND l.target = 'label') USING (image_id)`,
    );
  }
  const conditions = atlas.conditions(values).map(({ sql }) => sql);
  if (conditions.length) lines.push(`WHERE ${conditions.join(" AND ")}`);
  const falls = (sort === "best") === (atlas.run.better[metric] !== "lower");
  const order = rule.metric ? values && `"${metric}" ${falls ? "DESC" : "ASC"} NULLS LAST` : rule.sql;
  if (order) lines.push(`ORDER BY ${order}`);
  return lines.join("\n");
};

/** Show the gallery of the state. */
atlas.showGallery = async () => {
  const values = await atlas.metricValues();
  atlas.fillFilters(values);
  atlas.places = atlas.selection(values);
  const { run } = atlas,
    count = atlas.places.length;
  document.getElementById("count").textContent =
    `${count} of ${run.count} shown images pass the filters. Shown are ${run.count} of the run's ${run.total} images: ${run.how}.`;
  document.getElementById("sql").value = atlas.question(values);
  atlas.showHistogram(values);
  document.getElementById("grid").replaceChildren();
  await atlas.extend(values);
};

/** Add the next page of images to the grid. */
atlas.extend = async (values) => {
  const grid = document.getElementById("grid"),
    start = grid.children.length;
  const next = atlas.places.slice(start, start + PAGE);
  const entries = next.map((place) => atlas.entry(place, values));
  grid.append(...entries.map(({ item }) => item));
  const more = document.getElementById("more");
  more.hidden = grid.children.length >= atlas.places.length;
  more.textContent = `More images (${atlas.places.length - grid.children.length} left)`;
  await Promise.all(entries.map(({ draw }) => draw()));
};

/** One image of the grid, and the function that draws it once its data are there. */
atlas.entry = (place, values) => {
  const { method, target } = atlas.state,
    cell = atlas.cellOf(method, target),
    name = atlas.images.image_id[place];
  const frame = atlas.element("div", { class: "layers bare" });
  frame.style.aspectRatio = atlas.ratio(place);
  const label = atlas.images.label[place],
    predicted = atlas.images.predicted?.[place];
  const words = label === null ? "no label" : atlas.className(label);
  const answer = predicted === undefined || predicted === label ? "" : `predicted ${atlas.className(predicted)}`;
  const value = values && `${atlas.state.metric} ${atlas.number(values[place])}`;
  const link = atlas.element(
    "a",
    { href: atlas.address({ page: "image", image: name }) },
    frame,
    atlas.element("span", { class: "label" }, words),
    atlas.element("span", { class: "wrong" }, answer),
    atlas.element("span", { class: "value" }, value ?? ""),
  );
  const draw = async () => {
    const content = await atlas.image(place),
      entry = content.maps.find((other) => other[0] === cell);
    const maps = content.maps.filter((other) => atlas.run.cells[other[0]][0] === method).map(atlas.decode);
    const map = entry && maps.find((other) => other.cell === cell);
    const canvas = map && atlas.element("canvas", { class: atlas.warning(map) ? "map weak" : "map", "aria-hidden": "true" });
    if (map) atlas.paint(canvas, map, atlas.limits(map, maps), 128);
    const layers = atlas.layers(place, content, canvas, `Image ${name}`);
    if (!content.picture) layers.append(atlas.element("span", { class: "hidden" }, `Image ${name}`));
    layers.append(atlas.marks(place, content, { parts: false }));
    frame.replaceWith(layers);
    const warning = map ? atlas.warning(map) : `no map of ${method}`;
    if (warning) link.append(atlas.element("span", { class: "warning" }, warning));
  };
  return { item: atlas.element("li", {}, link), draw };
};

/** How the metric is spread over the images that have it. */
atlas.showHistogram = (values) => {
  const frame = document.getElementById("histogram");
  const numbers = values ? Array.from(values).filter((value) => !Number.isNaN(value)) : [];
  frame.hidden = !numbers.length;
  if (!numbers.length) return;
  const [low, high] = atlas.ends(numbers),
    bins = new Array(24).fill(0);
  for (const value of numbers) bins[Math.min(Math.floor(((value - low) / (high - low || 1)) * 24), 23)]++;
  const most = Math.max(...bins);
  frame.replaceChildren(
    ...bins.map((count, i) => {
      const [from, to] = [low + ((high - low) * i) / 24, low + ((high - low) * (i + 1)) / 24];
      const words = `${count} from ${atlas.number(from)} to ${atlas.number(to)}`;
      const bar = atlas.element("button", {
        type: "button",
        title: words,
        "aria-label": words,
        onclick: () => atlas.change({ low: from, high: to }),
      });
      bar.style.setProperty("--share", count / most);
      return bar;
    }),
    atlas.element("span", {}, atlas.number(low)),
    atlas.element("span", {}, atlas.number(high)),
  );
};

/** Hand a text to the browser as a file. */
atlas.save = (name, content) => {
  const link = atlas.element("a", { download: name, href: URL.createObjectURL(new Blob([content])) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

/** The selected images as lines of CSV; a text that a spreadsheet would take for a formula gets an apostrophe. */
atlas.csv = (values) => {
  const quoted = (value) => {
    const text = value === null || value === undefined || Number.isNaN(value) ? "" : String(value);
    return `"${(typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? "'" : "") + text.replaceAll('"', '""')}"`;
  };
  const { image_id, label, label_name, predicted, predicted_prob } = atlas.images,
    { method, target, metric } = atlas.state;
  const rows = atlas.places.map((place) => [
    image_id[place],
    label[place],
    label_name[place],
    predicted?.[place],
    predicted_prob?.[place],
    method,
    target,
    values?.[place],
  ]);
  const names = ["image_id", "label", "label_name", "predicted", "predicted_prob", "method", "target", metric || "value"];
  return [names, ...rows].map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
};
