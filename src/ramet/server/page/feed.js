// Server-sent events over fetch (EventSource sends no key), and a connection that comes back by itself.

import { NoKey, request } from "./key.js";

const MAX_EVENT = 1 << 23; // characters
const SILENCE_MS = 25_000; // the server says something every 10 s
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8_000;

// The events of a response, as { event, data }. Comments only keep the connection.
export async function* events(response, heard = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      heard();
      rest += value;
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop();
      if (rest.length > MAX_EVENT) throw new Error("an event is too long");
      for (const block of blocks) {
        const found = parse(block);
        if (found) yield found;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  let event = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return data.length ? { event, data: data.join("\n") } : null;
}

// Follows /live for ever. `onEvent(name, value)`; `onConnection(state, waitMs)` with state "connecting",
// "live", "away" (tries again in waitMs) or "locked" (until `retry()` is called). `since()`: the time of
// the last state that was heard.
export function follow({ onEvent, onConnection, since }) {
  let wake = () => {};
  const sleep = (ms) =>
    new Promise((resolve) => {
      const timer = ms === null ? 0 : setTimeout(resolve, ms);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  async function once() {
    const controller = new AbortController();
    let watch = 0;
    const heard = () => {
      clearTimeout(watch);
      watch = setTimeout(() => controller.abort(), SILENCE_MS);
    };
    try {
      const response = await request(`live?since=${since()}`, { signal: controller.signal });
      if (!response.ok) {
        await response.body?.cancel();
        throw new Error(`the server says ${response.status}`);
      }
      heard();
      onConnection("live");
      for await (const { event, data } of events(response, heard)) onEvent(event, JSON.parse(data));
    } finally {
      clearTimeout(watch);
      controller.abort();
    }
  }

  async function run() {
    let wait = FIRST_WAIT_MS;
    for (;;) {
      const began = Date.now();
      onConnection("connecting");
      try {
        await once();
      } catch (error) {
        if (error instanceof NoKey) {
          onConnection("locked");
          await sleep(null);
          continue;
        }
      }
      if (Date.now() - began > LONGEST_WAIT_MS) wait = FIRST_WAIT_MS;
      const ms = Math.round(wait * (0.8 + 0.4 * Math.random())); // many pages, one server
      onConnection("away", ms);
      await sleep(ms);
      wait = Math.min(wait * 1.6, LONGEST_WAIT_MS);
    }
  }

  run();
  window.addEventListener("online", () => wake());
  return { retry: () => wake() };
}
