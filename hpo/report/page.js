"use strict";
// data: {study, objectives: [{metric, direction, bound}], params, metrics, directions: {metric: direction},
//        trials, front, knee, chosen, importances: {metric: [[param, share]]}}; a trial is {number, state, params, metrics, ...}
const D = JSON.parse(document.getElementById("data").textContent);
const NS = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const FRONT = new Set(D.front);
const OBJECTIVES = D.objectives.map((o) => o.metric);
const W = 560, H = 380, PAD = { l: 64, r: 16, t: 14, b: 44 };

function svg(parent, tag, attributes, text) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}
function html(parent, tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  parent.appendChild(node);
  return node;
}
function show(value) {
  if (value === undefined || value === null) return "–";
  if (typeof value !== "number") return typeof value === "string" ? value : JSON.stringify(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3) : String(+value.toPrecision(5));
}
// A value of a trial by the name of a metric, of a parameter, or "number".
function valueOf(trial, name) {
  if (name === "number") return trial.number;
  return name in trial.metrics ? trial.metrics[name] : trial.params[name];
}
function kindOf(trial) {
  if (trial.number === D.chosen) return "chosen";
  if (trial.number === D.knee) return "knee";
  if (FRONT.has(trial.number)) return "front";
  return trial.state === "succeeded" && trial.feasible ? "rest" : "bad";
}
const ORDER = { bad: 0, rest: 1, front: 2, knee: 3, chosen: 4 };
const drawn = (trials) => [...trials].sort((a, b) => ORDER[kindOf(a)] - ORDER[kindOf(b)]);

// value -> 0…1. Categories stand at equal distances, a range over two decades is logarithmic.
function scaleOf(name) {
  const values = D.trials.map((t) => valueOf(t, name)).filter((v) => v !== undefined && v !== null);
  if (!values.length || !values.every((v) => typeof v === "number")) {
    const all = [...new Set(values.map((v) => JSON.stringify(v)))].sort();
    const place = new Map(all.map((v, i) => [v, all.length > 1 ? i / (all.length - 1) : 0.5]));
    return { at: (v) => place.get(JSON.stringify(v)), ticks: all.map((v) => [place.get(v), show(JSON.parse(v))]) };
  }
  let low = Math.min(...values), high = Math.max(...values);
  const log = low > 0 && high / low >= 100 && name !== "number";
  const f = log ? Math.log10 : (v) => v;
  if (low === high) { const d = Math.abs(low) * 0.05 || 0.5; low -= log ? low * 0.5 : d; high += d; }
  const a = f(low), b = f(high);
  return { at: (v) => (f(v) - a) / (b - a), ticks: ticks(a, b, log).map((v) => [(v - a) / (b - a), show(log ? 10 ** v : v)]) };
}
function ticks(a, b, log) {
  const found = [];
  if (log) {
    for (let e = Math.ceil(a - 1e-9); e <= b + 1e-9; e++) found.push(e);
    return found.length > 1 ? found : [a, b];
  }
  const raw = (b - a) / 5, base = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * base).find((s) => s >= raw);
  for (let v = Math.ceil(a / step - 1e-9) * step; v <= b + 1e-9 * step; v += step) found.push(+v.toPrecision(12));
  return found;
}

// --- what all charts share: the tooltip, and the trial that is pointed at -------------------------
const tip = byId("tip");
function fillTip(trial) {
  tip.replaceChildren();
  html(tip, "b", `trial ${trial.number}`);
  const kind = kindOf(trial);
  html(tip, "span", ` ${trial.state}${kind === "rest" || kind === "bad" ? "" : ", " + kind}`);
  const table = html(tip, "table");
  const rows = (names, values, first) => names.filter((n) => values[n] !== undefined).forEach((name, i) => {
    const row = html(table, "tr", undefined, first && i === 0 ? "sub" : "");
    html(row, "td", name);
    html(row, "td", show(values[name]));
  });
  rows(OBJECTIVES, trial.metrics, true);
  rows(D.params, trial.params, true);
  if (trial.message) html(html(table, "tr"), "td", trial.message).colSpan = 2;
}
function light(number, on) {
  document.querySelectorAll(`[data-trial="${number}"]`).forEach((n) => n.classList.toggle("lit", on));
}
function pointAt(node, trial) {
  node.dataset.trial = trial.number;
  node.addEventListener("pointerenter", (event) => {
    fillTip(trial);
    tip.style.display = "block";
    place(event);
    light(trial.number, true);
  });
  node.addEventListener("pointermove", place);
  node.addEventListener("pointerleave", () => { tip.style.display = "none"; light(trial.number, false); });
  node.addEventListener("click", () => byId(`trial-${trial.number}`)?.scrollIntoView({ block: "nearest" }));
}
function place(event) {
  const x = event.clientX + 16, y = event.clientY + 12;
  tip.style.left = Math.max(4, Math.min(x, innerWidth - tip.offsetWidth - 12)) + "px";
  tip.style.top = Math.min(y, innerHeight - tip.offsetHeight - 12) + "px";
}
function picker(parent, title, names, chosen, redraw) {
  const select = html(html(parent, "label", title + " "), "select");  // one line, or the next one together
  select.setAttribute("aria-label", title);
  names.forEach((name) => { html(select, "option", name).value = name; });
  select.value = chosen;
  select.addEventListener("change", redraw);
  return () => select.value;
}
function axes(root, x, y, xName, yName) {
  const right = W - PAD.r, bottom = H - PAD.b, px = (u) => PAD.l + u * (right - PAD.l), py = (u) => bottom - u * (bottom - PAD.t);
  root.setAttribute("viewBox", `0 0 ${W} ${H}`);
  for (const [at, label] of x.ticks) {
    svg(root, "line", { x1: px(at), x2: px(at), y1: PAD.t, y2: bottom, class: "grid" });
    svg(root, "text", { x: px(at), y: bottom + 16, "text-anchor": "middle" }, label);
  }
  for (const [at, label] of y.ticks) {
    svg(root, "line", { x1: PAD.l, x2: right, y1: py(at), y2: py(at), class: "grid" });
    svg(root, "text", { x: PAD.l - 8, y: py(at) + 4, "text-anchor": "end" }, label);
  }
  svg(root, "rect", { x: PAD.l, y: PAD.t, width: right - PAD.l, height: bottom - PAD.t, class: "frame" });
  svg(root, "text", { x: (PAD.l + right) / 2, y: H - 8, "text-anchor": "middle", class: "axis" }, xName);
  svg(root, "text", { x: 14, y: (PAD.t + bottom) / 2, "text-anchor": "middle", class: "axis",
    transform: `rotate(-90 14 ${(PAD.t + bottom) / 2})` }, yName);
  return { px: (u) => px(0.03 + 0.94 * u), py: (u) => py(0.03 + 0.94 * u) };
}
const inset = (s) => ({ ...s, ticks: s.ticks.map(([at, label]) => [0.03 + 0.94 * at, label]) });
function dot(root, trial, x, y) {
  const kind = kindOf(trial);
  pointAt(svg(root, "circle", { cx: x, cy: y, r: kind === "rest" || kind === "bad" ? 4.5 : 6.5, class: `point ${kind}` }), trial);
}
const arrow = (name) => {
  const direction = D.directions[name];
  return direction ? `${name} ${direction === "maximize" ? "↑" : "↓"}` : name;
};

// --- the charts -------------------------------------------------------------------------------------
const NAMES = [...OBJECTIVES, ...D.metrics.filter((m) => !OBJECTIVES.includes(m)), ...D.params, "number"];
const third = NAMES.find((n) => !OBJECTIVES.includes(n)) ?? "number";
const pick2 = ["x", "y"].map((t, i) => picker(byId("pick2"), t, NAMES, OBJECTIVES[i] ?? "number", draw2));
const pick3 = ["x", "y", "z"].map((t, i) => picker(byId("pick3"), t, NAMES, OBJECTIVES[i] ?? (i === 2 ? third : "number"), () => draw3()));
const pickH = picker(byId("pickh"), "metric", NAMES.slice(0, -1), OBJECTIVES[0], drawHistory);
const pickI = picker(byId("picki"), "of", OBJECTIVES, OBJECTIVES[0], drawImportance);

function having(...names) {
  return drawn(D.trials.filter((t) => names.every((n) => valueOf(t, n) !== undefined && valueOf(t, n) !== null)));
}
function draw2() {
  const root = byId("plot2"), [xName, yName] = pick2.map((p) => p());
  root.replaceChildren();
  const x = scaleOf(xName), y = scaleOf(yName), { px, py } = axes(root, inset(x), inset(y), arrow(xName), arrow(yName));
  const trials = having(xName, yName);
  const front = trials.filter((t) => FRONT.has(t.number)).sort((a, b) => valueOf(a, xName) - valueOf(b, xName));
  if (OBJECTIVES.length === 2 && OBJECTIVES.includes(xName) && OBJECTIVES.includes(yName) && xName !== yName && front.length > 1) {
    // What is attained between two points of the front is the worse of them in y.
    const xUp = D.objectives.find((o) => o.metric === xName).direction === "maximize";
    let path = "";
    front.forEach((t, i) => {
      const X = px(x.at(valueOf(t, xName))), Y = py(y.at(valueOf(t, yName)));
      path += i === 0 ? `M${X} ${Y}` : xUp ? `V${Y}H${X}` : `H${X}V${Y}`;
    });
    svg(root, "path", { d: path, class: "step" });
  }
  trials.forEach((t) => dot(root, t, px(x.at(valueOf(t, xName))), py(y.at(valueOf(t, yName)))));
}

const view = { yaw: -0.65, pitch: 0.42 };
function project(u, v, w) {
  const [x, y, z] = [u - 0.5, v - 0.5, w - 0.5], { yaw, pitch } = view;
  const a = x * Math.cos(yaw) - y * Math.sin(yaw), b = x * Math.sin(yaw) + y * Math.cos(yaw);
  return { x: W / 2 + a * 255, y: H / 2 - 8 - (z * Math.cos(pitch) + b * Math.sin(pitch)) * 205, depth: b * Math.cos(pitch) - z * Math.sin(pitch) };
}
function draw3() {
  const root = byId("plot3"), names = pick3.map((p) => p()), scales = names.map(scaleOf);
  root.replaceChildren();
  root.setAttribute("viewBox", `0 0 ${W} ${H}`);
  const line = (a, b) => { const p = project(...a), q = project(...b); svg(root, "line", { x1: p.x, y1: p.y, x2: q.x, y2: q.y, class: "frame" }); };
  for (const [u, v] of [[0, 0], [0, 1], [1, 0], [1, 1]]) { line([u, v, 0], [u, v, 1]); line([u, 0, v], [u, 1, v]); line([0, u, v], [1, u, v]); }
  names.forEach((name, i) => {
    // The edge of the cube at which the axis is readable: the lowest one, or the leftmost of the upright ones.
    const edges = [[0, 0], [0, 1], [1, 0], [1, 1]].filter((e) => i === 2 || e[1] === 0).map((e) => (u) => { const p = [...e]; p.splice(i, 0, u); return project(...p); });
    const rank = (edge) => (i === 2 ? edge(0.5).x : -edge(0.5).y);
    const edge = edges.sort((a, b) => rank(a) - rank(b))[0], middle = edge(0.5), left = i === 2 || middle.x < W / 2;
    const write = (p, down, label, kind) => svg(root, "text", { x: p.x + (left ? -8 : 8), y: p.y + down, "text-anchor": left ? "end" : "start", class: kind }, label);
    const shown = scales[i].ticks.length > 1 ? [scales[i].ticks[0], scales[i].ticks.at(-1)] : scales[i].ticks;
    for (const [u, label] of shown) write(edge(u), i === 2 ? 4 : 14, label, "");
    if (i === 2) svg(root, "text", { x: edge(1).x, y: edge(1).y - 12, "text-anchor": "middle", class: "axis" }, arrow(name));
    else write(middle, 24, arrow(name), "axis");
  });
  const points = having(...names).map((t) => ({ t, at: names.map((n, i) => scales[i].at(valueOf(t, n))) }));
  points.map((p) => ({ ...p, on: project(...p.at), foot: project(p.at[0], p.at[1], 0) })).sort((a, b) => b.on.depth - a.on.depth)
    .forEach(({ t, on, foot }) => {
      if (FRONT.has(t.number)) svg(root, "line", { x1: on.x, y1: on.y, x2: foot.x, y2: foot.y, class: "grid" });
      dot(root, t, on.x, on.y);
    });
}
{
  const root = byId("plot3");
  let from = null;
  root.addEventListener("pointerdown", (e) => { from = [e.clientX, e.clientY]; });
  addEventListener("pointerup", () => { from = null; });
  root.addEventListener("pointermove", (e) => {
    if (!from) return;
    view.yaw -= (e.clientX - from[0]) / 160;
    view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch + (e.clientY - from[1]) / 160));
    from = [e.clientX, e.clientY];
    draw3();
  });
}
function drawHistory() {
  const root = byId("history"), name = pickH();
  root.replaceChildren();
  const x = scaleOf("number"), y = scaleOf(name), { px, py } = axes(root, inset(x), inset(y), "trial", arrow(name));
  const goal = D.objectives.find((o) => o.metric === name), trials = having(name);
  if (goal) {
    let best = null, path = "";
    for (const t of [...trials].sort((a, b) => a.number - b.number)) {
      if (t.state !== "succeeded" || !t.feasible) continue;
      const v = valueOf(t, name), X = px(x.at(t.number));
      const better = best === null || (goal.direction === "maximize" ? v > best : v < best);
      if (best === null) path = `M${X} ${py(y.at(v))}`; else path += `H${X}`;
      if (better) { best = v; path += `V${py(y.at(v))}`; }
    }
    if (path) svg(root, "path", { d: path, class: "best" });
  }
  const place = (t) => `${px(x.at(t.number))} ${py(y.at(valueOf(t, name)))}`;
  for (const t of trials) { // of a population: whose weights it goes on from
    const parent = trials.find((other) => other.number === t.parent);
    if (parent) svg(root, "path", { d: `M${place(parent)}L${place(t)}`, class: "born" });
  }
  trials.forEach((t) => dot(root, t, px(x.at(t.number)), py(y.at(valueOf(t, name)))));
}
function drawImportance() {
  const root = byId("importance"), rows = D.importances[pickI()] ?? [], step = 34;
  root.replaceChildren();
  root.setAttribute("viewBox", `0 0 ${W} ${Math.max(120, rows.length * step + 30)}`);
  if (!rows.length) svg(root, "text", { x: W / 2, y: 60, "text-anchor": "middle" }, "too few trials to tell");
  rows.forEach(([name, share], i) => {
    const y = 14 + i * step;
    svg(root, "text", { x: 190, y: y + 15, "text-anchor": "end", class: "axis" }, name);
    svg(root, "rect", { x: 200, y, width: Math.max(1, share * (W - 270)), height: 20, rx: 4, class: "bar" });
    svg(root, "text", { x: 208 + share * (W - 270), y: y + 15 }, `${(100 * share).toFixed(0)} %`);
  });
}
function drawParallel() {
  const root = byId("parallel"), names = [...D.params, ...OBJECTIVES], width = 1180, top = 40, bottom = 320;
  root.setAttribute("viewBox", `0 0 ${width} 340`);
  const scales = names.map(scaleOf), gap = (width - 140) / Math.max(1, names.length - 1);
  const X = (i) => 60 + i * gap, Y = (u) => bottom - u * (bottom - top);
  drawn(D.trials.filter((t) => OBJECTIVES.every((n) => n in t.metrics))).forEach((t) => {
    let path = "", pen = false;
    names.forEach((n, i) => {
      const v = valueOf(t, n);
      if (v === undefined || v === null) { pen = false; return; } // a dimension that does not exist there
      path += `${pen ? "L" : "M"}${X(i)} ${Y(scales[i].at(v))}`;
      pen = true;
    });
    pointAt(svg(root, "path", { d: path, class: `way ${kindOf(t)}` }), t);
  });
  names.forEach((n, i) => {
    svg(root, "line", { x1: X(i), x2: X(i), y1: top, y2: bottom, class: "frame" });
    svg(root, "text", { x: X(i), y: 18, "text-anchor": "middle", class: "axis" }, arrow(n));
    for (const [at, label] of scales[i].ticks) svg(root, "text", { x: X(i) + 6, y: Y(at) + 4 }, label);
  });
}

// --- the table ---------------------------------------------------------------------------------------
const POPULATED = D.trials.some((t) => t.member !== null);
const COLUMNS = [
  ["trial", (t) => t.number], ["state", (t) => t.state],
  ...(POPULATED ? [["member", (t) => t.member], ["from", (t) => t.parent]] : []),
  ...OBJECTIVES.map((n) => [n, (t) => t.metrics[n]]), ...D.params.map((n) => [n, (t) => t.params[n]]),
  ["seconds", (t) => (t.ended_at && t.started_at ? Math.round(10 * (t.ended_at - t.started_at)) / 10 : undefined)],
  ["attempts", (t) => t.attempts], ["message", (t) => t.message || undefined],
];
let sortedBy = 0, rising = true;
function compare(a, b) {
  const none = (v) => v === undefined || v === null;
  if (none(a) || none(b)) return none(a) - none(b); // absent values stay last
  const way = rising ? 1 : -1;
  return way * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
}
function fillTable() {
  const body = document.querySelector("#trials tbody"), value = COLUMNS[sortedBy][1];
  const wanted = byId("filter").value.toLowerCase();
  body.replaceChildren();
  const none = (v) => v === undefined || v === null;
  for (const t of [...D.trials].sort((a, b) => (none(value(a)) || none(value(b)) ? none(value(a)) - none(value(b)) : compare(value(a), value(b))) || a.number - b.number)) {
    const row = html(body, "tr");
    row.id = `trial-${t.number}`;
    row.dataset.trial = t.number;
    COLUMNS.forEach(([name, get], i) => {
      const cell = html(row, "td", i ? show(get(t)) : undefined, name === "message" ? "message" : "");
      if (name === "message") cell.title = t.message;
      if (i) return;
      if (t.href) { const link = html(cell, "a", String(t.number)); link.href = t.href; link.title = "the run folder"; }
      else cell.textContent = t.number;
      const kind = kindOf(t);
      if (ORDER[kind] > 1) html(cell, "span", kind, `badge ${kind}`);
    });
    row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
    row.addEventListener("pointerenter", () => light(t.number, true));
    row.addEventListener("pointerleave", () => light(t.number, false));
  }
}
function makeHead() {
  const head = html(document.querySelector("#trials thead"), "tr");
  COLUMNS.forEach(([name], i) => {
    const cell = html(head, "th", arrow(name));
    cell.scope = "col";
    cell.addEventListener("click", () => {
      rising = sortedBy === i ? !rising : true;
      sortedBy = i;
      [...head.children].forEach((c, j) => (j === i ? c.setAttribute("aria-sort", rising ? "ascending" : "descending") : c.removeAttribute("aria-sort")));
      fillTable();
    });
  });
  head.children[0].setAttribute("aria-sort", "ascending");
}

// --- the page ----------------------------------------------------------------------------------------
byId("title").textContent = D.study;
byId("lead").textContent = D.objectives.map((o) => `${o.metric} ${o.direction === "maximize" ? "↑" : "↓"}${o.bound === null ? "" : ` (bound ${show(o.bound)})`}`).join(" · ");
const counts = {};
D.trials.forEach((t) => { counts[t.state] = (counts[t.state] ?? 0) + 1; });
const chosen = D.trials.find((t) => t.number === D.chosen);
[[D.trials.length, "trials"], ...Object.entries(counts).map(([s, n]) => [n, s]), [D.front.length, "on the front"],
  ...(chosen ? OBJECTIVES.map((n) => [show(chosen.metrics[n]), `${n} of the chosen trial ${chosen.number}`]) : [])]
  .forEach(([value, label]) => { const t = html(byId("tiles"), "div", undefined, "tile"); html(t, "b", String(value)); html(t, "span", label); });
[["chosen", "chosen"], ["knee", "knee"], ["front", "front"], ["rest", "dominated"], ["bad", "pruned, failed or not feasible"]].forEach(([kind, label]) => {
  const item = html(byId("legend"), "span");
  html(item, "i").style.background = `var(--${kind})`;
  item.append(label);
});
byId("foot").textContent = "Importance: share of the variance of a metric that one parameter explains by itself (ε²). Drag the cube to turn it. A row's number leads to its run folder.";
draw2(); draw3(); drawHistory(); drawImportance(); drawParallel(); makeHead(); fillTable();
byId("filter").addEventListener("input", fillTable);
