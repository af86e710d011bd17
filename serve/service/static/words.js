// Numbers as reports write them; sentences come from the service, with each verdict or as words.json.

let words = { reasons: {}, purposes: {} };

export async function loadWords() {
  const response = await fetch("/static/words.json");
  if (response.ok) words = await response.json();
}

export const explainReason = (reason) => words.reasons[reason] ?? String(reason);
export const describePurpose = (purpose) => words.purposes[purpose] ?? String(purpose);

// What is not 0 or 1 is never shown as such; what lies exactly between two numbers goes to the even one, as in reports.
export function formatProb(prob) {
  if (prob > 0 && prob < 0.001) return "below 0.001";
  if (prob > 0.999 && prob < 1) return "above 0.999";
  const tie = (1000 * prob) % 1 === 0.5 && Number.isInteger(prob * 2 ** 20);
  return (tie ? (2 * Math.round(500 * prob)) / 1000 : prob).toFixed(3);
}

export function formatClock(time, exact = true) {
  const tenths = exact ? Math.round(10 * time) : 10 * Math.round(time);
  const minutes = Math.floor(tenths / 600);
  const rest = tenths % 600;
  const seconds = exact ? (rest / 10).toFixed(1).padStart(4, "0") : String(Math.floor(rest / 10)).padStart(2, "0");
  return minutes < 60 ? `${minutes}:${seconds}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${seconds}`;
}

export function describeSpan(seconds) {
  const [size, unit] = [[3600, "hour"], [60, "minute"], [1, "second"]].find(([one]) => seconds >= one && seconds % one === 0) ?? [1, "second"];
  return `${seconds / size} ${unit}${seconds === size ? "" : "s"}`;
}

export function formatBytes(size) {
  let value = size;
  let unit = "bytes";
  for (const larger of ["kB", "MB", "GB", "TB"]) {
    if (value < 1000) break;
    [value, unit] = [value / 1000, larger];
  }
  return unit === "bytes" ? `${size} bytes` : `${value.toFixed(1)} ${unit}`;
}

export const formatDate = (iso) => new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

// Signs that cannot be seen, or that turn the direction of writing, are written out.
export const showSigns = (text) =>
  String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`);
