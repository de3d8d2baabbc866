// @ts-check
// What helps to write a prompt, below its field: prompts to try, and those that were used before.

import { fill, h } from "./dom.js";
import { openHistory } from "./history.js";

const SHOWN = 5; // prompts to try

export class PromptTools {
  /** `form` has the fields; `changed()` is called after one of them was filled. */
  constructor(form, changed) {
    this.form = form;
    this.changed = changed;
    this.element = h("div", { class: "row tries" });
  }

  /** Show the tools of a model below the prompt, if the mode has one. */
  show(model) {
    const row = this.form.rows.get("prompt");
    if (!row) return;
    const chips = (model.prompts ?? [])
      .slice(0, SHOWN)
      .map((prompt) => h("button", { type: "button", class: "chip", onclick: () => this.use({ prompt }) }, prompt));
    const history = h("button", { type: "button", class: "link small", "aria-haspopup": "dialog", onclick: () => openHistory((entry) => this.useAgain(entry)) }, "History");
    fill(this.element, chips.length ? h("span", { class: "soft small" }, "Try") : null, chips, history);
    row.element.append(this.element);
  }

  useAgain({ prompt, negative }) {
    this.use({ prompt, negative_prompt: negative });
  }

  /** Write texts into fields by name, and go on in the prompt. */
  use(texts) {
    for (const [name, text] of Object.entries(texts)) {
      this.form.rows.get(name)?.control.write(text);
      this.form.clearError(name);
    }
    this.changed();
    this.form.rows.get("prompt")?.control.input.focus();
  }
}
