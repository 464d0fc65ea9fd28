// The details of what is selected: a path with its history, a host with its
// containers, or an overview.

import { el, get, glyph, words, ms, percent, bytes, span, moment, Closed } from "./dom.js";
import { keyOf } from "./draw.js";

export class Panel {
  constructor(box, state, select) {
    Object.assign(this, { box, state, select, what: null, asked: 0 });
  }

  show(what) {
    this.what = what;
    this.detail = null;
    this.shown = "";
    this.box.scrollTop = 0;
    this.refresh();
  }

  // refresh asks for the details again; what comes late, for something that is
  // not selected any more, is dropped.
  async refresh() {
    const p = this.state.picture, what = this.what;
    if (!p) return;
    this.render();
    if (!what) return;
    const turn = ++this.asked;
    try {
      const detail = {};
      const path = this.path();
      const self = what.host === p.self, target = this.find(what.host)?.target;
      if (path?.own && !this.find(path.b)?.target) detail.why = await get("data/why?peer=" + encodeURIComponent(path.b));
      if (what.host && !target && this.find(what.host)?.alive !== false) detail.host = await get("data/host?peer=" + encodeURIComponent(what.host));
      detail.self = self;
      if (turn !== this.asked) return;
      this.detail = detail;
    } catch (e) {
      if (e instanceof Closed || turn !== this.asked) return;
      this.detail = { error: e.message };
    }
    this.render();
  }

  find(id) { return this.state.picture.hosts.find((h) => h.id === id); }
  nick(id) { return this.find(id)?.nick || id; }

  // path is the selected one, or that from here to the selected host.
  path() {
    const { paths } = this.state.picture, w = this.what;
    return w.path ? paths.find((x) => keyOf(x) === w.path) : paths.find((x) => x.own && x.b === w.host);
  }

  // render changes nothing where nothing changed: who reads or selects text is
  // not disturbed.
  render() {
    const parts = this.what ? this.selected() : this.overview();
    const text = parts.map((e) => e.outerHTML).join("");
    if (text === this.shown) return;
    this.shown = text;
    const focus = this.box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    this.box.replaceChildren(...parts);
    if (focus) this.box.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus();
  }

  overview() {
    const p = this.state.picture, troubles = p.say.slice(p.say.length > 1 ? 1 : 0).filter((s) => s.level !== "ok");
    const count = (s) => p.hosts.filter((h) => h.state === s).length;
    const sum = [...this.state.rates.values()].reduce((a, r) => ({ rx: a.rx + r.rx, tx: a.tx + r.tx }), { rx: 0, tx: 0 });
    const rows = [["Hosts", p.hosts.length]];
    const reached = { direct: "Reached directly", relayed: "Reached through others", pending: "Being set up", failed: "Without a path" };
    for (const [s, name] of Object.entries(reached)) if (count(s)) rows.push([name, count(s)]);
    rows.push(["Containers on the switch", p.hosts.reduce((a, h) => a + Math.max(0, h.attached), 0)], ["Names", p.names]);
    if (p.space) rows.push(["Address range", p.space.range]);
    rows.push(["Traffic in", bytes(sum.rx) + "/s"], ["Traffic out", bytes(sum.tx) + "/s"], ["Data path", p.datapath], ["MTU of the switch", p.mtu], ["Version", p.version]);
    const out = [el("h1", {}, "Overview"), list(rows)];
    if (troubles.length) {
      out.push(el("h2", {}, "What is wrong"), el("ul", { class: "list say" }, troubles.map((s) =>
        el("li", {}, glyph(s.level, 12), s.host ? this.link(s.text, { host: s.host }, "say" + s.text) : s.text))));
    }
    const bad = p.hosts.filter((h) => !h.self && h.state !== "direct");
    if (bad.length) {
      out.push(el("h2", {}, "Hosts not reached directly"), el("ul", { class: "list" }, bad.slice(0, 50).map((h) =>
        el("li", { class: "row" }, this.link(h.nick, { host: h.id }, "h" + h.id), badge(h.state)))));
    }
    out.push(el("p", { class: "muted" }, "Choose a host or a path to see more."));
    return out;
  }

  link(text, what, key) {
    return el("button", { class: "link", "data-key": key, onclick: () => this.select(what) }, text);
  }

  selected() {
    const close = el("button", { class: "close", "aria-label": "Close", "data-key": "close", onclick: () => this.select(null) }, "×");
    const w = this.what, d = this.detail || {}, path = this.path();
    const out = [close];
    if (w.host) {
      const h = this.find(w.host);
      if (!h) return [close, el("p", {}, "This host is not known any more.")];
      out.push(el("h1", {}, h.nick), h.self ? el("span", { class: "muted" }, "this host") : badge(h.state));
      const rows = [];
      if (!h.target) rows.push(["Name", el("code", {}, h.id)]);
      if (h.overlay) rows.push(["Overlay address", el("code", {}, h.overlay)]);
      const owner = this.state.picture.space?.owners.find((o) => o.id === h.id);
      if (owner) rows.push(["Owns", `${owner.ips.toLocaleString("en")} addresses`]);
      out.push(list(rows));
      if (d.error) out.push(el("p", { class: "reason" }, d.error));
      if (d.host) out.push(...this.attached(d.host));
      if (path) out.push(el("h2", {}, "Path from here"), ...this.pathParts(path, d.why));
      if (d.host && d.host.links.length && !h.self) {
        out.push(el("h2", {}, "Its own paths, as it tells"), el("ul", { class: "list" }, d.host.links.slice(0, 60).map((l) =>
          el("li", { class: "row" }, this.link(l.peer, { host: l.id }, "l" + l.id), el("span", {}, l.rtt ? el("span", { class: "muted" }, ms(l.rtt) + "  ") : "", badge(l.state))))));
        if (d.host.links.length > 60) out.push(el("p", { class: "muted" }, `and ${d.host.links.length - 60} more`));
      }
      return out;
    }
    if (!path) return [close, el("p", {}, "This path is not there any more.")];
    out.push(el("h1", {}, this.link(this.nick(path.a), { host: path.a }, "a"), " – ", this.link(this.nick(path.b), { host: path.b }, "b")), badge(path.state));
    if (d.error) out.push(el("p", { class: "reason" }, d.error));
    out.push(...this.pathParts(path, d.why));
    if (!path.own) {
      out.push(el("p", { class: "muted" }, `Both hosts tell of this path by gossip. Loss, throughput and its history are known on ${this.nick(path.a)} and ${this.nick(path.b)}: 'weft why' tells there.`));
    }
    return out;
  }

  attached(h) {
    const out = [el("h2", {}, `On the switch (${h.attached.length})`)];
    if (!h.attached.length) return [...out, el("p", { class: "muted" }, "Nothing.")];
    out.push(el("ul", { class: "list" }, h.attached.slice(0, 200).map((a) => {
      const name = a.names?.[0]?.replace(/\.$/, "") || a.container || a.mac;
      return el("li", {}, el("div", { class: "row" }, el("span", {}, name), el("code", {}, a.addresses.join(" "))),
        el("small", {}, [a.container !== name && a.container, a.mac !== name && a.mac, ...(a.names || []).slice(1)].filter(Boolean).join(" · ")));
    })));
    return out;
  }

  pathParts(x, why) {
    const out = [], rate = this.state.rates.get(keyOf(x)), now = this.state.picture.now;
    if (why?.Reason || x.info) {
      out.push(el("div", { class: "reason" }, el("p", {}, why?.Reason || x.info), why?.Help ? el("p", {}, el("b", {}, "What helps: "), why.Help) : ""));
    }
    if (x.back) out.push(el("p", { class: "reason" }, `The other end says: ${words[x.back]}.`));
    const rows = [], stands = x.state === "direct" || x.state === "relayed";
    const since = moment(why?.Since);
    if (since) rows.push(["Since", `${new Date(since).toLocaleTimeString([], { hour12: false })} (${round(now - since)})`]);
    if (x.via?.length) rows.push(["Through", x.via.join(", ")]);
    if (x.address && x.address !== "-") rows.push(["Address", el("code", {}, x.address)]);
    rows.push(["Round trip", ms(x.rtt) || "not measured"]);
    if (x.own && stands) rows.push(["Loss", percent(x.loss || 0)]);
    if (x.mtu) rows.push([x.own ? "MTU for containers" : "MTU of the underlay", x.mtu]);
    if (why?.PathMTU) rows.push(["MTU of the underlay", why.PathMTU]);
    if (rate && x.own) rows.push(["Throughput in", bytes(rate.rx) + "/s"], ["Throughput out", bytes(rate.tx) + "/s"]);
    if (x.own) rows.push(["Received", bytes(x.rx || 0)], ["Sent", bytes(x.tx || 0)]);
    if (x.handshake) rows.push(["Handshake", round(now - x.handshake) + " ago"]);
    if (why) rows.push(["Changes", why.Changes]);
    out.push(list(rows));
    const samples = this.state.samples.get(keyOf(x));
    if (x.own && samples?.length > 2) out.push(el("h2", {}, "Throughput while this page is open"), spark(samples));
    if (!why) return out;
    if (why.History?.length) {
      out.push(el("h2", {}, "History"), el("ul", { class: "list" }, [...why.History].reverse().map((c) => el("li", {},
        el("div", { class: "row" }, el("span", {}, c.From === c.To ? route(c.To) : `${route(c.From)} → ${route(c.To)}`), el("span", { class: "muted" }, new Date(c.At).toLocaleTimeString([], { hour12: false }))),
        c.Why ? el("small", {}, c.Why) : ""))));
    }
    if (why.Relays?.length) {
      out.push(el("h2", {}, "Relays"), el("ul", { class: "list" }, why.Relays.map((r) => el("li", { class: "row" },
        el("span", {}, r.Via.join(", ")), el("span", { class: "muted" }, [r.InUse ? "in use" : "usable", ms(r.RTT / 1e6)].filter(Boolean).join(" · "))))));
    }
    if (why.Candidates?.length) {
      out.push(el("h2", {}, "Where it was looked for"), el("ul", { class: "list" }, why.Candidates.map((c) => el("li", { class: "row" },
        el("code", {}, c.Address), el("span", { class: "muted" }, [c.State, ms(c.RTT / 1e6)].filter(Boolean).join(" · "))))));
    }
    return out;
  }
}

const badge = (s) => el("span", { class: `badge ${s}` }, glyph(s), words[s] || s);
const list = (rows) => el("dl", {}, rows.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v instanceof Node ? v : String(v))]));
const route = (s) => s || "no path";
// round keeps what grows from changing the panel at every look.
const round = (millis) => (millis > 60000 ? span(millis - (millis % 60000)).replace(" 0s", "") : millis > 10000 ? span(millis - (millis % 5000)) : "seconds");

function spark(samples) {
  const top = Math.max(...samples, 1), w = 340;
  const d = samples.map((v, i) => `${i ? "L" : "M"}${((i / Math.max(1, samples.length - 1)) * w).toFixed(1)} ${(36 - (v / top) * 32).toFixed(1)}`).join("");
  return el("svg", { class: "spark", viewBox: `0 0 ${w} 40`, preserveAspectRatio: "none", role: "img", "aria-label": `Throughput, at most ${bytes(top)}/s` }, el("path", { d }));
}
