// The page at work: what is dropped is sent one file after another, followed while it is scored, and shown.

import { fillFacts, make, makeName } from "./elements.js";
import { renderVerdict, takeExhibits } from "./result.js";
import { dropRow, findRow, place } from "./rows.js";
import { call, hasKey, keepKey, pathOf, Problem, readEvents } from "./service.js";
import * as sending from "./uploads.js";
import * as say from "./words.js";

const POLL_MS = 2000;
const MOST_ROWS = 6; // of the history, before one asks for more
const TERMINAL = ["done", "failed", "cancelled"];
const at = (id) => document.getElementById(id);
const jobs = new Map();
let shown = null; // the id of the job whose result is open
let wanted = null; // the id of the one that was asked for last
let openNext = false; // the first result of what was dropped last opens by itself
let watching = false;
let unfolded = false; // whether all of the history is listed
let older; // the address of what is older than all that was read; undefined before anything was
let following = null; // {id, stop}: the job whose events are read

async function refresh() {
  const { videos, next } = await (await call("/v1/videos?limit=50")).json();
  if (older === undefined) older = next;
  const known = new Set(videos.map((job) => job.id));
  const since = next ? videos.at(-1).created_at : "";
  for (const [id, job] of jobs) if (!known.has(id) && id !== shown && job.created_at >= since) jobs.delete(id);
  videos.forEach(accept);
  render();
}

async function readOlder() {
  const { videos, next } = await (await call(older)).json();
  older = next;
  videos.forEach(accept);
  render();
}

const isEnded = (job) => TERMINAL.includes(job.state);
const isSettled = (job) => isEnded(job) && !["waiting", "making"].includes(job.report);

// Keeps what is new of a job; an answer that was overtaken by a later one says nothing. Verdicts are not kept.
function accept({ verdict, explanation, ...job }) {
  const before = jobs.get(job.id);
  if (before && (isSettled(before) || (isEnded(before) && !isEnded(job)))) return;
  jobs.set(job.id, job);
  if (before && !isEnded(before) && isEnded(job)) finish(job);
  if (job.id === shown && before && before.report !== job.report) {
    tellReport(job);
    if (job.report === "ready") announce(`The report on ${say.showSigns(job.name)} is ready.`);
  }
}

function finish(job) {
  announce(`${say.showSigns(job.name)}: ${tellState(job)}`);
  if (openNext && job.state !== "cancelled") {
    open(job.id, false);
  }
}

// Follows the job that is next in turn by its events, and the others by asking now and then.
async function watch() {
  if (watching) return;
  watching = true;
  for (let job = nextUnsettled(); job; job = nextUnsettled()) {
    try {
      await follow(job.id);
      await refresh();
    } catch (error) {
      report(error);
      if (error.status === 401) break;
      await pause(POLL_MS);
      await refresh().then(clearTrouble, () => {});
    }
  }
  watching = false;
}

const listUnsettled = () => [...jobs.values()].filter((job) => !isSettled(job));

// Videos come before reports, and what is under way before what waits.
function nextUnsettled() {
  const rank = (job) => ["running", "queued", "making", "waiting"].indexOf(isEnded(job) ? job.report : job.state);
  return listUnsettled().sort((a, b) => rank(a) - rank(b) || a.created_at.localeCompare(b.created_at))[0];
}

async function follow(id) {
  const stop = new AbortController();
  const poll = setInterval(() => listUnsettled().length > 1 && refresh().catch(() => {}), POLL_MS);
  const limit = setTimeout(() => stop.abort(), 30 * POLL_MS);
  following = { id, stop };
  try {
    const response = await call(pathOf(id, "/events"), { signal: stop.signal, headers: { Accept: "text/event-stream" } });
    await readEvents(response.body, (job) => {
      accept(job);
      render();
    });
  } catch (error) {
    if (error instanceof Problem) throw error;
    if (error.name !== "AbortError") throw new Problem(0);
  } finally {
    clearInterval(poll);
    clearTimeout(limit);
    following = null;
  }
  if (jobs.has(id) && !isSettled(jobs.get(id))) await pause(300);
}

// what is sent, what is in progress, and what was

const page = { limits: {}, change: render, take, report, announce };
sending.tellOf(page);

function send(files) {
  openNext = true;
  sending.enqueue([...files]);
}

function take(job) {
  clearTrouble();
  accept(job);
  const now = jobs.get(job.id);
  if (isEnded(now)) finish(now);
  else announce(`${say.showSigns(job.name)} is sent and waits for its turn.`);
  render();
  if (isEnded(jobs.get(following?.id) ?? {})) following.stop.abort(); // a report can wait
  watch();
}

function tellState(job) {
  if (job.state === "queued") return job.position ? `Waits for its turn, number ${job.position} in the queue.` : "Waits for its turn.";
  if (job.state === "running") {
    const { done_s: done, total_s: total } = job.progress;
    if (total && done >= total) return "Looked at all of it; the verdict follows.";
    return total ? `Looking at it: ${say.formatClock(done, false)} of ${say.formatClock(total, false)}` : `Looking at it: ${say.formatClock(done, false)} so far`;
  }
  if (job.state === "cancelled") return "Cancelled.";
  if (job.state === "failed") return `Failed. ${say.showSigns(job.problem?.detail ?? "")}`;
  const { outcome, p_fake: prob, reason } = job.summary;
  return outcome.replaceAll("_", " ") + (prob === null ? `: ${say.explainReason(reason).replace(/\.$/, "")}` : `, P(fake) ${say.formatProb(prob)}`);
}

function render() {
  const active = [...jobs.values()].filter((job) => !isEnded(job)).sort((a, b) => a.created_at.localeCompare(b.created_at));
  const ended = [...jobs.values()].filter(isEnded).sort((a, b) => b.created_at.localeCompare(a.created_at));
  place(at("work-list"), [...active.map(describeActive), ...sending.uploads.map(describeUpload)]);
  at("work-title").textContent = active.length || sending.uploads.some((upload) => upload.state !== "failed") ? "In progress" : "Not taken";
  at("work").hidden = !active.length && !sending.uploads.length;
  place(at("history-list"), ended.filter((job, index) => unfolded || index < MOST_ROWS || job.id === shown).map(describeEnded));
  at("history-none").hidden = ended.length > 0;
  at("history-more").hidden = ended.length <= MOST_ROWS && !older;
  at("history-more").textContent = !unfolded ? "Show more" : older ? "Show older ones" : "Show the newest only";
  at("history-more").setAttribute("aria-expanded", String(unfolded));
}

function describeUpload(upload) {
  const acts = [[upload.state === "failed" ? "Remove" : "Cancel", () => (sending.drop(upload), render(), sending.pump())]];
  if (upload.state === "failed" && upload.again) acts.unshift(["Try again", () => sending.retry(upload)]);
  if (upload.state === "resting") acts.unshift(["Try now", () => sending.resume(upload)]);
  const ratio = upload.state === "sending" ? upload.ratio : null;
  return { key: upload.key, name: upload.file.name, kind: upload.state, word: "", text: sending.tellUpload(upload), ratio, acts };
}

function describeActive(job) {
  const { done_s: done, total_s: total } = job.progress;
  const ratio = job.state !== "running" ? null : total ? Math.min(done / total, 1) : -1;
  return { key: job.id, name: job.name, kind: job.state, word: "", text: tellState(job), ratio, acts: [["Cancel", () => cancel(job.id)]] };
}

function describeEnded(job) {
  const word = job.summary?.outcome ?? "";
  const length = job.summary?.duration_s;
  const facts = [length ? say.formatClock(length, false) : "", say.formatBytes(job.size_bytes), say.formatDate(job.created_at)].filter(Boolean);
  const whole = facts.map((fact) => `\u00a0· ${fact.replaceAll(" ", "\u00a0")}`); // a date is not broken over two lines
  const text = [word ? tellState(job).slice(word.length) : tellState(job), ...whole].join("");
  const acts = [["Delete", (event) => event.detail < 2 && askDelete(event.currentTarget, job), "quiet"]]; // once for a double click
  if (job.state !== "cancelled") acts.unshift(["Show result", () => open(job.id, true)]);
  return { key: job.id, name: job.name, kind: job.state, word, text, ratio: null, acts, open: job.id === shown };
}

async function cancel(id) {
  try {
    accept(await (await call(pathOf(id, "/cancel"), { method: "POST" })).json());
    render();
  } catch (error) {
    report(error);
  }
}

async function askDelete(button, job) {
  if (!button.classList.contains("sure")) {
    const tell = (sure) => {
      button.classList.toggle("sure", sure);
      button.textContent = sure ? "Really delete?" : "Delete";
      button.setAttribute("aria-label", `${button.textContent}${sure ? "" : ":"} ${say.showSigns(job.name)}`);
    };
    tell(true);
    button.focus(); // Safari gives a pressed button no focus, and the question would stay
    announce("Press again to delete the result and its report for good.");
    button.addEventListener("blur", () => tell(false), { once: true });
    button.addEventListener("keydown", (event) => event.key === "Escape" && tell(false));
    return;
  }
  try {
    await call(pathOf(job.id), { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) return report(error);
  }
  if (shown === job.id) close();
  jobs.delete(job.id);
  dropRow(job.id);
  announce(`${say.showSigns(job.name)} is deleted.`);
  render();
}

// one result

async function open(id, focus) {
  wanted = id;
  openNext = false; // what is read now is not replaced by what ends later
  let job;
  try {
    job = await (await call(pathOf(id))).json();
  } catch (error) {
    report(error);
    return;
  }
  if (wanted !== id || !isEnded(job)) return;
  accept(job);
  shown = id;
  history.replaceState(null, "", `#video=${encodeURIComponent(id)}`);
  const result = at("result");
  result.replaceChildren(...(job.verdict ? [...renderVerdict(job, makeActs(job)), makeButton("Back to the list", goBack, "back")] : renderFailure(job)));
  result.hidden = false;
  document.title = `${job.verdict ? job.verdict.outcome.replaceAll("_", " ") : "Failed"}: ${say.showSigns(job.name)} · unmask`;
  render();
  if (job.verdict) tellReport(jobs.get(id)); // which may know more by now
  if (focus) result.focus();
  result.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

const goBack = () => findRow(shown)?.querySelector("button").focus();

function close() {
  goBack();
  shown = wanted = null;
  at("result").hidden = true;
  at("result").replaceChildren();
  document.title = "unmask: is this video a deepfake?";
  history.replaceState(null, "", location.pathname);
  render();
}

function renderFailure(job) {
  return [
    make("h2", { id: "result-title" }, job.state === "cancelled" ? "Cancelled: " : "No result for ", makeName(job.name)),
    make("p", { class: "remark" }, say.showSigns(job.problem?.detail ?? (job.state === "cancelled" ? "It was cancelled before there was a result." : "The service could not finish this file."))),
    make("div", { class: "acts" }, makeButton("Close", close)),
  ];
}

const makeButton = (text, act, look = null) => make("button", { type: "button", class: look, onclick: act }, text);
const nameFile = (job, end) => `${job.name.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 80) || "video"}.${end}`;

function makeActs(job) {
  const json = () => save(new Blob([JSON.stringify(job.verdict, null, 2)], { type: "application/json" }), nameFile(job, "verdict.json"));
  return make("div", { class: "acts" }, make("span", { id: "report-acts" }), makeButton("Download JSON", json), makeButton("Close", close));
}

// What there is of the report: links to it, and its pictures, or when they will be there.
function tellReport(job) {
  at("report-acts").replaceChildren(...(job.links.report ? makeReportActs(job) : []));
  if (job.report === "ready") return showExhibits(job);
  const scored = job.summary.p_fake !== null;
  const what = scored ? "Heat maps and the report are" : "The report is";
  const text = {
    waiting: `${what} made as soon as no video waits for its verdict.`,
    making: `${what} being made.${scored ? " That takes longer than the verdict did." : ""}`,
    none: "There is no report on this video: none was asked for, or none could be made.",
  }[job.report];
  const bar = job.report === "none" ? "" : make("progress", { "aria-label": "Progress of the report" });
  at("exhibits").replaceChildren(make("h3", {}, scored ? "Frames and heat maps" : "Report"), make("p", { class: "soft" }, text), bar);
}

function makeReportActs(job) {
  if (hasKey()) {
    return [makeButton("Open report", () => openReport(job)), makeButton("Download report", () => saveReport(job))];
  }
  const link = (text, rest, more) => make("a", { class: "button", href: pathOf(job.id, rest), ...more }, text);
  return [link("Open report", "/report", { target: "_blank", rel: "noopener" }), link("Download report", "/report?download=1", { download: nameFile(job, "report.html") })];
}

// A new tab cannot send the key, so the service is asked for a link that holds for a short time without it.
async function openReport(job) {
  const tab = window.open("", "_blank");
  try {
    const { href } = await (await call(pathOf(job.id, "/report/link"), { method: "POST" })).json();
    const address = new URL(href, location.origin);
    if (address.origin !== location.origin) throw new Problem(0);
    if (tab) tab.opener = null;
    (tab ?? window).location.replace(address);
  } catch (error) {
    tab?.close();
    report(error);
  }
}

async function saveReport(job) {
  try {
    save(await (await call(pathOf(job.id, "/report"))).blob(), nameFile(job, "report.html"));
  } catch (error) {
    report(error);
  }
}

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function showExhibits(job) {
  try {
    const parts = takeExhibits(await (await call(pathOf(job.id, "/report"))).text());
    if (shown === job.id) at("exhibits").replaceChildren(...parts);
  } catch (error) {
    report(error);
  }
}

// what the page says

let lastWords = "";
function announce(text) {
  lastWords = text === lastWords ? `${text}\u00a0` : text; // the same words again are spoken again
  at("status").textContent = lastWords;
}

function report(error) {
  if (!(error instanceof Problem)) throw error;
  if (error.status === 401 && at("key-form").hidden) {
    at("key-form").hidden = false;
    at("key").focus();
  }
  if (error.status === 401 && !hasKey()) return; // the form says it
  if (at("trouble").textContent !== error.message) at("trouble").textContent = error.message; // spoken once
  at("trouble").hidden = false;
}

function clearTrouble() {
  at("trouble").hidden = true;
  at("trouble").textContent = "";
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function showModel(about) {
  const limits = (page.limits = about.limits ?? {});
  at("notices").replaceChildren(...(about.notices ?? []).map((text) => make("p", { class: "notice" }, say.showSigns(text))));
  const most = [
    limits.max_size_bytes ? `up to ${say.formatBytes(limits.max_size_bytes)}` : "",
    limits.max_duration_s ? `up to ${say.describeSpan(limits.max_duration_s)} long` : "",
  ].filter(Boolean);
  const shape = most.length ? `Each ${most.join(" and ")}. ` : "";
  at("limits").textContent = `${shape}They are sent to this service and to nobody else.`;
  const model = about.model ?? about;
  const names = { id: "model", backbone: "backbone", head: "head", detector: "face detector" };
  const facts = Object.entries(names).filter(([name]) => model[name]).map(([name, title]) => [title, model[name]]);
  if (model.datasets) facts.push(["trained on", model.datasets.join(", ") || "not named"]);
  if (about.purpose) facts.push(["purpose", say.describePurpose(about.purpose)]);
  if (about.threshold) {
    const chosen = about.presets?.[about.default_preset] ? `the preset "${about.default_preset}"` : "chosen by whoever runs this service";
    facts.push(["threshold", `${say.formatProb(about.threshold)}, ${chosen}`]);
  }
  if (about.tracks) facts.push(["faces that count", about.tracks === "all" ? "all" : "the main ones"]);
  if (limits.max_pixels) facts.push(["frames", `of at most ${limits.max_pixels.toLocaleString("en")} pixels`]);
  fillFacts(at("model-facts"), facts);
  at("model").hidden = facts.length === 0;
}

let startAgain = 0;
async function start() {
  clearTimeout(startAgain);
  try {
    await say.loadWords();
    showModel(await (await call("/v1/model")).json());
    await refresh();
  } catch (error) {
    report(error instanceof Problem ? error : new Problem(0));
    if (error.status !== 401) startAgain = setTimeout(start, 2 * POLL_MS);
    return;
  }
  clearTrouble();
  if (at("key-form").contains(document.activeElement)) at("files").focus();
  at("key-form").hidden = true;
  const asked = new URLSearchParams(location.hash.slice(1)).get("video");
  if (asked && !shown) open(asked, false);
  watch();
  sending.pump();
}

at("files").addEventListener("change", (event) => {
  send(event.target.files);
  event.target.value = "";
});
at("history-more").addEventListener("click", () => {
  if (unfolded && older) return readOlder().catch(report);
  unfolded = !unfolded;
  render();
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(at("key").value.trim());
  at("key").value = "";
  start();
});
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
}
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  send(event.dataTransfer.files);
});
at("result").addEventListener("keydown", (event) => event.key === "Escape" && close());
addEventListener("click", (event) => event.target.closest("button, a, label") && clearTrouble(), true); // that was before
addEventListener("beforeunload", (event) => sending.uploads.some((upload) => upload.state !== "failed") && event.preventDefault());
addEventListener("online", () => start());
setInterval(() => sending.uploads.some((upload) => upload.state === "resting") && render(), 1000);
start();
