// @ts-check
// The address of the explorer. Run 0 has the parameters p.* and the weights of LoRAs lora.*. Each other
// run is a group, compare, compare2, ..., with the parameters that it changes, and with:
//   of         the run that it belongs to; run 0 if it is left out
//   from       the step at which it branches; left out, it starts from noise
//   model      another model
//   lora.NAME  another weight of a LoRA; 0 leaves the LoRA out
// The view is: show (the run shown), with (the run beside it, or "none"), by ("sigma"), step, word,
// open (a part of the overview), tour (its stop),
// word2 (that of the second run, if it is another one),
// pair, part, fixed, smooth, truth (compute the truth line), arcs (the steps of the flow map) and the group atlas (its panel; see atlas.js).

import { explainWeights, weightsOf } from "../adapters.js";
import { toText } from "../schema.js";
import { PARTS } from "./parts.js";

const STOPS = 8; // of the tour
export const ARCS = [1, 2, 4]; // numbers of steps of the flow map
const RESERVED = new Set(["of", "from", "model"]);
const LORA = "lora."; // before the name of a LoRA in a group
const SECOND_PASS = /^upscale/; // parameters of a second pass: what is explored is the first one
export const VIEW = { show: 0, with: null, by: "step", step: null, word: "", word2: "", open: "", tour: 0, pair: "cond-uncond", part: "brightness", fixed: false, smooth: false, truth: false, arcs: 0, atlas: null };

/** Return the runs and the view of a state: {specs, view}; specs is empty without a run. */
export function readSpecs(state) {
  const specs = [];
  if (state.p && typeof state.p === "object" && Object.keys(state.p).length > 0) {
    specs.push({ of: null, from: null, mode: state.mode ?? "txt2img", model: state.model ?? null, loras: { ...state.lora }, texts: ofFirstPass(state.p) });
    for (let i = 1; typeof state[groupName(i)] === "object"; i += 1) {
      specs.push(readChange(state[groupName(i)], i));
    }
  }
  const number = (text, last) => {
    const value = Number.parseInt(text, 10);
    return Number.isInteger(value) && value >= 0 && value <= last ? value : null;
  };
  const last = Math.max(specs.length - 1, 0);
  const view = {
    show: number(state.show, last) ?? 0,
    with: state.with === "none" ? null : number(state.with, last) ?? (specs.length > 1 ? 1 : null),
    by: state.by === "sigma" ? "sigma" : "step",
    step: number(state.step, 100_000),
    word: state.word ?? "",
    word2: state.word2 ?? "",
    open: state.open ?? "",
    tour: number(state.tour, STOPS) ?? 0,
    pair: state.pair ?? VIEW.pair,
    part: state.part ?? VIEW.part,
    fixed: state.fixed === "1",
    smooth: state.smooth === "1",
    truth: state.truth === "1",
    arcs: ARCS.includes(Number(state.arcs)) ? Number(state.arcs) : 0,
    atlas: typeof state.atlas === "object" ? { ...state.atlas } : null,
  };
  if (view.with === view.show) view.with = null;
  return { specs, view };
}

/** Return what a state names that no run has, a sentence each: its part, its stop and its step. */
export function wrongInView(state) {
  const { view } = readSpecs(state);
  const wrong = [];
  if (view.open && !PARTS.some(({ key }) => key === view.open)) wrong.push(`there is no part “${view.open}”`);
  if (state.tour && !view.tour && state.tour !== "0") wrong.push(`the tour has no stop “${state.tour}”`);
  if (state.arcs && !view.arcs && state.arcs !== "0") wrong.push(`the map has no arcs of “${state.arcs}” steps`);
  if (state.step && view.step === null) wrong.push(`there is no step “${state.step}”`);
  return wrong;
}

/** Return parameters without those of a second pass. */
export function ofFirstPass(texts) {
  return Object.fromEntries(Object.entries(texts).filter(([name]) => !SECOND_PASS.test(name)));
}

function readChange(group, index) {
  const of = Number.parseInt(group.of ?? "0", 10);
  const from = Number.parseInt(group.from ?? "", 10);
  const changes = Object.entries(group).filter(([name]) => !RESERVED.has(name));
  const loras = changes.filter(([name]) => name.startsWith(LORA));
  return {
    of: of >= 0 && of < index ? of : 0,
    from: from >= 0 ? from : null,
    model: group.model ?? null,
    loras: Object.fromEntries(loras.map(([name, text]) => [name.slice(LORA.length), text])),
    texts: Object.fromEntries(changes.filter((change) => !loras.includes(change))),
  };
}

/** Return the patch of the page's state for runs and a view, and the groups that it replaces. */
export function writeSpecs(specs, view) {
  const patch = {
    show: view.show || null,
    with: view.with === null ? (specs.length > 1 ? "none" : null) : view.with,
    by: view.by === "step" ? null : view.by,
    step: view.step,
    word: view.word || null,
    word2: view.word2 || null,
    open: view.open || null,
    tour: view.tour || null,
    pair: view.pair === VIEW.pair ? null : view.pair,
    part: view.part === VIEW.part ? null : view.part,
    fixed: view.fixed ? "1" : null,
    smooth: view.smooth ? "1" : null,
    truth: view.truth ? "1" : null,
    arcs: view.arcs || null,
    atlas: view.atlas,
  };
  if (specs.length > 1 && view.show === 0 && view.with === 1) patch.with = null;
  const groups = ["p", "lora", "atlas"];
  for (let i = 1; i <= 64; i += 1) groups.push(groupName(i));
  if (isReadyAlone(specs)) return { patch, clear: groups.slice(2) };
  if (specs.length && specs[0].texts) {
    patch.mode = specs[0].mode;
    patch.model = specs[0].model;
    patch.p = { ...specs[0].texts };
    patch.lora = { ...specs[0].loras };
    specs.slice(1).forEach(({ of, from, model, loras, texts }, i) => {
      const weights = Object.fromEntries(Object.entries(loras ?? {}).map(([name, text]) => [`${LORA}${name}`, text]));
      patch[groupName(i + 1)] = { ...(of ? { of } : {}), ...(from === null ? {} : { from }), ...(model ? { model } : {}), ...weights, ...texts };
    });
  }
  return { patch, clear: groups };
}

/** Whether nothing but the ready run is shown: the address of the view is then enough. */
export function isReadyAlone(specs) {
  return specs.length === 1 && Boolean(specs[0].ready);
}

function groupName(index) {
  return index === 1 ? "compare" : `compare${index}`;
}

/**
 * Return what a source has to make for run `index`: {mode, model, loras, texts, branches}. `loras` are
 * weights by name, `texts` the parameters from noise on, and `branches` the changes on the way, [{step,
 * texts}].
 */
export function describeRequest(specs, index) {
  const spec = specs[index];
  if (spec.of === null) return { mode: spec.mode, model: spec.model, loras: { ...spec.loras }, texts: spec.texts, branches: [] };
  const trunk = describeRequest(specs, spec.of);
  if (spec.from !== null) {
    return { ...trunk, branches: [...trunk.branches, { step: spec.from, texts: spec.texts }] };
  }
  const loras = changeLoras(trunk.loras, spec.loras ?? {});
  return { mode: trunk.mode, model: spec.model ?? trunk.model, loras, texts: { ...trunk.texts, ...spec.texts }, branches: trunk.branches };
}

/** Return weights {name: text} after changes; one of 0 leaves its LoRA out. */
function changeLoras(loras, changes) {
  const left = Object.entries({ ...loras, ...changes }).filter(([name, text]) => !(name in changes) || Number(text) !== 0);
  return Object.fromEntries(left);
}

/** Return the changes that make other weights {name: text} of these. */
export function diffLoras(loras, wanted) {
  const gone = Object.keys(loras).filter((name) => !(name in wanted));
  const changed = Object.entries(wanted).filter(([name, text]) => loras[name] !== text);
  return Object.fromEntries([...gone.map((name) => [name, "0"]), ...changed]);
}

/** Return the runs without run `index` and those that branched from it, and the map of old to new. */
export function removeSpec(specs, index) {
  const gone = new Set([index]);
  specs.forEach((spec, i) => gone.has(spec.of) && gone.add(i));
  const places = new Map();
  specs.forEach((_, i) => !gone.has(i) && places.set(i, places.size));
  const kept = specs.filter((_, i) => !gone.has(i)).map((spec) => ({ ...spec, of: spec.of === null ? null : places.get(spec.of) }));
  return { kept, places };
}

/**
 * Return the spec that makes the run of a record again, or null: without a source, for a branch,
 * for parameters that the address cannot hold (images, arrays), and for LoRAs that the source lacks.
 */
export function specOf(meta, specs, source) {
  const schema = source.modes?.[meta.mode];
  if (!schema || !source.record || meta.branch || specs.some((spec) => !spec.texts)) return null;
  const texts = {};
  for (const [name, value] of Object.entries(meta.params ?? {})) {
    const property = schema.properties[name];
    if (!property || value === null || SECOND_PASS.test(name) || toText(value) === toText(property.default)) continue;
    if (property.contentEncoding || (typeof value === "object" && name !== "guidance" && name !== "sigmas")) return null;
    texts[name] = toText(value);
  }
  const made = meta.model ? (source.models ?? []).findIndex((model) => isSame(model, meta.model)) : 0;
  const model = made > 0 ? source.models[made].name : null; // the default stands in no address
  const loras = weightsOf(meta.params?.model?.loras);
  if (explainWeights(source.models?.[Math.max(made, 0)], loras)) return null;
  if (specs.length === 0) return { of: null, from: null, mode: meta.mode, model, loras, texts };
  const base = specs[0];
  if (base.mode !== meta.mode || Object.keys(base.texts).some((name) => !(name in texts))) return null;
  const changes = Object.entries(texts).filter(([name, text]) => base.texts[name] !== text);
  const changed = diffLoras(base.loras ?? {}, loras);
  return { of: 0, from: null, model: model === base.model ? null : model, loras: changed, texts: Object.fromEntries(changes) };
}

/** Whether a model of the server is the one that a record names, apart from LoRAs of the request. */
export function isSame(model, made) {
  const apart = new Set(["name", "sha256", "loras", "embeddings"]);
  const changed = model.modifications?.length || Object.keys(made).some((name) => !apart.has(name));
  return !changed && model.family === made.name && (model.sha256 ?? made.sha256) === made.sha256;
}
