// Where each node of the tree goes. Pure: nodes in, items with places out.
//
//   x in pixels at zoom 1, from the root to the right; row in rows from the top, its middle.
//
// Siblings stand in order of the oldest node at or below them, so that a node that is split, and everything
// that is not concerned, stays where it was. Where there are more leaves than rows, siblings that were not
// used for longest are folded into one item ("more"), which can be opened.

const GAP = 26;
const ROOT_WIDTH = 14;
const MORE_WIDTH = 96;

// Wide enough for the number, and growing with its logarithm: 1 token to 100,000 fit one picture.
export function width(tokens) {
  return Math.round(32 + 16 * Math.log2(1 + tokens));
}

export function childrenOf(nodes) {
  const known = new Set(nodes.map((node) => node.id));
  const children = new Map([[null, []]]);
  for (const node of nodes) children.set(node.id, []);
  for (const node of nodes) children.get(known.has(node.parent) ? node.parent : null).push(node);
  const oldest = new Map();
  const find = (node) => {
    // A tail (id below 0) becomes a new node one day: it stands last, as that will.
    let least = node.id < 0 ? Infinity : node.id;
    for (const child of children.get(node.id)) least = Math.min(least, find(child));
    oldest.set(node.id, least);
    return least;
  };
  for (const root of children.get(null)) find(root);
  for (const list of children.values()) {
    list.sort((a, b) => oldest.get(a.id) - oldest.get(b.id) || b.id - a.id);
  }
  return children;
}

// Which nodes are shown in at most `rows` rows: those in use first, then those used last. Ghosts (what was
// just evicted) stay where they were seen.
function chosen(nodes, children, rows, opened) {
  const ghosts = nodes.filter((node) => node.ghost);
  const room = rows - ghosts.length;
  const order = nodes.filter((node) => !node.ghost).sort(
    (a, b) => (b.pins > 0) - (a.pins > 0) || a.age_s - b.age_s || a.depth - b.depth || a.id - b.id,
  );
  const shown = new Set();
  const height = (node) => {
    let sum = 0;
    let folded = 0;
    for (const child of children.get(node === null ? null : node.id)) {
      if (shown.has(child.id)) sum += height(child);
      else folded = 1;
    }
    return node === null ? sum + folded : Math.max(1, sum + folded);
  };
  for (const node of order) {
    if (node.parent !== null && !shown.has(node.parent)) continue;
    shown.add(node.id);
    if (node.parent !== null && !opened.has(node.parent) && height(null) > room) shown.delete(node.id);
  }
  ghosts.sort((a, b) => a.depth - b.depth); // a ghost may hang on another one
  for (const ghost of ghosts) if (shown.has(ghost.parent)) shown.add(ghost.id);
  return shown;
}

// nodes: as /live sends them. rows: how many there is room for (Infinity: all). opened: ids whose children
// are all shown. Returns { items, rows, width }; an item is { id, kind: "root" | "node" | "more", parent,
// x, w, row, leaf, node }; one of kind "more" stands for the nodes `inside` it, with so many `tokens`, and
// its `node` is their parent.
export function layout(nodes, rows = Infinity, opened = new Set()) {
  const children = childrenOf(nodes);
  const shown = rows >= nodes.length ? null : chosen(nodes, children, rows, opened);
  const items = [];
  let next = 0;
  let widest = 0;

  const all = (node) => [node, ...children.get(node.id).flatMap(all)];

  const place = (node, parent) => {
    const root = node.tokens === 0 && node.parent === null;
    const x = parent ? parent.x + parent.w + GAP : 0;
    const w = root ? ROOT_WIDTH : width(node.tokens);
    const item = { id: `n${node.id}`, kind: root ? "root" : "node", parent, x, w, row: 0, leaf: true, node };
    items.push(item);
    widest = Math.max(widest, x + w);
    const first = next;
    const folded = [];
    const below = [];
    for (const child of children.get(node.id)) {
      if (shown && !shown.has(child.id)) {
        if (!child.ghost) folded.push(child);
      } else below.push(place(child, item));
    }
    if (folded.length) below.push(more(node, item, folded));
    item.leaf = !below.length;
    if (next === first) item.row = next++ + 0.5;
    else item.row = (below[0].row + below[below.length - 1].row) / 2;
    return item;
  };

  const more = (node, parent, folded) => {
    const inside = folded.flatMap(all);
    const item = {
      id: `more${node.id}`,
      kind: "more",
      parent,
      x: parent.x + parent.w + GAP,
      w: MORE_WIDTH,
      row: next++ + 0.5,
      leaf: true,
      node,
      inside,
      tokens: inside.reduce((sum, one) => sum + one.tokens, 0),
    };
    items.push(item);
    widest = Math.max(widest, item.x + item.w);
    return item;
  };

  for (const root of children.get(null)) place(root, null);
  return { items, rows: next, width: widest };
}
