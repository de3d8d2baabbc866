// @ts-check
// A control for each kind of field. A control is {element, input, read(), write(text)}: `read`
// returns the text of the field ("" is the default), and `write` sets it.

import { h, newId } from "./dom.js";
import { iconButton } from "./icons.js";
import { readNumber } from "./numbers.js";
import { toText } from "./schema.js";

const LONG_TEXTS = /^(negative_)?prompt/; // texts of several lines, by their names

/** Return the control of a field; `hints` is {fallback, choices} from the server. */
export function makeControl(field, hints, changed) {
  if (field.kind === "flag") return flagControl(field, changed);
  if (hints.choices || field.kind === "choice") return choiceControl(field, hints, changed);
  if (field.kind === "text" || field.kind === "texts") return textControl(field, hints, changed);
  if (field.name === "seed") return seedControl(field, hints, changed);
  const bounded = field.minimum === 0 && field.maximum === 1 && typeof field.default === "number";
  return bounded ? shareControl(field, hints, changed) : numberControl(field, hints, changed);
}

function wrap(input, changed, element = input) {
  input.addEventListener("input", changed);
  return {
    element,
    input,
    read: () => input.value,
    write(text) {
      input.value = text;
    },
  };
}

function textControl(field, hints, changed) {
  const long = LONG_TEXTS.test(field.name);
  const input = h(long ? "textarea" : "input", {
    id: newId(field.name),
    rows: long ? (field.name === "negative_prompt" ? "1" : "3") : null,
    type: long ? null : "text",
    autocomplete: "off",
    spellcheck: "false",
  });
  return wrap(input, changed);
}

function numberControl(field, hints, changed) {
  const input = h("input", {
    id: newId(field.name),
    type: "text",
    inputmode: field.kind === "integer" ? "numeric" : "decimal",
    autocomplete: "off",
    class: "numbers",
    placeholder: hints.fallback,
  });
  const step = field.kind === "integer" ? 1 : 0.5;
  input.addEventListener("keydown", (event) => {
    const sign = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!sign || field.kind === "numbers") return;
    const before = Number(readNumber(input.value || hints.fallback));
    if (!Number.isFinite(before)) return;
    event.preventDefault();
    const low = field.minimum ?? -Infinity;
    const high = field.maximum ?? Infinity;
    input.value = String(Math.min(high, Math.max(low, before + sign * step)));
    changed();
  });
  return wrap(input, changed);
}

function seedControl(field, hints, changed) {
  const control = numberControl(field, { ...hints, fallback: "random" }, changed);
  const roll = () => {
    control.write(String(crypto.getRandomValues(new Uint32Array(1))[0]));
    changed();
  };
  const dice = iconButton("dice", "Choose a random seed", roll);
  return { ...control, element: h("div", { class: "joined" }, control.input, dice) };
}

// A number from 0 to 1 with a default: a slider beside the text.
function shareControl(field, hints, changed) {
  const control = numberControl(field, hints, changed);
  const slider = h("input", {
    type: "range",
    min: "0",
    max: "1",
    step: "0.01",
    "aria-label": `${field.label}, slider`,
  });
  const follow = () => {
    const value = Number(readNumber(control.input.value || String(field.default)));
    if (Number.isFinite(value)) slider.value = String(value);
  };
  slider.addEventListener("input", () => {
    control.input.value = slider.value;
    changed();
  });
  control.input.addEventListener("input", follow);
  control.input.addEventListener("keydown", () => queueMicrotask(follow));
  follow();
  return {
    ...control,
    element: h("div", { class: "share" }, slider, control.input),
    write(text) {
      control.input.value = text;
      follow();
    },
  };
}

function choiceControl(field, hints, changed) {
  const choices = hints.choices ?? field.choices.map((name) => ({ name }));
  const fallback = hints.fallback ? `${hints.fallback} (default)` : "default";
  const input = h(
    "select",
    { id: newId(field.name) },
    h("option", { value: "" }, fallback),
    choices.map(({ name }) => h("option", { value: name }, name)),
  );
  return {
    ...wrap(input, changed),
    write(text) {
      const known = text === "" || choices.some(({ name }) => name === text);
      if (!known) input.append(h("option", { value: text }, text)); // an alias, or a value to refuse
      input.value = text;
    },
  };
}

function flagControl(field, changed) {
  if (field.optional) {
    const choices = [{ name: "true" }, { name: "false" }];
    return choiceControl(field, { fallback: "automatic", choices }, changed);
  }
  const input = h("input", { id: newId(field.name), type: "checkbox" });
  input.addEventListener("input", changed);
  return {
    element: input,
    input,
    read: () => (input.checked === Boolean(field.default) ? "" : String(input.checked)),
    write(text) {
      input.checked = text === "" ? Boolean(field.default) : text === "true";
    },
  };
}

/**
 * Return the control of guidance: a rule, and a number for each of its parameters. `rules` are
 * {name, summary, parameters, defaults} of the server, with a schema for each parameter.
 */
export function guidanceControl(field, hints, rules, changed) {
  const select = choiceControl(field, { ...hints, choices: rules }, () => {
    showParameters({});
    changed();
  });
  const more = h("div", { class: "fields nested" });
  let inputs = new Map();
  const showParameters = (values) => {
    const rule = rules.find(({ name }) => name === select.read());
    inputs = new Map();
    const rows = Object.entries(rule?.parameters ?? {}).map(([name, parameter]) => {
      const given = values[name] === undefined ? "" : toText(values[name]);
      const input = h("input", {
        id: newId(name),
        type: "text",
        inputmode: "decimal",
        placeholder: toText(rule.defaults?.[name] ?? parameter.default),
        title: parameter.description ?? null,
      });
      input.value = given;
      input.addEventListener("input", changed);
      inputs.set(name, input);
      return h("div", { class: "field" }, h("label", { for: input.id }, name), input);
    });
    more.replaceChildren(...rows);
  };
  return {
    ...select,
    element: h("div", { class: "stack" }, select.element, more),
    read() {
      const name = select.read();
      const given = [...inputs].filter(([, input]) => input.value.trim() !== "");
      if (!name || !given.length) return name;
      const values = given.map(([key, input]) => [key, readOption(input.value.trim())]);
      return JSON.stringify({ name, ...Object.fromEntries(values) });
    },
    write(text) {
      const value = text.startsWith("{") ? JSON.parse(text) : { name: text };
      select.write(value.name ?? "");
      showParameters(value);
    },
  };
}

function readOption(text) {
  const numbers = text.split(/\s*\+\s*|,\s+/).map((part) => readNumber(part));
  if (numbers.length > 1 && numbers.every((number) => number !== undefined)) return numbers;
  if (text === "true" || text === "false") return text === "true";
  return readNumber(text) ?? text;
}
