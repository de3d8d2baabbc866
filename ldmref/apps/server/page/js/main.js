// @ts-check
// The shell: it reads the capabilities of the server, opens the views, and says who is not there.

import * as api from "./api.js";
import { watchConnection } from "./connection.js";
import { h } from "./dom.js";
import { refuseFiles } from "./drops.js";
import { explainGone, findModel } from "./models.js";
import { notifyError } from "./notify.js";
import { askForToken } from "./token.js";
import * as notifications from "./notify.js";
import * as state from "./state.js";
import { learnNames } from "./wording.js";

// A view is a module with `mount(element, context)`, imported when it is first opened. The view may
// return {show(), hide()}, which are called when its tab is opened and left. Paint is Generate with
// the mode that has a mask.
const VIEWS = {
  generate: { element: "generate", load: () => import("./generate.js") },
  paint: { element: "generate", load: () => import("./generate.js") },
  grids: { element: "grids", load: () => import("./grids/main.js") },
  explore: { element: "explore", load: () => import("./explorer/main.js") },
};
const mounted = new Map(); // element -> promise of the view
let shown = null;
let context = null;

async function start() {
  api.onTokenNeeded(askForToken);
  state.subscribe((_, own) => show(own));
  refuseFiles(() => `The view ${titleOf(currentView())} takes no files`);
  const answer = watchConnection(api, document.getElementById("connection"));
  fetchNeeds(currentView()); // after the question, so that its short answer does not wait behind them
  const capabilities = await answer;
  context = { api, state, notify: notifications, capabilities };
  learnNames(capabilities.modes);
  // Formulas link to the pages that derive them.
  if (capabilities.documentation) document.head.append(h("link", { rel: "help", href: capabilities.documentation }));
  context.views = Object.keys(VIEWS);
  fillModels(capabilities.models);
  await show();
}

function currentView() {
  const { view } = state.readState();
  return Object.hasOwn(VIEWS, view ?? "") ? view : "generate";
}

function titleOf(view) {
  return document.querySelector(`nav [data-view="${view}"]`).textContent;
}

// Paint has the mode of its name, and the other views go on with the mode of the present one.
function modeOf(view) {
  const { mode } = state.readState();
  if (view === "paint") return "inpaint";
  return mode === "inpaint" && view === "generate" ? null : mode;
}

// Let the browser fetch what index.html lists for a view, all at once.
function fetchNeeds(view) {
  /** @type {HTMLTemplateElement} */
  const needs = document.querySelector(`template[data-views~="${view}"]`);
  document.head.append(needs.content); // which is empty afterwards
}

async function show(own = false) {
  if (!context) return;
  leaveGone(own);
  const view = currentView();
  const { element: id } = VIEWS[view];
  /** @type {NodeListOf<HTMLAnchorElement>} */
  const links = document.querySelectorAll("nav [data-view]");
  for (const link of links) {
    link.href = state.linkTo({ view: link.dataset.view, mode: modeOf(link.dataset.view) });
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (shown !== id) {
    const before = shown;
    shown = id;
    /** @type {NodeListOf<HTMLElement>} */
    const sections = document.querySelectorAll(".view");
    for (const section of sections) section.hidden = section.id !== id;
    if (before) (await mounted.get(before))?.hide?.();
  }
  const title = titleOf(view);
  document.title = view === "generate" ? "ldmref" : `${title} · ldmref`;
  if (!mounted.has(id)) mounted.set(id, mount(view, document.getElementById(id)));
  (await mounted.get(id))?.show?.();
}

async function mount(view, element) {
  try {
    fetchNeeds(view);
    const module = await VIEWS[view].load();
    return await module.mount(element, context);
  } catch (error) {
    console.warn(error);
    element.replaceChildren(h("p", { class: "notice error" }, "This view could not be opened."));
    notifyError(error);
    return null;
  }
}

// Several models: the choice is part of the state. One model is only named.
function fillModels(models) {
  const select = /** @type {HTMLSelectElement} */ (document.getElementById("model"));
  for (const model of models) select.append(h("option", { value: model.name }, model.name));
  const read = () => (select.value = findModel(context.capabilities, state.readState().model).name);
  select.hidden = models.length < 2;
  select.addEventListener("change", () => {
    const chosen = select.value === models[0].name ? null : select.value;
    state.writeState({ model: chosen }, { push: true });
  });
  state.subscribe(read);
  read();
}

let forgetGone = () => {}; // the message about the model of the link before

// A link may name a model that is served no more: the page says so, and goes on with the default.
function leaveGone(own) {
  if (!own) forgetGone();
  const { model } = state.readState();
  const said = explainGone(context.capabilities, model, context.capabilities.models[0].name);
  if (!said) return;
  forgetGone = notifications.notify(said, { kind: "error" });
  state.writeState({ model: null });
}

start();
