// The radix tree as a picture that follows the server: ECharts draws, this file says what.
//
// The canvas is looked at; the card beside a node, the line above and the arrow keys say the same in text.

import { BAR, bar } from "./bars.js";
import { ghosts, nextToGo } from "./eviction.js";
import { layout } from "./layout.js";
import { at, calm, colours, dark, el, plural, say } from "./text.js";
import { legend, lines, summary, tenantTone } from "./tree_text.js";
import { makeView } from "./view.js";

const ROW = 36; // pixels, where there is room
const LEAST_ROW = 19; // pixels, before siblings are folded
const LABELS = 170; // pixels to the right of the tree, for the labels of its leaves
const CLOSER = 0.6; // of what is seen, with each press of +
const MOST_TENANTS = 60; // remembered by their colours

const box = at("tree");
const card = at("tree-card");
const evicted = ghosts();
let chart = null;
let colour = colours();
let last = { nodes: [], hidden: { nodes: 0, tokens: 0 }, version: null, at: 0 };
let slots = null;
let items = []; // as layout.js makes them
let drawn = []; // the same, and behind them what is just leaving
let byId = new Map();
let soon = new Set(); // ids of nodes that would be evicted next
let tenants = []; // marks, in order of appearance
let focus = null; // id of the item under the pointer, the finger or the keyboard
let path = new Set(); // ids of the items from the root to it
let opened = new Set();
let all = false;
let moving = false; // the next drawing is animated
let view = null;
let extent = { x: [0, 1], y: [0, 1] }; // of the whole picture, in units of the layout

export function start() {
  chart = window.echarts.init(box, null, { renderer: "canvas" });
  chart.setOption({
    animationEasingUpdate: "cubicOut",
    grid: { left: 12, right: 12, top: 8, bottom: 8 },
    xAxis: { type: "value", show: false, min: 0, max: 1 },
    yAxis: { type: "value", show: false, min: 0, max: 1, inverse: true },
    series: [
      {
        id: "tree",
        type: "custom",
        renderItem: (params, api) => drawn[params.dataIndex] && bar(drawn[params.dataIndex], scene(), params, api),
        clip: true,
        data: [],
        animationDurationUpdate: () => (moving && !calm.matches ? 450 : 0),
        animationDuration: () => (moving && !calm.matches ? 450 : 0),
      },
    ],
  });
  chart.on("mouseover", (event) => point(drawn[event.dataIndex]?.id ?? null));
  chart.on("globalout", () => point(null));
  chart.on("click", (event) => press(drawn[event.dataIndex]));
  chart.getZr().on("mousemove", (event) => event.target || point(null));
  chart.getZr().on("click", (event) => event.target || point(null));
  box.addEventListener("keydown", key);
  box.addEventListener("blur", () => point(null));
  view = makeView(box, () => {
    chart.setOption(axes());
    placeCard();
  });
  at("tree-in").addEventListener("click", () => zoom(CLOSER));
  at("tree-out").addEventListener("click", () => zoom(1 / CLOSER));
  at("tree-fit").addEventListener("click", view.fit);
  at("tree-all").addEventListener("click", () => {
    all = !all;
    opened = new Set();
    at("tree-all").setAttribute("aria-pressed", String(all));
    view.fit();
    draw(true);
  });
  new ResizeObserver(() => {
    chart.resize();
    draw(false);
  }).observe(box);
  dark.addEventListener("change", () => {
    colour = colours();
    draw(false);
  });
  setInterval(() => {
    if (document.hidden) return;
    // What went away, and the age on the card.
    if (focus !== null || drawn.some((item) => item.leaving || item.node.ghost)) draw(true);
  }, 1000);
}

// Another server, or the same one after a restart: nothing that was shown is there any more.
export function forget() {
  evicted.clear();
  opened = new Set();
  focus = null;
  last = { nodes: [], hidden: { nodes: 0, tokens: 0 }, version: null, at: 0 };
}

export function setSlots(now) {
  slots = now;
}

export function update(tree) {
  const hiddenGrew = tree.hidden.nodes > last.hidden.nodes;
  const before = new Set(last.nodes.map((node) => node.id));
  const known = last.version !== null;
  const gone = evicted.note(last.nodes, tree.nodes, (id) => byId.has(`n${id}`), hiddenGrew);
  const come = tree.nodes.filter((node) => !before.has(node.id) && node.tokens > 0).length;
  last = { ...tree, at: performance.now() };
  if (known && gone.nodes) {
    say(at("tree-news"), `${plural(gone.nodes, "node")} evicted (${plural(gone.tokens, "token")})`);
  } else if (known && come) {
    say(at("tree-news"), `${plural(come, "new node")}`);
  }
  draw(true);
}

// -- drawing -----------------------------------------------------------------------------------------

function current() {
  const older = (performance.now() - last.at) / 1000;
  return last.nodes.map((node) => (node.pins ? node : { ...node, age_s: node.age_s + older }));
}

function draw(animated) {
  const nodes = current();
  const room = Math.max(80, box.clientHeight - 16);
  const wide = Math.max(120, box.clientWidth - 24);
  const found = layout(
    [...nodes, ...evicted.shown(nodes)],
    all ? Infinity : Math.floor(room / LEAST_ROW),
    opened,
  );
  leave(found.items);
  soon = nextToGo(nodes, slots, last.hidden.tokens);
  if (tenants.length > MOST_TENANTS) tenants = [];
  for (const node of nodes) if (node.salt && !tenants.includes(node.salt)) tenants.push(node.salt);
  findPath();
  const rows = Math.max(found.rows, room / ROW);
  const top = (rows - found.rows) / 2;
  moving = animated;
  extent = {
    x: [0, Math.max(found.width + Math.min(LABELS, wide / 4), wide)],
    y: [-top, rows - top],
  };
  chart.setOption({
    ...axes(),
    series: [
      { id: "tree", data: drawn.map((item) => ({ id: item.id, value: [item.x, item.row, item.w] })) },
    ],
  });
  moving = false;
  describe(nodes);
  placeCard();
}

function scene() {
  const tenant = (mark) => colour(mark ? tenantTone(tenants, mark) : "cached-edge");
  return { colour, tenant, soon, path };
}

function axes() {
  const seen = (axis) => {
    const [least, most] = extent[axis];
    const [min, max] = view.part[axis].map((part) => least + part * (most - least));
    return { min, max };
  };
  return { xAxis: seen("x"), yAxis: seen("y") };
}

// What is no longer there shrinks to nothing where it stood, and is dropped with the next drawing.
function leave(now) {
  const stay = new Set(now.map((item) => item.id));
  const gone = calm.matches ? [] : items.filter((item) => !stay.has(item.id));
  items = now;
  drawn = [...now, ...gone.map((item) => ({ ...item, leaving: true }))];
  byId = new Map(now.map((item) => [item.id, item]));
}

function findPath() {
  path = new Set();
  for (let item = byId.get(focus); item; item = item.parent) path.add(item.id);
  if (!path.size) focus = null;
}

// -- what it says in text ------------------------------------------------------------------------------

function describe(nodes) {
  const said = summary(nodes, items, last.hidden);
  say(at("tree-summary"), said);
  at("tree-empty").hidden = said !== "";
  box.dataset.nodes = String(nodes.length);
  box.dataset.shown = String(items.filter((item) => item.kind !== "more").length);
  box.dataset.hidden = String(last.hidden.nodes);
  box.dataset.version = String(last.version);
  box.setAttribute("aria-label", `The KV cache as a tree: ${said || "empty"}. Arrow keys walk through it.`);
  legend(tenants, nodes);
}

function placeCard() {
  const item = byId.get(focus);
  card.hidden = !item;
  if (!item) return;
  const [title, ...facts] = lines(item, soon);
  const parts = facts.map((fact) => el("p", "", fact));
  if (title) parts.unshift(el("p", "title", title));
  if (card.textContent !== [title, ...facts].join("")) card.replaceChildren(...parts);
  const [x, y] = chart.convertToPixel({ xAxisIndex: 0, yAxisIndex: 0 }, [item.x, item.row]);
  const left = Math.min(Math.max(4, x), box.clientWidth - card.offsetWidth - 4);
  const below = y + BAR / 2 + 6;
  const fits = below + card.offsetHeight < box.clientHeight;
  const top = fits ? below : Math.max(4, y - BAR / 2 - 6 - card.offsetHeight);
  card.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
}

// -- pointer, keys, zoom --------------------------------------------------------------------------------

function point(id) {
  if (id === focus) return;
  focus = id;
  findPath();
  chart.setOption({ series: [{ id: "tree" }] });
  placeCard();
}

function press(item) {
  if (!item) return;
  if (item.kind === "more") {
    opened.add(item.node.id);
    focus = null;
    draw(true);
  } else {
    point(item.id);
  }
}

function key(event) {
  const item = byId.get(focus);
  const below = (of) => items.filter((other) => other.parent === of);
  const beside = below(item?.parent ?? null);
  const place = beside.indexOf(item);
  const moves = {
    ArrowRight: () => item && below(item)[0],
    ArrowLeft: () => item?.parent,
    ArrowDown: () => beside[place + 1],
    ArrowUp: () => beside[place - 1],
  };
  if (event.key === "Escape") point(null);
  else if (event.key === "Enter" && item) press(item);
  else if (event.key === "+") zoom(CLOSER);
  else if (event.key === "-") zoom(1 / CLOSER);
  else if (event.key === "0") view.fit();
  else if (moves[event.key] && items.length) point((item ? moves[event.key]()?.id : items[0].id) ?? focus);
  else return;
  if (focus) view.reveal(whereabouts(byId.get(focus)));
  event.preventDefault();
}

// Around the item in focus, or the middle.
function zoom(factor) {
  view.zoom(factor, focus ? whereabouts(byId.get(focus)) : null);
}

// An item's place in the whole picture, as shares of it.
function whereabouts(item) {
  const part = ([least, most], value) => (value - least) / (most - least);
  return { x: part(extent.x, item.x + item.w / 2), y: part(extent.y, item.row) };
}
