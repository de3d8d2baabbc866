// @ts-check
// Forms for the parameters of a run. The fields come from the schema of the mode.

import { h, insertText, newId } from "../dom.js";
import { readsNegative } from "../models.js";
import { fromText, readFields } from "../schema.js";
import { inPageWords, label } from "../wording.js";

export const MODE = "txt2img"; // the mode of the forms; records of every mode can be opened
export const START_FIELDS = ["prompt", "negative_prompt", "seed", "steps", "cfg_scale", "sampler", "schedule", "guidance", "eta"];
// Parameters that a run can change on the way: they leave the state and its noise levels readable.
export const BRANCH_FIELDS = ["prompt", "negative_prompt", "steps", "cfg_scale", "sampler", "schedule", "guidance", "eta"];

/**
 * Return a group of fields: {element, texts(), setTexts(texts), setHints(hints), setLists(lists),
 * setModel(model, varied), insert(name, word), focus()}.
 *
 * `schema` is that of the mode, `names` the fields wanted, and `lists` the known names by field,
 * {sampler: [{name, text}], ...}. An empty field means: unchanged; a hidden one is empty. Fields that
 * the model does not use are hidden: `setModel` takes what `describeModel` returns, and the names of
 * fields with many values, which are not asked for here.
 */
export function createFields(schema, names, lists) {
  const known = new Map(readFields(schema).map((field) => [field.name, field]));
  const inputs = new Map();
  const element = h("div", { class: "ex-fields" });
  let model = null;
  let varied = [];
  let hinted = {};
  for (const name of names.filter((one) => known.has(one))) {
    const field = known.get(name);
    const id = newId(name);
    const input = makeInput(field, lists[name], id);
    const row = h("div", { class: `ex-field ${name}` }, h("label", { for: id }, label(name)), input);
    inputs.set(name, { field, input, row });
    element.append(row);
  }
  const filled = () => Object.fromEntries([...inputs].map(([name, { input }]) => [name, input.value.trim() || hinted[name]]));
  const variedScale = () => (varied.includes("cfg_scale") ? { cfg_scale: "2" } : {}); // not 1 in every image
  const hide = () => {
    if (!model) return;
    const reads = varied.includes("guidance") || varied.includes("sampler") || readsNegative(model.served, MODE, { ...filled(), ...variedScale() });
    const left = [...model.unused, ...varied, ...(reads ? [] : ["negative_prompt"])];
    for (const [name, { row }] of inputs) row.hidden = left.includes(name);
  };
  element.addEventListener("input", hide);
  return {
    element,
    texts() {
      const texts = {};
      for (const [name, { input, row }] of inputs) {
        if (!row.hidden && input.value.trim() !== "") texts[name] = input.value.trim();
      }
      return texts;
    },
    setTexts(texts) {
      for (const [name, { input }] of inputs) setValue(input, texts[name] ?? "");
      hide();
    },
    // The values that empty fields stand for.
    setHints(hints) {
      hinted = hints;
      for (const [name, { input }] of inputs) {
        const hint = hints[name] ?? "";
        if (input.tagName === "SELECT") input.options[0].textContent = hint ? String(hint) : "default";
        else input.placeholder = String(hint);
      }
      hide();
    },
    // The names that another model knows; a chosen one that it lacks is given up.
    setLists(others) {
      for (const [name, { input }] of inputs) {
        if (input.tagName !== "SELECT" || !others[name]) continue;
        const { value } = input;
        input.replaceChildren(input.options[0], ...makeOptions(others[name]));
        input.value = others[name].some((one) => one.name === value) ? value : "";
      }
    },
    setModel(other, manyValued = []) {
      model = other;
      varied = manyValued;
      hide();
    },
    // An empty field stands for its hint, so that is what a word is added to.
    insert(name, word) {
      const { input } = inputs.get(name);
      input.value ||= input.placeholder;
      insertText(input, word);
    },
    focus() {
      inputs.values().next().value?.input.focus();
    },
  };
}

function makeInput(field, list, id) {
  if (list?.length) {
    return h("select", { id, title: inPageWords(field.help) }, h("option", { value: "" }, ""), makeOptions(list));
  }
  if (field.name === "prompt") return h("input", { id, type: "text", maxlength: 2000, title: inPageWords(field.help) });
  const numeric = field.kind === "integer" || field.kind === "number";
  return h("input", { id, type: "text", inputmode: numeric ? "decimal" : null, autocomplete: "off", title: inPageWords(field.help) });
}

function makeOptions(list) {
  return list.map(({ name, text }) => h("option", { value: name, title: text ?? "" }, name));
}

function setValue(input, text) {
  const missing = input.tagName === "SELECT" && ![...input.options].some((option) => option.value === text);
  if (missing) input.append(h("option", { value: text }, text));
  input.value = text;
}

/** Return the values of texts by the schema of the mode. */
export function readTexts(schema, texts) {
  const values = {};
  for (const field of readFields(schema)) {
    const value = typeof texts[field.name] === "string" ? fromText(field, texts[field.name]) : undefined;
    if (value !== undefined) values[field.name] = value;
  }
  return values;
}
