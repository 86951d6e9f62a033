// Which nodes would be evicted next, and which ones just were. Pure.

import { childrenOf } from "./layout.js";

const SCARCE = 0.1; // of all slots: with fewer of them free, the oldest leaves are shown as next to go
const GHOST_MS = 2_500;

// Ids of the nodes that would be evicted until a tenth of the slots were free: what nobody uses, longest
// unused first, children before parents. Hidden nodes are older than shown ones and go before them.
export function nextToGo(nodes, slots, hiddenTokens) {
  const found = new Set();
  let need = (slots?.total ?? 0) * SCARCE - (slots?.free ?? 0) - hiddenTokens;
  if (!slots?.total || need <= 0) return found;
  const idle = nodes.filter((node) => node.pins === 0 && node.tokens > 0 && !node.ghost);
  idle.sort((a, b) => b.age_s - a.age_s || b.depth - a.depth || a.id - b.id);
  for (const node of idle) {
    if (need <= 0) break;
    found.add(node.id);
    need -= node.tokens;
  }
  return found;
}

// Keeps what was evicted in the picture for a moment. `note` takes two lists of nodes as they came and says
// how many { nodes, tokens } went; of those, `seen` ones become ghosts.
export function ghosts() {
  let kept = []; // { node, until }
  return {
    note(before, after, seen, hiddenGrew, now = performance.now()) {
      const here = new Set(after.map((node) => node.id));
      const below = childrenOf(before);
      // A node that only moved into another one has a child that is still here; a tail (id below 0) of a
      // running request moved into the tree.
      const went = (node) => node.id >= 0 && !here.has(node.id) && below.get(node.id).every(went);
      const gone = before.filter((node) => node.tokens > 0 && went(node));
      const evicted = hiddenGrew ? [] : gone.filter((node) => node.pins === 0);
      for (const node of evicted) {
        if (seen(node.id)) kept.push({ node: { ...node, ghost: true }, until: now + GHOST_MS });
      }
      return {
        nodes: evicted.length,
        tokens: evicted.reduce((sum, node) => sum + node.tokens, 0),
      };
    },
    // Those still to be shown below what is there.
    shown(nodes, now = performance.now()) {
      const here = new Set(nodes.map((node) => node.id));
      kept = kept.filter((ghost) => ghost.until > now && !here.has(ghost.node.id));
      for (const { node } of [...kept].sort((a, b) => a.node.depth - b.node.depth)) {
        if (here.has(node.parent)) here.add(node.id);
      }
      return kept.map((ghost) => ghost.node).filter((node) => here.has(node.id));
    },
    clear() {
      kept = [];
    },
  };
}
