// One verdict as a part of the page; everything that comes from a file or from the service is put in as text.

import { drawScale, drawSign, drawTimeline, svg } from "./charts.js";
import * as say from "./words.js";

const MOST_FACES = 8;
const MOST_ROWS = 300;

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

export const makeName = (name) => make("bdi", {}, say.showSigns(name));

export function fillFacts(list, rows) {
  list.replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, say.showSigns(value))]));
  return list;
}

export function renderVerdict(job, acts) {
  const verdict = job.verdict;
  const parts = [make("h2", { id: "result-title" }, "Result for ", makeName(job.name))];
  for (const text of verdict.notices) parts.push(make("p", { class: "notice" }, say.showSigns(text)));
  parts.push(tellOutcome(verdict));
  if (verdict.detail) {
    parts.push(make("p", { class: "remark" }, make("strong", {}, verdict.reason ? "Detail: " : "Remark: "), say.showSigns(verdict.detail)));
  }
  if (job.cached) parts.push(make("p", { class: "soft" }, "The same bytes were checked before by this model; this is the stored answer."));
  parts.push(acts);
  if (verdict.p_fake !== null) parts.push(...tellCost(verdict));
  if (verdict.tracks.length) parts.push(...tellFaces(verdict));
  parts.push(make("div", { id: "exhibits" }));
  parts.push(make("h3", {}, "File and model"), tellFacts(job));
  if (job.links.report) parts.push(make("p", { class: "soft" }, "What a score cannot tell, and how to check this one, is said in the report."));
  return parts;
}

function tellOutcome(verdict) {
  const meaning = say.explainOutcome(verdict);
  const decision = verdict.p_fake === null ? "" : ` ${say.describeDecision(verdict)}`;
  const reason = verdict.reason ? make("p", {}, make("strong", {}, `${say.showSigns(verdict.reason)}. `), say.showSigns(say.explainReason(verdict.reason))) : null;
  const known = ["FAKE", "REAL", "UNCERTAIN"].includes(verdict.outcome) ? verdict.outcome : "NOT_SCORABLE";
  return make(
    "div",
    { class: `verdict ${known}` },
    drawSign(known),
    make(
      "div",
      {},
      make("p", { class: "outcome" }, say.showSigns(verdict.outcome).replaceAll("_", " ")),
      make("p", { class: "says" }, meaning.says + decision),
      reason,
      make("p", {}, meaning.caution),
    ),
  );
}

function tellCost(verdict) {
  const [low, high] = verdict.uncertain;
  const band = low < high ? ` From ${say.formatProb(low)} to ${say.formatProb(high)} around it the outcome is UNCERTAIN.` : "";
  const rates = verdict.rates;
  const promise = rates ? ` ${say.describePromise(rates)}` : "";
  const parts = [
    make("h3", {}, "The score, and what the threshold costs"),
    drawScale(verdict),
    make("p", {}, say.showSigns(`The threshold is ${say.describeThreshold(verdict)}.`), promise + band),
  ];
  if (rates) {
    const rows = [
      [`fakes found, of ${rates.n_fake} (recall)`, say.formatShare(rates.recall), say.formatBound(rates.recall_bound, true)],
      [`real videos flagged, of ${rates.n_real} (FPR)`, say.formatShare(rates.fpr), say.formatBound(rates.fpr_bound, false)],
    ];
    parts.push(makeTable("What this threshold did in tests", ["what", "in tests", "on new videos like them, with 95 % confidence"], rows));
    const from = verdict.model.datasets.length ? `; from ${verdict.model.datasets.join(", ")}` : "";
    const aside = low < high ? " The band of UNCERTAIN is left aside in these rates." : "";
    parts.push(make("p", { class: "soft" }, say.showSigns(`Tests: ${say.describeSource(rates.source)}${from}.${aside}`)));
  } else {
    parts.push(make("p", { class: "remark" }, "Error rates are not known: this threshold is none of the model's own, so nobody measured how many fakes it misses and how many real videos it flags."));
  }
  parts.push(make("p", { class: "soft" }, "P(fake) is stated for even odds, as if every second video were fake. Where fakes are rare, most alarms are false."));
  return parts;
}

function tellFaces(verdict) {
  const last = verdict.tracks.flatMap((track) => track.clips).reduce((most, clip) => Math.max(most, clip.end_s), 0);
  const end = Math.max(last, verdict.file?.duration_s ?? 0, 0.1);
  const rank = (track) => [track.track !== verdict.face, !track.counted, -track.logit].map(Number);
  const ordered = [...verdict.tracks].sort((one, other) => {
    const [a, b] = [rank(one), rank(other)];
    return a[0] - b[0] || a[1] - b[1] || a[2] - b[2];
  });
  const parts = [
    make("h3", {}, "Faces over time"),
    make("p", {}, "P(fake) of each face, from 0 to 1, over the length of the video in minutes and seconds."),
    makeKey(),
    ...ordered.slice(0, MOST_FACES).map((track) => tellFace(track, end, verdict)),
  ];
  if (ordered.length > MOST_FACES) {
    parts.push(make("p", { class: "soft" }, `Shown are the ${MOST_FACES} faces with the highest scores; ${ordered.length - MOST_FACES} others are in the verdict as JSON.`));
  }
  return parts;
}

function tellFace(track, end, verdict) {
  const times = track.clips.flatMap((clip) => clip.frames.map((frame) => frame.time_s));
  const part = !track.counted ? "does not count towards the score" : track.track === verdict.face ? "gave the video its score" : "counts towards the score";
  const seen = times.length ? `; seen in ${times.length} frames from ${say.formatClock(times[0])} to ${say.formatClock(times[times.length - 1])}` : "";
  const text = `P(fake) ${say.formatProb(track.p_fake)}; ${part}${seen}`;
  const stretches = track.intervals.map((one) =>
    make("li", {}, `${say.formatClock(one.start_s)} to ${say.formatClock(one.end_s)}, highest P(fake) ${say.formatProb(one.p_fake)}`),
  );
  const rows = track.clips.slice(0, MOST_ROWS).map((clip) => [
    `${say.formatClock(clip.start_s)} to ${say.formatClock(clip.end_s)}`,
    String(clip.frames.length),
    say.formatProb(clip.p_fake),
    say.formatProb(clip.frames.reduce((most, frame) => Math.max(most, frame.p_fake), 0)),
    clip.counted ? "yes" : "no",
  ]);
  const caption = `Clips of face ${track.track}${track.clips.length > MOST_ROWS ? `: the first ${MOST_ROWS} of ${track.clips.length}` : ""}`;
  const label = `P(fake) of face ${track.track} over time: ${text}; ${track.intervals.length} suspicious stretches, listed below`;
  return make(
    "section",
    { class: "face", "aria-label": `Face ${track.track}` },
    make("h4", {}, `Face ${track.track}`),
    make("figure", {}, drawTimeline(track, end, verdict, label), make("figcaption", {}, `${text}.`)),
    stretches.length
      ? make("div", {}, make("p", {}, "Suspicious stretches, above the threshold frame after frame:"), make("ul", { class: "stretches" }, ...stretches))
      : make("p", {}, "No stretch of it is above the threshold."),
    make("details", {}, make("summary", {}, `Table of ${rows.length} clip${rows.length === 1 ? "" : "s"}`), makeTable(caption, ["time", "frames", "P(fake)", "highest frame", "counts"], rows)),
  );
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
  const head = make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)));
  const body = rows.map(([first, ...cells]) => make("tr", {}, make("th", { scope: "row" }, first), ...cells.map((cell) => make("td", {}, cell))));
  const table = make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
  return make("div", { class: "table", role: "region", tabindex: "0", "aria-label": caption }, table);
}

function tellFacts(job) {
  const { file, model, sha256 } = job.verdict;
  const rows = [["name", job.name], ["size", say.formatBytes(job.size_bytes)], ["sha256", sha256 ?? job.sha256]];
  if (file) {
    rows.push(["container", file.container], ["codec", file.codec], ["pixels", `${file.width} × ${file.height}`]);
    rows.push(["duration", `${say.formatClock(file.duration_s)} (${file.duration_s.toFixed(2)} s)`], ["frames", String(file.frames)]);
  }
  const about = [
    ["model", model.id],
    ["backbone", `${model.backbone}, ${model.precision}${job.verdict.untrained_backbone ? ", UNTRAINED: random weights" : ""}`],
    ["head", model.head],
    ["face detector", model.detector],
    ["trained on", model.datasets.join(", ") || "not named"],
    ["purpose", say.describePurpose(job.verdict.purpose)],
    ["run by", `unmask ${model.unmask_version}, ${job.verdict.provider}`],
  ];
  const list = (title, facts) => make("div", {}, make("h4", {}, title), fillFacts(make("dl", { class: "facts" }), facts));
  return make("div", { class: "columns" }, list("The file", rows), list("The model", about));
}

// Frames and heat maps are taken from the report, which is read as a document that runs and loads nothing.
export function takeExhibits(text) {
  const page = new DOMParser().parseFromString(text.replace(/<style>[^]*?<\/style>/g, ""), "text/html");
  const found = [...page.querySelectorAll("div.exhibit")].map((exhibit) => {
    const figures = [...exhibit.querySelectorAll("figure")].flatMap(takeFigure);
    const finding = exhibit.querySelector(":scope > p")?.textContent.trim() ?? "";
    const title = exhibit.previousElementSibling?.textContent ?? "";
    return [make("h4", {}, say.showSigns(title)), make("div", { class: "exhibit" }, ...figures), make("p", {}, say.showSigns(finding))];
  });
  if (!found.length) return [];
  return [
    make("h3", {}, "Frames with the highest P(fake)"),
    make("p", {}, "The heat map shows what the model reacts to: the darker a place, the more the score falls when it is hidden. It does not show what was changed in the picture."),
    ...found.flat(),
  ];
}

function takeFigure(figure) {
  const image = figure.querySelector("img");
  const source = image?.getAttribute("src") ?? "";
  if (!source.startsWith("data:image/jpeg;base64,")) return [];
  const size = { width: Number(image.getAttribute("width")) || null, height: Number(image.getAttribute("height")) || null };
  const caption = figure.querySelector("figcaption")?.textContent ?? "";
  return [make("figure", {}, make("img", { src: source, alt: image.getAttribute("alt") ?? "", ...size }), make("figcaption", {}, say.showSigns(caption)))];
}
