// The controls of the gallery and of the image: filled from the data, read into the state.
"use strict";

/** Give a select its options, and the one of the state. */
atlas.options = (select, options, chosen) => {
  const known = JSON.stringify(options);
  if (select.dataset.known !== known) {
    select.dataset.known = known;
    select.replaceChildren(...options.map(([value, words]) => atlas.element("option", { value }, words)));
  }
  select.value = chosen;
};

/** The methods, controls last. */
atlas.methods = () => {
  const names = [...new Set(atlas.run.cells.map(([method]) => method))],
    control = (name) => atlas.run.controls.includes(name);
  return [...names.filter((name) => !control(name)), ...names.filter(control)];
};

/** The targets, without `none`, which stands for methods that ask for no class. */
atlas.targets = () => {
  const names = [...new Set(atlas.run.cells.map(([, target]) => target))];
  return names.length > 1 ? names.filter((name) => name !== "none") : names;
};

atlas.fillFilters = (values) => {
  const form = document.getElementById("filters").elements,
    { images, state } = atlas;
  const plain = (names) => names.map((name) => [name, name]);
  const classes = (ids) =>
    [...new Set(ids ?? [])]
      .filter((id) => id !== null)
      .sort((a, b) => a - b)
      .map((id) => [String(id), atlas.className(id)]);
  const splits = [...new Set(images.split)].filter((split) => split !== null).sort();
  atlas.options(form.method, plain(atlas.methods()), state.method);
  atlas.options(form.target, plain(atlas.targets()), state.target);
  atlas.options(form.label, [["", "all"], ...classes(images.label)], state.label);
  atlas.options(form.predicted, [["", "all"], ...classes(images.predicted)], state.predicted);
  atlas.options(form.split, [["", "all"], ...plain(splits)], state.split);
  atlas.options(form.metric, [["", "none"], ...plain(atlas.run.metrics)], atlas.run.metrics.includes(state.metric) ? state.metric : "");
  const sorts = Object.entries(atlas.sorts).filter(([, sort]) => !sort.metric || atlas.run.metrics.length);
  atlas.options(
    form.sort,
    sorts.map(([name, sort]) => [name, sort.words]),
    state.sort,
  );
  const reasons = Object.keys(values?.reasons ?? {});
  document.getElementById("reason").hidden = !reasons.length;
  atlas.options(form.reason, [["", "any value"], ...plain(reasons)], state.reason);
  for (const name of ["low", "high"]) if (form[name] !== document.activeElement) form[name].value = state[name];
  for (const name of ["outcome"]) form[name].value = state[name];
};

/** Names and texts of the state as form fields have them. */
atlas.fillLook = () => {
  const form = document.getElementById("look").elements,
    { state } = atlas;
  atlas.options(
    form.palette,
    [
      ["viridis", "viridis"],
      ["cividis", "cividis"],
      ["magma", "magma"],
      ["gray", "grey"],
    ],
    state.palette,
  );
  for (const name of ["scale", "drawn", "numbers", "opacity", "threshold"]) form[name].value = state[name];
  document.getElementById("threshold-at").textContent = `at ${Math.round(100 * state.threshold)} % of the range`;
  for (const name of ["overlay", "boxes", "thresholded"]) form[name].checked = state[name] === "yes";
};

/** The change of the state that a field of a form asks for. */
atlas.changeOf = (field) => {
  const value = field.type === "checkbox" ? (field.checked ? "yes" : "no") : field.value;
  const sorted = field.name === "metric" && value && atlas.state.sort === "drawn" ? { sort: "worst" } : {};
  const bounds = ["metric", "method", "target"].includes(field.name) ? { low: "", high: "", reason: "" } : {};
  return { ...bounds, ...sorted, [field.name]: value };
};
