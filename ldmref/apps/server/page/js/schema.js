// @ts-check
// The parameters of a mode, from its JSON schema. The page declares none of them.

import { asFloat, formatNumber, parseJson, readNumber, toJson } from "./numbers.js";

/**
 * The kinds of fields: text (one text), texts (a text or a list of texts), number, integer, flag,
 * choice, numbers (a list), guidance (a name or an object), image and array (files: PNG, .npy), images (a list of
 * files), nets (a list of objects, each with the fields of `items`).
 * null cannot be given.
 */
function findKind(schema) {
  const types = [schema.type].flat();
  if (schema.items?.contentEncoding === "base64") return "images";
  if (schema.contentEncoding === "base64") return schema.items ? null : "image";
  if (schema.enum) return "choice";
  if (types.includes("object") && types.includes("string")) return "guidance";
  if (types.includes("array") && types.includes("string")) return "texts";
  if (types.includes("array") && schema.items?.properties?.net) return "nets";
  if (types.includes("array")) {
    const items = schema.items?.type;
    if (types.includes("integer") || items === "number" || items === "integer") return "numbers";
    return items === undefined ? "array" : null;
  }
  if (types.includes("boolean")) return "flag";
  if (types.includes("integer")) return "integer";
  if (types.includes("number")) return "number";
  return types.includes("string") ? "text" : null;
}

/**
 * Return the fields of a mode's schema, in its order: {name, kind, optional, required, ...}.
 * @returns {Record<string, any>[]}
 */
export function readFields(schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties).map(([name, property]) => {
    const options = property.anyOf ?? [property];
    const own = options.find((option) => option.type !== "null") ?? {};
    return {
      name,
      kind: findKind({ ...own, contentEncoding: own.contentEncoding ?? property.contentEncoding }),
      optional: options.some((option) => option.type === "null"),
      required: required.has(name),
      help: property.description ?? "",
      default: property.default,
      choices: own.enum ?? null,
      minimum: own.minimum ?? own.exclusiveMinimum ?? null,
      maximum: own.maximum ?? own.maxItems ?? null,
      onlyList: own.type === "array",
      floats: own.items?.type === "number",
      integers: [own.type].flat().includes("integer") || own.items?.type === "integer",
      items: own.items?.properties ? readFields(own.items) : null,
    };
  });
}

/** Return the value of a field as text: of the address of the page, or of an input. */
export function toText(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) {
    if (value.some(isObject)) return toJson(withoutFiles(value));
    return value.every((item) => typeof item !== "string") ? value.map(formatNumber).join(", ") : toJson(value);
  }
  return typeof value === "object" ? toJson(value) : String(value);
}

/**
 * Return the value that a text means for a field; undefined if the text is empty and the field
 * is not a text. A text that is not a number is returned as it is: the server says what is wrong.
 */
export function fromText(field, text) {
  if (field.kind === "text") return text;
  if (field.kind === "texts") return text.startsWith("[\"") ? parsed(text) : text;
  const trimmed = text.trim();
  if (trimmed === "") return undefined;
  if (field.kind === "flag") return trimmed === "true";
  if (field.kind === "numbers") return readNumbers(field, trimmed);
  if (field.kind === "number" || field.kind === "integer") return readNumber(trimmed) ?? trimmed;
  if (field.kind === "guidance" && trimmed.startsWith("{")) return parsed(trimmed);
  if (field.kind === "nets") return parsed(trimmed);
  return trimmed;
}

function parsed(text) {
  try {
    return parseJson(text);
  } catch {
    return text;
  }
}

function readNumbers(field, text) {
  const parts = text.split(/[\s,;]+/).filter(Boolean);
  const numbers = parts.map((part) => readNumber(part) ?? part);
  if (field.floats && !(field.integers && parts.length === 1)) return numbers.map(asFloat);
  return field.integers && parts.length === 1 && !field.onlyList ? numbers[0] : numbers;
}

/** Return the values of a mode from texts, {name: text}; names that the mode lacks are left out. */
export function readParameters(schema, texts) {
  const values = {};
  for (const field of readFields(schema)) {
    if (typeof texts?.[field.name] !== "string") continue;
    const value = fromText(field, texts[field.name]);
    if (value !== undefined) values[field.name] = value;
  }
  return values;
}

/** Return a value without the files in it. */
export function withoutFiles(value) {
  if (Array.isArray(value)) return value.map(withoutFiles);
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.entries(value).filter(([, item]) => !(item instanceof Blob)));
}

/** Return whether a value is a list of files. */
export function isFileList(value) {
  return Array.isArray(value) && value.length > 0 && value.every((item) => item instanceof Blob);
}

/** Return whether a value has keys: neither a list, a number, nor a file. */
export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !value.$float && !(value instanceof Blob);
}

/** Return the texts of parameters, for the address of the page; files are left out. */
export function writeParameters(values) {
  const texts = Object.entries(values).filter(([, value]) => !(value instanceof Blob || isFileList(value)));
  return Object.fromEntries(texts.map(([name, value]) => [name, toText(value)]));
}
