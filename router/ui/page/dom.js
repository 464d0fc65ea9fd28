// Small things that every part of the page needs.

const svgTags = new Set(["svg", "g", "path", "line", "circle", "rect", "text", "title", "polygon"]);

// el makes an element; attributes beginning with "on" are listeners.
export function el(tag, attrs = {}, ...children) {
  const e = svgTags.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [k, v] of Object.entries(attrs)) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (v === true) e.setAttribute(k, "");
    else if (v !== false && v !== undefined && v !== null) e.setAttribute(k, v);
  }
  e.append(...children.flat().filter((c) => c !== undefined && c !== null && c !== false));
  return e;
}

export const $ = (id) => document.getElementById(id);

// glyph is the sign of a state: its form tells as much as its colour.
export function glyph(state, size = 12) {
  const h = size / 2, r = h - 1;
  const s = { stroke: "currentColor", "stroke-width": 2, fill: "none", "stroke-linecap": "round" };
  const forms = {
    direct: () => el("circle", { cx: h, cy: h, r, fill: "currentColor" }),
    relayed: () => el("polygon", { points: `${h},1 ${size - 1},${h} ${h},${size - 1} 1,${h}`, ...s }),
    pending: () => el("circle", { cx: h, cy: h, r: r - 0.5, ...s, "stroke-dasharray": "1.5 3.2" }),
    failed: () => el("path", { d: `M2 2L${size - 2} ${size - 2}M${size - 2} 2L2 ${size - 2}`, ...s, "stroke-width": 2.6 }),
    ok: () => el("path", { d: `M2 ${h}L${h - 1} ${size - 3}L${size - 1} 2`, ...s, "stroke-width": 2.4 }),
    warn: () => el("path", { d: `M${h} 1v${size * 0.55}M${h} ${size - 1.5}v.1`, ...s, "stroke-width": 2.8 }),
    bad: () => el("path", { d: `M2 2L${size - 2} ${size - 2}M${size - 2} 2L2 ${size - 2}`, ...s, "stroke-width": 2.6 }),
  };
  const cls = { ok: "direct", warn: "relayed", bad: "failed" }[state] || state;
  return el("svg", { class: cls, width: size, height: size, viewBox: `0 0 ${size} ${size}`, "aria-hidden": "true" }, (forms[state] || forms.pending)());
}

export const words = {
  direct: "direct", relayed: "through others", pending: "being set up", failed: "no path",
};

export const ms = (v) => (v > 0 ? (v < 10 ? v.toFixed(1) : Math.round(v)) + " ms" : "");
export const percent = (v) => (v > 0 && v < 0.1 ? (100 * v).toFixed(1) : Math.round(100 * v)) + "%";

// bytes is a size in decimal units.
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i++; }
  return (i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)) + " " + units[i];
}

// span is a time in its two greatest units; what is in the future is zero.
export function span(millis) {
  const s = Math.max(0, Math.floor(millis / 1000));
  const d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
  if (d) return `${d}d ${h}h`;
  if (h) return `${h}h ${m}m`;
  if (m) return `${m}m ${s % 60}s`;
  return `${s}s`;
}

// moment is a time of Go, or null for its zero.
export function moment(text) {
  const t = Date.parse(text);
  return text && !text.startsWith("0001-") && !Number.isNaN(t) ? t : null;
}

export async function get(path) {
  const r = await fetch(path, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(8000) });
  if (r.status === 401 || r.status === 404 && !r.headers.get("Content-Type")?.includes("json")) throw new Closed();
  const v = await r.json();
  if (!r.ok) throw new Error(v.error || r.statusText);
  return v;
}

// Closed says that the daemon is another one than before, or the page is off.
export class Closed extends Error {}
