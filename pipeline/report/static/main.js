// The page: which section is shown, and what keys and fields do.
"use strict";

atlas.defaults = {
  page: "run",
  target: "",
  method: "",
  image: "",
  label: "",
  predicted: "",
  outcome: "",
  split: "",
  metric: "",
  low: "",
  high: "",
  reason: "",
  sort: "drawn",
  binned: "",
  overlay: "yes",
  opacity: "0.6",
  scale: "map",
  palette: "viridis",
  drawn: "smooth",
  numbers: "few",
  boxes: "yes",
  thresholded: "no",
  threshold: "0.5",
};

/** Show what the state says. */
atlas.show = async () => {
  atlas.notice("");
  const { page } = atlas.state;
  for (const section of document.querySelectorAll(".page")) section.hidden = section.id !== page;
  for (const link of document.querySelectorAll("nav a")) {
    link.href = atlas.address({ page: link.dataset.page, image: "" });
    if (link.dataset.page === page || (page === "image" && link.dataset.page === "gallery")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const root = document.documentElement;
  root.style.setProperty("--opacity", atlas.state.overlay === "yes" ? atlas.state.opacity : 1);
  root.classList.toggle("plain", atlas.state.overlay !== "yes");
  if (page === "run") return atlas.showRun();
  if (page === "classes") return atlas.showClasses();
  if (page === "aggatt") return atlas.showAggatt();
  if (page === "compare") return atlas.showCompare();
  atlas.images ??= await atlas.load("images");
  return page === "gallery" ? atlas.showGallery() : atlas.showImage();
};

const next = (names, name) => names[(names.indexOf(name) + 1) % names.length];

/** What each key does; keys of a field that is being filled in are its own. */
atlas.keys = {
  ArrowLeft: () => atlas.state.page === "image" && atlas.step(-1),
  ArrowRight: () => atlas.state.page === "image" && atlas.step(1),
  Escape: () => atlas.state.page === "image" && atlas.change({ page: "gallery", image: "" }),
  t: () => atlas.change({ target: next(atlas.targets(), atlas.state.target) }),
  o: () => atlas.change({ overlay: atlas.state.overlay === "yes" ? "no" : "yes" }),
  g: () => atlas.change({ page: "gallery", image: "" }),
  c: () => atlas.change({ page: "classes", image: "" }),
  a: () => atlas.change({ page: "aggatt", image: "" }),
  r: () => atlas.change({ page: "run", image: "" }),
};
for (let digit = 1; digit <= 9; digit++) {
  atlas.keys[digit] = () => atlas.methods()[digit - 1] && atlas.change({ method: atlas.methods()[digit - 1] });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (event.target.closest(".wide") && event.key.startsWith("Arrow") && event.target.scrollWidth > event.target.clientWidth) return;
  const act = Object.hasOwn(atlas.keys, event.key) && atlas.keys[event.key];
  if (act) {
    act();
    event.preventDefault();
  }
});

/** Redraw the colours of an image only when the pointer rests: a slider sends many changes. */
atlas.listen = () => {
  const on = (id, kind, act) => document.getElementById(id)?.addEventListener(kind, act);
  for (const id of ["filters", "look", "class-form", "aggatt-form"]) {
    on(id, "change", ({ target }) => atlas.change(atlas.changeOf(target)));
    on(id, "submit", (event) => event.preventDefault());
  }
  on("look", "input", ({ target }) => target.type === "range" && atlas.change(atlas.changeOf(target)));
  on("filters", "reset", (event) => {
    event.preventDefault();
    const { label, predicted, outcome, split, metric, low, high, reason, sort } = atlas.defaults;
    atlas.change({ label, predicted, outcome, split, metric, low, high, reason, sort });
  });
  on("more", "click", async () => atlas.extend(await atlas.metricValues()));
  on("previous", "click", () => atlas.step(-1));
  on("next", "click", () => atlas.step(1));
  on("table-target", "change", ({ target }) => atlas.change({ target: target.value }));
  for (const id of ["scatter-x", "scatter-y"]) on(id, "change", atlas.showScatter);
  on("curve-metric", "change", atlas.showCurves);
  on("export-csv", "click", async () => atlas.save("images.csv", atlas.csv(await atlas.metricValues())));
  on("export-keys", "click", () => atlas.save("images.txt", atlas.places.map((place) => `${atlas.images.image_id[place]}\n`).join("")));
  on("export-sql", "click", () => {
    const field = document.getElementById("sql");
    field.hidden = !field.hidden;
    if (!field.hidden) field.select();
  });
  addEventListener("hashchange", () => {
    atlas.readState();
    atlas.show();
  });
  addEventListener("popstate", () => {
    atlas.readState();
    atlas.show();
  });
  const redraw = () => atlas.state.page === "run" && atlas.showRun();
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
};

atlas.start = async () => {
  atlas.run = await atlas.load("run");
  const targets = atlas.targets(),
    methods = atlas.methods().filter((method) => !atlas.run.controls.includes(method));
  atlas.defaults.target = targets.includes("label") ? "label" : (targets[0] ?? "");
  atlas.defaults.method = methods[0] ?? atlas.methods()[0] ?? "";
  document.querySelector("nav").hidden = false;
  document.querySelectorAll("table.sortable").forEach(atlas.makeSortable);
  atlas.listen();
  atlas.readState();
  await atlas.show();
};
atlas.started = atlas.start();
