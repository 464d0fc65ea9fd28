// The drawing: hosts, and the paths between them.

import { $, el, glyph, words, ms, percent, bytes } from "./dom.js";

const cardsUpTo = 14; // hosts that get a card; more get a sign and their name
const ringUpTo = 40; // hosts on a ring with all paths; more fill the area around this one
const labelsUpTo = 6; // hosts whose paths always show their figures

export class Drawing {
  constructor(svg, tip, state, select) {
    Object.assign(this, { svg, tip, state, select_: select, hosts: new Map(), paths: new Map(), query: "", view: { x: 0, y: 0, k: 1 } });
    this.layers = el("g", {});
    this.pathLayer = el("g", {});
    this.hostLayer = el("g", {});
    this.layers.append(this.pathLayer, this.hostLayer);
    svg.append(this.layers);
    new ResizeObserver(() => this.draw()).observe(svg);
    svg.addEventListener("keydown", (e) => this.key(e));
    svg.addEventListener("click", (e) => { if (e.target === svg && !this.dragged) this.select_(null); });
    svg.addEventListener("wheel", (e) => {
      if (!e.ctrlKey && this.view.k === 1 && e.deltaY > 0) return;
      e.preventDefault();
      const r = svg.getBoundingClientRect();
      this.zoom(e.deltaY < 0 ? 1.15 : 1 / 1.15, e.clientX - r.left, e.clientY - r.top);
    }, { passive: false });
    this.drag();
  }

  // draw follows the picture: what stays is moved, not made again, so that
  // focus and pointer stay where they are.
  draw() {
    const p = this.state.picture, { clientWidth: w, clientHeight: h } = this.svg;
    if (!p || !w || !h) return;
    Object.assign(this, { w, h, n: p.hosts.length });
    this.byId = new Map(p.hosts.map((x) => [x.id, x]));
    this.byNick = new Map(p.hosts.map((x) => [x.nick, x.id]));
    this.place(p.hosts);
    // Where room is small, what all names begin with says nothing.
    this.same = p.hosts.slice(1).reduce((a, x) => { while (!x.nick.startsWith(a)) a = a.slice(0, -1); return a; }, p.hosts[0].nick);
    if (p.hosts.some((x) => x.nick === this.same)) this.same = this.same.slice(0, -1);
    // What matters more is drawn later, above the others.
    const weight = (x) => (x.self ? 2 : x.state === "direct" ? 0 : 1);
    keep(this.hosts, [...p.hosts].sort((x, y) => weight(x) - weight(y)), (x) => x.id, () => this.newHost(), this.hostLayer);
    for (const x of p.hosts) this.drawHost(this.hosts.get(x.id), x);
    const paths = p.paths.filter((x) => this.at.has(x.a) && this.at.has(x.b));
    keep(this.paths, paths, keyOf, () => this.newPath(), this.pathLayer);
    for (const x of paths) this.drawPath(this.paths.get(keyOf(x)), x);
    if (!this.svg.querySelector("[tabindex='0']")) this.hosts.get(p.self)?.setAttribute("tabindex", 0);
    this.mark();
    this.move();
  }

  // place gives every host its place: the same for the same hosts.
  place(hosts) {
    const { w, h, n } = this, at = (this.at = new Map());
    const cx = w / 2, cy = h / 2;
    if (n <= ringUpTo) {
      const cards = n <= cardsUpTo;
      const ry = Math.max(60, h / 2 - (cards ? 52 : 44)), rx = Math.min(Math.max(60, w / 2 - (cards ? 92 : 60)), ry * 1.75);
      const top = n === 3 ? 0.16 * ry : 0; // a triangle has its middle lower
      hosts.forEach((x, i) => {
        const a = (2 * Math.PI * i) / n - (n === 2 ? Math.PI : Math.PI / 2);
        at.set(x.id, n === 1 ? [cx, cy] : [cx + rx * Math.cos(a), cy + top + ry * Math.sin(a)]);
      });
      this.space = (2 * Math.PI * Math.min(rx, ry * 1.3)) / n;
      return;
    }
    // A sunflower: even distances, this host in its middle.
    const rx = w / 2 - 34, ry = h / 2 - 28;
    this.space = Math.sqrt((Math.PI * rx * ry) / n);
    hosts.forEach((x, i) => {
      const r = i === 0 ? 0 : Math.sqrt((i + 1.5) / (n + 1)), a = i * 2.399963;
      at.set(x.id, [cx + rx * r * Math.cos(a), cy + ry * r * Math.sin(a)]);
    });
  }

  newHost() {
    const g = el("g", { role: "button", tabindex: -1 });
    g.addEventListener("click", () => this.pick({ host: g.item.id }));
    this.listen(g);
    return g;
  }

  drawHost(g, x) {
    const cards = this.n <= cardsUpTo, gone = x.state === "failed";
    g.item = x;
    const label = x.self ? "this host" : words[x.state] || "";
    const attached = x.attached < 0 ? "" : x.attached === 1 ? "1 container" : `${x.attached} containers`;
    const small = this.n > cardsUpTo && this.space < 60;
    const looks = [cards, small, this.w < 640, x.nick, label, attached, x.state, x.self].join("|") + (small ? Math.floor(this.space) + this.same : "");
    g.classList.value = `host ${cards ? "cards" : "dots"}${x.self ? " self" : ""}${gone ? " gone" : ""}`;
    const [px, py] = this.at.get(x.id);
    g.setAttribute("transform", `translate(${px} ${py})`);
    if (g.looks === looks) return;
    g.looks = looks;
    g.setAttribute("aria-label", [x.nick, label, attached].filter(Boolean).join(", "));
    if (cards) {
      const narrow = this.w < 640, name = cut(x.nick, narrow ? 9 : 16), indent = x.self ? 14 : 34;
      const sub = (x.self ? ["this host", narrow ? "" : attached] : [gone ? "out of reach" : attached]).filter(Boolean).join(" · ");
      const wide = Math.max(narrow ? 104 : 140, indent + 14 + Math.max(8.4 * name.length, 6.9 * sub.length)), left = indent - wide / 2;
      const sign = x.self ? null : el("g", { transform: `translate(${-wide / 2 + 14} -15)` }, glyph(x.state));
      g.replaceChildren(el("rect", { class: "card", x: -wide / 2, y: -25, width: wide, height: 50, rx: 11 }),
        ...(sign ? [sign] : []),
        el("text", { class: "name", x: left, y: -4 }, name), el("text", { class: "sub", x: left, y: 13 }, sub));
    } else {
      const s = x.self ? 18 : small ? 11 : 14;
      g.replaceChildren(el("circle", { class: "halo", r: s / 2 + (small ? 1.5 : 3) }),
        x.self ? el("rect", { class: "dot", x: -s / 2, y: -s / 2, width: s, height: s, rx: 5 }) : el("g", { transform: `translate(${-s / 2} ${-s / 2})` }, glyph(x.state, s)),
        el("text", { class: "name", y: s / 2 + 12 }, small && !x.self ? cut(x.nick.slice(this.same.length), Math.max(4, Math.floor(this.space / 6))) : cut(x.nick, 12)));
    }
  }

  newPath() {
    const wire = el("path", { class: "wire" }), hit = el("path", { class: "hit" }), mark = el("g", { class: "mark" });
    const g = el("g", { role: "button", tabindex: -1 }, hit, wire, mark);
    Object.assign(g, { wire, hit, mark });
    g.addEventListener("click", () => this.pick({ path: keyOf(g.item) }));
    this.listen(g);
    return g;
  }

  drawPath(g, x) {
    g.item = x;
    const [ax, ay] = this.at.get(x.a), [bx, by] = this.at.get(x.b), many = this.n > ringUpTo;
    const relay = x.state === "relayed" && x.via && this.at.get(this.byNick.get(x.via[0]));
    let mx = (ax + bx) / 2, my = (ay + by) / 2, d = `M${ax} ${ay}L${bx} ${by}`;
    if (x.state === "relayed") {
      // Towards the relay; without knowing it, a slight bow.
      const t = relay ? [mx + (relay[0] - mx) * 0.7, my + (relay[1] - my) * 0.7] : [mx + (by - ay) * 0.18, my - (bx - ax) * 0.18];
      d = `M${ax} ${ay}Q${t[0]} ${t[1]} ${bx} ${by}`;
      [mx, my] = [0.25 * ax + 0.5 * t[0] + 0.25 * bx, 0.25 * ay + 0.5 * t[1] + 0.25 * by];
    }
    g.middle = [mx, my];
    const crowd = this.n > cardsUpTo && !x.own;
    g.classList.value = `path ${x.state}${x.own ? " own" : " other"}${crowd || (many && x.state === "direct") ? " faint" : ""}`;
    g.wire.setAttribute("d", d);
    g.hit.setAttribute("d", many && x.state === "direct" ? "" : d);
    const rate = this.state.rates.get(keyOf(x)), sum = rate ? rate.rx + rate.tx : 0;
    // The more flows, the thicker.
    g.style.setProperty("--w", this.n > cardsUpTo ? 1.6 : x.own && sum > 1e4 ? Math.min(7, 2 + Math.log10(sum / 1e4)) : 2);
    g.setAttribute("aria-label", `Path ${this.nick(x.a)} to ${this.nick(x.b)}: ${this.figures(x).join(", ")}`);
    const text = this.n <= labelsUpTo ? this.short(x, sum) : "";
    const sign = !crowd && (x.state === "failed" || x.state === "pending");
    const looks = `${text}|${x.state}|${sign}`;
    g.mark.setAttribute("transform", `translate(${mx} ${my})`);
    if (g.looks === looks) return;
    g.looks = looks;
    const width = text.length * 6.6 + 12;
    g.mark.replaceChildren(
      ...(text ? [el("rect", { x: -width / 2, y: -10, width, height: 20, rx: 6 }), el("text", {}, text)] : []),
      ...(sign && !text ? [el("rect", { x: -9, y: -9, width: 18, height: 18, rx: 9 }), el("g", { transform: "translate(-6 -6)" }, glyph(x.state))] : []));
  }

  nick(id) { return this.byId.get(id)?.nick || id; }

  // short is what stands on a path.
  short(x, sum) {
    if (x.state === "failed") return "✕ no path";
    if (x.state === "pending") return "… being set up";
    const list = [x.via?.length ? "via " + x.via.join(", ") : "", ms(x.rtt)];
    if (x.loss >= 0.005) list.push(percent(x.loss) + " lost");
    if (sum >= 1000) list.push(bytes(sum) + "/s");
    return list.filter(Boolean).join(" · ");
  }

  // figures are all that is known of a path, in words.
  figures(x) {
    const list = [words[x.state] + (x.via?.length ? " (" + x.via.join(", ") + ")" : "")];
    if (x.back) list.push(`the other end says: ${words[x.back]}`);
    if (x.rtt) list.push("round trip " + ms(x.rtt));
    if (x.own && (x.state === "direct" || x.state === "relayed")) list.push(percent(x.loss || 0) + " lost");
    if (x.mtu) list.push("MTU " + x.mtu);
    const rate = this.state.rates.get(keyOf(x));
    if (rate && x.own) list.push(`${bytes(rate.rx)}/s in, ${bytes(rate.tx)}/s out`);
    if (x.info) list.push(x.info);
    return list;
  }

  listen(g) {
    const show = (px, py) => {
      const x = g.item, host = x.nick !== undefined;
      const own = host && this.state.picture.paths.find((q) => q.own && q.b === x.id);
      const title = host ? x.nick : `${this.nick(x.a)} – ${this.nick(x.b)}`;
      const lines = host ? [x.self ? "this host" : "", x.attached >= 0 ? `${x.attached} on the switch` : "", ...(own ? this.figures(own) : [])] : this.figures(x);
      this.tip.replaceChildren(el("b", {}, title), ...lines.filter(Boolean).map((l) => el("span", {}, l)));
      this.tip.hidden = false;
      const { offsetWidth: w, offsetHeight: h } = this.tip;
      this.tip.style.left = Math.max(4, Math.min(px + 14, innerWidth - w - 8)) + "px";
      this.tip.style.top = Math.max(4, py + 18 + h > innerHeight ? py - h - 10 : py + 18) + "px";
    };
    const hide = () => { this.tip.hidden = true; };
    g.addEventListener("pointermove", (e) => show(e.clientX, e.clientY));
    g.addEventListener("pointerleave", hide);
    g.addEventListener("focus", () => {
      this.svg.querySelectorAll("[tabindex='0']").forEach((o) => o.setAttribute("tabindex", -1));
      g.setAttribute("tabindex", 0);
      if (g.matches(":focus-visible")) { const r = (g.mark?.childElementCount ? g.mark : g).getBoundingClientRect(); show(r.left + r.width / 2, r.bottom); }
    });
    g.addEventListener("blur", hide);
  }

  pick(what) {
    if (this.dragged) return;
    this.tip.hidden = true;
    this.select_(what);
  }

  select(what) { this.selected = what; this.mark(); }

  // mark shows what is selected, and dims what is not looked for.
  mark() {
    const s = this.selected, q = this.query.toLowerCase();
    const found = (id) => !q || this.nick(id).toLowerCase().includes(q) || id.includes(q);
    for (const [id, g] of this.hosts) {
      g.classList.toggle("on", s?.host === id);
      g.classList.toggle("dim", !found(id));
      g.setAttribute("aria-pressed", s?.host === id);
    }
    for (const [k, g] of this.paths) {
      const { a, b } = g.item;
      // The paths of a selected host; of this one they show anyway.
      g.classList.toggle("on", s?.path === k || (!!s?.host && s.host !== this.state.picture.self && (s.host === a || s.host === b)));
      g.classList.toggle("dim", !!q && !(found(a) && found(b)));
    }
  }

  find(text) { this.query = text.trim(); this.mark(); }

  firstFound() {
    const g = [...this.hosts.values()].find((h) => !h.classList.contains("dim"));
    if (g && this.query) { g.focus(); this.select_({ host: g.item.id }); }
  }

  focusSelected() {
    const s = this.selected;
    (s?.host ? this.hosts.get(s.host) : this.paths.get(s?.path))?.focus();
  }

  // key moves to what is next in a direction.
  key(e) {
    const g = e.target.closest("g[role=button]");
    if (e.key === "+" || e.key === "=") return this.zoom(1.4);
    if (e.key === "-") return this.zoom(1 / 1.4);
    if (e.key === "0") return this.fit();
    if (!g) return;
    if (e.key === "Enter" || e.key === " ") {
      e.preventDefault();
      g.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      $("panel").focus();
      return;
    }
    const dir = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (!dir) return;
    e.preventDefault();
    const where = (x) => x.middle || this.at.get(x.item.id);
    const [x0, y0] = where(g);
    let best = null, least = Infinity;
    for (const o of [...this.hosts.values(), ...(this.n <= cardsUpTo ? this.paths.values() : [])]) {
      const [x, y] = where(o), dx = x - x0, dy = y - y0, along = dx * dir[0] + dy * dir[1], off = Math.abs(dx * dir[1]) + Math.abs(dy * dir[0]);
      if (o === g || along < 2 || off > 3 * along) continue;
      if (along + 2 * off < least) [best, least] = [o, along + 2 * off];
    }
    best?.focus();
  }

  zoom(f, x = this.w / 2, y = this.h / 2) {
    const v = this.view, k = Math.min(8, Math.max(1, v.k * f));
    v.x = x - ((x - v.x) * k) / v.k;
    v.y = y - ((y - v.y) * k) / v.k;
    v.k = k;
    if (k === 1) v.x = v.y = 0;
    this.move();
  }

  fit() { this.view = { x: 0, y: 0, k: 1 }; this.move(); }

  move() {
    const { x, y, k } = this.view;
    this.layers.setAttribute("transform", `translate(${x} ${y}) scale(${k})`);
    this.svg.classList.toggle("moved", k !== 1);
    this.svg.classList.toggle("tight", this.n > cardsUpTo && this.space * k < 31);
  }

  drag() {
    let from = null;
    this.svg.addEventListener("pointerdown", (e) => { this.dragged = false; from = e.button === 0 ? [e.clientX, e.clientY, this.view.x, this.view.y] : null; });
    addEventListener("pointermove", (e) => {
      if (!from || this.view.k === 1) return;
      const dx = e.clientX - from[0], dy = e.clientY - from[1];
      if (Math.hypot(dx, dy) > 4) this.dragged = true;
      if (this.dragged) { this.view.x = from[2] + dx; this.view.y = from[3] + dy; this.move(); }
    });
    addEventListener("pointerup", () => { from = null; });
  }
}

export const keyOf = (p) => `${p.a}|${p.b}`;

const cut = (s, n) => (s.length > n ? s.slice(0, n - 1) + "…" : s);

// keep adds what is new to a layer, and removes what is gone.
function keep(map, items, key, make, layer) {
  const want = new Set(items.map(key));
  for (const [k, g] of map) if (!want.has(k)) { g.remove(); map.delete(k); }
  for (const k of want) if (!map.has(k)) { const g = make(); map.set(k, g); layer.append(g); }
}
