// @ts-check
// Recorded runs: a trace in one safetensors file. docs/traces.md has the format. This needs neither a
// server nor a page.

import { RecordError } from "./record_error.js";
import { FORMAT, stackTrace } from "./recorded_trace.js";

export { RecordError };

const LARGEST_HEADER = 16 * 1024 * 1024;
const READERS = {
  F64: { size: 8, read: (buffer) => new Float64Array(buffer) },
  F32: { size: 4, read: (buffer) => new Float32Array(buffer) },
  F16: { size: 2, read: (buffer) => convert(buffer, halfToNumber) },
  BF16: { size: 2, read: (buffer) => convert(buffer, upperHalfToNumber) },
  I32: { size: 4, read: (buffer) => new Int32Array(buffer) },
  I64: { size: 8, read: (buffer) => Float64Array.from(new BigInt64Array(buffer), Number) },
  U8: { size: 1, read: (buffer) => new Uint8Array(buffer) },
};

// Tensors with their shapes. A name stands for a size that must be the same wherever it occurs.
const REQUIRED = {
  x: ["states", "c", "h", "w"],
  x0: ["n", "c", "h", "w"],
  sigmas: ["states"],
  image: ["image_h", "image_w", 3],
};
const OPTIONAL = {
  x0_uncond: ["n", "c", "h", "w"],
  x0_cond: ["n", "c", "h", "w"],
  attention: ["n", "words", "map_h", "map_w"],
  preview_matrix: [3, "c"],
  preview_bias: [3],
  training_alpha_bar: ["timesteps"],
  truth: ["states", "c", "h", "w"],
  truth_distance: ["states"],
  local_error: ["n"],
};

// Read a recorded run. Returns {meta, tensors: {name: {shape, data}}, bytes}, where data is a
// Float32Array (F16, F32), Float64Array (F64, I64) or Uint8Array, and bytes is the file itself.
export function readRecord(buffer) {
  const { metadata, tensors } = readSafetensors(buffer);
  if (metadata.format !== FORMAT || typeof metadata.manifest !== "string") {
    throw new RecordError("This safetensors file is not a run record: its metadata has no \"manifest\" of a trace.");
  }
  const record = stackTrace(metadata, tensors);
  checkTensors(record.meta, record.tensors);
  return { ...record, bytes: buffer };
}

// Read any safetensors file of the dtypes above: {metadata, tensors}.
export function readSafetensors(buffer) {
  if (!(buffer instanceof ArrayBuffer) || buffer.byteLength < 10) {
    throw new RecordError("The file is too short to be a safetensors file.");
  }
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const start = 8 + size;
  if (size > LARGEST_HEADER || start > buffer.byteLength) {
    throw new RecordError("The file is not a safetensors file, or its end is missing.");
  }
  const text = new TextDecoder().decode(new Uint8Array(buffer, 8, size));
  const header = parseJson(text, "the header of the file");
  if (header === null || typeof header !== "object" || Array.isArray(header)) {
    throw new RecordError("The header of the file is not a JSON object.");
  }
  const tensors = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name !== "__metadata__") {
      tensors[name] = readTensor(name, entry, buffer, start);
    }
  }
  return { metadata: header.__metadata__ ?? {}, tensors };
}

function readTensor(name, entry, buffer, start) {
  const reader = READERS[entry?.dtype];
  if (reader === undefined) {
    const allowed = Object.keys(READERS).join(", ");
    throw new RecordError(`Tensor "${name}" has dtype ${entry?.dtype}; a record holds ${allowed}.`);
  }
  const { shape, data_offsets: offsets } = entry;
  const isSize = (value) => Number.isSafeInteger(value) && value >= 0;
  if (!Array.isArray(shape) || !shape.every(isSize) || !Array.isArray(offsets) || !offsets.every(isSize)) {
    throw new RecordError(`Tensor "${name}" has no valid shape and offsets.`);
  }
  const [from, to] = offsets;
  const bytes = shape.reduce((product, length) => product * length, reader.size);
  if (to - from !== bytes || start + to > buffer.byteLength) {
    throw new RecordError(`The data of tensor "${name}" is incomplete.`);
  }
  return { shape, data: reader.read(buffer.slice(start + from, start + to)) };
}

function checkTensors(meta, tensors) {
  const sizes = {};
  for (const [name, expected] of Object.entries({ ...REQUIRED, ...OPTIONAL })) {
    const tensor = tensors[name];
    if (tensor === undefined) {
      if (name in REQUIRED) {
        throw new RecordError(`The record has no tensor "${name}".`);
      }
      continue;
    }
    const fits =
      tensor.shape.length === expected.length &&
      expected.every((size, i) => {
        const wanted = typeof size === "number" ? size : (sizes[size] ??= tensor.shape[i]);
        return wanted === tensor.shape[i];
      });
    if (!fits) {
      throw new RecordError(`Tensor "${name}" has the shape (${tensor.shape.join(", ")}), which does not fit.`);
    }
  }
  const words = Array.isArray(meta.words) ? meta.words.length : 0;
  if (sizes.states !== sizes.n + 1 || sizes.n < 1) {
    throw new RecordError("A record has one state more than it has steps, and at least one step.");
  }
  if (sizes.words !== undefined && sizes.words !== words) {
    throw new RecordError(`The record names ${words} words and has attention maps of ${sizes.words}.`);
  }
  for (const [name, length] of [["timesteps", sizes.n], ["alpha_bar", sizes.states], ["snr", sizes.states]]) {
    if (!Array.isArray(meta[name]) || meta[name].length !== length) {
      throw new RecordError(`The metadata's "${name}" must be a list of ${length} numbers.`);
    }
  }
}

function parseJson(text, label) {
  try {
    return JSON.parse(text);
  } catch {
    throw new RecordError(`The file cannot be read: ${label} is not JSON.`);
  }
}

// Values of 16 bits as numbers, in a loop: Float32Array.from with a function takes longer.
function convert(buffer, toNumber) {
  const bits = new Uint16Array(buffer);
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i += 1) values[i] = toNumber(bits[i]);
  return values;
}

// The upper half of a binary32 to a number.
function upperHalfToNumber(bits) {
  return new Float32Array(new Uint32Array([bits << 16]).buffer)[0];
}

// IEEE 754 binary16 to a number.
export function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) {
    return fraction ? NaN : sign * Infinity;
  }
  return exponent === 0
    ? sign * fraction * 2 ** -24
    : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
