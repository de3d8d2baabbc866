// @ts-check
// What helps to write a prompt, below its field: prompts to try, those that were used before, and the
// styles and wildcards of the server.

import { Completion } from "./completion.js";
import { fill, h } from "./dom.js";
import { openHistory } from "./history.js";

const PROMPTS = ["prompt", "negative_prompt", "prompt_b"];
const SHOWN = 5; // prompts to try
const PREPARED = { lower: "in lower case", strip: "without white space at its ends" }; // of a template
const PLACE = "{prompt}"; // in a style: where the prompt is put

export class PromptTools {
  /** `form` has the fields; `changed()` is called after one of them was filled. */
  constructor(form, { styles = [], wildcards = [] }, api, changed) {
    this.form = form;
    this.api = api;
    this.wildcards = wildcards;
    this.changed = changed;
    this.tries = h("div", { class: "row tries" });
    const style = makeMenu("Apply a style …", styles.map(({ name }) => name), (name) => {
      this.apply(styles.find((one) => one.name === name));
    });
    const wildcard = makeMenu("Insert a wildcard …", wildcards, (name) => form.insert("prompt", `__${name}__`));
    const menus = h("div", { class: "row menus", hidden: !styles.length && !wildcards.length }, style, wildcard);
    this.template = h("div", {});
    this.element = h("div", {}, this.tries, this.template, menus);
  }

  /** Show the tools of a model below the prompt, if the mode has one. */
  show(model) {
    const row = this.form.rows.get("prompt");
    if (!row) return;
    const chips = (model.prompts ?? [])
      .slice(0, SHOWN)
      .map((prompt) => h("button", { type: "button", class: "chip", onclick: () => this.use({ prompt }) }, prompt));
    const history = h("button", { type: "button", class: "link small", "aria-haspopup": "dialog", onclick: () => openHistory((entry) => this.useAgain(entry)) }, "History");
    const note = model.prompts_note ? h("p", { class: "soft small" }, model.prompts_note) : null;
    fill(this.template, describeTemplates(model.prompt_templates ?? {}));
    fill(this.tries, chips.length ? h("span", { class: "soft small" }, "Try") : null, chips, history, note);
    row.element.append(this.element);
    for (const name of PROMPTS) this.complete(name, model);
  }

  // A field that stays when another mode is shown keeps its completion.
  complete(name, model) {
    const row = this.form.rows.get(name);
    if (!row || row.completed === model) return;
    row.completed = model;
    const source = {
      words: async (start) => (await this.api.words(start, model.name)).words,
      learned: () => (model.embeddings ?? []).map(({ word }) => word),
      wildcards: this.wildcards,
    };
    row.control.input.after(new Completion(row.control.input, source).element);
  }

  useAgain({ prompt, negative }) {
    this.use({ prompt, negative_prompt: negative });
  }

  /** Add the texts of a style to those of the form, as A1111 does. */
  apply(style) {
    const texts = this.form.texts();
    const merged = ["prompt", "negative_prompt"].map((name) => [name, merge(texts[name] ?? "", style[name])]);
    this.use(Object.fromEntries(merged));
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

// What a text encoder reads where it is more than the prompt, for each encoder that has such a template.
function describeTemplates(templates) {
  const parts = Object.entries(templates).map(([encoder, { before, after, dropped, prepare }]) => {
    const changes = prepare.map((name) => PREPARED[name] ?? name);
    const notes = [
      changes.length ? `The prompt is read ${changes.join(" and ")}.` : "",
      dropped ? `The first ${dropped} tokens are left out of what the denoiser reads.` : "",
    ];
    const many = Object.keys(templates).length > 1 ? h("p", { class: "small" }, encoder) : null;
    return [many, h("pre", { class: "small" }, before, h("em", {}, "the prompt"), after), h("p", { class: "soft small" }, notes.filter(Boolean).join(" "))];
  });
  return parts.length ? h("details", { class: "template" }, h("summary", { class: "soft small" }, "What the model reads"), parts) : null;
}

function merge(text, part) {
  if (part.includes(PLACE)) return part.replaceAll(PLACE, () => text.trim()); // a text would be a pattern: $& and $$
  return [text.trim(), part.trim()].filter(Boolean).join(", ");
}

// A menu whose first line says what a choice does; after it, the menu shows that line again.
function makeMenu(title, names, choose) {
  const options = names.map((name) => h("option", { value: name }, name));
  const select = h("select", { "aria-label": title.replace(" …", ""), hidden: !names.length }, h("option", { value: "" }, title), options);
  select.addEventListener("change", () => {
    const { value } = select;
    select.value = "";
    if (value) choose(value);
  });
  return select;
}
