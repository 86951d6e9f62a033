// The table of running requests, and the numbers beside the charts.

import { at, count, el, percent, plural, rate, say, seconds } from "./text.js";

const STATES = { waiting: "Waiting", prefill: "Prefill", decoding: "Decoding" };
const rows = new Map(); // request id -> its row's cells

export function showRequests(state) {
  const body = at("requests-body");
  const here = new Set(state.running.map((request) => request.id));
  for (const [id, row] of rows) {
    if (here.has(id)) continue;
    row.line.remove();
    rows.delete(id);
  }
  for (const request of state.running) {
    const row = rows.get(request.id) ?? newRow(request.id);
    say(row.kind, request.kind);
    say(row.state, STATES[request.state] ?? request.state);
    row.line.dataset.state = request.state;
    const known = request.state === "decoding";
    const share = known && request.prompt_tokens ? request.cached_tokens / request.prompt_tokens : null;
    say(row.prompt, count(request.prompt_tokens));
    say(row.cached, percent(share));
    row.meter.style.width = `${Math.round((share ?? 0) * 100)}%`;
    say(row.output, count(request.output_tokens));
    say(row.time, seconds(request.seconds));
  }
  const total = state.num_running + state.num_waiting;
  const more = total - state.running.length;
  say(at("requests-note"), more > 0 ? `and ${count(more)} more` : "");
  at("requests-empty").hidden = state.running.length > 0;
  say(at("requests-count"), total ? `${count(state.num_running)} running, ${count(state.num_waiting)} waiting` : "");
}

function newRow(id) {
  const line = el("tr");
  const cell = (className) => {
    const found = el("td", className);
    line.append(found);
    return found;
  };
  const name = el("th", "", id);
  name.scope = "row";
  line.append(name);
  const row = { line, kind: cell("wide"), state: cell("state"), prompt: cell("number") };
  const share = cell("share");
  const track = el("span", "meter");
  row.meter = el("i");
  track.append(row.meter);
  row.cached = el("span", "number");
  share.append(track, row.cached);
  row.output = cell("number");
  row.time = cell("number");
  rows.set(id, row);
  at("requests-body").append(line);
  return row;
}

export function showTiles(state) {
  const { rates, slots } = state;
  const held = slots.total ? (slots.total - slots.free) / slots.total : null;
  say(at("tile-hit"), percent(rates.hit_rate));
  say(at("tile-memory"), percent(held));
  say(at("tile-memory-note"), slots.total ? `of ${plural(slots.total, "token")}` : "");
  say(at("tile-output"), rate(rates.output_tokens_per_s));
  say(at("tile-prompt"), rate(rates.prompt_tokens_per_s));
  const first = rates.first_token_ms_p50;
  say(at("tile-first"), first === null || first === undefined ? "–" : seconds(first / 1000));
  say(at("tile-running"), count(state.num_running));
  say(at("tile-waiting"), state.num_waiting ? `${count(state.num_waiting)} waiting` : "none waiting");
  showTotals(state.counters, rates);
}

// Where the tokens of all prompts so far came from: the parts of one bar, and the same as a list.
const SOURCES = [
  ["cached", "From the cache", "num_cached_tokens"],
  ["never", "Computed: never seen before", "num_missed_never_seen"],
  ["evicted", "Computed: had been evicted", "num_missed_evicted"],
  ["salt", "Computed: another tenant's", "num_missed_salt"],
  ["boundary", "Computed: behind a boundary", "num_missed_boundary"],
];

function showTotals(counters, rates) {
  const asked = counters.num_prompt_tokens ?? 0;
  const told = SOURCES.filter(([, , name]) => counters[name] !== undefined);
  const sum = told.reduce((total, [, , name]) => total + counters[name], 0);
  const parts = told.map(([tone, label, name]) => [tone, label, counters[name]]);
  if (asked > sum) parts.push(["never", told.length > 1 ? "Computed: other" : "Computed", asked - sum]);
  fill(at("sources-bar"), parts.length, () => el("i"), (part, index) => {
    const [tone, , tokens] = parts[index];
    part.className = tone;
    part.style.flexGrow = String(tokens);
  });
  const facts = [["Prompt tokens", count(asked)]];
  for (const [tone, label, tokens] of parts) {
    if (tokens) facts.push([label, `${count(tokens)} (${percent(tokens / asked)})`, tone]);
  }
  facts.push(["Generated tokens", count(counters.num_generated_tokens)]);
  const optional = [
    ["Forced by constraints", "num_forced_tokens"],
    ["Evicted tokens", "num_evicted_tokens"],
    ["Preemptions", "num_preemptions"],
  ];
  for (const [label, name] of optional) if (counters[name]) facts.push([label, count(counters[name])]);
  if (counters.num_draft_tokens) {
    const share = percent((counters.num_accepted_tokens ?? 0) / counters.num_draft_tokens);
    facts.push(["Guessed rightly", `${share} of ${count(counters.num_draft_tokens)}`]);
  }
  if (rates.step_ms !== null && rates.step_ms !== undefined) {
    facts.push(["Time of a step", seconds(rates.step_ms / 1000)]);
  }
  fill(at("sources-list"), facts.length, newFact, (fact, index) => {
    const [label, value, tone = ""] = facts[index];
    fact.firstChild.firstChild.className = tone;
    say(fact.firstChild.lastChild, label);
    say(fact.lastChild, value);
  });
}

function newFact() {
  const fact = el("div");
  const label = el("dt");
  label.append(el("i"), el("span"));
  fact.append(label, el("dd"));
  return fact;
}

// As many children as `length`, each brought up to date in place.
function fill(parent, length, make, change) {
  while (parent.children.length > length) parent.lastChild.remove();
  while (parent.children.length < length) parent.append(make());
  [...parent.children].forEach(change);
}
