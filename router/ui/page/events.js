// Events as they happen.

import { el, glyph } from "./dom.js";

const kept = 500, shown = 5;

function fields(e) {
  const list = Object.entries(e.fields || {}).map(([k, v]) => `${k}=${v}`);
  return list.join(" ");
}

function row(e, fresh) {
  const t = new Date(e.time);
  const level = { warning: "warn", error: "bad" }[e.level];
  const who = e.nickname || e.peer;
  return el("li", { class: `event ${e.level}${fresh ? " new" : ""}` },
    el("time", { datetime: e.time, title: t.toLocaleString() }, t.toLocaleTimeString([], { hour12: false })),
    el("span", { title: e.level }, level ? glyph(level, 10) : ""),
    el("span", {}, el("b", {}, e.message), who ? ` ${who} ` : " ", el("span", { class: "f" }, fields(e)),
      e.missed ? el("span", { class: "f" }, ` (${e.missed} events before this one were missed)`) : ""));
}

// follow keeps both lists, the newest first.
export function follow(latest, all) {
  const list = el("ol", { "aria-label": "Events, the newest first" });
  const note = el("p", { class: "muted" }, "What this daemon's log says of changes, the newest first. 'weft events' prints the same.");
  all.append(note, list);
  let begun = Date.now(), first = true;
  const source = new EventSource("data/events");
  source.onopen = () => { begun = Date.now(); };
  source.onmessage = (m) => {
    const e = JSON.parse(m.data);
    const fresh = !first || Date.now() - begun > 1500;
    if (fresh) first = false;
    latest.prepend(row(e, fresh));
    list.prepend(row(e, fresh));
    while (latest.childElementCount > shown) latest.lastChild.remove();
    while (list.childElementCount > kept) list.lastChild.remove();
  };
  source.onerror = () => {
    // A closed source does not come back by itself; an address that was
    // replaced never does.
    if (source.readyState === EventSource.CLOSED) note.textContent = "No events come: the daemon does not give them any more. Load the page again.";
  };
}
