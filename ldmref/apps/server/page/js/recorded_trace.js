// @ts-check
// A recorded run: a trace in one safetensors file (docs/traces.md), whose calls are one step each.
// Here its steps become tensors of all steps, as the explorer shows them.

import { RecordError } from "./record_error.js";

export const FORMAT = "ldmref-trace";
const VERSION = 1;
const STEP = /^sampler\.(\d+)$/;
const SCHEDULE = /^schedule(~\d+)?$/;
const FADES = { ve: 0, flow: 1 }; // f of the paths x = (1 - f sigma) x0 + sigma eps
/** Return how much the picture counts in a state of a path; older records are on "ve". */
export const alphaOf = (path, sigma) => 1 - FADES[path ?? "ve"] * sigma;

const PURE_NOISE = 2 ** 40; // the ratio of noise to data where no data is left
// x0 from what the network predicted, of x = alpha x0 + sigma eps.
const TO_X0 = {
  eps: (x, y, alpha, sigma) => (x - sigma * y) / alpha,
  v: (x, y, alpha, sigma) => ((alpha * x) / Math.hypot(alpha, sigma) - sigma * y) / Math.hypot(alpha, sigma),
  x0: (_x, y) => y,
  flow: (x, y, alpha, sigma) => (x - sigma * y) / (alpha + sigma),
};

// Return {meta, tensors} of a trace, from the metadata and tensors of its file.
export function stackTrace(metadata, stored) {
  const manifest = parse(metadata.manifest, "manifest");
  const shared = metadata.shared ? parse(metadata.shared, "shared") : {};
  if (manifest.version !== VERSION) {
    throw new RecordError(`This page reads traces of version ${VERSION}; the file has ${manifest.version}.`);
  }
  if (manifest.seeds?.length > 1) {
    throw new RecordError(`The page shows runs of one image; this is one of ${manifest.seeds.length}.`);
  }
  const entries = Array.isArray(manifest.entries) ? manifest.entries : [];
  const calls = new Map(entries.filter(({ layer }) => layer === "").map((entry) => [entry.call, entry]));
  const find = (name) => (Object.hasOwn(stored, name) ? stored[name] : stored[shared[name]]);
  const read = (name) => {
    const tensor = find(name);
    if (tensor === undefined) throw new RecordError(`The recorded run has no tensor "${name}".`);
    return tensor;
  };
  const steps = readSteps(calls, read, find);
  const tensors = stackSteps(steps);
  tensors.image = dropFirst(read("image//output"));
  addOthers(tensors, manifest, find);
  return { meta: describe(manifest, calls, steps), tensors };
}

function readSteps(calls, read, find) {
  const names = [...calls.keys()].filter((name) => STEP.test(name));
  const numbered = names.map((name) => ({ name, number: Number(name.match(STEP)[1]) }));
  numbered.sort((a, b) => a.number - b.number);
  if (numbered.length === 0) throw new RecordError("This trace has no steps of a sampler.");
  const order = [...calls.keys()];
  const schedules = order.filter((name) => SCHEDULE.test(name));
  return numbered.map(({ name }, k) => {
    const { attributes = {} } = calls.get(name);
    const number = (role) => read(`${name}//input.${role}`).data[0];
    const before = schedules.filter((one) => order.indexOf(one) < order.indexOf(name));
    const schedule = find(`${before.at(-1) ?? schedules[0]}//output.timesteps`);
    const x = read(`${name}//input.x`);
    const moved = find(`${name}//input.x_at`);
    const path = readPath(attributes);
    const point = { x: moved ?? x, sigma: moved ? number("sigma_at") : number("sigma"), path };
    const first = attributes.evaluations?.[0] ?? `guidance.${String(k).padStart(3, "0")}`;
    const kind = calls.get(first)?.attributes?.prediction_type ?? attributes.prediction_type;
    const guided = find(`${name}//input.x0`);
    const words = `words.${String(k).padStart(3, "0")}`;
    return {
      x,
      after: find(`${name}/constrain/output`) ?? read(`${name}//output`),
      x0: guided ?? toX0(attributes.prediction_type, read(`${name}//input.prediction`), point),
      uncond: toX0(kind, find(`${first}//input.uncond`), point),
      cond: toX0(kind, find(`${first}//input.cond`), point),
      sigma: number("sigma"),
      sigmaNext: number("sigma_next"),
      timestep: schedule?.data[attributes.i],
      path,
      levels: readLevels(attributes.levels),
      maps: find(`${words}//output`),
      words: calls.get(words)?.attributes ?? {},
    };
  });
}

function readPath({ path = "ve" }) {
  if (!Object.hasOwn(FADES, path)) throw new RecordError(`The recorded run moves on an unknown path, ${path}.`);
  return path;
}

// Where a step begins and ends on the curve of its run, {curve, signal: [.., ..], noise: [.., ..]}.
function readLevels(levels) {
  const isPair = (pair) => Array.isArray(pair) && pair.length === 2 && pair.every(Number.isFinite);
  return levels && isPair(levels.signal) && isPair(levels.noise) ? levels : null;
}

function toX0(kind, output, { x, sigma, path }) {
  if (output === undefined) return undefined;
  const convert = Object.hasOwn(TO_X0, kind ?? "") ? TO_X0[kind] : null;
  if (!convert) throw new RecordError(`The recorded run has predictions of an unknown type, ${kind}.`);
  if (output.data.length !== x.data.length) throw new RecordError("A prediction does not fit the state.");
  const alpha = alphaOf(path, sigma);
  const data = Float32Array.from(output.data, (y, i) => convert(x.data[i], y, alpha, sigma));
  return { shape: output.shape, data };
}

// The tensors of all steps; NaN where a prediction was not computed, 0 where the prompt had no part.
function stackSteps(steps) {
  const tensors = {
    x: stack([steps[0].x, ...steps.map(({ after }) => after)], NaN),
    x0: stack(steps.map(({ x0 }) => x0), NaN),
    sigmas: numbers([steps[0].sigma, ...steps.map(({ sigmaNext }) => sigmaNext)]),
  };
  const optional = {
    x0_uncond: [steps.map(({ uncond }) => uncond), NaN],
    x0_cond: [steps.map(({ cond }) => cond), NaN],
    attention: [steps.map(({ maps }) => maps), 0],
  };
  for (const [name, [parts, nothing]] of Object.entries(optional)) {
    if (parts.some((part) => part !== undefined)) tensors[name] = stack(parts, nothing);
  }
  return tensors;
}

function stack(parts, nothing) {
  const { shape } = parts.find((part) => part !== undefined);
  if (shape.length !== 4 || shape[0] !== 1) {
    throw new RecordError(`The page shows runs of one image; an array of this one has the shape (${shape.join(", ")}).`);
  }
  const size = shape.reduce((product, length) => product * length, 1);
  const data = new Float32Array(size * parts.length).fill(nothing);
  parts.forEach((part, k) => {
    if (part === undefined) return;
    if (part.shape.join() !== shape.join()) {
      throw new RecordError(`Step ${k} has an array of the shape (${part.shape.join(", ")}), which does not fit.`);
    }
    data.set(part.data, k * size);
  });
  return { shape: [parts.length, ...shape.slice(1)], data };
}

function numbers(values) {
  return { shape: [values.length], data: Float64Array.from(values) };
}

function dropFirst({ shape, data }) {
  return { shape: shape.slice(1), data };
}

function addOthers(tensors, { preview }, find) {
  if (preview) {
    const { matrix = [], bias = [] } = preview;
    tensors.preview_matrix = { shape: [matrix.length, matrix[0]?.length ?? 0], data: Float32Array.from(matrix.flat()) };
    tensors.preview_bias = numbers(bias);
  }
  const others = {
    training_alpha_bar: find("schedule//output.alphas_cumprod"),
    truth: find("truth//output.states"),
    truth_distance: find("truth//output.distance"),
    local_error: find("truth//output.local_error"),
  };
  for (const [name, tensor] of Object.entries(others)) {
    if (tensor !== undefined) tensors[name] = tensor;
  }
}

function describe(manifest, calls, steps) {
  const params = manifest.params ?? {};
  const sigmas = [steps[0].sigma, ...steps.map(({ sigmaNext }) => sigmaNext)];
  const [{ path }] = steps;
  const ratios = sigmas.map((sigma) => Math.min(sigma / alphaOf(path, sigma), PURE_NOISE));
  const schedules = [...calls].filter(([name]) => SCHEDULE.test(name));
  const schedule = schedules.at(-1)?.[1].attributes ?? {};
  const described = steps.findLast(({ maps }) => maps !== undefined)?.words;
  const truth = calls.get("truth")?.attributes;
  return {
    mode: params.mode,
    params,
    steps: steps.length,
    sampler: schedule.sampler,
    schedule: schedule.name,
    cfg_scale: params.cfg_scale,
    seed: manifest.seeds?.[0] ?? params.seed,
    timesteps: steps.map(({ timestep }) => timestep),
    path,
    alpha_bar: ratios.map((ratio) => 1 / (1 + ratio * ratio)),
    snr: ratios.map((ratio) => (ratio === 0 ? null : 1 / (ratio * ratio))),
    levels: stackLevels(steps),
    network: manifest.model?.config?.transformer ? "transformer" : "U-Net",
    is_map: Object.values(manifest.model?.config ?? {}).some((part) => part?.flow_map === true),
    words: described?.words ?? [],
    attention: described ?? null,
    branch: manifest.branch ?? null,
    model: params.model,
    warnings: manifest.warnings ?? [],
    ...(truth ? { truth } : {}),
  };
}

// The points of all states on the curve of the run; null if a step does not say where it is.
function stackLevels(steps) {
  if (!steps.every(({ levels }) => levels)) return null;
  const join = (key) => [steps[0].levels[key][0], ...steps.map(({ levels }) => levels[key][1])];
  return { curve: steps[0].levels.curve, signal: join("signal"), noise: join("noise") };
}

function parse(text, name) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new RecordError(`The file cannot be read: its ${name} is not JSON.`);
  }
  if (value === null || typeof value !== "object") {
    throw new RecordError(`The file cannot be read: its ${name} is not a JSON object.`);
  }
  return value;
}
