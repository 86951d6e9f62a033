// The chat: messages as text, answers as they come, and what each one cost.

import { events } from "./feed.js";
import { NoKey, request } from "./key.js";
import { at, count, el, percent, say, seconds } from "./text.js";

const messages = []; // { role, content }, as they are sent
let running = null; // AbortController of the answer that is coming
let modelName = "Model";

export function named(model) {
  modelName = model;
}

export function start() {
  const form = at("chat-form");
  const field = at("chat-field");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!text || running) return;
    field.value = "";
    ask(text);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  at("chat-stop").addEventListener("click", () => running?.abort());
  at("chat-new").addEventListener("click", clear);
  for (const button of document.querySelectorAll("[data-say]")) {
    button.addEventListener("click", () => {
      if (!running) ask(button.dataset.say);
      field.focus({ preventScroll: true });
    });
  }
}

function clear() {
  running?.abort();
  messages.length = 0;
  for (const element of at("chat-log").querySelectorAll("article")) element.remove();
  at("chat-empty").hidden = false;
  at("chat-field").focus({ preventScroll: true });
}

function ask(text) {
  at("chat-empty").hidden = true;
  messages.push({ role: "user", content: text });
  show("user", "You").body.textContent = text;
  answer();
}

// One message on the page. `body` gets text only.
function show(role, name) {
  const log = at("chat-log");
  const article = el("article", role);
  const body = el("p", "said");
  const foot = el("p", "cost");
  article.append(el("h3", "", name), body, foot);
  log.append(article);
  log.scrollTop = log.scrollHeight;
  return { article, body, foot };
}

function settings() {
  const system = at("chat-system").value.trim();
  const number = (id, least, most) => {
    const value = at(id).valueAsNumber;
    return Number.isFinite(value) ? Math.min(Math.max(value, least), most) : undefined; // is not sent
  };
  const most = number("chat-most", 1, 1_000_000);
  return {
    before: system ? [{ role: "system", content: system }] : [],
    temperature: number("chat-temperature", 0, 2),
    max_tokens: most && Math.round(most),
  };
}

async function answer() {
  for (const button of document.querySelectorAll(".again")) button.remove();
  const { before, temperature, max_tokens } = settings();
  const { article, body, foot } = show("assistant", modelName);
  const got = { text: "", began: performance.now(), first: null, usage: null, reason: null };
  busy(true);
  article.setAttribute("aria-busy", "true");
  say(foot, "Waiting…");
  try {
    const response = await request("v1/chat/completions", {
      method: "POST",
      signal: running.signal,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        model: "default",
        messages: [...before, ...messages],
        stream: true,
        stream_options: { include_usage: true },
        temperature,
        max_tokens,
      }),
    });
    if (!response.ok) throw new Error(await problem(response));
    await read(response, got, body, foot);
  } catch (error) {
    if (error.name === "AbortError") got.reason = "stopped";
    else if (error instanceof NoKey) failed(article, "No answer: the server asks for a key.");
    else if (error instanceof TypeError) failed(article, "No answer: the connection was lost.");
    else failed(article, `No answer: ${error.message}`);
  }
  article.removeAttribute("aria-busy");
  say(foot, cost(got));
  if (got.text) messages.push({ role: "assistant", content: got.text });
  else if (!article.classList.contains("failed") && !got.usage) say(body, "");
  again(article, Boolean(got.text));
  busy(false);
}

async function read(response, got, body, foot) {
  const log = at("chat-log");
  const text = document.createTextNode("");
  body.append(text);
  for await (const { data } of events(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message || "the server failed");
    const choice = chunk.choices?.[0];
    const piece = choice?.delta?.content;
    if (piece) {
      got.first ??= performance.now();
      got.text += piece;
      const following = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
      text.appendData(piece);
      if (following) log.scrollTop = log.scrollHeight;
      say(foot, seconds((performance.now() - got.began) / 1000));
    }
    if (choice?.finish_reason) got.reason = choice.finish_reason;
    if (chunk.usage) got.usage = chunk.usage;
  }
  if (!got.reason) throw new Error("the answer broke off");
}

async function problem(response) {
  try {
    const { error } = await response.json();
    return error.message || `the server says ${response.status}`;
  } catch {
    return `the server says ${response.status}`;
  }
}

function failed(article, text) {
  article.classList.add("failed");
  const line = el("p", "problem", text);
  line.setAttribute("role", "alert");
  article.querySelector(".cost").before(line);
}

// "212 in, 180 cached (85 %) · 57 out · 1.2 s, first token after 80 ms"
function cost(got) {
  const parts = [];
  if (got.usage) {
    const asked = got.usage.prompt_tokens;
    const cached = got.usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(`${count(asked)} in, ${count(cached)} cached (${percent(cached / asked)})`);
    parts.push(`${count(got.usage.completion_tokens)} out`);
  }
  const time = seconds((performance.now() - got.began) / 1000);
  const first = got.first === null ? "" : `, first token after ${seconds((got.first - got.began) / 1000)}`;
  parts.push(time + first);
  if (got.reason === "length") parts.push("cut at the longest answer allowed");
  if (got.reason === "stopped") parts.push("stopped");
  return parts.join(" · ");
}

// The last answer can be asked for again: it branches where the first one began.
function again(article, answered) {
  const button = el("button", "again", "Ask again");
  button.type = "button";
  button.addEventListener("click", () => {
    if (running) return;
    if (answered) messages.pop();
    article.remove();
    answer();
    at("chat-field").focus({ preventScroll: true });
  });
  article.append(button);
  const log = at("chat-log");
  log.scrollTop = log.scrollHeight;
}

function busy(on) {
  running = on ? new AbortController() : null;
  const stop = at("chat-stop");
  const had = document.activeElement;
  at("chat-send").hidden = on;
  stop.hidden = !on;
  if (had === stop || had === at("chat-send")) at("chat-field").focus({ preventScroll: true });
}
