// @ts-check
// Short messages at the edge of the page, which screen readers also say.

import { h } from "./dom.js";
import { inPageWords } from "./wording.js";

const SECONDS = 6;

const atReturn = new Set(); // what is done once the server answers again

/** Do something once, when a server that does not answer is back. */
export function whenBack(action) {
  atReturn.add(action);
}

/** The server answers again: what says that it does not is taken back. */
export function tellBack() {
  const actions = [...atReturn];
  atReturn.clear();
  for (const action of actions) action();
}

/** Say in an element what went wrong; that the server does not answer is said until it does. */
export function sayError(element, error) {
  const text = [error.message, error.hint].filter(Boolean).map(sentence).join(" ");
  element.textContent = text;
  if (error.offline) whenBack(() => element.textContent === text && element.replaceChildren());
}

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
  const close = notify(sentence(error?.message ?? String(error)), {
    kind: "error",
    hint: error?.hint ? sentence(error.hint) : "",
    ...options,
  });
  if (error?.offline) whenBack(close);
  return close;
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
