// The live page: ties what /live says to the picture, the charts and the tables.

import * as charts from "./charts.js";
import * as chat from "./chat.js";
import { follow } from "./feed.js";
import * as key from "./key.js";
import { showRequests, showTiles } from "./requests.js";
import { at, count, say } from "./text.js";
import * as tree from "./tree.js";

const WORDS = { ready: "Live", starting: "Engine starts", stopped: "Engine stopped" };

let state = null; // the last one
let heardAt = 0; // when, by this machine's clock, in seconds
let connection = "connecting";
let retryAt = 0;
let wasAway = false;

const here = () => performance.now() / 1000;
const serverNow = () => state.time + (here() - heardAt);

function onEvent(name, value) {
  if (name === "hello") hello(value);
  else if (name === "history") charts.addAll(value.samples);
  else if (name === "tree") tree.update(value);
  else if (name === "state") onState(value);
}

function hello(value) {
  chat.named(value.model);
  say(at("model"), value.model);
  say(at("about"), facts(value).join(" · "));
  document.title = `${value.model} · Ramet`;
  charts.setTotal(value.num_slots);
  if (wasAway) tree.forget();
  wasAway = false;
}

function facts(value) {
  const found = [`${count(value.num_slots)} KV slots`, `context ${count(value.max_context)}`];
  if (value.policy) found.push(`policy ${value.policy}`);
  if (value.tenant) found.push(`tenant ${value.tenant}`);
  found.push(`version ${value.version}`);
  return found;
}

function onState(value) {
  state = value;
  heardAt = here();
  charts.setTotal(value.slots.total);
  charts.add(charts.sampleOf(value));
  tree.setSlots(value.slots);
  showTiles(value);
  showRequests(value);
  showConnection();
}

function onConnection(now, waitMs = 0) {
  connection = now;
  retryAt = here() + waitMs / 1000;
  if (now === "away" || now === "locked") {
    wasAway = true;
    if (state) charts.gap(serverNow());
  }
  showConnection();
}

function showConnection() {
  const pill = at("connection");
  const shown = connection === "live" && state && state.engine !== "ready" ? state.engine : connection;
  pill.dataset.state = shown;
  document.body.dataset.connection = connection;
  at("unlock").hidden = connection !== "locked";
  if (connection === "live") say(at("connection-text"), WORDS[state?.engine ?? "ready"]);
  else if (connection === "locked") say(at("connection-text"), "Key needed");
  else if (connection === "away") {
    const left = Math.max(1, Math.ceil(retryAt - here()));
    say(at("connection-text"), `Server away, next try in ${left} s`);
  } else say(at("connection-text"), wasAway ? "Server away, trying" : "Connecting");
}

function tick() {
  if (connection === "away") showConnection();
  if (!state || document.hidden) return;
  const now = serverNow();
  if (connection === "live") charts.add([now, ...charts.sampleOf(state).slice(1)]);
  charts.draw(now);
}

key.start();
chat.start();
charts.start();
tree.start();
const feed = follow({ onEvent, onConnection, since: charts.last });
at("unlock").addEventListener("click", () => feed.retry());
setInterval(tick, 1000);
