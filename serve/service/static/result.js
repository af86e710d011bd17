// One verdict as a part of the page; everything that comes from a file or from the service is put in as text.

import { drawScale, drawSign, drawTimeline, svg } from "./charts.js";
import { fillFacts, make, makeName } from "./elements.js";
import * as say from "./words.js";

const MOST_FACES = 8; // before one asks for more

// The job with its verdict and its explanation, whose sentences are those of reports.
export function renderVerdict(job, acts) {
  const { verdict, explanation: told } = job;
  const parts = [make("h2", { id: "result-title" }, "Result for ", makeName(job.name))];
  for (const text of verdict.notices) parts.push(make("p", { class: "notice" }, say.showSigns(text)));
  parts.push(tellOutcome(verdict, told));
  if (verdict.detail) {
    parts.push(make("p", { class: "remark" }, make("strong", {}, verdict.reason ? "Detail: " : "Remark: "), say.showSigns(verdict.detail)));
  }
  if (job.cached) parts.push(make("p", { class: "soft" }, "The same bytes were checked before by this model; this is the stored answer."));
  parts.push(acts);
  if (told.scale) parts.push(...tellCost(verdict, told));
  if (told.faces.length) parts.push(...tellFaces(verdict, told.faces));
  parts.push(make("section", { id: "exhibits" }));
  parts.push(make("h3", {}, "What this cannot tell"), make("ul", {}, ...told.limits.map((line) => make("li", {}, line))));
  const list = (title, facts) => make("div", {}, make("h4", {}, title), fillFacts(make("dl", { class: "facts" }), facts));
  parts.push(make("h3", {}, "File and model"), make("div", { class: "columns" }, list("The file", told.file), list("The model", told.model)));
  return parts;
}

function tellOutcome(verdict, told) {
  const known = ["FAKE", "REAL", "UNCERTAIN"].includes(verdict.outcome) ? verdict.outcome : "NOT_SCORABLE";
  return make(
    "div",
    { class: `verdict ${known}` },
    drawSign(known),
    make(
      "div",
      {},
      make("p", { class: "outcome" }, say.showSigns(verdict.outcome).replaceAll("_", " ")),
      make("p", { class: "says" }, `${told.says} ${told.decision}`),
      told.reason ? make("p", {}, make("strong", {}, `${say.showSigns(verdict.reason)}. `), told.reason) : null,
      make("p", {}, told.caution),
    ),
  );
}

function tellCost(verdict, told) {
  const tables = [told.rates, told.odds].filter(Boolean).map((table) => make("div", {}, makeTable(table.title, table.columns, table.rows), make("p", { class: "soft" }, table.note)));
  return [
    make("h3", {}, "The score, and what the threshold costs"),
    drawScale(verdict, told.scale),
    make("p", {}, told.threshold),
    tables.length ? make("div", { class: "columns" }, ...tables) : "",
    told.unknown_rates ? make("p", { class: "remark" }, told.unknown_rates) : "",
    told.even_odds ? make("p", { class: "soft" }, told.even_odds) : "",
  ];
}

function tellFaces(verdict, faces) {
  const last = verdict.tracks.flatMap((track) => track.clips).reduce((most, clip) => Math.max(most, clip.end_s), 0);
  const end = Math.max(last, verdict.file?.duration_s ?? 0, 0.1);
  const tracks = new Map(verdict.tracks.map((track) => [track.track, track]));
  const tell = (face) => tellFace(tracks.get(face.track), face, end, verdict);
  const parts = [
    make("h3", {}, "Faces over time"),
    make("p", {}, "P(fake) of each face, from 0 to 1, over the length of the video in minutes and seconds."),
    makeKey(),
    ...faces.slice(0, MOST_FACES).map(tell),
  ];
  if (faces.length > MOST_FACES) {
    const rest = make("div", { tabindex: "-1" });
    const show = (event) => {
      rest.replaceChildren(...faces.slice(MOST_FACES).map(tell));
      rest.focus();
      event.currentTarget.remove();
    };
    parts.push(rest, make("button", { type: "button", onclick: show }, `Show the other ${faces.length - MOST_FACES} faces, whose scores are lower`));
  }
  return parts;
}

function tellFace(track, face, end, verdict) {
  const count = track.clips.length;
  const label = `P(fake) of face ${track.track} over time: ${face.text}`;
  const rows = make("details", { ontoggle: () => rows.children.length > 1 || rows.append(makeClips(track)) }, make("summary", {}, `Table of ${count} clip${count === 1 ? "" : "s"}`));
  return make(
    "div",
    { class: "face", role: "group", "aria-label": `Face ${track.track}` },
    make("h4", {}, `Face ${track.track}`),
    make("figure", {}, drawTimeline(track, end, verdict, label), make("figcaption", {}, `${face.text}.`)),
    face.stretches.length
      ? make("div", {}, make("p", {}, "Above the threshold, frame after frame:"), make("ul", { class: "stretches" }, ...face.stretches.map((text) => make("li", {}, text))))
      : make("p", {}, "No stretch of it is above the threshold."),
    rows,
  );
}

function makeClips(track) {
  const rows = track.clips.map((clip) => [
    `${say.formatClock(clip.start_s)} to ${say.formatClock(clip.end_s)}`,
    String(clip.frames.length),
    say.formatProb(clip.p_fake),
    say.formatProb(clip.frames.reduce((most, frame) => Math.max(most, frame.p_fake), 0)),
    clip.counted ? "yes" : "no",
  ]);
  return makeTable(`Clips of face ${track.track}`, ["time", "frames", "P(fake)", "highest frame", "counts"], rows);
}

function makeKey() {
  const sign = (width, ...parts) => svg("svg", { width, height: 12, "aria-hidden": "true" }, ...parts);
  const rule = (kind, tall) => svg("line", { class: kind, x1: 0, x2: 24, y1: tall, y2: tall });
  const rows = [
    [sign(10, svg("circle", { class: "mark", cx: 5, cy: 6, r: 2.5 })), "a frame"],
    [sign(24, rule("clip", 6)), "a clip"],
    [sign(24, rule("clip beside", 6)), "a clip that does not count"],
    [sign(24, rule("threshold", 6)), "the threshold"],
    [sign(24, svg("rect", { width: 24, height: 12, fill: "url(#dots)" })), "undecided band"],
    [sign(24, svg("rect", { width: 24, height: 12, fill: "url(#hatch)" })), "stretch above the threshold"],
  ];
  return make("ul", { class: "key", "aria-hidden": "true" }, ...rows.map(([drawing, text]) => make("li", {}, drawing, text)));
}

function makeTable(caption, columns, rows) {
  const head = make("tr", {}, ...columns.map((name) => (name ? make("th", { scope: "col" }, name) : make("td"))));
  const body = rows.map(([first, ...cells]) => make("tr", {}, make("th", { scope: "row" }, first), ...cells.map((cell) => make("td", {}, cell))));
  const table = make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
  return make("div", { class: "table", role: "group", tabindex: "0", "aria-label": caption }, table);
}

// Frames and heat maps are taken from the report, which is read as a document that runs and loads nothing.
export function takeExhibits(text) {
  const page = new DOMParser().parseFromString(text.replace(/<style>[^]*?<\/style>/g, ""), "text/html");
  const section = page.getElementById("exhibits");
  if (!section) return [];
  const read = (node) => say.showSigns(node?.textContent.replace(/\s+/g, " ").trim() ?? "");
  const found = [...section.querySelectorAll("div.exhibit")].map((exhibit) => {
    const figures = [...exhibit.querySelectorAll("figure")].flatMap((figure) => takeFigure(figure, read));
    return [make("h4", {}, read(exhibit.previousElementSibling)), make("div", { class: "exhibit" }, ...figures), make("p", {}, read(exhibit.querySelector(":scope > p")))];
  });
  return [make("h3", {}, read(section.querySelector("h2"))), make("p", { class: "soft" }, ...[...section.querySelectorAll(":scope > p")].map((p) => `${read(p)} `)), ...found.flat()];
}

function takeFigure(figure, read) {
  const image = figure.querySelector("img");
  const source = image?.getAttribute("src") ?? "";
  if (!source.startsWith("data:image/jpeg;base64,")) return [];
  const size = { width: Number(image.getAttribute("width")) || null, height: Number(image.getAttribute("height")) || null };
  return [make("figure", {}, make("img", { src: source, alt: image.getAttribute("alt") ?? "", ...size }), make("figcaption", {}, read(figure.querySelector("figcaption"))))];
}
