// @ts-check
// JSON whose numbers are exact. A seed can have 64 bits and a number of JavaScript has 53, so longer
// ones are BigInt. A float that is whole, such as 10.0, is {$float: "10.0"}: JSON.stringify would
// write it as an integer, and noise levels are floats.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const MARK = "\u0000number:";
const MARKED = /"\\u0000number:(-?\d+(?:\.0)?)"/g;

/** Return the value of a JSON text. */
export function parseJson(text) {
  const marked = text.replace(TOKEN, (token) => {
    if (!/^-?\d{16,}$/.test(token) || Number.isSafeInteger(Number(token))) return token;
    return `"\\u0000number:${token}"`;
  });
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(MARK) ? BigInt(value.slice(MARK.length)) : value,
  );
}

/** Return the JSON text of a value; `indent` as in JSON.stringify. */
export function toJson(value, indent = undefined) {
  const text = JSON.stringify(
    value,
    (_, item) => (typeof item === "bigint" || item?.$float ? MARK + formatNumber(item) : item),
    indent,
  );
  return text.replace(MARKED, "$1");
}

/** Return a number as a float: whole ones are marked. */
export function asFloat(number) {
  return Number.isSafeInteger(number) ? { $float: `${number}.0` } : number;
}

/** Return the text of a number, of a BigInt or of a marked float. */
export function formatNumber(number) {
  return number?.$float ?? String(number);
}

/** Return the number that a text is, exactly, also with a decimal comma; undefined if it is not one. */
export function readNumber(given) {
  const text = given.trim().replace(/^([+-]?\d*),(\d+)$/, "$1.$2");
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) return undefined;
  const number = Number(text);
  const whole = /^[+-]?\d+$/.test(text);
  return whole && !Number.isSafeInteger(number) ? BigInt(text.replace(/^\+/, "")) : number;
}
