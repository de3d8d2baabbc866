// @ts-check
// The form of a mode: one control for each parameter of its schema.

import { checkText } from "./checks.js";
import { guidanceControl, makeControl } from "./controls.js";
import { fill, h, insertText, newId } from "./dom.js";
import { netsControl } from "./control_nets.js";
import { imagesControl } from "./image_list.js";
import { arrayControl, imageControl } from "./inputs.js";
import { choicesOf, readsNegative } from "./models.js";
import { sentence } from "./notify.js";
import { fromText, readFields, toText } from "./schema.js";
import { label } from "./wording.js";

// The order and the place of fields, by name. The fields themselves come from the server.
const FIRST = ["prompt", "prompt_b", "image", "segmentation", "mask", "negative_prompt"];
const REFERENCES = "references"; // below them
const NETS = "control"; // below these
const COMMON = ["strength", "seed", "count", "steps", "cfg_scale", "sampler", "positions", "width", "height"];
// On the page brackets are weights, as in A1111; a program says so itself.
const WEIGHTS = { field: "prompt_weights", value: "a1111", notation: /[()[\]]|\bBREAK\b/ };
const NEGATIVE = "negative_prompt";
const PROGRAMS_ONLY = /_embeds$|prompt_mask$/; // hidden states and their masks come from a program, which has the API

export class Form {
  /** `options`: capabilities; changed(texts); pick(); imageChanged(name, blob, size); mask. */
  constructor(options) {
    this.options = options;
    this.element = h("div", { class: "form" });
    this.rows = new Map();
    this.open = false;
  }

  /** Show the fields of a mode for a model, with the texts of an address and the images so far. */
  show(mode, model, texts) {
    const before = this.rows;
    const schema = this.options.capabilities.modes[mode].schema;
    this.mode = mode;
    this.advice = model.advice?.[mode] ?? {};
    this.model = model;
    this.choices = choicesOf(this.options.capabilities, model);
    const fields = readFields(schema).filter((field) => this.isUseful(field, model));
    this.fields = fields;
    this.rows = new Map();
    this.mode = mode;
    for (const field of fields) {
      field.label = label(field.name);
      const kept = before.get(field.name);
      const reuse = kept?.control.file && (field.kind !== "images" || kept.model === model);
      this.rows.set(field.name, reuse ? kept : this.makeRow(field, model));
    }
    const row = (name) => this.rows.get(name)?.element;
    const first = FIRST.map(row);
    const common = COMMON.map(row).filter(Boolean);
    const others = fields.filter(({ name }) => ![...FIRST, ...COMMON, REFERENCES, NETS].includes(name));
    const details = h(
      "details",
      { class: "more", open: this.open },
      h("summary", {}, "More settings"),
      h("div", { class: "fields" }, others.map(({ name }) => row(name))),
    );
    details.addEventListener("toggle", () => (this.open = details.open));
    fill(this.element, first, row(REFERENCES), row(NETS), h("div", { class: "fields common" }, common), others.length ? details : null);
    this.details = details;
    this.write(texts);
    this.rows.get(NETS)?.control.setFiles(before.get(NETS)?.control.files() ?? []);
  }

  // Arrays and objects cannot be typed; the size of a model with one size cannot be chosen; and each
  // model says what it has no use for.
  isUseful(field, model) {
    const size = field.name === "width" || field.name === "height";
    if (field.kind === "nets" && !model.controlnets?.length) return false;
    const unused = PROGRAMS_ONLY.test(field.name) || model.unused?.includes(field.name);
    return field.kind !== null && !unused && !(size && model.one_size);
  }

  // The limit of the server or of the model below that of the schema.
  mostOf(name, model) {
    return { count: this.options.capabilities.limits.images, steps: model.most_steps }[name] ?? null;
  }

  makeRow(field, model) {
    const { changed } = this.options;
    const hints = { fallback: findFallback(field, model), choices: this.choices[field.name] };
    const edited = () => {
      this.clearError(field.name);
      describe();
      this.hideUnread();
      changed(this.texts());
    };
    const control = this.makeControl(field, hints, edited);
    const help = h("p", { id: newId("help"), class: "help" });
    const text = this.advice[field.name];
    const advice = text ? h("p", { id: newId("advice"), class: "small soft advice" }, sentence(text)) : null;
    const error = h("p", { id: newId("error"), class: "error", hidden: true });
    const labels = { class: "label", for: control.input?.id };
    const describe = () => {
      const chosen = hints.choices?.find(({ name }) => name === (control.input.value || hints.fallback));
      help.textContent = sentence(chosen?.summary ?? field.help);
    };
    describe();
    control.input?.setAttribute("aria-describedby", [help.id, advice?.id, error.id].filter(Boolean).join(" "));
    const flag = control.input?.type === "checkbox";
    const element = h(
      "div",
      { class: `field ${field.kind}`, "data-parameter": field.name },
      flag
        ? h("label", labels, control.element, ` ${field.label}`)
        : [h("label", labels, field.label), control.element],
      advice,
      help,
      error,
    );
    return { field, control, element, error, describe, model, choices: hints.choices };
  }

  makeControl(field, hints, edited) {
    const { pick, imageChanged, mask } = this.options;
    if (field.name === "mask" && field.kind === "image") return mask;
    if (field.kind === "image") {
      const told = (blob, size) => {
        this.clearError(field.name);
        imageChanged(field.name, blob, size);
      };
      return imageControl(field, { pick, changed: told });
    }
    if (field.kind === "images") {
      const told = (blobs) => {
        this.clearError(field.name);
        imageChanged(field.name, blobs);
      };
      return imagesControl(field, { most: this.model.most_references || field.maximum, pick, changed: told });
    }
    if (field.kind === "nets") {
      const filesChanged = (blobs) => {
        this.clearError(field.name);
        imageChanged(field.name, blobs.some(Boolean) ? blobs : null);
      };
      return netsControl(field, this.model.controlnets, this.mode === "inpaint", { pick, changed: edited, filesChanged });
    }
    if (field.kind === "array") return arrayControl(field, { changed: edited });
    if (field.kind === "guidance") {
      return guidanceControl(field, hints, this.choices.guidance, edited);
    }
    return makeControl(field, hints, edited);
  }

  /** Return the texts of the fields that are not at their defaults. */
  texts() {
    const texts = {};
    for (const [name, { control }] of this.rows) texts[name] = control.read?.() || null;
    return texts;
  }

  /** Set all fields: those without a text get their default. */
  write(texts = {}) {
    for (const [name, { control, describe }] of this.rows) {
      if (!control.write) continue;
      const text = texts[name] ?? "";
      if (control.read() !== text) control.write(text);
      describe();
    }
    this.hideUnread();
  }

  // A negative prompt that nothing reads with these settings is not asked for and not sent; its
  // text stays, and comes back with settings that read it.
  hideUnread() {
    const row = this.rows.get(NEGATIVE);
    if (row) row.element.hidden = !readsNegative(this.model, this.mode, this.texts());
  }

  /** Return the values of a request: files are Blobs. A missing file is left out. */
  async values() {
    const values = {};
    for (const [name, { field, control, element }] of this.rows) {
      if (element.hidden) continue;
      const file = control.file ? await control.file() : control.value?.();
      const text = control.read?.() ?? "";
      if (file) values[name] = file;
      else if (text !== "") values[name] = fromText(field, text);
      else if (field.required && (field.kind === "text" || field.kind === "texts")) values[name] = "";
    }
    const prompts = FIRST.map((name) => values[name]).filter((value) => value && !(value instanceof Blob));
    const weighted = prompts.flat().some((text) => WEIGHTS.notation.test(text));
    if (weighted && this.rows.has(WEIGHTS.field)) values[WEIGHTS.field] ??= WEIGHTS.value;
    return values;
  }

  /** Put a text into a field of text, at the place of the cursor, as if it was typed. */
  insert(name, text) {
    insertText(this.rows.get(name).control.input, text);
  }

  /** Set the image of a field. */
  async setImage(name, blob) {
    await this.rows.get(name)?.control.set?.(blob);
  }

  /** Set the images of the fields that take several, to none where a request has none. */
  async setImageLists(values) {
    for (const [name, { field, control }] of this.rows) {
      if (field.kind === "images") await control.set(values[name] ?? []);
    }
  }

  /** Set the images of the ControlNets of a request, if a field of it has them. */
  async setNetImages(value) {
    const images = Array.isArray(value) ? value.map((unit) => unit?.image ?? null) : [];
    await this.rows.get(NETS)?.control.setFiles(images);
  }

  /** Show an error at the field that it names and return whether there is one. */
  showError(error) {
    const row = this.rows.get(error.parameter);
    if (!row) return false;
    row.error.textContent = [error.message, error.hint].filter(Boolean).map(sentence).join(" ");
    row.error.hidden = false;
    row.control.input?.setAttribute("aria-invalid", "true");
    if (this.details.contains(row.element)) this.details.open = true;
    row.element.scrollIntoView({ block: "nearest" });
    row.control.input?.focus({ preventScroll: true });
    return true;
  }

  /** Show an error at the first file that is required and not given or of no use, and return whether there is one. */
  showMissing() {
    for (const [name, { field, control }] of this.rows) {
      if (!field.required || !control.file) continue;
      const choose = `choose ${field.kind === "image" ? "an image" : "a file"} first`;
      const message = control.isGiven() ? control.findProblem?.() : choose;
      if (message) return this.showError({ parameter: name, message });
    }
    return false;
  }

  findWrongTexts() {
    const found = [...this.rows].map(([name, { field, control, choices }]) => {
      const most = this.mostOf(name, this.model);
      return { parameter: name, message: checkText(field, control.read?.() ?? "", { choices, most }) };
    });
    return found.filter(({ message }) => message);
  }

  /** Return whether something is wrong in the texts of the fields. */
  hasWrongTexts() {
    return this.findWrongTexts().length > 0;
  }

  /** Show what is wrong in the texts of all fields and return whether something is. */
  showWrongTexts() {
    return this.findWrongTexts().map((error) => this.showError(error)).length > 0;
  }

  clearError(name) {
    const row = this.rows.get(name);
    if (!row) return;
    row.error.hidden = true;
    row.control.input?.removeAttribute("aria-invalid");
  }

  clearErrors() {
    for (const name of this.rows.keys()) this.clearError(name);
  }
}

function findFallback(field, model) {
  if (field.name === WEIGHTS.field) return WEIGHTS.value;
  const value = model.defaults?.[field.name] ?? field.default;
  return typeof value === "object" && value !== null ? (value.name ?? "") : toText(value);
}
