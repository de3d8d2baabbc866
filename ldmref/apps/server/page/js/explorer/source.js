// @ts-check
// A server as a source of runs. A source is an object with any of these actions:
//
//   record(request, {signal, progress, preview}) -> ArrayBuffer      a run record
//   truth(request, {signal, progress}) -> ArrayBuffer       the same record with its truth line
//   check(request)                                          throws if a link names what is not there
//   inside(request, step, {signal, progress}) -> ArrayBuffer        what the networks compute (inside.js)
//   ready                                                   a run that is there already (ready.js)
//   schedules {list() -> rows, make(request) -> schedules}         flow schedules of other programs (atlas.js)
//   inspect(file, model) -> {request, notes}                the run that an image file records
//   decode({latents, shape, model, served}, signal) -> [ImageBitmap, ...]
//
// and, for the forms, modes {name: schema}, models, and modelOf(name) -> what a model takes, as
// describeModel returns it. `request` is {mode, model, loras, texts, branches}, as describeRequest of
// specs.js returns it.

import { adapterKeys, explainWeights, weightsOf } from "../adapters.js";
import { choicesOf, findModel, modesOf, nameOf } from "../models.js";
import { toText, writeParameters } from "../schema.js";
import { MODE, readTexts } from "./form.js";
import { ofFirstPass } from "./specs.js";

/**
 * Return what the forms of a run need to know of a model: its name (null for the default), the names
 * that it takes by field, the fields that it has no use for, the values that empty fields stand for,
 * prompts to try, its modes, and what the server says of it.
 */
export function describeModel(capabilities, model) {
  const named = Object.entries(choicesOf(capabilities, model));
  const lists = named.map(([field, rows]) => [field, rows.map(({ name, summary }) => ({ name, text: summary }))]);
  const defaults = Object.entries(model.defaults).map(([name, value]) => [name, toText(value)]);
  const prompts = model.prompts ?? [];
  return {
    name: nameOf(capabilities, model) ?? null,
    title: model.name,
    lists: Object.fromEntries(lists),
    unused: model.unused ?? [],
    defaults: { ...Object.fromEntries(defaults), ...(prompts.length ? { prompt: prompts[0] } : {}) },
    prompts,
    modes: modesOf(capabilities, model),
    served: model,
  };
}

export function serverSource({ api, capabilities }) {
  const modes = Object.fromEntries(Object.entries(capabilities.modes).map(([name, { schema }]) => [name, schema]));

  // The fields of a request that say which run is meant.
  function describe({ mode, model, loras, texts, branches }) {
    const schema = Object.hasOwn(modes, mode) ? modes[mode] : null;
    if (!schema) throw new Error(`The server has no mode ${mode}`);
    const parameters = readTexts(schema, texts);
    const run = { mode, parameters, ...(model ? { model } : {}) };
    const described = branches.reduce(
      (trunk, { step, texts: changed }) => ({ trunk, step, changes: readTexts(schema, changed), ...(model ? { model } : {}) }),
      run,
    );
    return { ...described, ...adapterKeys(findModel(capabilities, model), loras, [texts, ...branches.map((branch) => branch.texts)]) };
  }

  // Refuse names that the mode lacks: they come from a link, and would be left out silently.
  function check({ mode, model, loras, texts, branches }) {
    const known = Object.hasOwn(modes, mode) ? modes[mode].properties : {};
    const given = [texts, ...branches.map((branch) => branch.texts)].flatMap(Object.keys);
    const unknown = given.filter((name) => !Object.hasOwn(known, name));
    if (Object.hasOwn(modes, mode) && unknown.length) throw new Error(`There is no setting “${unknown.join("”, “")}”`);
    const wrong = explainWeights(findModel(capabilities, model), loras);
    if (wrong) throw new Error(wrong);
  }

  // Run a job to its end and return its description.
  async function finish(body, { signal, progress, preview }) {
    const job = await api.submit({ ...body, attended: true }, signal);
    const cancel = () => api.cancel(job.id).catch(() => {});
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      const ended = await api.events(
        job,
        {
          queued: ({ position }) => progress?.(null, position ? `Waiting behind ${position}` : "Waiting"),
          started: () => progress?.(0, "Running"),
          progress: ({ step, steps }) => progress?.(steps ? step / steps : null, `Step ${step} of ${steps}`),
          preview: ({ image, step }) => preview?.(image, step),
          lost: () => progress?.(null, "The server does not answer; trying again"),
          found: () => progress?.(null, "Reconnected"),
        },
        signal,
      );
      if (ended.state === "cancelled") throw new DOMException("cancelled", "AbortError");
      if (ended.state === "failed") throw Object.assign(new Error(ended.error.message), ended.error);
      return ended;
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  function recordOf({ files }) {
    return api.bytes(files.find(({ name }) => name === "record.safetensors").url);
  }

  return {
    ready: null,
    check,
    modes,
    modelOf: (name) => describeModel(capabilities, findModel(capabilities, name)),
    models: capabilities.models,
    schedules: { list: api.schedules, make: api.makeSchedules },
    async record(request, hooks) {
      const described = describe(request);
      return recordOf(await finish({ kind: described.trunk ? "branch" : "record", ...described }, hooks));
    },
    async truth(request, hooks) {
      return recordOf(await finish({ kind: "truth", ...describe(request) }, hooks));
    },
    async inside(request, step, hooks) {
      const ended = await finish({ kind: "inside", ...describe(request), step }, hooks);
      return api.bytes(ended.files[0].url);
    },
    async inspect(file, name) {
      const model = findModel(capabilities, name);
      return readRun(file.name, await api.inspect(file, model.name), { capabilities, model });
    },
    // By the model that made the latents; `model` is its own name, for runs that are from elsewhere.
    async decode({ latents, shape, model, served }, signal) {
      const named = capabilities.models.find(({ name, family }) => name === model || family === model);
      const known = served === undefined ? named : findModel(capabilities, served);
      const body = { kind: "decode", latents: toBase64(writeNpy(latents, shape)), ...(known ? { model: known.name } : {}) };
      const ended = await finish(body, { signal, progress: null, preview: null });
      return Promise.all(ended.files.map(async ({ url }) => createImageBitmap(await api.blob(url))));
    },
  };
}

// The run of an image, from what the server found in its file. The error says why there is none.
function readRun(file, found, { capabilities, model }) {
  const refuse = (why) => {
    throw new Error([`${file}: ${why}`, ...found.notes].join(". "));
  };
  if (!found.mode) refuse("this image does not record how it was made");
  if (found.mode !== MODE) refuse(`this image was made by ${found.mode}, and only runs of ${MODE} are explored`);
  if (found.missing.length || found.parameters.control) refuse("its run began with other files, which the image does not contain");
  const names = capabilities.models.map(({ name }) => name).filter((name) => found.models.includes(name));
  const own = names.length === 0 || names.includes(model.name) ? model : findModel(capabilities, names[0]);
  const made = found.model?.name ?? "another model";
  const notes = [...(found.model?.sha256 && names.length === 0 ? [`It was made with ${made}, so the image will differ`] : []), ...found.notes];
  const texts = writeParameters(ofFirstPass(found.parameters));
  const request = { mode: MODE, model: nameOf(capabilities, own) ?? null, texts, loras: weightsOf(found.model?.loras) };
  return { request, notes };
}

// Numbers as the bytes of a .npy file.
function writeNpy(numbers, shape) {
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")}), }`;
  const header = text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11) + "\n";
  const start = new TextEncoder().encode(`NUMPY\x01\x00${String.fromCharCode(header.length)}\x00${header}`);
  const values = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
  const bytes = new Uint8Array(1 + start.length + values.length);
  bytes[0] = 0x93;
  bytes.set(start, 1);
  bytes.set(values, 1 + start.length);
  return bytes;
}

function toBase64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  }
  return btoa(text);
}
