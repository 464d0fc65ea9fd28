// What the page knows, and when it asks for more.

import { $, el, get, glyph, words, Closed } from "./dom.js";
import { Drawing } from "./draw.js";
import { Panel } from "./panel.js";
import { tables, space, names } from "./lists.js";
import { follow } from "./events.js";

const every = 2000; // milliseconds between two looks
const state = { picture: null, rates: new Map(), samples: new Map(), selected: null, tab: "picture", heard: 0, closed: false };

const keyOf = (p) => `${p.a}|${p.b}`;

// measure turns counters into bytes per second.
function measure(before, now) {
  if (!before) return;
  const old = new Map(before.paths.filter((p) => p.own).map((p) => [keyOf(p), p]));
  const seconds = (now.now - before.now) / 1000;
  for (const p of now.paths) {
    const o = old.get(keyOf(p));
    if (!p.own || !o || seconds <= 0) continue;
    const rx = ((p.rx || 0) - (o.rx || 0)) / seconds, tx = ((p.tx || 0) - (o.tx || 0)) / seconds;
    const rate = rx < 0 || tx < 0 ? { rx: 0, tx: 0 } : { rx, tx };
    state.rates.set(keyOf(p), rate);
    const list = state.samples.get(keyOf(p)) || [];
    list.push(rate.rx + rate.tx);
    if (list.length > 90) list.shift();
    state.samples.set(keyOf(p), list);
  }
}

const select = (what) => {
  state.selected = what;
  drawing.select(what);
  panel.show(what);
};
const drawing = new Drawing($("net"), $("tip"), state, select);
const panel = new Panel($("panel"), state, select);

function say() {
  const p = state.picture, box = $("say");
  let level = p?.say[0].level, text = p?.say[0].text;
  const silent = Date.now() - state.heard;
  if (state.closed) {
    [level, text] = ["bad", "This page is closed: the daemon was started again. 'weft ui' gives a new address."];
  } else if (!p) {
    [level, text] = ["warn", state.error ? "The daemon has no picture: " + state.error : "Asking the daemon …"];
  } else if (silent > (state.refused ? 1 : 4) * every) {
    [level, text] = ["bad", `The daemon of this host has not answered since ${new Date(state.heard).toLocaleTimeString([], { hour12: false })}. What is shown is older.`];
  }
  if (box.dataset.text === text) return;
  box.dataset.text = text;
  box.className = level;
  box.replaceChildren(glyph(level, 14), el("span", {}, text));
  // Read aloud is what is new, not every second that passes.
  const said = text.replace(/\d+(\.\d+)?(ms|s|m|h|%)?/g, "");
  if ($("live").dataset.said !== said) {
    $("live").dataset.said = said;
    $("live").textContent = text;
  }
  document.title = (level === "ok" ? "" : "! ") + `weft: ${p ? p.cluster : "…"}`;
}

async function look() {
  if (state.closed || state.busy) return;
  state.busy = true;
  try {
    const p = await get("data/picture");
    measure(state.picture, p);
    state.picture = p;
    state.heard = Date.now();
    state.refused = false;
    const self = p.hosts.find((h) => h.self);
    $("where").textContent = `${p.cluster} as ${self ? self.nick : p.self} sees it`;
    show();
  } catch (e) {
    state.refused = e instanceof TypeError; // nobody listens
    if (e instanceof Closed) state.closed = true;
    else if (!state.refused && e.name !== "TimeoutError") state.error = e.message;
  } finally {
    state.busy = false;
  }
  say();
}

// show draws the open tab, and the panel.
function show() {
  if (!state.picture) return;
  if (state.tab === "picture") drawing.draw();
  if (state.tab === "table") tables($("table"), state, select);
  if (state.tab === "space") space($("space"), state);
  if (state.tab === "names") names($("names"));
  panel.refresh();
}

// Tabs as keyboards know them: arrows move, Home and End jump.
const tabs = [...document.querySelectorAll("[role=tab]")];
function open(tab, focus) {
  for (const t of tabs) {
    const on = t === tab;
    t.setAttribute("aria-selected", on);
    t.tabIndex = on ? 0 : -1;
    $(t.getAttribute("aria-controls")).hidden = !on;
  }
  state.tab = tab.getAttribute("aria-controls");
  if (focus) tab.focus();
  show();
}
for (const t of tabs) t.addEventListener("click", () => open(t));
$("tabs").addEventListener("keydown", (e) => {
  const i = tabs.indexOf(document.activeElement);
  const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[e.key];
  if (to === undefined) return;
  e.preventDefault();
  open(tabs[(to + tabs.length) % tabs.length], true);
});

for (const s of ["direct", "relayed", "pending", "failed"]) {
  const key = el("svg", { class: `key ${s}`, width: 30, height: 12, viewBox: "0 0 30 12", "aria-hidden": "true" }, el("line", { x1: 2, y1: 6, x2: 28, y2: 6 }));
  $("legend").append(el("li", {}, key, glyph(s), words[s]));
}

$("find").addEventListener("input", (e) => drawing.find(e.target.value));
$("find").addEventListener("keydown", (e) => {
  if (e.key === "Enter") drawing.firstFound();
  if (e.key === "Escape") { e.target.value = ""; drawing.find(""); }
});
$("in").addEventListener("click", () => drawing.zoom(1.4));
$("out").addEventListener("click", () => drawing.zoom(1 / 1.4));
$("fit").addEventListener("click", () => drawing.fit());
document.addEventListener("keydown", (e) => {
  if (e.key === "Escape" && state.selected && e.target !== $("find")) {
    drawing.focusSelected();
    select(null);
  }
  if (e.key === "/" && e.target.tagName !== "INPUT") { e.preventDefault(); open(tabs[0]); $("find").focus(); }
});

follow($("latest"), $("events"));
panel.show(null);
say();
await look();
setInterval(() => { if (!document.hidden) look(); }, every);
setInterval(say, 1000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) { state.heard ||= Date.now(); look(); } });
