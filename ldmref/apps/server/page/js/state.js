// @ts-check
// The state of the page is the hash of its address: #view=generate&mode=txt2img&p.prompt=red+heart.
// All values are texts; a dot groups them, so `p.seed=1` is read as {p: {seed: "1"}}.
// `schema.js` turns the texts of parameters into numbers, lists and flags.

const listeners = new Set();

/** Return an object without a prototype, so that no name in an address, such as __proto__, is special. */
function bare(...values) {
  return Object.assign(Object.create(null), ...values);
}

/** Return the groups and values of a hash. */
export function parseState(hash) {
  const state = bare();
  for (const [key, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    const dot = key.indexOf(".");
    if (dot < 0) {
      state[key] = value;
      continue;
    }
    const group = key.slice(0, dot);
    if (typeof state[group] !== "object") state[group] = bare();
    state[group][key.slice(dot + 1)] = value;
  }
  return state;
}

/** Return the hash of a state; the values null, undefined and "" are left out, except in groups. */
export function formatState(state) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) {
    if (value !== null && typeof value === "object") {
      for (const [name, text] of Object.entries(value)) {
        if (text !== null && text !== undefined) query.append(`${key}.${name}`, text);
      }
    } else if (value !== null && value !== undefined && value !== "") {
      query.append(key, value);
    }
  }
  const text = query.toString();
  return text ? `#${text}` : "";
}

/** Return a state with changes; a group is merged value by value, and null removes. */
export function mergeState(state, patch) {
  const merged = bare(state);
  for (const [key, value] of Object.entries(patch)) {
    const grouped = value !== null && typeof value === "object";
    const before = typeof merged[key] === "object" ? merged[key] : bare();
    if (value === null || value === undefined) delete merged[key];
    else merged[key] = grouped ? bare(before, value) : String(value);
    if (grouped) {
      for (const [name, text] of Object.entries(merged[key])) {
        if (text === null || text === undefined) delete merged[key][name];
        else merged[key][name] = String(text);
      }
    }
  }
  return merged;
}

/** Return the present state. */
export function readState() {
  return parseState(location.hash);
}

/**
 * Change the state: `writeState({step: 7, p: {seed: 1, eta: null}})`.
 * `clear` names groups that the patch replaces instead of merging. `push` adds an entry to the
 * history of the browser; without it, the present entry changes.
 */
export function writeState(patch, { push = false, clear = [] } = {}) {
  const before = readState();
  for (const group of clear) delete before[group];
  const state = mergeState(before, patch);
  const address = location.pathname + location.search + formatState(state);
  if (formatState(state) === formatState(readState())) return;
  history[push ? "pushState" : "replaceState"](null, "", address);
  announce(true);
}

/** Return the address of a state, for links that open another view with the present parameters. */
export function linkTo(patch, { clear = [] } = {}) {
  const before = readState();
  for (const group of clear) delete before[group];
  return formatState(mergeState(before, patch)) || "#";
}

/**
 * Call `listener(state, own)` at every change and return the function that ends this. `own` is true
 * if the page changed the state by `writeState`, and false for links, Back and edited addresses.
 */
export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function announce(own) {
  const state = readState();
  for (const listener of [...listeners]) listener(state, own);
}

if (typeof window !== "undefined") window.addEventListener("hashchange", () => announce(false));
if (typeof window !== "undefined") window.addEventListener("popstate", () => announce(false));
