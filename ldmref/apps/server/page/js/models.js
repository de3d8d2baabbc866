// @ts-check
// The models of the server: the one that is chosen, and what it takes. The choice is part of the
// address; the first model is the default and stands in no address.

import { MODE_ORDER, modeName } from "./wording.js";

const LISTS = { sampler: "samplers", schedule: "schedules", guidance: "guidances" };

/** Return the model of a name; the default for a name that is not there, or for none. */
export function findModel({ models }, name) {
  return models.find((model) => model.name === name) ?? models[0];
}

/** Return the name of a model in addresses and requests: undefined for the default. */
export function nameOf({ models }, model) {
  return model === models[0] ? undefined : model.name;
}

/** Return the modes of a model, in the order of the page. */
export function modesOf({ modes }, model) {
  const offered = model.modes ?? Object.keys(modes);
  return [...new Set([...MODE_ORDER, ...offered])].filter((mode) => offered.includes(mode));
}

/** Return the summary of the mode that is shown, after a sentence if the model lacks the wanted one. */
export function describeMode({ modes }, model, wanted, shown) {
  const missing = Object.hasOwn(modes, wanted ?? "") && !modesOf({ modes }, model).includes(wanted);
  const { summary = "" } = modes[shown];
  return missing ? `The model ${model.name} cannot do “${modeName(wanted)}”. ${summary}` : summary;
}

/** Return what a model takes by field, {sampler: [{name, summary, ...}], ...}, in the server's order. */
export function choicesOf(capabilities, model) {
  const own = (field) => {
    const taken = model.choices?.[field];
    return (capabilities[LISTS[field]] ?? []).filter(({ name }) => !taken || taken.includes(name));
  };
  return Object.fromEntries(Object.keys(LISTS).map((field) => [field, own(field)]));
}

/** Return whether a model reads the negative prompt in a mode, with the texts of a form. */
export function readsNegative(model, mode, texts) {
  const { negative_prompt: uses, defaults = {} } = model;
  if (!uses || uses.samplers.includes(texts.sampler || defaults.sampler)) return true;
  const guidance = guidanceName(texts.guidance);
  const use = uses.guidances[guidance] ?? "guided";
  if (use !== "guided") return use === "always";
  const usual = mode === "inpaint" ? defaults.inpaint_cfg_scale : defaults.cfg_scale;
  const scales = [texts.cfg_scale || (uses.scales[guidance] ?? usual), texts.source_cfg_scale];
  return scales.some((scale) => Boolean(scale) && Number(scale) !== 1);
}

// A guidance is a name, or a table with the name and parameters, which a form writes as JSON.
function guidanceName(guidance) {
  if (!guidance) return "";
  if (typeof guidance === "object") return guidance.name;
  return guidance.startsWith("{") ? JSON.parse(guidance).name : guidance;
}

/**
 * Return a sentence if an address names a model that is not served, and "" otherwise. `shown` is
 * the one that is shown instead.
 */
export function explainGone({ models }, name, shown) {
  if (!name || models.some((model) => model.name === name)) return "";
  return `The model “${name}” of this link is not served here, so the page shows “${shown}”.`;
}
