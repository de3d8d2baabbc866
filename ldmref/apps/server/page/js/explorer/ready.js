// @ts-check
// The run that comes with the page: something moves before anything was asked for. It is a record
// file like any other, made by scripts/make_ready_run.py with the model in the package.

import { fetchFrames } from "../frames.js";
import { readRecord } from "../record.js";
import { toText } from "../schema.js";
import { describeRequest, isSame, specOf } from "./specs.js";

const FILE = new URL("../../ready/run.safetensors", import.meta.url).href;
const INSIDE = new URL("../../ready/inside.safetensors", import.meta.url).href;

/** Return the record of the ready run; null if it cannot be read, and the page begins with a form. */
export async function fetchReady() {
  try {
    const answer = await fetch(FILE);
    return answer.ok ? readRecord(await answer.arrayBuffer()) : null;
  } catch (error) {
    console.info(`No ready run: ${error.message}`);
    return null;
  }
}

/** Return the decoded images of the ready run by position, {x, x0}; null if they cannot be read. */
export async function fetchDecoded() {
  try {
    const { sheet, side, last } = await fetchFrames();
    const cut = (row, count) => Promise.all(Array.from({ length: count }, (_, k) => createImageBitmap(sheet, k * side, row * side, side, side)));
    return { x: await cut(0, last + 1), x0: await cut(1, last) };
  } catch (error) {
    console.info(`No frames of the ready run: ${error.message}`);
    return null;
  }
}

/** Return what the networks computed in the steps of the ready run, a file as `inside.js` reads it. */
export async function fetchReadyInside() {
  return (await fetch(INSIDE)).arrayBuffer();
}

/**
 * Return the ready run as a part of a source: {record, spec, request, own}. `own` says whether the
 * source has the model that made it; only then can it be branched from, decoded and made again.
 */
export function placeReady(record, source) {
  const made = record.meta.model;
  const index = source.models.findIndex((model) => isSame(model, made));
  const own = index >= 0;
  const spec = own ? specOf(record.meta, [], source) : null;
  if (!spec) return { record, own: false, request: null, spec: { of: null, from: null, texts: null, file: "ready", ready: true } };
  // What the model does anyway is no part of an address.
  for (const [name, value] of Object.entries(source.models[index].defaults)) {
    if (spec.texts[name] === toText(value)) delete spec.texts[name];
  }
  return { record, own, request: format(describeRequest([spec], 0)), spec: { ...spec, ready: true } };
}

/** Say where a run comes from, if nobody has asked for it. `chosen` is the model of the next run. */
export function describeOrigin(run, spec, chosen) {
  if (!run.foreign && !spec.ready) return "";
  const isOther = Boolean(chosen) && spec.model !== chosen.name;
  if (!run.foreign && !isOther) return "This run comes with the page. Type other words to see one of your own.";
  const { name } = run.meta.model ?? {};
  const next = run.foreign ? "the model of this server" : chosen.title;
  return `This run was made by the model ${name}, which comes with ldmref. Type words to see a run of ${next}.`;
}

/** Whether the ready run is what a spec asks for, so that nobody has to make it. */
export function isReady(ready, spec, request) {
  if (!ready) return false;
  return spec.texts ? format(request) === ready.request : Boolean(spec.ready);
}

function format({ mode, model, loras, texts, branches }) {
  return JSON.stringify([mode, model, loras, Object.entries(texts).sort(), branches]);
}
