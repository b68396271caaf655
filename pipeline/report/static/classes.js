// The classes: how well each is predicted, and how good its maps are.
"use strict";

/** Links from the classes to their images, made once. */
atlas.linkClasses = (table) => {
  for (const row of table.tBodies[0].rows) {
    const head = row.cells[0],
      link = atlas.element("a", {}, ...head.childNodes);
    head.append(link);
    row.insertCell();
  }
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
  for (const row of table.tBodies[0].rows) {
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
