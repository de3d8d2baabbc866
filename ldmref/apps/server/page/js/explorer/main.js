// @ts-check
// The view Explore of the page.

import { createExplorer } from "./explorer.js";
import { fetchReady, placeReady } from "./ready.js";
import { serverSource } from "./source.js";
import { loadStyle } from "./tools.js";

export async function mount(element, context) {
  const [record] = await Promise.all([fetchReady(), loadStyle("explorer.css")]);
  const { state, notify } = context;
  const place = {
    read: () => state.readState(),
    write: (patch, clear) => state.readState().view === "explore" && state.writeState(patch, { clear }),
  };
  const source = serverSource(context);
  if (record) source.ready = placeReady(record, source);
  const explorer = createExplorer(element, { source, place, notify });
  let used = null; // the name of the model in the forms
  const follow = () => {
    const model = source.modelOf(state.readState().model);
    if (used !== model.title) explorer.useModel(model);
    used = model.title;
  };
  // Another view that opens a run here changes the parameters only, and means this run alone. A link
  // or an edited address means everything in it.
  let byPage = false;
  state.subscribe((_, own) => (byPage = own));
  return {
    ...explorer,
    show() {
      follow();
      explorer.show({ onlyRun: byPage });
    },
  };
}
