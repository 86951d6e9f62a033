// What the picture of the tree says in words: a summary, an item's card, the legend of tenants.

import { at, count, el, plural, seconds } from "./text.js";

const TENANTS = 6; // colours that tell tenants apart
const LEGEND = 8; // tenants that it names

export function tenantTone(tenants, mark) {
  return `tenant-${tenants.indexOf(mark) % TENANTS}`;
}

// "" for an empty tree.
export function summary(nodes, items, hidden) {
  const edges = nodes.filter((node) => node.tokens > 0);
  if (!edges.length) return "";
  const tokens = edges.reduce((sum, node) => sum + node.tokens, 0);
  const used = edges.filter((node) => node.pins > 0).length;
  const folded = items.reduce((sum, item) => sum + (item.inside?.length ?? 0), 0);
  const parts = [plural(edges.length, "node"), plural(tokens, "token"), `${count(used)} in use`];
  if (folded) parts.push(`${count(folded)} folded`);
  if (hidden.nodes) parts.push(`${count(hidden.nodes)} older not shown`);
  return parts.join(" · ");
}

// A title, which may be empty, and facts.
export function lines(item, soon) {
  const { node } = item;
  if (item.kind === "more") {
    return ["", `${plural(item.inside.length, "node")} folded, ${plural(item.tokens, "token")}`, "Press to unfold"];
  }
  if (item.kind === "root") return [node.salt ? `Tenant ${node.salt}` : "Root", "Every prompt begins here"];
  const facts = [
    `${plural(node.tokens, "token")}, at ${count(node.depth)} to ${count(node.depth + node.tokens)}`,
  ];
  if (node.ghost) facts.push("Just evicted");
  else if (node.pins) facts.push(`In use by ${plural(node.pins, "request")}`);
  else facts.push(`Cached, last used ${seconds(node.age_s)} ago`);
  if (soon.has(node.id)) facts.push("Would be evicted next");
  if (node.computed < node.tokens && !node.ghost) facts.push(`${count(node.computed)} computed so far`);
  if (node.salt) facts.push(`Tenant ${node.salt}`);
  return [node.label, ...facts];
}

export function legend(tenants, nodes) {
  const here = new Set(nodes.map((node) => node.salt));
  const marks = tenants.filter((mark) => here.has(mark));
  const list = at("tree-tenants");
  if (list.dataset.marks === marks.join("\n")) return;
  list.dataset.marks = marks.join("\n");
  const entries = marks.slice(0, LEGEND).map((mark) => {
    const entry = el("li", "", `tenant ${mark}`);
    entry.prepend(el("i", tenantTone(tenants, mark)));
    return entry;
  });
  if (marks.length > LEGEND) entries.push(el("li", "", `and ${marks.length - LEGEND} more`));
  list.replaceChildren(...entries);
}
