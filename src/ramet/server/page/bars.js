// How one item of the tree looks: a bar with its number and text, and the link to its parent.

import { FONT, count } from "./text.js";

export const BAR = 24; // pixels: height of a bar where there is room
const LETTERS = 11.5; // pixels: size of text in bars

// [fill, edge, text] of an item's bar.
function look(item, { colour, tenant, soon }) {
  const { node } = item;
  if (item.kind === "more") {
    const some = (test) => item.inside.some(test);
    const edge = some((one) => one.pins > 0) ? "used" : some((one) => soon.has(one.id)) ? "old" : "cached";
    return [colour("panel"), colour(`${edge}-edge`), colour("dim")];
  }
  if (item.kind === "root") return [tenant(node.salt), tenant(node.salt), colour("text")];
  if (node.ghost) return [colour("panel"), colour("gone"), colour("gone")];
  if (node.pins > 0) return [colour("used"), colour("used-edge"), colour("used-text")];
  if (soon.has(node.id)) return [colour("old"), colour("old-edge"), colour("old-text")];
  return [colour("cached"), colour("cached-edge"), colour("cached-text")];
}

function words(item, width) {
  if (item.kind === "root") return "";
  if (item.kind === "node") return count(item.node.tokens);
  const long = `+${count(item.inside.length)} · ${count(item.tokens)}`;
  return long.length * 7 + 7 < width ? long : `+${count(item.inside.length)}`;
}

// What ECharts draws for an item. `scene`: { colour(name), tenant(mark), soon: ids of the nodes that would be
// evicted next, path: ids of the items that are lit }.
export function bar(item, scene, params, api) {
  const { colour, tenant } = scene;
  const [x, y] = api.coord([item.x, item.row]);
  const [w, pitch] = api.size([item.w, 1]);
  const h = Math.max(1.5, Math.min(BAR, pitch * 0.78));
  const lit = scene.path.has(item.id);
  const [fill, edge, ink] = look(item, scene);
  const dashed = item.kind === "more" || item.node.ghost;
  const children = [link(item, api, x, y, colour(lit ? "text" : "link"), lit)];
  if (item.kind === "root") {
    const r = Math.min(6, h / 2);
    children.push({
      type: "circle",
      shape: { cx: Math.max(r, w / 2), cy: 0, r },
      style: { fill, stroke: lit ? colour("text") : edge, lineWidth: lit ? 2 : 0 },
    });
  } else {
    children.push({
      type: "rect",
      shape: { x: 0, y: -h / 2, width: w, height: h, r: Math.min(5, h / 3) },
      style: {
        fill,
        stroke: lit ? colour("text") : edge,
        lineWidth: lit ? 2 : 1,
        lineDash: dashed ? [4, 3] : null,
      },
      transition: ["shape"],
    });
    if (item.node.salt && item.kind === "node") {
      children.push({
        type: "rect",
        shape: { x: 1, y: -h / 2 + 1, width: Math.min(4, w / 4), height: h - 2, r: Math.min(3, h / 4) },
        style: { fill: tenant(item.node.salt) },
        silent: true,
      });
    }
  }
  children.push(...letters(item, w, h, ink, colour("dim"), params.coordSys.x + params.coordSys.width - x));
  return {
    type: "group",
    x,
    y,
    scaleX: item.leaving ? 0 : 1,
    scaleY: item.leaving ? 0.4 : 1,
    transition: ["x", "y", "scaleX", "scaleY"],
    enterFrom: { scaleX: 0, scaleY: 0.4 },
    children,
  };
}

function link(item, api, x, y, stroke, lit) {
  const shape = { x1: 0, y1: 0, x2: 0, y2: 0, cpx1: 0, cpy1: 0, cpx2: 0, cpy2: 0 };
  if (item.parent) {
    const [px, py] = api.coord([item.parent.x + item.parent.w, item.parent.row]);
    const middle = (px - x) / 2;
    Object.assign(shape, {
      x1: px - x,
      y1: py - y,
      cpx1: middle,
      cpy1: py - y,
      cpx2: middle,
    });
  }
  return {
    type: "bezierCurve",
    shape,
    style: { stroke, lineWidth: lit ? 2 : 1.25, fill: "none" },
    silent: true,
    transition: ["shape"],
  };
}

// In the bar how many tokens, and what they say where there is room: in the bar of an inner node, behind
// that of a leaf, where nothing else is.
function letters(item, w, h, ink, dim, room) {
  const { node } = item;
  const size = Math.min(LETTERS, h - 2);
  const readable = h >= LETTERS + 2;
  const text = words(item, w);
  const inset = node.salt && item.kind === "node" ? 10 : 7;
  const used = inset + text.length * 7;
  const [x, most, fill] = item.leaf ? [w + 8, room - w - 8, dim] : [used + 6, w - used - 12, ink];
  const label = item.kind === "node" ? node.label : "";
  const piece = (shown, style, left) => ({
    type: "text",
    x: left,
    y: 0,
    style: { font: `${size}px ${FONT}`, verticalAlign: "middle", ...style },
    ignore: !shown, // children are told apart by their place, so there are always as many
    silent: true,
  });
  return [
    piece(readable && w >= used, { text, fill: ink, font: `600 ${size}px ${FONT}` }, inset),
    piece(
      readable && label && most >= 24,
      { text: label, fill, width: Math.min(most, 340), overflow: "truncate", ellipsis: "…" },
      x,
    ),
  ];
}
