// Files on their way to the service, one after another; what is full or busy is asked again.

import { authorise, Problem } from "./service.js";
import * as say from "./words.js";

export const uploads = []; // {key, file, state: waiting | sending | resting | failed, ratio, text, request, retryAt, again}
let count = 0;
let page; // {limits, change, take, report, announce}: who is told of changes, of jobs that began, and of what went wrong

export const tellOf = (whom) => (page = whom);

export function enqueue(files) {
  for (const file of files) {
    count += 1;
    const upload = { key: `upload-${count}`, file, state: "waiting", ratio: 0, text: "", request: null, retryAt: 0, again: false };
    const most = page.limits.max_size_bytes;
    if (file.size === 0) fail(upload, "The file is empty, so there is nothing to look at.");
    else if (most && file.size > most) fail(upload, `The file has ${say.formatBytes(file.size)}, and this service takes at most ${say.formatBytes(most)}.`);
    uploads.push(upload);
  }
  page.change();
  pump();
}

function fail(upload, text, again = false) {
  upload.state = "failed";
  upload.again = again;
  upload.text = text;
  page.announce(`${say.showSigns(upload.file.name)}: ${text}`);
}

export function pump() {
  if (uploads.some((upload) => upload.state === "sending" || upload.state === "resting")) return;
  const next = uploads.find((upload) => upload.state === "waiting");
  if (next) send(next);
}

function send(upload) {
  const request = new XMLHttpRequest();
  Object.assign(upload, { state: "sending", ratio: 0, text: "", request });
  request.open("POST", `/v1/videos?name=${encodeURIComponent(upload.file.name.toWellFormed?.() ?? upload.file.name)}`);
  for (const [name, value] of Object.entries(authorise())) request.setRequestHeader(name, value);
  request.setRequestHeader("Content-Type", upload.file.type.startsWith("video/") ? upload.file.type : "application/octet-stream");
  request.upload.onprogress = (event) => {
    if (event.lengthComputable) upload.ratio = event.loaded / event.total;
    page.change();
  };
  request.onload = () => answered(upload, request);
  request.onerror = () => refused(upload, new Problem(0));
  request.send(upload.file);
  page.change();
}

function answered(upload, request) {
  let document = null;
  try {
    document = JSON.parse(request.responseText);
  } catch {
    // told by the status
  }
  if (request.status < 200 || request.status > 299 || !document?.id) {
    refused(upload, new Problem(request.status, document, request.getResponseHeader("Retry-After")));
    return;
  }
  drop(upload);
  page.take(document);
  pump();
}

function refused(upload, problem) {
  upload.request = null;
  if (problem.status === 401) {
    upload.state = "waiting";
    page.report(problem);
    page.change();
    return; // goes on when there is a key
  }
  if (problem.status === 429 || problem.status === 503) {
    Object.assign(upload, { state: "resting", text: problem.message, retryAt: Date.now() + 1000 * problem.retryS });
    page.announce(`${problem.message} It is tried again in ${problem.retryS} seconds.`);
    setTimeout(() => resume(upload), 1000 * problem.retryS);
  } else {
    fail(upload, problem.message, ![413, 415].includes(problem.status));
    pump();
  }
  page.change();
}

export function resume(upload) {
  if (upload.state !== "resting") return;
  upload.state = "waiting";
  pump();
  page.change();
}

export function drop(upload) {
  upload.request?.abort();
  const place = uploads.indexOf(upload);
  if (place >= 0) uploads.splice(place, 1);
  upload.state = "gone";
}

export function retry(upload) {
  upload.state = "waiting";
  page.change();
  pump();
}

export function tellUpload(upload) {
  if (upload.state === "waiting") return "Waits to be sent.";
  if (upload.state === "sending") return upload.ratio < 1 ? `Sending: ${Math.floor(100 * upload.ratio)} % of ${say.formatBytes(upload.file.size)}` : "Sent; the service looks at it.";
  if (upload.state === "resting") return `${upload.text} It is tried again in ${Math.max(0, Math.ceil((upload.retryAt - Date.now()) / 1000))} s.`;
  return upload.text;
}
