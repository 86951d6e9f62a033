// The server's API key: asked for when the server says 401, kept as long as the tab lives.

import { at, say } from "./text.js";

const NAME = "ramet-key";
let asking = null;

export class NoKey extends Error {}

const kept = () => sessionStorage.getItem(NAME);

// fetch with the key. Asks for one on 401, and again while it is wrong; throws NoKey when the person
// does not give any.
export async function request(path, init = {}) {
  for (;;) {
    const key = kept();
    const headers = { ...init.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    const response = await fetch(path, { ...init, headers, credentials: "same-origin" });
    if (response.status !== 401) return response;
    await response.body?.cancel();
    if (key === kept()) await ask(key !== null);
  }
}

// One dialog for all who wait.
function ask(wasWrong) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = at("key-dialog");
    const field = at("key-field");
    say(at("key-problem"), wasWrong ? "The server does not take this key." : "");
    field.value = "";
    dialog.returnValue = "";
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        const key = field.value.trim();
        field.value = "";
        if (dialog.returnValue === "use" && key) {
          sessionStorage.setItem(NAME, key);
          resolve();
        } else {
          reject(new NoKey("the server asks for a key"));
        }
      },
      { once: true },
    );
    dialog.showModal();
    field.focus();
  });
  return asking;
}

export function start() {
  // Not method="dialog": a policy without form-action must not be in its way.
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    at("key-dialog").close("use");
  });
  at("key-cancel").addEventListener("click", () => at("key-dialog").close(""));
}
