// JSON whose whole numbers are exact. A seed can have 64 bits and a number of JavaScript has 53, so
// longer ones are BigInt.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const MARK = "\u0000integer:";
const MARKED = /"\\u0000integer:(-?\d+)"/g;

/** Return the value of a JSON text. */
export function parseJson(text) {
  const marked = text.replace(TOKEN, (token) => {
    if (!/^-?\d{16,}$/.test(token) || Number.isSafeInteger(Number(token))) return token;
    return `"\\u0000integer:${token}"`;
  });
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(MARK) ? BigInt(value.slice(MARK.length)) : value,
  );
}

/** Return the JSON text of a value; `indent` as in JSON.stringify. */
export function toJson(value, indent = undefined) {
  const text = JSON.stringify(
    value,
    (_, item) => (typeof item === "bigint" ? MARK + item : item),
    indent,
  );
  return text.replace(MARKED, "$1");
}

/** Return the number that a text is, exactly; undefined if it is not one. */
export function readNumber(text) {
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) return undefined;
  const number = Number(text);
  const whole = /^[+-]?\d+$/.test(text);
  return whole && !Number.isSafeInteger(number) ? BigInt(text.replace(/^\+/, "")) : number;
}
