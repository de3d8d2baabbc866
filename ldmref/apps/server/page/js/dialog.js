// @ts-check
// The dialog in which something is chosen.

import { h } from "./dom.js";

/** Show content under a title. Return {close(), closed}: a promise that the dialog was closed. */
export function openDialog(title, ...content) {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("picker"));
  const close = () => dialog.close();
  const button = h("button", { type: "button", onclick: close }, "Close");
  dialog.replaceChildren(h("div", { class: "stack" }, h("h2", { id: "picker-title" }, title), ...content, h("div", { class: "row" }, button)));
  const closed = /** @type {Promise<void>} */ (new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(), { once: true });
  }));
  dialog.showModal();
  return { close, closed };
}
