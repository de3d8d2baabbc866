// The form of a run: prompt, negative prompt, seed, steps, guidance and sampler.

import { h, newId } from "../../shared/js/dom.js";

const LAST_SEED = 2n ** 64n - 1n;
const SAMPLER_NAMES = { euler: "Euler", dpmpp_2m: "DPM++ 2M" };
const NAMES = ["prompt", "negative_prompt", "seed", "steps", "cfg_scale", "sampler"];

/** Return the form: {element, read(), write(values), setRunning(running)}. */
export function createForm(parameters, { onGenerate, onCancel }) {
  const { steps, cfg_scale: guidance, sampler } = parameters;
  const inputs = {
    prompt: h("input", { type: "text", maxlength: parameters.prompt.maximum, required: true, autocomplete: "off" }),
    negative_prompt: h("input", { type: "text", maxlength: parameters.prompt.maximum, autocomplete: "off", placeholder: "nothing" }),
    seed: h("input", { type: "text", inputmode: "numeric", autocomplete: "off" }),
    steps: h("input", { type: "number", min: steps.minimum, max: steps.maximum, step: 1 }),
    cfg_scale: h("input", { type: "number", min: guidance.minimum, max: guidance.maximum, step: "any" }),
    sampler: h("select", {}, sampler.names.map((name) => h("option", { value: name }, SAMPLER_NAMES[name] ?? name))),
  };
  const labels = {
    prompt: "Prompt", negative_prompt: "Negative prompt", seed: "Seed", steps: "Steps", cfg_scale: "Guidance w", sampler: "Sampler",
  };
  const errors = {};
  const fields = NAMES.map((name) => {
    const id = newId(name);
    errors[name] = h("p", { class: "br-error small", id: `${id}-error`, hidden: true });
    inputs[name].id = id;
    inputs[name].setAttribute("aria-describedby", `${id}-error`);
    return h("div", { class: `ex-field ${name}` }, h("label", { for: id }, labels[name]), inputs[name], errors[name]);
  });
  const generate = h("button", { type: "submit", class: "primary" }, "Generate");
  const cancel = h("button", { type: "button", hidden: true, onclick: onCancel }, "Cancel");
  const dice = h("button", { type: "button", onclick: () => { inputs.seed.value = randomSeed(); } }, "Random seed");
  const element = h("form", { novalidate: true }, h("div", { class: "ex-fields" }, fields), h("div", { class: "row" }, generate, cancel, dice));
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    const values = read();
    if (values) onGenerate(values);
  });

  function read() {
    const values = { sampler: inputs.sampler.value, negative_prompt: inputs.negative_prompt.value };
    const problems = {};
    values.prompt = inputs.prompt.value;
    if (values.prompt.trim() === "") problems.prompt = 'describe an image, for example "a red heart"';
    values.seed = inputs.seed.value.trim();
    if (!/^\d+$/.test(values.seed) || BigInt(values.seed) > LAST_SEED) problems.seed = "a whole number from 0 to 2^64 - 1";
    values.steps = Number(inputs.steps.value || NaN);
    if (!Number.isInteger(values.steps) || values.steps < steps.minimum || values.steps > steps.maximum) {
      problems.steps = `a whole number from ${steps.minimum} to ${steps.maximum}`;
    }
    values.cfg_scale = Number(inputs.cfg_scale.value || NaN);
    if (!(values.cfg_scale >= guidance.minimum && values.cfg_scale <= guidance.maximum)) {
      problems.cfg_scale = `a number from ${guidance.minimum} to ${guidance.maximum}`;
    }
    for (const name of NAMES) {
      inputs[name].setAttribute("aria-invalid", String(name in problems));
      errors[name].hidden = !(name in problems);
      errors[name].textContent = problems[name] ?? "";
    }
    const first = NAMES.find((name) => name in problems);
    if (first) inputs[first].focus();
    return first ? null : values;
  }

  return {
    element,
    read,
    write(values) {
      for (const name of NAMES) if (values[name] !== undefined) inputs[name].value = values[name];
    },
    setRunning(running) {
      generate.disabled = running;
      cancel.hidden = !running;
    },
  };
}

/** Return a random seed below 2^32 as text. */
export function randomSeed() {
  return String(crypto.getRandomValues(new Uint32Array(1))[0]);
}
