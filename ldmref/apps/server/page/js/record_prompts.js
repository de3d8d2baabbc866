// @ts-check
// The prompts that an image records. The server has replaced their wildcards, by the seed.

const NAMES = ["prompt", "negative_prompt", "prompt_b"];

// The recorded texts of the prompts that a request has as one text.
function recordedPrompts({ values }, params) {
  const names = NAMES.filter((name) => typeof values[name] === "string" && typeof params[name] === "string");
  return Object.fromEntries(names.map((name) => [name, params[name]]));
}

/** Return the values of a request that generate one of its images alone: its prompts and its seed. */
export function valuesOfImage({ request, params, seed }) {
  const values = { ...request.values, ...recordedPrompts(request, params), seed };
  delete values.count;
  return values;
}

/**
 * Return the request that generates an image {request, params, seed, first, count, place}: its own,
 * or that of this image alone if its prompts had wildcards. The rest is {first, count, index}, as
 * `writeCode` takes it.
 */
export function requestOf(entry) {
  const { request, params, seed, first, count, place } = entry;
  const drawn = Object.entries(recordedPrompts(request, params)).some(([name, text]) => request.values[name] !== text);
  if (!drawn) return { request, images: { first, count, index: place } };
  return { request: { ...request, values: valuesOfImage(entry) }, images: { first: seed, count: 1, index: 0 } };
}
