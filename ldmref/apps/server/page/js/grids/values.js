// @ts-check
// The values of an axis, as they are typed: lists and ranges, checked by the schema of the mode.

import { fromText } from "../schema.js";
import { nameInText } from "../wording.js";

export class ValuesError extends Error {}

const RANGE = /^([+-]?\d+(?:[.]\d+)?)\s*[.]{2}\s*([+-]?\d+(?:[.]\d+)?)(?:\s*(?::|step)\s*(\d+(?:[.]\d+)?))?$/i;
const MOST = 64; // values of one axis

/** Return whether the values of a parameter may hold commas, so semicolons separate them. */
export function isText(field) {
  return field.kind === "texts";
}

/** Return how the values of a parameter are written. */
export function explainValues(field) {
  if (isText(field)) return "Separate texts by semicolons: a red heart; a blue heart";
  if (field.kind === "integer" || field.kind === "number" || field.integers) return "A list and ranges: 5, 10, 20..50:10";
  return "Separate names by commas";
}

/**
 * Return the values that a text means for a field: `5, 10, 20..50:10`, `euler, heun`, or texts
 * separated by semicolons. `known` are the names that the field may have, if they are known.
 *
 * ValuesError says what is wrong with which value.
 */
export function readAxis(field, text, known = null) {
  const parts = text.split(isText(field) ? ";" : /[,;\n]/).map((part) => part.trim()).filter(Boolean);
  if (parts.length === 0) throw new ValuesError("Give at least one value.");
  const numeric = ["integer", "number"].includes(field.kind) || field.integers;
  const values = parts.flatMap((part) => (numeric ? expand(field, part) : [readOne(field, part, known)]));
  if (values.length > MOST) throw new ValuesError(`These are ${values.length} values; an axis has at most ${MOST}.`);
  const repeated = values.find((value, i) => values.indexOf(value) !== i);
  if (repeated !== undefined) throw new ValuesError(`The value ${repeated} is there twice.`);
  return values;
}

function expand(field, part) {
  const range = part.match(RANGE);
  if (!range) return [check(field, part, fromText({ ...field, kind: "number" }, part))];
  const [from, to] = [Number(range[1]), Number(range[2])];
  const stride = range[3] === undefined ? 1 : Number(range[3]);
  if (!(stride > 0)) throw new ValuesError(`The step of the range ${part} must be above 0.`);
  const count = Math.floor(Math.abs(to - from) / stride + 1e-9) + 1;
  if (count > MOST) throw new ValuesError(`The range ${part} has ${count} values; an axis has at most ${MOST}.`);
  const sign = to < from ? -1 : 1;
  return Array.from({ length: count }, (_, i) => check(field, part, Number((from + sign * i * stride).toPrecision(12))));
}

function check(field, part, value) {
  if (typeof value !== "number" && typeof value !== "bigint") throw new ValuesError(`“${part}” is not a number or a range like 5..20:5.`);
  const whole = field.kind === "integer" || field.integers;
  if (whole && typeof value === "number" && !Number.isInteger(value)) throw new ValuesError(`${part}: ${nameInText(field.name)} takes whole numbers, not ${value}.`);
  if (field.minimum !== null && value < field.minimum) throw new ValuesError(`${value} is too small: ${nameInText(field.name)} is at least ${field.minimum}.`);
  if (field.maximum !== null && value > field.maximum) throw new ValuesError(`${value} is too large: ${nameInText(field.name)} is at most ${field.maximum}.`);
  return value;
}

function readOne(field, part, known) {
  const choices = field.choices ?? known;
  if (choices && !part.startsWith("{") && !choices.includes(part)) {
    throw new ValuesError(`“${part}” is not a ${nameInText(field.name)}; known: ${choices.slice(0, 6).join(", ")}${choices.length > 6 ? ", ..." : ""}.`);
  }
  const value = fromText(field, part);
  return field.kind === "flag" ? part === "true" : value;
}

/** Return the label of a value on the sheet. */
export function valueLabel(value) {
  return value !== null && typeof value === "object" ? JSON.stringify(value) : String(value);
}
