// @ts-check
// Words that complete the one before the cursor: of the model's vocabulary, of learned words, and of the
// wildcards of the server. They are buttons below the field, the next ones for the Tab key.

import { fill, h } from "./dom.js";

const WAIT = 120; // milliseconds from a letter to the request
const MOST = 6;
const SHORTEST = 2; // letters from which words are completed
const WORD = /[\p{L}\p{N}]+$/u;
const WILDCARD = /__[\w/.-]*$/;
const LEARNED = /<[^<>\s]*$/;

export class Completion {
  /** `source`: words(start) is a promise of a list; learned() and wildcards are lists. */
  constructor(input, source) {
    this.input = input;
    this.source = source;
    this.asked = 0;
    this.element = h("div", { class: "row completion", role: "group", "aria-label": "Words that complete this one", hidden: true });
    const soon = () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.update(), WAIT);
    };
    input.addEventListener("input", soon);
    this.element.addEventListener("keydown", (event) => this.move(event));
    this.element.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
    input.addEventListener("blur", (event) => {
      if (!this.element.contains(event.relatedTarget)) soon();
    });
  }

  async update() {
    this.asked += 1;
    const { asked } = this;
    const start = document.activeElement === this.input ? this.start() : "";
    const words = start ? await this.find(start).catch(() => []) : [];
    if (asked !== this.asked) return; // another letter came meanwhile
    const inside = this.element.contains(document.activeElement);
    if (inside) return;
    this.element.hidden = words.length === 0;
    fill(this.element, words.slice(0, MOST).map((word) => h("button", { type: "button", class: "chip", onclick: () => this.use(word) }, word)));
  }

  /** Return what is before the cursor and can be completed; "" if there is nothing. */
  start() {
    const { selectionStart, selectionEnd, value } = this.input;
    if (selectionStart !== selectionEnd || /^[\p{L}\p{N}]/u.test(value.slice(selectionEnd))) return "";
    const before = value.slice(0, selectionStart);
    const [special] = before.match(WILDCARD) ?? before.match(LEARNED) ?? [];
    if (special) return special;
    const [word = ""] = before.match(WORD) ?? [];
    return word.length >= SHORTEST ? word : "";
  }

  async find(start) {
    if (start.startsWith("__")) return this.source.wildcards.map((name) => `__${name}__`).filter((word) => word.startsWith(start));
    if (start.startsWith("<")) return this.source.learned().filter((word) => word.startsWith(start));
    return this.source.words(start);
  }

  use(word) {
    const { input } = this;
    const length = this.start().length;
    const end = input.selectionStart;
    const space = /^\s/.test(input.value.slice(end)) ? "" : " ";
    input.setRangeText(`${word}${space}`, end - length, end, "end");
    this.element.hidden = true;
    input.focus();
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }

  // Escape goes back to the field, and the arrows from word to word.
  move(event) {
    const buttons = [...this.element.children];
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") this.input.focus();
    else if (by) buttons[buttons.indexOf(document.activeElement) + by]?.focus();
    else return;
    event.preventDefault();
  }
}
