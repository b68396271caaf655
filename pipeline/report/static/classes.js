// The classes: how well each is predicted, and how good its maps are.
"use strict";

/** Links from the classes to their images, made once. */
atlas.linkClasses = (table) => {
  for (const row of table.tBodies[0].rows) {
    const head = row.cells[0],
      link = atlas.element("a", {}, ...head.childNodes);
    head.append(link);
    row.insertCell();
    if (atlas.run.files.includes("means-0")) row.insertCell();
  }
};

/** The mean maps of a class for the chosen method and target: of all of its images and, where some are wrong, of right and wrong ones. */
atlas.meanMaps = (subsets = {}, name) => {
  const figures = Object.entries(subsets).filter(([subset, [count]]) => subset === "all" || count < subsets.all[0]);
  return figures.map(([subset, [count, entry]]) => {
    const words = `${subset}: ${count}`;
    const canvas = atlas.element("canvas", { class: "map", role: "img", "aria-label": `Mean map of ${name}, ${subset} ${count} images` });
    atlas.paint(canvas, atlas.decode(entry), [0, 1], 96);
    const frame = atlas.element("div", { class: "layers bare" }, canvas);
    frame.style.aspectRatio = `${atlas.run.size[1]} / ${atlas.run.size[0]}`;
    return atlas.element("figure", {}, frame, atlas.element("figcaption", {}, words));
  });
};

/** Show the chosen metric of each class. */
atlas.showClasses = async () => {
  const table = document.getElementById("class-table"),
    form = document.getElementById("class-form");
  if (!table) return;
  if (form.hidden) atlas.linkClasses(table);
  form.hidden = false;
  const { method, target } = atlas.state,
    cell = atlas.cellOf(method, target),
    { method: methods, target: targets, metric: metrics } = form.elements;
  const means = cell < 0 ? {} : await atlas.load(`classes-${cell}`),
    names = Object.keys(means);
  const metric = names.includes(atlas.state.metric) ? atlas.state.metric : (names.find((name) => atlas.run.better[name]) ?? "");
  atlas.options(
    methods,
    atlas.methods().map((name) => [name, name]),
    method,
  );
  atlas.options(
    targets,
    atlas.targets().map((name) => [name, name]),
    target,
  );
  atlas.options(metrics, names.length ? names.map((name) => [name, name]) : [["", "none"]], metric);
  const head = document.getElementById("class-metric"),
    most = Math.max(...Object.values(means[metric] ?? {}).map(([mean]) => Math.abs(mean)));
  head.hidden = !metric;
  (head.querySelector("button") ?? head).textContent = `${metric} of ${method}, ${target}`;
  const mean_maps = atlas.run.files.includes(`means-${cell}`) ? await atlas.load(`means-${cell}`) : {};
  table.querySelector(".means-head")?.removeAttribute("hidden");
  for (const row of table.tBodies[0].rows) {
    row.cells[5]?.replaceChildren(
      atlas.element("div", { class: "means" }, ...atlas.meanMaps(mean_maps[row.dataset.class], row.cells[0].textContent)),
    );
    row.cells[0].firstChild.href = atlas.address({ page: "gallery", label: row.dataset.class, image: "" });
    const [mean, low, high] = means[metric]?.[row.dataset.class] ?? [null],
      shown = row.cells[4];
    shown.hidden = !metric;
    shown.className = "share";
    shown.dataset.value = mean ?? "NaN";
    shown.style.setProperty("--share", mean === null ? 0 : Math.abs(mean) / most);
    const interval = low === null || low === undefined ? "" : `${atlas.number(low)} to ${atlas.number(high)}`;
    shown.replaceChildren(atlas.number(mean), atlas.element("small", {}, interval));
  }
};
