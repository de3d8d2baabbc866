// @ts-check
// Pictures while one types: the flow map of the model draws the prompt, with the seed that stays, and a
// pause asks for the picture by the chosen settings. Requests never queue up, and a draft that runs is
// never given up for a newer text: it arrives, and the newest text is drawn next. So pictures come as
// often as the server makes them, however fast or slowly one types.

import { adapterKeys, explainWeights } from "./adapters.js";
import { h, newId } from "./dom.js";
import { jobBody } from "./jobs.js";

const CHOICE = "ldmref-typing"; // in localStorage: "off" if nothing is drawn while one types
const STEPS = 2; // of the map: one more costs little and shows names of emoji better
const WORD = 200; // milliseconds without a letter after which a word is drawn as it is
const REST = 1200; // milliseconds without a letter until the picture by the chosen settings
const OFTEN = 300; // milliseconds from a picture to that of half a word, which says little
const SEEDS = 2 ** 32;
const LETTERS = /[\p{L}\p{N}]+$/u;
// What the map reads of the form; guidance, steps and sampler are its own.
const READ = ["prompt", "prompt_weights", "width", "height", "rng", "latents"];

export class Typing {
  /** `view` has api, capabilities, form, promptTools, stage, runner, adapters, mode, model, and drawFull(). */
  constructor(view) {
    this.view = view;
    this.text = null; // the prompt as it was typed last
    this.seed = Math.floor(Math.random() * SEEDS);
    this.fresh = false; // whether the last text has no picture by the chosen settings yet
    this.running = null; // {text, controller}: the request for a draft that has not been answered yet
    this.held = null; // {text, blob}: the last draft, if it is not shown yet, because its word goes on
    this.asked = null; // the text of the last draft, or of the one that runs
    this.whole = null; // the text whose last word is complete
    this.shownAt = -Infinity; // when a draft was shown last
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
    row?.control.input.addEventListener("focus", () => this.isOn() && !this.running && this.ask(), { once: true });
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

  // The stage belongs to a request that was asked for; LoRAs must fit the map as well.
  isOn() {
    const { runner, adapters } = this.view;
    const free = !runner.busy || runner.automatic;
    return !this.element.hidden && this.input.checked && free && !explainWeights(this.map, adapters.texts());
  }

  /** What the server says of the flow map of the model. */
  get map() {
    return this.view.capabilities.models.find(({ name }) => name === this.view.model.flow_map);
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
      if (!text) this.empty();
      return;
    }
    this.restart();
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.reveal(), WORD);
    this.draw();
    if (complete) this.reveal();
    else this.askForWord();
  }

  restart() {
    this.view.runner.drop();
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.drawFull(), REST);
  }

  // Without a prompt there is nothing to draw: what a pause has asked for ends, and its pictures go.
  empty() {
    const { runner, stage } = this.view;
    const hasPicture = stage.drafted || runner.free;
    runner.drop();
    if (hasPicture) stage.goBack();
    this.small.hidden = true;
  }

  // A word is complete, before a space or a pause says so, if the model knows it.
  askForWord() {
    const { text, view } = this;
    const know = ({ known }) => known && text === this.text && this.pause && this.reveal();
    view.api.words(this.word(), view.model.name).then(know).catch(() => {});
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
    this.whole = this.text;
    this.draw();
    if (this.held?.text === this.whole) this.showDraft(this.held);
  }

  /** Draw the last text, unless a draft runs: then the text that is the last one at its end is drawn. */
  draw() {
    if (this.running || this.asked === this.text) return;
    this.asked = this.text;
    this.ask();
  }

  async ask() {
    const running = { text: this.text, controller: new AbortController() };
    this.running = running;
    let blob = null;
    try {
      blob = await this.view.api.generate(await this.makeBody(), running.controller.signal);
    } catch {
      // The picture by the chosen settings says what is wrong.
    }
    if (this.running !== running) return;
    this.running = null;
    if (!this.fresh) return; // the first one, which nobody sees, or the prompt is empty by now
    if (blob && running.text) this.receive({ text: running.text, blob });
    this.draw();
  }

  // What is drawn is shown, half words too, but these not so often that the picture flickers.
  receive(draft) {
    this.held = draft;
    const due = performance.now() - this.shownAt >= OFTEN;
    if (due || draft.text === this.whole) this.showDraft(draft);
  }

  async makeBody() {
    const { form, model, adapters } = this.view;
    const chosen = adapterKeys(this.map, adapters.texts(), [form.texts()]); // before anything is awaited
    const given = await form.values();
    const read = READ.filter((name) => given[name] !== undefined).map((name) => [name, given[name]]);
    const values = { ...Object.fromEntries(read), seed: this.seedOf(given), steps: STEPS };
    return { ...(await jobBody("generate", { mode: "txt2img", model: model.flow_map, values, ...chosen })), previews: false };
  }

  /** Return the seed of the form, the first of several, or the one that stays if it has none. */
  seedOf({ seed }) {
    const [first] = [seed ?? this.seed].flat();
    return first === -1 ? this.seed : first;
  }

  showDraft({ blob, text }) {
    this.held = null;
    this.shownAt = performance.now();
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
    // What was dropped stops first, and the last draft arrives.
    if (this.view.runner.busy || this.running) this.rest = setTimeout(() => this.drawFull(), WORD);
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
    this.running?.controller.abort();
    this.running = null;
    this.held = null;
    this.asked = null;
    this.whole = null;
  }
}

function isChosen() {
  try {
    return localStorage.getItem(CHOICE) !== "off";
  } catch {
    return true;
  }
}
