// The same as tables: paths, the address space, names.

import { el, get, glyph, words, ms, percent, bytes, Closed } from "./dom.js";
import { keyOf } from "./draw.js";

const cell = (v, cls) => el("td", cls ? { class: cls } : {}, v ?? "");
const head = (...names) => el("thead", {}, el("tr", {}, names.map((n) => el("th", { scope: "col", class: n.endsWith("#") ? "n" : "" }, n.replace("#", "")))));

// fill replaces a view when it says something else than before.
function fill(box, parts) {
  const text = parts.map((e) => e.outerHTML).join("");
  if (box.text === text) return;
  const focus = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  box.text = text;
  box.replaceChildren(...parts);
  if (focus) box.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus();
}

export function tables(box, state, select) {
  const p = state.picture, nick = new Map(p.hosts.map((h) => [h.id, h.nick]));
  const open = (text, what, key) => el("button", { class: "link", "data-key": key, onclick: () => select(what) }, text);
  const rank = ["failed", "pending", "relayed", "direct"];
  const paths = [...p.paths].sort((a, b) => (b.own || false) - (a.own || false) || rank.indexOf(a.state) - rank.indexOf(b.state));
  fill(box, [
    el("h2", {}, "Hosts"),
    el("table", {}, head("Host", "Name", "Reached from here", "On the switch#"), el("tbody", {}, p.hosts.map((h) => el("tr", {},
      el("th", { scope: "row" }, open(h.nick, { host: h.id }, "h" + h.id)), cell(el("code", {}, h.target ? "" : h.id)),
      cell(h.self ? "this host" : badge(h.state)), cell(h.attached < 0 ? "" : h.attached, "n"))))),
    el("h2", {}, "Paths"),
    el("table", {}, head("From", "To", "State", "Through", "Round trip#", "Loss#", "MTU#", "In#", "Out#", ""), el("tbody", {}, paths.map((x) => {
      const r = x.own && state.rates.get(keyOf(x));
      return el("tr", {}, cell(nick.get(x.a) || x.a), el("th", { scope: "row" }, open(nick.get(x.b) || x.b, { path: keyOf(x) }, "p" + keyOf(x))), cell(badge(x.state)),
        cell((x.via || []).join(", ")), cell(ms(x.rtt), "n"), cell(x.own && x.rtt ? percent(x.loss || 0) : "", "n"), cell(x.mtu, "n"),
        cell(r ? bytes(r.rx) + "/s" : "", "n"), cell(r ? bytes(r.tx) + "/s" : "", "n"), cell(x.info, "muted"));
    }))),
    ...(p.left ? [el("p", { class: "muted" }, `${p.left} more paths between other hosts are left out.`)] : []),
  ]);
}

const badge = (s) => el("span", { class: `badge ${s}` }, glyph(s), words[s] || s);

export function space(box, state) {
  const s = state.picture.space;
  if (!s) return fill(box, [el("p", { class: "muted" }, "The address allocator is off.")]);
  const share = (o) => (100 * o.ips) / s.ips;
  const bar = el("div", { class: "bar", role: "img", "aria-label": "Shares of the range: " + s.owners.map((o) => `${o.nick} ${share(o).toFixed(1)}%`).join(", ") },
    s.owners.map((o) => {
      const b = el("span", { class: o.self ? "self" : o.reachable ? "" : "gone", title: `${o.nick}: ${share(o).toFixed(1)}%` }, o.nick);
      b.style.flexGrow = Math.max(share(o), 0.05);
      b.style.flexBasis = "0";
      return b;
    }));
  fill(box, [
    el("h2", {}, "Address space"),
    el("p", {}, el("strong", {}, s.range), el("span", { class: "muted" }, ` · ${s.ips.toLocaleString("en")} addresses · ${s.state}`)),
    ...(s.owners.length ? [bar] : [el("p", { class: "muted" }, "It has not been divided yet: the first container that asks for an address begins that.")]),
    el("table", {}, head("Owner", "From", "Addresses#", "Share#", "In use#", ""), el("tbody", {}, s.owners.map((o) => el("tr", {},
      el("th", { scope: "row" }, o.nick), cell(el("code", {}, o.first)), cell(o.ips.toLocaleString("en"), "n"), cell(share(o).toFixed(1) + "%", "n"),
      cell(o.active < 0 ? "not known" : o.active, "n"), cell(o.self ? "this host" : o.reachable ? "" : el("span", { class: "badge failed" }, glyph("failed", 10), "out of reach")))))),
  ]);
}

export async function names(box) {
  try {
    const list = await get("data/names");
    fill(box, [
      el("h2", {}, `Names (${list.length})`),
      el("table", {}, head("Name", "Addresses", "Host", "Container"), el("tbody", {}, list.slice(0, 2000).map((n) => el("tr", {},
        el("th", { scope: "row" }, n.name.replace(/\.$/, "")), cell(el("code", {}, n.addresses.join(" "))), cell(n.host), cell(el("code", {}, n.container)))))),
    ]);
  } catch (e) {
    if (!(e instanceof Closed)) fill(box, [el("p", {}, e.message)]);
  }
}
