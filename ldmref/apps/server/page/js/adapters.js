// @ts-check
// The LoRAs and the learned words that the server has for a model: chosen below the prompt of every form.
// Weights are in the address, as lora.NAME; a word is part of the prompt.

import { fill, h, newId } from "./dom.js";
import { readNumber } from "./numbers.js";

const FULL = "1"; // the weight of a LoRA that is added
const MOST = 100; // a weight, as the server allows it

export class AdapterPicker {
  /** `insert(word)` puts a word into the prompt; `changed()` is called after every edit. */
  constructor(insert, changed) {
    this.insert = insert;
    this.changed = changed;
    this.weights = new Map(); // name -> text
    this.model = null;
    this.drawn = null; // the model that the list was made for
    this.select = h("select", { "aria-label": "Add a LoRA" });
    this.select.addEventListener("change", () => {
      if (this.select.value) this.set(this.select.value, FULL);
    });
    this.list = h("ul", { class: "loras" });
    this.words = h("div", { class: "row tries" });
    this.element = h("div", { class: "stack adapters" }, this.words, this.select, this.list);
  }

  /** Show what a model has, with the weights {name: text} of an address. */
  show(model, weights) {
    this.model = model;
    this.element.hidden = !model?.loras?.length && !model?.embeddings?.length;
    const words = wordsOf(model);
    const insert = (word) => h("button", { type: "button", class: "chip", onclick: () => this.insert(word) }, word);
    this.words.hidden = words.length === 0;
    fill(this.words, words.length ? [h("span", { class: "soft small" }, "Learned words"), words.map(insert)] : null);
    this.write(weights);
  }

  /** Set the weights {name: text}; LoRAs that the model lacks are left out. */
  write(weights = {}) {
    const known = Object.entries(weights).filter(([name]) => this.model?.loras?.includes(name));
    const same = JSON.stringify(known) === JSON.stringify([...this.weights]);
    if (same && this.drawn === this.model) return; // a field that is being edited keeps the focus
    this.weights = new Map(known);
    this.draw();
  }

  set(name, text) {
    this.weights.set(name, text);
    this.draw();
    this.changed();
    this.list.querySelector("li:last-child input")?.focus();
  }

  draw() {
    this.drawn = this.model;
    const others = (this.model?.loras ?? []).filter((name) => !this.weights.has(name));
    fill(this.select, h("option", { value: "" }, "Add a LoRA …"), others.map((name) => h("option", { value: name }, name)));
    this.select.hidden = others.length === 0;
    fill(this.list, [...this.weights].map(([name, text]) => this.makeRow(name, text)));
  }

  makeRow(name, text) {
    const input = h("input", { id: newId("lora"), type: "text", inputmode: "decimal", class: "numbers", autocomplete: "off" });
    input.value = text;
    const error = h("p", { id: newId("error"), class: "error", hidden: true });
    input.setAttribute("aria-describedby", error.id);
    input.addEventListener("input", () => {
      this.weights.set(name, input.value);
      error.textContent = checkWeight(input.value);
      error.hidden = !error.textContent;
      input.setAttribute("aria-invalid", String(!error.hidden));
      this.changed();
    });
    const remove = () => {
      this.weights.delete(name);
      this.draw();
      this.changed();
      this.select.focus();
    };
    const button = h("button", { type: "button", class: "chip", "aria-label": `Remove ${name}`, onclick: remove }, "Remove");
    return h("li", {}, h("label", { for: input.id }, `LoRA ${name}, weight`), input, button, error);
  }

  /** Return the weights as texts, for the address. */
  texts() {
    return Object.fromEntries(this.weights);
  }

  /** Focus a weight that is not one, and return whether there is one. */
  showWrong() {
    const names = [...this.weights.keys()];
    const place = names.findIndex((name) => checkWeight(this.weights.get(name)));
    if (place >= 0) this.list.children[place].querySelector("input").focus();
    return place >= 0;
  }

  /** Return the keys of a request whose parameters are these. */
  request(...given) {
    return adapterKeys(this.model, this.texts(), given);
  }
}

/**
 * Return the keys of a request: LoRAs with their weights, and the learned words that its prompts have.
 *
 * `weights` are {name: text}, and `given` parameters by name; there may be several of one name.
 */
export function adapterKeys(model, weights, given) {
  const loras = Object.entries(weights).map(([name, text]) => ({ name, weight: Number(readNumber(text)) }));
  const prompts = given.flatMap(Object.entries).filter(([name]) => /prompt/.test(name)).flatMap(([, value]) => value);
  const embeddings = wordsOf(model).filter((word) => prompts.some((text) => String(text).includes(word)));
  return { ...(loras.length ? { loras } : {}), ...(embeddings.length ? { embeddings } : {}) };
}

/** Return what is wrong with the weights {name: text} of an address for a model, "" if nothing is. */
export function explainWeights(model, weights) {
  const gone = Object.keys(weights).filter((name) => !model?.loras?.includes(name));
  if (gone.length) return `The model here has no LoRA “${gone.join("”, “")}”`;
  return Object.values(weights).map(checkWeight).find(Boolean) ?? "";
}

/** Return the weights {name: text} of LoRAs [{name, weight}], as a request or a record has them. */
export function weightsOf(loras) {
  return Object.fromEntries((loras ?? []).map(({ name, weight }) => [name, String(weight)]));
}

/** Return a line for weights {name: text}: "LoRA warm 0.5"; weight 0 is "without LoRA warm". */
export function describeWeights(weights) {
  return Object.entries(weights).map(([name, text]) => (Number(text) === 0 ? `without LoRA ${name}` : `LoRA ${name} ${text}`)).join(", ");
}

function wordsOf(model) {
  return (model?.embeddings ?? []).map(({ word }) => word);
}

function checkWeight(text) {
  const number = readNumber(text);
  const right = number !== undefined && Math.abs(Number(number)) <= MOST;
  return right ? "" : `The weight must be a number from -${MOST} to ${MOST}, not “${text}”.`;
}
