// @ts-check
// The view that generates images: the form of a mode, the painter, the stage and the gallery.

import { AdapterPicker, weightsOf } from "./adapters.js";
import { exploreImage } from "./follow_ups.js";
import { Form } from "./form.js";
import { Gallery } from "./gallery.js";
import { fill, h } from "./dom.js";
import { watchFiles } from "./drops.js";
import { rememberPrompt } from "./history.js";
import { KeptFiles } from "./kept.js";
import { tellWrongLink } from "./links.js";
import { describeMode, findModel, modesOf, nameOf } from "./models.js";
import { inspectFile, makeRestoreHint } from "./replay.js";
import { Painter } from "./painter.js";
import { maskControl } from "./painter_tools.js";
import { PromptTools } from "./prompt_tools.js";
import { Queue } from "./queue.js";
import { Remains } from "./remains.js";
import { Runner } from "./runner.js";
import { notify } from "./notify.js";
import { writeParameters } from "./schema.js";
import { Stage } from "./stage.js";
import { Typing } from "./typing.js";
import { modeName } from "./wording.js";

const WRITE = 250; // milliseconds from a change to the address

export function mount(element, context) {
  return new Generate(element, context);
}

class Generate {
  constructor(element, { api, state, capabilities, views }) {
    this.api = api;
    this.state = state;
    this.capabilities = capabilities;
    this.views = views;
    this.mode = null;
    this.unwritten = null; // texts that are not in the address yet
    this.painter = new Painter({
      changed: () => {
        this.form.clearError("mask");
        this.kept.maskChanged();
        this.remains.refresh();
      },
    });
    this.gallery = new Gallery({ open: (entry) => this.open(entry) });
    const { painter, gallery } = this;
    this.form = new Form({
      capabilities,
      changed: (texts) => this.edited(texts),
      pick: () => gallery.pick(),
      imageChanged: (name, blob, size) => {
        if (name === "image") painter.setImage(blob, size);
        this.kept.imageChanged(name, blob);
        this.remains.refresh();
      },
      mask: maskControl(painter),
    });
    this.remains = new Remains(this);
    const edited = () => this.edited(this.form.texts());
    this.promptTools = new PromptTools(this.form, capabilities, api, edited);
    this.adapters = new AdapterPicker((word) => this.form.insert("prompt", word), edited);
    this.kept = new KeptFiles(this.form, painter);
    this.queue = new Queue({ edit: (request) => this.reuse(request) });
    this.stage = new Stage({
      api,
      capabilities,
      actions: {
        cancel: () => this.runner.cancel(),
        again: (request) => this.runner.run(request),
        reuse: (entry) => this.reuse(entry.request),
        use: (mode, entry) => this.useImage(mode, entry.blob),
        explore: (entry) => exploreImage(state, entry),
      },
    });
    this.runner = new Runner(this);
    this.typing = new Typing(this);
    this.build(element);
    this.subscribe();
    const link = state.readState();
    this.apply(link);
    this.checkLink(link);
    this.recalled = Promise.allSettled([this.kept.recall()]);
    this.runner.resume();
  }

  build(element) {
    this.modes = h("div", { class: "segments", role: "radiogroup", "aria-label": "Mode" });
    this.summary = h("p", { class: "soft small" });
    this.button = h("button", { type: "submit", class: "primary" }, "Generate");
    const explain = h("button", { type: "button", class: "link small", "aria-pressed": "false" }, "Explain");
    explain.addEventListener("click", () => {
      const on = this.settings.classList.toggle("explained");
      explain.setAttribute("aria-pressed", String(on));
    });
    const keys = h("span", { class: "soft small keys-hint" }, "Ctrl+Enter");
    this.settings = h(
      "form",
      { class: "settings panel", novalidate: true, "aria-label": "Settings" },
      h("h2", { class: "sr" }, "Settings"),
      this.modes,
      h("div", { class: "row intro" }, this.summary, explain),
      this.form.element,
      h("div", { class: "row submit" }, this.button, keys),
    );
    const hint = makeRestoreHint((file) => this.restore(file));
    const parts = [this.painter.element, this.stage.element, this.queue.element, hint, this.gallery.element];
    this.work = h("div", { class: "work" }, parts);
    fill(element, h("div", { class: "columns" }, this.settings, this.work));
    this.element = element;
    this.settings.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
  }

  subscribe() {
    this.state.subscribe((state, own) => {
      if (own || this.element.hidden) return;
      this.apply(state);
      this.checkLink(state);
    });
    document.addEventListener("keydown", (event) => {
      if (this.element.hidden || event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.submit();
    });
    watchFiles({
      isShown: () => !this.element.hidden,
      dropped: (file) => (this.mode === "inpaint" ? this.paintOn(file) : this.restore(file)),
      pasted: (file) => (this.form.rows.has("image") ? this.form.setImage("image", file) : this.restore(file)),
    });
  }

  /** Called when the tab is opened. */
  show() {
    const typed = this.model.name !== this.shownModel && this.unwritten; // another model keeps it
    if (typed) this.writeTexts(typed);
    this.apply(this.state.readState());
  }

  get model() {
    return findModel(this.capabilities, this.state.readState().model);
  }

  /** Return the name of the model for requests; undefined for the first one, which is the default. */
  modelName() {
    return nameOf(this.capabilities, this.model);
  }

  // -- the state

  offeredModes() {
    return modesOf(this.capabilities, this.model);
  }

  apply(state) {
    const modes = this.offeredModes();
    const wanted = state.view === "paint" ? "inpaint" : state.mode;
    const painting = wanted === "inpaint" && state.view !== "paint";
    const mode = modes.includes(wanted) && !painting ? wanted : modes[0];
    if (mode !== this.mode || this.model.name !== this.shownModel) this.showMode(mode, state.p);
    else this.form.write(state.p);
    this.summary.textContent = describeMode(this.capabilities, this.model, wanted, mode);
    this.adapters.write(state.lora);
  }

  // A link may be wrong; the page says so, and shows what it can.
  checkLink(state) {
    const known = { modes: this.capabilities.modes, offered: this.offeredModes(), views: this.views, shown: this.mode, loras: this.model.loras ?? [] };
    tellWrongLink(state, known);
    this.form.clearErrors();
    this.form.showWrongTexts();
  }

  showMode(mode, texts) {
    this.mode = mode;
    this.shownModel = this.model.name;
    const modes = this.offeredModes();
    const others = modes.filter((name) => name !== "inpaint"); // Paint is a view of its own
    const radios = others.map((name) => {
      const input = h("input", { type: "radio", name: "mode", value: name, checked: name === mode });
      input.addEventListener("change", () => this.chooseMode(name));
      return h("label", { class: "segment" }, input, h("span", {}, modeName(name)));
    });
    const focused = this.modes.contains(document.activeElement);
    fill(this.modes, radios);
    this.modes.hidden = others.length < 2 || mode === "inpaint";
    if (focused) this.modes.querySelector(":checked")?.focus();
    this.form.show(mode, this.model, texts);
    this.promptTools.show(this.model);
    this.adapters.show(this.model, this.adapters.texts());
    const prompt = this.form.rows.get("prompt");
    if (prompt) prompt.element.append(this.adapters.element);
    else this.adapters.element.remove();
    this.remains.show();
    this.typing.show();
    this.painter.element.hidden = !this.form.rows.has("mask");
    this.work.classList.toggle("painting", !this.painter.element.hidden);
    this.button.textContent = mode === "invert" ? "Find the noise" : "Generate";
  }

  chooseMode(mode) {
    const view = mode === "inpaint" ? "paint" : "generate";
    this.state.writeState({ view, mode }, { push: true });
    this.apply(this.state.readState());
  }

  edited(texts) {
    this.remains.refresh();
    this.typing.edited();
    clearTimeout(this.writing);
    this.unwritten = texts;
    this.writing = setTimeout(() => this.writeTexts(texts), WRITE);
  }

  writeTexts(p) {
    clearTimeout(this.writing);
    this.unwritten = null;
    this.state.writeState({ mode: this.mode, p, lora: this.adapters.texts() }, { clear: ["lora"] });
  }

  /** Show settings: a mode with texts of its parameters. Parameters without a text get defaults. */
  setSettings(mode, texts) {
    const view = mode === "inpaint" ? "paint" : "generate";
    this.showMode(mode, texts);
    this.state.writeState({ view, mode, p: this.form.texts() }, { clear: ["p"], push: true });
  }

  /** Choose LoRAs {name, weight}, and no others. */
  setLoras(loras) {
    this.adapters.write(weightsOf(loras));
    this.writeTexts(this.form.texts());
  }

  // -- what the user does

  async submit() {
    await this.recalled; // a request before that would miss the image and the mask of the last visit
    this.form.clearErrors();
    this.writeTexts(this.form.texts());
    if (this.form.showMissing() || this.form.showWrongTexts() || this.adapters.showWrong()) return;
    rememberPrompt(this.form.texts());
    this.typing.stop();
    if (this.runner.free) this.runner.adopt();
    else this.runner.run(await this.makeRequest());
  }

  async makeRequest() {
    const values = this.typing.withSeed(await this.form.values());
    const model = this.modelName();
    return { mode: this.mode, ...(model ? { model } : {}), values, ...this.adapters.request(values) };
  }

  /** Generate what was typed, after a pause; what is wrong is said when one asks for it. */
  async drawFull() {
    if (!this.form.hasWrongTexts()) this.runner.run(await this.makeRequest(), { automatic: true });
  }

  /** Show an image of the gallery. */
  open(entry) {
    if (this.runner.busy) {
      notify("A request is running", { hint: "Wait for its end, or cancel it." });
      return;
    }
    this.stage.showEntries([entry]);
    this.stage.element.scrollIntoView({ block: "nearest" });
  }

  /** Fill the form with a request, its files included. */
  async reuse({ mode, model, values, loras }) {
    this.state.writeState({ model: model ?? null });
    const files = Object.entries(values).filter(([, value]) => value instanceof Blob);
    this.setSettings(mode, writeParameters(values));
    this.setLoras(loras ?? []);
    await this.form.setNetImages(values.control);
    await this.form.setImageLists(values);
    for (const [name, file] of files.sort(([a]) => (a === "mask" ? 1 : -1))) {
      await this.form.setImage(name, file);
    }
    this.settings.scrollIntoView({ block: "nearest" });
    notify("The settings are restored");
  }

  /** Go on from an image, in a mode that takes one; the prompt stays. */
  async useImage(mode, blob) {
    const { prompt } = this.form.texts();
    this.setSettings(mode, prompt ? { prompt } : {});
    await this.form.setImage("image", blob);
    const target = mode === "inpaint" ? this.painter.element : this.settings;
    target.scrollIntoView({ block: "nearest" });
  }

  // What is dropped on the painter is painted on; its settings are one press away.
  async paintOn(file) {
    await this.form.setImage("image", file);
    const restore = { label: "Restore its settings instead", run: () => this.restore(file) };
    notify("The image is the one to paint on", { action: restore });
  }

  /** Generate from the noise that an inversion found, with its settings. */
  async useNoise({ prompt, settings }, noise) {
    this.setSettings("txt2img", writeParameters({ prompt, ...settings }));
    await this.form.setImage("latents", noise);
    this.form.details.open = true;
    notify("The noise is the initial noise of this form", { hint: "Change the prompt to edit the image." });
  }

  restore(file) {
    return inspectFile(this, file);
  }
}
