
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const ROW = 26, AXIS = 24;
  const at = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  // Whatever comes from the run goes through these two, as text and as attributes that hold no code.
  function el(tag, attributes, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }
  function svg(tag, attributes, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
  }
  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    for (const child of children) if (child !== null && child !== undefined) node.append(child);
    return node;
  }

  const count = (n) => (n === undefined || n === null ? "?" : n.toLocaleString("en-US"));
  const percent = (part) => `${Math.round(part * 100)}%`;
  function time(s) {
    if (s >= 100) return `${Math.round(s)} s`;
    if (s >= 1) return `${s.toFixed(2)} s`;
    if (s >= 0.01) return `${Math.round(s * 1000)} ms`;
    return s === 0 ? "0" : `${(s * 1000).toPrecision(2)} ms`;
  }
  const shortLine = (line) => (line || "").split(/[\\/]/).slice(-1)[0];
  const money = (c) => (c === 0 ? "0" : c.toPrecision(3));

  // Every call knows its run and branch; all that shows it is lit together.
  const calls = [];
  const same = new Map();
  for (const run of data.runs) same.set(run.program, (same.get(run.program) || 0) + 1);
  const seen = new Map();
  for (const run of data.runs) {
    const number = (seen.get(run.program) || 0) + 1;
    seen.set(run.program, number);
    run.title = same.get(run.program) > 1 ? `${run.program} ${number}` : run.program;
    run.byPath = new Map(run.branches.map((branch) => [branch.path, branch]));
    for (const branch of run.branches) {
      for (const call of branch.calls) {
        Object.assign(call, { run, inBranch: branch, at: run.at + call.started, shown: [] });
        calls.push(call);
      }
    }
  }
  calls.sort((a, b) => a.at - b.at);
  calls.forEach((call, index) => { call.index = index + 1; });
  const mostTokens = Math.max(1, ...calls.map((c) => tokens(c).reduce((sum, [, n]) => sum + n, 0)));
  const end = Math.max(1e-6, ...data.runs.map((run) => run.at + run.seconds));

  function tokens(call) {
    const cached = call.cached_tokens || 0, forced = call.forced_tokens || 0;
    const rest = call.cached_tokens === undefined ? "prompt" : "computed";  // nobody told which
    return [
      ["cached", cached],
      [rest, Math.max((call.prompt_tokens || 0) - cached, 0)],
      ["forced", forced],
      ["generated", Math.max((call.completion_tokens || 0) - forced, 0)],
    ];
  }
  const title = (call) => call.name || call.kind;
  const KINDS = { select: "chosen", tool: "tool" };
  const colour = (call) => (call.error ? "failed" : KINDS[call.kind] || "generated");

  function meter(call, most) {
    const node = el("div", { class: "meter" });
    const all = tokens(call);
    const sum = all.reduce((total, [, n]) => total + n, 0);
    if (most) node.style.width = `${Math.max(sum / most * 100, 1)}%`;
    for (const [name, n] of all) {
      if (!n) continue;
      const part = el("i", { class: `f-${name}`, title: `${count(n)} ${name}` });
      part.style.width = `${n / sum * 100}%`;
      node.append(part);
    }
    return node;
  }

  function state(call) {
    const said = [];
    if (call.error) said.push(call.error);
    if (call.incomplete) said.push("incomplete");
    if (call.retries) said.push(`${call.retries} ${call.retries === 1 ? "retry" : "retries"}`);
    if (!call.error && call.finish_reason) said.push(call.finish_reason);
    return said.join(", ");
  }

  // Head

  function head() {
    at("title").textContent = data.title || "no runs";
    const models = [...new Set(data.runs.map((run) => run.model))];
    const when = data.wall ? new Date(data.wall * 1000).toISOString().slice(0, 19).replace("T", " ") + " UTC" : "";
    const many = data.runs.length > 1 ? `${data.runs.length} runs` : "";
    const texts = data.has_texts ? "with texts: treat as private" : "texts left out";
    at("about").textContent = [models.join(", "), many, when, texts].filter(Boolean).join(" · ");
    const t = data.totals;
    const box = (value, name, bad) =>
      at("totals").append(el("li", { class: bad && "bad" }, el("b", {}, value), el("span", {}, name)));
    box(time(end), "wall time");
    box(count(t.calls), t.calls === 1 ? "call" : "calls");
    if (t.tools) box(count(t.tools), "of them tools");
    if (t.failed) box(count(t.failed), "failed", true);
    if (t.incomplete) box(count(t.incomplete), "incomplete", true);
    if (t.retries) box(count(t.retries), "retries");
    if (t.prompt_tokens !== undefined) box(count(t.prompt_tokens), "prompt tokens");
    if (t.cached_tokens !== undefined && t.prompt_tokens) {
      box(`${count(t.cached_tokens)} (${percent(t.cached_tokens / t.prompt_tokens)})`, "of them cached");
    }
    if (t.completion_tokens !== undefined) box(count(t.completion_tokens), "generated");
    if (t.forced_tokens) box(count(t.forced_tokens), "of them forced");
    if (t.drafted_tokens) box(`${count(t.accepted_tokens)} / ${count(t.drafted_tokens)}`, "drafts right");
    if (t.cost !== undefined) box(money(t.cost), "cost");
    const words = {
      cached: "prompt from the cache", computed: "prompt computed", prompt: "prompt", forced: "forced", generated: "generated",
      chosen: "select", tool: "tool", wait: "until the first token", failed: "failed",
    };
    const used = new Set(calls.flatMap((c) => tokens(c).filter(([, n]) => n).map(([name]) => name)));
    for (const call of calls) {
      used.add(colour(call));
      if (call.first_token_seconds) used.add("wait");
    }
    for (const [name, word] of Object.entries(words)) {
      if (used.has(name)) at("legend").append(el("span", {}, el("i", { class: `f-${name}` }), word));
    }
    if (calls.some((c) => c.prompt_tokens)) at("legend").append(el("span", {}, "(strip under a call: its tokens)"));
  }

  // Timeline

  let zoom = 1;
  function timeline() {
    const rows = [];
    const several = data.runs.length > 1;
    for (const run of data.runs) {
      for (const branch of run.branches) {
        for (let row = 0; row < branch.lanes; row++) rows.push({ run, branch, row });
      }
    }
    const names = el("div", { class: "names" }, el("div", { class: "axis" }));
    for (const { run, branch, row } of rows) {
      if (row) {
        names.append(el("div", {}));
        continue;
      }
      const root = branch.parent === null || branch.parent === undefined;
      const said = root ? run.title : branch.path;
      const label = el("div", { class: (root ? "run" : "") + (branch.error ? " bad" : ""), title: said }, said);
      const depth = branch.path.split(".").length - 1 + (several ? run.depth : 0);
      label.style.paddingLeft = `${8 + Math.min(depth, 6) * 8}px`;
      names.append(label);
    }
    const lanes = el("div", { class: "lanes" });
    at("timeline").replaceChildren(names, lanes);
    const width = Math.max(lanes.clientWidth, 120) * zoom;
    const height = AXIS + rows.length * ROW + 4;
    const x = (s) => 6 + s / end * (width - 16);
    const picture = svg("svg", { width, height, role: "group", "aria-label": "Timeline of calls" });
    axis(picture, x, width, height);
    const lane = new Map();
    rows.forEach(({ branch, row }, index) => { if (!row) lane.set(branch, AXIS + index * ROW); });
    for (const { run, branch, row } of rows) if (!row) life(picture, x, lane, run, branch);
    for (const [branch, top] of lane) {
      for (const call of branch.calls) box(picture, x, top + call.lane * ROW, call);
    }
    lanes.append(picture);
  }

  function axis(picture, x, width, height) {
    const rough = end / Math.max(width / 90, 1);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    for (let i = 0; i * step <= end; i++) {
      const s = i * step;
      picture.append(svg("line", { class: "tick", x1: x(s), x2: x(s), y1: AXIS - 6, y2: height }));
      const label = step >= 1 ? `${s} s` : end < 1 ? `${+(s * 1000).toPrecision(6)} ms` : `${+s.toPrecision(6)} s`;
      const edge = x(s) > width - 40 ? "end" : i ? "middle" : "start";
      picture.append(svg("text", { x: x(s), y: 13, "text-anchor": edge }, label));
    }
  }

  function life(picture, x, lane, run, branch) {
    const y = lane.get(branch) + ROW / 2;
    const begin = x(run.at + branch.start), last = x(run.at + branch.end);
    picture.append(svg("line", { class: "life", x1: begin, x2: Math.max(last, begin + 1), y1: y, y2: y }));
    const parent = run.byPath.get(branch.parent);
    if (parent) {
      const above = lane.get(parent) + ROW / 2;
      picture.append(svg("path", { class: "flow", d: `M${begin} ${above}V${y}` }));
      if (branch.joined !== null && branch.joined !== undefined) {
        const joined = x(run.at + branch.joined);
        picture.append(svg("path", { class: "flow", "stroke-dasharray": "3 3", d: `M${last} ${y}H${joined}V${above}` }));
      }
    }
    if (branch.error) {
      const c = Math.min(x(run.at + branch.failed) + 6, x(end) + 4);
      picture.append(svg("path", { class: "cross", d: `M${c - 4} ${y - 4}l8 8m0 -8l-8 8` }));
    }
  }

  function box(picture, x, top, call) {
    const left = x(call.at), right = Math.max(x(call.at + call.seconds), left + 2);
    const kind = colour(call);
    const group = svg("g", { class: "call", tabindex: 0, role: "button", "aria-label": `${title(call)}, ${time(call.seconds)}` });
    const rect = (cls, from, to, y, h, rx) =>
      svg("rect", { class: cls, x: from, y: top + y, width: Math.max(to - from, 0.5), height: h, rx });
    const first = call.first_token_seconds && !call.error ? x(call.at + Math.min(call.first_token_seconds, call.seconds)) : left;
    group.append(rect(`box f-${kind}`, left, right, 3, ROW - 6, 3));
    if (first - left > 1) group.append(rect(kind === "chosen" ? "f-chosen-wait" : "f-wait", left, first, 3, ROW - 6, 2));
    const sum = tokens(call).reduce((total, [, n]) => total + n, 0);
    let from = left + 1;
    for (const [name, n] of sum && right - left > 8 ? tokens(call) : []) {
      const to = from + (right - left - 2) * n / sum;
      if (n) group.append(rect(`f-${name}`, from, to, ROW - 7, 4, 0));
      from = to;
    }
    const room = right - left - 8;
    if (room > 14) {
      const text = title(call), fits = Math.floor(room / 6.3);
      const label = text.length <= fits ? text : fits > 3 ? `${text.slice(0, fits - 1)}…` : "";
      group.append(svg("text", { x: left + 4, y: top + 14 }, label));
    }
    link(group, call);
    picture.append(group);
  }

  // Branches

  function tree() {
    const root = at("tree");
    for (const run of data.runs) {
      const nodes = new Map();
      for (const branch of run.branches) {
        const node = branchNode(run, branch, run.branches.length);
        nodes.set(branch.path, node);
        const parent = nodes.get(branch.parent);
        (parent ? parent.querySelector(":scope > .kids") : root).append(node);
        if (!parent && run.depth) node.style.marginLeft = `${run.depth * 14}px`;
      }
      if (run.left_out) root.append(el("p", { class: "note" }, `${count(run.left_out)} more nested runs were left out`));
    }
  }

  function branchNode(run, branch, siblings) {
    const rootBranch = branch.parent === null || branch.parent === undefined;
    const told = branch.calls.length === 1 ? "1 call" : `${branch.calls.length} calls`;
    const facts = [told, time(branch.end - branch.start), branch.line ? `forked at ${shortLine(branch.line)}` : ""];
    const summary = el("summary", {},
      el("b", {}, rootBranch ? run.title : branch.path), " ",
      el("span", { class: "dim" }, facts.filter(Boolean).join(" · ")));
    if (!run.finished && rootBranch) summary.append(el("span", { class: "dim" }, " · not finished"));
    if (branch.error) summary.append(" ", el("span", { class: "bad" }, branch.text ? "failed" : `failed: ${branch.error}`));
    const node = el("details", { open: data.runs.length <= 20 && siblings <= 80 ? "" : false }, summary);
    if (branch.text) node.append(writing(branch));
    if (branch.text && branch.error) node.append(el("p", { class: "bad said" }, branch.error));
    for (const call of branch.calls) node.append(callRow(call));
    node.append(el("div", { class: "kids" }));
    return node;
  }

  function writing(branch) {
    const page = el("pre", {});
    const byNumber = new Map(branch.calls.map((call) => [call.number, call]));
    for (const [style, name, number, text] of branch.text) {
      const span = el("span", { class: style, title: name }, text);
      const call = number === null ? undefined : byNumber.get(number);
      if (call) {
        link(span, call);
        call.text = (call.text || "") + text;
      }
      page.append(span);
    }
    if (!branch.text.length) page.append(el("span", { class: "role" }, "(nothing written)"));
    return page;
  }

  function callRow(call) {
    const row = el("div", { class: "row", tabindex: 0, role: "button" },
      el("span", { class: `name${call.error ? " bad" : ""}` }, title(call)),
      call.prompt_tokens ? meter(call, mostTokens) : el("span", {}),
      el("span", { class: "num" }, call.error && !call.prompt_tokens ? call.error.slice(0, 40) : call.kind === "tool" ? time(call.seconds) : numbers(call)));
    link(row, call);
    return row;
  }
  function numbers(call) {
    const share = call.prompt_tokens && call.cached_tokens !== undefined ? ` (${percent(call.cached_tokens / call.prompt_tokens)} cached)` : "";
    return `${count(call.prompt_tokens)}${share} → ${count(call.completion_tokens)}`;
  }

  // Table

  const tokenCount = (call, n) => (call.kind === "tool" ? "" : count(n));
  const COLUMNS = [
    ["#", (c) => c.index, (c) => c.index],
    ["variable", title, title, "left"],
    ["run", (c) => c.run.title, (c) => c.run.title, "left"],
    ["branch", (c) => c.branch, (c) => c.branch, "left"],
    ["line", (c) => shortLine(c.line), (c) => c.line, "left"],
    ["start", (c) => time(c.at), (c) => c.at],
    ["time", (c) => time(c.seconds), (c) => c.seconds],
    ["first token", (c) => (c.first_token_seconds === undefined ? "" : time(c.first_token_seconds)), (c) => c.first_token_seconds || 0],
    ["prompt", (c) => tokenCount(c, c.prompt_tokens), (c) => c.prompt_tokens || 0],
    ["cached", (c) => tokenCount(c, c.cached_tokens), (c) => c.cached_tokens || 0],
    ["generated", (c) => tokenCount(c, c.completion_tokens), (c) => c.completion_tokens || 0],
    ["forced", (c) => count(c.forced_tokens || 0), (c) => c.forced_tokens || 0],
    ["drafted", (c) => count(c.drafted_tokens || 0), (c) => c.drafted_tokens || 0],
    ["cost", (c) => (c.cost === undefined ? "" : money(c.cost)), (c) => c.cost || 0],
    ["outcome", state, state, "left"],
  ];
  let sorted = 0, descending = false;
  function table() {
    const empty = { run: data.runs.length < 2, forced: !data.totals.forced_tokens, drafted: !data.totals.drafted_tokens,
      cost: data.totals.cost === undefined, "first token": !calls.some((c) => c.first_token_seconds) };
    const columns = COLUMNS.filter(([name]) => !empty[name]);
    const order = COLUMNS[sorted];
    const found = [...calls].sort((a, b) => {
      const [p, q] = [order[2](a), order[2](b)];
      return (p < q ? -1 : p > q ? 1 : a.index - b.index) * (descending ? -1 : 1);
    });
    const heading = el("tr", {});
    for (const column of columns) {
      const [name, , , side] = column;
      const mark = column === order ? (descending ? " ▾" : " ▴") : "";
      const button = el("button", { type: "button" }, name + mark);
      button.addEventListener("click", () => {
        descending = column === order ? !descending : false;
        sorted = COLUMNS.indexOf(column);
        table();
      });
      heading.append(el("th", { class: side, scope: "col" }, button));
    }
    const body = el("tbody", {});
    for (const call of found) {
      const row = el("tr", { tabindex: 0 });
      for (const [name, show, , side] of columns) {
        const bad = name === "outcome" && (call.error || call.incomplete) ? " bad" : "";
        row.append(el("td", { class: `${side || ""}${bad}${name === "outcome" ? " state" : ""}` }, String(show(call))));
      }
      link(row, call);
      body.append(row);
    }
    at("calls").replaceChildren(el("table", {}, el("thead", {}, heading), body));
    if (chosen) light(chosen, true);
  }

  // One call

  let chosen = null;
  function light(call, on) {
    call.shown = call.shown.filter((node) => node.isConnected);
    for (const node of call.shown) node.classList.toggle("on", on);
  }
  function link(node, call) {
    call.shown.push(node);
    const choose = () => {
      if (chosen) light(chosen, false);
      chosen = call;
      light(call, true);
      details(call);
    };
    node.addEventListener("click", (event) => { event.stopPropagation(); choose(); });
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); }
    });
    node.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") tip(event, call); });
    node.addEventListener("pointerleave", () => { at("tip").hidden = true; });
  }

  function tip(event, call) {
    const box = at("tip");
    const lines = [`${title(call)} · ${time(call.seconds)}`, call.kind === "tool" ? "" : `${numbers(call)} tokens`, state(call)];
    box.textContent = lines.filter(Boolean).join("\n");
    box.hidden = false;
    const x = Math.min(event.clientX + 14, window.innerWidth - box.offsetWidth - 8);
    const below = event.clientY + 18;
    box.style.left = `${Math.max(x, 4)}px`;
    box.style.top = `${below + box.offsetHeight > window.innerHeight ? event.clientY - box.offsetHeight - 10 : below}px`;
  }

  function details(call) {
    const list = el("dl", {});
    const add = (name, value, bad, whole) => {
      if (value === undefined || value === null || value === "") return;
      list.append(el("dt", {}, name), el("dd", { class: bad && "bad", title: whole }, String(value)));
    };
    add("kind", call.kind + (call.samples > 1 ? ` × ${call.samples}` : ""));
    add("run", `${call.run.title} (${call.run.id})`);
    add("branch", call.branch);
    add("line", shortLine(call.line), false, call.line);
    add("start", time(call.at));
    add("time", time(call.seconds));
    add("first token", call.first_token_seconds === undefined ? "" : `after ${time(call.first_token_seconds)}`);
    add("prompt", call.prompt_tokens === undefined ? "" : `${count(call.prompt_tokens)} tokens`);
    add("cached", call.cached_tokens === undefined ? "" : `${count(call.cached_tokens)} tokens`);
    add("generated", call.completion_tokens === undefined ? "" : `${count(call.completion_tokens)} tokens`);
    add("forced", call.forced_tokens ? `${count(call.forced_tokens)} tokens` : "");
    add("drafted", call.drafted_tokens ? `${count(call.drafted_tokens)}, ${count(call.accepted_tokens)} right` : "");
    add("cost", call.cost === undefined ? "" : money(call.cost));
    add("finish", call.finish_reason);
    add("incomplete", call.incomplete ? "cut before its constraint was met" : "", true);
    add("retries", call.retries);
    add("error", call.error, true);
    if (call.error && !data.has_texts) add("", "the message is left out with the texts");
    const nodes = [el("h3", {}, title(call)), call.prompt_tokens ? meter(call, 0) : null, list].filter(Boolean);
    if (call.text) nodes.push(el("pre", {}, el("span", { class: colour(call) }, call.text)));
    at("details").replaceChildren(...nodes);
  }

  function redraw() {
    timeline();
    if (chosen) light(chosen, true);
  }
  function scale(factor) {
    zoom = factor ? Math.min(Math.max(zoom * factor, 1), 256) : 1;
    redraw();
  }
  head();
  tree();
  timeline();
  table();
  at("details").append(el("p", { class: "note" }, "Choose a call to see all that is known of it."));
  at("in").addEventListener("click", () => scale(2));
  at("out").addEventListener("click", () => scale(0.5));
  at("fit").addEventListener("click", () => scale(0));
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 100); });
})();
