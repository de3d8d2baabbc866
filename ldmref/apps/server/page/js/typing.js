// @ts-check
// Pictures while one types: the flow map of the model draws the prompt after each word, with the seed
// that stays, and a pause asks for the picture by the chosen settings. Requests never queue up: a newer
// word aborts the request of the older one.

import { h, newId } from "./dom.js";
import { jobBody } from "./jobs.js";

const CHOICE = "ldmref-typing"; // in localStorage: "off" if nothing is drawn while one types
const STEPS = 2; // of the map: one more costs little and shows names of emoji better
const WORD = 200; // milliseconds without a letter after which a word is drawn as it is
const REST = 1200; // milliseconds without a letter until the picture by the chosen settings
const QUICK = 250; // milliseconds of an answer up to which a word is drawn before it is complete
const SEEDS = 2 ** 32;
const LETTERS = /[\p{L}\p{N}]+$/u;
// What the map reads of the form; guidance, steps and sampler are its own.
const READ = ["prompt", "prompt_weights", "width", "height", "rng", "latents"];

export class Typing {
  /** `view` has api, form, promptTools, stage, runner, adapters, mode, model, and drawFull(). */
  constructor(view) {
    this.view = view;
    this.text = null; // the prompt that was drawn last, or is being drawn
    this.seed = Math.floor(Math.random() * SEEDS);
    this.took = 0; // milliseconds of the last answer
    this.fresh = false; // whether the last text has no picture by the chosen settings yet
    this.draft = null; // {text, due, blob, controller}: the last request, shown when it is due and there
    this.pause = 0; // the timer of a word that may be complete
    this.rest = 0; // the timer of the picture by the chosen settings
    const input = h("input", { id: newId("typing"), type: "checkbox" });
    input.checked = isChosen();
    input.addEventListener("change", () => this.choose(input.checked));
    this.input = input;
    this.small = h("img", { class: "draft", alt: "", hidden: true });
    this.element = h("div", { class: "typing", hidden: true }, h("label", { class: "small" }, input, " Draw while I type"), this.small);
  }

  /** Show the switch below the prompt, if the model has a map and the mode draws from a text alone. */
  show() {
    this.stop();
    const row = this.view.form.rows.get("prompt");
    this.text = this.read();
    this.element.hidden = !this.view.model.flow_map || this.view.mode !== "txt2img";
    this.view.promptTools.element.prepend(this.element);
    // The first picture of a compiled map takes a second more, which is over when a word is typed.
    row?.control.input.addEventListener("focus", () => this.isOn() && this.ask(), { once: true });
  }

  choose(on) {
    try {
      if (on) localStorage.removeItem(CHOICE);
      else localStorage.setItem(CHOICE, "off");
    } catch {
      // The choice lasts until the page is closed.
    }
    if (!on) this.stop();
    else this.edited();
  }

  // The stage belongs to a request that was asked for; LoRAs are none of the map's.
  isOn() {
    const { runner, adapters } = this.view;
    const free = !runner.busy || runner.automatic;
    return !this.element.hidden && this.input.checked && free && !Object.keys(adapters.texts()).length;
  }

  read() {
    return (this.view.form.texts().prompt ?? "").trim().replace(/\s+/g, " ");
  }

  /** Called after every change of the form. */
  edited() {
    const text = this.read();
    const complete = !this.word();
    const { runner } = this.view;
    if (text === this.text) {
      if (runner.free) this.restart(); // another setting has changed, or a space was typed
      else if (complete && this.pause) this.reveal();
      return;
    }
    this.text = text;
    this.fresh = Boolean(text) && this.isOn();
    if (!this.fresh) {
      this.stop();
      return;
    }
    this.restart();
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.reveal(), WORD);
    if (complete) this.reveal();
    else this.begin();
  }

  restart() {
    this.view.runner.drop();
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.drawFull(), REST);
  }

  // The draft is there when the word is complete, and shown before that if the model knows the word. A
  // word that is being drawn is not given up for the first letters of the next one.
  begin() {
    if (!this.isDrawing()) this.guess();
    const { text, view } = this;
    const know = ({ known }) => known && text === this.text && this.pause && this.reveal();
    view.api.words(this.word(), view.model.name).then(know).catch(() => {});
  }

  guess() {
    if (this.took < QUICK) this.ask();
  }

  isDrawing() {
    return Boolean(this.draft?.due && !this.draft.blob);
  }

  // The letters before the cursor: "" if something else follows the word, or its text was not typed.
  word() {
    const { input } = this.view.form.rows.get("prompt").control;
    if (document.activeElement !== input) return "";
    return input.value.slice(0, input.selectionStart).match(LETTERS)?.[0] ?? "";
  }

  /** Show the picture of the last text, now or as soon as it is there. */
  reveal() {
    clearTimeout(this.pause);
    this.pause = 0;
    if (this.draft?.text !== this.text) this.ask();
    this.draft.due = true;
    if (this.draft.blob) this.showDraft(this.draft);
  }

  async ask() {
    this.draft?.controller.abort();
    const draft = { text: this.text, due: false, blob: null, controller: new AbortController() };
    this.draft = draft;
    const started = performance.now();
    try {
      const body = await this.makeBody();
      draft.blob = await this.view.api.generate(body, draft.controller.signal);
    } catch {
      // The picture by the chosen settings says what is wrong.
      if (this.draft === draft) this.draft = null;
    }
    if (this.draft !== draft) return;
    this.took = performance.now() - started;
    if (draft.due) this.showDraft(draft);
    if (draft.text !== this.text) this.guess(); // letters that were typed meanwhile
  }

  async makeBody() {
    const { form, model } = this.view;
    const given = await form.values();
    const read = READ.filter((name) => given[name] !== undefined).map((name) => [name, given[name]]);
    const values = { ...Object.fromEntries(read), seed: this.seedOf(given), steps: STEPS };
    return { ...(await jobBody("generate", { mode: "txt2img", model: model.flow_map, values })), previews: false };
  }

  /** Return the seed of the form, the first of several, or the one that stays if it has none. */
  seedOf({ seed }) {
    const [first] = [seed ?? this.seed].flat();
    return first === -1 ? this.seed : first;
  }

  showDraft({ blob, text }) {
    this.view.stage.showDraft(blob, text);
    this.showSmall(blob, `Draft: ${text}`);
  }

  // On a narrow page the stage is below the form: the picture is beside the prompt as well.
  showSmall(blob, alt) {
    URL.revokeObjectURL(this.small.src);
    this.small.src = URL.createObjectURL(blob);
    this.small.alt = alt;
    this.small.hidden = false;
  }

  async drawFull() {
    if (!this.isOn()) return;
    if (this.view.runner.busy) this.rest = setTimeout(() => this.drawFull(), WORD); // what was dropped stops
    else await this.view.drawFull();
  }

  /** Return the values of a request; one without a seed, after something was typed, has that of the draft. */
  withSeed(values) {
    return this.fresh ? { ...values, seed: values.seed ?? this.seed } : values;
  }

  /** Continue from a finished image: its seed stays while the next words are typed. */
  finished({ blob, seed }) {
    this.fresh = false;
    this.seed = seed;
    if (!this.element.hidden) this.showSmall(blob, `Generated image: ${this.text}`);
  }

  /** Forget what is being drawn. */
  stop() {
    clearTimeout(this.rest);
    clearTimeout(this.pause);
    this.pause = 0;
    this.draft?.controller.abort();
    this.draft = null;
  }
}

function isChosen() {
  try {
    return localStorage.getItem(CHOICE) !== "off";
  } catch {
    return true;
  }
}
