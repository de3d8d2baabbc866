// The view Explore of the page.

import { createExplorer } from "./explorer.js";
import { serverSource } from "./source.js";
import { loadStyle } from "./tools.js";

export async function mount(element, context) {
  await loadStyle("explorer.css");
  const { state, notify, capabilities } = context;
  const place = {
    read: () => state.readState(),
    write: (patch, clear) => state.readState().view === "explore" && state.writeState(patch, { clear }),
  };
  const explorer = createExplorer(element, { source: serverSource(context), place, notify });
  explorer.suggest(capabilities.models[0].prompts?.[0] ?? "");
  return explorer;
}
