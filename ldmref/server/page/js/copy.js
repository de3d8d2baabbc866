// The text that generates an image again: in Python, as a command, and with curl. The three write
// the same bytes that the page downloads.

import { ending } from "./files.js";
import { toJson } from "./numbers.js";

/** The kinds of text, with their names. */
export const KINDS = { python: "Python", command: "Command", curl: "curl" };

/**
 * Return {text, note} for a request {mode, model, values} and the seeds of its images.
 *
 * `context` is {kind, name, index, capabilities, origin, token}: name is the file to write, without
 * its ending, index the image of the request, and token says whether the server needs one.
 */
export function writeCode(request, seeds, context) {
  const values = { ...request.values, ...fixSeed(request, seeds, context) };
  const files = nameFiles(values, context.name);
  const writers = { python: writePython, command: writeCommand, curl: writeCurl };
  const text = writers[context.kind](request, values, files, { ...context, count: seeds.length });
  return { text, files };
}

// A random seed becomes the one that was used.
function fixSeed(request, seeds, { capabilities }) {
  if (!("seed" in capabilities.modes[request.mode].schema.properties)) return {};
  const { seed } = request.values;
  if (Array.isArray(seed) || typeof seed === "bigint" || (typeof seed === "number" && seed >= 0)) return {};
  return { seed: seeds[0] };
}

/** Return the name of the file of each image that a request takes. */
function nameFiles(values, name) {
  const files = {};
  for (const [key, value] of Object.entries(values)) {
    if (value instanceof Blob) files[key] = { name: `${name}-${key}${ending(value)}`, blob: value };
  }
  return files;
}

function findModel({ capabilities }, request) {
  return capabilities.models.find(({ name }) => name === request.model) ?? capabilities.models[0];
}

// -- Python

function writePython(request, values, files, context) {
  const model = findModel(context, request);
  const args = Object.entries(values).map(
    ([name, value]) => `${name}=${files[name] ? python(files[name].name) : python(value)}`,
  );
  const { prompt, ...rest } = Object.fromEntries(args.map((arg) => [arg.slice(0, arg.indexOf("=")), arg]));
  const call = ["model", ...(prompt ? [prompt.slice("prompt=".length)] : []), ...Object.values(rest)];
  const one = `modes.${request.mode}(${call.join(", ")})`;
  const long = `modes.${request.mode}(\n${call.map((arg) => `    ${arg},\n`).join("")})`;
  const options = Object.entries(model.load ?? {}).map(([key, value]) => `${key}=${python(value)}`);
  const { source, ...named } = model.load ?? {};
  const load = source === undefined ? options : [python(source), ...Object.entries(named).map(([key, value]) => `${key}=${python(value)}`)];
  return [
    "import ldmref",
    "from ldmref import modes",
    "",
    `model = ldmref.load(${load.join(", ")})`,
    `result = ${one.length <= 88 ? one : long}`,
    `result.save(${python(`${context.name}.png`)})${several(context)}`,
    "",
  ].join("\n");
}

function several({ name, index, count }) {
  return count > 1 ? `  # this image is ${name}-${index}.png` : "";
}

/** Return a value as a literal of Python. */
export function python(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    const items = Object.entries(value).map(([key, item]) => `${python(key)}: ${python(item)}`);
    return `{${items.join(", ")}}`;
  }
  return toJson(value); // texts of JSON and of Python have the same escapes
}

// -- the command line

function writeCommand(request, values, files, context) {
  const model = findModel(context, request);
  const { flags } = context.capabilities.modes[request.mode];
  const words = ["ldmref", request.mode];
  for (const [name, value] of Object.entries(values)) {
    for (const part of writeFlag(name, flags[name], files[name]?.name ?? value)) words.push(part);
  }
  const { source, ...named } = model.load ?? {};
  if (source !== undefined) words.push("--model", source);
  for (const [key, value] of Object.entries(named)) words.push(`--${key}`, String(value));
  words.push("-o", `${context.name}.png`);
  const comment = several(context).trim();
  return [...(comment ? [comment] : []), `${wrapWords(words)}\n`].join("\n");
}

function writeFlag(name, flag, value) {
  if (typeof value === "boolean") {
    if (value) return [flag.name];
    return flag.off ? [flag.off] : [];
  }
  if (Array.isArray(value) && typeof value[0] === "string") {
    return value.flatMap((item) => [flag.name, item]);
  }
  if (Array.isArray(value)) return [flag.name, value.join(",")];
  if (value !== null && typeof value === "object") {
    const { name: rule, ...options } = value;
    const text = Object.entries(options).map(([key, item]) => `${key}=${item}`).join(",");
    return [flag.name, text ? `${rule}:${text}` : rule];
  }
  return [flag.name, String(value)];
}

/** Return a word as a POSIX shell reads it. */
export function quote(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

function wrapWords(words) {
  const quoted = words.map(quote);
  const line = quoted.join(" ");
  if (line.length <= 96) return line;
  const rows = [quoted.slice(0, 2).join(" ")];
  for (const word of quoted.slice(2)) {
    const flag = /^-{1,2}[a-zA-Z]/.test(word);
    if (flag) rows.push(`  ${word}`);
    else rows[rows.length - 1] += ` ${word}`;
  }
  return rows.join(" \\\n");
}

// -- curl

function writeCurl(request, values, files, { name, index, count, origin, token }) {
  const parameters = { ...values };
  for (const key of Object.keys(files)) parameters[key] = `\u0001${key}\u0001`;
  const body = { mode: request.mode, ...(request.model ? { model: request.model } : {}), parameters };
  const image = count > 1 ? `?image=${index}` : "";
  const address = quote(`${origin}/v1/generate${image}`);
  const lines = [`curl -fsS ${address}`, "  -H 'Content-Type: application/json'"];
  if (token) lines.push('  -H "Authorization: Bearer $LDMREF_TOKEN"');
  const output = `${count > 1 ? `${name}-${index}` : name}.png`;
  if (!Object.keys(files).length) {
    lines.push(`  -o ${quote(output)}`, `  -d ${quote(toJson(body))}`);
    return `${lines.join(" \\\n")}\n`;
  }
  lines.push(`  -o ${quote(output)}`, "  -d @- <<END");
  const text = toJson(body).replace(/[\\$`]/g, "\\$&");
  const filled = text.replace(/\\\\u0001(\w+?)\\\\u0001/g, (_, key) => `$(base64 < ${quote(files[key].name)} | tr -d '\\n')`);
  return `${lines.join(" \\\n")}\n${filled}\nEND\n`;
}
