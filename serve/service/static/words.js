// Numbers and sentences as reports write them; what is a list of sentences comes from the service as words.json.

let words = { meanings: {}, suspect: "", reasons: {}, sources: {}, purposes: {} };

export async function loadWords() {
  const response = await fetch("/static/words.json");
  if (response.ok) words = await response.json();
}

export function explainOutcome(verdict) {
  const meaning = words.meanings[verdict.outcome] ?? { says: String(verdict.outcome), caution: "" };
  const [low, high] = verdict.uncertain;
  const p = verdict.p_fake;
  if (verdict.outcome === "UNCERTAIN" && p !== null && !(low <= p && p < high)) return { ...meaning, caution: words.suspect };
  if (verdict.outcome !== "FAKE" && verdict.outcome !== "REAL") return meaning;
  const known = verdict.rates ? "How often in tests is said below." : "How often is not known for this threshold.";
  return { ...meaning, caution: `${meaning.caution} ${known}` };
}

export const explainReason = (reason) => words.reasons[reason] ?? String(reason);
export const describeSource = (source) => words.sources[source] ?? String(source);
export const describePurpose = (purpose) => words.purposes[purpose] ?? String(purpose);

export function describeDecision(verdict) {
  const [low, high] = verdict.uncertain;
  const prob = `P(fake) = ${formatProb(verdict.p_fake)} at even odds`;
  if (low <= verdict.p_fake && verdict.p_fake < high) return `${prob}, within the band from ${formatProb(low)} to ${formatProb(high)} that is left undecided.`;
  if (verdict.p_fake >= high) return `${prob}; from ${formatProb(high)} on a video is called FAKE.`;
  return `${prob}; from ${formatProb(high)} on a video is called FAKE, below ${formatProb(low)} REAL.`;
}

export function describeThreshold(verdict) {
  if (verdict.preset === "threshold") return `${formatProb(verdict.threshold)}, chosen by whoever runs this service`;
  const target = verdict.rates ? `, ${describeTarget(verdict.rates.target)}` : "";
  return `${formatProb(verdict.threshold)}, the preset "${verdict.preset}"${target}`;
}

export function describeTarget(target) {
  const [kind, value] = String(target).split("=");
  if (kind === "recall") return `chosen to find at least ${formatShare(Number(value))} of fakes`;
  if (kind === "fpr") return `chosen to flag at most ${formatShare(Number(value))} of real videos`;
  if (kind === "balanced") return "chosen for the best balance between fakes found and real videos flagged";
  const [cost, share = "0.5"] = String(value).split("@");
  return `chosen for the lowest cost where a missed fake costs ${Number(cost)} times a false alarm and ${formatShare(Number(share))} of videos are fake`;
}

export function describePromise(rates) {
  if (!/^(recall|fpr)=/.test(rates.target)) return "It promises no rate.";
  if (rates.guaranteed) return "Guaranteed with 95 % confidence, on new videos of the same kind and on no others.";
  const counts = `${rates.n_fake} fake and ${rates.n_real} real videos`;
  if (rates.source === "out-of-fold") return `Not guaranteed: it was chosen on ${counts} that other heads scored, those of a cross-validation.`;
  return `Not guaranteed: the ${counts} it was chosen on do not suffice to promise it for new ones; they are too few, or nobody said which persons they show.`;
}

// Digits as Python gives them: what lies exactly between two goes to the even one.
function fix(value, digits) {
  const scaled = value * 10 ** digits;
  const tie = scaled % 1 === 0.5 && Number.isInteger(value * 2 ** 20);
  return (tie ? (2 * Math.round(scaled / 2)) / 10 ** digits : value).toFixed(digits);
}

// What is not 0 or 1 is never shown as such.
export function formatProb(prob) {
  if (prob > 0 && prob < 0.001) return "below 0.001";
  return prob > 0.999 && prob < 1 ? "above 0.999" : fix(prob, 3);
}

export function formatShare(share) {
  if (share === null) return "not known";
  if (share === 0 || share === 1 || (share >= 0.1 && share <= 0.99)) return `${fix(100 * share, 0)}\u00a0%`;
  return `${fix(Math.min(Math.max(100 * share, 0.1), 99.9), 1).replace(/\.0$/, "")}\u00a0%`;
}

// A bound, which rounding must not make better than it is.
export function formatBound(share, least) {
  if (share === null) return "not known";
  const steps = share >= 0.1 && share <= 0.99 ? 100 : 1000;
  const value = ((least ? Math.floor(share * steps + 1e-9) : Math.ceil(share * steps - 1e-9)) * 100) / steps;
  return `at ${least ? "least" : "most"} ${value.toFixed(steps === 100 ? 0 : 1).replace(/\.0$/, "")}\u00a0%`;
}

export function formatClock(time, exact = true) {
  const tenths = exact ? Math.round(10 * time) : 10 * Math.round(time);
  const minutes = Math.floor(tenths / 600);
  const rest = tenths % 600;
  const seconds = exact ? (rest / 10).toFixed(1).padStart(4, "0") : String(Math.floor(rest / 10)).padStart(2, "0");
  return minutes < 60 ? `${minutes}:${seconds}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${seconds}`;
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
