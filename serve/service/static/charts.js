// The drawings of a verdict as SVG elements: they fit any width, take the page's colours, and tell by shape what colour tells.

import { formatClock, formatProb } from "./words.js";

const NS = "http://www.w3.org/2000/svg";
const TOP = 20;
const PLOT = 96;
const FOOT = 22;
const MOST_POINTS = 800; // drawn singly; beyond, the lowest and the highest of each column stand for all
const COLUMNS = 400;
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

export function drawSign(outcome) {
  const parts = {
    FAKE: [svg("path", { class: "full", d: "M24 5 45 43H3z" }), svg("path", { class: "cut", d: "M24 18v12m0 4v4" })],
    REAL: [svg("circle", { cx: 24, cy: 24, r: 20 })],
    UNCERTAIN: [svg("path", { d: "M24 4 44 24 24 44 4 24z" }), svg("path", { d: "M18 20c0-8 12-8 12-1 0 5-6 4-6 9m0 3v4" })],
  }[outcome] ?? [svg("rect", { x: 5, y: 5, width: 38, height: 38 }), svg("path", { d: "M5 5 43 43" })];
  return svg("svg", { viewBox: "0 0 48 48", "aria-hidden": "true" }, ...parts);
}

export function drawScale(verdict, text) {
  const [low, high] = verdict.uncertain;
  const parts = [
    box(0, 100 * low, 34, 20, "none"),
    box(100 * low, 100 * (high - low), 34, 20, "url(#dots)"),
    box(100 * high, 100 * (1 - high), 34, 20, "url(#hatch)"),
  ];
  parts.push(line(100 * verdict.threshold, 100 * verdict.threshold, 28, 82, "threshold"));
  for (const [word, left, right] of [["REAL", 0, low], ["UNCERTAIN", low, high], ["FAKE", high, 1]]) {
    const needs = (7.5 * word.length + 8) / (right - left);
    if (needs < 700) parts.push(label(50 * (left + right), 48, word, "middle", needs < 340 ? "word" : "word wide"));
  }
  for (const value of [0, 0.25, 0.5, 0.75, 1]) {
    if (Math.abs(value - verdict.threshold) > 0.04) parts.push(label(100 * value, 70, String(value), anchor(value), "tick"));
  }
  parts.push(label(100 * verdict.threshold, 95, `threshold ${formatProb(verdict.threshold)}`, anchor(verdict.threshold), "label"));
  parts.push(svg("svg", { x: `${(100 * verdict.p_fake).toFixed(2)}%`, class: "free" }, svg("path", { class: "mark", d: "M0 33 l-8 -13 h16 z" })));
  parts.push(label(100 * verdict.p_fake, 14, `this file ${formatProb(verdict.p_fake)}`, anchor(verdict.p_fake), "own"));
  return svg("svg", { class: "scale", role: "img", "aria-label": text, width: "100%", height: 100 }, ...parts);
}

export function drawTimeline(track, end, verdict, text) {
  const [low, high] = verdict.uncertain;
  const bottom = TOP + PLOT;
  const place = (time) => Math.min(Math.max((100 * time) / end, 0), 100);
  const parts = [box(0, 100, height(high), height(low) - height(high), "url(#dots)", "band")];
  for (const { start_s: start, end_s: stop } of track.intervals) {
    parts.push(box(place(start), Math.max(0.3, place(stop) - place(start)), TOP, PLOT, "url(#hatch)"));
  }
  for (const value of [0, 0.5, 1]) {
    parts.push(line(0, 100, height(value), height(value), "grid"));
    parts.push(svg("text", { x: -6, y: height(value) + 4, "text-anchor": "end", class: "tick" }, String(value)));
  }
  const most = end < 3600 ? 6 : 4; // 1:00:00 is wide
  const step = STEPS.find((one) => end / one <= most) ?? 86400 * Math.ceil(end / 86400 / most);
  for (let number = 0; number * step <= end; number += 1) {
    const left = place(number * step);
    parts.push(line(left, left, bottom, bottom + 4, "grid"), label(left, bottom + 17, formatClock(number * step, step < 1), anchor(left / 100), "tick"));
  }
  parts.push(drawScores(track, end));
  parts.push(line(0, 100, height(verdict.threshold), height(verdict.threshold), "threshold"));
  return svg("svg", { class: "timeline", role: "img", "aria-label": text, width: "100%", height: bottom + FOOT }, ...parts);
}

function drawScores(track, end) {
  const frames = track.clips.flatMap((clip) => clip.frames);
  const x = (time) => Math.min(Math.max((1000 * time) / end, 0), 1000);
  const y = (prob) => 1000 * (1 - prob);
  const steps = (counted) =>
    track.clips
      .filter((clip) => clip.counted === counted)
      .map((clip) => `M${x(clip.start_s).toFixed(1)} ${y(clip.p_fake).toFixed(0)}H${x(clip.end_s).toFixed(1)}`)
      .join("");
  const points = frames.map((frame) => [x(frame.time_s), y(frame.p_fake)]);
  const dots = points.length <= MOST_POINTS ? points.map(([left, top]) => `M${left.toFixed(1)} ${top.toFixed(0)}h0`) : thin(points);
  const clips = [svg("path", { class: "clip", d: steps(true) }), svg("path", { class: "clip beside", d: steps(false) })];
  const cloud = svg("path", { class: points.length > 200 ? "frames many" : "frames", d: dots.join("") });
  const layers = points.length > 200 ? [cloud, ...clips] : [...clips, cloud];
  return svg("svg", { class: "free", y: TOP, width: "100%", height: PLOT, viewBox: "0 0 1000 1000", preserveAspectRatio: "none" }, ...layers);
}

function thin(points) {
  const columns = new Map();
  for (const [x, y] of points) {
    const column = Math.min(Math.floor((x * COLUMNS) / 1000), COLUMNS - 1);
    const [low, high] = columns.get(column) ?? [y, y];
    columns.set(column, [Math.min(low, y), Math.max(high, y)]);
  }
  return [...columns].map(([column, [low, high]]) => `M${(((column + 0.5) * 1000) / COLUMNS).toFixed(1)} ${low.toFixed(0)}V${high.toFixed(0)}`);
}

const height = (prob) => TOP + PLOT * (1 - prob);
const anchor = (share) => (share < 0.15 ? "start" : share > 0.85 ? "end" : "middle");
const box = (left, width, top, tall, fill, kind = "part") =>
  svg("rect", { class: kind, x: `${left.toFixed(2)}%`, width: `${Math.max(width, 0).toFixed(2)}%`, y: top, height: Math.max(tall, 0), fill });
const line = (left, right, top, bottom, kind) =>
  svg("line", { class: kind, x1: `${left.toFixed(2)}%`, x2: `${right.toFixed(2)}%`, y1: top, y2: bottom });
const label = (left, base, text, at, kind) => svg("text", { class: kind, x: `${left.toFixed(2)}%`, y: base, "text-anchor": at }, text);
