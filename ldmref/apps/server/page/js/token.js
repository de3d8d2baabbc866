// @ts-check
// The question for the token of a server that is reachable from other machines.

import { h } from "./dom.js";

/** Ask for the token and return it; null if the dialog was closed. `refused`: the last was wrong. */
export function askForToken(refused) {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("token"));
  const input = h("input", {
    id: "token-input",
    type: "password",
    autocomplete: "current-password",
    required: true,
    "aria-invalid": refused ? "true" : null,
    "aria-describedby": "token-help",
  });
  const help = refused
    ? "The server refused this token. It was given at the start of the server, with --token."
    : "The server was started with a token (--token). This tab keeps it until it is closed.";
  return new Promise((resolve) => {
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", { id: "token-title" }, refused ? "Wrong token" : "This server needs a token"),
      h("p", { id: "token-help", class: "soft" }, help),
      h("label", { for: "token-input" }, "Token"),
      input,
      h("div", { class: "row" }, h("button", { class: "primary" }, "Continue")),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close(input.value.trim());
    });
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
    dialog.replaceChildren(form);
    dialog.showModal();
  });
}
