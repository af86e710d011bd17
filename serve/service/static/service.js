// The service as the page asks it: with the key of this tab, and with a sentence for whatever is refused.

import { showSigns } from "./words.js";

const KEY = "unmask-key";
const SENTENCES = {
  0: "The service cannot be reached. Look whether it runs and whether you are online, then try again.",
  401: "The service asks for an API key, or does not know the one you gave.",
  404: "This is not here any more, or it belongs to another key.",
  413: "The file is larger or longer than this service takes.",
  415: "The service takes videos only, and this file is not sent as one.",
  429: "The service has as many files waiting as it may have.",
  503: "The service is starting or stopping and takes nothing at the moment.",
  507: "The service has no room left on its disk.",
};

export class Problem extends Error {
  constructor(status, document, retryAfter) {
    const detail = typeof document?.detail === "string" ? document.detail : typeof document?.title === "string" ? document.title : "";
    super(showSigns(detail || SENTENCES[status] || `The service answered with the error ${status}.`));
    this.status = status;
    this.retryS = Math.min(Math.max(Number(retryAfter) || 5, 1), 600);
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;
export const keepKey = (key) => sessionStorage.setItem(KEY, key);

export const authorise = () => {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
};

export async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...authorise(), ...options.headers }, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0);
  }
  if (!response.ok) throw await readProblem(response);
  return response;
}

async function readProblem(response) {
  const document = await response.json().catch(() => null);
  return new Problem(response.status, document, response.headers.get("Retry-After"));
}

export const pathOf = (id, rest = "") => `/v1/videos/${encodeURIComponent(id)}${rest}`;

// Reads server-sent events, and hands on what those named `job` tell.
export async function readEvents(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (buffer + value).replaceAll("\r\n", "\n").split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const lines = event.split("\n");
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (lines.some((line) => /^event: ?job$/.test(line)) && data.length) take(JSON.parse(data.join("\n")));
    }
  }
}
