// @ts-check
// The requests of this tab that wait for the one that runs: a list to reorder, to edit and to empty.
// It is kept across a reload, as the job that runs is.

import { describeWeights, weightsOf } from "./adapters.js";
import { counted, fill, h } from "./dom.js";
import { iconButton } from "./icons.js";
import { keepOne, recallOne } from "./kept.js";
import { announce } from "./notify.js";
import { isFileList, toText } from "./schema.js";
import { label, modeName } from "./wording.js";

const KEPT = "queue";
const LONGEST = 40; // letters of a value in the list

export class Queue {
  /** `edit(request)` is called for a request that is taken out to be changed. */
  constructor({ edit }) {
    this.edit = edit;
    this.requests = [];
    this.dragged = null;
    this.count = h("span", { class: "soft small", role: "status" });
    this.list = h("ol", { class: "queue-list" });
    const clear = h("button", { type: "button", class: "chip", onclick: () => this.set([]) }, "Remove all");
    this.element = h(
      "section",
      { class: "queue", "aria-label": "Queue", hidden: true },
      h("div", { class: "row heading" }, h("h2", {}, "Queue"), this.count, h("div", { class: "row ends" }, clear)),
      this.list,
    );
  }

  add(request) {
    this.set([...this.requests, request]);
    announce(`${counted(this.requests.length, "request")} waiting`);
  }

  /** Return the first request, which leaves the queue; undefined if there is none. */
  take() {
    const [first, ...rest] = this.requests;
    if (first) this.set(rest);
    return first;
  }

  /** Put back what waited before a reload, before what was added meanwhile. */
  async recall() {
    const kept = await recallOne(KEPT);
    if (kept?.length) this.set([...kept, ...this.requests]);
  }

  set(requests) {
    this.requests = requests;
    keepOne(KEPT, requests.length ? requests : null);
    this.show();
  }

  move(from, to) {
    const requests = [...this.requests];
    const [moved] = requests.splice(from, 1);
    requests.splice(to, 0, moved);
    this.set(requests);
    announce(`${nameRequest(moved)} is now number ${to + 1} of ${requests.length}`);
  }

  remove(place) {
    this.set(this.requests.filter((_, i) => i !== place));
  }

  show() {
    const count = this.requests.length;
    this.element.hidden = count === 0;
    this.count.textContent = `${counted(count, "more request")} ${count === 1 ? "waits" : "wait"}`;
    fill(this.list, this.requests.map((request, place) => this.makeRow(request, place)));
  }

  makeRow(request, place) {
    const name = nameRequest(request);
    const last = this.requests.length - 1;
    const act = (icon, text, action, disabled = false) => iconButton(icon, `${text} ${name}`, action, { disabled });
    const shift = (by) => () => {
      const to = place + by;
      this.move(place, to);
      this.focus(to, by < 0 ? "Move up" : "Move down");
    };
    const edit = h("button", { type: "button", class: "chip", "aria-label": `Edit ${name}`, onclick: () => this.takeOut(place) }, "Edit");
    const row = h(
      "li",
      { draggable: "true" },
      h("div", { class: "queue-text" }, h("p", {}, name), h("p", { class: "soft small" }, describeValues(request))),
      h(
        "div",
        { class: "row" },
        edit,
        act("up", "Move up", shift(-1), place === 0),
        act("down", "Move down", shift(1), place === last),
        act("close", "Remove", () => {
          this.remove(place);
          this.focus(Math.min(place, last - 1), "Remove");
        }),
      ),
    );
    row.addEventListener("dragstart", () => (this.dragged = place));
    row.addEventListener("dragend", () => (this.dragged = null));
    row.addEventListener("dragover", (event) => this.dragged !== null && event.preventDefault());
    row.addEventListener("drop", (event) => {
      if (this.dragged === null) return;
      event.preventDefault();
      event.stopPropagation();
      this.move(this.dragged, place);
    });
    return row;
  }

  takeOut(place) {
    const request = this.requests[place];
    this.remove(place);
    this.edit(request);
  }

  // The list is made anew at each change; the focus stays on the row that was moved.
  focus(place, action) {
    const buttons = [...(this.list.children[place]?.querySelectorAll("button") ?? [])].filter((button) => !button.disabled);
    const find = (text) => buttons.find((button) => button.getAttribute("aria-label").startsWith(text));
    (find(action) ?? find("Move") ?? buttons.at(-1))?.focus();
  }
}

function nameRequest({ mode, values }) {
  return [values.prompt ?? modeName(mode)].flat().join("; ") || "an image without a prompt";
}

function describeValue(value) {
  if (value instanceof Blob) return "a file";
  return isFileList(value) ? counted(value.length, "file") : toText(value);
}

function describeValues({ mode, model, values, loras = [] }) {
  const others = Object.entries(values).filter(([name]) => name !== "prompt");
  const parts = others.map(([name, value]) => {
    const text = describeValue(value);
    return `${label(name).toLowerCase()} ${text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text}`;
  });
  return [modeName(mode), model, describeWeights(weightsOf(loras)), ...parts].filter(Boolean).join(" · ");
}
