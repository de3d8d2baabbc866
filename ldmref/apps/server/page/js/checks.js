// @ts-check
// What is wrong with the text of a field, before the server is asked; it checks everything else.

import { readNumber } from "./numbers.js";

/**
 * Return what is wrong, or "". `choices` are the known names, if the server told them, and `most`
 * is a limit of the server or of the model below that of the schema.
 */
export function checkText(field, text, { choices = null, most = null } = {}) {
  const given = text.trim();
  if (given === "") return "";
  if (field.kind === "number" || field.kind === "integer") return checkNumber(field, given, most);
  if (field.kind === "flag" && !["true", "false"].includes(given)) return `${field.label} must be true or false, not “${given}”`;
  const known = choices?.flatMap(({ name, aliases = [] }) => [name, ...aliases]) ?? field.choices;
  if (!known || given.startsWith("{") || known.includes(given)) return "";
  return `${field.label} “${given}” is not known here`;
}

function checkNumber(field, given, most) {
  const whole = field.kind === "integer";
  const number = readNumber(given);
  const maximum = Math.min(field.maximum ?? Infinity, most ?? Infinity);
  const isRight = number !== undefined && (!whole || Number.isInteger(Number(number)))
    && number >= (field.minimum ?? -Infinity) && number <= maximum;
  if (isRight) return "";
  const limits = [
    field.minimum === null ? "" : ` from ${field.minimum}`,
    maximum === Infinity ? "" : ` to ${maximum}`,
  ];
  return `${field.label} must be a ${whole ? "whole " : ""}number${limits.join("")}, not “${given}”`;
}
