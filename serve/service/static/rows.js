// Lists of files: a row keeps its elements while its texts change, so that the keyboard's place is kept.

import { make, makeName } from "./elements.js";
import { showSigns } from "./words.js";

const rows = new Map();

export const findRow = (key) => rows.get(key)?.node;
export const dropRow = (key) => rows.delete(key);

// Shows what is described as {key, name, kind, word, text, ratio, acts, open}; a kind has its acts, of which some are quiet.
export function place(list, descriptions) {
  const kept = descriptions.map((one) => {
    const row = rows.get(one.key)?.kind === one.kind ? rows.get(one.key) : makeRow(one);
    rows.set(one.key, row);
    row.update(one);
    return row.node;
  });
  if (kept.length === list.children.length && kept.every((node, index) => list.children[index] === node)) return;
  const lost = list.contains(document.activeElement) && !kept.some((node) => node.contains(document.activeElement));
  list.replaceChildren(...kept);
  if (lost) document.getElementById("main").focus({ preventScroll: true });
}

function makeRow(first) {
  const word = make("span", { class: `word ${["FAKE", "REAL"].includes(first.word) ? first.word : ""}` }, showSigns(first.word).replaceAll("_", " "));
  const text = document.createTextNode("");
  const bar = make("progress", { max: 1, "aria-label": `Progress of ${showSigns(first.name)}`, hidden: true });
  const label = (name) => `${name}: ${showSigns(first.name)}`;
  const acts = first.acts.map(([name, act, look]) => make("button", { type: "button", class: look ?? null, "aria-label": label(name), onclick: act }, name));
  const node = make(
    "li",
    { class: "row" },
    make("span", { class: "name" }, makeName(first.name)),
    make("p", { class: "state" }, word, text),
    bar,
    make("div", { class: "acts" }, ...acts),
  );
  const update = (now) => {
    if (text.data !== now.text) text.data = now.text;
    if (now.open) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
    bar.hidden = now.ratio === null;
    if (now.ratio !== null && now.ratio >= 0) bar.value = now.ratio;
    else bar.removeAttribute("value");
  };
  return { node, update, kind: first.kind };
}
