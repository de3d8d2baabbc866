// @ts-check
// The text that generates an image again: in Python, as a command, and with curl. Each of the three
// writes the same bytes that the page downloads.

import { ending } from "./files.js";
import { formatNumber, toJson } from "./numbers.js";
import { isFileList, isObject } from "./schema.js";

/** The kinds of text, with their names. */
export const KINDS = { python: "Python", command: "Command", curl: "curl" };
const WRITERS = { python: writePython, command: writeCommand, curl: writeCurl };
const LONGEST = 88; // letters of a line

/**
 * Return {text, files} for a request {mode, model, values}. `files` are those that the text reads,
 * by parameter: {name, blob}.
 *
 * `images` is {first, count, index}: the seed of the first image of the request, how many it has,
 * and which of them is meant. `context` is {kind, name, capabilities, origin, token}: `name` is the
 * file to write, without its ending, and `token` says whether the server needs one.
 */
export function writeCode(request, images, context) {
  const { capabilities, kind, name } = context;
  const mode = capabilities.modes[request.mode];
  const given = { ...request.values, ...fixSeed(request, images, mode) };
  const files = nameFiles(given, name);
  const values = nameNetImages(nameLists(given, files, name), files, name);
  const model = capabilities.models.find((one) => one.name === request.model) ?? capabilities.models[0];
  const text = WRITERS[kind]({ ...context, request, values, files, images, mode, load: model.load ?? {}, adapters: nameAdapters(request, model), notes: nameNets(values, model) });
  return { text, files };
}

// A random seed becomes the one that was used.
function fixSeed({ values: { seed } }, { first }, mode) {
  if (!("seed" in mode.schema.properties)) return {};
  const random = seed === undefined || seed === -1;
  return random ? { seed: first } : {};
}

function nameFiles(values, name) {
  const files = {};
  for (const [key, value] of Object.entries(values)) {
    if (!(value instanceof Blob)) continue;
    const array = value instanceof File && value.name.endsWith(".npy");
    files[key] = { name: `${name}-${key}${array ? ".npy" : ending(value)}`, blob: value, array };
  }
  return files;
}

// The images of lists become the names of their files.
function nameLists(values, files, name) {
  const lists = Object.entries(values).filter(([, value]) => isFileList(value));
  const named = lists.map(([key, blobs]) => {
    const texts = blobs.map((blob, i) => {
      const id = `${key}-${i + 1}`;
      files[id] = { name: `${name}-${id}${ending(blob)}`, blob, list: key };
      return files[id].name;
    });
    return [key, texts];
  });
  return { ...values, ...Object.fromEntries(named) };
}

// The images of ControlNets become the names of their files.
function nameNetImages(values, files, name) {
  if (!hasNets(values.control)) return values;
  const control = values.control.map((unit, i) => {
    if (!(unit.image instanceof Blob)) return unit;
    const key = `control-${i + 1}`;
    files[key] = { name: `${name}-${key}${ending(unit.image)}`, blob: unit.image };
    return { ...unit, image: files[key].name };
  });
  return { ...values, control };
}

function hasNets(value) {
  return Array.isArray(value) && value.some(isObject);
}

// Comments about served ControlNets: other programs know no names of the server, but folders and files.
function nameNets({ control }, { controlnets = [] }) {
  if (!hasNets(control)) return [];
  const names = [...new Set(control.map(({ net }) => net))];
  return names.map((name) => {
    const source = controlnets.find((one) => one.name === name)?.source;
    const known = source && source !== name ? ` (there ${toJson(source)})` : "";
    return `# ${toJson(name)} is a ControlNet of the server. Give the path of its folder or file${known} instead.`;
  });
}

// The files of the folders of the server: [name, weight] of LoRAs, and names of those of words.
function nameAdapters({ loras = [], embeddings = [] }, model) {
  const files = new Map((model.embeddings ?? []).map(({ word, file }) => [word, file]));
  return {
    loras: loras.map(({ name, weight }) => [`${name}.safetensors`, weight]),
    words: embeddings.map((word) => files.get(word) ?? `${word}.safetensors`),
  };
}

/** Return the name of the file that the text writes: several images are numbered. */
function outputName({ name, images: { count, index } }) {
  return `${name}${count > 1 ? `-${index}` : ""}.png`;
}

// -- Python

function writePython(given) {
  const { request, values, files, load, name, images } = given;
  const { prompt, ...rest } = values;
  const argumentOf = (key, value) => {
    if (hasNets(value)) return `[${value.map(netArgument).join(", ")}]`;
    if (files[key]?.array) return `np.load(${python(files[key].name)})`;
    return python(files[key]?.name ?? value);
  };
  const call = ["model"];
  if (prompt !== undefined) call.push(python(prompt));
  for (const [key, value] of Object.entries(rest)) call.push(`${key}=${argumentOf(key, value)}`);
  const arrays = Object.values(files).some(({ array }) => array);
  return [
    ...(arrays ? ["import numpy as np", ""] : []),
    "import ldmref",
    "from ldmref import modes",
    "",
    ...given.notes,
    `model = ${formatCall("ldmref.load", [...loadArguments(load), ...adapterArguments(given.adapters)], 8)}`,
    `result = ${formatCall(`modes.${request.mode}`, call, 9)}`,
    ...(images.count > 1 ? [`# ${outputName(given)} is this image.`] : []),
    `result.save(${python(`${name}.png`)})`,
    "",
  ].join("\n");
}

function netArgument({ net, image, ...rest }) {
  const named = Object.entries(rest).map(([key, value]) => `, ${key}=${python(value)}`);
  return `modes.Control(${python(net)}${image ? `, ${python(image)}` : ""}${named.join("")})`;
}

function loadArguments({ source, ...options }) {
  const named = Object.entries(options).map(([key, value]) => `${key}=${python(value)}`);
  return source === undefined ? named : [python(source), ...named];
}

function adapterArguments({ loras, words }) {
  const files = loras.map(([file, weight]) => `(${python(file)}, ${formatNumber(weight)})`);
  return [files.length ? `lora=[${files.join(", ")}]` : null, words.length ? `embeddings=${python(words)}` : null].filter(Boolean);
}

function formatCall(called, given, indent) {
  const line = `${called}(${given.join(", ")})`;
  if (line.length + indent <= LONGEST) return line;
  return `${called}(\n${given.map((one) => `    ${one},\n`).join("")})`;
}

/** Return a value as a literal of Python. */
export function python(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object" && !value.$float) {
    const items = Object.entries(value).map(([key, item]) => `${python(key)}: ${python(item)}`);
    return `{${items.join(", ")}}`;
  }
  return toJson(value); // texts of JSON and of Python have the same escapes
}

// -- the command line

function writeCommand(given) {
  const { request, values, files, load, name, images, mode } = given;
  const words = ["ldmref", request.mode];
  for (const [key, value] of Object.entries(values)) {
    words.push(...writeFlag(mode.flags[key], files[key]?.name ?? value));
  }
  const { source, ...options } = load;
  if (source !== undefined) words.push("--model", source);
  for (const [key, value] of Object.entries(options)) words.push(`--${key}`, String(value));
  for (const [file, weight] of given.adapters.loras) words.push("--lora", `${file}:${formatNumber(weight)}`);
  for (const file of given.adapters.words) words.push("--embedding", file);
  words.push("-o", `${name}.png`);
  const comments = [...given.notes, ...(images.count > 1 ? [`# ${outputName(given)} is this image.`] : [])];
  return `${[...comments, wrapWords(words)].join("\n")}\n`;
}

function writeFlag(flag, value) {
  if (typeof value === "boolean") {
    const name = value ? flag.name : flag.off;
    return name ? [name] : [];
  }
  if (hasNets(value)) return value.flatMap((unit) => [flag.name, netFlag(unit)]);
  if (Array.isArray(value)) {
    const texts = value.every((item) => typeof item === "string");
    if (texts) return value.flatMap((item) => [flag.name, item]);
    return [flag.list ?? flag.name, value.map(formatNumber).join(",")];
  }
  if (value !== null && typeof value === "object") {
    const { name: rule, ...options } = value;
    const text = Object.entries(options).map(([key, item]) => `${key}=${item}`).join(",");
    return [flag.name, text ? `${rule}:${text}` : rule];
  }
  return [flag.name, String(value)];
}

// NET:IMAGE[:WEIGHT[:START-END[:MODE]]]
function netFlag({ net, image = "", weight = 1, start = 0, end = 1, mode = null }) {
  const [from, to, factor] = [start, end, weight].map(formatNumber);
  const parts = [factor, `${from}-${to}`, ...(mode === null ? [] : [formatNumber(mode)])];
  return [net, image, ...parts].join(":");
}

/** Return a word as a POSIX shell reads it. */
export function quote(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

// A value follows its flag, and a negative number is a value.
function wrapWords(words) {
  const quoted = words.map(quote);
  if (quoted.join(" ").length <= LONGEST) return quoted.join(" ");
  const rows = [quoted.slice(0, 2).join(" ")];
  for (const word of quoted.slice(2)) {
    if (/^--?[a-zA-Z]/.test(word)) rows.push(`  ${word}`);
    else rows[rows.length - 1] += ` ${word}`;
  }
  return rows.join(" \\\n");
}

// -- curl

function writeCurl(given) {
  const { request, values, files, origin, token, images } = given;
  const parameters = { ...values };
  const marks = Object.fromEntries(Object.keys(files).map((key) => [key, newMark()]));
  for (const key of Object.keys(values)) if (key in marks) parameters[key] = marks[key];
  for (const [id, { list }] of Object.entries(files)) {
    if (list) parameters[list] = parameters[list].map((text) => (text === files[id].name ? marks[id] : text));
  }
  if (hasNets(values.control)) {
    parameters.control = values.control.map((unit, i) => (unit.image ? { ...unit, image: marks[`control-${i + 1}`] } : unit));
  }
  const { mode, model, loras, embeddings } = request;
  const body = { mode, ...(model ? { model } : {}), ...(loras ? { loras } : {}), ...(embeddings ? { embeddings } : {}), parameters };
  const which = images.count > 1 ? `?image=${images.index}` : "";
  const lines = [`curl -fsS ${quote(`${origin}/v1/generate${which}`)}`, "  -H 'Content-Type: application/json'"];
  if (token) lines.push('  -H "Authorization: Bearer $LDMREF_TOKEN"');
  lines.push(`  -o ${quote(outputName(given))}`);
  if (!Object.keys(files).length) {
    lines.push(`  -d ${quote(toJson(body))}`);
    return `${lines.join(" \\\n")}\n`;
  }
  // The shell puts the files into the text between the two END, so $, ` and \ are escaped in it.
  let text = toJson(body).replace(/[\\$`]/g, "\\$&");
  for (const [key, file] of Object.entries(files)) {
    text = text.replace(marks[key], () => `$(base64 < ${quote(file.name)} | tr -d '\\n')`);
  }
  return `${[...lines, "  -d @- <<END"].join(" \\\n")}\n${text}\nEND\n`;
}

// A text that no prompt contains.
function newMark() {
  return `FILE${crypto.getRandomValues(new Uint32Array(3)).join("x")}`;
}
