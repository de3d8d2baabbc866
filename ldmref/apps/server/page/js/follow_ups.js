// @ts-check
// What can be done next with a finished image, with the settings that made it.

import { weightsOf } from "./adapters.js";
import { valuesOfImage } from "./record_prompts.js";
import { writeParameters } from "./schema.js";

/** Open the run of an image, or the first of its two passes, in the view Explore. */
export function exploreImage(state, entry) {
  const p = writeParameters(valuesOfImage(entry));
  const lora = weightsOf(entry.request.loras);
  const model = entry.request.model ?? null;
  state.writeState({ view: "explore", mode: entry.params.mode, model, p, lora }, { clear: ["p", "lora"], push: true });
}
