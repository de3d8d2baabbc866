// @ts-check
// Short messages at the edge of the page, which screen readers also say.

import { h } from "./dom.js";
import { inPageWords } from "./wording.js";

const SECONDS = 6;

function region() {
  return document.getElementById("messages");
}

/**
 * Show a message: `notify("Copied")`. `kind` is "info" or "error"; errors stay until they are
 * closed. `action` is {label, run}. Return the function that removes the message.
 */
export function notify(text, { kind = "info", hint = "", action = null } = {}) {
  const close = () => message.remove();
  const message = h(
    "div",
    { class: `message ${kind}`, role: kind === "error" ? "alert" : "status" },
    h("p", {}, text, hint ? h("span", { class: "hint" }, ` ${hint}`) : null),
    action
      ? h("button", { type: "button", class: "link", onclick: () => (close(), action.run()) }, action.label)
      : null,
    h("button", { type: "button", class: "close", "aria-label": "Close this message", onclick: close }, "×"),
  );
  region().append(message);
  if (kind !== "error") setTimeout(close, SECONDS * 1000);
  return close;
}

/** Show an error of the server, or any other, with its hint. */
export function notifyError(error, options = {}) {
  if (error?.name === "AbortError") return () => {};
  return notify(sentence(error?.message ?? String(error)), {
    kind: "error",
    hint: error?.hint ? sentence(error.hint) : "",
    ...options,
  });
}

/** Say a text to screen readers only. */
export function announce(text) {
  const element = document.getElementById("announcements");
  element.textContent = "";
  requestAnimationFrame(() => (element.textContent = text));
}

const FILE = /^[\w-]{2,}(\.[\w-]+)*\.[A-Za-z]\w+/; // a name such as config.json, and not "e.g."

/** Return a message of the server as a sentence of the page; "" if nothing of it concerns the page. */
export function sentence(text) {
  const trimmed = inPageWords(String(text)).trim();
  if (!trimmed) return "";
  const ended = /[.!?…]$/.test(trimmed) ? trimmed : `${trimmed}.`;
  if (FILE.test(ended)) return ended; // the name of a file keeps its letters
  return ended.charAt(0).toUpperCase() + ended.slice(1);
}
