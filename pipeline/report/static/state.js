// Data that arrives by script tags, and the state of the page, which lives in the address behind #.
"use strict";

const atlas = { received: new Map(), requested: new Map() };

/** Take the content of a data file; each calls this once. */
atlas.receive = (name, content) => atlas.received.set(name, content);

/** The content of data/NAME.js. A page opened from disk may not fetch, but it may add a script. */
atlas.load = (name) => {
  if (!atlas.requested.has(name)) {
    atlas.requested.set(
      name,
      new Promise((resolve, reject) => {
        if (atlas.received.has(name)) return resolve(atlas.received.get(name));
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onload = () => resolve(atlas.received.get(name));
        script.onerror = () => {
          atlas.requested.delete(name);
          atlas.notice(`data/${name}.js is not beside this page. Copy the whole folder of the report.`);
          reject(new Error(name));
        };
        document.head.append(script);
      }),
    );
  }
  return atlas.requested.get(name);
};

/** The maps, metrics and picture of the image at a place. */
atlas.image = async (place) => {
  const chunk = Math.floor(place / atlas.run.chunk);
  return (await atlas.load(`chunk-${chunk}`))[place % atlas.run.chunk];
};

atlas.notice = (words) => {
  const line = document.getElementById("notice");
  line.textContent = words;
  line.hidden = !words;
};

/** Whether a value of the address is one that the page knows; links may be old, or of another report. */
atlas.isKnown = (key, value) => {
  const whole = /^\d*$/;
  const number = (text) => text === "" || Number.isFinite(Number(text));
  const oneOf = {
    page: ["run", "gallery", "classes", "aggatt", "compare", "image"].filter((page) => document.getElementById(page)),
    method: atlas.methods(),
    target: atlas.targets(),
    outcome: ["", "right", "wrong"],
    sort: Object.keys(atlas.sorts),
    scale: ["map", "image", "run"],
    palette: ["viridis", "cividis", "magma", "gray"],
    drawn: ["smooth", "cells"],
    numbers: ["few", "all"],
    ...Object.fromEntries(["overlay", "boxes", "thresholded"].map((name) => [name, ["yes", "no"]])),
  };
  if (["label", "predicted"].includes(key)) return whole.test(value);
  if (["low", "high", "opacity", "threshold"].includes(key)) return number(value);
  return !Object.hasOwn(oneOf, key) || oneOf[key].includes(value);
};

/** What the address says, over what the page starts with. */
atlas.readState = () => {
  const named = [...new URLSearchParams(location.hash.slice(1))].filter(([key]) => Object.hasOwn(atlas.defaults, key));
  atlas.state = { ...atlas.defaults, ...Object.fromEntries(named.filter(([key, value]) => atlas.isKnown(key, value))) };
};

/** The address of a state that differs from this one by `changes`; what is as at the start is left out. */
atlas.address = (changes) => {
  const state = { ...atlas.state, ...changes };
  const named = Object.entries(state).filter(([key, value]) => key in atlas.defaults && String(value) !== String(atlas.defaults[key]));
  return `#${new URLSearchParams([["page", state.page], ...named.filter(([key]) => key !== "page")])}`;
};

/** Change the state: a new page is a step that the browser's back button takes back, anything else is not. */
atlas.change = (changes) => {
  const address = atlas.address(changes);
  const moves = ("page" in changes && changes.page !== atlas.state.page) || "image" in changes;
  if (address === location.hash) return;
  history[moves ? "pushState" : "replaceState"](null, "", address);
  atlas.readState();
  atlas.show();
};

/** An element with attributes and children; texts stay texts, whatever they hold. */
atlas.element = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
};

/** A number in few digits. */
atlas.number = (value, digits = 3) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  return String(Number(value.toPrecision(digits))).replace("-", "−");
};

atlas.className = (id) => (id === null || id === undefined ? "none" : (atlas.run.classes[id] ?? `class ${id}`));
