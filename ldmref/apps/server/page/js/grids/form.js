// @ts-check
// The form of a grid: up to three axes, and the parameters that all cells share.

import { AdapterPicker } from "../adapters.js";
import { counted, fill, h, newId } from "../dom.js";
import { START_FIELDS, createFields } from "../explorer/form.js";
import { readFields } from "../schema.js";
import { label } from "../wording.js";
import { ValuesError, explainValues, isText, readAxis } from "./values.js";

const NONE = "";
const KINDS = new Set(["text", "texts", "number", "integer", "choice", "guidance", "flag", "numbers"]);
// Parameters of every cell alike: a sheet has images of one size, and one image in a cell.
const SHARED = /^(width|height|count|batch_size|tile|upscale.*)$/;

/**
 * Return the form: {element, adapters, read() -> request or null, set(texts, axes), useModel(model), busy(state)}.
 *
 * `model` is described as by `describeModel` of the explorer; `onSubmit(request)` gets {texts, x: {name, values}, y and z
 * or null, distance}, `onChange()` follows every edit. `adapters` is the picker of LoRAs and words.
 */
export function createForm({ schema, mode, model, most, onSubmit, onChange, onCancel }) {
  let taken = model;
  let { lists } = model;
  let isAble = true; // the model has the mode
  let running = false;
  const fields = readFields(schema).filter((field) => KINDS.has(field.kind) && !SHARED.test(field.name) && (field.kind !== "numbers" || field.integers));
  const shared = createFields(schema, START_FIELDS, lists);
  const axes = { x: createAxis("x", "Columns", "sampler"), y: createAxis("y", "Rows", "steps"), z: createAxis("z", "Sheets", NONE) };
  const adapters = new AdapterPicker((word) => shared.insert("prompt", word), onChange);
  const distance = h("input", { type: "checkbox", checked: true });
  const submit = h("button", { type: "submit", class: "primary" }, "Generate the grid");
  const cancel = h("button", { type: "button", hidden: true, onclick: onCancel }, "Cancel");
  const count = h("p", { class: "soft small", role: "status" });
  const cannot = h("p", { class: "notice error", role: "status", hidden: true });
  const element = h(
    "form",
    { class: "panel grid-form", novalidate: true },
    h("h2", {}, "Parameters against each other"),
    h("div", { class: "grid-axes" }, Object.values(axes).map((axis) => axis.element)),
    shared.element,
    adapters.element,
    h("label", { class: "ex-inline" }, distance, "Measure the distance of each image from the converged image of its seed"),
    cannot,
    h("div", { class: "row" }, submit, cancel, count),
  );
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    const request = read(true);
    if (request && !adapters.showWrong()) onSubmit(request);
  });
  element.addEventListener("input", () => {
    read(false);
    onChange();
  });

  function createAxis(key, title, first) {
    const ids = [newId("axis"), newId("values"), newId("problem")];
    const name = h("select", { id: ids[0] }, key === "x" ? null : h("option", { value: NONE }, "none"), fields.map((field) => h("option", { value: field.name }, label(field.name))));
    name.value = first;
    const values = h("textarea", { id: ids[1], rows: 2, "aria-describedby": ids[2], spellcheck: "false" });
    const more = h("select", { "aria-label": `Add a name to the ${title.toLowerCase()}` });
    const problem = h("p", { id: ids[2], class: "soft small" });
    const holder = h("div", { class: "ex-field" }, h("label", { for: ids[1] }, "Values"), values, more, problem);
    const own = h("fieldset", { class: "grid-axis" }, h("legend", {}, title), h("div", { class: "ex-field" }, h("label", { for: ids[0] }, "Parameter"), name), holder);
    const refresh = () => {
      const field = find();
      holder.hidden = !field;
      const known = field ? (field.choices ?? lists[field.name]?.map((one) => one.name) ?? []) : [];
      more.hidden = known.length === 0;
      fill(more, h("option", { value: "" }, "add ..."), known.map((one) => h("option", { value: one }, one)));
      say(field ? explainValues(field) : "", false);
    };
    const find = () => fields.find((field) => field.name === name.value);
    const say = (text, wrong) => {
      problem.textContent = text;
      problem.classList.toggle("ex-failed", wrong);
      values.setAttribute("aria-invalid", String(wrong));
    };
    name.addEventListener("change", () => {
      values.value = "";
      refresh();
    });
    more.addEventListener("change", () => {
      if (more.value) values.value = [values.value.trim(), more.value].filter(Boolean).join(isText(find()) ? "; " : ", ");
      more.value = "";
      values.dispatchEvent(new Event("input", { bubbles: true }));
    });
    refresh();
    return { element: own, title: title.toLowerCase(), name, values, find, say, refresh };
  }

  // One axis as {name, values}; null without one, undefined if it is wrong (which is then said).
  function readOneAxis({ find, values, say }, strict) {
    const field = find();
    if (!field) return null;
    if (!strict && values.value.trim() === "") {
      say(explainValues(field), false);
      return undefined;
    }
    try {
      const read = readAxis(field, values.value, lists[field.name]?.map((one) => one.name) ?? null);
      say(counted(read.length, "value"), false);
      return { name: field.name, values: read };
    } catch (error) {
      if (!(error instanceof ValuesError)) throw error;
      say(error.message, true);
      return undefined;
    }
  }

  function read(strict) {
    // A parameter on an axis is not also that of all cells.
    const all = Object.values(axes);
    shared.setModel(taken, all.map(({ name }) => name.value));
    const [x, y, z] = all.map((axis) => readOneAxis(axis, strict));
    count.textContent = "";
    if ([x, y, z].includes(undefined)) return null;
    for (const [i, one] of [x, y, z].entries()) {
      const same = [x, y, z].slice(0, i).findIndex((other) => one && one.name === other?.name);
      if (same < 0) continue;
      all[i].say(`Choose another parameter than for the ${all[same].title}.`, true);
      return null;
    }
    const given = [x, y, z].filter(Boolean);
    const images = given.reduce((product, { values }) => product * values.length, 1);
    count.textContent = images > most ? `These are ${images} images; this server makes at most ${most} in one grid.` : counted(images, "image");
    if (images > most) return null;
    const texts = shared.texts();
    for (const { name } of given) delete texts[name];
    return { texts, x, y, z, distance: distance.checked };
  }

  return {
    element,
    adapters,
    read: () => read(false),
    set(texts, given) {
      shared.setTexts(texts);
      for (const [key, axis] of Object.entries(axes)) {
        if (!given[key]?.name) continue;
        axis.name.value = fields.some((field) => field.name === given[key].name) || given[key].name === NONE ? given[key].name : axis.name.value;
        axis.refresh();
        axis.values.value = given[key].values ?? "";
      }
      read(false);
    },
    // The model that the grid is made with: what it takes, and what empty fields stand for.
    useModel(other) {
      taken = other;
      ({ lists } = other);
      isAble = other.modes.includes(mode);
      cannot.hidden = isAble;
      cannot.textContent = isAble ? "" : `The model ${other.title} makes no picture from words alone. Choose another model.`;
      submit.disabled = !isAble || running;
      shared.setHints(other.defaults);
      shared.setLists(lists);
      for (const axis of Object.values(axes)) axis.refresh();
      read(false);
    },
    state() {
      const axis = ({ name, values }) => ({ name: name.value, values: values.value.trim() });
      return { p: shared.texts(), lora: adapters.texts(), x: axis(axes.x), y: axis(axes.y), z: axis(axes.z) };
    },
    busy(state) {
      running = state;
      submit.disabled = !isAble || running;
      cancel.hidden = !running;
    },
  };
}
