// @ts-check
// What is wrong in the address of the page: a link that was typed, shortened or made for another server.

import { notify } from "./notify.js";
import { readFields } from "./schema.js";

let forget = () => {}; // the message about the link before

/** Say what a link names that this page or model does not have, before something else is shown. */
export function tellWrongLink(state, { modes, offered, views, shown, loras }) {
  const lines = [];
  if (state.view && !views.includes(state.view)) lines.push(`there is no view “${state.view}”`);
  if (state.mode && !Object.hasOwn(modes, state.mode)) lines.push(`there is no mode “${state.mode}”`);
  else if (state.mode && !offered.includes(state.mode)) lines.push(`the model here cannot do “${state.mode}”`);
  const known = new Set(readFields(modes[shown].schema).map(({ name }) => name));
  const others = new Set(Object.values(modes).flatMap(({ schema }) => Object.keys(schema.properties)));
  for (const name of Object.keys(state.p ?? {})) {
    if (known.has(name)) continue;
    if (!others.has(name)) lines.push(`there is no setting “${name}”`);
  }
  for (const name of Object.keys(state.lora ?? {})) {
    if (!loras.includes(name)) lines.push(`the model here has no LoRA “${name}”`);
  }
  forget();
  if (lines.length) forget = notify(`Not everything in this link can be shown: ${lines.join("; ")}.`, { kind: "error" });
}
